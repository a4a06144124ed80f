//! Sockets to accept on and to receive from.

use super::system;
use crate::address::{Address, Kind, Options, Transport};
use crate::protocol::{Owner, Wanted};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, UnixAddr, bind, connect, getpeername,
    getsockname, getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

/// Opens and binds, and listens if it is a stream socket; on the first of the resolved addresses that can be had, if it is a host's name. The socket does not block. Its
/// backlog is the system's maximum unless the address says otherwise: it carries clients over a hand-over.
///
/// # Errors
/// The address cannot be had ([`io::ErrorKind::AddrInUse`]: by somebody else's use); nothing is left behind.
pub(crate) fn open(address: &Address, wanted: &Wanted) -> io::Result<OwnedFd> {
    open_beside(address, wanted, false)
}

/// The same, where sockets that [give way](give_way) may still have the address: a UDP port is not free before every process has closed it.
pub(crate) fn open_after(address: &Address, wanted: &Wanted) -> io::Result<OwnedFd> {
    open_beside(address, wanted, true)
}

fn open_beside(address: &Address, wanted: &Wanted, others_give_way: bool) -> io::Result<OwnedFd> {
    let is_datagram = address.transport == Transport::Datagram;
    let inet = |at: SocketAddr, v6_only: bool| open_inet(at, is_datagram, v6_only, others_give_way, &address.options);
    match &address.kind {
        Kind::AllInterfaces { port } => {
            let v6_only = address.options.v6_only.unwrap_or(false);
            match inet(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, *port, 0, 0).into(), v6_only) {
                // IPv4 alone where the system has no IPv6.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) && !v6_only => {
                    inet(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, *port).into(), false)
                }
                result => result,
            }
        }
        Kind::Host { host, port } => {
            let number = host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, *port));
            let mut refused = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            let fits = |at: &&SocketAddr| at.is_ipv6() || address.options.v6_only != Some(true);
            for at in number.iter().chain(&wanted.resolved).filter(fits) {
                match inet(*at, address.options.v6_only.unwrap_or(true)) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => refused = error,
                }
            }
            Err(refused)
        }
        Kind::Unix { path } => open_unix(path, is_datagram, &address.options, wanted.owner),
        Kind::Systemd { .. } => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the service manager passes its sockets when the service starts, and none of that name is held: put this version at the program's path and restart the service",
        )),
    }
}

/// A socket that does not block and is close-on-exec.
fn make(family: AddressFamily, is_datagram: bool, protocol: Option<SockProtocol>) -> io::Result<OwnedFd> {
    let kind = if is_datagram { SockType::Datagram } else { SockType::Stream };
    let socket = socket(family, kind, system::SOCKET_FLAGS, protocol)?;
    if system::SOCKET_FLAGS.is_empty() {
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        make_nonblocking(socket.as_fd())?;
    }
    Ok(socket)
}

