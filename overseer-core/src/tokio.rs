//! For programs that accept and receive on tokio. Feature `tokio`.
//!
//! ```no_run
//! use overseer_core::{Config, State, run};
//! use std::process::ExitCode;
//! use tokio::io::AsyncWriteExt;
//!
//! fn main() -> ExitCode {
//!     run(Config::new(program).address(":3000"))
//! }
//!
//! # async fn program_of_the_example(state: State) -> std::io::Result<()> {
//! let mut listener = state.listener().to_tokio()?;
//! while let Some(mut connection) = listener.accept().await? {
//!     tokio::spawn(async move { connection.write_all(b"hello\n").await });
//! }
//! // The tasks end with the runtime, so it has to live until they are done.
//! state.draining().finished().await;
//! # Ok(())
//! # }
//! # fn program(state: State) -> std::io::Result<()> {
//! #     tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(program_of_the_example(state))
//! # }
//! ```

use crate::child::{Guard, Intake, Shared, Wait};
use crate::datagram::{self, Datagram, PeerAddress};
use crate::listener::{self, CLOSED_PAUSE, NO_DESCRIPTOR_PAUSE, Remedy, Socket, Stream, on_stream};
use crate::state::Draining;
#[cfg(not(unix))]
use crate::sys::UnixStream;
use crate::sys::{AsFd, sockets};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
#[cfg(unix)]
use tokio::net::{UnixDatagram, UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

/// A listener on tokio; see [`Listener::to_tokio`](listener::Listener::to_tokio).
#[derive(Debug)]
pub struct Listener {
    of: listener::Listener,
    registered: Registered,
    draining: Draining,
}

/// A copy of the socket that the runtime waits for.
#[derive(Debug)]
enum Registered {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Registered {
    fn new(listener: &listener::Listener) -> io::Result<Self> {
        match &listener.inner.socket {
            Socket::Tcp(listener) => TcpListener::from_std(listener.try_clone()?).map(Self::Tcp),
            #[cfg(unix)]
            Socket::Unix(listener) => UnixListener::from_std(listener.try_clone()?).map(Self::Unix),
            #[cfg(not(unix))]
            Socket::Unix(listener) => match *listener {},
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream<TcpStream, UnixStream>>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, peer)| Stream::Tcp(stream, peer)),
            #[cfg(unix)]
            Self::Unix(listener) => listener.poll_accept(context).map_ok(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Listener {
    pub(crate) fn new(of: listener::Listener) -> io::Result<Self> {
        let registered = Registered::new(&of)?;
        let draining = Draining::of(&of.inner.shared);
        Ok(Self { of, registered, draining })
    }

    /// Accepts one connection. `None`: the drain has begun; who is not accepted yet is left to the next generation.
    ///
    /// The first call says that the program is ready. Errors are treated as by [`Listener::incoming`](listener::Listener::incoming). A call that is dropped has
    /// lost no connection.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub async fn accept(&mut self) -> io::Result<Option<Connection>> {
        if !begin(&self.of.inner.shared, Intake::Connections).await {
            return Ok(None);
        }
        loop {
            let Some(accepted) = self.accept_one().await else { return Ok(None) };
            let error = match accepted {
                Ok(connection) => {
                    // A connection that cannot be probed is still one.
                    let _ = connection.as_tcp().map(|stream| sockets::set_options(stream.as_fd(), &self.of.inner.options));
                    return Ok(Some(connection));
                }
                Err(error) => error,
            };
            match self.of.remedy(&error) {
                Remedy::Again => {}
                Remedy::Pause => sleep(NO_DESCRIPTOR_PAUSE).await,
                Remedy::EndOrMend if timeout(CLOSED_PAUSE, &mut self.draining).await.is_ok() => return Ok(None),
                Remedy::EndOrMend | Remedy::Fail => {
                    self.of.mend(error)?;
                    // The runtime has noted of the old copy that it is at its end, and does not forget that.
                    self.registered = Registered::new(&self.of)?;
                }
            }
        }
    }

    /// What accept(2) answers, or none when the drain begins before.
    async fn accept_one(&mut self) -> Option<io::Result<Connection>> {
        let Self { of, registered, draining } = self;
        poll_fn(|context| {
            // Counted before it is accepted, so that a program that returns meanwhile waits for it.
            let open = Guard::new(Arc::clone(&of.inner.shared));
            if Pin::new(&mut *draining).poll(context).is_ready() {
                return Poll::Ready(None);
            }
            registered.poll_accept(context).map(|accepted| Some(accepted.map(|stream| Connection { stream, _open: open })))
        })
        .await
    }

    /// What it is bound to; see [`Listener::address`](listener::Listener::address).
    pub fn address(&self) -> &str {
        self.of.address()
    }
}

/// A socket of datagrams on tokio; see [`DatagramSocket::to_tokio`](datagram::DatagramSocket::to_tokio). One that several tasks use goes into an [`Arc`].
#[derive(Debug)]
pub struct DatagramSocket {
    of: datagram::DatagramSocket,
    registered: RegisteredDatagrams,
}

/// A copy of the socket that the runtime waits for.
#[derive(Debug)]
enum RegisteredDatagrams {
    Udp(UdpSocket),
    #[cfg(unix)]
    Unix(UnixDatagram),
}

impl DatagramSocket {
    pub(crate) fn new(of: datagram::DatagramSocket) -> io::Result<Self> {
        let registered = match &of.inner.socket {
            datagram::Socket::Udp(socket) => RegisteredDatagrams::Udp(UdpSocket::from_std(socket.try_clone()?)?),
            #[cfg(unix)]
            datagram::Socket::Unix(socket) => RegisteredDatagrams::Unix(UnixDatagram::from_std(socket.try_clone()?)?),
        };
        Ok(Self { of, registered })
    }

    /// Receives one datagram. `None`: the drain has begun, and what comes now is the next generation's.
    ///
    /// The first call says that the program is ready, and waits until this generation is committed. A call that is dropped has lost no datagram. See
    /// [`DatagramSocket::recv_from`](datagram::DatagramSocket::recv_from).
    ///
    /// # Errors
    /// The socket cannot be used. Errors that belong to one datagram, or to nothing, are waited out.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let shared = &self.of.inner.shared;
        if !begin(shared, Intake::Datagrams).await {
            return Ok(None);
        }
        let mut draining = Draining::of(shared);
        loop {
            let mut readable = pin!(self.readable());
            let received = poll_fn(|context| {
                // Counted before it is received, so that a program that returns meanwhile waits for it.
                let open = Guard::new(Arc::clone(shared));
                if Pin::new(&mut draining).poll(context).is_ready() {
                    return Poll::Ready(None);
                }
                let is_readable = std::task::ready!(readable.as_mut().poll(context));
                Poll::Ready(Some(is_readable.and_then(|()| self.recv_now(buffer)).map(|received| Datagram::new(received, open))))
            });
            match received.await {
                None => return Ok(None),
                Some(Err(error)) if sockets::is_passing(&error) => {
                    while self.of.is_shut_down()? && timeout(datagram::RESTART_PAUSE, &mut draining).await.is_err() {}
                }
                Some(received) => return received.map(Some),
            }
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match &self.registered {
            RegisteredDatagrams::Udp(socket) => socket.readable().await,
            #[cfg(unix)]
            RegisteredDatagrams::Unix(socket) => socket.readable().await,
        }
    }

    fn recv_now(&self, buffer: &mut [u8]) -> io::Result<(usize, PeerAddress)> {
        match &self.registered {
            RegisteredDatagrams::Udp(socket) => socket.try_recv_from(buffer).map(|(length, from)| (length, PeerAddress::Udp(from))),
            #[cfg(unix)]
            RegisteredDatagrams::Unix(socket) => {
                socket.try_recv_from(buffer).map(|(length, from)| (length, PeerAddress::Unix(from.into())))
            }
        }
    }

    /// Sends a datagram, at any time: in the warm-up and in a drain too. Answers its length.
    ///
    /// # Errors
    /// See [`DatagramSocket::send_to`](datagram::DatagramSocket::send_to).
    pub async fn send_to(&self, bytes: &[u8], to: &PeerAddress) -> io::Result<usize> {
        match (&self.registered, to) {
            (RegisteredDatagrams::Udp(socket), PeerAddress::Udp(to)) => socket.send_to(bytes, *to).await,
            // Does not wait, for either of them.
            #[cfg(unix)]
            _ => self.of.send_to(bytes, to),
        }
    }

    /// What it is bound to; see [`DatagramSocket::address`](datagram::DatagramSocket::address).
    pub fn address(&self) -> &str {
        self.of.address()
    }
}

/// Says ready and waits until the generation may take these in; `false` if it is to leave instead.
async fn begin(shared: &Arc<Shared>, intake: Intake) -> bool {
    shared.attend();
    shared.say_ready();
    Wait::to_begin(shared, intake).await;
    !shared.is_draining()
}

/// An accepted connection. It counts as open work until it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: Stream<TcpStream, UnixStream>,
    _open: Guard,
}

impl Connection {
    /// The address of the other end; none for a Unix socket, whose other end has none.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer()
    }

    /// tokio's type, for options; none for a Unix socket.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        self.stream.as_tcp()
    }

    /// tokio's type; none for a TCP connection.
    #[cfg(unix)]
    pub fn as_unix(&self) -> Option<&UnixStream> {
        self.stream.as_unix()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut self.get_mut().stream, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(&mut self.get_mut().stream, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        on_stream!(&mut self.get_mut().stream, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut self.get_mut().stream, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut self.get_mut().stream, stream => Pin::new(stream).poll_shutdown(context))
    }
}
