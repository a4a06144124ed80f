//! What a program sees of overseer.

use crate::Error;
use crate::activation::Offers;
use crate::address::Address;
use crate::child::{Beginning, Guard, Shared, Wait};
use crate::datagram::DatagramSocket;
use crate::listener::Listener;
use crate::protocol::ToMaster;
use crate::supervisor::Settings;
use crate::sys::{AsFd, BorrowedFd, OwnedFd, sockets};
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

/// A program's view of overseer: its listeners, what it is, and the way to ask for a restart. Cheap to clone.
#[derive(Clone)]
pub struct State {
    shared: Arc<Shared>,
    listeners: Arc<[Listener]>,
    datagram_sockets: Arc<[DatagramSocket]>,
    /// What each socket is bound to.
    addresses: Arc<[String]>,
    is_enabled: bool,
}

/// A socket that the program has asked for.
pub(crate) struct Bound<'a> {
    pub(crate) socket: OwnedFd,
    pub(crate) address: &'a Address,
    /// Somebody keeps it for the next master.
    pub(crate) outlives_master: bool,
}

impl State {
    pub(crate) fn new(shared: Arc<Shared>, sockets: Vec<Bound<'_>>, is_enabled: bool) -> Self {
        let (mut listeners, mut datagram_sockets) = (Vec::new(), Vec::new());
        let addresses = sockets.iter().map(|bound| sockets::bound_to(bound.socket.as_fd())).collect();
        for Bound { socket, address, outlives_master } in sockets {
            if sockets::is_datagram(socket.as_fd()) {
                datagram_sockets.push(DatagramSocket::new(socket, address, Arc::clone(&shared)));
            } else {
                listeners.push(Listener::new(socket, address, outlives_master, Arc::clone(&shared)));
            }
        }
        // Once only: the listeners of a process are made once.
        let _ = shared.listeners.set(listeners.iter().map(Listener::closer).collect());
        Self { shared, listeners: listeners.into(), datagram_sockets: datagram_sockets.into(), addresses, is_enabled }
    }

    /// A state without a master, for the unit test of a program: the addresses are bound in this process, and the [`Simulation`] plays the master.
    /// The signals of the test are left alone, and nothing ends it at the deadline of a drain.
    ///
    /// ```
    /// use overseer_core::State;
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    ///
    /// fn program(state: State) -> std::io::Result<()> {
    ///     for connection in state.listener().incoming() {
    ///         connection?.write_all(b"hello")?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// let (state, simulation) = State::simulated(["127.0.0.1:0"])?;
    /// let address = state.addresses()[0].to_owned();
    /// let program = std::thread::spawn(move || program(state));
    /// let mut answer = String::new();
    /// std::net::TcpStream::connect(address)?.read_to_string(&mut answer)?;
    /// assert_eq!(answer, "hello");
    /// simulation.drain(Duration::from_secs(5));
    /// program.join().expect("it does not panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// An address cannot be read or bound.
    pub fn simulated<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Result<(Self, Simulation), Error> {
        let texts: Vec<String> = addresses.into_iter().map(Into::into).collect();
        let (state, shared) = Self::alone(&Address::parse_all(&texts)?, Settings::default(), true, &mut Offers::default())?;
        Ok((state, Simulation { shared }))
    }

    /// The state of a program that runs without a master, on what was passed to it and on what it binds itself.
    pub(crate) fn alone(
        addresses: &[Address],
        settings: Settings,
        is_simulated: bool,
        offers: &mut Offers,
    ) -> Result<(Self, Arc<Shared>), Error> {
        let path = std::env::current_exe().map_err(Error::system("cannot find the program's own file"))?;
        let beginning = Beginning { link: None, is_simulated, settings, generation: 1, id: None, path };
        let shared = Shared::new(beginning).map_err(Error::system("cannot make a pair of sockets"))?;
        let mut bound = |address| {
            let socket = Self::open(address, offers)?;
            Ok(Bound { socket, address, outlives_master: false })
        };
        let sockets = addresses.iter().map(&mut bound).collect::<Result<_, Error>>()?;
        Ok((Self::new(Arc::clone(&shared), sockets, false), shared))
    }

    /// The socket that was passed for the address, or one of our own.
    fn open(address: &Address, offers: &mut Offers) -> Result<OwnedFd, Error> {
        let wanted = address.wanted()?;
        let claimed = offers.claim(address, &wanted, None).transpose().map(|claimed| claimed.map(|claim| claim.socket));
        let socket = claimed.unwrap_or_else(|| sockets::open(address, &wanted));
        socket.map_err(|source| Error::Bind { address: address.to_string(), source })
    }

    /// Whether a master stands behind the program. Without one, nothing restarts or upgrades it.
    #[doc(alias = "Enabled")]
    #[doc(alias = "DisabledState")]
    pub fn enabled(&self) -> bool {
        self.is_enabled
    }

