//! What a program listens on.

use crate::address::{Address, Options};
use crate::child::{Guard, Intake, Shared};
use crate::sys::poll::{Interest, wait};
use crate::sys::sockets::{self, is_passing, is_shortage, is_shut_down};
use crate::sys::{AsFd, BorrowedFd, OwnedFd, UnixListener, UnixStream};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long `incoming` waits when the process has no descriptor left for a connection.
pub(crate) const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);
/// How long after a listener was closed the drain that it was closed for is heard of at the latest.
pub(crate) const CLOSED_PAUSE: Duration = Duration::from_millis(100);

/// What helps after an error of accept(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// To accept again: the error belonged to one connection, or to nothing.
    Again,
    /// To accept again in [`NO_DESCRIPTOR_PAUSE`]: the process or the system has no descriptor or memory left.
    Pause,
    /// To end if the drain is heard of within [`CLOSED_PAUSE`], else [`Listener::mend`]. The listener is closed for everybody when the program is to leave,
    /// which may be seen before the drain is heard of.
    EndOrMend,
    /// Nothing: the listener cannot be used.
    Fail,
}

/// A listening socket, shared by the master and all generations.
///
/// It is O_NONBLOCK, and so are all its copies: the flag belongs to the socket, not to a process.
#[derive(Clone)]
pub struct Listener {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) socket: Socket,
    name: Option<String>,
    bound_to: String,
    /// What is set on connections that are accepted.
    pub(crate) options: Options,
    /// Somebody keeps it for the next master.
    outlives_master: AtomicBool,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(crate) fn new(socket: OwnedFd, address: &Address, outlives_master: bool, shared: Arc<Shared>) -> Self {
        let (name, options) = (address.name.clone(), address.options.clone());
        let bound_to = sockets::bound_to(socket.as_fd());
        let socket = if sockets::is_unix(socket.as_fd()) { Socket::Unix(socket.into()) } else { Socket::Tcp(socket.into()) };
        Self { inner: Arc::new(Inner { socket, name, bound_to, options, outlives_master: outlives_master.into(), shared }) }
    }

    /// A way to close it for everybody, when the master is gone, that does not keep it open.
    pub(crate) fn closer(&self) -> Closer {
        Closer(Arc::downgrade(&self.inner))
    }

    /// The name that the address was given, if it was.
    pub fn name(&self) -> Option<&str> {
        self.inner.name.as_deref()
    }

    /// What it is bound to: `127.0.0.1:3000`, `[::]:3000` or `unix:/run/app.sock`.
    pub fn address(&self) -> &str {
        &self.inner.bound_to
    }

    /// Accepts connections until the drain begins; the accept loop of a program with threads.
    ///
    /// The first call of `next` says that the program is ready. The iterator ends when this generation is to leave; connections that nobody has accepted
    /// yet are then left to the next generation. Each [`Connection`] counts as open work until it is dropped: the process is not ended
    /// before, within `terminate_timeout`. TCP connections get keep-alive probes after 3 min of silence.
    ///
    /// Errors that belong to one connection, and the lack of descriptors or memory, are waited out and logged (target `overseer::child`); what
    /// remains and is yielded means that the listener cannot be used.
    #[doc(alias = "Listener")]
    pub fn incoming(&self) -> Incoming {
        Incoming { listener: self.clone() }
    }

    /// Accepts one connection, as [`Listener::incoming`] does. `None`: the drain has begun.
    ///
    /// # Errors
    /// The listener cannot be used; see [`Listener::incoming`].
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        let shared = &self.inner.shared;
        if !shared.begin(Intake::Connections) {
            return Ok(None);
        }
        loop {
            let interests =
                [Interest { descriptor: shared.drain_descriptor(), write: false }, Interest { descriptor: self.as_fd(), write: false }];
            let ready = wait(&interests, None)?;
            // Counted before it is accepted, so that a program that returns meanwhile waits for it.
            let open = Guard::new(Arc::clone(shared));
            if shared.is_draining() {
                return Ok(None);
            }
            if !ready[1].read {
                continue;
            }
            let error = match self.accept_now() {
                Ok(stream) => return Ok(Some(Connection { stream, open })),
                Err(error) => error,
            };
            match self.remedy(&error) {
                Remedy::Again => {}
                Remedy::Pause => {
                    wait(&interests[..1], Some(NO_DESCRIPTOR_PAUSE))?;
                }
                Remedy::EndOrMend if shared.wait_for_drain(Some(CLOSED_PAUSE)) => return Ok(None),
                Remedy::EndOrMend | Remedy::Fail => self.mend(error)?,
            }
        }
    }

    /// What helps after this error of accept(2).
    pub(crate) fn remedy(&self, error: &io::Error) -> Remedy {
        if is_passing(error) {
            Remedy::Again
        } else if is_shut_down(error) {
            Remedy::EndOrMend
        } else if is_shortage(error) {
            log::warn!(target: "overseer::child", "cannot accept on {}: {error}; trying again", self.address());
            Remedy::Pause
        } else {
            Remedy::Fail
        }
    }

    /// Listens again after a `shutdown(2)` by another generation, which ends the socket that all share. The master sees to it too, but
    /// only when that generation is ready or gone.
    pub(crate) fn mend(&self, error: io::Error) -> io::Result<()> {
        if !is_shut_down(&error) || !self.inner.shared.has_master() {
            return Err(error);
        }
        if !sockets::is_listening(self.as_fd()) {
            log::warn!(target: "overseer::child", "the listener on {} was shut down; listening again", self.address());
            sockets::listen_again(self.as_fd(), self.address(), self.inner.options.backlog)?;
        }
        Ok(())
    }

    /// What accept(2) answers, with the options of the address set and blocking.
    pub(crate) fn accept_now(&self) -> io::Result<Stream<TcpStream, UnixStream>> {
        match &self.inner.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                if sockets::ACCEPTED_DO_NOT_BLOCK {
                    stream.set_nonblocking(false)?;
                }
                // A connection that cannot be probed is still one.
                let _ = sockets::set_options(stream.as_fd(), &self.inner.options);
                Ok(Stream::Tcp(stream, peer))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                if sockets::ACCEPTED_DO_NOT_BLOCK {
                    stream.set_nonblocking(false)?;
                }
                Ok(Stream::Unix(stream))
            }
        }
    }

    /// The listener of a program on tokio, which accepts with the same care as [`Listener::incoming`]. Feature `tokio`.
    ///
    /// # Errors
    /// The process has no descriptor left.
    ///
    /// # Panics
    /// Called outside a runtime, or in one without I/O.
    #[cfg(feature = "tokio")]
    pub fn to_tokio(&self) -> io::Result<crate::tokio::Listener> {
        crate::tokio::Listener::new(self.clone())
    }

    /// The listener of a program with an event loop, which accepts with the same care as [`Listener::incoming`]. Feature `mio`.
    ///
    /// # Errors
    /// The process has no descriptor left.
    #[cfg(feature = "mio")]
    pub fn to_mio(&self) -> io::Result<crate::mio::Listener> {
        crate::mio::Listener::new(self.clone())
    }

    /// A copy as the standard library's type, for a server that accepts by itself; `None` if it is a Unix socket.
    ///
    /// `accept` on it answers `WouldBlock` instead of waiting, which is what asynchronous runtimes want (`tokio::net::TcpListener::from_std`). Do not call
    /// `set_nonblocking(false)`: it would hold for all generations at once. Call [`State::ready`](crate::State::ready) when you serve, and follow
    /// [`State::draining`](crate::State::draining) to end.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn to_tcp(&self) -> io::Result<Option<TcpListener>> {
        match &self.inner.socket {
            Socket::Tcp(listener) => listener.try_clone().map(Some),
            Socket::Unix(_) => Ok(None),
        }
    }

    /// A copy as the standard library's type; `None` if it is a TCP socket. See [`Listener::to_tcp`].
    ///
    /// # Errors
    /// The process has no descriptor left.
    #[cfg(unix)]
    pub fn to_unix(&self) -> io::Result<Option<UnixListener>> {
        match &self.inner.socket {
            Socket::Unix(listener) => listener.try_clone().map(Some),
            Socket::Tcp(_) => Ok(None),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.inner.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("name", &self.name).field("address", &self.bound_to).finish_non_exhaustive()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Closes a listener for every process that has it, unless it outlives the master; see [`sockets::give_way`].
#[derive(Debug)]
pub(crate) struct Closer(Weak<Inner>);

impl Closer {
    /// If the listener is bound to one of these, somebody keeps it for the next master.
    pub(crate) fn spare(&self, bound_to: &[String]) {
        if let Some(inner) = self.0.upgrade().filter(|inner| bound_to.contains(&inner.bound_to)) {
            inner.outlives_master.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn close(&self) {
        if let Some(inner) = self.0.upgrade().filter(|inner| !inner.outlives_master.load(Ordering::Relaxed)) {
            let _ = match &inner.socket {
                Socket::Tcp(listener) => sockets::give_way(listener.as_fd()),
                Socket::Unix(listener) => sockets::give_way(listener.as_fd()),
            };
        }
    }
}

/// The connections of a [`Listener`], until the drain begins.
#[derive(Debug)]
pub struct Incoming {
    listener: Listener,
}

impl Iterator for Incoming {
    type Item = io::Result<Connection>;

    fn next(&mut self) -> Option<Self::Item> {
        self.listener.accept().transpose()
    }
}

/// An accepted connection. It counts as open work until it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: Stream<TcpStream, UnixStream>,
    open: Guard,
}

/// What was accepted, in the two types of a runtime, and the address of who has connected over TCP.
#[derive(Debug)]
pub(crate) enum Stream<T, U> {
    Tcp(T, SocketAddr),
    Unix(U),
}

impl<T, U> Stream<T, U> {
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, peer) => Some(*peer),
            Self::Unix(_) => None,
        }
    }

    pub(crate) fn as_tcp(&self) -> Option<&T> {
        match self {
            Self::Tcp(stream, _) => Some(stream),
            Self::Unix(_) => None,
        }
    }

    #[cfg(unix)]
    pub(crate) fn as_unix(&self) -> Option<&U> {
        match self {
            Self::Unix(stream) => Some(stream),
            Self::Tcp(..) => None,
        }
    }
}

