//! Clients that send datagrams: the thread's side of [`clients`](super::clients) for UDP.
//!
//! Each datagram has a number and says when it was due. It is answered with the same bytes and the generation of who answers ([`answer::read_datagram`]). One that is not
//! answered within [`PATIENCE`] is lost; none is sent again.

use super::answer;
use super::clients::{Habit, Heard, Shared};
use crate::linux::load::{Failure, source};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a datagram may take to be answered.
const PATIENCE: Duration = Duration::from_secs(1);
/// Stand for the timer and for a word of the other thread among the sockets.
const TIMER: u64 = u64::MAX;
const WORD: u64 = u64::MAX - 1;

/// All of them.
pub(super) struct Senders {
    shared: Arc<Shared>,
    heard: Heard,
    sockets: Vec<UdpSocket>,
    epoll: Epoll,
    timer: TimerFd,
    pause: Duration,
    begun: Instant,
    /// How many datagrams were due so far.
    count: u64,
    /// Those that are neither answered nor failed, by their numbers, so the oldest is the first.
    open: BTreeMap<u64, Sent>,
    /// An answer to one of these comes too late; any other answer that nobody waits for is wrong.
    lost: HashSet<u64>,
    stopping: bool,
}

struct Sent {
    due: Instant,
    socket: usize,
}

