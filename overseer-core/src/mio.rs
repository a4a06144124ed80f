//! For programs with an event loop of their own, on mio. Feature `mio`.
//!
//! ```no_run
//! use mio::{Events, Interest, Poll, Token};
//! use overseer_core::{Config, State, run};
//! use std::io::{self, ErrorKind, Write};
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     run(Config::new(program).address(":3000"))
//! }
//!
//! fn program(state: State) -> io::Result<()> {
//!     let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
//!     let mut listener = state.listener().to_mio()?;
//!     poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
//!     loop {
//!         poll.poll(&mut events, None)?;
//!         for event in &events {
//!             assert_eq!(event.token(), Token(0), "nothing else is registered");
//!             loop {
//!                 match listener.accept() {
//!                     // It is non-blocking, and so short an answer has room. A client that hung up is no reason to end.
//!                     Ok(Some(mut connection)) => drop(connection.write_all(b"hello\n")),
//!                     // This generation is to leave.
//!                     Ok(None) => return Ok(()),
//!                     Err(error) if error.kind() == ErrorKind::WouldBlock => break,
//!                     Err(error) => return Err(error),
//!                 }
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! A server of connections that last longer registers [`Draining`] too, to learn that it is time to finish them: the example `mio` of the repository shows how.

use crate::child::{Guard, Intake, Wait};
use crate::listener::{self, CLOSED_PAUSE, NO_DESCRIPTOR_PAUSE, Remedy, Stream, on_stream};
use crate::state::Draining;
#[cfg(not(unix))]
use crate::sys::UnixStream;
use crate::sys::poll::{Interest as Waited, pair, wait};
use crate::sys::{AsFd, BorrowedFd, OwnedFd};
use mio::event::Source;
use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// A listener in an event loop; see [`Listener::to_mio`](listener::Listener::to_mio).
///
/// Registered with [`Registry::register`] for [`Interest::READABLE`], it has one event at once, and then one for each reason to call [`Listener::accept`] again: there are new
/// connections, the generation may accept from now on, the drain has begun. As always with mio, an event comes once, so accept until the answer is
/// [`ErrorKind::WouldBlock`].
#[derive(Debug)]
pub struct Listener {
    of: listener::Listener,
    /// Until the generation may accept.
    wait: Option<(Wait, Arc<Bell>, OwnedFd)>,
    /// While it is registered.
    place: Option<Place>,
}

/// Where a listener is registered, and what for.
#[derive(Debug)]
struct Place {
    registry: Arc<Registry>,
    token: Token,
    /// The event at the beginning, by which the first connection is accepted, and so the program is ready, when its loop runs and not before.
    first: Option<Entry>,
    /// The right to accept.
    right: Option<Entry>,
    /// The socket, once the generation may accept from it.
    socket: Option<Entry>,
    _drain: Entry,
}

impl Listener {
    pub(crate) fn new(of: listener::Listener) -> io::Result<Self> {
        of.inner.shared.attend();
        let (reader, writer) = pair()?;
        let wait = Wait::to_begin(&of.inner.shared, Intake::Connections);
        Ok(Self { of, wait: Some((wait, Arc::new(Bell(Mutex::new(Some(writer)))), reader)), place: None })
    }

