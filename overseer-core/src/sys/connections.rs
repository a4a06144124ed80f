//! What sockets a process has: how many connections are open, and what it listens on. Its descriptors, looked up among the sockets of the system.
//!
//! Nothing is asked of the process, so one that is stuck is counted too. The system is asked by sock_diag(7) for sockets in the states that matter: the
//! table in `/proc`, which is read where a sandbox forbids netlink sockets, is long where many connections have ended lately. Both have the sockets of all
//! processes, so whoever counts says of how many at most.

use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// For each socket that may be counted, so many that have ended lately may be walked through: together some 5 ms.
const ENDED_PER_COUNTED: usize = 32;

/// Ports that the system gives to those who ask for none, unless it says otherwise.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// The connections that others have made to the process and that it holds open: over TCP, also half-closed ones, and over Unix sockets.
///
/// One that the process has made itself, to a database say, does not count. (What tells them apart is the local port: a listener has it, or the
/// system gives it to nobody by itself. A Unix socket has a path.) Takes about a microsecond for each of them, and for the tables themselves
/// a millisecond or two, and does not block. `None`: the process is gone or may not be looked at, it has more descriptors than `count_max` or all processes have more
/// sockets than that, there are so many times more that have ended lately, or this system has no such tables.
pub(crate) fn open_connections(pid: Pid, count_max: usize) -> Option<u64> {
    if ended_lately(pid).is_some_and(|ended| ended > count_max.saturating_mul(ENDED_PER_COUNTED)) {
        return None;
    }
    let sockets = sockets_of(pid, count_max)?;
    if sockets.is_empty() {
        return Some(0);
    }
    let tcp = diag::tcp_sockets(true, count_max).or_else(|| tcp_sockets(pid, count_max))?;
    let listened: BTreeSet<u16> = tcp.iter().filter(|tcp| tcp.listens).map(Tcp::port).collect();
    let given = ports_given();
    let came_in = |port: u16| listened.contains(&port) || !given.contains(&port);
    let over_tcp = tcp.iter().filter(|tcp| !tcp.listens && sockets.contains(&tcp.inode) && came_in(tcp.port())).count();
    let mut over_unix = 0;
    if let Some(table) = table(pid, "unix") {
        read(table, count_max, |line| over_unix += usize::from(accepted_unix_socket(line).is_some_and(|inode| sockets.contains(&inode))))?;
    }
    u64::try_from(over_tcp + over_unix).ok()
}

/// What the process can be reached at, but for the sockets with the inodes in `kept`: TCP and Unix listeners, and UDP sockets. As addresses are written for
/// [`Config::address`](crate::Config::address).
///
/// Left out is what nobody knows of whom the process has not told: a UDP socket, and a TCP listener on the loopback interface, with a port that the system gives to those
/// who ask for none; a Unix socket without a path. And a UDP socket that is connected, which only its peer reaches. Costs what [`open_connections`] does at most. Empty where that
/// answers none.
pub(crate) fn reachable_at(pid: Pid, kept: &BTreeSet<u64>, count_max: usize) -> Vec<String> {
    find_reachable(pid, kept, count_max).unwrap_or_default()
}

fn find_reachable(pid: Pid, kept: &BTreeSet<u64>, count_max: usize) -> Option<Vec<String>> {
    let sockets: BTreeSet<u64> = sockets_of(pid, count_max)?.difference(kept).copied().collect();
    if sockets.is_empty() {
        return Some(Vec::new());
    }
    let given_ports = ports_given();
    let tcp = diag::tcp_sockets(false, count_max).or_else(|| tcp_sockets(pid, count_max))?;
    let is_known = |tcp: &&Tcp| !tcp.address.ip().to_canonical().is_loopback() || !given_ports.contains(&tcp.port());
    let mut found: Vec<String> =
        tcp.iter().filter(|tcp| tcp.listens && sockets.contains(&tcp.inode)).filter(is_known).map(|tcp| tcp.address.to_string()).collect();
    // A table that is too long is read as far as it may be.
    for table in ["udp", "udp6"].into_iter().filter_map(|name| table(pid, name)) {
        let _ = read(table, count_max, |line| {
            let bound = bound_udp_socket(line).filter(|(address, inode)| !given_ports.contains(&address.port()) && sockets.contains(inode));
            found.extend(bound.map(|(address, _)| format!("udp:{address}")));
        });
    }
    if let Some(table) = table(pid, "unix") {
        let _ = read(table, count_max, |line| {
            let listening = listening_unix_socket(line).filter(|(_, inode)| sockets.contains(inode));
            found.extend(listening.map(|(path, _)| format!("unix:{path}")));
        });
    }
    Some(found)
}

