//! Clients that ask over TCP: the thread's side of [`clients`](super::clients).

use super::answer::{self, Who};
use super::clients::{GRACE, Habit, Heard, Shared, Told};
use crate::linux::load::{self, Failure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The shortest and the longest pause of a client that thinks.
const THINKS: [Duration; 2] = [Duration::from_millis(10), GRACE.saturating_mul(2)];
/// How long a slow request takes to be answered, or to be sent.
const SLOW: Duration = Duration::from_millis(1500);
/// How long a client waits for its answer. Longer than any pause that could be called one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Stand for the timer and for a word of the other thread among the connections.
const TIMER: u64 = u64::MAX;
const WORD: u64 = u64::MAX - 1;

/// All of them.
pub(super) struct Crowd {
    address: SocketAddrV4,
    shared: Arc<Shared>,
    heard: Vec<Heard>,
    epoll: Epoll,
    timer: TimerFd,
    to_do: BinaryHeap<Reverse<(Instant, ToDo)>>,
    /// By slot, which is what epoll knows a client by.
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    /// Clients, and the connections that they open, so far.
    count: u64,
    /// Requests that are neither answered nor failed.
    asking: usize,
    stopping: bool,
    random: u64,
}

/// What is to be done at some time. A client is known by slot and number, since its slot may be another's by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ToDo {
    /// The next client of this habit comes, the one of this number.
    Come {
        habit: usize,
        number: u32,
    },
    /// The next request on connections that are kept is due.
    Turn {
        habit: usize,
        first_slot: usize,
        number: u32,
    },
    Ask {
        slot: usize,
        client: u64,
    },
    /// The rest of a request that is sent slowly.
    SendRest {
        slot: usize,
        client: u64,
    },
    GiveUp {
        slot: usize,
        client: u64,
        request: u64,
    },
}

struct Client {
    number: u64,
    habit: usize,
    connection: Option<TcpStream>,
    /// Whether it comes back after an answer.
    stays: bool,
    /// How many of its requests were begun.
    requests: u64,
    request: Option<Request>,
    /// When those are due that wait for the one before.
    waiting: VecDeque<Instant>,
    /// When it is going to ask, if it is a silent one that has not.
    asks_at: Option<Instant>,
    idle_since: Instant,
    answer: Vec<u8>,
}

struct Request {
    due: Instant,
    /// What is still to be written, and if not all of it at once, how much of it.
    rest: &'static [u8],
    first_part: Option<usize>,
    /// Whether any of it was.
    is_begun: bool,
    was_idle_for: Duration,
}

const KEPT: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const ONE: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
/// Names [`SLOW`].
const ANSWERED_SLOWLY: &[u8] = b"GET /?d=1500 HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

impl Crowd {
    pub(super) fn new(address: SocketAddrV4, habits: &[Habit], shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        epoll.add(&shared.word, EpollEvent::new(EpollFlags::EPOLLIN, WORD))?;
        Ok(Self {
            address,
            shared,
            heard: habits.iter().copied().map(Heard::nothing).collect(),
            epoll,
            timer,
            to_do: BinaryHeap::new(),
            clients: Vec::new(),
            free: Vec::new(),
            count: 0,
            asking: 0,
            stopping: false,
            random: 0x9E37_79B9_7F4A_7C15,
        })
    }

