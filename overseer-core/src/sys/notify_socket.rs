//! The socket on which a process manager wants to be told how the service does (sd_notify(3)).

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the process manager has put into the environment for the master alone: a child that inherited it would speak for the service.
pub(crate) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// A datagram socket that is connected to the process manager's, so that one can wait until that takes more. Never blocks.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: OwnedFd,
    manager: UnixAddr,
}

impl NotifySocket {
    /// Opens a socket to the one at this address: a path, or a name in the abstract namespace after an `@`. Nobody need be there yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`]: the address is of another kind (`vsock:..`).
    pub(crate) fn open(address: &OsStr) -> io::Result<Self> {
        let manager = match address.as_bytes() {
            [b'/', ..] => UnixAddr::new(Path::new(address))?,
            #[cfg(target_os = "linux")]
            [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        // If nobody is there, the first message tells.
        let _ = connect(socket.as_raw_fd(), &manager);
        Ok(Self { socket, manager })
    }

    /// Sends one datagram with copies of these descriptors.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: others wait in front of the process manager, which takes more later. Else it cannot be told; nothing was sent.
    pub(crate) fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self.try_send(text, descriptors) {
            // A process manager that was started anew has another socket at the same address.
            Err(Errno::ECONNREFUSED | Errno::ENOTCONN | Errno::ECONNRESET) => {
                connect(self.socket.as_raw_fd(), &self.manager)?;
                Ok(self.try_send(text, descriptors)?)
            }
            sent => Ok(sent?),
        }
    }

    fn try_send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &control[..0] } else { &control[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], control, flags, None) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop),
            }
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
