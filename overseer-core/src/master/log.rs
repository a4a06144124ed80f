//! The master's own lines on standard error.
//!
//! A logger is the program's code, which the master never runs; and a full pipe must not stop a master. So a line is written
//! only if standard error takes it at once, and is at most `PIPE_BUF` bytes long, which makes the write whole or none (pipe(7)). A pipe or
//! a terminal that others fill between the look and the write would keep us waiting, so it is opened again, for us alone, not to block.

use crate::LogFormat;
use crate::message::{Level, Message, cut};
use crate::sys::files::not_blocking;
use crate::sys::poll::{send_now, takes_a_write};
use nix::sys::stat::{SFlag, fstat};
use serde::Serialize;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// `PIPE_BUF` on Linux.
const LINE_BYTES_MAX: usize = 4096;
/// The longest text of a JSON line: each byte of it can become two, and 256 are left for the rest of the line.
const JSON_TEXT_BYTES_MAX: usize = (LINE_BYTES_MAX - 256) / 2;

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) debug: bool,
    pub(crate) no_warn: bool,
    output: Output,
    pub(super) lost: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    time: f64,
    level: &'a str,
    code: &'a str,
    message: &'a str,
    pid: u32,
}

impl Log {
    pub(crate) fn new(format: LogFormat, debug: bool, no_warn: bool) -> Self {
        Self { format, debug, no_warn, output: Output::of(&io::stderr()), lost: 0 }
    }

    pub(crate) fn takes_warnings(&self) -> bool {
        !self.no_warn
    }

    pub(crate) fn write(&mut self, message: &Message) {
        match message.level() {
            Level::Debug if !self.debug => return,
            Level::Warning if self.no_warn => return,
            Level::Debug | Level::Info | Level::Warning | Level::Error => {}
        }
        if self.lost > 0 && self.put(&self.line(&Message::LinesLost { count: self.lost })) {
            self.lost = 0;
        }
        if !self.put(&self.line(message)) {
            self.lost += 1;
        }
    }

    fn line(&self, message: &Message) -> Vec<u8> {
        let text = message.to_string();
        let mut line = match self.format {
            LogFormat::Text => {
                let level = match message.level() {
                    Level::Debug | Level::Info => "",
                    Level::Warning => "warning: ",
                    Level::Error => "error: ",
                };
                format!("[overseer] {level}{}", on_one_line(&text))
            }
            LogFormat::Json => {
                let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                let text = printable(&text);
                let text = cut(&text, JSON_TEXT_BYTES_MAX);
                let (level, code, pid) = (message.level().as_str(), message.code(), std::process::id());
                let line = Line { time, level, code, message: text, pid };
                // Strings and numbers can always be written as JSON.
                serde_json::to_string(&line).unwrap_or_default()
            }
        };
        line.truncate(cut(&line, LINE_BYTES_MAX - 1).len());
        line.push('\n');
        line.into_bytes()
    }

    fn put(&self, line: &[u8]) -> bool {
        let stderr = io::stderr();
        match &self.output {
            Output::Reopened(file) => takes_a_write(file) && { file }.write(line).is_ok_and(|bytes| bytes == line.len()),
            Output::Socket => send_now(stderr.as_fd(), line).is_ok_and(|bytes| bytes == line.len()),
            Output::Other => line.chunks(nix::libc::PIPE_BUF).all(|part| takes_a_write(&stderr) && (&stderr).write_all(part).is_ok()),
        }
    }
}

/// What standard error is, as far as it matters for not blocking.
#[derive(Debug)]
enum Output {
    /// A terminal or a pipe.
    Reopened(File),
    /// The journal, for example.
    Socket,
    /// A file, or what cannot be opened again.
    Other,
}

impl Output {
    fn of<D: IsTerminal + AsFd>(descriptor: &D) -> Self {
        let kind = fstat(descriptor).map_or(SFlag::empty(), |status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT);
        if kind == SFlag::S_IFSOCK {
            return Self::Socket;
        }
        if kind != SFlag::S_IFIFO && !descriptor.is_terminal() {
            return Self::Other;
        }
        not_blocking(descriptor).map_or(Self::Other, Self::Reopened)
    }
}

/// What a release wrote must not look like lines of the master.
fn on_one_line(text: &str) -> String {
    printable(text).replace('\n', "|")
}

/// What a release wrote must not move the terminal's cursor either.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(why: &str) -> Message {
        Message::UpgradesOff { why: why.to_owned() }
    }

    #[test]
    fn a_line_is_one_line_and_fits_a_pipe_whatever_a_release_wrote() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = Log::new(format, false, false);
            let line = log.line(&message(&"ä\n\u{1b}[2J\"\0\0\0[overseer] all is well".repeat(1000)));
            assert!(line.len() <= LINE_BYTES_MAX);
            let inside = &line[..line.len() - 1];
            if format == LogFormat::Json {
                serde_json::from_slice::<serde_json::Value>(&line).expect("it is JSON");
            }
            assert!(line.ends_with(b"\n") && inside.iter().all(|byte| *byte >= b' '), "{}", String::from_utf8_lossy(&line));
        }
    }

    #[test]
    fn a_terminal_that_nobody_reads_stops_nobody() {
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        let mut log = Log::new(LogFormat::Text, false, false);
        log.output = Output::of(&pty.slave);
        assert!(matches!(log.output, Output::Reopened(_)));
        for _ in 0..10_000 {
            log.write(&message("it is full"));
        }
        assert!(log.lost > 0);
    }

    #[test]
    fn a_json_line_is_json_with_the_code_of_the_message() {
        let line = Log::new(LogFormat::Json, false, false).line(&message("\"quoted\""));
        let value: serde_json::Value = serde_json::from_slice(&line).expect("it is JSON");
        assert_eq!(value["code"], "upgrades-off");
        assert_eq!(value["level"], "warning");
        assert!(value["message"].as_str().expect("text").contains("\"quoted\""));
    }
}