    /// Lets them come until they are told to stop, and none waits for an answer any more.
    pub(super) fn run(mut self) -> io::Result<Vec<Heard>> {
        self.begin();
        let mut events = [EpollEvent::empty(); 256];
        let mut wakes_at = None;
        while !self.stopping || self.asking > 0 {
            let next = self.to_do.peek().map(|Reverse((at, _))| *at);
            if next != wakes_at {
                self.wake_at(next)?;
                wakes_at = next;
            }
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    TIMER => {
                        wakes_at = None;
                        match self.timer.wait() {
                            Ok(()) | Err(Errno::EAGAIN) => {}
                            Err(error) => return Err(error.into()),
                        }
                    }
                    WORD => self.listen(),
                    slot => self.advance(usize::try_from(slot).unwrap_or(usize::MAX)),
                }
            }
            let now = Instant::now();
            while let Some(Reverse((at, _))) = self.to_do.peek()
                && *at <= now
            {
                if let Some(Reverse((at, what))) = self.to_do.pop() {
                    self.act(at, what);
                }
            }
        }
        Ok(self.heard)
    }

    /// Lets the first client of each habit come, or all that there are.
    fn begin(&mut self) {
        let now = Instant::now();
        for habit in 0..self.heard.len() {
            match self.heard[habit].habit {
                Habit::New { .. } | Habit::Slow { .. } => self.later(now, ToDo::Come { habit, number: 0 }),
                Habit::Kept { connections, .. } => {
                    let first_slot = self.clients.len();
                    for _ in 0..connections {
                        // No client has left yet, so the slots follow each other.
                        self.add(habit, true);
                    }
                    self.later(now, ToDo::Turn { habit, first_slot, number: 0 });
                }
                Habit::Thinking { connections } | Habit::Busy { connections } => {
                    for _ in 0..connections {
                        let slot = self.add(habit, true);
                        self.ask(slot, now);
                    }
                }
                // Datagrams are sent by somebody else.
                Habit::Silent { .. } | Habit::Datagrams { .. } => {}
            }
        }
    }

    /// Takes notice of what the other thread wants.
    fn listen(&mut self) {
        let Told { stop, silent } = self.shared.take_told();
        self.stopping |= stop;
        for before in silent {
            for habit in 0..self.heard.len() {
                if let Habit::Silent { connections, ask_after } = self.heard[habit].habit {
                    (0..connections).for_each(|_| self.connect_silently(habit, before + ask_after));
                }
            }
        }
    }

    fn connect_silently(&mut self, habit: usize, ask_at: Instant) {
        let slot = self.add(habit, false);
        let client = self.count;
        match self.connect(slot) {
            Ok(()) => {
                // Awaited also when no more are to come.
                self.asking += 1;
                if let Some(silent) = &mut self.clients[slot] {
                    silent.asks_at = Some(ask_at);
                }
                self.later(ask_at, ToDo::Ask { slot, client });
            }
            Err(failure) => {
                self.record(habit, ask_at, Err(failure));
                self.forget(slot);
            }
        }
    }

    fn act(&mut self, at: Instant, what: ToDo) {
        let after = |per_second: u32| Duration::from_secs(1) / per_second.max(1);
        match what {
            ToDo::Come { .. } | ToDo::Turn { .. } if self.stopping => {}
            ToDo::Come { habit, number } => {
                if let Habit::New { per_second } | Habit::Slow { per_second } = self.heard[habit].habit {
                    self.later(at + after(per_second), ToDo::Come { habit, number: number.wrapping_add(1) });
                }
                let slot = self.add(habit, false);
                self.ask(slot, at);
            }
            ToDo::Turn { habit, first_slot, number } => {
                let Habit::Kept { connections, per_second } = self.heard[habit].habit else { return };
                self.later(at + after(per_second), ToDo::Turn { habit, first_slot, number: number.wrapping_add(1) });
                self.ask(first_slot + number as usize % connections.max(1) as usize, at);
            }
            ToDo::Ask { slot, client } => {
                let Some(found) = self.client(slot, client) else { return };
                if found.stays && self.stopping {
                    return;
                }
                self.ask(slot, at);
            }
            ToDo::SendRest { slot, client } => {
                let Some(found) = self.client(slot, client) else { return };
                if let Some(request) = &mut found.request {
                    request.first_part = None;
                }
                self.advance(slot);
            }
            ToDo::GiveUp { slot, client, request } => {
                let Some(found) = self.client(slot, client) else { return };
                if found.request.is_some() && found.requests == request {
                    self.done(slot, Err(Failure::TimedOut));
                }
            }
        }
    }

    fn later(&mut self, at: Instant, what: ToDo) {
        self.to_do.push(Reverse((at, what)));
    }

    fn wake_at(&self, at: Option<Instant>) -> io::Result<()> {
        let Some(at) = at else { return Ok(self.timer.unset()?) };
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let left = TimeSpec::nanoseconds(i64::try_from(left.as_nanos()).unwrap_or(i64::MAX));
        Ok(self.timer.set(Expiration::OneShot(left), TimerSetTimeFlags::empty())?)
    }

    /// The client, unless it has left.
    fn client(&mut self, slot: usize, number: u64) -> Option<&mut Client> {
        self.clients.get_mut(slot)?.as_mut().filter(|client| client.number == number)
    }

    fn add(&mut self, habit: usize, stays: bool) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        self.count += 1;
        self.clients[slot] = Some(Client {
            number: self.count,
            habit,
            connection: None,
            stays,
            requests: 0,
            request: None,
            waiting: VecDeque::new(),
            asks_at: None,
            idle_since: Instant::now(),
            answer: Vec::new(),
        });
        slot
    }

    /// Closes its connection, which takes it out of the epoll too.
    fn forget(&mut self, slot: usize) {
        self.clients[slot] = None;
        self.free.push(slot);
    }

    fn connect(&mut self, slot: usize) -> Result<(), Failure> {
        self.count += 1;
        let connection = load::open(self.address, self.count).map_err(|error| match error {
            Errno::ECONNREFUSED => Failure::Refused,
            _ => Failure::NotAsked,
        })?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(&connection, EpollEvent::new(interest, slot as u64)).map_err(|_| Failure::NotAsked)?;
        if let Some(client) = &mut self.clients[slot] {
            client.connection = Some(connection);
            client.idle_since = Instant::now();
        }
        Ok(())
    }

    /// The request of a client is due.
    fn ask(&mut self, slot: usize, due: Instant) {
        // What the server has closed by now is not written to.
        self.advance(slot);
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return };
        if client.request.is_some() {
            client.waiting.push_back(due);
            return;
        }
        if client.asks_at.take().is_some() {
            // It was awaited since it was opened.
            self.asking -= 1;
        }
        client.requests += 1;
        let (rest, first_part) = match self.heard[client.habit].habit {
            Habit::Kept { .. } | Habit::Thinking { .. } | Habit::Busy { .. } => (KEPT, None),
            Habit::Slow { .. } if client.number % 2 == 0 => (ANSWERED_SLOWLY, None),
            Habit::Slow { .. } => (ONE, Some(ONE.len() / 2)),
            Habit::New { .. } | Habit::Silent { .. } | Habit::Datagrams { .. } => (ONE, None),
        };
        let was_idle_for = client.connection.as_ref().map_or(Duration::ZERO, |_| client.idle_since.elapsed());
        client.request = Some(Request { due, rest, first_part, is_begun: false, was_idle_for });
        let (number, request, is_connected) = (client.number, client.requests, client.connection.is_some());
        self.asking += 1;
        if first_part.is_some() {
            self.later(due + SLOW, ToDo::SendRest { slot, client: number });
        }
        self.later(due + PATIENCE, ToDo::GiveUp { slot, client: number, request });
        if !is_connected && let Err(failure) = self.connect(slot) {
            return self.done(slot, Err(failure));
        }
        self.advance(slot);
    }

    /// Does for a client what can be done now.
    fn advance(&mut self, slot: usize) {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return };
        let Some(connection) = &mut client.connection else { return };
        if client.request.is_none() {
            // It says nothing, so there is nothing to be read but its end.
            let failure = match connection.read(&mut [0]) {
                Err(error) if is_passing(&error) => return,
                Err(error) => load::failure(&error),
                Ok(_) => Failure::Closed,
            };
            client.connection = None;
            let habit = client.habit;
            match client.asks_at {
                Some(due) => {
                    self.asking -= 1;
                    self.record(habit, due, Err(failure));
                    self.forget(slot);
                }
                None => self.heard[habit].closed_idle += 1,
            }
            return;
        }
        if let Some(outcome) = client.advance() {
            self.done(slot, outcome);
        }
    }

    /// The request of a client is over.
    fn done(&mut self, slot: usize, outcome: Result<answer::Answer, Failure>) {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return };
        let Some(request) = client.request.take() else { return };
        let (habit, number, stays) = (client.habit, client.number, client.stays);
        client.answer.clear();
        client.idle_since = Instant::now();
        if !outcome.is_ok_and(|answer| !answer.is_last) {
            client.connection = None;
        }
        let next = client.waiting.pop_front();
        self.asking -= 1;
        if matches!(outcome, Err(Failure::Cut | Failure::Reset)) && request.was_idle_for >= GRACE {
            self.heard[habit].too_late += 1;
        } else {
            self.record(habit, request.due, outcome.map(|answer| answer.who));
        }
        if !stays {
            return self.forget(slot);
        }
        if self.stopping {
            return;
        }
        match self.heard[habit].habit {
            Habit::Thinking { .. } => {
                let pause = self.think();
                self.later(Instant::now() + pause, ToDo::Ask { slot, client: number });
            }
            // Not from in here, as that would go ever deeper.
            Habit::Busy { .. } => self.later(Instant::now(), ToDo::Ask { slot, client: number }),
            _ => {
                if let Some(due) = next {
                    self.ask(slot, due);
                }
            }
        }
    }

    fn record(&mut self, habit: usize, due: Instant, outcome: Result<Who, Failure>) {
        self.shared.record(&mut self.heard[habit], due, outcome);
    }

    /// A pause, as likely from 10 to 20 ms as from 5 to 10 s.
    fn think(&mut self) -> Duration {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        let [shortest, longest] = THINKS;
        shortest.mul_f64((longest.as_secs_f64() / shortest.as_secs_f64()).powf(part))
    }
}

