//! Listening sockets.

use super::system;
use crate::address::{Address, Kind};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr, bind, connect, getsockname, getsockopt,
    setsockopt, socket, sockopt,
};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Idle time before the first keep-alive probe of a connection, and between two: 3 min, as the Go original has it.
const KEEP_ALIVE: Duration = Duration::from_secs(180);

/// Opens, binds and listens; on the first of the `resolved` addresses that can be had, if it is a host's name. The socket does not block, and its backlog is the system's maximum: it carries clients over a hand-over.
///
/// # Errors
/// The address cannot be had; nothing is left behind.
pub(crate) fn listen(address: &Address, resolved: &[SocketAddr]) -> io::Result<OwnedFd> {
    match &address.kind {
        Kind::TcpAny { port } => listen_any(*port),
        Kind::Tcp { host, port } => {
            let number = host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, *port));
            let mut refused = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            for address in number.iter().chain(resolved) {
                match listen_tcp(*address, true) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => refused = error,
                }
            }
            Err(refused)
        }
        Kind::Unix { path, mode } => listen_unix(path, *mode),
        Kind::Systemd { .. } => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the service manager passes its sockets when the service starts, and none of that name is held: put this version at the program's path and restart the service",
        )),
    }
}

/// All interfaces in both families; IPv4 alone where the system has no IPv6.
fn listen_any(port: u16) -> io::Result<OwnedFd> {
    let both = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
    match listen_tcp(both, false) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            listen_tcp(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)), false)
        }
        result => result,
    }
}

/// A socket that does not block and is close-on-exec.
fn open(family: AddressFamily, protocol: Option<SockProtocol>) -> io::Result<OwnedFd> {
    let socket = socket(family, SockType::Stream, system::SOCKET_FLAGS, protocol)?;
    if system::SOCKET_FLAGS.is_empty() {
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        make_nonblocking(socket.as_fd())?;
    }
    Ok(socket)
}

fn listen_tcp(address: SocketAddr, v6_only: bool) -> io::Result<OwnedFd> {
    let open = |family| open(family, Some(SockProtocol::Tcp));
    let socket = match address {
        SocketAddr::V4(address) => {
            let socket = open(AddressFamily::Inet)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
            socket
        }
        SocketAddr::V6(address) => {
            let socket = open(AddressFamily::Inet6)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            setsockopt(&socket, sockopt::Ipv6V6Only, &v6_only)?;
            bind(socket.as_raw_fd(), &SockaddrIn6::from(address))?;
            socket
        }
    };
    start_listening(socket.as_fd())?;
    Ok(socket)
}

