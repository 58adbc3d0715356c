//! What differs between a person at a terminal and a program at a pipe: colour and progress.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// Whether standard output is a terminal.
pub fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether colour is wanted: on a terminal, unless `NO_COLOR` is set.
pub fn colour() -> bool {
    on_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A symbol in bold and a colour.
fn symbol(symbol: &str, code: u8, colour: bool) -> String {
    if colour { format!("\x1b[1;{code}m{symbol}\x1b[0m") } else { symbol.to_owned() }
}

/// All is well.
pub fn tick(colour: bool) -> String {
    symbol("√", 32, colour)
}

/// Something to look at.
pub fn exclamation(colour: bool) -> String {
    symbol("‼", 33, colour)
}

/// Something is wrong.
pub fn cross(colour: bool) -> String {
    symbol("×", 31, colour)
}

/// The warning sign on standard error.
pub fn warning() -> String {
    exclamation(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
}

/// Writes to standard output. A reader that left (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::new(format!("cannot write to standard output: {error}"))),
    }
}

/// A turning wheel on standard error, if that is a terminal.
pub fn spinner(message: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(message.to_owned());
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Replaces what is on the screen: for tables that are refreshed.
pub fn repaint(text: &str) -> Result<(), Failure> {
    // Home, then each line up to its end, then everything below: no flicker.
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    print(&format!("\x1b[H{lines}\x1b[J"))
}

/// Clears the screen for [`repaint`].
pub fn clear() -> Result<(), Failure> {
    print("\x1b[2J\x1b[H")
}

/// Tells on standard error what is being done. A second call changes nothing.
pub fn log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).try_init();
}

/// Tells in a file what is being done.
pub fn log_into(file: std::fs::File, filter: &str) {
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(file).with_ansi(false).try_init();
}