impl Client {
    /// Writes what is to be written, then reads to the end of the answer. `None` until it is over.
    fn advance(&mut self) -> Option<Result<answer::Answer, Failure>> {
        let (connection, request) = (self.connection.as_mut()?, self.request.as_mut()?);
        let rest = &request.rest[..request.first_part.unwrap_or(request.rest.len())];
        if !rest.is_empty() {
            // The first event says whether the connection came about; a request is far shorter than a socket's buffer.
            match connection.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some(Err(load::failure(&error))),
            }
            match connection.write(rest) {
                Ok(count) => {
                    request.rest = &request.rest[count..];
                    request.first_part = request.first_part.map(|first_part| first_part - count);
                    request.is_begun = true;
                }
                Err(error) if is_passing(&error) || error.kind() == ErrorKind::NotConnected => return None,
                Err(error) => return Some(Err(load::failure(&error))),
            }
        }
        if !request.is_begun {
            return None;
        }
        let mut buffer = [0; 4096];
        loop {
            match connection.read(&mut buffer) {
                Ok(0) => return Some(Err(Failure::Cut)),
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Err(load::failure(&error))),
            }
            match answer::read(&self.answer) {
                Ok(None) => {}
                Ok(Some(answer)) if answer.length == self.answer.len() => return Some(Ok(answer)),
                Ok(Some(_)) | Err(_) => return Some(Err(Failure::Wrong)),
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::super::clients::Clients;
    use super::*;
    use std::net::{SocketAddr, TcpListener};
    use std::thread;

    /// Handles each connection in a thread of its own, by its number.
    fn server(serve: impl Fn(usize, TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for (number, connection) in listener.incoming().flatten().enumerate() {
                thread::spawn(move || serve(number, connection));
            }
        });
        address
    }

