//! The server that releases are published on: HTTP/1.1 on a listener of the standard library, one file, and every request counted.

use super::build::Build;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The longest request head that is read, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A running server. Its threads live as long as this tool.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    published: Option<Published>,
    requests: Vec<Request>,
}

#[derive(Debug, Clone)]
struct Published {
    path: PathBuf,
    size_bytes: u64,
    tag: String,
    last_modified: String,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    pub(crate) kind: Kind,
    /// The ID of what was published at the time.
    pub(crate) id: Option<String>,
}

/// What a request was and how it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Head,
    /// The whole file, or the part from a byte on.
    Get,
    /// A conditional request for what the client has.
    NotModified,
    /// Anything that was answered with an error.
    Refused,
}

impl Server {
    /// Starts on a free port of 127.0.0.1 with nothing published.
    pub(crate) fn start() -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot start the server of releases: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client that hangs up is its own affair; what it asked for has been counted.
                thread::spawn(move || drop(shared.serve(connection)));
            }
        });
        Ok(Self { address, shared })
    }

    /// Where the release is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/app", self.address)
    }

    /// Publishes a build in the place of the one before, at once and whole.
    pub(crate) fn publish(&self, build: &Build) -> Result<Instant, String> {
        let metadata = fs::metadata(&build.path).map_err(|error| format!("cannot publish {}: {error}", build.path.display()))?;
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let published =
            Published { path: build.path.clone(), size_bytes: metadata.len(), tag: build.id.clone(), last_modified: http_date(modified) };
        lock(&self.shared.inner).published = Some(published);
        Ok(Instant::now())
    }

    /// How often the file with this ID was asked for.
    pub(crate) fn downloads(&self, id: &str) -> usize {
        self.count(|request| request.kind == Kind::Get && request.id.as_deref() == Some(id))
    }

    pub(crate) fn count(&self, matches: impl Fn(&Request) -> bool) -> usize {
        lock(&self.shared.inner).requests.iter().filter(|request| matches(request)).count()
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.count(|_| true)
    }

    /// Waits until `count` more requests have come than the `before` that had come at some time.
    pub(crate) fn wait_for_requests(&self, before: usize, count: usize, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        let mut inner = lock(&self.shared.inner);
        while inner.requests.len() < before + count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{} of {count} looks at the server of releases came within {within:?}", inner.requests.len() - before));
            }
            inner = self.shared.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Shared {
    /// Answers the requests of one connection until the client hangs up.
    fn serve(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut bytes = Vec::new();
        while let Some(head) = read_head(&mut connection, &mut bytes)? {
            self.answer(&mut connection, &head)?;
            if header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, connection: &mut TcpStream, head: &str) -> io::Result<()> {
        let published = lock(&self.inner).published.clone();
        let id = published.as_ref().map(|published| published.tag.clone());
        let count = |kind| {
            lock(&self.inner).requests.push(Request { at: Instant::now(), kind, id });
            self.changed.notify_all();
        };
        let mut words = head.lines().next().unwrap_or_default().split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Some(published) = published.filter(|_| target == "/app" && matches!(method, "HEAD" | "GET")) else {
            count(Kind::Refused);
            return connection.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        };
        let validators = format!("ETag: \"{}\"\r\nLast-Modified: {}\r\n", published.tag, published.last_modified);
        let quoted = format!("\"{}\"", published.tag);
        if header(head, "if-none-match").is_some_and(|tags| tags.contains(&quoted)) {
            count(Kind::NotModified);
            return connection.write_all(format!("HTTP/1.1 304 Not Modified\r\n{validators}\r\n").as_bytes());
        }
        let first = first_byte(head, &quoted, published.size_bytes);
        let length = published.size_bytes - first;
        let status = match first {
            0 => "200 OK".to_owned(),
            _ => format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{}", published.size_bytes - 1, published.size_bytes),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\n{validators}Accept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        );
        if method == "HEAD" {
            count(Kind::Head);
            return connection.write_all(head.as_bytes());
        }
        count(Kind::Get);
        let mut file = File::open(&published.path)?;
        file.seek(SeekFrom::Start(first))?;
        connection.write_all(head.as_bytes())?;
        io::copy(&mut file.take(length), connection).map(drop)
    }
}

/// The next request head; `None` when the client hung up between two of them.
fn read_head(connection: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<String>> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = bytes.drain(..end + 4).collect();
            return String::from_utf8(head).map(Some).map_err(io::Error::other);
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match connection.read(&mut buffer)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// The value of a header; `name` in lower case.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Where the answer begins: `Range: bytes=N-`, unless `If-Range` names another file.
fn first_byte(head: &str, quoted_tag: &str, size_bytes: u64) -> u64 {
    if header(head, "if-range").is_some_and(|tag| tag != quoted_tag) {
        return 0;
    }
    header(head, "range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .filter(|first| *first < size_bytes)
        .unwrap_or_default()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn http_date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let days = seconds / 86_400;
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    // The Gregorian calendar repeats every 400 years of 146,097 days; years begin in March, so that a leap day ends one.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    let month = ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"][month as usize];
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{weekday}, {date:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &Server, request: &str) -> String {
        let mut connection = TcpStream::connect(server.address).expect("connected");
        connection.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[test]
    fn a_release_is_served_whole_or_from_a_byte_on_and_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let server = Server::start().expect("started");
        assert!(ask(&server, "GET /app HTTP/1.1").starts_with("HTTP/1.1 404 "));
        let build = Build::written("1", directory.path().join("1"), b"0123456789").expect("written");
        server.publish(&build).expect("published");

        let head = ask(&server, "HEAD /app HTTP/1.1");
        assert!(head.contains(&format!("ETag: \"{}\"\r\n", build.id)) && head.contains("Content-Length: 10\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(&server, "GET /app HTTP/1.1").ends_with("\r\n\r\n0123456789"));
        let part = ask(&server, "GET /app HTTP/1.1\r\nRange: bytes=7-");
        assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("Content-Length: 3\r\n\r\n789"), "{part}");
        assert!(ask(&server, "GET /app HTTP/1.1\r\nRange: bytes=7-\r\nIf-Range: \"other\"").starts_with("HTTP/1.1 200 "));
        assert!(ask(&server, &format!("GET /app HTTP/1.1\r\nIf-None-Match: \"{}\"", build.id)).starts_with("HTTP/1.1 304 "));

        assert_eq!(server.downloads(&build.id), 3);
        let kinds: Vec<Kind> = lock(&server.shared.inner).requests.iter().map(|request| request.kind).collect();
        assert_eq!(kinds, [Kind::Refused, Kind::Head, Kind::Get, Kind::Get, Kind::Get, Kind::NotModified]);
    }

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        let at = |seconds| http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(1_704_067_199), "Sun, 31 Dec 2023 23:59:59 GMT");
    }
}
