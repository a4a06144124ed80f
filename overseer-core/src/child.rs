//! The program's side: what a child says to its master, hears from it, and waits for before it ends.
//!
//! No thread runs until the program asks for something that comes from outside: the first `draining()` or `incoming()` starts one, called
//! `overseer`, which reads what the master says and takes TERM and INT where the program has no handler of its own. Under a process manager's watchdog it
//! runs from the beginning, to answer pings, and takes no signals until then.

use crate::Error;
use crate::listener::Closer;
use crate::protocol::ToMaster;
use crate::supervisor::Settings;
use crate::sys::link::Link;
use crate::sys::poll::pair;
use crate::sys::{AsFd, BorrowedFd, OwnedFd};
#[cfg(unix)]
use crate::{
    protocol::{Drain, Hello, Kept, ToChild, Welcome},
    signal::Signal,
    sys::{
        link::Received,
        poll::{Interest, wait},
        process,
        signals::{Signals, take_where_default, with_signals_blocked},
    },
};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

/// A drain that may last longer than the clock can count.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Within this time, the same request of the program is one.
const ASK_PAUSE: Duration = Duration::from_millis(10);
/// How long before the master kills it a drain has to be over; a tenth of the drain at most.
const DEADLINE_LEAD: Duration = Duration::from_millis(200);
/// How often a drain looks at the clock. The clock does not say that the process was stopped, by Ctrl-Z for example; that nobody has looked does.
const LOOK: Duration = Duration::from_millis(100);
/// How often an idle connection that waits in a drain looks whether the deadline has become an earlier one.
pub(crate) const IDLE_LOOK: Duration = Duration::from_millis(500);
/// The master is not told more often how much is open.
const OPEN_PAUSE: Duration = Duration::from_secs(1);
/// A look that is so late is one after a stop.
const STOP_MIN: Duration = Duration::from_millis(500);

/// What all parts of a running program share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The way to the master; `None` where there is none.
    up: Option<Mutex<Link>>,
    /// A test plays the master: the signals of this process and its end are not ours.
    is_simulated: bool,
    pub(crate) generation: u64,
    pub(crate) id: OnceLock<String>,
    pub(crate) path: PathBuf,
    pub(crate) started_at: SystemTime,
    pub(crate) settings: Settings,
    is_ready: AtomicBool,
    /// The drain has begun. Read for each request of a server, so it is no part of what is locked; written under the lock.
    is_draining: AtomicBool,
    /// The listeners, to be closed when the master is gone: nobody accepts on them any more, and a new master is to get the addresses.
    pub(crate) listeners: OnceLock<Vec<Closer>>,
    /// Whether the thread that listens to the master could be started, once that was tried.
    listens: OnceLock<bool>,
    /// Lets the program follow drains.
    attended: Once,
    /// Readable, for ever, from the moment the drain begins: its other end is closed then.
    drain_reader: OwnedFd,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    /// The other end of the pair, until the drain begins.
    drain_writer: Option<OwnedFd>,
    /// When a begun drain has to be over.
    deadline: Option<Instant>,
    /// When somebody last looked what is left until then.
    looked: Instant,
    /// Connections and guards that are open.
    open: usize,
    /// The generation may accept.
    may_accept: bool,
    /// It is the one that serves now, so datagrams are its own.
    is_committed: bool,
    /// Of the futures that wait for the drain or for the right to accept, each under the number of its ticket.
    wakers: BTreeMap<u64, Waker>,
    /// The number of the last ticket that was given out.
    ticket: u64,
    /// What the master was asked for, and when.
    asked: Vec<(ToMaster, Instant)>,
}

/// A future that waits until something is so, and is looked at again whenever something has changed.
///
/// Its waker is forgotten when it is dropped: one that stayed would keep its whole task in memory.
#[derive(Debug)]
pub(crate) struct Wait {
    shared: Arc<Shared>,
    is_so: fn(&Inner) -> bool,
    ticket: Option<Ticket>,
}

/// Of a future that waits: the waker that is called for it, and its number.
#[derive(Debug)]
struct Ticket {
    number: u64,
    waker: Waker,
}

