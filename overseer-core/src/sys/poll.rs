//! Waiting for descriptors.

use super::system;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A descriptor to wait for, and whether room to write is waited for too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest<'a> {
    pub(crate) descriptor: BorrowedFd<'a>,
    pub(crate) write: bool,
}

/// What a descriptor is ready for. An ended peer and an error count as readable: the read tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// Waits until one of the descriptors is ready, a signal handler has run, or the time is over; `None` waits for ever.
///
/// # Errors
/// The system has no memory for the call.
pub(crate) fn wait(interests: &[Interest<'_>], time: Option<Duration>) -> io::Result<Vec<Readiness>> {
    let mut descriptors: Vec<PollFd<'_>> = interests
        .iter()
        .map(|interest| {
            let write = if interest.write { PollFlags::POLLOUT } else { PollFlags::empty() };
            PollFd::new(interest.descriptor, PollFlags::POLLIN | write)
        })
        .collect();
    match poll(&mut descriptors, timeout(time)) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(vec![Readiness::default(); interests.len()]),
        Err(errno) => return Err(errno.into()),
    }
    let readiness = |descriptor: &PollFd<'_>| {
        let events = descriptor.revents().unwrap_or(PollFlags::POLLERR);
        Readiness {
            read: events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL),
            write: events.contains(PollFlags::POLLOUT),
        }
    };
    Ok(descriptors.iter().map(readiness).collect())
}

/// Waits until the descriptor has room for a write, or an error to tell by it.
///
/// # Errors
/// The system has no memory for the call.
pub(crate) fn wait_for_room(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::new(descriptor, PollFlags::POLLOUT)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether nothing can come by the socket any more, as after a shutdown(2) by any process that has it.
pub(crate) fn is_hung_up(descriptor: BorrowedFd<'_>) -> bool {
    let mut descriptors = [PollFd::new(descriptor, system::HUNG_UP)];
    // Of an event that nix does not know, as that of one direction alone, it says that there is something else than it knows.
    poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|ready| ready == 1)
        && descriptors[0].revents().is_none_or(|events| events.intersects(system::HUNG_UP))
}

/// Rounded up to the next millisecond, so that a deadline has passed when the wait is over.
fn timeout(time: Option<Duration>) -> PollTimeout {
    let Some(time) = time else { return PollTimeout::NONE };
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    // A longer wait than poll(2) takes ends early, and the caller waits again.
    PollTimeout::try_from(i32::try_from(milliseconds).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}

/// A pipe: the end to read from, and the one to write to.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    io::pipe().map(|(reader, writer)| (reader.into(), writer.into()))
}

/// Two sockets that are connected. When the second is closed, the first is readable for ever, to every kind of event loop: of a pipe, Linux only says that it is hung up.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    UnixStream::pair().map(|(reader, writer)| (reader.into(), writer.into()))
}

/// Whether a write of at most `PIPE_BUF` bytes would not block now (pipe(7), poll(2)).
pub(crate) fn takes_a_write(descriptor: impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(descriptor.as_fd(), PollFlags::POLLOUT)];
    poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|ready| ready == 1)
        && descriptors[0].revents().is_some_and(|events| events == PollFlags::POLLOUT)
}

/// Keeps a write to a socket whose other end is closed from being a signal (send(2)).
pub(crate) const NO_SIGNAL: MsgFlags = MsgFlags::from_bits_retain(nix::libc::MSG_NOSIGNAL);

/// Sends what the socket takes now; the number of bytes.
pub(crate) fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    use nix::sys::socket::send;
    Ok(send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | NO_SIGNAL)?)
}

/// Whether the other end of a socket is closed.
pub(crate) fn is_peer_gone(socket: impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::ZERO).is_ok() && descriptors[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}