    /// Accepts one connection. `None`: the drain has begun; who is not accepted yet is left to the next generation, and there are no more events.
    ///
    /// The first call says that the program is ready. Where it may not accept before it is committed
    /// ([`Config::warm_up_accept`](crate::Config::warm_up_accept)), the answer is `WouldBlock` until then. Errors are treated as by
    /// [`Listener::incoming`](listener::Listener::incoming). Does not wait, but for 100 ms at most where the process has no descriptor or memory left, or another one has shut the
    /// socket down.
    ///
    /// # Errors
    /// - [`ErrorKind::WouldBlock`]: nobody waits to be accepted; an event will come.
    /// - Any other: the listener cannot be used.
    pub fn accept(&mut self) -> io::Result<Option<Connection>> {
        let shared = Arc::clone(&self.of.inner.shared);
        shared.say_ready();
        if let Some(place) = &mut self.place {
            place.first = None;
        }
        if !shared.is_draining() && !self.may_accept()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        loop {
            // Counted before it is accepted, so that a program that returns meanwhile waits for it.
            let open = Guard::new(Arc::clone(&shared));
            if shared.is_draining() {
                // The socket is the next generation's too, and its connections are to wake nobody here.
                self.place = None;
                return Ok(None);
            }
            let error = match self.accept_now() {
                Ok(stream) => return Ok(Some(Connection { stream, _open: open })),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) => error,
            };
            match self.of.remedy(&error) {
                Remedy::Again => {}
                Remedy::Pause => {
                    let drain = Waited { descriptor: shared.drain_descriptor(), write: false };
                    wait(&[drain], Some(NO_DESCRIPTOR_PAUSE))?;
                    // Those who wait have had their event, and the loop may have to close something before they can be accepted.
                    if let Some(Place { socket: Some(socket), token, .. }) = &mut self.place {
                        socket.rearm(*token)?;
                    }
                    return Err(ErrorKind::WouldBlock.into());
                }
                Remedy::EndOrMend if shared.wait_for_drain(Some(CLOSED_PAUSE)) => {}
                Remedy::EndOrMend | Remedy::Fail => {
                    self.of.mend(error)?;
                    self.listen()?;
                }
            }
        }
    }

    /// Whether the generation may accept. From then on there are events for connections.
    fn may_accept(&mut self) -> io::Result<bool> {
        let Some((wait, bell, _)) = &mut self.wait else { return Ok(true) };
        if Pin::new(wait).poll(&mut Context::from_waker(&Waker::from(Arc::clone(bell)))).is_pending() {
            return Ok(false);
        }
        self.listen()?;
        self.wait = None;
        Ok(true)
    }

    /// Has an event for those who wait, and for each who comes.
    fn listen(&mut self) -> io::Result<()> {
        if let Some(place) = &mut self.place {
            place.right = None;
            // The old one goes first: two of one file would make two events of each.
            place.socket = None;
            place.socket = Some(Entry::new(self.of.as_fd(), &place.registry, place.token)?);
        }
        Ok(())
    }

    fn accept_now(&self) -> io::Result<Stream<TcpStream, UnixStream>> {
        let stream = self.of.accept_now()?;
        on_stream!(&stream, stream => stream.set_nonblocking(true))?;
        match stream {
            Stream::Tcp(stream, peer) => Ok(Stream::Tcp(TcpStream::from_std(stream), peer)),
            #[cfg(unix)]
            Stream::Unix(stream) => Ok(Stream::Unix(UnixStream::from_std(stream))),
            #[cfg(not(unix))]
            Stream::Unix(none) => match none {},
        }
    }

    /// What it is bound to; see [`Listener::address`](listener::Listener::address).
    pub fn address(&self) -> &str {
        self.of.address()
    }
}

impl Source for Listener {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        if self.place.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let registry = Arc::new(registry.try_clone()?);
        let drain = Entry::new(self.of.inner.shared.drain_descriptor(), &registry, token)?;
        let first = Entry::new(ended()?.as_fd(), &registry, token)?;
        let right = self.wait.as_ref().map(|(_, _, rung)| Entry::new(rung.as_fd(), &registry, token)).transpose()?;
        let is_waiting = right.is_some();
        self.place = Some(Place { registry, token, first: Some(first), right, socket: None, _drain: drain });
        if is_waiting { Ok(()) } else { self.listen() }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        self.place = None;
        self.register(registry, token, interest)
    }

    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        self.place = None;
        Ok(())
    }
}

/// Readable (at its end) from the beginning.
fn ended() -> io::Result<OwnedFd> {
    pair().map(|(reader, _)| reader)
}

/// Makes the other end of a pair readable, for ever, when what is waited for has come.
#[derive(Debug)]
struct Bell(Mutex<Option<OwnedFd>>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// There is one event for the beginning of the drain; one that is registered after that has it at once.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # let (state, simulation) = overseer_core::State::simulated([""; 0]).expect("a state");
/// # let (mut poll, mut events) = (mio::Poll::new()?, mio::Events::with_capacity(4));
/// let mut draining = state.draining();
/// poll.registry().register(&mut draining, mio::Token(1), mio::Interest::READABLE)?;
/// # simulation.drain(std::time::Duration::from_secs(5));
/// poll.poll(&mut events, None)?;
/// assert!(events.iter().any(|event| event.token() == mio::Token(1)) && draining.begun());
/// # Ok(())
/// # }
/// ```
impl Source for Draining {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        if self.entry.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.entry = Some(Entry::new(self.as_fd(), &Arc::new(registry.try_clone()?), token)?);
        Ok(())
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        self.entry = None;
        self.register(registry, token, interest)
    }

    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        self.entry = None;
        Ok(())
    }
}