/// What a generation takes in from its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intake {
    /// Each belongs to the generation that accepts it, so two may accept side by side.
    Connections,
    /// They belong to one generation at a time.
    Datagrams,
}

impl Wait {
    fn until(shared: &Arc<Shared>, is_so: fn(&Inner) -> bool) -> Self {
        Self { shared: Arc::clone(shared), is_so, ticket: None }
    }

    /// Waits until the drain begins.
    pub(crate) fn for_drain(shared: &Arc<Shared>) -> Self {
        Self::until(shared, |inner| inner.drain_writer.is_none())
    }

    /// Waits for the right to take these in. A drain ends the wait too.
    #[cfg(any(feature = "mio", feature = "tokio"))]
    pub(crate) fn to_begin(shared: &Arc<Shared>, intake: Intake) -> Self {
        match intake {
            Intake::Connections => Self::until(shared, |inner| inner.may_begin(Intake::Connections) || inner.drain_writer.is_none()),
            Intake::Datagrams => Self::until(shared, |inner| inner.may_begin(Intake::Datagrams) || inner.drain_writer.is_none()),
        }
    }

    /// Waits for the end of a drain's work: nothing is open any more, or the time is over.
    pub(crate) fn for_finish(shared: &Arc<Shared>) -> Self {
        Self::until(shared, |inner| inner.deadline.is_some_and(|deadline| inner.open == 0 || deadline <= Instant::now()))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether this waker is the one that will be called.
    pub(crate) fn knows(&self, waker: &Waker) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.waker.will_wake(waker))
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { shared, is_so, ticket } = &mut *self;
        let mut inner = shared.lock();
        if is_so(&inner) {
            return Poll::Ready(());
        }
        let number = ticket.as_ref().map_or_else(
            || {
                inner.ticket += 1;
                inner.ticket
            },
            |ticket| ticket.number,
        );
        let old = inner.wakers.insert(number, context.waker().clone());
        drop(inner);
        // Outside the lock: it may drop a task, and what that has of ours.
        drop(old);
        *ticket = Some(Ticket { number, waker: context.waker().clone() });
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let waker = self.shared.lock().wakers.remove(&ticket.number);
            // Outside the lock, as above.
            drop(waker);
        }
    }
}

impl Inner {
    fn may_begin(&self, intake: Intake) -> bool {
        match intake {
            Intake::Connections => self.may_accept,
            Intake::Datagrams => self.is_committed,
        }
    }

    /// What is left of a drain. The time for which the process was stopped does not count, as it does not with the master.
    fn left(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let unseen = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        let deadline = self.deadline.as_mut()?;
        if unseen >= LOOK + STOP_MIN {
            *deadline += unseen - LOOK;
        }
        Some(deadline.saturating_duration_since(now))
    }
}

/// What a [`Shared`] is made of.
pub(crate) struct Beginning {
    pub(crate) link: Option<Link>,
    pub(crate) is_simulated: bool,
    pub(crate) settings: Settings,
    pub(crate) generation: u64,
    pub(crate) id: Option<String>,
    pub(crate) path: PathBuf,
}

impl Shared {
    pub(crate) fn new(beginning: Beginning) -> io::Result<Arc<Self>> {
        let (drain_reader, drain_writer) = pair()?;
        let is_committed = beginning.link.is_none();
        let may_accept = is_committed || beginning.settings.accept_in_warm_up;
        Ok(Arc::new(Self {
            up: beginning.link.map(Mutex::new),
            is_simulated: beginning.is_simulated,
            generation: beginning.generation,
            id: beginning.id.map(OnceLock::from).unwrap_or_default(),
            path: beginning.path,
            started_at: SystemTime::now(),
            settings: beginning.settings,
            is_ready: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            listeners: OnceLock::new(),
            listens: OnceLock::new(),
            attended: Once::new(),
            drain_reader,
            inner: Mutex::new(Inner {
                drain_writer: Some(drain_writer),
                deadline: None,
                looked: Instant::now(),
                open: 0,
                may_accept,
                is_committed,
                wakers: BTreeMap::new(),
                ticket: 0,
                asked: Vec::new(),
            }),
            changed: Condvar::new(),
        }))
    }