/// How many connections have ended lately and wait for the last of their packets (TIME_WAIT). The system walks through them too, which takes some 25 ns for each.
fn ended_lately(pid: Pid) -> Option<usize> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/sockstat")).ok()?;
    let (_, rest) = text.lines().find(|line| line.starts_with("TCP:"))?.split_once(" tw ")?;
    rest.split(' ').next()?.parse().ok()
}

/// The inodes of its sockets, by which every process that has them knows them. `None`: as for [`open_connections`].
pub(crate) fn sockets_of(pid: Pid, count_max: usize) -> Option<BTreeSet<u64>> {
    let mut sockets = BTreeSet::new();
    for (index, entry) in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.enumerate() {
        if index == count_max {
            return None;
        }
        // One that was closed meanwhile.
        let Ok(target) = fs::read_link(entry.ok()?.path()) else { continue };
        let inode: Option<u64> = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        sockets.extend(inode);
    }
    Some(sockets)
}

/// The TCP sockets in the table of the system.
fn tcp_sockets(pid: Pid, count_max: usize) -> Option<Vec<Tcp>> {
    let mut tcp = Vec::new();
    // A system without IPv6 has no such table.
    for table in ["tcp", "tcp6"].into_iter().filter_map(|name| table(pid, name)) {
        read(table, count_max, |line| tcp.extend(Tcp::from_line(line)))?;
    }
    Some(tcp)
}

/// The table of the network that the process is in.
fn table(pid: Pid, name: &str) -> Option<File> {
    File::open(format!("/proc/{pid}/net/{name}")).ok()
}

/// Reads a table, but for the heads of its columns. `None`: it is too long.
fn read(table: File, count_max: usize, mut line: impl FnMut(&str)) -> Option<()> {
    let mut table = BufReader::with_capacity(1 << 16, table);
    let mut bytes = Vec::new();
    // Before them come their heads.
    for count in 0..=count_max {
        bytes.clear();
        if table.read_until(b'\n', &mut bytes).ok()? == 0 {
            return Some(());
        }
        // A path in the table of Unix sockets need not be text.
        if count > 0 {
            line(&String::from_utf8_lossy(&bytes));
        }
    }
    None
}

/// A TCP socket that listens, or that is open: both sides can talk, or one has said that it will not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tcp {
    /// Its own.
    address: SocketAddr,
    listens: bool,
    inode: u64,
}

impl Tcp {
    /// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, by their numbers in the kernel.
    const OPEN: [u8; 4] = [1, 4, 5, 8];
    const LISTEN: u8 = 10;

    fn new(address: SocketAddr, state: u8, inode: u64) -> Option<Self> {
        let listens = state == Self::LISTEN;
        (listens || Self::OPEN.contains(&state)).then_some(Self { address, listens, inode })
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    /// Reads a line of the table (proc_pid_net(5)).
    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let address = address_in_table(words.next()?)?;
        let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
        Self::new(address, state, words.nth(5)?.parse().ok()?)
    }
}

/// `0100007F:0FA0` is 127.0.0.1:4000: each four bytes of the address are a number in the order of this machine.
fn address_in_table(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for digits in ip.as_bytes().chunks(8) {
        bytes.extend(u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?.to_ne_bytes());
    }
    Some(SocketAddr::new(ip_of(&bytes)?, u16::from_str_radix(port, 16).ok()?))
}

/// Of either family, in the order of the network.
fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into());
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into());
    v4().or_else(v6)
}

/// Address and inode of a UDP socket that anybody can send to (proc_pid_net(5)): it is bound, and not connected.
fn bound_udp_socket(line: &str) -> Option<(SocketAddr, u64)> {
    /// CLOSE, by its number in the kernel; a connected one is ESTABLISHED.
    const UNCONNECTED: &str = "07";
    let mut words = line.split_ascii_whitespace().skip(1);
    let address = address_in_table(words.next()?)?;
    let is_bound = words.nth(1)? == UNCONNECTED && address.port() != 0;
    let inode = words.nth(5)?.parse().ok()?;
    is_bound.then_some((address, inode))
}

/// sock_diag(7), by hand: three numbers of each socket are wanted.
#[cfg(target_os = "linux")]
mod diag {
    use super::{Tcp, ip_of};
    use nix::libc;
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::SocketAddr;

