//! An answer of any of the servers that are measured, taken apart as it comes in.

/// Who answered: the process, where the answer names it, else the generation.
pub(super) type Who = u64;

/// An answer that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) who: Who,
    /// Whether the server closes the connection after it.
    pub(super) is_last: bool,
    pub(super) length: usize,
}

/// Takes apart what has come so far of an answer. `None`: there is more to come.
///
/// # Errors
/// It is not an answer of one of these servers, whatever comes after.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Answer>, String> {
    let start = b"HTTP/1.1 200 OK\r\n";
    if !bytes.starts_with(&start[..bytes.len().min(start.len())]) {
        return Err(format!("not an answer with status 200: {:?}", String::from_utf8_lossy(bytes)));
    }
    let Some(end_of_head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let wrong = |what: &str| format!("an answer {what}: {:?}", String::from_utf8_lossy(bytes));
    let head = std::str::from_utf8(&bytes[start.len() - 2..end_of_head]).map_err(|_| wrong("whose head is not text"))?;
    let (mut length, mut pid, mut is_last) = (None, None, false);
    for (name, value) in head.split("\r\n").filter_map(|line| line.split_once(": ")) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok();
        } else if name.eq_ignore_ascii_case("x-pid") {
            pid = value.parse().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            is_last = value.eq_ignore_ascii_case("close");
        }
    }
    let body_length: usize = length.ok_or_else(|| wrong("without a length"))?;
    let begin_of_body = end_of_head + 4;
    let Some(body) = bytes.get(begin_of_body..begin_of_body + body_length) else { return Ok(None) };
    let who = pid.or_else(|| generation(body)).ok_or_else(|| wrong("that does not say whose it is"))?;
    Ok(Some(Answer { who, is_last, length: begin_of_body + body_length }))
}

/// `hello from generation 3`
fn generation(body: &[u8]) -> Option<Who> {
    std::str::from_utf8(body).ok()?.trim_end().strip_prefix("hello from generation ")?.parse().ok()
}

/// Who answered a datagram: with the bytes that were sent, and ` generation 3` after them.
pub(super) fn read_datagram(sent: &[u8], received: &[u8]) -> Option<Who> {
    std::str::from_utf8(received.strip_prefix(sent)?).ok()?.trim_end().strip_prefix(" generation ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nX-Pid: 12\r\nConnection: close\r\n\r\nhello\n";
    const NUMBERED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\nhello from generation 3\n";

    #[test]
    fn an_answer_names_its_process_or_its_generation() {
        assert_eq!(read(NAMED), Ok(Some(Answer { who: 12, is_last: true, length: NAMED.len() })));
        assert_eq!(read(NUMBERED), Ok(Some(Answer { who: 3, is_last: false, length: NUMBERED.len() })));
        assert_eq!(read(&[NUMBERED, NAMED].concat()).map(|answer| answer.map(|answer| answer.length)), Ok(Some(NUMBERED.len())));
    }

    #[test]
    fn no_part_of_an_answer_is_one() {
        for length in 0..NAMED.len() {
            assert_eq!(read(&NAMED[..length]), Ok(None), "{length} bytes");
        }
    }

    #[test]
    fn a_datagram_is_answered_with_its_own_bytes_and_a_generation() {
        assert_eq!(read_datagram(b"17 17000", b"17 17000 generation 3"), Some(3));
        for wrong in ["17 17000", "17 1700 generation 3", "17 17000 generation", "17 17000 generation x"] {
            assert_eq!(read_datagram(b"17 17000", wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_answer_is_wrong() {
        for wrong in [
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            "hello",
            "HTTP/1.1 200 OK\r\nX-Pid: 12\r\n\r\nhello\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n",
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