    /// A panic of the program in a waker leaves numbers that are whole, so the lock is used on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_master(&self) -> bool {
        self.up.is_some()
    }

    /// Tells the master something. A master that is gone is noticed by the thread that listens to it.
    pub(crate) fn tell(&self, message: &ToMaster) -> bool {
        let Some(up) = &self.up else { return false };
        let mut link = up.lock().unwrap_or_else(PoisonError::into_inner);
        link.send(message, []).inspect_err(|error| log::warn!(target: "overseer::child", "cannot tell the master: {error}")).is_ok()
    }

    /// Asks the master for something, which it need not be asked twice at once: it takes a flood of messages for a fault.
    pub(crate) fn ask(&self, message: &ToMaster) -> bool {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.asked.retain(|(_, at)| now.duration_since(*at) < ASK_PAUSE);
        if inner.asked.iter().any(|(asked, _)| asked == message) {
            return true;
        }
        inner.asked.push((message.clone(), now));
        drop(inner);
        self.tell(message)
    }

    pub(crate) fn say_ready(&self) {
        if !self.is_ready.swap(true, Ordering::AcqRel) {
            self.tell(&ToMaster::Ready);
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    /// Says ready and waits until the generation may take these in; `false` if it is to leave instead.
    pub(crate) fn begin(self: &Arc<Self>, intake: Intake) -> bool {
        self.attend();
        self.say_ready();
        let mut inner = self.lock();
        while !inner.may_begin(intake) && inner.drain_writer.is_some() {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.drain_writer.is_some()
    }

    /// As for a generation that has to wait until its master lets it accept.
    #[cfg(all(test, feature = "mio"))]
    pub(crate) fn forbid_to_accept(&self) {
        self.lock().may_accept = false;
    }

    /// The master lets the generation accept, which is the one that serves from now on.
    #[cfg(unix)]
    pub(crate) fn let_accept(&self) {
        let mut inner = self.lock();
        (inner.may_accept, inner.is_committed) = (true, true);
        drop(inner);
        self.changed.notify_all();
        self.wake();
    }

    /// Lets every future look again what it waits for. Those that go on waiting stay known.
    fn wake(&self) {
        let wakers: Vec<Waker> = self.lock().wakers.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn drain_descriptor(&self) -> BorrowedFd<'_> {
        self.drain_reader.as_fd()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    /// For how long a connection that is idle in a drain waits before it looks again, where its grace ends then, or never. `None`: it is to be closed.
    pub(crate) fn idle_rest(&self, end_of_grace: Option<Instant>) -> Option<Duration> {
        let now = Instant::now();
        let ends = end_of_grace.into_iter().chain(self.deadline());
        let rest = ends.map(|end| end.saturating_duration_since(now)).fold(IDLE_LOOK, Duration::min);
        (!rest.is_zero()).then_some(rest)
    }

    /// What is left of a drain.
    fn left(&self) -> Option<Duration> {
        self.lock().left()
    }

    /// Waits until the drain begins or the time is over; `true` if it has begun.
    pub(crate) fn wait_for_drain(&self, time: Option<Duration>) -> bool {
        // A time beyond the clock's range is for ever.
        let until = time.and_then(|time| Instant::now().checked_add(time));
        let mut inner = self.lock();
        while inner.drain_writer.is_some() {
            inner = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return false,
                Some(rest) => self.changed.wait_timeout(inner, rest).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }

    /// Begins the drain. The first one counts; a later one only makes the deadline earlier.
    pub(crate) fn begin_drain(&self, within: Duration) {
        let now = Instant::now();
        // A little before the master's, so that a program which ends at its deadline is not killed just then.
        let within = within - DEADLINE_LEAD.min(within / 10);
        let until = now.checked_add(within).unwrap_or(now + FOR_EVER);
        let mut inner = self.lock();
        if inner.deadline.is_none() {
            inner.looked = now;
        }
        inner.deadline = Some(inner.deadline.map_or(until, |deadline| deadline.min(until)));
        inner.drain_writer = None;
        self.is_draining.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        self.changed.notify_all();
        wakers.into_values().for_each(Waker::wake);
    }

    /// Lets the program follow drains: the thread that listens to the master takes the signals that mean leaving too, from the first call on.
    pub(crate) fn attend(self: &Arc<Self>) {
        if self.is_simulated {
            return;
        }
        #[cfg(unix)]
        self.attended.call_once(|| {
            if !self.listen() {
                return;
            }
            match take_where_default(&self.settings.stop_signals) {
                // From here on the master need not send SIGTERM.
                Ok(()) => {
                    self.tell(&ToMaster::Drains);
                }
                Err(error) => log::error!(target: "overseer::child", "cannot take signals: {error}; the drain will be a SIGTERM"),
            }
        });
    }

    /// The master asks for signs of life.
    #[cfg(unix)]
    pub(crate) fn answer_pings(self: &Arc<Self>) {
        self.listen();
    }

    /// Starts the thread that listens to the master, once; whether it runs.
    #[cfg(unix)]
    fn listen(self: &Arc<Self>) -> bool {
        *self.listens.get_or_init(|| {
            let shared = Arc::clone(self);
            let builder = std::thread::Builder::new().name("overseer".to_owned());
            // A signal that the program waits for with a mask is not for this thread.
            let started = Attendant::new(shared).and_then(|attendant| with_signals_blocked(|| builder.spawn(move || attendant.run()))?);
            if let Err(error) = &started {
                log::error!(target: "overseer::child", "cannot listen to the master: {error}; the drain will be a SIGTERM");
            }
            started.is_ok()
        })
    }

    /// Waits for the open connections and guards of a program that has returned in a drain, until the deadline.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        if self.is_simulated {
            // Nobody has looked before.
            inner.looked = Instant::now();
        }
        while inner.open > 0
            && let Some(left) = inner.left()
        {
            if left.is_zero() {
                let open = inner.open;
                log::warn!(target: "overseer::child", "{open} connections or guards are still open at the deadline and are cut");
                return;
            }
            inner = self.changed.wait_timeout(inner, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Counts as open work until it is dropped; see [`State::guard`](crate::State::guard).
#[derive(Debug)]
#[must_use = "the work counts as open only while the guard lives"]
pub struct Guard {
    shared: Arc<Shared>,
}

impl Guard {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        shared.lock().open += 1;
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Clone for Guard {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.open -= 1;
        let is_last = inner.open == 0;
        drop(inner);
        if is_last && self.shared.is_draining() {
            self.shared.changed.notify_all();
            self.shared.wake();
        }
    }
}

/// The thread that listens to the master and to the signals that mean leaving.
#[cfg(unix)]
struct Attendant {
    shared: Arc<Shared>,
    /// A second end of the link, for reading only.
    link: Option<Link>,
    signals: Signals,
    /// How many pieces of open work the master was told of last, and when.
    told: Option<(usize, Instant)>,
}

/// What came from the master; after all but the first the program is to leave.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Understood,
    Nonsense,
    /// There is no master any more.
    Gone,
}

#[cfg(unix)]
impl Attendant {
    fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let link = match &shared.up {
            Some(up) => Some(Link::new(up.lock().unwrap_or_else(PoisonError::into_inner).as_fd().try_clone_to_owned()?)),
            None => None,
        };
        let signals = Signals::open()?;
        Ok(Self { shared, link, signals, told: None })
    }

    fn run(mut self) {
        while let Ok(ready) = self.wait() {
            if ready[0].read {
                while let Some(arrived) = self.signals.next() {
                    log::debug!(target: "overseer::child", "got {}", arrived.signal);
                    if !self.shared.is_draining() {
                        self.shared.begin_drain(self.shared.settings.terminate_timeout);
                    }
                }
            }
            if ready.get(1).is_some_and(|link| link.read) {
                let heard = self.listen();
                if heard != Heard::Understood {
                    self.link = None;
                    self.shared.begin_drain(self.shared.settings.terminate_timeout);
                }
                // While there is a master, others may accept on them.
                if heard == Heard::Gone {
                    self.shared.listeners.get().into_iter().flatten().for_each(Closer::close);
                }
            }
            // Not at the very beginning of a drain, when those that wait to accept have not heard of it all.
            if !ready.iter().any(|ready| ready.read) {
                self.tell_open();
            }
            let is_alone = self.link.is_none();
            if self.shared.left().is_some_and(|left| left.is_zero()) {
                self.shared.wake();
                if is_alone {
                    // No master is left to do it.
                    let _ = process::kill(nix::unistd::getpid(), Signal::KILL);
                }
            }
        }
    }

    /// Tells the master how much is open in a drain, when that has changed.
    fn tell_open(&mut self) {
        if self.link.is_none() || !self.shared.is_draining() {
            return;
        }
        let (open, now) = (self.shared.lock().open, Instant::now());
        if self.told.is_none_or(|(told, at)| told != open && now.saturating_duration_since(at) >= OPEN_PAUSE) {
            self.told = Some((open, now));
            self.shared.tell(&ToMaster::Open { count: u64::try_from(open).unwrap_or(u64::MAX) });
        }
    }

    fn wait(&self) -> io::Result<Vec<crate::sys::poll::Readiness>> {
        let mut interests = vec![Interest { descriptor: self.signals.as_fd(), write: false }];
        interests.extend(self.link.as_ref().map(|link| Interest { descriptor: link.as_fd(), write: false }));
        wait(&interests, self.shared.is_draining().then_some(LOOK))
    }

    /// Takes in what the master says.
    fn listen(&mut self) -> Heard {
        let Some(link) = &mut self.link else { return Heard::Gone };
        loop {
            match link.receive() {
                Ok(Received::Message(ToChild::Drain(Drain { within_ms }), _)) => self.shared.begin_drain(Duration::from_millis(within_ms)),
                Ok(Received::Message(ToChild::Accept, _)) => {
                    self.shared.let_accept();
                }
                Ok(Received::Message(ToChild::Ping, _)) => {
                    self.shared.tell(&ToMaster::Pong);
                }
                Ok(Received::Message(ToChild::Kept(Kept { addresses }), _)) => {
                    self.shared.listeners.get().into_iter().flatten().for_each(|closer| closer.spare(&addresses));
                }
                Ok(Received::Message(ToChild::Welcome(_) | ToChild::Refused(_) | ToChild::Unknown, _) | Received::Nothing) => {}
                Ok(Received::ExecFailed(_) | Received::Ended) => {
                    log::warn!(target: "overseer::child", "the master is gone; finishing what is open");
                    return Heard::Gone;
                }
                Err(error) => {
                    log::error!(target: "overseer::child", "the master cannot be understood: {error}; finishing what is open");
                    return Heard::Nonsense;
                }
            }
            if !link.may_hold_frame() {
                return Heard::Understood;
            }
        }
    }
}

/// Says hello to the master and waits for the listeners.
///
/// # Errors
/// [`Error::Refused`]; [`Error::System`] when the master is gone or cannot be understood.
#[cfg(unix)]
pub(crate) fn say_hello(link: &mut Link, hello: Hello) -> Result<(Welcome, Vec<OwnedFd>), Error> {
    let broken = |error: crate::sys::link::LinkError| Error::system("the master cannot be understood")(io::Error::other(error));
    link.send(&ToMaster::Hello(Box::new(hello)), []).map_err(broken)?;
    loop {
        match link.receive().map_err(broken)? {
            Received::Message(ToChild::Welcome(welcome), listeners) => return Ok((welcome, listeners)),
            Received::Message(ToChild::Refused(refused), _) => {
                return Err(Error::Refused { address: refused.address, why: refused.why });
            }
            Received::Message(_, _) | Received::Nothing => {}
            Received::ExecFailed(_) | Received::Ended => {
                // Nobody waits for this process any more.
                std::process::exit(0);
            }
        }
    }
}
