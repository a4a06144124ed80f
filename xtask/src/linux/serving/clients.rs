//! Clients of every habit: some connect for each request, some keep their connections, think between two requests, say nothing for a while or ask slowly, and some send
//! datagrams.
//!
//! An open loop: requests are due when they are due, whatever became of those before, none is repeated, and a latency counts from when its request was due. Only
//! [`Habit::Busy`] is a closed one. A connection that the server closes before its client writes the next request has failed nobody: it is counted, and
//! that request gets another one. A request that was on its way when its connection was closed has failed, unless the connection had been idle for longer than
//! [`GRACE`]: that is counted apart. A silent connection that is closed before it asks has failed.
//!
//! One thread with one epoll does it all: [`connections`](super::connections) or [`datagrams`](super::datagrams).

use super::answer::Who;
use super::connections::Crowd;
use super::datagrams::Senders;
use crate::linux::load::{Failure, Sample, Tally};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// For how long a connection is kept idle in a drain: the default of `serve`.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How some of the clients behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// Each request comes on a connection of its own.
    New { per_second: u32 },
    /// The requests come on these connections in turn.
    Kept { connections: u32, per_second: u32 },
    /// Each of these connections pauses after an answer, for 10 ms to twice the grace.
    Thinking { connections: u32 },
    /// As [`Habit::New`], but every other request takes long to be answered, if the server can do that, and the rest take long to be sent.
    Slow { per_second: u32 },
    /// Each of these connections asks again as soon as it is answered.
    Busy { connections: u32 },
    /// So many, each time that [`Clients::connect_silently`] lets them come. They ask that long after the time which they are told of.
    Silent { connections: u32, ask_after: Duration },
    /// The requests are datagrams, from these sockets in turn. No other habit goes with it.
    Datagrams { sockets: u32, per_second: u32 },
}

/// What became of the clients of one habit.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) habit: Habit,
    pub(super) tally: Tally<Who>,
    /// Connections that the server closed while they were idle and nothing was on its way to it.
    pub(super) closed_idle: u64,
    /// Requests that were not answered on connections which had been idle for longer than the grace.
    pub(super) too_late: u64,
}

impl Heard {
    pub(super) fn nothing(habit: Habit) -> Self {
        Self { habit, tally: Tally { samples: Vec::new() }, closed_idle: 0, too_late: 0 }
    }
}

/// The first answer of somebody who had not answered before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer {
    pub(super) who: Who,
    pub(super) at: Instant,
}

/// Clients that keep coming, until they are stopped or dropped.
pub(super) struct Clients {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Vec<Heard>, String>>>,
    seen: usize,
}

/// What the two threads know of each other.
pub(super) struct Shared {
    told: Mutex<Told>,
    /// Can be read when the thread was told something.
    pub(super) word: EventFd,
    newcomers: Mutex<Newcomers>,
    came: Condvar,
}

#[derive(Default)]
struct Newcomers {
    known: HashSet<Who>,
    in_order: Vec<Newcomer>,
}

/// What the thread is to do.
#[derive(Default)]
pub(super) struct Told {
    pub(super) stop: bool,
    /// The times of which the silent connections are told that are to be opened at once.
    pub(super) silent: Vec<Instant>,
}

impl Clients {
    /// Lets clients of these habits come, for a server that listens already.
    pub(super) fn start(address: SocketAddr, habits: &[Habit]) -> Result<Self, String> {
        let SocketAddr::V4(address) = address else { return Err(format!("{address} is not an IPv4 address")) };
        let failed = |error: io::Error| format!("cannot start the clients: {error}");
        let shared = Arc::new(Shared::new().map_err(failed)?);
        let work = work(address, habits, Arc::clone(&shared)).map_err(failed)?;
        let thread = thread::spawn(move || work().map_err(|error| format!("the clients broke off: {error}")));
        Ok(Self { shared, thread: Some(thread), seen: 0 })
    }

    /// Waits for the next one who answers for the first time.
    pub(super) fn next_newcomer(&mut self, within: Duration) -> Result<Newcomer, String> {
        let deadline = Instant::now() + within;
        let mut newcomers = lock(&self.shared.newcomers);
        loop {
            if let Some(newcomer) = newcomers.in_order.get(self.seen) {
                self.seen += 1;
                return Ok(*newcomer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("nobody new has answered within {within:?}"));
            }
            newcomers = self.shared.came.wait_timeout(newcomers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Passes over those who have answered by now.
    pub(super) fn skip_newcomers(&mut self) {
        self.seen = lock(&self.shared.newcomers).in_order.len();
    }

    /// Opens all silent connections of its habits once. They ask as long after this time as their habit says.
    pub(super) fn connect_silently(&self, before: Instant) {
        self.tell(|told| told.silent.push(before));
    }

    /// Lets no further request be made, waits for those that are, and answers what became of all of them.
    pub(super) fn stop(mut self) -> Result<Vec<Heard>, String> {
        self.tell(|told| told.stop = true);
        self.thread.take().ok_or("the clients were stopped twice")?.join().map_err(|_| "the clients panicked")?
    }

    fn tell(&self, what: impl FnOnce(&mut Told)) {
        what(&mut lock(&self.shared.told));
        // It fails only when it has been written to for 2^64 - 1 times, and then it wakes the other side all the same.
        let _ = self.shared.word.write(1);
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.tell(|told| told.stop = true);
    }
}

/// What the thread does until it is told to stop.
type Work = Box<dyn FnOnce() -> io::Result<Vec<Heard>> + Send>;

fn work(address: SocketAddrV4, habits: &[Habit], shared: Arc<Shared>) -> io::Result<Work> {
    if let [habit @ Habit::Datagrams { sockets, per_second }] = *habits {
        let senders = Senders::new(address, habit, sockets, per_second, shared)?;
        return Ok(Box::new(move || senders.run()));
    }
    let crowd = Crowd::new(address, habits, shared)?;
    Ok(Box::new(move || crowd.run()))
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        let word = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { told: Mutex::default(), word, newcomers: Mutex::default(), came: Condvar::new() })
    }

    /// Takes what the thread was told.
    pub(super) fn take_told(&self) -> Told {
        let _ = self.word.read();
        std::mem::take(&mut *lock(&self.told))
    }

    /// Notes what became of a request.
    pub(super) fn record(&self, heard: &mut Heard, due: Instant, outcome: Result<Who, Failure>) {
        let done = Instant::now();
        if let Ok(who) = outcome {
            let mut newcomers = lock(&self.newcomers);
            if newcomers.known.insert(who) {
                newcomers.in_order.push(Newcomer { who, at: done });
                self.came.notify_all();
            }
        }
        heard.tally.samples.push(Sample { due, done, outcome });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
