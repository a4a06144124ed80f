//! What a client sees of the example program: one request, and the answer taken apart.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// An answer of the example program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// `app#2 (<sha1>) says hello`
    pub(crate) text: String,
    pub(crate) version: u32,
    pub(crate) id: String,
    /// The process that answered.
    pub(crate) pid: i32,
    pub(crate) generation: u64,
}

/// The bytes of a request for `target`.
pub(crate) fn request(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Takes a whole answer apart.
///
/// # Errors
/// The answer is not whole, or not one of the example program's.
pub(crate) fn parse(bytes: &[u8]) -> Result<Answer, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "an answer that is not text")?;
    let wrong = || format!("not an answer of the program: {text:?}");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let mut lines = head.lines();
    if lines.next().ok_or_else(wrong)? != "HTTP/1.1 200 OK" {
        return Err(wrong());
    }
    let (mut length, mut pid, mut generation) = (None, None, None);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name {
            "Content-Length" => length = value.parse::<usize>().ok(),
            "X-Pid" => pid = value.parse().ok(),
            "X-Generation" => generation = value.parse().ok(),
            _ => {}
        }
    }
    if length.ok_or_else(wrong)? != body.len() {
        return Err(format!("only {} bytes of the answer came", body.len()));
    }
    let text = body.trim_end();
    let (version, id) = text
        .strip_prefix("app#")
        .and_then(|rest| rest.strip_suffix(") says hello"))
        .and_then(|rest| rest.split_once(" ("))
        .and_then(|(version, id)| Some((version.parse().ok()?, id.to_owned())))
        .ok_or_else(wrong)?;
    Ok(Answer { text: text.to_owned(), version, id, pid: pid.ok_or_else(wrong)?, generation: generation.ok_or_else(wrong)? })
}

/// Sends a request and waits for its answer, which must come within `within`.
pub(crate) fn get(address: SocketAddr, target: &str, within: Duration) -> Result<Answer, String> {
    Asked::begin(address, target, within)?.answer()
}

/// A request that has been sent.
pub(crate) struct Asked {
    target: String,
    connection: TcpStream,
    within: Duration,
    deadline: Instant,
}

impl Asked {
    /// Sends a request that is to be answered within `within`.
    pub(crate) fn begin(address: SocketAddr, target: &str, within: Duration) -> Result<Self, String> {
        let deadline = Instant::now() + within;
        let failed = |error: std::io::Error| format!("{target} could not be asked for: {error}");
        let mut connection = TcpStream::connect_timeout(&address, within).map_err(failed)?;
        connection.write_all(&request(target)).map_err(failed)?;
        Ok(Self { target: target.to_owned(), connection, within, deadline })
    }

    /// Waits for the answer.
    pub(crate) fn answer(mut self) -> Result<Answer, String> {
        let failed = |error: std::io::Error| format!("{} was not answered: {error}", self.target);
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{} was not answered within {:?}", self.target, self.within));
            }
            self.connection.set_read_timeout(Some(left)).map_err(failed)?;
            match self.connection.read(&mut buffer).map_err(failed)? {
                0 => return parse(&bytes),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 23\r\nX-Pid: 12\r\nX-Generation: 3\r\n\r\n";

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = parse(format!("{HEAD}app#2 (abc) says hello\n").as_bytes()).expect("an answer");
        assert_eq!(answer, Answer { text: "app#2 (abc) says hello".to_owned(), version: 2, id: "abc".to_owned(), pid: 12, generation: 3 });
    }

    #[test]
    fn an_answer_that_was_cut_off_is_none() {
        let wrong = parse(format!("{HEAD}app#2 (a").as_bytes()).expect_err("it is cut off");
        assert_eq!(wrong, "only 8 bytes of the answer came");
        assert!(parse(b"").is_err());
        assert!(parse(b"HTTP/1.1 500 No\r\n\r\n").is_err());
    }
}
