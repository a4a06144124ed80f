//! The clients that speak HTTP/2: a program of its own, as only this part needs a library for its protocol.

use crate::linux::process::Process;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longer than the clients wait for their answers.
const LEAVE_TIME: Duration = Duration::from_secs(30);

/// Clients that run.
pub(super) struct Http2(Process);

/// What became of their streams.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Streams {
    pub(super) asked: u64,
    /// Why, of each that was not answered.
    pub(super) failures: Vec<String>,
}

impl Http2 {
    /// Starts the program, for a server that listens already.
    pub(super) fn start(path: &Path, address: SocketAddr) -> Result<Self, String> {
        let process = Process::start("the clients of HTTP/2", Command::new(path).arg(address.to_string()))?;
        process.wait_for(&mut 0, "that it has begun", LEAVE_TIME, |line| (line.text == "begun").then_some(()))?;
        Ok(Self(process))
    }

    /// Lets no more requests be made, and answers what became of all of them.
    pub(super) fn stop(self) -> Result<Streams, String> {
        self.0.signal(Signal::SIGTERM);
        self.0.wait_exit(LEAVE_TIME)?;
        read(&self.0.output(LEAVE_TIME)?).ok_or_else(|| format!("the clients of HTTP/2 gave no account; {}", self.0.account()))
    }
}

/// `failed: WHY` for each stream that did, and `asked: NUMBER` at the end.
fn read(output: &str) -> Option<Streams> {
    let failures = output.lines().filter_map(|line| line.strip_prefix("failed: ").map(str::to_owned)).collect();
    let asked = output.lines().rev().find_map(|line| line.strip_prefix("asked: "))?.parse().ok()?;
    Some(Streams { asked, failures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_the_streams_is_read_from_what_was_written() {
        let streams = Streams { asked: 12, failures: vec!["reset".to_owned()] };
        assert_eq!(read("begun\nfailed: reset\nasked: 12\n"), Some(streams));
        assert_eq!(read("begun\n"), None);
    }
}
