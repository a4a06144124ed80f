//! What a program receives datagrams from.

use crate::address::Address;
use crate::child::{Intake, Shared};
use crate::sys::poll::{Interest, wait};
use crate::sys::sockets::{self, is_passing};
use crate::sys::{AsFd, BorrowedFd, OwnedFd};
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// A UDP or Unix datagram socket, shared by the master and all generations; one generation at a time receives from it.
///
/// Who accepts connections can share the listener with another generation, since each connection then belongs to one. Datagrams of one client would be spread over
/// both. So the socket is the old generation's until the new one is committed, and moves to it then: what is in the socket's buffer is received by the new
/// one, and nothing is lost. While the two hear of it, for less than a millisecond, both may receive; each datagram goes to one of them. Both may send at any time,
/// so the old one answers what it has received.
///
/// A protocol that keeps connections over UDP (QUIC) has to bring the clients of the old generation to the new one itself.
///
/// It is O_NONBLOCK, and so are all its copies: the flag belongs to the socket, not to a process. So does what connect(2) would do: do not call it.
#[derive(Clone)]
pub struct DatagramSocket {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) socket: Socket,
    name: Option<String>,
    bound_to: String,
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

impl DatagramSocket {
    pub(crate) fn new(socket: OwnedFd, address: &Address, shared: Arc<Shared>) -> Self {
        let bound_to = sockets::bound_to(socket.as_fd());
        #[cfg(unix)]
        let socket = if sockets::is_unix(socket.as_fd()) { Socket::Unix(socket.into()) } else { Socket::Udp(socket.into()) };
        #[cfg(not(unix))]
        let socket = Socket::Udp(socket.into());
        Self { inner: Arc::new(Inner { socket, name: address.name.clone(), bound_to, shared }) }
    }

    /// The name that the address was given, if it was.
    pub fn name(&self) -> Option<&str> {
        self.inner.name.as_deref()
    }

    /// What it is bound to: `udp:127.0.0.1:3000`, `udp:[::]:3000` or `unixgram:/run/app.sock`.
    pub fn address(&self) -> &str {
        &self.inner.bound_to
    }

    /// Receives one datagram: its length and who sent it. Blocks the thread. `None`: the drain has begun, and what comes now is the next generation's.
    ///
    /// The first call says that the program is ready, and waits until this generation is committed. What of a datagram does not fit into the buffer is lost.
    ///
    /// A datagram that is still being worked on when the drain begins does not keep the process by itself; who answers in another thread holds a
    /// [`State::guard`](crate::State::guard) meanwhile.
    ///
    /// # Errors
    /// The socket cannot be used. Errors that belong to one datagram, or to nothing, are waited out.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, PeerAddress)>> {
        let shared = &self.inner.shared;
        if !shared.begin(Intake::Datagrams) {
            return Ok(None);
        }
        loop {
            let ready = wait(&[Interest { descriptor: shared.drain_descriptor(), write: false }, self.interest(false)], None)?;
            if shared.is_draining() {
                return Ok(None);
            }
            if !ready[1].read {
                continue;
            }
            match self.recv_now(buffer) {
                Ok(received) => return Ok(Some(received)),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&[self.interest(true)], None).map(drop)?,
                sent => return sent,
            }
        }
    }

    fn interest(&self, write: bool) -> Interest<'_> {
        Interest { descriptor: self.as_fd(), write }
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
    /// `recv_from` on it answers `WouldBlock` instead of waiting, which is what asynchronous runtimes want. Do not call `set_nonblocking(false)` or `connect`: either would
    /// hold for all generations. Follow [`State::draining`](crate::State::draining), and do not receive once it has begun.
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

    /// The same for a Unix socket; see [`DatagramSocket::to_udp`].
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
            while let Some((length, from)) = socket.recv_from(&mut buffer)? {
                socket.send_to(&buffer[..length], &from)?;
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
                while let Some((length, from)) = socket.recv_from(&mut buffer).await.expect("no error") {
                    socket.send_to(&buffer[..length], &from).await.expect("sent");
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
        let (length, from) = socket.recv_from(&mut buffer).expect("no error").expect("a datagram");
        assert_eq!((&buffer[..length], from.to_string()), (&b"hello"[..], format!("unixgram:{}", path("client").display())));
        socket.send_to(b"you", &from).expect("sent");
        assert_eq!(client.recv(&mut buffer).expect("received"), 3);
        let (_, from) = socket.recv_from(&mut buffer).expect("no error").expect("a datagram");
        assert_eq!(from.to_string(), "unixgram:");
        socket.send_to(b"you", &from).expect_err("it has no path");
        let wrong = PeerAddress::Udp(([127, 0, 0, 1], 1).into());
        assert_eq!(socket.send_to(b"you", &wrong).expect_err("it is no Unix socket").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(socket.to_udp().expect_err("it is none").kind(), io::ErrorKind::InvalidInput);
        simulation.drain(Duration::from_secs(5));
        assert!(socket.recv_from(&mut buffer).expect("no error").is_none() && socket.to_unix().expect("no error").is_none());
    }
}
