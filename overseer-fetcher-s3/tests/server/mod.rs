//! A server made of raw listeners, which answers as a test tells it to and remembers what it was asked.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A test that waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause of a slow line.
const TRICKLE: Duration = Duration::from_millis(300);

/// What a client asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The byte that a part is to begin at.
    pub(crate) fn range(&self) -> Option<usize> {
        self.header("Range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

/// What a server does when it is asked.
pub(crate) struct Answer {
    head: String,
    body: Vec<u8>,
    zeros: u64,
    at_a_time: Option<usize>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    ReadOn,
    Close,
    Hold,
}

impl Answer {
    /// `status` is `200 OK`; there is no header but those that are given.
    pub(crate) fn new(status: &str) -> Self {
        Self { head: format!("HTTP/1.1 {status}\r\n"), body: Vec::new(), zeros: 0, at_a_time: None, then: Then::ReadOn }
    }

    /// Nothing at all, on an open connection.
    pub(crate) fn silence() -> Self {
        Self { head: String::new(), body: Vec::new(), zeros: 0, at_a_time: None, then: Then::Hold }
    }

    /// The connection ends without a word.
    pub(crate) fn hang_up() -> Self {
        Self { then: Then::Close, ..Self::silence() }
    }

    /// Something that is not HTTP.
    pub(crate) fn garbage(text: &str) -> Self {
        Self { head: text.to_owned(), then: Then::Close, ..Self::silence() }
    }

    pub(crate) fn status(status: &str) -> Self {
        Self::new(status).header("Content-Length", "0")
    }

    /// As S3 says no: a status and, unless asked by HEAD, a text with a code.
    pub(crate) fn error(status: &str, code: &str, more: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code>{more}<RequestId>1</RequestId></Error>");
        Self::new(status).header("Content-Type", "application/xml").body(body.as_bytes())
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.head.push_str(&format!("{name}: {}\r\n", value.as_ref()));
        self
    }

    /// The body and its length.
    pub(crate) fn body(self, body: &[u8]) -> Self {
        self.header("Content-Length", body.len().to_string()).bytes(body)
    }

    /// The body without its length.
    pub(crate) fn bytes(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// A body of so many zeros and its length, made while it is sent.
    pub(crate) fn zeros(mut self, count: u64) -> Self {
        self.zeros = count;
        self.header("Content-Length", count.to_string())
    }

    /// Sends only so much of the body, then closes.
    pub(crate) fn cut(mut self, sent: usize) -> Self {
        self.body.truncate(sent);
        self.then = Then::Close;
        self
    }

    /// Sends only so much of the body, then nothing more.
    pub(crate) fn stall(mut self, sent: usize) -> Self {
        self.body.truncate(sent);
        self.then = Then::Hold;
        self
    }

    /// Sends so much of the body at a time, with a pause before each that makes it slower than a test has time for.
    pub(crate) fn trickle(mut self, at_a_time: usize) -> Self {
        self.at_a_time = Some(at_a_time);
        self
    }

    fn send(&self, stream: &mut impl Write, is_head: bool) -> std::io::Result<()> {
        if self.head.is_empty() {
            return Ok(());
        }
        stream.write_all(self.head.as_bytes())?;
        stream.write_all(b"\r\n")?;
        if !is_head {
            for piece in self.body.chunks(self.at_a_time.unwrap_or(usize::MAX)) {
                if self.at_a_time.is_some() {
                    stream.flush()?;
                    std::thread::sleep(TRICKLE);
                }
                stream.write_all(piece)?;
            }
            let zeros = [0; 64 * 1024];
            let mut left = self.zeros;
            while left > 0 {
                let count = left.min(zeros.len() as u64);
                stream.write_all(&zeros[..count as usize])?;
                left -= count;
            }
        }
        stream.flush()
    }
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// Lives as long as the value; then every connection is closed and every thread has ended.
pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    leaving: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on 127.0.0.1.
    pub(crate) fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", None, script)
    }

    /// Speaks TLS.
    pub(crate) fn start_tls(tls: Arc<rustls::ServerConfig>, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", Some(tls), script)
    }

    pub(crate) fn start_at(
        address: &str,
        tls: Option<Arc<rustls::ServerConfig>>,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (seen, open) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::default());
        let leaving = Arc::new(AtomicBool::new(false));
        let mut server = Self { address, seen, open, leaving, accepting: None };
        let (seen, open, leaving) = (Arc::clone(&server.seen), Arc::clone(&server.open), Arc::clone(&server.leaving));
        let script: Arc<Script> = Arc::new(script);
        server.accepting = Some(std::thread::spawn(move || {
            let mut serving = Vec::new();
            for stream in listener.incoming() {
                if leaving.load(Ordering::SeqCst) {
                    break;
                }
                let stream = stream.expect("a connection");
                stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
                stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
                open.lock().expect("no panic").push(stream.try_clone().expect("a second handle"));
                let (script, seen, tls) = (Arc::clone(&script), Arc::clone(&seen), tls.clone());
                serving.push(std::thread::spawn(move || {
                    let raw = stream.try_clone().expect("a second handle");
                    match tls {
                        None => serve(stream, &*script, &seen),
                        Some(tls) => {
                            let session = rustls::ServerConnection::new(tls).expect("a TLS session");
                            serve(rustls::StreamOwned::new(session, stream), &*script, &seen);
                        }
                    }
                    let _ = raw.shutdown(Shutdown::Both);
                }));
            }
            for thread in serving {
                thread.join().expect("no panic in the server");
            }
        }));
        server
    }

    /// `http://127.0.0.1:port` and `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn https_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }

    /// All requests so far, as `HEAD /app`.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for stream in self.open.lock().expect("no panic").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server's script failed");
        }
    }
}