/// A file in an event loop, which is taken out of it when this is dropped. Others have the file too, so that closing it would leave it there.
#[derive(Debug)]
pub(crate) struct Entry {
    /// A copy of our own: a loop knows what is in it by the number of the descriptor, and whoever is registered twice has two of these.
    #[cfg(unix)]
    descriptor: OwnedFd,
    /// All that we wait for are sockets there, and a loop waits for every kind in the same way.
    #[cfg(not(unix))]
    descriptor: TcpStream,
    registry: Arc<Registry>,
}

impl Entry {
    fn new(descriptor: BorrowedFd<'_>, registry: &Arc<Registry>, token: Token) -> io::Result<Self> {
        let descriptor = descriptor.try_clone_to_owned()?;
        #[cfg(not(unix))]
        let descriptor = TcpStream::from_std(descriptor.into());
        let mut entry = Self { descriptor, registry: Arc::clone(registry) };
        entry.with_source(|registry, source| registry.register(source, token, Interest::READABLE))?;
        Ok(entry)
    }

    /// Has the event that was had already once more.
    fn rearm(&mut self, token: Token) -> io::Result<()> {
        self.with_source(|registry, source| registry.reregister(source, token, Interest::READABLE))
    }

    #[cfg(unix)]
    fn with_source<T>(&mut self, act: impl FnOnce(&Registry, &mut mio::unix::SourceFd<'_>) -> T) -> T {
        act(&self.registry, &mut mio::unix::SourceFd(&std::os::fd::AsRawFd::as_raw_fd(&self.descriptor)))
    }

    #[cfg(not(unix))]
    fn with_source<T>(&mut self, act: impl FnOnce(&Registry, &mut TcpStream) -> T) -> T {
        act(&self.registry, &mut self.descriptor)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // It fails for one that could not be registered.
        let _ = self.with_source(|registry, source| registry.deregister(source));
    }
}

/// An accepted connection, to be registered in the event loop and read and written without waiting. It counts as open work until it is dropped.
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

    /// mio's type, for options; none for a Unix socket.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        self.stream.as_tcp()
    }

    /// mio's type; none for a TCP connection.
    #[cfg(unix)]
    pub fn as_unix(&self) -> Option<&UnixStream> {
        self.stream.as_unix()
    }
}