fn open_inet(at: SocketAddr, is_datagram: bool, v6_only: bool, others_give_way: bool, options: &Options) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = make(family, is_datagram, Some(if is_datagram { SockProtocol::Udp } else { SockProtocol::Tcp }))?;
    // With TCP, for connections that have ended lately. With UDP, whoever has said so too can have the port as well; the last one receives.
    if !is_datagram || others_give_way {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if options.reuse_port {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    match at {
        SocketAddr::V4(at) => bind(socket.as_raw_fd(), &SockaddrIn::from(at))?,
        SocketAddr::V6(at) => {
            setsockopt(&socket, sockopt::Ipv6V6Only, &v6_only)?;
            bind(socket.as_raw_fd(), &SockaddrIn6::from(at))?;
        }
    }
    if is_datagram {
        // Nobody else is to have it from now on.
        setsockopt(&socket, sockopt::ReuseAddr, &false)?;
    } else {
        start_listening(socket.as_fd(), options.backlog)?;
    }
    Ok(socket)
}

fn open_unix(path: &Path, is_datagram: bool, options: &Options, owner: Option<Owner>) -> io::Result<OwnedFd> {
    remove_stale_socket(path, is_datagram)?;
    let socket = make(AddressFamily::Unix, is_datagram, None)?;
    if options.mode.is_some() {
        // Linux makes the file with the mode of the socket, so that nobody can write to it before it has its own. Elsewhere one connects to nothing before it listens.
        let _ = fchmod(&socket, Mode::empty());
    }
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let given = give_to(path, options.mode, owner);
    if let Err(error) = given.and_then(|()| if is_datagram { Ok(()) } else { start_listening(socket.as_fd(), options.backlog) }) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(socket)
}

/// Sets owner and mode of the file of a Unix socket, as far as they are given.
pub(crate) fn give_to(path: &Path, mode: Option<u32>, owner: Option<Owner>) -> io::Result<()> {
    if let Some(Owner { user, group }) = owner {
        lchown(path, user, group).map_err(|error| {
            let of = [user.map(|user| format!("user {user}")), group.map(|group| format!("group {group}"))];
            let of: Vec<String> = of.into_iter().flatten().collect();
            io::Error::new(error.kind(), format!("cannot give the socket's file to {}: {error}", of.join(" and ")))
        })?;
    }
    // Neither of them follows a link, which somebody may have put there who may write to the directory.
    let Some(mode) = mode else { return Ok(()) };
    Ok(fchmodat(nix::fcntl::AT_FDCWD, path, mode_of(mode), FchmodatFlags::NoFollowSymlink)?)
}

/// The rights among the bits of a mode.
fn mode_of(bits: u32) -> Mode {
    // Its type has as many bits as the system likes; of rights there are nine.
    Mode::from_bits_truncate((bits & 0o777) as libc::mode_t)
}

/// Removes the file of a socket that nobody has any more. One that is alive stays.
///
/// # Errors
/// Somebody listens there ([`io::ErrorKind::AddrInUse`]), as far as can be told who.
fn remove_stale_socket(path: &Path, is_datagram: bool) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
    }
    // Not blocking: whoever listens there may be stuck, with a backlog that is full (EAGAIN, unix(7)).
    let asking = make(AddressFamily::Unix, is_datagram, None)?;
    let ask = || connect(asking.as_raw_fd(), &UnixAddr::new(path)?);
    let answer = match ask() {
        // Its owner may not write to it, nor could that one in whose place we are: it died before it had set the mode.
        Err(Errno::EACCES)
            if fchmodat(nix::fcntl::AT_FDCWD, path, Mode::S_IRUSR | Mode::S_IWUSR, FchmodatFlags::NoFollowSymlink).is_ok() =>
        {
            let answer = ask();
            let before = mode_of(metadata.mode());
            let _ = fchmodat(nix::fcntl::AT_FDCWD, path, before, FchmodatFlags::NoFollowSymlink);
            answer
        }
        answer => answer,
    };
    match answer {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path),
        Ok(()) => {
            let who = system::peer_of(asking.as_fd()).map_or_else(String::new, |who| format!(": {who}"));
            Err(io::Error::new(io::ErrorKind::AddrInUse, format!("a living process has that socket{who}")))
        }
        // Binding says what it is.
        Err(_) => Ok(()),
    }
}

