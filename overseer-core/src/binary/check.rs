//! The self-check: a staged release is started in the role *check* and has to say that it could do its work here.
//!
//! It proves that the file runs at all on this machine (loader, libraries, instructions), that it is an overseer program which
//! speaks our protocol, and that its settings are usable. It does not run the program.

use super::{Identity, Refusal};
use crate::protocol::{CheckOrder, Checked, VERSIONS};
use crate::role::RoleName;
use crate::signal::Signal;
use crate::sys::files::process_descriptor;
use crate::sys::last_words::LastWords;
use crate::sys::link::{Link, LinkError, Received};
use crate::sys::process::{self, Exit};
use crate::sys::signals::{ChildrenStay, Original};
use crate::sys::spawn::{Spawn, is_not_executable};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::exit;
use std::time::{Duration, Instant};

/// How long one wait may take on a kernel that has no descriptors for processes (before Linux 5.3).
const WAIT_WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(10);

/// The check process: answers the one question, and ends. `problem` is what is wrong with the settings on this machine.
pub(crate) fn answer(mut link: Link, problem: Option<String>) -> ! {
    match link.receive::<CheckOrder>() {
        Ok(Received::Message(order, descriptors)) => {
            let executable = super::Place::running().ok();
            let snapshot = descriptors.into_iter().next().filter(|_| order.snapshot).map(File::from);
            let snapshot_problem = snapshot.and_then(|file| crate::master::snapshot::problem(&file));
            let checked =
                Checked { token: order.token, protocol: VERSIONS, problem, executable, reads_snapshots: order.snapshot, snapshot_problem };
            let said = link.send(&checked, []);
            exit(i32::from(said.is_err()))
        }
        // Whoever asked is gone; nobody is left to be told.
        Ok(_) | Err(_) => exit(1),
    }
}

/// Starts the file in the role check, and waits until it has answered and ended.
///
/// `file` must be open for reading and nobody may have it open for writing. Blocks for at most twice `timeout`, once until the file can be
/// executed, once for the check, and for as long as the system takes to open it. Kills what is left of the process and its group before it returns. Answers which file the process executed at last:
/// that of a script is the program that it started. `None` if the process did not say so.
///
/// # Errors
/// It failed (held back), or could not be tried (nobody is blamed).
pub(crate) fn prove(file: &File, path: &Path, timeout: Duration, original: &Original) -> Result<Option<Identity>, Refusal> {
    let _children_stay = ChildrenStay::begin();
    let busy_until = Instant::now() + timeout;
    loop {
        let mut attempt = Attempt::start(file, original).map_err(|error| blameless(path, &error))?;
        let end = attempt.watch(Instant::now() + timeout);
        let exit = attempt.end();
        match attempt.exec_error {
            // `Spawn` has tried for a while already, with the descriptors that it was started with; a new one is started with fewer.
            Some(Errno::ETXTBSY) if Instant::now() < busy_until => {}
            Some(errno) => return Err(not_executed(path, errno)),
            None => return attempt.judge(end, exit, timeout),
        }
    }
}

fn blameless(path: &Path, error: &io::Error) -> Refusal {
    Refusal::blameless(format!("could not start its self-check from {}: {error}", path.display()))
}

fn not_executed(path: &Path, errno: Errno) -> Refusal {
    let error = io::Error::from(errno);
    match errno {
        Errno::ENOENT => Refusal::reject("needs a dynamic loader that is not here"),
        errno if is_not_executable(errno) => Refusal::reject(format!("is refused by the kernel as an executable: {error}")),
        // A mount option, a security module, no memory, still open for writing.
        _ => Refusal::blameless(format!("is not executed by the system ({}: {error})", path.display())),
    }
}

/// How watching a check process came to its end.
#[derive(Debug)]
enum End {
    Exited,
    TimedOut,
    Failed(io::Error),
}

/// One check process.
struct Attempt {
    pid: Pid,
    link: Link,
    last_words: LastWords,
    process: Option<OwnedFd>,
    token: String,
    said: Option<(Checked, Option<Pid>)>,
    nonsense: Option<LinkError>,
    exec_error: Option<Errno>,
    link_ended: bool,
}

impl Attempt {
    fn start(file: &File, original: &Original) -> io::Result<Self> {
        let token = token()?;
        let (last_words, their_stderr) = LastWords::pipe()?;
        let spawn = Spawn {
            program: file.as_fd(),
            role: RoleName::Check,
            quiet: Some(their_stderr.as_fd()),
            own_group: true,
            expendable: true,
            parent_death_signal: Signal::KILL,
            original,
        };
        let (pid, mut link) = spawn.start()?;
        // An end before this is read shows in `watch`.
        let nonsense = link.send(&CheckOrder { token: token.clone(), snapshot: false }, []).err();
        Ok(Self {
            pid,
            link,
            last_words,
            process: process_descriptor(pid).ok(),
            token,
            said: None,
            nonsense,
            exec_error: None,
            link_ended: false,
        })
    }