    /// `struct nlmsghdr`: length, type, flags, sequence number, port.
    const HEADER: usize = 16;
    /// `TCPDIAG_GETSOCK`, which nobody else names. The request of the first days is answered with the sockets of both families, for one walk through the
    /// system's table; that takes more than all else. The later one, `SOCK_DIAG_BY_FAMILY`, walks once for each.
    const GET_SOCKETS: u16 = 18;
    /// `struct inet_diag_req`: families and prefixes, which socket, in which states, and what else.
    const REQUEST: usize = 60;

    /// The TCP sockets of the network that this process is in, in both families: those that listen, and with `open` those with a connection. `None` where the system does not
    /// say, or there are more.
    pub(super) fn tcp_sockets(open: bool, count_max: usize) -> Option<Vec<Tcp>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let mut socket = File::from(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag).ok()?);
        let mut found = Vec::new();
        let mut answer = vec![0; 1 << 15];
        socket.write_all(&request(open)).ok()?;
        // The kernel answers within the call, so there is nothing to wait for.
        loop {
            let bytes = socket.read(&mut answer).ok()?;
            if take(&answer[..bytes], &mut found)? {
                return (found.len() <= count_max).then_some(found);
            }
            if found.len() > count_max {
                return None;
            }
        }
    }

    /// All TCP sockets in the states that matter.
    fn request(open: bool) -> Vec<u8> {
        let open: &[u8] = if open { &Tcp::OPEN } else { &[] };
        let states = open.iter().chain([&Tcp::LISTEN]).fold(0_u32, |states, state| states | 1 << state);
        let mut request = Vec::with_capacity(HEADER + REQUEST);
        request.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
        request.extend(GET_SOCKETS.to_ne_bytes());
        request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
        request.extend([0; 8]);
        // Of any family, and any socket.
        request.extend([0; 4 + 48]);
        request.extend(states.to_ne_bytes());
        request.extend([0; 4]);
        request
    }

    /// Takes the sockets out of some messages; `true` if they were the last. `None`: the kernel refuses, or says something else.
    fn take(mut messages: &[u8], found: &mut Vec<Tcp>) -> Option<bool> {
        while !messages.is_empty() {
            let length = u32::from_ne_bytes(*messages.first_chunk()?) as usize;
            let kind = u16::from_ne_bytes(*messages.get(4..)?.first_chunk()?);
            let body = messages.get(HEADER..length)?;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Some(true),
                libc::NLMSG_ERROR => return None,
                // `struct inet_diag_msg`: family, state, ..., the local port and, four bytes later, the local address, in the order of the network, ..., the inode as its
                // last number.
                _ => {
                    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
                    let length = if i32::from(*body.first()?) == libc::AF_INET { 4 } else { 16 };
                    let address = SocketAddr::new(ip_of(body.get(8..8 + length)?)?, port);
                    let inode = u32::from_ne_bytes(*body.get(68..)?.first_chunk()?);
                    found.extend(Tcp::new(address, *body.get(1)?, u64::from(inode)));
                }
            }
            messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(false)
    }
}

#[cfg(not(target_os = "linux"))]
mod diag {
    pub(super) fn tcp_sockets(_: bool, _: usize) -> Option<Vec<super::Tcp>> {
        None
    }
}

/// The inode of a connected Unix socket that has a path: its listener's. Those of pairs, and those that connect, have none.
fn accepted_unix_socket(line: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace().skip(5);
    let is_connected = words.next()? == "03";
    let inode = words.next()?.parse().ok()?;
    (is_connected && words.next().is_some()).then_some(inode)
}

/// Path and inode of a Unix socket that listens for streams. One with a name and no path, which is `@` here, is none that could be configured.
fn listening_unix_socket(line: &str) -> Option<(&str, u64)> {
    /// `__SO_ACCEPTCON` of the kernel.
    const ACCEPTS: u32 = 1 << 16;
    let mut words = line.splitn(7, ' ').skip(3);
    let listens = u32::from_str_radix(words.next()?, 16).ok()? & ACCEPTS != 0;
    let is_stream = words.next()? == "0001";
    let (inode, path) = words.nth(1)?.trim_start().split_once(' ')?;
    let path = path.trim_end_matches('\n');
    (listens && is_stream && path.starts_with('/')).then_some((path, inode.parse().ok()?))
}

