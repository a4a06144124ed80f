//! A server made of raw listeners, which answers as a test tells it to and remembers what it was asked. The tests of all fetchers that speak HTTP use this
//! file, each from a module that says what a request with a body is (`has_body`) and adds what only its source does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

    pub(crate) fn redirect(location: &str) -> Self {
        Self::status("302 Found").header("Location", location)
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

    /// The body in chunks of `size` bytes, without its length.
    pub(crate) fn chunked(self, body: &[u8], size: usize) -> Self {
        let mut bytes = Vec::new();
        for chunk in body.chunks(size) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        self.header("Transfer-Encoding", "chunked").bytes(&bytes)
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

    fn send(&self, stream: &mut impl Write, is_head: bool, sent_bytes: &AtomicUsize) -> std::io::Result<()> {
        if self.head.is_empty() {
            return Ok(());
        }
        stream.write_all(self.head.as_bytes())?;
        stream.write_all(b"\r\n")?;
        if !is_head {
            for piece in self.body.chunks(self.at_a_time.unwrap_or(64 * 1024)) {
                if self.at_a_time.is_some() {
                    stream.flush()?;
                    std::thread::sleep(TRICKLE);
                }
                // Before the client can have it, so that a test that has seen it finds it counted.
                sent_bytes.fetch_add(piece.len(), Ordering::SeqCst);
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
    connections: Arc<AtomicUsize>,
    sent_bytes: Arc<AtomicUsize>,
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
        let (seen, connections, open) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let (sent_bytes, leaving) = (Arc::<AtomicUsize>::default(), Arc::new(AtomicBool::new(false)));
        let mut server = Self { address, seen, connections, sent_bytes, open, leaving, accepting: None };
        let (seen, connections) = (Arc::clone(&server.seen), Arc::clone(&server.connections));
        let (sent_bytes, open, leaving) = (Arc::clone(&server.sent_bytes), Arc::clone(&server.open), Arc::clone(&server.leaving));
        let script: Arc<Script> = Arc::new(script);
        server.accepting = Some(std::thread::spawn(move || {
            let mut serving = Vec::new();
            for stream in listener.incoming() {
                if leaving.load(Ordering::SeqCst) {
                    break;
                }
                let stream = stream.expect("a connection");
                connections.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
                stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
                open.lock().expect("no panic").push(stream.try_clone().expect("a second handle"));
                let (script, seen, sent_bytes, tls) = (Arc::clone(&script), Arc::clone(&seen), Arc::clone(&sent_bytes), tls.clone());
                serving.push(std::thread::spawn(move || {
                    let raw = stream.try_clone().expect("a second handle");
                    match tls {
                        None => serve(stream, &*script, &seen, &sent_bytes),
                        Some(tls) => {
                            let session = rustls::ServerConnection::new(tls).expect("a TLS session");
                            serve(rustls::StreamOwned::new(session, stream), &*script, &seen, &sent_bytes);
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

    /// The same server under another name, which is another host for a client.
    pub(crate) fn url_as(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.address.port())
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

    /// Ends all connections that there are.
    pub(crate) fn hang_up(&self) {
        for stream in self.open.lock().expect("no panic").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many bytes of bodies were sent, those made of zeros not counted.
    pub(crate) fn sent_bytes(&self) -> usize {
        self.sent_bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.hang_up();
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server's script failed");
        }
    }
}

fn serve(stream: impl Read + Write, script: &Script, seen: &Mutex<Vec<Request>>, sent_bytes: &AtomicUsize) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = next_request(&mut stream) {
        seen.lock().expect("no panic").push(request.clone());
        let answer = script(&request);
        if answer.send(stream.get_mut(), request.is_head(), sent_bytes).is_err() {
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
    let request = Request { method, target, headers };
    assert!(!super::has_body(&request), "a request with a body: {first}");
    Some(request)
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