/// Calls a method of the stream, whichever it is.
macro_rules! on_stream {
    ($stream_of:expr, $stream:ident => $call:expr) => {
        match $stream_of {
            $crate::listener::Stream::Tcp($stream, _) => $call,
            #[cfg(unix)]
            $crate::listener::Stream::Unix($stream) => $call,
            #[cfg(not(unix))]
            $crate::listener::Stream::Unix(none) => match *none {},
        }
    };
}
#[cfg(any(feature = "mio", feature = "tokio"))]
pub(crate) use on_stream;

impl Connection {
    /// Waits for the client between two requests: `true` if it has written or hung up. `false` if the connection is to be closed: a drain has begun, and
    /// since then the client has been silent for `idle_grace`, or the time of the drain is over.
    ///
    /// A server that closes idle connections at once when it leaves closes some just as their clients write to them. So it answers one more request, tells the
    /// client that it was the last (`Connection: close` in HTTP/1.1), and closes then; who stays silent is closed after the grace.
    ///
    /// What a buffered reader has read already is not looked at.
    ///
    /// # Errors
    /// The system's poll(2) fails.
    pub fn wait_for_request(&self, idle_grace: Duration) -> io::Result<bool> {
        let shared = self.open.shared();
        let client = Interest { descriptor: self.as_fd(), write: false };
        let drain = Interest { descriptor: shared.drain_descriptor(), write: false };
        if wait(&[client, drain], None)?[0].read {
            return Ok(true);
        }
        let end_of_grace = Instant::now().checked_add(idle_grace);
        loop {
            let rest = shared.idle_rest(end_of_grace);
            let client = Interest { descriptor: self.as_fd(), write: false };
            let is_readable = wait(&[client], Some(rest.unwrap_or_default()))?[0].read;
            if is_readable || rest.is_none() {
                return Ok(is_readable);
            }
        }
    }

    /// The address of the other end; `None` for a Unix socket, whose other end has none.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer()
    }

    /// The standard library's type, for time-outs, shutdown and options; `None` for a Unix socket.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        self.stream.as_tcp()
    }

    /// The standard library's type; `None` for a TCP connection.
    #[cfg(unix)]
    pub fn as_unix(&self) -> Option<&UnixStream> {
        self.stream.as_unix()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        on_stream!(&self.stream, stream => stream.as_fd())
    }
}

impl Read for &Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        on_stream!(&self.stream, stream => (&*stream).read(buffer))
    }
}

impl Write for &Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        on_stream!(&self.stream, stream => (&*stream).write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}
