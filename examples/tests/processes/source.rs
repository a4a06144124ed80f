//! A server of one file, as slow as a test wants it, that counts what it sends.

use crate::load::PATIENCE;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

const PIECE_BYTES: usize = 16 * 1024;

/// A request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// The first byte of the range that was asked for.
    pub(crate) from: Option<usize>,
    pub(crate) sent: usize,
}

#[derive(Default)]
struct Inner {
    etag: String,
    file: Vec<u8>,
    asked: Vec<Asked>,
    /// How many bytes of bodies may still be sent.
    allowed: usize,
    open: Vec<TcpStream>,
    is_leaving: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lives as long as the value; then every connection is closed and every thread has ended.
pub(crate) struct Source {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Source {
    /// Offers the file. Until [`Source::allow`], nothing of it is sent.
    pub(crate) fn new(file: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let inner = Inner { etag: "\"1\"".to_owned(), file, ..Inner::default() };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            let mut serving = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let mut inner = ours.lock();
                if inner.is_leaving {
                    break;
                }
                inner.open.push(stream.try_clone().expect("a second handle"));
                drop(inner);
                stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
                stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
                let shared = Arc::clone(&ours);
                serving.push(thread::spawn(move || while serve(&stream, &shared).is_some() {}));
            }
            serving.into_iter().for_each(|thread| thread.join().expect("no panic in the server"));
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/release", self.address)
    }

    /// Lets so many bytes more be sent.
    pub(crate) fn allow(&self, bytes: usize) {
        let mut inner = self.shared.lock();
        inner.allowed = inner.allowed.saturating_add(bytes);
        self.shared.changed.notify_all();
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// The first bytes of the ranges that were asked for.
    pub(crate) fn ranges(&self) -> Vec<usize> {
        self.asked().iter().filter_map(|asked| asked.from).collect()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.is_leaving = true;
        inner.open.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        drop(inner);
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
            && !thread::panicking()
        {
            panic!("the server has failed");
        }
    }
}

/// Answers one request; `None` at the end of the connection.
fn serve(stream: &TcpStream, shared: &Shared) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        Some(line.trim_end().to_owned())
    };
    let method = line()?.split(' ').next()?.to_owned();
    let mut from = None;
    loop {
        let header = line()?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(range) = header.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
        }
    }
    let mut inner = shared.lock();
    let number = inner.asked.len();
    inner.asked.push(Asked { method: method.clone(), from, sent: 0 });
    let (etag, file) = (inner.etag.clone(), inner.file.clone());
    drop(inner);
    let body = &file[from.unwrap_or(0).min(file.len())..];
    let status = match from {
        None => "200 OK\r\n".to_owned(),
        Some(from) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len()),
    };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}ETag: {etag}\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    for piece in body.chunks(PIECE_BYTES) {
        let mut inner = shared.lock();
        while inner.allowed < piece.len() && !inner.is_leaving {
            inner = shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if inner.is_leaving {
            return None;
        }
        inner.allowed -= piece.len();
        inner.asked[number].sent += piece.len();
        drop(inner);
        stream.write_all(piece).ok()?;
    }
    Some(())
}
