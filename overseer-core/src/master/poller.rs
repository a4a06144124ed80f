//! The poll process, from the outside: started for one look, listened to, and killed with its whole process group when it is over.

use super::aside::{Aside, Ended, Said};
use crate::FetchError;
use crate::binary::Identity;
use crate::protocol::{FromPoll, Order, Outcome, Report, Staged};
use crate::role::RoleName;
use crate::sys::poll::Interest;
use crate::sys::signals::Original;
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A running poll process.
#[derive(Debug)]
pub(crate) struct Poller {
    process: Aside,
    report: Option<(Report, Option<OwnedFd>)>,
    is_overdue: bool,
}

/// What came of a look: the report, and the staged file if there is one.
pub(crate) type Looked = (Report, Option<(Staged, OwnedFd)>);

impl Poller {
    /// Starts a look, by the program that serves.
    pub(crate) fn start(program: BorrowedFd<'_>, order: &Order, original: &Original) -> io::Result<Self> {
        let process = Aside::start(program, RoleName::Poll, order, [], original)?;
        Ok(Self { process, report: None, is_overdue: false })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    pub(crate) fn interests(&self) -> impl Iterator<Item = Interest<'_>> {
        self.process.interests()
    }

    /// Ends it and all that it started. It is reaped when the kernel says so.
    pub(crate) fn kill(&mut self, is_overdue: bool) {
        self.is_overdue |= is_overdue;
        self.process.kill();
    }

    /// Takes in what has come. `true` if it has moved.
    pub(crate) fn read(&mut self) -> bool {
        let said = self.process.read();
        self.heard(said)
    }

    fn heard(&mut self, said: Vec<Said<FromPoll>>) -> bool {
        let mut has_moved = false;
        for Said { message, beside, .. } in said {
            match message {
                FromPoll::Progress { .. } => has_moved = true,
                FromPoll::Report(report) => {
                    has_moved = true;
                    self.report = Some((*report, beside.into_iter().next()));
                    // It has nothing more to do, and whatever else keeps it alive must not keep the report.
                    self.process.kill();
                }
                FromPoll::Unknown => {}
            }
        }
        has_moved
    }

    /// What came of the look, if the process has ended.
    pub(crate) fn take_end(&mut self) -> Option<Looked> {
        let (said, ended) = self.process.take_end()?;
        self.heard(said);
        Some(self.judge(ended))
    }

    fn judge(&mut self, ended: Ended) -> Looked {
        let why = match (self.report.take(), self.is_overdue, self.process.fault()) {
            (Some((report, file)), _, None) => return self.with_staged(report, file),
            (_, true, _) => "it made no progress for fetch_timeout and was killed".to_owned(),
            (_, _, Some(fault)) => format!("the poll process {fault}"),
            (None, false, None) => format!("the poll process ended without a report ({ended})"),
        };
        let outcome = Outcome::Failed { error: FetchError::passing(format!("{why}{}", self.process.last_words())) };
        (Report { outcome, memo: None, running_id: None, packaged: None }, None)
    }

    /// A staged file counts only if the descriptor that came is the file at the path that was named.
    fn with_staged(&self, report: Report, file: Option<OwnedFd>) -> Looked {
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
