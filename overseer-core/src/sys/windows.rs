//! What a program that runs alone asks of Windows, under the names that the Unix systems have for it in `mod.rs`. Compiled by our checks, not run by them.
//!
//! A descriptor is a socket here: nothing else is waited for.

mod exit;

use std::fmt::Debug;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::windows::io::{AsRawSocket, AsSocket};

pub(crate) use std::os::windows::io::{BorrowedSocket as BorrowedFd, OwnedSocket as OwnedFd};

/// What has a descriptor.
pub(crate) trait AsFd {
    fn as_fd(&self) -> BorrowedFd<'_>;
}

macro_rules! have_descriptors {
    ($($kind:ty),*) => {
        $(impl AsFd for $kind {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.as_socket()
            }
        })*
    };
}

have_descriptors!(OwnedFd, TcpListener, TcpStream, UdpSocket);
#[cfg(feature = "tokio")]
have_descriptors!(tokio::net::TcpStream);

macro_rules! are_sockets {
    ($($kind:ty),*) => {
        $(impl AsSocket for $kind {
            fn as_socket(&self) -> BorrowedFd<'_> {
                self.as_fd()
            }
        })*
    };
}

are_sockets!(crate::Listener, crate::Connection, crate::DatagramSocket, crate::Draining);

/// There are none here.
#[derive(Debug)]
pub(crate) enum UnixListener {}

/// There are none here.
#[derive(Debug)]
pub(crate) enum UnixStream {}

impl From<OwnedFd> for UnixListener {
    fn from(_socket: OwnedFd) -> Self {
        unreachable!("no socket here is a Unix one")
    }
}

impl UnixListener {
    pub(crate) fn accept(&self) -> io::Result<(UnixStream, ())> {
        match *self {}
    }
}

impl UnixStream {
    pub(crate) fn set_nonblocking(&self, _on: bool) -> io::Result<()> {
        match *self {}
    }
}

impl AsFd for UnixListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}

/// No service manager passes sockets.
pub(crate) mod activation {
    use super::OwnedFd;
    use crate::address::Address;
    use crate::protocol::Wanted;
    use std::io;

    #[derive(Debug, Default)]
    pub(crate) struct Offers;

    #[derive(Debug)]
    pub(crate) struct Claim {
        pub(crate) socket: OwnedFd,
    }

    impl Offers {
        pub(crate) fn take() -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) fn close_on_exec(self) -> io::Result<Self> {
            Ok(self)
        }

        pub(crate) fn claim(&mut self, _address: &Address, _wanted: &Wanted, _name: Option<&str>) -> io::Result<Option<Claim>> {
            Ok(None)
        }
    }

    pub(crate) fn forget() {}
}

pub(crate) mod files {
    use std::io;
    use std::path::PathBuf;

    pub(crate) fn own_file() -> io::Result<PathBuf> {
        std::env::current_exe()
    }

    pub(crate) fn path_of(bytes: Vec<u8>) -> PathBuf {
        String::from_utf8_lossy(&bytes).into_owned().into()
    }

    pub(crate) fn owner_of(_text: &str) -> io::Result<crate::protocol::Owner> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "no socket here has a file"))
    }
}

pub(crate) mod process {
    pub(crate) use super::exit::Exit;
}

pub(crate) mod link {
    use super::OwnedFd;

    /// The way to a master, of which there is none.
    #[derive(Debug)]
    pub(crate) enum Link {}

    impl Link {
        pub(crate) fn send<T>(&mut self, _message: &T, _descriptors: [OwnedFd; 0]) -> std::io::Result<()> {
            match *self {}
        }
    }
}

pub(crate) mod poll {
    use super::{AsRawSocket, BorrowedFd, OwnedFd, TcpListener, TcpStream};
    use std::io;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Interest<'a> {
        pub(crate) descriptor: BorrowedFd<'a>,
        pub(crate) write: bool,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub(crate) struct Readiness {
        pub(crate) read: bool,
        pub(crate) write: bool,
    }

    /// `WSAPOLLFD` (winsock2.h).
    #[repr(C)]
    struct Waiting {
        socket: usize,
        events: i16,
        came: i16,
    }

    /// `POLLRDNORM` and `POLLRDBAND`, or `POLLWRNORM` (winsock2.h).
    const READ: i16 = 0x0300;
    const WRITE: i16 = 0x0010;

    #[link(name = "ws2_32")]
    unsafe extern "system" {
        fn WSAPoll(waiting: *mut Waiting, count: u32, milliseconds: i32) -> i32;
    }

