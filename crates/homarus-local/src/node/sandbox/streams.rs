//! What a process reads from and writes to: pipes whose other ends are the node's, or a terminal.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::net::unix::pipe;

/// What a process gets.
#[derive(Debug)]
pub(crate) enum Streams {
    /// Its ends of pipes; without an input it reads nothing.
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    /// A terminal of its container's, for all three.
    Terminal,
}

/// Where a process writes to, and where that is read.
pub(crate) fn output() -> io::Result<(OwnedFd, pipe::Receiver)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((writer, pipe::Receiver::from_owned_fd(reader)?))
}

/// Where a process reads from, and where that is written.
pub(crate) fn input() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Where what is written is lost.
pub(crate) fn nowhere() -> io::Result<OwnedFd> {
    Ok(File::options().write(true).open("/dev/null")?.into())
}

/// A writer of its own on the node's end of an input or a terminal.
pub(crate) fn writer(end: &OwnedFd) -> io::Result<pipe::Sender> {
    let end = end.try_clone()?;
    rustix::io::ioctl_fionbio(&end, true)?;
    pipe::Sender::from_owned_fd_unchecked(end)
}

/// A reader of its own on the node's end of a terminal. Its end is an error (`EIO`).
pub(crate) fn reader(terminal: &OwnedFd) -> io::Result<pipe::Receiver> {
    let terminal = terminal.try_clone()?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    pipe::Receiver::from_owned_fd_unchecked(terminal)
}

/// Tells a terminal its size.
pub(crate) fn resize(terminal: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Gives the calling process a session and a new terminal of the container it stands in; returns the node's end.
pub(super) fn take_terminal(user: u32) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let node_end = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&node_end)?;
    rustix::pty::unlockpt(&node_end)?;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&node_end, flags)?;
    rustix::fs::fchown(&terminal, Some(Uid::from_raw(user)), None::<Gid>)?;
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(&terminal)?;
    rustix::stdio::dup2_stdin(&terminal)?;
    rustix::stdio::dup2_stdout(&terminal)?;
    rustix::stdio::dup2_stderr(&terminal)?;
    Ok(node_end)
}

/// Gives the calling process a session, and something to read.
pub(super) fn take_input(input: Option<OwnedFd>) -> io::Result<()> {
    let input = input.map_or_else(|| File::open("/dev/null").map(OwnedFd::from), Ok)?;
    rustix::stdio::dup2_stdin(&input)?;
    // Fails for a process that has one already, which is as good.
    let _ = rustix::process::setsid();
    Ok(())
}
