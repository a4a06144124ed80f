//! A process that works beside the generations and then ends, from the outside: started with an order, listened to, and killed with its whole process
//! group when it is over.

use crate::FetchError;
use crate::role::RoleName;
use crate::signal::Signal;
use crate::sys::last_words::LastWords;
use crate::sys::link::{Link, LinkError, Received};
use crate::sys::poll::Interest;
use crate::sys::process::{Exit, has_ended, is_child, kill_group, reap};
use crate::sys::signals::Original;
use crate::sys::spawn::Spawn;
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A message of it.
#[derive(Debug)]
pub(super) struct Said<T> {
    pub(super) message: T,
    pub(super) beside: Vec<OwnedFd>,
    /// The kernel vouches that the process itself has said it, and not one that it started.
    pub(super) is_its_own: bool,
}

/// A running process of this kind.
#[derive(Debug)]
pub(super) struct Aside {
    pid: Pid,
    /// `None` once it has closed its end, or cannot be understood.
    link: Option<Link>,
    last_words: LastWords,
    fault: Option<String>,
}

impl Aside {
    /// Starts the file in the role, with the order and what belongs to that.
    ///
    /// # Errors
    /// There is no process. One that does not take its order is killed, and has a [`fault`](Self::fault).
    pub(super) fn start(
        program: BorrowedFd<'_>,
        role: RoleName,
        order: &impl Serialize,
        beside: impl IntoIterator<Item = OwnedFd>,
        original: &Original,
    ) -> io::Result<Self> {
        let (last_words, writer) = LastWords::pipe()?;
        let spawn = Spawn {
            program,
            role,
            quiet: Some(writer.as_fd()),
            own_group: true,
            expendable: true,
            parent_death_signal: Signal::KILL,
            original,
        };
        let (pid, mut link) = spawn.start()?;
        let sent = link.send(order, beside);
        let mut this = Self { pid, link: Some(link), last_words, fault: None };
        if let Err(error) = sent {
            this.misbehaved(&error);
        }
        Ok(this)
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// What to wait for: its link and its standard error.
    pub(super) fn interests(&self) -> impl Iterator<Item = Interest<'_>> {
        let link = self.link.as_ref().map(|link| Interest { descriptor: link.as_fd(), write: link.wants_write() });
        let stderr = self.last_words.descriptor().map(|descriptor| Interest { descriptor, write: false });
        link.into_iter().chain(stderr)
    }

    /// Ends it and all that it started. It is reaped when the kernel says so.
    pub(super) fn kill(&self) {
        // Once it is reaped, by whomever, its number and its group's may be somebody else's.
        if is_child(self.pid) {
            kill_group(self.pid);
        }
    }

    /// Takes in what has come, in order.
    pub(super) fn read<T: DeserializeOwned>(&mut self) -> Vec<Said<T>> {
        self.last_words.read();
        let mut said = Vec::new();
        while let Some(link) = &mut self.link {
            match link.flush().and_then(|()| link.receive()) {
                Ok(Received::Message(message, beside)) => {
                    said.push(Said { message, beside, is_its_own: link.sender() == Some(self.pid) });
                }
                Ok(Received::ExecFailed(error)) => self.fault = Some(format!("cannot be executed: {error}")),
                Ok(Received::Nothing) => break,
                Ok(Received::Ended) => self.link = None,
                Err(error) => self.misbehaved(&error),
            }
        }
        said
    }

    fn misbehaved(&mut self, error: &LinkError) {
        self.fault = Some(format!("cannot be talked to: {}", FetchError::chain(error)));
        self.link = None;
        self.kill();
    }

    /// Why nothing can come of it, as the rest of a sentence about it.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// What it has said since it was read, and how it ended, if it has. What it started and left behind ends here too.
    pub(super) fn take_end<T: DeserializeOwned>(&mut self) -> Option<(Vec<Said<T>>, Ended)> {
        if !has_ended(self.pid) {
            return None;
        }
        self.kill();
        // Before the number is given back: what is read may be a reason to kill.
        let said = self.read();
        Some((said, Ended(reap(Some(self.pid)).map(|(_, exit)| exit))))
    }

    /// The end of a reason: the end of what it wrote to its standard error, if anything.
    pub(super) fn last_words(&self) -> &LastWords {
        &self.last_words
    }
}

/// How such a process ended; `None` if other code in this process has reaped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended(Option<Exit>);

impl Ended {
    pub(super) fn is_success(self) -> bool {
        self.0.is_some_and(Exit::is_success)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(exit) => exit.fmt(f),
            None => f.write_str("an exit that other code in the master's process has taken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::testing::until;
    use crate::sys::last_words::LAST_WORDS_BYTES_MAX;
    use std::process::{Command, Stdio};

    fn aside(pid: Pid, last_words: LastWords) -> Aside {
        Aside { pid, link: None, last_words, fault: None }
    }

    #[test]
    fn a_process_that_writes_errors_without_end_does_not_hold_the_master_up() {
        let (last_words, writer) = LastWords::pipe().expect("a pipe");
        // Ends with an error when the pipe is closed.
        let writing = std::thread::spawn(move || while nix::unistd::write(&writer, &[b'x'; 65536]).is_ok() {});
        let mut aside = aside(Pid::from_raw(i32::MAX), last_words);
        until("its last words are there", || {
            aside.read::<()>();
            aside.last_words.tail_bytes() == LAST_WORDS_BYTES_MAX
        });
        drop(aside);
        writing.join().expect("it ends");
    }

    #[test]
    fn the_end_of_one_that_other_code_has_reaped_is_told_and_its_number_is_nobodys_to_kill() {
        let mut child = Command::new("sh").args(["-c", "exit 0"]).stdin(Stdio::null()).spawn().expect("started");
        let mut aside = aside(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), LastWords::pipe().expect("a pipe").0);
        child.wait().expect("reaped");
        let (_, ended) = aside.take_end::<()>().expect("it is gone");
        assert_eq!(ended, Ended(None));
        assert!(!ended.is_success() && ended.to_string().contains("other code"), "{ended}");
    }

    #[test]
    fn one_that_is_none_of_our_children_is_not_killed() {
        // A grandchild, as a number that was given back may be anybody's.
        let mut parent = Command::new("sh").args(["-c", "sleep 60 & echo $!; wait"]).stdout(Stdio::piped()).spawn().expect("started");
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(parent.stdout.take().expect("a pipe")), &mut line).expect("a line");
        let stranger = Pid::from_raw(line.trim().parse().expect("a pid"));
        let mut aside = aside(stranger, LastWords::pipe().expect("a pipe").0);
        aside.kill();
        assert!(aside.take_end::<()>().is_some());
        let is_alive = crate::sys::process::start_of(stranger).is_some();
        let _ = crate::sys::process::kill(stranger, Signal::KILL);
        parent.wait().expect("it ends with its child");
        assert!(is_alive);
    }
}