fn listen_unix(path: &Path, mode: Option<u32>) -> io::Result<OwnedFd> {
    remove_stale_socket(path)?;
    let socket = open(AddressFamily::Unix, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Before it listens nobody can connect, so nobody sees the mode that the umask gave.
    let made = mode.map_or(Ok(()), |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    if let Err(error) = made.and_then(|()| start_listening(socket.as_fd())) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(socket)
}

/// Removes the file of a socket that nobody listens on any more. One with a listener stays, and binding to it then fails.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
    }
    // Not blocking: whoever listens there may be stuck, with a backlog that is full (EAGAIN, unix(7)).
    let asking = open(AddressFamily::Unix, None)?;
    match connect(asking.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Listens, or listens again with the system's largest backlog.
pub(crate) fn start_listening(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: listen(2) takes two numbers. The kernel cuts the backlog to net.core.somaxconn.
    let result = unsafe { libc::listen(socket.as_raw_fd(), libc::c_int::MAX) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Listens again after a `shutdown(2)`, on the same address: a port that the system chose is given up by the shutdown and must be asked for by number.
pub(crate) fn listen_again(socket: BorrowedFd<'_>, bound_to: &str) -> io::Result<()> {
    if let Ok(address) = bound_to.parse::<SocketAddr>() {
        let bound = match address {
            SocketAddr::V4(address) => bind(socket.as_raw_fd(), &SockaddrIn::from(address)),
            SocketAddr::V6(address) => bind(socket.as_raw_fd(), &SockaddrIn6::from(address)),
        };
        // EINVAL: it still has its port.
        bound.or_else(|errno| if errno == Errno::EINVAL { Ok(()) } else { Err(errno) })?;
    }
    start_listening(socket)
}

/// What a TCP socket is bound to.
pub(crate) fn bound_to_address(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    let address = getsockname::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd()).ok()?;
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// Whether the socket listens: `shutdown(2)` by any process that shares it ends that for all.
pub(crate) fn is_listening(socket: BorrowedFd<'_>) -> bool {
    getsockopt(&socket, sockopt::AcceptConn).unwrap_or(!system::TELLS_LISTENING)
}

/// Makes the socket not block; `true` if it did. The flag is shared by every process that has the socket.
pub(crate) fn make_nonblocking(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = OFlag::from_bits_truncate(fcntl(socket, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        return Ok(false);
    }
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(true)
}

/// The path that a Unix socket is bound to.
pub(crate) fn path_of(socket: BorrowedFd<'_>) -> Option<PathBuf> {
    getsockname::<UnixAddr>(socket.as_raw_fd()).ok()?.path().map(Path::to_owned)
}

/// Whether an IPv6 socket leaves IPv4 to others.
pub(crate) fn is_v6_only(socket: BorrowedFd<'_>) -> bool {
    getsockopt(&socket, sockopt::Ipv6V6Only).unwrap_or(true)
}

/// Makes a socket of somebody else's one of ours: it does not block, and its backlog is the system's maximum.
///
/// # Errors
/// It is no TCP or Unix stream socket, is not bound, or cannot listen, as one that is connected.
pub(crate) fn accept_from(socket: BorrowedFd<'_>) -> io::Result<()> {
    let is_stream = getsockopt(&socket, sockopt::SockType)? == SockType::Stream;
    let is_bound = path_of(socket).is_some() || bound_to_address(socket).is_some_and(|address| address.port() != 0);
    if !is_stream || !is_bound {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    make_nonblocking(socket)?;
    start_listening(socket)
}

/// What the descriptor is, for a message.
pub(crate) fn describe(descriptor: BorrowedFd<'_>) -> String {
    let kind = match getsockopt(&descriptor, sockopt::SockType) {
        Ok(SockType::Stream) if is_listening(descriptor) => "a listening socket",
        Ok(SockType::Stream) => "a connection",
        Ok(SockType::Datagram) => "a datagram socket",
        Ok(_) => "a socket of another kind",
        Err(_) => return "no socket".to_owned(),
    };
    match bound_to(descriptor).as_str() {
        "" | "unix:" => kind.to_owned(),
        bound_to => format!("{kind} on {bound_to}"),
    }
}

/// Whether the socket is a Unix one.
pub(crate) fn is_unix(socket: BorrowedFd<'_>) -> bool {
    getsockname::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd()).is_ok_and(|address| address.family() == Some(AddressFamily::Unix))
}

/// What the socket is bound to: `127.0.0.1:3000`, `[::]:3000`, `unix:/run/app.sock`.
pub(crate) fn bound_to(socket: BorrowedFd<'_>) -> String {
    let Ok(address) = getsockname::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd()) else { return String::new() };
    if let Some(unix) = address.as_unix_addr() {
        return format!("unix:{}", unix.path().unwrap_or(Path::new("")).display());
    }
    bound_to_address(socket).map(|address| address.to_string()).unwrap_or_default()
}

/// Device and inode of a Unix socket's file, to know it again when it is to be removed.
pub(crate) type FileId = (u64, u64);

pub(crate) fn file_of(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Makes the kernel find out that a silent peer is gone.
pub(crate) fn set_keep_alive(socket: BorrowedFd<'_>) -> io::Result<()> {
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    let seconds = u32::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u32::MAX);
    setsockopt(&socket, system::TcpKeepIdle, &seconds)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &seconds)?;
    Ok(())
}

/// Whether a connection that was accepted does not block, as its listener.
pub(crate) const ACCEPTED_DO_NOT_BLOCK: bool = system::ACCEPTED_DO_NOT_BLOCK;

/// Whether the socket does not listen any more (accept(2), EINVAL).
pub(crate) fn is_shut_down(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Errors of accept(2) that belong to the one connection, or to nothing.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let passing = [
        libc::EAGAIN,
        libc::EINTR,
        libc::ECONNABORTED,
        libc::EPROTO,
        libc::EPERM,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ETIMEDOUT,
    ];
    error.raw_os_error().is_some_and(|number| passing.contains(&number))
}

/// Whether the process or the system has no room for a connection.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Ends a listening socket for every process that has it: who connects from now on is refused, and another process can bind the address.
pub(crate) fn shut_down(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::SockFlag;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn the_socket_of_somebody_who_does_not_accept_is_left_and_waited_for_by_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app.sock");
        let _stuck = UnixListener::bind(&path).expect("bound");
        let mut waiting = Vec::new();
        loop {
            let client = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("a socket");
            let answer = connect(client.as_raw_fd(), &UnixAddr::new(&path).expect("an address"));
            waiting.push(UnixStream::from(client));
            match answer {
                Ok(()) => {}
                Err(errno) => break assert_eq!(errno, Errno::EAGAIN, "the backlog is full"),
            }
        }
        let error = listen_unix(&path, None).expect_err("somebody listens there");
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
        assert!(path.exists());
    }
}