impl Senders {
    pub(super) fn new(address: SocketAddrV4, habit: Habit, sockets: u32, per_second: u32, shared: Arc<Shared>) -> io::Result<Self> {
        let pause = Duration::from_secs(1) / per_second.max(1);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let interval = TimeSpec::nanoseconds(i64::try_from(pause.as_nanos()).unwrap_or(i64::MAX));
        timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty())?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        epoll.add(&shared.word, EpollEvent::new(EpollFlags::EPOLLIN, WORD))?;
        let open = |number: u64| {
            let socket = UdpSocket::bind(SocketAddrV4::new(source(number), 0))?;
            // So it is told when nobody has the port.
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
            Ok(socket)
        };
        let sockets = (0..u64::from(sockets.max(1))).map(open).collect::<io::Result<_>>()?;
        Ok(Self {
            shared,
            heard: Heard::nothing(habit),
            sockets,
            epoll,
            timer,
            pause,
            begun: Instant::now(),
            count: 0,
            open: BTreeMap::new(),
            lost: HashSet::new(),
            stopping: false,
        })
    }

    /// Sends until it is told to stop, and every datagram is answered or has failed.
    pub(super) fn run(mut self) -> io::Result<Vec<Heard>> {
        self.begun = Instant::now();
        let mut events = [EpollEvent::empty(); 64];
        while !self.stopping || !self.open.is_empty() {
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
                    WORD => self.stopping |= self.shared.take_told().stop,
                    socket => self.receive(usize::try_from(socket).unwrap_or(usize::MAX)),
                }
            }
            let now = Instant::now();
            while !self.stopping && self.due(self.count) <= now {
                self.send(self.count);
                self.count += 1;
            }
            self.give_up(now);
        }
        Ok(vec![self.heard])
    }

    fn due(&self, number: u64) -> Instant {
        self.begun + self.pause.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// What a datagram says: `17 17000`, its number and when it was due, in microseconds.
    fn text(&self, number: u64) -> String {
        format!("{number} {}", (self.due(number) - self.begun).as_micros())
    }

    fn send(&mut self, number: u64) {
        let (due, text) = (self.due(number), self.text(number));
        let socket = usize::try_from(number % self.sockets.len() as u64).unwrap_or_default();
        let mut sent = self.sockets[socket].send(text.as_bytes());
        if sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            // That was said of one before; this one has not left.
            self.refused(socket);
            sent = self.sockets[socket].send(text.as_bytes());
        }
        match sent {
            Ok(_) => drop(self.open.insert(number, Sent { due, socket })),
            Err(_) => self.shared.record(&mut self.heard, due, Err(Failure::NotAsked)),
        }
    }

    /// Takes what has come for a socket.
    fn receive(&mut self, socket: usize) {
        let mut buffer = [0; 256];
        loop {
            match self.sockets[socket].recv(&mut buffer) {
                Ok(length) => self.answered(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.refused(socket),
                Err(_) => return,
            }
        }
    }

    fn answered(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        let number = std::str::from_utf8(bytes).ok().and_then(|text| text.split(' ').next()?.parse().ok());
        let read = |number: u64| answer::read_datagram(self.text(number).as_bytes(), bytes);
        let Some((number, who)) = number.filter(|number| *number < self.count).and_then(|number| Some((number, read(number)?))) else {
            // Nobody has sent what this is the answer to.
            return self.shared.record(&mut self.heard, now, Err(Failure::Wrong));
        };
        match self.open.remove(&number) {
            Some(sent) => self.shared.record(&mut self.heard, sent.due, Ok(who)),
            None if self.lost.contains(&number) => {}
            // Answered twice.
            None => self.shared.record(&mut self.heard, now, Err(Failure::Wrong)),
        }
    }

    /// The system says that nobody has the port: to the oldest datagram of this socket.
    fn refused(&mut self, socket: usize) {
        if let Some(number) = self.open.iter().find(|(_, sent)| sent.socket == socket).map(|(number, _)| *number) {
            self.fail(number, Failure::Refused);
        }
    }

    fn give_up(&mut self, now: Instant) {
        while let Some((number, sent)) = self.open.first_key_value()
            && sent.due + PATIENCE <= now
        {
            self.fail(*number, Failure::Lost);
        }
    }

    fn fail(&mut self, number: u64, failure: Failure) {
        if let Some(sent) = self.open.remove(&number) {
            self.lost.insert(number);
            self.shared.record(&mut self.heard, sent.due, Err(failure));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::clients::Clients;
    use super::*;
    use std::net::SocketAddr;
    use std::thread;

    const HABIT: Habit = Habit::Datagrams { sockets: 5, per_second: 500 };

    /// Answers each datagram by its number with what `texts` says, in turn.
    fn server(texts: impl Fn(u64, &str) -> Vec<String> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("an address");
        thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let number = text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
                for answer in texts(number, &text) {
                    let _ = socket.send_to(answer.as_bytes(), client);
                }
            }
        });
        address
    }

    /// Sends until `count` generations have answered.
    fn run(address: SocketAddr, count: usize) -> Heard {
        let mut clients = Clients::start(address, &[HABIT]).expect("started");
        for _ in 0..count {
            clients.next_newcomer(PATIENCE * 10).expect("enough answers");
        }
        clients.stop().expect("stopped").remove(0)
    }

    #[test]
    fn each_datagram_is_answered_with_its_bytes_and_the_generation() {
        let address = server(|number, text| vec![format!("{text} generation {}", 1 + number / 50)]);
        let heard = run(address, 4);
        assert_eq!(heard.tally.failed(), 0, "{}", heard.tally.failures_in_words());
        assert!(heard.tally.samples.len() > 150);
        assert!(heard.tally.samples.iter().any(|sample| sample.outcome == Ok(3)));
    }

    #[test]
    fn one_in_ten_that_is_not_answered_is_lost() {
        let address = server(|number, text| {
            let answer = (number % 10 != 7).then(|| format!("{text} generation {}", 1 + number / 100));
            answer.into_iter().collect()
        });
        let heard = run(address, 3);
        let lost = (0..heard.tally.samples.len()).filter(|number| number % 10 == 7).count();
        assert!(lost >= 20 && heard.tally.failures().into_iter().eq([(Failure::Lost, lost)]), "{}", heard.tally.failures_in_words());
    }

    #[test]
    fn an_answer_to_nothing_and_a_second_one_are_wrong() {
        let address = server(|number, text| {
            let answer = format!("{text} generation {}", 1 + number / 50);
            match number % 10 {
                3 => vec![answer.clone(), answer],
                4 => vec![answer, "4".to_owned()],
                _ => vec![answer],
            }
        });
        let heard = run(address, 3);
        let failures = heard.tally.failures();
        assert!(failures.keys().eq(&[Failure::Wrong]) && failures[&Failure::Wrong] >= 20, "{failures:?}");
    }

    #[test]
    fn a_port_that_nobody_has_refuses() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("an address");
        drop(socket);
        let mut clients = Clients::start(address, &[HABIT]).expect("started");
        assert!(clients.next_newcomer(Duration::from_millis(100)).is_err());
        let heard = clients.stop().expect("stopped").remove(0);
        assert!(heard.tally.failures().keys().eq(&[Failure::Refused]), "{}", heard.tally.failures_in_words());
        assert!(heard.tally.samples.len() >= 10);
    }
}