    /// Listens until the process has exited.
    fn watch(&mut self, deadline: Instant) -> End {
        loop {
            match self.wait(deadline) {
                Ok(true) => {}
                Ok(false) => return End::TimedOut,
                Err(error) => return End::Failed(error),
            }
            // First, so that all it said before it exited is read below.
            let exited = process::has_ended(self.pid);
            self.read_link();
            self.last_words.read();
            if exited {
                return End::Exited;
            }
        }
    }

    /// Waits until something happens; `false` if the deadline passed before.
    fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = if self.process.is_some() { left } else { left.min(WAIT_WITHOUT_DESCRIPTOR) };
        // Rounded up, so that the last millisecond is not spent spinning.
        let timeout = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let mut waiting = Vec::with_capacity(3);
        waiting.extend(self.process.as_ref().map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN)));
        if !self.link_ended {
            waiting.push(PollFd::new(self.link.as_fd(), PollFlags::POLLIN));
        }
        waiting.extend(self.last_words.descriptor().map(|stderr| PollFd::new(stderr, PollFlags::POLLIN)));
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read_link(&mut self) {
        while !self.link_ended {
            match self.link.receive::<Checked>() {
                Ok(Received::Message(checked, _)) => self.said = Some((checked, self.link.sender())),
                Ok(Received::ExecFailed(error)) => self.exec_error = Some(Errno::from_raw(error.raw_os_error().unwrap_or_default())),
                Ok(Received::Nothing) => return,
                Ok(Received::Ended) => self.link_ended = true,
                Err(error) => {
                    self.nonsense = Some(error);
                    self.link_ended = true;
                }
            }
        }
    }

    /// Kills what is left of the process and its group, and reaps it. `None` if somebody else did.
    fn end(&mut self) -> Option<Exit> {
        // Before it is reaped: until then nobody else can have its number. If somebody in this process has reaped it, it is too late.
        if process::is_child(self.pid) {
            process::kill_group(self.pid);
        }
        process::reap_at_its_end(self.pid)
    }

    fn judge(&self, end: End, exit: Option<Exit>, timeout: Duration) -> Result<Option<Identity>, Refusal> {
        let hold_back = |what: String| Err(Refusal::hold_back(format!("{what}{}", self.last_words)));
        match end {
            End::Failed(error) => return Err(Refusal::blameless(format!("could not be watched in its self-check: {error}"))),
            End::TimedOut if self.said.is_some() => {
                return hold_back(format!("answered its self-check and did not end within {timeout:?}"));
            }
            End::TimedOut => return hold_back(format!("did not answer its self-check within {timeout:?}")),
            End::Exited => {}
        }
        if let Some(error) = &self.nonsense {
            return hold_back(format!("failed its self-check: {}", crate::FetchError::chain(error)));
        }
        let Some((checked, sender)) = &self.said else {
            let how = exit.map_or_else(|| "it is unknown how".to_owned(), |exit| exit.to_string());
            return hold_back(format!("ended its self-check without an answer ({how})"));
        };
        // The kernel vouches for the sender; a pid namespace between us would make it 0, which we never start.
        if *sender != Some(self.pid) {
            return hold_back(format!("had its self-check answered by another process ({sender:?}, not {})", self.pid));
        }
        if checked.token != self.token {
            return hold_back("answered something else to its self-check than what it was asked".to_owned());
        }
        if let Some(problem) = &checked.problem {
            return hold_back(format!("cannot be run here: {problem}"));
        }
        if VERSIONS.common(checked.protocol).is_none() {
            let (ours, theirs) = (VERSIONS, checked.protocol);
            return hold_back(format!(
                "speaks the protocol versions {} to {}, and this master {} to {}",
                theirs.min, theirs.max, ours.min, ours.max
            ));
        }
        match exit {
            Some(exit) if exit.is_success() => Ok(checked.executable),
            Some(exit) => hold_back(format!("answered its self-check and then ended with {exit}")),
            None => Err(Refusal::blameless(
                "ended its self-check in a way that nobody knows: something else reaps the children of this process",
            )),
        }
    }
}

