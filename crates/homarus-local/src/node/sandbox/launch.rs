//! From an order to a container's process: root, rights, exec.
//!
//! It runs as a child of the pod's process 1, in mounts that are its alone (or in those of the container it joins),
//! on one thread. The order comes on standard input, after one byte with which its own input may travel. The answer goes the
//! same way: a byte with the node's end of its terminal, where it has one; then nothing when the exec succeeded, else what failed.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::wire::{LAUNCH_MAX, LaunchSpec};
use super::{passing, rights, root, streams};

/// How often, and after how long, a program is tried again that is busy being written.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Never returns when all went well.
pub(crate) fn run() -> i32 {
    let Ok(stdin) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else {
        return 127;
    };
    let mut order = UnixStream::from(stdin);
    let error = match read(&mut order) {
        Ok((spec, input)) => become_container(&spec, input, &order),
        Err(error) => format!("reading the order: {error}"),
    };
    let _ = order.write_all(error.as_bytes());
    128
}

fn read(order: &mut UnixStream) -> io::Result<(LaunchSpec, Option<OwnedFd>)> {
    let (_, input) = passing::receive(&*order, &mut [0])?;
    let mut bytes = Vec::new();
    order.take(LAUNCH_MAX).read_to_end(&mut bytes)?;
    Ok((serde_json::from_slice(&bytes)?, input.into_iter().next()))
}

fn connect(spec: &LaunchSpec, input: Option<OwnedFd>, order: &UnixStream) -> io::Result<()> {
    if !spec.terminal {
        return streams::take_input(input);
    }
    let node_end = streams::take_terminal(spec.rights.uid)?;
    passing::send(order, &[0], &[&node_end])
}

fn become_container(spec: &LaunchSpec, input: Option<OwnedFd>, order: &UnixStream) -> String {
    if let Some(root) = &spec.root
        && let Err(error) = root::make(root)
    {
        return error;
    }
    if let Err(error) = connect(spec, input, order) {
        return format!("giving it its input or terminal: {error}");
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    // A working folder that isn't there is made, as runtimes do.
    let _ = std::fs::create_dir_all(cwd);
    if let Err(error) = rights::assume(&spec.rights) {
        return format!("giving up rights: {error}");
    }
    if let Err(error) = rustix::process::chdir(cwd) {
        return format!("changing to the working directory {cwd:?}: {error}");
    }
    let Some((program, arguments)) = spec.argv.split_first() else {
        return "no command".into();
    };
    let error = replace_process(Command::new(program).args(arguments).env_clear().envs(spec.env.iter().map(|(k, v)| (k, v))));
    match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => {
            format!("exec: {program:?}: executable file not found in $PATH")
        }
        io::ErrorKind::NotFound => format!("exec: {program:?}: no such file or directory"),
        io::ErrorKind::PermissionDenied => format!("exec: {program:?}: permission denied"),
        _ => format!("exec: {program:?}: {error}"),
    }
}

/// Becomes the program; returns only where that failed. A process that the node forks while it writes a volume holds the
/// file open until it becomes a program itself, and so keeps the file busy for a moment.
fn replace_process(command: &mut Command) -> io::Error {
    for _ in 0..BUSY_TRIES {
        let error = command.exec();
        if error.kind() != io::ErrorKind::ExecutableFileBusy {
            return error;
        }
        thread::sleep(BUSY_PAUSE);
    }
    command.exec()
}