    /// The ID of the running binary: its SHA-1 in lower-case hex; empty if its file cannot be read. Computed by the first call where nobody has
    /// done it before, which takes some milliseconds.
    #[doc(alias = "ID")]
    pub fn id(&self) -> &str {
        self.shared.id.get_or_init(|| {
            let id = crate::sys::files::own_file().and_then(File::open).and_then(|mut file| crate::binary::id_of(&mut file));
            id.unwrap_or_else(|error| {
                log::warn!(target: "overseer::child", "cannot read the running binary: {error}; its ID is unknown");
                String::new()
            })
        })
    }

    /// The number of this generation, from 1.
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// When this generation started.
    #[doc(alias = "StartedAt")]
    pub fn started_at(&self) -> SystemTime {
        self.shared.started_at
    }

    /// The path of the program's file. After an upgrade it holds the file that was installed last, which need not be the running one.
    #[doc(alias = "BinPath")]
    pub fn bin_path(&self) -> &Path {
        &self.shared.path
    }

    /// The listener of the first TCP or Unix stream address.
    ///
    /// # Panics
    /// The program was configured without such an address.
    #[doc(alias = "Listener")]
    pub fn listener(&self) -> Listener {
        self.listeners.first().cloned().unwrap_or_else(|| panic!("listener() needs a TCP or Unix stream address: add Config::address"))
    }

    /// The listeners, in the order of their configured addresses; those of datagrams are not among them.
    #[doc(alias = "Listeners")]
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The listener of the address with this name (`name=:3000`).
    pub fn named(&self, name: &str) -> Option<Listener> {
        self.listeners.iter().find(|listener| listener.name() == Some(name)).cloned()
    }

    /// The socket of the first UDP or Unix datagram address.
    ///
    /// # Panics
    /// The program was configured without such an address.
    pub fn datagram_socket(&self) -> DatagramSocket {
        let first = self.datagram_sockets.first().cloned();
        first.unwrap_or_else(|| panic!("datagram_socket() needs a UDP or Unix datagram address: add Config::address"))
    }

    /// The sockets of datagrams, in the order of their configured addresses.
    pub fn datagram_sockets(&self) -> &[DatagramSocket] {
        &self.datagram_sockets
    }

    /// The socket of the UDP or Unix datagram address with this name (`name=udp::3000`).
    pub fn named_datagram_socket(&self, name: &str) -> Option<DatagramSocket> {
        self.datagram_sockets.iter().find(|socket| socket.name() == Some(name)).cloned()
    }

    /// What the first address is bound to.
    #[doc(alias = "Address")]
    pub fn address(&self) -> Option<&str> {
        self.addresses.first().map(String::as_str)
    }

    /// What each address is bound to, in the configured order: `127.0.0.1:3000`, `unix:/run/app.sock`, `udp:127.0.0.1:3000`.
    #[doc(alias = "Addresses")]
    pub fn addresses(&self) -> Vec<&str> {
        self.addresses.iter().map(String::as_str).collect()
    }

    /// Says that the program serves. [`Listener::incoming`] says it by itself; the first time counts.
    pub fn ready(&self) {
        self.shared.say_ready();
    }

    /// Asks the master to restart the program, in the way the restart signal does. Answers whether there is a master to ask.
    #[doc(alias = "Restart")]
    pub fn restart(&self) -> bool {
        self.is_enabled && self.shared.ask(&ToMaster::Restart)
    }

    /// Asks the master to look for a release now. Answers whether there is a master to ask.
    pub fn poll_now(&self) -> bool {
        self.is_enabled && self.shared.ask(&ToMaster::Poll)
    }

    /// The way to learn that this generation is to finish and leave. Starts a thread that listens to the master, and takes SIGTERM and SIGINT
    /// (`stop_signals`) where the program has no handler of its own: they begin the drain too.
    ///
    /// Long-lived connections are best closed one by one over the time that the drain has, so that their clients do not all come back at once. Each
    /// waits for a share of that time, drawn at random. The deadline can become an earlier one while it waits
    /// ([`Config::max_draining`](crate::Config::max_draining)), so it is looked at again and again:
    ///
    /// ```
    /// use overseer_core::Draining;
    /// use std::time::{Duration, Instant};
    ///
    /// /// Returns when a connection with this share (0 to 0.9) of the drain is to be closed: send its client a goodbye then.
    /// fn wait_to_close(draining: &Draining, share: f64) {
    ///     draining.wait();
    ///     let begun = Instant::now();
    ///     while let Some(deadline) = draining.deadline() {
    ///         let rest = (deadline - begun).mul_f64(share).saturating_sub(begun.elapsed());
    ///         if rest.is_zero() {
    ///             return;
    ///         }
    ///         std::thread::sleep(rest.min(Duration::from_millis(100)));
    ///     }
    /// }
    /// # let (state, simulation) = overseer_core::State::simulated([""; 0]).expect("a state");
    /// # simulation.drain(Duration::from_secs(3600));
    /// # simulation.drain(Duration::from_millis(100));
    /// # wait_to_close(&state.draining(), 0.5);
    /// ```
    #[doc(alias = "GracefulShutdown")]
    pub fn draining(&self) -> Draining {
        self.shared.attend();
        Draining::of(&self.shared)
    }

