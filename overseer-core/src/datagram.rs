//! What a program receives datagrams from.

use crate::address::Address;
use crate::child::{Guard, Intake, Shared};
use crate::protocol::ToMaster;
use crate::sys::poll::{Interest, is_hung_up, wait, wait_for_room};
use crate::sys::sockets::{self, is_passing};
use crate::sys::{AsFd, BorrowedFd, OwnedFd};
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

/// A UDP or Unix datagram socket, shared by the master and all generations; one generation at a time receives from it.
///
/// Who accepts connections can share the listener with another generation, since each connection then belongs to one. Datagrams of one client would be spread over
/// both. So the socket is the old generation's until the new one is committed, and moves to it then: what is in the socket's buffer is received by the new
/// one. While the two hear of it, for about a millisecond, both may receive; each datagram goes to one of them. Both may send at any time, so the old one answers what it
/// has received.
///
/// The buffer carries clients over a hand-over, as the backlog does for connections: on Linux some 250 short datagrams of UDP (`net.core.rmem_default`), and 10 of a Unix socket
/// (`net.unix.max_dgram_qlen`), unless the system or the program says otherwise. That is plenty for a commit. Where nobody receives for longer, with `overlap(false)` or after a crash, what has no
/// room is lost, as the senders of datagrams know.
///
/// A protocol that keeps connections over UDP (QUIC) has to bring the clients of the old generation to the new one itself. With a socket on all interfaces, the system chooses the
/// address that an answer comes from, and clients of IPv4 are seen as `::ffff:192.0.2.1`.
///
/// It is O_NONBLOCK, and so are all its copies: the flag belongs to the socket, not to a process. So does what connect(2) and shutdown(2) do: do not call them. The master undoes the one,
/// with the loss of what is in the socket; after the other, core asks for a restart, since only a new socket helps.
#[derive(Clone)]
pub struct DatagramSocket {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) socket: Socket,
    name: Option<String>,
    bound_to: String,
    /// Somebody had shut it down before this generation got it, so no restart brings another one.
    is_dead: bool,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) enum Socket {
    Udp(UdpSocket),
    #[cfg(unix)]
    Unix(UnixDatagram),
}

/// Who has sent a datagram, and where the answer goes.
#[derive(Debug, Clone)]
pub enum PeerAddress {
    /// Over UDP.
    Udp(SocketAddr),
    /// Over a Unix socket. One without a path cannot be answered.
    #[cfg(unix)]
    Unix(std::os::unix::net::SocketAddr),
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(address) => match address.as_pathname() {
                Some(path) => write!(f, "unixgram:{}", path.display()),
                None => f.write_str("unixgram:"),
            },
        }
    }
}

/// A datagram that was received. It counts as open work until it is dropped: the process is not ended before, within `terminate_timeout`.
#[derive(Debug)]
pub struct Datagram {
    /// How many bytes of the buffer it has taken.
    pub length: usize,
    /// Who has sent it.
    pub from: PeerAddress,
    open: Guard,
}

/// How long a socket that was shut down waits for a restart before it asks for one again.
pub(crate) const RESTART_PAUSE: Duration = Duration::from_secs(60);

impl Datagram {
    pub(crate) fn new((length, from): (usize, PeerAddress), open: Guard) -> Self {
        Self { length, from, open }
    }

    /// What it is counted as, for work that goes on without it.
    pub fn guard(&self) -> Guard {
        self.open.clone()
    }
}

impl DatagramSocket {
    pub(crate) fn new(socket: OwnedFd, address: &Address, shared: Arc<Shared>) -> Self {
        let (bound_to, is_dead) = (sockets::bound_to(socket.as_fd()), is_hung_up(socket.as_fd()));
        #[cfg(unix)]
        let socket = if sockets::is_unix(socket.as_fd()) { Socket::Unix(socket.into()) } else { Socket::Udp(socket.into()) };
        #[cfg(not(unix))]
        let socket = Socket::Udp(socket.into());
        Self { inner: Arc::new(Inner { socket, name: address.name.clone(), bound_to, is_dead, shared }) }
    }

