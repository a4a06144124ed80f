//! The end of what a process writes to its standard error, which belongs to the reason why it failed.

use super::poll::pipe;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::read;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How much of the end is kept.
pub(crate) const LAST_WORDS_BYTES_MAX: usize = 4096;
/// Reads in one turn, of up to as many bytes, so that a process that writes without end keeps nobody from everything else.
const READS_MAX: usize = 32;

/// Our end of the pipe, and what has come out of it.
#[derive(Debug)]
pub(crate) struct LastWords {
    /// `None` once the other end is closed.
    pipe: Option<OwnedFd>,
    tail: Vec<u8>,
}

impl LastWords {
    /// A pipe: our end, and the one for the process.
    pub(crate) fn pipe() -> io::Result<(Self, OwnedFd)> {
        let (pipe, writer) = pipe()?;
        // Only our end: the flag belongs to the pipe's end, and programs do not expect it on theirs.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { pipe: Some(pipe), tail: Vec::new() }, writer))
    }

    /// What to wait for; nothing once the other end is closed.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    #[cfg(test)]
    pub(crate) fn tail_bytes(&self) -> usize {
        self.tail.len()
    }

    /// Takes in what has come. Does not wait.
    pub(crate) fn read(&mut self) {
        let mut buffer = [0; LAST_WORDS_BYTES_MAX];
        for _ in 0..READS_MAX {
            let Some(pipe) = &self.pipe else { return };
            match read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(bytes) => {
                    self.tail.extend_from_slice(&buffer[..bytes]);
                    let excess = self.tail.len().saturating_sub(LAST_WORDS_BYTES_MAX);
                    self.tail.drain(..excess);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// The end of a reason: nothing if nothing was written.
impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = String::from_utf8_lossy(&self.tail);
        match words.trim() {
            "" => Ok(()),
            words => write!(f, "; its standard error ends with: {words}"),
        }
    }
}
