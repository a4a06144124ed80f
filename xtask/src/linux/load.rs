//! Clients that keep coming: an open loop with latencies that hide no pause.
//!
//! Requests are due at a fixed rate, whatever became of those before, each on a new connection, and none is repeated. A latency
//! counts from the moment at which the request was *due*, so a server that stops for a second shows as a second and not as one slow
//! answer. The clients' addresses are spread over 127.0.0.0/8, so that their ports do not run out.
//!
//! One thread with one epoll does it all, so that a thousand clients may wait at the same time.

use super::client::{self, Answer};
use hdrhistogram::Histogram;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a client waits for its answer. Longer than any pause that could be called one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Stands for the timer among the connections.
const TIMER: u64 = u64::MAX;

/// Why a client got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// Nobody listens.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the answer was whole.
    Cut,
    /// The connection was closed before its client asked.
    Closed,
    /// No answer within 10 s.
    TimedOut,
    /// No answer to a datagram within 1 s.
    Lost,
    /// Something else than the program's answer.
    Wrong,
    /// This tool could not even ask.
    NotAsked,
}

impl Failure {
    /// After a number.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Cut => "cut",
            Self::Closed => "closed before they asked",
            Self::TimedOut => "not answered in 10 s",
            Self::Lost => "lost",
            Self::Wrong => "wrong",
            Self::NotAsked => "not asked",
        }
    }
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample<W = By> {
    pub(crate) due: Instant,
    pub(crate) done: Instant,
    /// Who answered, or why nobody did.
    pub(crate) outcome: Result<W, Failure>,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) version: u32,
    pub(crate) pid: i32,
    pub(crate) generation: u64,
}

/// Clients that are coming.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    samples: Mutex<Vec<Sample>>,
    changed: Condvar,
}

