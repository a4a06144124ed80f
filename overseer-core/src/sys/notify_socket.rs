//! The socket on which a process manager wants to be told how the service does (sd_notify(3)).

use super::poll::NO_SIGNAL;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What the process manager has put into the environment for the master alone: a child that inherited it would speak for the service.
pub(crate) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// A datagram socket that is connected to the process manager's, so that one can wait until that takes more. Never blocks.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    manager: SocketAddr,
}

impl NotifySocket {
    /// Opens a socket to the one at this address: a path, or a name in the abstract namespace after an `@`. Nobody need be there yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`]: the address is of another kind (`vsock:..`).
    pub(crate) fn open(address: &OsStr) -> io::Result<Self> {
        let manager = match address.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            #[cfg(target_os = "linux")]
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // If nobody is there, the first message tells.
        let _ = socket.connect_addr(&manager);
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
                self.socket.connect_addr(&self.manager)?;
                Ok(self.try_send(text, descriptors)?)
            }
            sent => Ok(sent?),
        }
    }

    fn try_send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &control[..0] } else { &control[..] };
        loop {
            match sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], control, NO_SIGNAL, None) {
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