    /// Counts as open work until it is dropped: a program that returns in a drain is not ended before, within `terminate_timeout`. Clones count each.
    pub fn guard(&self) -> Guard {
        Guard::new(Arc::clone(&self.shared))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("generation", &self.shared.generation)
            .field("path", &self.shared.path)
            .field("listeners", &self.listeners)
            .field("datagram_sockets", &self.datagram_sockets)
            .field("is_enabled", &self.is_enabled)
            .finish_non_exhaustive()
    }
}

/// Tells when a generation is to finish and leave. Also a future, for any runtime, and a descriptor, for any event loop.
#[derive(Debug)]
pub struct Draining {
    wait: Wait,
    /// Where it is registered.
    #[cfg(feature = "mio")]
    pub(crate) entry: Option<crate::mio::Entry>,
}

impl Clone for Draining {
    fn clone(&self) -> Self {
        Self::of(self.wait.shared())
    }
}

impl Draining {
    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            wait: Wait::for_drain(shared),
            #[cfg(feature = "mio")]
            entry: None,
        }
    }

    #[cfg(feature = "hyper")]
    pub(crate) fn shared(&self) -> &Shared {
        self.wait.shared()
    }

    /// Waits until the drain begins. Blocks the thread.
    pub fn wait(&self) {
        self.wait.shared().wait_for_drain(None);
    }

    /// Waits until the drain begins, for `time` at most; `true` if it has begun.
    pub fn wait_timeout(&self, time: Duration) -> bool {
        self.wait.shared().wait_for_drain(Some(time))
    }

    /// Whether the drain has begun.
    pub fn begun(&self) -> bool {
        self.wait.shared().is_draining()
    }

    /// Waits until the drain has begun and no [`Connection`](crate::Connection) and no [`Guard`] is open any more, or its time is over; for any runtime.
    ///
    /// A program with threads need not call it, since [`run`](crate::run()) waits for them after it. One with an asynchronous runtime does: its tasks end with the
    /// runtime.
    pub fn finished(&self) -> impl Future<Output = ()> + Send + 'static {
        Wait::for_finish(self.wait.shared())
    }

    /// When a begun drain must be over: the process is killed then. `None` before it begins. It may become earlier, never later.
    pub fn deadline(&self) -> Option<Instant> {
        self.wait.shared().deadline()
    }
}

impl AsFd for Draining {
    /// A descriptor that becomes readable (at its end) when the drain begins, and stays so. Only to be waited for.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wait.shared().drain_descriptor()
    }
}

impl Future for Draining {
    type Output = ();

    /// A task asks again each time that it is woken for anything, so nothing is locked where it is known already that it waits.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.begun() {
            Poll::Ready(())
        } else if self.wait.knows(context.waker()) {
            Poll::Pending
        } else {
            Pin::new(&mut self.wait).poll(context)
        }
    }
}

/// Plays the master of a [`State::simulated`].
#[derive(Debug)]
pub struct Simulation {
    shared: Arc<Shared>,
}

impl Simulation {
    /// Begins the drain, as the master does when another generation has taken over.
    pub fn drain(&self, within: Duration) {
        self.shared.begin_drain(within);
    }

    /// Whether the program has said that it serves.
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Waits for the program's open connections and guards, until the deadline of the drain; as `run` does after the program has returned.
    pub fn finish(&self) {
        self.shared.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Wake, Waker};

    struct Woken(std::sync::atomic::AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_drain_wakes_who_waits_and_keeps_no_task_of_who_does_not() {
        let (state, simulation) = State::simulated([""; 0]).expect("a state");
        let woken = Arc::new(Woken(false.into()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        for _ in 0..3 {
            let mut draining = state.draining();
            assert!(Pin::new(&mut draining).poll(&mut context).is_pending());
            assert!(Pin::new(&mut draining).poll(&mut context).is_pending());
            assert_eq!(Arc::strong_count(&woken), 4, "one for the waker here, and the future's two");
        }
        assert_eq!(Arc::strong_count(&woken), 2, "each future has taken its waker along");

        let mut draining = state.draining();
        let mut other = draining.clone();
        assert!(Pin::new(&mut draining).poll(&mut context).is_pending());
        simulation.drain(Duration::MAX);
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed) && draining.begun());
        assert!(Pin::new(&mut draining).poll(&mut context).is_ready() && Pin::new(&mut other).poll(&mut context).is_ready());
        assert!(draining.wait_timeout(Duration::MAX));
    }

    #[test]
    fn a_simulated_drain_that_is_over_ends_the_program_and_not_the_test() {
        let (state, simulation) = State::simulated(["127.0.0.1:0"]).expect("a state");
        simulation.drain(Duration::ZERO);
        let _draining = state.draining();
        assert_eq!(state.listener().incoming().count(), 0);
        let threads = crate::sys::process::other_threads();
        assert!(!threads.contains(&"overseer".to_owned()), "nobody listens to signals or counts the time: {threads:?}");
        simulation.finish();
    }
}