/// 128 random bits, in hex.
fn token() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(super::hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Part};
    use super::*;
    use crate::protocol::Verdict;
    use std::os::unix::fs::PermissionsExt;

    fn check(part: Part, timeout: Duration) -> Result<(), Refusal> {
        let directory = testing::directory();
        let path = directory.path().join("release");
        testing::program(&path, part);
        prove(&File::open(&path).expect("opened"), &path, timeout, &Original::capture().expect("signals")).map(drop)
    }

    fn held_back(part: Part) -> String {
        let refusal = check(part, testing::PATIENCE).expect_err("it fails");
        assert_eq!(refusal.verdict, Verdict::HoldBack, "{}", refusal.why);
        refusal.why
    }

    #[test]
    fn a_working_program_passes() {
        assert_eq!(check(Part::Good, testing::PATIENCE), Ok(()));
    }

    #[test]
    fn each_way_to_fail_is_told() {
        for (part, word) in [
            (Part::Problem, "cannot be run here: port 99999 is no port"),
            (Part::OtherToken, "something else to its self-check than what it was asked"),
            (Part::NewProtocol, "speaks the protocol versions 7 to 9"),
            (Part::ExitsFirst, "ended its self-check without an answer (exit code 3); its standard error ends with: no such library"),
            (Part::ExitsAfter, "answered its self-check and then ended with exit code 4"),
            (Part::Crashes, "without an answer (SIGABRT)"),
            (Part::Garbage, "not a message"),
            (Part::FromItsChild, "answered by another process"),
        ] {
            let why = held_back(part);
            assert!(why.contains(word), "{part:?}: {why}");
        }
    }

    #[test]
    fn its_standard_error_is_cut_to_the_last_4_kib() {
        let why = held_back(Part::Talks);
        assert!(why.ends_with("the last line"), "{why}");
        assert!(why.len() < crate::sys::last_words::LAST_WORDS_BYTES_MAX + 200, "{} bytes", why.len());
    }

    /// Checks with ever more time, until the machine was fast enough for the program to get as far as `word` says.
    fn timed_out(part: Part, word: &str) -> String {
        for timeout in [300, 3000, 20_000].map(Duration::from_millis) {
            let before = Instant::now();
            let refusal = check(part, timeout).expect_err("it does not end");
            assert_eq!(refusal.verdict, Verdict::HoldBack, "{}", refusal.why);
            assert!(refusal.why.contains(&format!("within {timeout:?}")), "{}", refusal.why);
            assert!(before.elapsed() < timeout + testing::PATIENCE, "{:?}", before.elapsed());
            if refusal.why.contains(word) {
                return refusal.why;
            }
        }
        panic!("it never got as far as {word:?}");
    }

    #[test]
    fn one_that_hangs_is_killed_with_its_children() {
        let why = timed_out(Part::Hangs, "child ");
        let pid = why.rsplit(' ').next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw).expect("its child's pid");
        testing::until("its child is gone", || testing::is_gone(pid));
    }

    #[test]
    fn one_that_answers_and_stays_is_killed() {
        timed_out(Part::Stays, "answered its self-check and did not end");
    }

    #[test]
    fn a_file_that_cannot_be_executed_goes_to_no_shell() {
        let directory = testing::directory();
        let path = directory.path().join("release");
        let trace = directory.path().join("trace");
        std::fs::write(&path, format!("echo ran > {}\n", trace.display())).expect("written");
        let original = Original::capture().expect("signals");
        let file = File::open(&path).expect("opened");
        let refusal = prove(&file, &path, testing::PATIENCE, &original).expect_err("no right to execute");
        assert_eq!(refusal.verdict, Verdict::Blameless, "{}", refusal.why);
        file.set_permissions(std::fs::Permissions::from_mode(0o700)).expect("mode set");
        let refusal = prove(&file, &path, testing::PATIENCE, &original).expect_err("no executable");
        assert_eq!(refusal.verdict, Verdict::Reject);
        assert!(refusal.why.contains("Exec format error"), "{}", refusal.why);
        assert!(!trace.exists(), "a shell ran it");
    }

    #[test]
    fn a_script_answers_by_the_program_that_it_becomes_and_by_no_other() {
        let directory = testing::directory();
        let (path, program) = (directory.path().join("release"), directory.path().join("program"));
        testing::program(&program, Part::Good);
        let original = Original::capture().expect("signals");
        let checked = |contents: String| {
            std::fs::write(&path, contents).expect("written");
            let file = File::open(&path).expect("opened");
            file.set_permissions(std::fs::Permissions::from_mode(0o700)).expect("mode set");
            prove(&file, &path, testing::PATIENCE, &original)
        };
        let identity = Identity::of(&std::fs::metadata(&program).expect("metadata"));
        assert_eq!(checked(format!("#!/bin/sh\nexec {} \"$@\"\n", program.display())), Ok(Some(identity)));
        let why = |contents: String| checked(contents).expect_err("nobody answers").why;
        let child = why(format!("#!/bin/sh\n{} \"$@\"\nexit 0\n", program.display()));
        assert!(child.contains("answered by another process"), "{child}");
        assert!(why("#!/bin/sh\nexit 0\n".to_owned()).contains("without an answer"));
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_tried_again_for_a_while() {
        let directory = testing::directory();
        let path = directory.path().join("release");
        testing::program(&path, Part::Good);
        let writer = File::options().append(true).open(&path).expect("opened");
        let file = File::open(&path).expect("opened");
        let original = Original::capture().expect("signals");
        let refusal = prove(&file, &path, Duration::from_secs(1), &original).expect_err("it is busy");
        assert_eq!(refusal.verdict, Verdict::Blameless);
        assert!(refusal.why.contains("busy"), "{}", refusal.why);

        let (tell, told) = std::sync::mpsc::channel();
        let closer = std::thread::spawn(move || {
            told.recv_timeout(testing::PATIENCE).expect("told");
            drop(writer);
        });
        tell.send(()).expect("said");
        let identity = Identity::of(&file.metadata().expect("metadata"));
        assert_eq!(prove(&file, &path, testing::PATIENCE, &original), Ok(Some(identity)));
        closer.join().expect("closed");
    }
}
