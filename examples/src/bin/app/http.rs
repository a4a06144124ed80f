//! The few lines of HTTP/1.1 that the server needs: read a request, answer it, close.

use crate::settings;
use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

/// The longest request head that is read, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The longest delay that a request can ask for.
const DELAY_MAX: Duration = Duration::from_secs(60 * 60);

/// What every request is answered with.
pub(crate) struct Page {
    pub(crate) greeting: String,
    pub(crate) generation: u64,
}

/// Answers one request. A client that went away is its own affair.
pub(crate) fn answer(mut connection: impl Read + Write, page: &Page) {
    let _ = try_answer(&mut connection, page);
}

fn try_answer(connection: &mut (impl Read + Write), page: &Page) -> io::Result<()> {
    let head = read_head(connection)?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some(target)) => match delay(target) {
            Ok(delay) => {
                thread::sleep(delay);
                ("200 OK", page.greeting.clone())
            }
            Err(wrong) => ("400 Bad Request", format!("{wrong}\n")),
        },
        _ => ("405 Method Not Allowed", "only GET and HEAD are answered\n".to_owned()),
    };
    let length = body.len();
    let body = if head.starts_with("HEAD ") { "" } else { body.as_str() };
    // One write: an answer is either whole or not there. The connection closes after it, so a drain need not wait for idle clients.
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\nX-Pid: {}\r\nX-Generation: {}\r\n\r\n{body}",
        std::process::id(),
        page.generation,
    );
    connection.write_all(text.as_bytes())?;
    connection.flush()
}

/// Reads up to the empty line. The server answers no request that has a body, so nothing comes after it.
fn read_head(connection: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let bytes = connection.read(&mut buffer)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..bytes]);
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// How long the answer is delayed: `/?d=5s`.
fn delay(target: &str) -> Result<Duration, String> {
    let query = target.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let Some(text) = query.split('&').find_map(|pair| pair.strip_prefix("d=")) else { return Ok(Duration::ZERO) };
    settings::duration(text).filter(|delay| *delay <= DELAY_MAX).ok_or_else(|| format!("d={text} is not a delay such as 5s or 200ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client {
        request: &'static [u8],
        answer: Vec<u8>,
    }

    impl Read for Client {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.request.read(buffer)
        }
    }

    impl Write for Client {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.answer.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answer_to(request: &'static str) -> String {
        let mut client = Client { request: request.as_bytes(), answer: Vec::new() };
        answer(&mut client, &Page { greeting: "hello\n".to_owned(), generation: 7 });
        String::from_utf8(client.answer).expect("text")
    }

    #[test]
    fn a_request_is_answered_and_a_broken_one_is_told_so() {
        let answer = answer_to("GET / HTTP/1.1\r\nHost: app\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("X-Generation: 7\r\n\r\nhello\n"), "{answer}");
        assert!(answer_to("HEAD / HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(answer_to("GET /?d=soon HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
        assert!(answer_to("POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert_eq!(answer_to("GET / HTTP/1.1\r\n"), "");
    }

    #[test]
    fn a_delay_is_read_from_the_query() {
        assert_eq!(delay("/"), Ok(Duration::ZERO));
        assert_eq!(delay("/?a=b&d=5s"), Ok(Duration::from_secs(5)));
        assert_eq!(delay("/?d=20ms"), Ok(Duration::from_millis(20)));
        assert!(delay("/?d=99h").is_err());
    }
}
