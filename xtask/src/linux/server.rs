//! The server that releases are published on: one file with its signature, and every request counted.

use super::build::Build;
use super::http::{self, http_date};
use super::source::Source;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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
    tag: String,
    last_modified: String,
    /// The text of its `.minisig` file.
    signature: Option<String>,
    /// What the name of a packed file ends in; `/app` then leads to that name.
    ending: &'static str,
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
    /// The `.minisig` file.
    Signature,
    /// A conditional request for what the client has.
    NotModified,
    /// Anything that was answered with an error.
    Refused,
}

impl Server {
    /// Starts on a free port of 127.0.0.1 with nothing published.
    pub(crate) fn start() -> Result<Self, String> {
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let address = http::listen(move |request, connection| serving.answer(request, connection))?;
        Ok(Self { address, shared })
    }

    /// Where the release is.
    fn url(&self) -> String {
        format!("http://{}/app", self.address)
    }

    /// Publishes a build in the place of the one before, at once and whole, and without a signature.
    pub(crate) fn publish(&self, build: &Build) -> Result<Instant, String> {
        Source::publish(self, build, None)
    }

    /// Publishes a packed build, whose name ends in `ending`.
    pub(crate) fn publish_packed(&self, build: &Build, ending: &'static str) -> Result<Instant, String> {
        let at = self.publish(build)?;
        if let Some(published) = &mut lock(&self.shared.inner).published {
            published.ending = ending;
        }
        Ok(at)
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

impl Source for Server {
    fn tell(&self, command: &mut Command) {
        command.args(["--fetch", &self.url()]);
    }

    fn publish(&self, build: &Build, signature: Option<&str>) -> Result<Instant, String> {
        let metadata = fs::metadata(&build.path).map_err(|error| format!("cannot publish {}: {error}", build.path.display()))?;
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let published = Published {
            path: build.path.clone(),
            tag: build.id.clone(),
            last_modified: http_date(modified),
            signature: signature.map(str::to_owned),
            ending: "",
        };
        lock(&self.shared.inner).published = Some(published);
        Ok(Instant::now())
    }

    fn downloads(&self, build: &Build) -> Option<usize> {
        Some(Self::downloads(self, &build.id))
    }
}

impl Shared {
    fn answer(&self, request: &http::Request, connection: &mut TcpStream) -> io::Result<()> {
        let published = lock(&self.inner).published.clone();
        let id = published.as_ref().map(|published| published.tag.clone());
        let count = |kind| {
            lock(&self.inner).requests.push(Request { at: Instant::now(), kind, id });
            self.changed.notify_all();
        };
        let Some(published) = published.filter(|_| matches!(request.method.as_str(), "HEAD" | "GET")) else {
            count(Kind::Refused);
            return http::send(connection, "404 Not Found", "", "");
        };
        match (request.target.as_str(), &published.signature) {
            ("/app", _) if !published.ending.is_empty() => {
                return http::send(connection, "302 Found", &format!("Location: /app{}\r\n", published.ending), "");
            }
            (target, _) if target.strip_prefix("/app") == Some(published.ending) => {}
            ("/app.minisig", Some(signature)) => {
                count(Kind::Signature);
                return http::send(connection, "200 OK", "", signature);
            }
            _ => {
                count(Kind::Refused);
                return http::send(connection, "404 Not Found", "", "");
            }
        }
        let validators = format!("ETag: \"{}\"\r\nLast-Modified: {}\r\n", published.tag, published.last_modified);
        if request.header("if-none-match").is_some_and(|tags| tags.contains(&format!("\"{}\"", published.tag))) {
            count(Kind::NotModified);
            return http::send(connection, "304 Not Modified", &validators, "");
        }
        count(if request.method == "HEAD" { Kind::Head } else { Kind::Get });
        http::send_file(connection, request, &published.path, &published.tag, &validators)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{Read, Write};

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

        assert!(ask(&server, "GET /app.minisig HTTP/1.1").starts_with("HTTP/1.1 404 "));
        Source::publish(&server, &build, Some("signed")).expect("published");
        assert!(ask(&server, "GET /app.minisig HTTP/1.1").ends_with("\r\n\r\nsigned"));

        assert_eq!(server.downloads(&build.id), 3);
        let kinds: Vec<Kind> = lock(&server.shared.inner).requests.iter().map(|request| request.kind).collect();
        assert_eq!(kinds, [Kind::Refused, Kind::Head, Kind::Get, Kind::Get, Kind::Get, Kind::NotModified, Kind::Refused, Kind::Signature]);
    }
}
