//! The few lines of HTTP that the servers of releases need: HTTP/1.1 on a listener of the standard library, one thread for each connection.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

/// The longest request head that is read, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What a client asked.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// All lines, the first one included.
    head: String,
}

impl Request {
    /// The value of a header; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// Answers requests on a free port of 127.0.0.1. The threads live as long as this tool.
pub(crate) fn listen(answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Result<SocketAddr, String> {
    let failed = |error: io::Error| format!("cannot start a server of releases: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // A client that hangs up is its own affair; what it asked for has been counted.
            thread::spawn(move || drop(serve(connection, &*answer)));
        }
    });
    Ok(address)
}

/// Answers the requests of one connection until the client hangs up.
fn serve(mut connection: TcpStream, answer: &impl Fn(&Request, &mut TcpStream) -> io::Result<()>) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut bytes = Vec::new();
    while let Some(head) = read_head(&mut connection, &mut bytes)? {
        let mut words = head.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let request = Request { method, target, head };
        answer(&request, &mut connection)?;
        if request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

/// An answer with a short body. `headers` is nothing or whole lines.
pub(crate) fn send(connection: &mut TcpStream, status: &str, headers: &str, body: &str) -> io::Result<()> {
    connection.write_all(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

/// Answers HEAD and GET with a file, or with the part of it that was asked for. `validators` are whole lines, and name `tag`.
pub(crate) fn send_file(connection: &mut TcpStream, request: &Request, path: &Path, tag: &str, validators: &str) -> io::Result<()> {
    let mut file = File::open(path)?;
    let size_bytes = file.metadata()?.len();
    let first = first_byte(request, &format!("\"{tag}\""), size_bytes);
    let length = size_bytes - first;
    let status = match first {
        0 => "200 OK".to_owned(),
        _ => format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{size_bytes}", size_bytes - 1),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{validators}Accept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    file.seek(SeekFrom::Start(first))?;
    io::copy(&mut file.take(length), connection).map(drop)
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
fn first_byte(request: &Request, quoted_tag: &str, size_bytes: u64) -> u64 {
    if request.header("if-range").is_some_and(|tag| tag != quoted_tag) {
        return 0;
    }
    request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .filter(|first| *first < size_bytes)
        .unwrap_or_default()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub(crate) fn http_date(time: SystemTime) -> String {
    let Civil { weekday, year, month, day, hour, minute, second } = Civil::of(time);
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month as usize - 1];
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// `1994-11-06T08:49:37Z`
pub(crate) fn json_date(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = Civil::of(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A time as people write it, in UTC.
struct Civil {
    weekday: &'static str,
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    fn of(time: SystemTime) -> Self {
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let days = seconds / 86_400;
        let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
        // The Gregorian calendar repeats every 400 years of 146,097 days; years begin in March, so that a leap day ends one.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let from_march = (5 * day + 2) / 153;
        let day = day - (153 * from_march + 2) / 5 + 1;
        let (month, later) = if from_march < 10 { (from_march + 3, 0) } else { (from_march - 9, 1) };
        let year = era * 400 + year + later;
        Self { weekday, year, month, day, hour: seconds / 3600 % 24, minute: seconds / 60 % 60, second: seconds % 60 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_date_is_written_as_http_and_json_want_it() {
        let at = |seconds| http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(json_date(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)), "1994-11-06T08:49:37Z");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(1_704_067_199), "Sun, 31 Dec 2023 23:59:59 GMT");
    }
}