/// Listens, or listens again with this backlog; the system's largest if it is none.
pub(crate) fn start_listening(socket: BorrowedFd<'_>, backlog: Option<u32>) -> io::Result<()> {
    let backlog = backlog.and_then(|backlog| libc::c_int::try_from(backlog).ok()).unwrap_or(libc::c_int::MAX);
    // SAFETY: listen(2) takes two numbers. The kernel cuts the backlog to net.core.somaxconn.
    let result = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Listens again after a `shutdown(2)`, on the same address.
pub(crate) fn listen_again(socket: BorrowedFd<'_>, bound_to: &str, backlog: Option<u32>) -> io::Result<()> {
    bind_again(socket, bound_to)?;
    start_listening(socket, backlog)
}

/// A port that the system chose is given up by what ends the use of a socket, and must be asked for by number.
fn bind_again(socket: BorrowedFd<'_>, bound_to: &str) -> io::Result<()> {
    let Ok(address) = bound_to.strip_prefix("udp:").unwrap_or(bound_to).parse::<SocketAddr>() else { return Ok(()) };
    let bound = match address {
        SocketAddr::V4(address) => bind(socket.as_raw_fd(), &SockaddrIn::from(address)),
        SocketAddr::V6(address) => bind(socket.as_raw_fd(), &SockaddrIn6::from(address)),
    };
    // EINVAL: it still has its port.
    Ok(bound.or_else(|errno| if errno == Errno::EINVAL { Ok(()) } else { Err(errno) })?)
}

/// What a TCP or UDP socket is bound to.
pub(crate) fn bound_to_address(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
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

/// Makes a socket of somebody else's one of ours: it does not block, and a stream socket has this backlog.
///
/// # Errors
/// It is neither a TCP, UDP nor Unix socket, is not bound, or is connected.
pub(crate) fn take_over(socket: BorrowedFd<'_>, backlog: Option<u32>) -> io::Result<()> {
    let kind = getsockopt(&socket, sockopt::SockType)?;
    let is_bound = path_of(socket).is_some() || bound_to_address(socket).is_some_and(|address| address.port() != 0);
    match kind {
        SockType::Stream if is_bound => start_listening(socket, backlog)?,
        SockType::Datagram if is_bound && !is_connected(socket) => {}
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    make_nonblocking(socket).map(drop)
}

/// Whether one receives datagrams from it, and accepts no connections.
pub(crate) fn is_datagram(socket: BorrowedFd<'_>) -> bool {
    getsockopt(&socket, sockopt::SockType).is_ok_and(|kind| kind == SockType::Datagram)
}

fn is_connected(socket: BorrowedFd<'_>) -> bool {
    getpeername::<SockaddrStorage>(socket.as_raw_fd()).is_ok()
}

/// Undoes a `connect(2)` on a datagram socket, which makes it deaf to everybody else, for each process that has it; `true` if there was one.
pub(crate) fn disconnect(socket: BorrowedFd<'_>, bound_to: &str) -> io::Result<bool> {
    if !is_connected(socket) {
        return Ok(false);
    }
    // SAFETY: an all-zero address is a valid one.
    let mut nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the address is as long as said and lives through the call. An AF_UNSPEC one ends the association (connect(2)).
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) };
    Errno::result(result)?;
    bind_again(socket, bound_to).map(|()| true)
}

/// What the descriptor is, for a message.
pub(crate) fn describe(descriptor: BorrowedFd<'_>) -> String {
    let kind = match getsockopt(&descriptor, sockopt::SockType) {
        Ok(SockType::Stream) if is_listening(descriptor) => "a listening socket",
        Ok(SockType::Stream) => "a connection",
        Ok(SockType::Datagram) if is_connected(descriptor) => "a connected datagram socket",
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
    getsockname::<SockaddrStorage>(socket.as_raw_fd()).is_ok_and(|address| address.family() == Some(AddressFamily::Unix))
}

/// What the socket is bound to: `127.0.0.1:3000`, `[::]:3000`, `unix:/run/app.sock`, `udp:[::]:3000`, `unixgram:/run/app.sock`.
pub(crate) fn bound_to(socket: BorrowedFd<'_>) -> String {
    let Ok(address) = getsockname::<SockaddrStorage>(socket.as_raw_fd()) else { return String::new() };
    let is_datagram = is_datagram(socket);
    if let Some(unix) = address.as_unix_addr() {
        let transport = if is_datagram { "unixgram" } else { "unix" };
        return format!("{transport}:{}", unix.path().unwrap_or(Path::new("")).display());
    }
    let transport = if is_datagram { "udp:" } else { "" };
    bound_to_address(socket).map(|address| format!("{transport}{address}")).unwrap_or_default()
}

/// Device and inode of a Unix socket's file, to know it again when it is to be removed.
pub(crate) type FileId = (u64, u64);

pub(crate) fn file_of(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Sets on a TCP connection that was accepted what the address says.
pub(crate) fn set_options(connection: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
    if options.nodelay {
        setsockopt(&connection, sockopt::TcpNoDelay, &true)?;
    }
    // The kernel is to find out that a silent peer is gone. A listener that was passed may say something else.
    setsockopt(&connection, sockopt::KeepAlive, &options.keep_alive.is_some())?;
    if let Some(time) = options.keep_alive {
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        setsockopt(&connection, system::TcpKeepIdle, &seconds)?;
        setsockopt(&connection, sockopt::TcpKeepInterval, &seconds)?;
    }
    Ok(())
}

/// Whether a connection that was accepted does not block, as its listener.
pub(crate) const ACCEPTED_DO_NOT_BLOCK: bool = system::ACCEPTED_DO_NOT_BLOCK;

/// Whether the socket does not listen any more (accept(2), EINVAL).
pub(crate) fn is_shut_down(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Errors of accept(2) that belong to the one connection, of recv(2) that belong to the one datagram, or to nothing.
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
        // Of datagrams: what another one was answered, that somebody who has the socket too has sent.
        libc::ECONNREFUSED,
        libc::ENETUNREACH,
        libc::ETIMEDOUT,
    ];
    // tokio says it in words of its own.
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error().is_some_and(|number| passing.contains(&number))
}

/// Whether the process or the system has no room for a connection.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Ends a listening socket for every process that has it: who connects from now on is refused, and another process can bind the address. A socket of datagrams goes on, for
/// who is still to answer by it, and lets whoever [comes after it](open_after) have its port.
pub(crate) fn give_way(socket: BorrowedFd<'_>) -> io::Result<()> {
    if is_datagram(socket) {
        return Ok(setsockopt(&socket, sockopt::ReuseAddr, &true)?);
    }
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
        let error = open_unix(&path, false, &Options::default(), None).expect_err("somebody listens there");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_of_datagrams_that_was_shut_down_in_whichever_direction_nothing_comes_by_is_hung_up() {
        use crate::sys::poll::is_hung_up;
        use nix::sys::socket::{Shutdown, shutdown};
        let directory = tempfile::tempdir().expect("a directory");
        for (number, how) in [Shutdown::Read, Shutdown::Both].into_iter().enumerate() {
            let unix = format!("unixgram:{}", directory.path().join(number.to_string()).display());
            for text in ["udp:127.0.0.1:0", unix.as_str()] {
                let socket = open(&Address::parse(text).expect("it is good"), &Wanted::default()).expect("bound");
                assert!(!is_hung_up(socket.as_fd()), "{text}");
                let _ = shutdown(socket.as_raw_fd(), how);
                assert!(is_hung_up(socket.as_fd()), "{text} {how:?}");
            }
        }
    }

    #[test]
    fn what_an_address_says_is_set_on_its_socket_and_on_what_is_accepted() {
        let address = Address::parse("127.0.0.1:0?nodelay&keep_alive=60s").expect("it is good");
        let listener = std::net::TcpListener::from(open(&address, &Wanted::default()).expect("bound"));
        let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        let said = |option: &Options| {
            set_options(accepted.as_fd(), option).expect("set");
            let keeps = getsockopt(&accepted, sockopt::KeepAlive).expect("told");
            let seconds = getsockopt(&accepted, sockopt::TcpKeepInterval).expect("told");
            (keeps, keeps.then_some(seconds))
        };
        assert_eq!(said(&Options::default()), (true, Some(180)));
        assert!(!accepted.nodelay().expect("told"));
        assert_eq!(said(&address.options), (true, Some(60)));
        assert!(accepted.nodelay().expect("told"));
        assert_eq!(said(&Options { keep_alive: None, ..Options::default() }), (false, None));
        for (text, v6_only) in [("[::1]:0", true), ("[::]:0?v6_only=false", false), (":0?v6_only", true), ("udp::0", false)] {
            let socket = open(&Address::parse(text).expect("it is good"), &Wanted::default()).expect("bound");
            assert_eq!(is_v6_only(socket.as_fd()), v6_only, "{text}");
        }
    }

    #[test]
    fn a_stale_socket_that_its_owner_may_not_write_to_is_taken_over_and_a_link_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, victim) = (directory.path().join("app.sock"), directory.path().join("victim"));
        drop(UnixListener::bind(&path).expect("bound"));
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("set");
        let options = Options { mode: Some(0o600), ..Options::default() };
        drop(open_unix(&path, false, &options, None).expect("nobody has it"));
        fs::write(&victim, "").expect("written");
        let before = fs::metadata(&victim).expect("there").mode();
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&victim, &path).expect("linked");
        let _ = give_to(&path, Some(0o777), None);
        assert_eq!(fs::metadata(&victim).expect("there").mode(), before);
    }
}