    /// Waits until one of the sockets is ready or the time is over; `None` waits for ever. An ended peer and an error count as readable: the read tells.
    pub(crate) fn wait(interests: &[Interest<'_>], time: Option<Duration>) -> io::Result<Vec<Readiness>> {
        let events = |interest: &Interest<'_>| if interest.write { READ | WRITE } else { READ };
        let socket = |interest: &Interest<'_>| interest.descriptor.as_raw_socket() as usize;
        let mut waiting: Vec<Waiting> =
            interests.iter().map(|interest| Waiting { socket: socket(interest), events: events(interest), came: 0 }).collect();
        let milliseconds = time.map_or(-1, |time| i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let count = u32::try_from(waiting.len()).map_err(io::Error::other)?;
        // SAFETY: the call reads and writes so many structures, which outlive it.
        if unsafe { WSAPoll(waiting.as_mut_ptr(), count, milliseconds) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(waiting.iter().map(|waiting| Readiness { read: waiting.came & !WRITE != 0, write: waiting.came & WRITE != 0 }).collect())
    }

    /// Waits until the socket has room for a write, or an error to tell by it.
    pub(crate) fn wait_for_room(descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut waiting = [Waiting { socket: descriptor.as_raw_socket() as usize, events: WRITE, came: 0 }];
        // SAFETY: the call reads and writes one structure, which outlives it.
        if unsafe { WSAPoll(waiting.as_mut_ptr(), 1, -1) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Nobody but this process has the socket, which it has not shut down.
    pub(crate) fn is_hung_up(_descriptor: BorrowedFd<'_>) -> bool {
        false
    }

    /// Two sockets that are connected: what is written to the second can be read from the first.
    pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let writer = TcpStream::connect(listener.local_addr()?)?;
        loop {
            let (reader, peer) = listener.accept()?;
            // Anybody on this machine may connect.
            if peer == writer.local_addr()? {
                return Ok((reader.into(), writer.into()));
            }
        }
    }
}

pub(crate) mod sockets {
    use super::{AsRawSocket, BorrowedFd, OwnedFd};
    use crate::address::{Address, Kind, Options, Transport};
    use crate::protocol::Wanted;
    use std::io::{self, ErrorKind};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};

    /// Opens and binds, and listens if it is a stream socket. The socket does not block. The options of an address are those of other systems.
    pub(crate) fn open(address: &Address, wanted: &Wanted) -> io::Result<OwnedFd> {
        let at: Vec<SocketAddr> = match &address.kind {
            // One socket for both families is more than the standard library makes.
            Kind::AllInterfaces { port } => vec![(Ipv4Addr::UNSPECIFIED, *port).into()],
            Kind::Host { host, port } if wanted.resolved.is_empty() => (host.as_str(), *port).to_socket_addrs()?.collect(),
            Kind::Host { .. } => wanted.resolved.clone(),
            Kind::Unix { .. } | Kind::Systemd { .. } => {
                return Err(io::Error::new(ErrorKind::Unsupported, "only TCP and UDP addresses can be bound here"));
            }
        };
        if address.transport == Transport::Datagram {
            let socket = UdpSocket::bind(&at[..])?;
            socket.set_nonblocking(true)?;
            return Ok(socket.into());
        }
        let listener = TcpListener::bind(&at[..])?;
        listener.set_nonblocking(true)?;
        Ok(listener.into())
    }

    /// `SOL_SOCKET`, `SO_TYPE` and `SOCK_DGRAM` (winsock2.h).
    const SOCKET_LEVEL: i32 = 0xFFFF;
    const TYPE: i32 = 0x1008;
    const DATAGRAM: i32 = 2;

    #[link(name = "ws2_32")]
    unsafe extern "system" {
        fn getsockopt(socket: usize, level: i32, name: i32, value: *mut i32, length: *mut i32) -> i32;
    }

    /// Whether one receives datagrams from it, and accepts no connections.
    pub(crate) fn is_datagram(socket: BorrowedFd<'_>) -> bool {
        let (mut kind, mut length) = (0, 4);
        // SAFETY: the call writes at most as many bytes as the length says, which are those of the number.
        let result = unsafe { getsockopt(socket.as_raw_socket() as usize, SOCKET_LEVEL, TYPE, &raw mut kind, &raw mut length) };
        result == 0 && kind == DATAGRAM
    }

    pub(crate) const ACCEPTED_DO_NOT_BLOCK: bool = true;

    pub(crate) fn is_unix(_socket: BorrowedFd<'_>) -> bool {
        false
    }

    pub(crate) fn bound_to(socket: BorrowedFd<'_>) -> String {
        let listener = socket.try_clone_to_owned().map(TcpListener::from);
        let transport = if is_datagram(socket) { "udp:" } else { "" };
        listener.and_then(|listener| listener.local_addr()).map(|address| format!("{transport}{address}")).unwrap_or_default()
    }

    /// Nobody but this process has the socket, which it has not shut down.
    pub(crate) fn is_listening(_socket: BorrowedFd<'_>) -> bool {
        true
    }

    pub(crate) fn listen_again(_socket: BorrowedFd<'_>, _bound_to: &str, _backlog: Option<u32>) -> io::Result<()> {
        Ok(())
    }

    /// The system's defaults are good enough.
    pub(crate) fn set_options(_socket: BorrowedFd<'_>, _options: &Options) -> io::Result<()> {
        Ok(())
    }

    /// There is no master that could be gone.
    pub(crate) fn give_way(_socket: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn is_shut_down(_error: &io::Error) -> bool {
        false
    }

    pub(crate) fn is_passing(error: &io::Error) -> bool {
        let passing = [
            ErrorKind::WouldBlock,
            ErrorKind::Interrupted,
            ErrorKind::ConnectionAborted,
            ErrorKind::ConnectionReset,
            ErrorKind::NetworkDown,
            ErrorKind::HostUnreachable,
            ErrorKind::NetworkUnreachable,
            ErrorKind::TimedOut,
        ];
        passing.contains(&error.kind())
    }

    pub(crate) fn is_shortage(error: &io::Error) -> bool {
        // WSAEMFILE and WSAENOBUFS.
        error.kind() == ErrorKind::OutOfMemory || matches!(error.raw_os_error(), Some(10024 | 10055))
    }
}