impl Load {
    /// Starts `per_second` clients a second.
    pub(crate) fn start(address: SocketAddr, per_second: u32) -> Result<Self, String> {
        let SocketAddr::V4(address) = address else { return Err(format!("{address} is not an IPv4 address")) };
        let shared = Arc::new(Shared::default());
        let mut clients =
            Clients::new(address, per_second, Arc::clone(&shared)).map_err(|error| format!("cannot start the load: {error}"))?;
        let thread = thread::spawn(move || clients.run().map_err(|error| format!("the load broke off: {error}")));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits for a sample after the first `*seen` ones that `pick` has an answer for, and moves `seen` past it.
    pub(crate) fn wait_for<T>(
        &self,
        seen: &mut usize,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(&Sample) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + within;
        let mut samples = lock(&self.shared.samples);
        loop {
            while let Some(sample) = samples.get(*seen) {
                *seen += 1;
                if let Some(found) = pick(sample) {
                    return Ok(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("among the requests there was no {what} within {within:?}"));
            }
            samples = self.shared.changed.wait_timeout(samples, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many requests are over, whatever became of them.
    pub(crate) fn done(&self) -> usize {
        lock(&self.shared.samples).len()
    }

    /// Lets no further clients come, waits for those that are there, and answers what became of all of them.
    pub(crate) fn stop(mut self) -> Result<Tally, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("the load was stopped twice")?;
        thread.join().map_err(|_| "the load panicked")??;
        Ok(Tally { samples: std::mem::take(&mut lock(&self.shared.samples)) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// What became of requests, in the order in which they were done.
#[derive(Debug, Clone)]
pub(crate) struct Tally<W = By> {
    pub(crate) samples: Vec<Sample<W>>,
}

impl<W: Copy> Tally<W> {
    /// Those that were due in this time.
    pub(crate) fn due_between(&self, from: Instant, to: Instant) -> Self {
        Self { samples: self.samples.iter().filter(|sample| (from..to).contains(&sample.due)).copied().collect() }
    }

    pub(crate) fn failures(&self) -> BTreeMap<Failure, usize> {
        let mut failures = BTreeMap::new();
        for failure in self.samples.iter().filter_map(|sample| sample.outcome.err()) {
            *failures.entry(failure).or_default() += 1;
        }
        failures
    }

    pub(crate) fn failed(&self) -> usize {
        self.samples.iter().filter(|sample| sample.outcome.is_err()).count()
    }

    /// How many connections broke off after somebody may have accepted them.
    pub(crate) fn broken_off(&self) -> usize {
        let broken_off = |failure| matches!(failure, Failure::Cut | Failure::Reset);
        self.samples.iter().filter(|sample| sample.outcome.is_err_and(broken_off)).count()
    }

    /// `0`, or `3 (2 refused, 1 cut)`.
    pub(crate) fn failures_in_words(&self) -> String {
        match self.failed() {
            0 => "0".to_owned(),
            count => {
                let kinds: Vec<String> = self.failures().iter().map(|(kind, count)| format!("{count} {}", kind.in_words())).collect();
                format!("{count} ({})", kinds.join(", "))
            }
        }
    }

    /// The longest time in which no answer came, between the first answer and the last.
    pub(crate) fn longest_pause(&self) -> Duration {
        let mut longest = Duration::ZERO;
        let mut last: Option<Instant> = None;
        for sample in self.samples.iter().filter(|sample| sample.outcome.is_ok()) {
            longest = longest.max(last.map_or(Duration::ZERO, |last| sample.done.saturating_duration_since(last)));
            last = Some(sample.done);
        }
        longest
    }

    /// The latencies of the answered requests in microseconds, from when they were due.
    pub(crate) fn latencies_us(&self) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid");
        for sample in self.samples.iter().filter(|sample| sample.outcome.is_ok()) {
            histogram.saturating_record(u64::try_from((sample.done - sample.due).as_micros()).unwrap_or(u64::MAX).max(1));
        }
        histogram
    }
}

/// The thread's side.
struct Clients {
    address: SocketAddrV4,
    request: Vec<u8>,
    pause: Duration,
    shared: Arc<Shared>,
    epoll: Epoll,
    timer: TimerFd,
    /// By slot, which is what epoll knows a connection by.
    waiting: Vec<Option<Client>>,
    free: Vec<usize>,
    /// When each is given up, in order, with its slot and number.
    deadlines: VecDeque<(Instant, usize, u64)>,
    count: usize,
}

struct Client {
    number: u64,
    due: Instant,
    connection: TcpStream,
    asked: bool,
    answer: Vec<u8>,
}

impl Clients {
    fn new(address: SocketAddrV4, per_second: u32, shared: Arc<Shared>) -> io::Result<Self> {
        let pause = Duration::from_secs(1) / per_second.max(1);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        timer.set(
            Expiration::Interval(TimeSpec::nanoseconds(i64::try_from(pause.as_nanos()).unwrap_or(i64::MAX))),
            TimerSetTimeFlags::empty(),
        )?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        Ok(Self {
            address,
            request: client::request("/"),
            pause,
            shared,
            epoll,
            timer,
            waiting: Vec::new(),
            free: Vec::new(),
            deadlines: VecDeque::new(),
            count: 0,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let (begin, pause) = (Instant::now(), self.pause);
        let mut next = 0_u64;
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let stopping = self.shared.stop.load(Ordering::Relaxed);
            if stopping && self.count == 0 {
                return Ok(());
            }
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    TIMER => match self.timer.wait() {
                        Ok(()) | Err(Errno::EAGAIN) => {}
                        Err(error) => return Err(error.into()),
                    },
                    slot => self.advance(usize::try_from(slot).unwrap_or(usize::MAX)),
                }
            }
            let now = Instant::now();
            let due = |number: u64| begin + pause.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
            while due(next) <= now && !stopping {
                self.begin(next, due(next));
                next += 1;
            }
            self.give_up(now);
        }
    }

    /// Opens the connection of request `number`.
    fn begin(&mut self, number: u64, due: Instant) {
        let connection = match open(self.address, number) {
            Ok(connection) => connection,
            Err(Errno::ECONNREFUSED) => return self.record(due, Err(Failure::Refused)),
            Err(_) => return self.record(due, Err(Failure::NotAsked)),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        });
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if self.epoll.add(&connection, EpollEvent::new(interest, slot as u64)).is_err() {
            self.free.push(slot);
            return self.record(due, Err(Failure::NotAsked));
        }
        self.waiting[slot] = Some(Client { number, due, connection, asked: false, answer: Vec::new() });
        self.deadlines.push_back((due + PATIENCE, slot, number));
        self.count += 1;
    }

    /// Does for a client what can be done now.
    fn advance(&mut self, slot: usize) {
        let Some(client) = self.waiting.get_mut(slot).and_then(Option::as_mut) else { return };
        if let Some(outcome) = client.advance(&self.request) {
            let due = client.due;
            self.forget(slot);
            self.record(due, outcome);
        }
    }

    fn give_up(&mut self, now: Instant) {
        while let Some((deadline, slot, number)) = self.deadlines.front().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_front();
            let Some(client) = &self.waiting[slot] else { continue };
            if client.number == number {
                let due = client.due;
                self.forget(slot);
                self.record(due, Err(Failure::TimedOut));
            }
        }
    }

    /// Closes the connection, which takes it out of the epoll too.
    fn forget(&mut self, slot: usize) {
        self.waiting[slot] = None;
        self.free.push(slot);
        self.count -= 1;
    }

    fn record(&self, due: Instant, outcome: Result<By, Failure>) {
        lock(&self.shared.samples).push(Sample { due, done: Instant::now(), outcome });
        self.shared.changed.notify_all();
    }
}

impl Client {
    /// Asks once connected, then reads to the end of the answer. `None` until it is over.
    fn advance(&mut self, request: &[u8]) -> Option<Result<By, Failure>> {
        if !self.asked {
            // The first event says whether the connection came about; a request is far shorter than a socket's buffer.
            match self.connection.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some(Err(failure(&error))),
            }
            match self.connection.write(request) {
                Ok(count) if count == request.len() => self.asked = true,
                Ok(_) => return Some(Err(Failure::NotAsked)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return None,
                Err(error) => return Some(Err(failure(&error))),
            }
        }
        let mut buffer = [0; 4096];
        loop {
            match self.connection.read(&mut buffer) {
                Ok(0) if self.answer.is_empty() => return Some(Err(Failure::Cut)),
                Ok(0) => return Some(self.judge()),
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(failure(&error))),
            }
        }
    }

    fn judge(&self) -> Result<By, Failure> {
        match client::parse(&self.answer) {
            Ok(Answer { version, pid, generation, .. }) => Ok(By { version, pid, generation }),
            Err(_) if self.answer.starts_with(b"HTTP/1.1 200 OK\r\n") => Err(Failure::Cut),
            Err(_) => Err(Failure::Wrong),
        }
    }
}

/// 127.1.0.1 to 127.127.254.254 in turn, none of which ends in 0 or 255.
pub(super) fn source(number: u64) -> Ipv4Addr {
    let octet = |divisor: u64, modulus: u64| u8::try_from(number / divisor % modulus).unwrap_or_default();
    Ipv4Addr::new(127, 1 + octet(254 * 255, 127), octet(254, 255), 1 + octet(1, 254))
}

/// A connection that is on its way, from an address that depends on the number.
pub(super) fn open(address: SocketAddrV4, number: u64) -> Result<TcpStream, Errno> {
    let connection = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    bind(connection.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source(number), 0)))?;
    match connect(connection.as_raw_fd(), &SockaddrIn::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(connection.into()),
        Err(error) => Err(error),
    }
}

pub(super) fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Failure::Reset,
        ErrorKind::TimedOut => Failure::TimedOut,
        _ => Failure::NotAsked,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 23\r\nX-Pid: 12\r\nX-Generation: 3\r\n\r\napp#2 (abc) says hello\n";

