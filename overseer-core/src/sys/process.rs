//! Processes: who they are, how they end, and how we do.

use crate::signal::Signal;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
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
    loop {
        return match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => Some((pid, Exit::Code(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, Exit::Signal(Signal::from_raw(signal as i32)?))),
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) | Err(_) => None,
        };
    }
}

/// Reaps processes that ended and are none of `ours`: PID 1 inherits the orphans of all others.
pub(crate) fn reap_others(ours: &[Pid]) {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    // One of ours is reaped with its own SIGCHLD, and the rest after it.
    while let Ok(status) = waitid(Id::All, flags)
        && let Some(pid) = status.pid()
        && !ours.contains(&pid)
        && reap(Some(pid)).is_some()
    {}
}

/// Whether the process has ended; it stays to be reaped, so that its number and its group's are nobody else's yet.
pub(crate) fn has_ended(pid: Pid) -> bool {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::EINTR))
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
    let result = unsafe { nix::libc::kill(pid.as_raw(), signal.as_raw()) };
    match nix::errno::Errno::result(result) {
        Ok(_) | Err(nix::errno::Errno::ESRCH) => Ok(()),
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
        unsafe { nix::libc::prctl(nix::libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// Sets which signal this process gets when its parent ends (prctl(2), PR_SET_PDEATHSIG).
pub(crate) fn set_parent_death_signal(signal: Signal) {
    // SAFETY: the argument is a number.
    unsafe { nix::libc::prctl(nix::libc::PR_SET_PDEATHSIG, signal.as_raw()) };
}

/// Takes a variable out of the environment. Only while no other thread runs.
pub(crate) fn remove_variable(name: &str) {
    // SAFETY: the caller has made sure that this is the only thread, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
}