    /// Answers this many requests on a connection, whatever they are; the last one does not say so.
    fn answer(mut connection: &TcpStream, who: usize, requests: usize) {
        let mut bytes = Vec::new();
        for _ in 0..requests {
            while !bytes.ends_with(b"\r\n\r\n") {
                let mut block = [0; 1024];
                match connection.read(&mut block) {
                    Ok(count @ 1..) => bytes.extend_from_slice(&block[..count]),
                    _ => return,
                }
            }
            bytes.clear();
            let _ = write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Pid: {who}\r\n\r\nhello\n");
        }
    }

    /// Lets clients come until `count` different ones have answered.
    fn run(address: SocketAddr, habit: Habit, count: usize) -> Heard {
        let mut clients = Clients::start(address, &[habit]).expect("started");
        for _ in 0..count {
            clients.next_newcomer(PATIENCE).expect("enough answers");
        }
        clients.stop().expect("stopped").remove(0)
    }

    #[test]
    fn each_request_on_a_connection_of_its_own_is_answered_by_another_one() {
        let address = server(|number, connection| answer(&connection, number, 1));
        let heard = run(address, Habit::New { per_second: 500 }, 50);
        assert!(heard.tally.samples.len() >= 50);
        assert_eq!((heard.tally.failed(), heard.closed_idle), (0, 0), "{}", heard.tally.failures_in_words());
    }