    /// Serves each connection with what `serve` does, in turn.
    fn server(serve: impl Fn(usize, TcpStream) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || listener.incoming().flatten().enumerate().for_each(|(number, connection)| serve(number, connection)));
        address
    }

    fn answer(mut connection: TcpStream, bytes: &[u8]) {
        let mut request = [0; 1024];
        let _ = connection.read(&mut request).and_then(|_| connection.write_all(bytes));
    }

    fn run_until(load: Load, count: usize) -> Tally {
        let mut left = count;
        let enough = |_: &Sample| {
            left -= 1;
            (left == 0).then_some(())
        };
        load.wait_for(&mut 0, "request", PATIENCE, enough).expect("enough requests");
        load.stop().expect("stopped")
    }

    #[test]
    fn each_way_to_fail_is_counted_as_such() {
        let address = server(|number, connection| match number % 3 {
            0 => answer(connection, ANSWER),
            1 => answer(connection, &ANSWER[..ANSWER.len() - 5]),
            _ => answer(connection, b"HTTP/1.1 500 No\r\n\r\n"),
        });
        let tally = run_until(Load::start(address, 500).expect("started"), 90);
        let failures = tally.failures();
        let answered = tally.samples.len() - tally.failed();
        assert!(answered >= 30, "{failures:?}");
        assert!(failures.keys().eq(&[Failure::Cut, Failure::Wrong]), "{failures:?}");
        let by = tally.samples.iter().find_map(|sample| sample.outcome.ok());
        assert_eq!(by, Some(By { version: 2, pid: 12, generation: 3 }));
    }

    #[test]
    fn a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let tally = run_until(Load::start(address, 500).expect("started"), 20);
        assert!(tally.failures().keys().eq(&[Failure::Refused]), "{}", tally.failures_in_words());
        assert_eq!(tally.failed(), tally.samples.len());
    }

    #[test]
    fn a_server_that_stops_for_a_while_shows_in_every_latency_of_that_while() {
        let stop = Duration::from_millis(300);
        let address = server(move |number, connection| {
            if number == 20 {
                thread::sleep(stop);
            }
            answer(connection, ANSWER);
        });
        let tally = run_until(Load::start(address, 200).expect("started"), 150);
        assert_eq!(tally.failed(), 0, "{}", tally.failures_in_words());
        assert!(tally.longest_pause() >= stop - Duration::from_millis(20), "{:?}", tally.longest_pause());
        // 60 requests were due while it stopped, half of which waited for more than half of it.
        let slow = tally.samples.iter().filter(|sample| sample.done - sample.due > stop / 2).count();
        assert!(slow >= 20, "{slow} requests were slow");
    }
}
