//! The rehearsal, from the outside: a check process of the file that is to be the master reads a real snapshot. The master goes on meanwhile.

use super::aside::{Aside, Ended, Said};
use crate::protocol::{CheckOrder, Checked};
use crate::role::RoleName;
use crate::supervisor::Generation;
use crate::sys::poll::Interest;
use crate::sys::signals::Original;
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

#[derive(Debug)]
pub(crate) struct Rehearsal {
    pub(crate) generation: Generation,
    process: Aside,
    token: String,
    said: Option<Said<Checked>>,
    is_overdue: bool,
}

impl Rehearsal {
    pub(crate) fn start(program: BorrowedFd<'_>, generation: Generation, snapshot: File, original: &Original) -> io::Result<Self> {
        let token = format!("{:032x}", fastrand::u128(..));
        let order = CheckOrder { token: token.clone(), snapshot: true };
        let process = Aside::start(program, RoleName::Successor, &order, [snapshot.into()], original)?;
        Ok(Self { generation, process, token, said: None, is_overdue: false })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    pub(crate) fn interests(&self) -> impl Iterator<Item = Interest<'_>> {
        self.process.interests()
    }

    pub(crate) fn kill(&mut self) {
        self.is_overdue = true;
        self.process.kill();
    }

    /// Takes in what has come.
    pub(crate) fn read(&mut self) {
        let said = self.process.read();
        self.heard(said);
    }

    fn heard(&mut self, said: Vec<Said<Checked>>) {
        self.said = said.into_iter().next_back().or(self.said.take());
    }

    /// What came of it, once the process has ended.
    pub(crate) fn take_end(&mut self) -> Option<Result<(), String>> {
        let (said, ended) = self.process.take_end()?;
        self.heard(said);
        Some(self.judge(ended).map_err(|why| format!("{why}{}", self.process.last_words())))
    }

    fn judge(&mut self, ended: Ended) -> Result<(), String> {
        if let Some(fault) = self.process.fault() {
            return Err(format!("it {fault}"));
        }
        if self.is_overdue {
            return Err("it did not read the snapshot in check_timeout and was killed".to_owned());
        }
        let Some(Said { message: checked, is_its_own, .. }) = self.said.take() else {
            return Err(format!("its check of the snapshot ended with {ended}"));
        };
        match checked {
            checked if !is_its_own || checked.token != self.token => Err("its check was answered by something else".to_owned()),
            Checked { problem: Some(problem), .. } | Checked { snapshot_problem: Some(problem), .. } => Err(problem),
            checked if !checked.reads_snapshots => Err("it was built before masters could be replaced".to_owned()),
            _ if ended.is_success() => Ok(()),
            _ => Err(format!("its check of the snapshot ended with {ended}")),
        }
    }
}