    #[test]
    fn a_connection_that_is_closed_while_its_client_waits_fails_nobody() {
        let address = server(|number, connection| answer(&connection, number, 2));
        let heard = run(address, Habit::Kept { connections: 4, per_second: 200 }, 20);
        assert_eq!(heard.tally.failed(), 0, "{}", heard.tally.failures_in_words());
        assert!(heard.closed_idle >= 16, "{}", heard.closed_idle);
    }

    #[test]
    fn a_connection_that_is_closed_with_a_request_on_it_has_failed_it() {
        // It hears the second request, and closes.
        let address = server(|number, mut connection| {
            answer(&connection, number, 1);
            let _ = connection.read(&mut [0; 1024]);
        });
        let heard = run(address, Habit::Kept { connections: 4, per_second: 200 }, 20);
        let failures = heard.tally.failures();
        assert!(failures.keys().eq(&[Failure::Cut]) && failures[&Failure::Cut] >= 12, "{failures:?}");
    }

    fn silent(milliseconds: u64) -> Habit {
        Habit::Silent { connections: 3, ask_after: Duration::from_millis(milliseconds) }
    }

    #[test]
    fn who_connects_silently_asks_when_it_is_told_to() {
        let address = server(|number, connection| answer(&connection, number, 1));
        let clients = Clients::start(address, &[silent(50), silent(150)]).expect("started");
        let before = Instant::now();
        clients.connect_silently(before);
        for (heard, milliseconds) in clients.stop().expect("stopped").into_iter().zip([50, 150]) {
            assert_eq!(heard.tally.failed(), 0, "{}", heard.tally.failures_in_words());
            let due: Vec<_> = heard.tally.samples.iter().map(|sample| sample.due).collect();
            assert_eq!(due, [before + Duration::from_millis(milliseconds); 3]);
        }
    }

    #[test]
    fn a_silent_connection_that_is_closed_before_it_asks_has_failed() {
        // It closes each as soon as it has accepted it.
        let address = server(|_, _| ());
        let clients = Clients::start(address, &[silent(200)]).expect("started");
        clients.connect_silently(Instant::now());
        let heard = clients.stop().expect("stopped").remove(0);
        assert!(heard.tally.failures().into_iter().eq([(Failure::Closed, 3)]), "{}", heard.tally.failures_in_words());
        assert_eq!(heard.closed_idle, 0);
    }

    #[test]
    fn a_request_that_is_sent_slowly_arrives_in_two_parts() {
        let address = server(|number, connection| answer(&connection, number, 1));
        let heard = run(address, Habit::Slow { per_second: 20 }, 30);
        assert_eq!(heard.tally.failed(), 0, "{}", heard.tally.failures_in_words());
        let slow = heard.tally.samples.iter().filter(|sample| sample.done - sample.due >= SLOW).count();
        assert!(slow >= 10, "{slow} were slow");
    }

    #[test]
    fn a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let mut clients = Clients::start(address, &[Habit::New { per_second: 500 }, silent(0)]).expect("started");
        clients.connect_silently(Instant::now());
        assert!(clients.next_newcomer(Duration::from_millis(100)).is_err());
        for heard in clients.stop().expect("stopped") {
            assert!(heard.tally.failures().keys().eq(&[Failure::Refused]), "{}", heard.tally.failures_in_words());
        }
    }

    #[test]
    fn pauses_to_think_reach_from_ten_milliseconds_to_twice_the_grace() {
        let shared = Arc::new(Shared::new().expect("an event"));
        let mut crowd = Crowd::new(SocketAddrV4::new([127, 0, 0, 1].into(), 1), &[], shared).expect("a crowd");
        let pauses: Vec<_> = (0..10_000).map(|_| crowd.think()).collect();
        assert!(pauses.iter().all(|pause| (THINKS[0]..=THINKS[1]).contains(pause)));
        let middle = Duration::from_millis(316);
        let below = pauses.iter().filter(|pause| **pause < middle).count();
        assert!((4_500..5_500).contains(&below), "{below} of 10000 below the middle");
    }
}