impl Source for Connection {
    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        on_stream!(&mut self.stream, stream => registry.register(stream, token, interest))
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        on_stream!(&mut self.stream, stream => registry.reregister(stream, token, interest))
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        on_stream!(&mut self.stream, stream => registry.deregister(stream))
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

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        on_stream!(&self.stream, stream => (&*stream).write_vectored(slices))
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

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        on_stream!(&self.stream, stream => stream.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use mio::{Events, Poll};
    use std::time::Duration;

    const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

    fn event_loop() -> (Poll, Events) {
        (Poll::new().expect("a loop"), Events::with_capacity(16))
    }

    /// The tokens of the events that come before the time is over.
    fn tokens(poll: &mut Poll, events: &mut Events, time: Option<Duration>) -> Vec<usize> {
        poll.poll(events, time).expect("polled");
        assert!(events.iter().all(mio::event::Event::is_readable), "as programs look for: {events:?}");
        events.iter().map(|event| event.token().0).collect()
    }

    fn would_block(accepted: io::Result<Option<Connection>>) -> bool {
        accepted.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn register(poll: &Poll, source: &mut impl Source, token: usize) {
        poll.registry().register(source, Token(token), Interest::READABLE).expect("registered");
    }

    #[test]
    fn a_program_is_ready_when_its_loop_runs_and_has_an_event_for_each_reason_to_accept() {
        let (state, simulation) = State::simulated(["127.0.0.1:0"]).expect("a state");
        let (mut poll, mut events) = event_loop();
        let mut listener = state.listener().to_mio().expect("a listener");
        register(&poll, &mut listener, 7);
        assert!(!simulation.is_ready());
        assert!(tokens(&mut poll, &mut events, PATIENCE).contains(&7));
        assert!(would_block(listener.accept()) && simulation.is_ready());
        assert_eq!(tokens(&mut poll, &mut events, Some(Duration::ZERO)), [0_usize; 0]);

        let _client = std::net::TcpStream::connect(listener.address()).expect("connected");
        assert_eq!(tokens(&mut poll, &mut events, PATIENCE), [7]);
        let connection = listener.accept().expect("accepted").expect("no drain");
        assert!(would_block(listener.accept()));

        simulation.drain(Duration::from_secs(10));
        assert_eq!(tokens(&mut poll, &mut events, PATIENCE), [7]);
        assert!(listener.accept().expect("over").is_none());
        let _waits = std::net::TcpStream::connect(listener.address()).expect("connected");
        assert_eq!(
            tokens(&mut poll, &mut events, Some(Duration::from_millis(50))),
            [0_usize; 0],
            "another generation's connections wake nobody"
        );
        let finish = std::thread::spawn(move || simulation.finish());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!finish.is_finished(), "the connection is open work");
        drop(connection);
        finish.join().expect("no panic");
    }

    #[cfg(unix)]
    #[test]
    fn who_may_not_accept_yet_is_ready_has_no_event_for_a_client_and_one_when_it_may_or_is_to_leave() {
        for is_to_leave in [false, true] {
            let (state, simulation) = State::simulated(["127.0.0.1:0"]).expect("a state");
            let shared = Arc::clone(&state.listener().inner.shared);
            shared.forbid_to_accept();
            let (mut poll, mut events) = event_loop();
            let mut listener = state.listener().to_mio().expect("a listener");
            register(&poll, &mut listener, 1);
            assert_eq!(tokens(&mut poll, &mut events, PATIENCE), [1]);
            assert!(would_block(listener.accept()) && simulation.is_ready());
            let _client = std::net::TcpStream::connect(listener.address()).expect("connected");
            assert_eq!(tokens(&mut poll, &mut events, Some(Duration::from_millis(50))), [0_usize; 0]);
            poll.registry().reregister(&mut listener, Token(2), Interest::READABLE).expect("registered");
            assert_eq!(tokens(&mut poll, &mut events, PATIENCE), [2]);
            assert!(would_block(listener.accept()));
            if is_to_leave {
                simulation.drain(Duration::from_secs(10));
            } else {
                shared.let_accept();
            }
            assert!(tokens(&mut poll, &mut events, PATIENCE).contains(&2));
            assert_eq!(listener.accept().expect("no error").is_none(), is_to_leave);
        }
    }

    #[test]
    fn a_drain_is_an_event_also_for_those_that_come_later_and_not_for_those_that_are_gone() {
        let (state, simulation) = State::simulated([""; 0]).expect("a state");
        let (mut poll, mut events) = event_loop();
        let (mut first, mut second, mut gone) = (state.draining(), state.draining(), state.draining());
        register(&poll, &mut first, 1);
        register(&poll, &mut second, 2);
        register(&poll, &mut gone, 3);
        assert!(poll.registry().register(&mut second, Token(4), Interest::READABLE).is_err());
        drop(gone);
        assert_eq!(tokens(&mut poll, &mut events, Some(Duration::ZERO)), [0_usize; 0]);
        simulation.drain(Duration::from_secs(10));
        let mut came = tokens(&mut poll, &mut events, PATIENCE);
        came.sort_unstable();
        assert_eq!(came, [1, 2]);
        let mut late = first.clone();
        register(&poll, &mut late, 5);
        assert_eq!(tokens(&mut poll, &mut events, PATIENCE), [5]);
        poll.registry().reregister(&mut late, Token(6), Interest::READABLE).expect("registered");
        assert_eq!(tokens(&mut poll, &mut events, PATIENCE), [6]);
        poll.registry().deregister(&mut late).expect("deregistered");
        assert_eq!(tokens(&mut poll, &mut events, Some(Duration::ZERO)), [0_usize; 0]);
    }

    #[test]
    fn a_listener_that_is_dropped_leaves_nothing_in_the_loop() {
        let (state, _simulation) = State::simulated(["127.0.0.1:0"]).expect("a state");
        let (mut poll, mut events) = event_loop();
        let mut listener = state.listener().to_mio().expect("a listener");
        register(&poll, &mut listener, 1);
        assert!(would_block(listener.accept()));
        drop(listener);
        let _client = std::net::TcpStream::connect(state.addresses()[0]).expect("connected");
        assert_eq!(tokens(&mut poll, &mut events, Some(Duration::from_millis(50))), [0_usize; 0]);
        let mut another = state.listener().to_mio().expect("a listener");
        register(&poll, &mut another, 2);
        assert!(tokens(&mut poll, &mut events, PATIENCE).contains(&2));
        assert!(another.accept().expect("accepted").is_some());
    }
}
