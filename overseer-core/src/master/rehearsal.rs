//! The rehearsal, from the outside: a check process of the file that is to be the master reads a real snapshot. The master goes on meanwhile.

use crate::FetchError;
use crate::protocol::{CheckOrder, Checked};
use crate::role::RoleName;
use crate::signal::Signal;
use crate::supervisor::Generation;
use crate::sys::last_words::LastWords;
use crate::sys::link::{Link, Received};
use crate::sys::poll::Interest;
use crate::sys::process::{Exit, has_ended, kill_group, reap};
use crate::sys::signals::Original;
use crate::sys::spawn::Spawn;
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

#[derive(Debug)]
pub(crate) struct Rehearsal {
    pub(crate) generation: Generation,
    pid: Pid,
    link: Option<Link>,
    last_words: LastWords,
    token: String,
    said: Option<(Checked, Option<Pid>)>,
    fault: Option<String>,
}

impl Rehearsal {
    pub(crate) fn start(program: BorrowedFd<'_>, generation: Generation, snapshot: File, original: &Original) -> io::Result<Self> {
        let (last_words, writer) = LastWords::pipe()?;
        let spawn = Spawn {
            program,
            role: RoleName::Rehearsal,
            quiet: Some(writer.as_fd()),
            own_group: true,
            expendable: true,
            parent_death_signal: Signal::KILL,
            original,
        };
        let (pid, mut link) = spawn.start()?;
        let token = format!("{:032x}", fastrand::u128(..));
        let order = CheckOrder { token: token.clone(), snapshot: true };
        let fault = link.send(&order, [snapshot.into()]).err().map(|error| FetchError::chain(&error));
        Ok(Self { generation, pid, link: Some(link), last_words, token, said: None, fault })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// What to wait for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = Interest<'_>> {
        let link = self.link.as_ref().map(|link| Interest { descriptor: link.as_fd(), write: link.wants_write() });
        let stderr = self.last_words.descriptor().map(|descriptor| Interest { descriptor, write: false });
        link.into_iter().chain(stderr)
    }

    pub(crate) fn kill(&mut self) {
        self.fault.get_or_insert_with(|| "it did not read the snapshot in check_timeout and was killed".to_owned());
        kill_group(self.pid);
    }

    /// Takes in what has come.
    pub(crate) fn read(&mut self) {
        self.last_words.read();
        while let Some(link) = &mut self.link {
            match link.flush().and_then(|()| link.receive::<Checked>()) {
                Ok(Received::Message(checked, _)) => self.said = Some((checked, link.sender())),
                Ok(Received::ExecFailed(error)) => self.fault = Some(format!("it cannot be executed: {error}")),
                Ok(Received::Nothing) => return,
                Ok(Received::Ended) => self.link = None,
                Err(error) => {
                    self.fault = Some(FetchError::chain(&error));
                    self.link = None;
                    kill_group(self.pid);
                }
            }
        }
    }

    /// What came of it, once the process has ended.
    pub(crate) fn take_end(&mut self) -> Option<Result<(), String>> {
        if !has_ended(self.pid) {
            return None;
        }
        kill_group(self.pid);
        // Before the number is given back: what is read may be a reason to kill.
        self.read();
        let (_, exit) = reap(Some(self.pid))?;
        Some(self.judge(exit).map_err(|why| format!("{why}{}", self.last_words)))
    }

    fn judge(&mut self, exit: Exit) -> Result<(), String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        match self.said.take() {
            Some((checked, sender)) if sender != Some(self.pid) || checked.token != self.token => {
                Err("its check was answered by something else".to_owned())
            }
            Some((Checked { problem: Some(problem), .. } | Checked { snapshot_problem: Some(problem), .. }, _)) => Err(problem),
            Some((checked, _)) if !checked.reads_snapshots => Err("it was built before masters could be replaced".to_owned()),
            Some(_) if exit.is_success() => Ok(()),
            Some(_) | None => Err(format!("its check of the snapshot ended with {exit}")),
        }
    }
}