fn serve(stream: impl Read + Write, script: &Script, seen: &Mutex<Vec<Request>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = next_request(&mut stream) {
        seen.lock().expect("no panic").push(request.clone());
        let answer = script(&request);
        if answer.send(stream.get_mut(), request.is_head()).is_err() {
            return;
        }
        match answer.then {
            Then::ReadOn => {}
            Then::Close => return,
            Then::Hold => {
                // Until the client has had enough.
                while matches!(stream.read(&mut [0; 1024]), Ok(count) if count > 0) {}
                return;
            }
        }
    }
}

fn next_request(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    assert!(!headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")), "a request with a body: {first}");
    Some(Request { method, target, headers })
}

/// An object that can be replaced, in a bucket that knows `Range` and `If-Match`.
#[derive(Clone)]
pub(crate) struct Published(Arc<Mutex<(String, Vec<u8>)>>);

impl Published {
    pub(crate) fn new(etag: &str, body: &[u8]) -> Self {
        Self(Arc::new(Mutex::new((etag.to_owned(), body.to_vec()))))
    }

    pub(crate) fn replace(&self, etag: &str, body: &[u8]) {
        *self.0.lock().expect("no panic") = (etag.to_owned(), body.to_vec());
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let (etag, body) = self.0.lock().expect("no panic").clone();
        if request.header("If-Match").is_some_and(|wanted| wanted != etag) {
            return Answer::error("412 Precondition Failed", "PreconditionFailed", "");
        }
        match request.range() {
            None => Answer::new("200 OK").header("ETag", &etag).body(&body),
            Some(from) if from >= body.len() => Answer::error("416 Requested Range Not Satisfiable", "InvalidRange", ""),
            Some(from) => part(&etag, &body, from),
        }
    }
}

/// The bytes of `body` from `from` on.
pub(crate) fn part(etag: &str, body: &[u8], from: usize) -> Answer {
    let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
    Answer::new("206 Partial Content").header("ETag", etag).header("Content-Range", range).body(&body[from..])
}

/// Bytes that no compression, repetition or shift leaves equal.
pub(crate) fn binary(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    b"\x7fELF".iter().copied().chain(std::iter::from_fn(move || Some(next()))).take(size).collect()
}