    /// The name that the address was given, if it was.
    pub fn name(&self) -> Option<&str> {
        self.inner.name.as_deref()
    }

    /// What it is bound to: `udp:127.0.0.1:3000`, `udp:[::]:3000` or `unixgram:/run/app.sock`.
    pub fn address(&self) -> &str {
        &self.inner.bound_to
    }

    /// Receives one datagram. Blocks the thread. `None`: the drain has begun, and what comes now is the next generation's.
    ///
    /// The first call says that the program is ready, and waits until this generation is committed. What of a datagram does not fit into the buffer is lost.
    ///
    /// # Errors
    /// The socket cannot be used. Errors that belong to one datagram, or to nothing, are waited out.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let shared = &self.inner.shared;
        if !shared.begin(Intake::Datagrams) {
            return Ok(None);
        }
        loop {
            let interests = [shared.drain_descriptor(), self.as_fd()].map(|descriptor| Interest { descriptor, write: false });
            let ready = wait(&interests, None)?;
            // Counted before it is received, so that a program that returns meanwhile waits for it.
            let open = Guard::new(Arc::clone(shared));
            if shared.is_draining() {
                return Ok(None);
            }
            if !ready[1].read {
                continue;
            }
            match self.recv_now(buffer) {
                Ok(received) => return Ok(Some(Datagram::new(received, open))),
                Err(error) if is_passing(&error) => {
                    drop(open);
                    while self.is_shut_down()? && !shared.wait_for_drain(Some(RESTART_PAUSE)) {}
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether some process has shut the socket down, which ends it for all who have it. The next generation gets another one, so it is asked for.
    pub(crate) fn is_shut_down(&self) -> io::Result<bool> {
        if !is_hung_up(self.as_fd()) || self.inner.shared.is_draining() {
            return Ok(false);
        }
        if self.inner.is_dead || !self.inner.shared.has_master() {
            let why = format!("{} was shut down; restart whoever has made it: its socket unit, or the service", self.address());
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        log::error!(target: "overseer::child", "{} was shut down by somebody who has it; asking for a restart, which brings another one", self.address());
        self.inner.shared.ask(&ToMaster::Restart);
        Ok(true)
    }

    fn recv_now(&self, buffer: &mut [u8]) -> io::Result<(usize, PeerAddress)> {
        match &self.inner.socket {
            Socket::Udp(socket) => socket.recv_from(buffer).map(|(length, from)| (length, PeerAddress::Udp(from))),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.recv_from(buffer).map(|(length, from)| (length, PeerAddress::Unix(from))),
        }
    }

    /// Sends a datagram, at any time: in the warm-up and in a drain too. Answers its length.
    ///
    /// # Errors
    /// It was not sent. [`io::ErrorKind::WouldBlock`]: a Unix peer has not received what it was sent before. It is not waited for, unlike room in the
    /// system's own buffers. [`io::ErrorKind::InvalidInput`]: the peer is one of another kind of socket.
    pub fn send_to(&self, bytes: &[u8], to: &PeerAddress) -> io::Result<usize> {
        loop {
            let sent = match (&self.inner.socket, to) {
                (Socket::Udp(socket), PeerAddress::Udp(to)) => socket.send_to(bytes, to),
                #[cfg(unix)]
                (Socket::Unix(socket), PeerAddress::Unix(to)) => return socket.send_to_addr(bytes, to),
                #[cfg(unix)]
                _ => return Err(other_kind(self.address(), to)),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_room(self.as_fd())?,
                sent => return sent,
            }
        }
    }

    /// The socket on tokio, which receives with the same care. Feature `tokio`.
    ///
    /// # Errors
    /// The process has no descriptor left.
    ///
    /// # Panics
    /// Called outside a runtime, or in one without I/O.
    #[cfg(feature = "tokio")]
    pub fn to_tokio(&self) -> io::Result<crate::tokio::DatagramSocket> {
        crate::tokio::DatagramSocket::new(self.clone())
    }

    /// A copy as the standard library's type, for a server that receives by itself; once it is this generation's to receive from. Blocks the thread until then: says
    /// that the program is ready, and waits until the generation is committed. `None`: it is to leave before.
    ///
    /// `recv_from` on it answers `WouldBlock` instead of waiting, which is what event loops and asynchronous runtimes want (`mio::net::UdpSocket::from_std`). Do not call
    /// `set_nonblocking(false)` or `connect`: either would hold for all generations. Follow [`State::draining`](crate::State::draining), and do not receive once it has begun.
    ///
    /// An asynchronous program calls it where it may block (`tokio::task::spawn_blocking`): it waits for as long as the warm-up, and listeners are to be served meanwhile.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: it is a Unix socket. Else the process has no descriptor left.
    pub fn to_udp(&self) -> io::Result<Option<UdpSocket>> {
        match &self.inner.socket {
            Socket::Udp(socket) if self.inner.shared.begin(Intake::Datagrams) => socket.try_clone().map(Some),
            Socket::Udp(_) => Ok(None),
            #[cfg(unix)]
            Socket::Unix(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a UDP socket", self.address()))),
        }
    }

    /// The same for a Unix socket; see [`DatagramSocket::to_udp`]. Do not call `shutdown` on it either.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: it is a UDP socket. Else the process has no descriptor left.
    #[cfg(unix)]
    pub fn to_unix(&self) -> io::Result<Option<UnixDatagram>> {
        match &self.inner.socket {
            Socket::Unix(socket) if self.inner.shared.begin(Intake::Datagrams) => socket.try_clone().map(Some),
            Socket::Unix(_) => Ok(None),
            Socket::Udp(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a Unix socket", self.address()))),
        }
    }
}

#[cfg(unix)]
pub(crate) fn other_kind(address: &str, to: &PeerAddress) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("nothing can be sent from {address} to {to}"))
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.inner.socket {
            Socket::Udp(socket) => socket.as_fd(),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket").field("name", &self.name()).field("address", &self.address()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use std::time::Duration;

    #[test]
    fn a_program_with_datagrams_answers_them_until_the_drain_begins() {
        let (state, simulation) = State::simulated(["127.0.0.1:0", "echo=udp:127.0.0.1:0"]).expect("a state");
        let socket = state.named_datagram_socket("echo").expect("it is there");
        assert_eq!(state.addresses(), [state.listener().address(), socket.address()]);
        assert_eq!((state.listeners().len(), state.datagram_sockets().len()), (1, 1));
        let address = socket.address().strip_prefix("udp:").expect("UDP").to_owned();
        let program = std::thread::spawn(move || -> io::Result<u32> {
            let mut buffer = [0; 100];
            let mut count = 0;
            while let Some(datagram) = socket.recv_from(&mut buffer)? {
                socket.send_to(&buffer[..datagram.length], &datagram.from)?;
                count += 1;
            }
            Ok(count)
        });
        let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        for text in [&b"one"[..], b""] {
            client.send_to(text, &address).expect("sent");
            let mut answer = [0; 100];
            let length = client.recv(&mut answer).expect("it answers");
            assert_eq!(&answer[..length], text);
        }
        assert!(simulation.is_ready());
        simulation.drain(Duration::from_secs(5));
        assert_eq!(program.join().expect("no panic").expect("no error"), 2);
    }

    #[test]
    fn an_error_that_another_process_has_made_on_the_socket_is_waited_out_and_the_work_in_hand_counts() {
        let (state, simulation) = State::simulated(["udp:127.0.0.1:0"]).expect("a state");
        let socket = state.datagram_socket();
        let address = socket.address().strip_prefix("udp:").expect("UDP").to_owned();
        // As a release may do that knows no better: it connects to a port that nobody has.
        let copy = socket.to_udp().expect("no error").expect("no drain");
        let nobody = UdpSocket::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
        copy.connect(nobody).expect("connected");
        copy.send(b"hello").expect("sent");
        #[cfg(unix)]
        assert!(sockets::disconnect(socket.as_fd(), socket.address()).expect("undone"));
        UdpSocket::bind("127.0.0.1:0").expect("bound").send_to(b"hello", &address).expect("sent");
        let datagram = socket.recv_from(&mut [0; 100]).expect("no error").expect("a datagram");
        simulation.drain(Duration::from_secs(3600));
        let finish = std::thread::spawn(move || simulation.finish());
        let guard = datagram.guard();
        drop(datagram);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!finish.is_finished(), "it is open work");
        drop(guard);
        finish.join().expect("no panic");
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn two_tasks_share_a_socket_and_both_end_with_the_drain() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let (state, simulation) = State::simulated(["udp:127.0.0.1:0"]).expect("a state");
        let address = state.address().and_then(|address| address.strip_prefix("udp:")).expect("UDP").to_owned();
        let count = runtime.block_on(async move {
            let socket = Arc::new(state.datagram_socket().to_tokio().expect("registered"));
            let serve = |socket: Arc<crate::tokio::DatagramSocket>| async move {
                let (mut buffer, mut count) = ([0; 100], 0);
                while let Some(datagram) = socket.recv_from(&mut buffer).await.expect("no error") {
                    socket.send_to(&buffer[..datagram.length], &datagram.from).await.expect("sent");
                    count += 1;
                }
                count
            };
            let tasks = [tokio::spawn(serve(Arc::clone(&socket))), tokio::spawn(serve(socket))];
            let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
            for number in 0..100u8 {
                client.send_to(&[number], &address).await.expect("sent");
                let mut answer = [0; 100];
                let received = tokio::time::timeout(Duration::from_secs(10), client.recv(&mut answer)).await;
                assert_eq!((received.expect("in time").expect("received"), answer[0]), (1, number));
            }
            simulation.drain(Duration::from_secs(5));
            let mut count = 0;
            for task in tasks {
                count += task.await.expect("no panic");
            }
            count
        });
        assert_eq!(count, 100);
    }

    #[cfg(unix)]
    #[test]
    fn a_unix_datagram_socket_answers_who_has_a_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let (state, simulation) = State::simulated([format!("unixgram:{}?mode=0600", path("server").display())]).expect("a state");
        let socket = state.datagram_socket();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path("server")).expect("there").permissions()) & 0o777,
            0o600
        );
        let client = UnixDatagram::bind(path("client")).expect("bound");
        client.send_to(b"hello", path("server")).expect("sent");
        UnixDatagram::unbound().expect("a socket").send_to(b"nobody", path("server")).expect("sent");
        let mut buffer = [0; 100];
        let Datagram { length, from, .. } = socket.recv_from(&mut buffer).expect("no error").expect("a datagram");
        assert_eq!((&buffer[..length], from.to_string()), (&b"hello"[..], format!("unixgram:{}", path("client").display())));
        socket.send_to(b"you", &from).expect("sent");
        assert_eq!(client.recv(&mut buffer).expect("received"), 3);
        let from = socket.recv_from(&mut buffer).expect("no error").expect("a datagram").from;
        assert_eq!(from.to_string(), "unixgram:");
        socket.send_to(b"you", &from).expect_err("it has no path");
        let wrong = PeerAddress::Udp(([127, 0, 0, 1], 1).into());
        assert_eq!(socket.send_to(b"you", &wrong).expect_err("it is no Unix socket").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(socket.to_udp().expect_err("it is none").kind(), io::ErrorKind::InvalidInput);
        simulation.drain(Duration::from_secs(5));
        assert!(socket.recv_from(&mut buffer).expect("no error").is_none() && socket.to_unix().expect("no error").is_none());
    }
}
