//! Processes: who they are, how they end, and how we do.

use crate::signal::Signal;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;
use std::fmt;
use std::io;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(Signal),
}

impl Exit {
    /// Whether the process ended of its own accord and found nothing wrong.
    pub(crate) fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "{signal}"),
        }
    }
}

/// Reaps one ended process: `pid`, or any child if `None`. Does not block; `None` if none has ended.
pub(crate) fn reap(pid: Option<Pid>) -> Option<(Pid, Exit)> {
    wait_for(pid, libc::WNOHANG)
}

/// Waits until the process has ended, and reaps it; `None` if somebody else has.
pub(crate) fn wait_for_end(pid: Pid) -> Option<Exit> {
    wait_for(Some(pid), 0).map(|(_, exit)| exit)
}

/// Not nix's `waitpid`: that reaps a process which a real-time signal has ended, and then answers EINVAL, since it has no name for the signal.
fn wait_for(pid: Option<Pid>, flags: libc::c_int) -> Option<(Pid, Exit)> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid(2) writes one number to `status`.
        let ended = unsafe { libc::waitpid(pid.map_or(-1, Pid::as_raw), &raw mut status, flags) };
        return match Errno::result(ended) {
            Err(Errno::EINTR) => continue,
            Ok(0) | Err(_) => None,
            Ok(pid) if libc::WIFEXITED(status) => Some((Pid::from_raw(pid), Exit::Code(libc::WEXITSTATUS(status)))),
            Ok(pid) => Signal::from_raw(libc::WTERMSIG(status)).map(|signal| (Pid::from_raw(pid), Exit::Signal(signal))),
        };
    }
}

/// A child that has ended and stays to be reaped: `pid`, or any.
fn ended(pid: Option<Pid>) -> Result<Option<Pid>, Errno> {
    let (kind, number) = pid.map_or((libc::P_ALL, 0), |pid| (libc::P_PID, pid.as_raw().unsigned_abs()));
    // SAFETY: an all-zero siginfo_t is a valid one to be written over.
    let mut information = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    // SAFETY: waitid(2) writes one siginfo_t to `information`.
    let result = unsafe { libc::waitid(kind, number, &raw mut information, libc::WEXITED | libc::WNOWAIT | libc::WNOHANG) };
    Errno::result(result)?;
    // SAFETY: waitid(2) has filled in the part of a SIGCHLD, or left it zero.
    let pid = unsafe { information.si_pid() };
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

/// Reaps processes that ended and are none of `ours`: PID 1 inherits the orphans of all others.
pub(crate) fn reap_others(ours: &[Pid]) {
    // One of ours is reaped with its own SIGCHLD, and the rest after it.
    while let Ok(Some(pid)) = ended(None)
        && !ours.contains(&pid)
        && reap(Some(pid)).is_some()
    {}
}

/// Whether the process has ended; it stays to be reaped, so that its number and its group's are nobody else's yet.
pub(crate) fn has_ended(pid: Pid) -> bool {
    !matches!(ended(Some(pid)), Ok(None) | Err(Errno::EINTR))
}

/// Makes memory pressure take the process as late as this one.
pub(crate) fn trust(pid: Pid) {
    // Without the right to do it, or without the process, there is nothing to be done.
    if let Ok(own) = std::fs::read("/proc/self/oom_score_adj") {
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), own);
    }
}

/// Sends a signal to a process that has not been reaped. One that is gone already is no error.
pub(crate) fn kill(pid: Pid, signal: Signal) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers and touches no memory of ours.
    let result = unsafe { libc::kill(pid.as_raw(), signal.as_raw()) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Kills a process and its whole process group, which it must be the leader of.
pub(crate) fn kill_group(pid: Pid) {
    // Until the process has made its group there is none, so the process itself is named too.
    let _ = kill(Pid::from_raw(-pid.as_raw()), Signal::KILL);
    let _ = kill(pid, Signal::KILL);
}

/// Ends this process as the program ended: with its exit code, or by its signal without another core dump. As PID 1, which the
/// kernel shields from signals that it does not handle, a signal `n` becomes exit code 128 + n (as shells have it).
pub(crate) fn end_as(exit: Exit) -> ! {
    let signal = match exit {
        Exit::Code(code) => std::process::exit(code),
        Exit::Signal(signal) => signal,
    };
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    super::signals::reset_to_default(signal);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    let _ = kill(nix::unistd::getpid(), signal);
    std::process::exit(128 + signal.as_raw())
}

/// The names of the threads of this process besides the main one.
pub(crate) fn other_threads() -> Vec<String> {
    let main = std::process::id().to_string();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks
        .flatten()
        .filter(|task| task.file_name().to_str() != Some(&main))
        .map(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.trim_end().to_owned()
        })
        .collect()
}

/// Calls the main thread, and so the process, by this name in `ps`, in place of the descriptor that it was executed by.
pub(crate) fn set_name(name: &std::ffi::OsStr) {
    use std::os::unix::ffi::OsStrExt;
    if let Ok(name) = std::ffi::CString::new(name.as_bytes()) {
        // SAFETY: the argument is a string that ends in a zero and lives through the call (prctl(2), PR_SET_NAME).
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// Takes a variable out of the environment. Only while no other thread runs.
pub(crate) fn remove_variable(name: &str) {
    // SAFETY: the caller has made sure that this is the only thread, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn an_end_by_a_signal_without_a_name_is_an_end() {
        let start = || {
            #[expect(clippy::zombie_processes, reason = "it is reaped by the functions under test")]
            let process = Command::new("sleep").arg("60").spawn().expect("started");
            let pid = Pid::from_raw(i32::try_from(process.id()).expect("a PID"));
            assert!(!has_ended(pid));
            let signal = Signal::from_raw(40).expect("a signal");
            kill(pid, signal).expect("sent");
            (pid, Exit::Signal(signal))
        };
        let (pid, exit) = start();
        assert_eq!(wait_for_end(pid), Some(exit));
        let (pid, exit) = start();
        crate::binary::testing::until("it has ended", || has_ended(pid));
        assert_eq!(reap(Some(pid)), Some((pid, exit)));
    }
}
