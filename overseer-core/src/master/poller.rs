//! The poll process, from the outside: started for one look, listened to, and killed with its whole process group when it is over.

use crate::FetchError;
use crate::binary::Identity;
use crate::protocol::{FromPoll, Order, Outcome, Report, Staged};
use crate::role::RoleName;
use crate::signal::Signal;
use crate::sys::last_words::LastWords;
use crate::sys::link::{Link, LinkError, Received};
use crate::sys::poll::Interest;
use crate::sys::process::{Exit, has_ended, kill_group, reap};
use crate::sys::signals::Original;
use crate::sys::spawn::Spawn;
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A running poll process.
#[derive(Debug)]
pub(crate) struct Poller {
    pid: Pid,
    /// `None` once it has closed its end, or cannot be understood.
    link: Option<Link>,
    last_words: LastWords,
    report: Option<(Report, Option<OwnedFd>)>,
    fault: Option<String>,
    is_overdue: bool,
}

/// What came of a look: the report, and the staged file if there is one.
pub(crate) type Ended = (Report, Option<(Staged, OwnedFd)>);

impl Poller {
    /// Starts a look, by the program that serves.
    pub(crate) fn start(program: BorrowedFd<'_>, order: &Order, original: &Original) -> io::Result<Self> {
        let (last_words, writer) = LastWords::pipe()?;
        let spawn = Spawn {
            program,
            role: RoleName::Poll,
            quiet: Some(writer.as_fd()),
            own_group: true,
            expendable: true,
            parent_death_signal: Signal::KILL,
            original,
        };
        let (pid, mut link) = spawn.start()?;
        let sent = link.send(order, []);
        let mut this = Self { pid, link: Some(link), last_words, report: None, fault: None, is_overdue: false };
        if let Err(error) = sent {
            this.misbehaved(&error);
        }
        Ok(this)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// What to wait for: its link and its standard error.
    pub(crate) fn interests(&self) -> impl Iterator<Item = Interest<'_>> {
        let link = self.link.as_ref().map(|link| Interest { descriptor: link.as_fd(), write: link.wants_write() });
        let stderr = self.last_words.descriptor().map(|descriptor| Interest { descriptor, write: false });
        link.into_iter().chain(stderr)
    }

    /// Ends it and all that it started. It is reaped when the kernel says so.
    pub(crate) fn kill(&mut self, is_overdue: bool) {
        self.is_overdue |= is_overdue;
        kill_group(self.pid);
    }

    /// Takes in what has come. `true` if it has moved.
    pub(crate) fn read(&mut self) -> bool {
        self.last_words.read();
        let mut has_moved = false;
        while let Some(link) = &mut self.link {
            match link.flush().and_then(|()| link.receive()) {
                Ok(Received::Message(FromPoll::Progress { .. }, _)) => has_moved = true,
                Ok(Received::Message(FromPoll::Report(report), descriptors)) => {
                    has_moved = true;
                    self.report = Some((*report, descriptors.into_iter().next()));
                    // It has nothing more to do, and whatever else keeps it alive must not keep the report.
                    kill_group(self.pid);
                }
                Ok(Received::Message(FromPoll::Unknown, _)) => {}
                Ok(Received::Nothing) => break,
                Ok(Received::Ended) => self.link = None,
                Ok(Received::ExecFailed(error)) => self.fault = Some(format!("the poll process could not be executed: {error}")),
                Err(error) => self.misbehaved(&error),
            }
        }
        has_moved
    }

    fn misbehaved(&mut self, error: &LinkError) {
        self.fault = Some(format!("the poll process cannot be talked to: {}", FetchError::chain(error)));
        self.link = None;
        kill_group(self.pid);
    }

    /// What came of the look, if the process has ended. What it started and left behind ends here too.
    pub(crate) fn take_end(&mut self) -> Option<Ended> {
        if !has_ended(self.pid) {
            return None;
        }
        kill_group(self.pid);
        // Before the number is given back: what is read may be a reason to kill.
        self.read();
        let (_, exit) = reap(Some(self.pid))?;
        Some(self.judge(exit))
    }

    fn judge(&mut self, exit: Exit) -> Ended {
        let why = match (self.report.take(), self.is_overdue, self.fault.take()) {
            (Some((report, file)), _, None) => return self.with_staged(report, file),
            (_, true, _) => "it made no progress for fetch_timeout and was killed".to_owned(),
            (_, _, Some(fault)) => fault,
            (None, false, None) => format!("the poll process ended without a report ({exit})"),
        };
        let outcome = Outcome::Failed { error: FetchError::passing(format!("{why}{}", self.last_words)) };
        (Report { outcome, memo: None, running_id: None, packaged: None }, None)
    }

    /// A staged file counts only if the descriptor that came is the file at the path that was named.
    fn with_staged(&self, report: Report, file: Option<OwnedFd>) -> Ended {
        let Outcome::Staged(staged) = &report.outcome else { return (report, None) };
        let is_the_one = file.as_ref().is_some_and(|file| {
            let open = file.try_clone().and_then(|file| File::from(file).metadata());
            let there = std::fs::symlink_metadata(&staged.path);
            matches!((open, there), (Ok(open), Ok(there)) if Identity::of(&open) == staged.identity && Identity::of(&there) == staged.identity)
        });
        match file {
            Some(file) if is_the_one => {
                let staged = staged.clone();
                (report, Some((staged, file)))
            }
            _ => {
                let why = format!("the staged file {} is not the one that was proved", staged.path.display());
                (Report { outcome: Outcome::Failed { error: FetchError::passing(why) }, ..report }, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::last_words::LAST_WORDS_BYTES_MAX;

    #[test]
    fn a_poll_process_that_writes_errors_without_end_does_not_hold_the_master_up() {
        let (last_words, writer) = LastWords::pipe().expect("a pipe");
        // Ends with an error when the pipe is closed.
        let writing = std::thread::spawn(move || while nix::unistd::write(&writer, &[b'x'; 65536]).is_ok() {});
        let pid = Pid::from_raw(i32::MAX);
        let mut poller = Poller { pid, link: None, last_words, report: None, fault: None, is_overdue: false };
        crate::binary::testing::until("its last words are there", || {
            poller.read();
            poller.last_words.tail_bytes() == LAST_WORDS_BYTES_MAX
        });
        drop(poller);
        writing.join().expect("it ends");
    }
}