/// The ports that the system gives to those who ask for none.
fn ports_given() -> RangeInclusive<u16> {
    let read = || {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let (first, last) = text.trim().split_once(char::is_whitespace)?;
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    read().unwrap_or(EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Child, Command, Stdio};

    /// On whatever machine.
    const COUNT_MAX: usize = 1 << 20;

    /// A process that holds the descriptors open until it is dropped, and nothing else but its pipes.
    struct Holder(Child);

    impl Holder {
        fn of(one: impl Into<OwnedFd>, other: impl Into<OwnedFd>) -> Self {
            let holder = Command::new("sleep").arg("600").stdin(one.into()).stdout(other.into()).stderr(Stdio::null()).spawn();
            Self(holder.expect("started"))
        }

        fn connections(&self) -> Option<u64> {
            open_connections(Pid::from_raw(i32::try_from(self.0.id()).expect("a pid")), COUNT_MAX)
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells_how_many_connections_have_ended_lately() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        drop(client);
        // Whoever closes first waits.
        assert_eq!(std::io::Read::read(&mut &accepted, &mut [0]).expect("the end"), 0);
        drop(accepted);
        assert!(ended_lately(Pid::this()).expect("it tells") > 0);
    }

    fn nothing() -> OwnedFd {
        File::open("/dev/null").expect("it is there").into()
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_has_the_connections_that_others_made_to_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let on_both = TcpListener::bind("[::1]:0");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (served, _) = listener.accept().expect("accepted");
        let to_itself = served.try_clone().expect("cloned");
        let made = client.try_clone().expect("cloned");
        let holder = Holder::of(listener.try_clone().expect("cloned"), served);
        assert_eq!(holder.connections(), Some(1));
        assert_eq!(Holder::of(made, nothing()).connections(), Some(0), "what it has made itself does not count");
        client.write_all(b"?").expect("written");
        client.shutdown(Shutdown::Write).expect("half-closed");
        assert_eq!(holder.connections(), Some(1), "it may still answer");
        if let Ok(on_both) = on_both {
            let _client = TcpStream::connect(on_both.local_addr().expect("bound")).expect("connected");
            let (served, _) = on_both.accept().expect("accepted");
            assert_eq!(Holder::of(served, to_itself).connections(), Some(2), "in both families");
        }
    }

    #[test]
    fn a_connection_over_a_unix_socket_counts_and_a_pair_of_sockets_does_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a socket");
        let listener = UnixListener::bind(&path).expect("bound");
        let _client = UnixStream::connect(&path).expect("connected");
        let (served, _) = listener.accept().expect("accepted");
        let (one, other) = UnixStream::pair().expect("a pair");
        assert_eq!(Holder::of(listener, one).connections(), Some(0));
        assert_eq!(Holder::of(served, other).connections(), Some(1));
    }

    #[test]
    fn both_ways_of_asking_find_the_same_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        let _client = TcpStream::connect(address).expect("connected");
        let (served, _) = listener.accept().expect("accepted");
        let inode = std::os::unix::fs::MetadataExt::ino(
            &File::from(OwnedFd::from(served.try_clone().expect("cloned"))).metadata().expect("it has"),
        );
        let ours = Tcp { address, listens: false, inode };
        // In a sandbox without netlink, and on a machine with a long table, one of the two does not answer.
        for found in [diag::tcp_sockets(true, COUNT_MAX), tcp_sockets(nix::unistd::getpid(), COUNT_MAX)].into_iter().flatten() {
            assert!(found.contains(&ours), "{ours:?} is not in {found:?}");
            assert!(found.iter().any(|tcp| tcp.address == address && tcp.listens));
        }
        if let Some(found) = diag::tcp_sockets(false, COUNT_MAX) {
            assert!(found.iter().any(|tcp| tcp.address == address) && found.iter().all(|tcp| tcp.listens));
        }
    }

    fn inode(socket: impl Into<OwnedFd>) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&File::from(socket.into()).metadata().expect("it has"))
    }

    #[test]
    fn what_a_process_can_be_reached_at_is_found_but_for_what_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a socket");
        let unix = UnixListener::bind(&path).expect("bound");
        // On all interfaces, so that it matters with whatever port.
        let tcp = TcpListener::bind("0.0.0.0:0").expect("bound");
        let on_both = TcpListener::bind("[::]:0");
        let own = |one: OwnedFd, other: OwnedFd, kept: &[u64]| {
            let holder = Holder::of(one, other);
            let pid = Pid::from_raw(i32::try_from(holder.0.id()).expect("a pid"));
            reachable_at(pid, &kept.iter().copied().collect(), COUNT_MAX)
        };
        let copies = || (OwnedFd::from(tcp.try_clone().expect("cloned")), OwnedFd::from(unix.try_clone().expect("cloned")));
        let [at_tcp, at_unix] = [tcp.local_addr().expect("bound").to_string(), format!("unix:{}", path.display())];
        let (one, other) = copies();
        assert_eq!(own(one, other, &[]), [at_tcp, at_unix.clone()]);
        let (one, other) = copies();
        assert_eq!(own(one, other, &[inode(tcp.try_clone().expect("cloned"))]), [at_unix]);
        if let Ok(on_both) = on_both {
            let address = on_both.local_addr().expect("bound").to_string();
            assert_eq!(own(on_both.into(), nothing(), &[]), [address]);
        }
    }

    #[test]
    fn what_nobody_reaches_without_having_been_told_is_no_matter() {
        let nobody = |one: OwnedFd, other: OwnedFd| {
            let holder = Holder::of(one, other);
            let pid = Pid::from_raw(i32::try_from(holder.0.id()).expect("a pid"));
            assert_eq!(reachable_at(pid, &BTreeSet::new(), COUNT_MAX), [""; 0]);
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (served, _) = listener.accept().expect("accepted");
        nobody(client.into(), served.into());
        nobody(listener.into(), UnixStream::pair().expect("a pair").0.into());
        let udp = std::net::UdpSocket::bind("0.0.0.0:0").expect("bound");
        let directory = tempfile::tempdir().expect("a directory");
        let datagrams = std::os::unix::net::UnixDatagram::bind(directory.path().join("socket")).expect("bound");
        nobody(udp.into(), datagrams.into());
    }

    #[test]
    fn of_a_process_that_is_gone_nothing_is_known() {
        let mut child = Command::new("true").spawn().expect("started");
        child.wait().expect("ended");
        assert_eq!(open_connections(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), COUNT_MAX), None);
    }

    #[test]
    fn where_there_are_more_than_may_be_counted_nothing_is_known() {
        let own = nix::unistd::getpid();
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("bound"));
        assert!(sockets_of(own, COUNT_MAX).is_some_and(|sockets| sockets.len() >= listeners.len()));
        assert!(open_connections(own, COUNT_MAX).is_some());
        for count_max in 0..listeners.len() {
            assert_eq!(open_connections(own, count_max), None);
            assert!(sockets_of(own, count_max).is_none());
            assert!(diag::tcp_sockets(true, count_max).is_none());
            assert!(reachable_at(own, &BTreeSet::new(), count_max).is_empty());
            assert!(tcp_sockets(own, count_max).is_none());
        }
    }

    #[test]
    fn the_tables_are_read_as_the_system_writes_them() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4000));
        let line = "   3: 0100007F:0FA0 0100007F:9736 08 00000000:00000000 03:00000019 00000000  1000        0 48213 3 00000000636c5013";
        assert_eq!(Tcp::from_line(line), Some(Tcp { address, listens: false, inode: 48213 }));
        assert_eq!(Tcp::from_line(&line.replace(" 08 ", " 0A ")), Some(Tcp { address, listens: true, inode: 48213 }));
        assert_eq!(Tcp::from_line(&line.replace(" 08 ", " 06 ")), None, "it has ended");
        assert_eq!(accepted_unix_socket("000000000919bb84: 00000003 00000000 00000000 0001 03  1074 /run/a b"), Some(1074));
        assert_eq!(accepted_unix_socket("000000000919bb84: 00000003 00000000 00000000 0001 03  1074"), None, "it has no path");
        assert_eq!(accepted_unix_socket("000000000919bb84: 00000002 00000000 00010000 0001 01  1074 /run/a b"), None, "it listens");
        assert_eq!(Tcp::from_line("nonsense"), None);
        let line = "00000000c1d3f6a5: 00000002 00000000 00010000 0001 01 107403 /run/a b\n";
        assert_eq!(listening_unix_socket(line), Some(("/run/a b", 107_403)));
        assert_eq!(listening_unix_socket(&line.replace(" 107403 ", "    74 ")), Some(("/run/a b", 74)));
        for other in [
            line.replace("00010000", "00000000"),
            line.replace("0001 01", "0005 01"),
            line.replace(" /run", " @/run"),
            line.replace(" /run/a b", ""),
        ] {
            assert_eq!(listening_unix_socket(&other), None, "{other}");
        }
        let line = "  353: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9217 2 00000000d8c1b5a8 0";
        assert_eq!(bound_udp_socket(line), Some((SocketAddr::from(([0, 0, 0, 0], 53)), 9217)));
        assert_eq!(bound_udp_socket(&line.replace(" 07 ", " 01 ")), None, "it is connected");
        let v6 = "00000000000000000000000001000000:0035";
        assert_eq!(address_in_table(v6), Some(SocketAddr::from((Ipv6Addr::LOCALHOST, 53))));
    }
}
