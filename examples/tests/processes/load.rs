//! Clients.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a test waits for what is bound to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the actor says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: String,
    pub(crate) generation: u64,
    pub(crate) pid: i32,
}

impl FromStr for Answer {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let unclear = || format!("{line:?} is no answer");
        let [version, generation, pid] = line.split_whitespace().collect::<Vec<_>>()[..] else { return Err(unclear()) };
        let generation = generation.parse().map_err(|_| unclear())?;
        Ok(Self { version: version.to_owned(), generation, pid: pid.parse().map_err(|_| unclear())? })
    }
}

/// A request that a generation has accepted and not answered, for as long as the test wants.
pub(crate) struct Request(TcpStream);

impl Request {
    pub(crate) fn begin(address: &str) -> Self {
        let mut stream = connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.write_all(b"hold\n").expect("sent");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("received");
        line.parse::<Answer>().expect("somebody has accepted it");
        Self(stream)
    }

    /// Sends the rest and takes the answer.
    pub(crate) fn finish(mut self) -> Result<Answer, String> {
        self.0.write_all(b"hello\n").map_err(|error| error.to_string())?;
        let text = read_all(&self.0).map_err(|error| error.to_string())?;
        text.parse()
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn read_all(stream: &TcpStream) -> io::Result<String> {
    let mut text = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut text)? > 0 {}
    Ok(text)
}

/// Sends one line on a new connection and answers what comes back.
pub(crate) fn tell(address: &str, line: &str) -> io::Result<String> {
    let mut stream = connect(address)?;
    writeln!(stream, "{line}")?;
    read_all(&stream)
}

/// Who serves at the address.
pub(crate) fn ask(address: &str) -> Answer {
    let text = tell(address, "hello").unwrap_or_else(|error| panic!("{address}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// What came of the requests of a [`Load`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// By version.
    pub(crate) answered: BTreeMap<String, u64>,
    pub(crate) refused: u64,
    /// Accepted or waiting for it, and never answered.
    pub(crate) lost: u64,
    /// The first few failures.
    pub(crate) failures: Vec<String>,
    /// The longest time that a client waited for an answer; one without pause, since its last one.
    pub(crate) longest_pause: Duration,
}

impl Tally {
    pub(crate) fn failed(&self) -> u64 {
        self.refused + self.lost
    }

    pub(crate) fn total(&self) -> u64 {
        self.answered.values().sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Clients that connect anew for each request and try none a second time.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    address: String,
    is_over: AtomicBool,
    tally: Mutex<Tally>,
    changed: Condvar,
}

impl Load {
    /// Two clients without pause, each of which waits for its answer.
    pub(crate) fn start(address: &str) -> Self {
        let shared = Shared::new(address);
        let clients = (0..2).map(|_| Arc::clone(&shared)).map(|shared| thread::spawn(move || shared.connect_on_and_on())).collect();
        Self { shared, clients }
    }

    /// So many clients a second, whether those before have their answer or not.
    pub(crate) fn steady(address: &str, per_second: u32) -> Self {
        let shared = Shared::new(address);
        let clients = vec![thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.connect_at_intervals(Duration::from_secs(1) / per_second)
        })];
        Self { shared, clients }
    }

    /// Waits for so many more answers of this version.
    pub(crate) fn wait_for(&self, version: &str, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut tally = self.shared.lock();
        let until = tally.answered.get(version).unwrap_or(&0) + count;
        while tally.answered.get(version).is_none_or(|answered| *answered < until) {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                let tally = tally.clone();
                panic!("version {version} does not answer: {tally}; {} came", tally.total());
            }
            tally = self.shared.changed.wait_timeout(tally, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.shared.lock().clone()
    }

    pub(crate) fn stop(mut self) -> Tally {
        self.end();
        self.tally()
    }

    fn end(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn new(address: &str) -> Arc<Self> {
        let (is_over, tally, changed) = (AtomicBool::new(false), Mutex::default(), Condvar::new());
        Arc::new(Self { address: address.to_owned(), is_over, tally, changed })
    }

    /// A test that fails while it looks at the numbers leaves them whole.
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect_on_and_on(&self) {
        let mut last = Instant::now();
        while !self.is_over.load(Ordering::Relaxed) {
            if self.ask_once(last) {
                last = Instant::now();
            } else {
                thread::yield_now();
            }
        }
    }

    fn connect_at_intervals(&self, interval: Duration) {
        thread::scope(|clients| {
            let mut due = Instant::now();
            while !self.is_over.load(Ordering::Relaxed) {
                clients.spawn(move || self.ask_once(due));
                due += interval;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
    }

    /// Whether it is answered; the answer ends a pause that began then.
    fn ask_once(&self, paused: Instant) -> bool {
        let result = tell(&self.address, "hello");
        let mut tally = self.lock();
        let failure = match result {
            Ok(text) => match text.parse::<Answer>() {
                Ok(answer) => {
                    *tally.answered.entry(answer.version).or_default() += 1;
                    tally.longest_pause = tally.longest_pause.max(paused.elapsed());
                    self.changed.notify_all();
                    return true;
                }
                Err(why) => why,
            },
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                tally.refused += 1;
                note(&mut tally, error.to_string());
                return false;
            }
            Err(error) => error.to_string(),
        };
        tally.lost += 1;
        note(&mut tally, failure);
        false
    }
}

fn note(tally: &mut Tally, failure: String) {
    if tally.failures.len() < 10 {
        tally.failures.push(failure);
    }
}
