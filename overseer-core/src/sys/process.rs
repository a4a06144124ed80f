//! Processes: who they are, how they end, and how we do.

use super::system;
use crate::signal::Signal;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

pub(crate) use super::exit::Exit;

/// Reaps one ended process: `pid`, or any child if `None`. Does not block; `None` if none has ended.
pub(crate) fn reap(pid: Option<Pid>) -> Option<(Pid, Exit)> {
    wait_for(pid, libc::WNOHANG)
}

/// Reaps the process once it has ended, which blocks until then. `None` if somebody else has reaped it.
pub(crate) fn reap_at_its_end(pid: Pid) -> Option<Exit> {
    wait_for(Some(pid), 0).map(|(_, exit)| exit)
}

/// Without nix: it reaps a process that a real-time signal has ended, and then answers an error in place of its end.
fn wait_for(pid: Option<Pid>, flags: libc::c_int) -> Option<(Pid, Exit)> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid(2) writes to `status` alone.
        let result = Errno::result(unsafe { libc::waitpid(pid.map_or(-1, Pid::as_raw), &raw mut status, flags) });
        match result {
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => return None,
            // Without WUNTRACED and WCONTINUED nothing but an end is told.
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Some((Pid::from_raw(pid), Exit::Signal(Signal::from_raw(libc::WTERMSIG(status))?)));
            }
            Ok(pid) => return Some((Pid::from_raw(pid), Exit::Code(libc::WEXITSTATUS(status)))),
        }
    }
}

/// Reaps processes that ended and are none of `ours`: PID 1 inherits the orphans of all others, and who ignores SIGCHLD waits for none.
pub(crate) fn reap_others(ours: &[Pid]) {
    // One of ours is reaped with its own SIGCHLD, and the rest after it.
    while let Ok(Some(pid)) = ended(libc::P_ALL, 0)
        && !ours.contains(&pid)
        && reap(Some(pid)).is_some()
    {}
}

/// Whether the process has ended; it stays to be reaped, so that its number and its group's are nobody else's yet.
pub(crate) fn has_ended(pid: Pid) -> bool {
    !matches!(ended(libc::P_PID, pid.as_raw() as libc::id_t), Ok(None) | Err(Errno::EINTR))
}

/// Whether the process is a child of ours that has not been reaped.
pub(crate) fn is_child(pid: Pid) -> bool {
    ended(libc::P_PID, pid.as_raw() as libc::id_t) != Err(Errno::ECHILD)
}

/// A process that has ended and stays to be reaped. Without nix, for the reason above.
fn ended(kind: libc::idtype_t, id: libc::id_t) -> nix::Result<Option<Pid>> {
    // SAFETY: all zeros are a valid siginfo_t, and waitid(2) writes to it alone; it leaves the zeros where no process has ended.
    let pid = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        Errno::result(libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOWAIT | libc::WNOHANG))?;
        info.si_pid()
    };
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

/// Makes memory pressure take the process as late as this one.
pub(crate) fn trust(pid: Pid) {
    system::trust(pid);
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

/// The names of the threads of this process besides the main one; none where the system does not tell.
pub(crate) fn other_threads() -> Vec<String> {
    system::other_threads()
}

/// Takes what this process has mapped of its program and does not need out of its memory, where the system can.
pub(crate) fn let_go_of_program() {
    system::let_go_of_program();
}

/// Calls the main thread, and so the process, by this name in `ps`, where that would show what it was executed by.
pub(crate) fn set_name(name: &std::ffi::OsStr) {
    system::set_name(name);
}

/// Sets which signal this process gets when its parent ends.
pub(crate) fn set_parent_death_signal(signal: Signal) {
    system::follow_parent(signal);
}

/// The environment that this process was executed with, each variable as `NAME=value`: what the process manager gave it, whatever `main` has made of
/// it since. A `main` that adds to a variable does so again in each process that it runs in, and in the master after each upgrade. Read once.
pub(crate) fn given_environment() -> &'static [OsString] {
    static GIVEN: OnceLock<Vec<OsString>> = OnceLock::new();
    let pair = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    GIVEN.get_or_init(|| {
        let block = std::fs::read("/proc/self/environ").unwrap_or_default();
        variables_in(&block).unwrap_or_else(|| std::env::vars_os().map(pair).collect())
    })
}

/// The variables in a block of them that each end in a zero. `None`: whoever shows a title of its own in `ps` has written over it.
fn variables_in(block: &[u8]) -> Option<Vec<OsString>> {
    let variables = block.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    variables.map(|variable| variable.contains(&b'=').then(|| OsString::from_vec(variable.to_vec()))).collect()
}

/// When the process started, in ticks since the machine did (proc_pid_stat(5), field 22); `None` if there is none, 0 if the system does not tell. With
/// `hidepid=` (proc(5)) even processes of the same user are hidden if they are in another user namespace, but not from kill(2).
pub(crate) fn start_of(pid: Pid) -> Option<u64> {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        let is_there = matches!(nix::sys::signal::kill(pid, None), Ok(()) | Err(Errno::EPERM));
        return is_there.then_some(0);
    };
    // The name before it may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let is_dead = matches!(fields.first(), Some(&"Z" | &"X"));
    fields.get(19)?.parse().ok().filter(|_| !is_dead)
}

/// Names this start of the machine, if the system does: `subset=pid` (proc(5)) hides it.
pub(crate) fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// Names the namespace in which this process sees others by their PIDs.
pub(crate) fn namespace() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").ok().map(|metadata| metadata.ino())
}

/// Whether this process is in a container, as far as can be seen from in there.
pub(crate) fn is_in_container() -> bool {
    /// The number of the namespace that a machine starts with (`PID_NS_INIT_INO` in linux/nsfs.h).
    const OF_MACHINE: u64 = 0xEFFF_FFFC;
    /// What Docker, Podman and CRI-O, and systemd in a container leave there.
    const MARKS: [&str; 3] = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    namespace().is_some_and(|namespace| namespace != OF_MACHINE) || MARKS.iter().any(|mark| std::fs::exists(mark).unwrap_or_default())
}

/// Sends a signal to the process that the descriptor stands for, and, where the system can, to no other one that has its PID by now.
pub(crate) fn signal_by_descriptor(process: BorrowedFd<'_>, pid: Pid, signal: Signal) -> io::Result<()> {
    system::signal_by_descriptor(process, pid, signal)
}

/// Whether the file that this process runs gave it rights that whoever executed it may not have, and who has chosen its environment and its descriptors.
pub(crate) fn has_rights_of_its_file() -> bool {
    system::has_rights_of_its_file()
}

/// As which user and group this process does what it does.
pub(crate) fn effective_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Takes a variable out of the environment. Only while no other thread runs.
pub(crate) fn remove_variable(name: &str) {
    // SAFETY: the caller has made sure, as far as the system tells, that this is the only thread, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn an_environment_that_was_written_over_is_not_believed() {
        assert_eq!(variables_in(b"A=1\0B=x=y\0C=\0"), Some(["A=1", "B=x=y", "C="].map(OsString::from).to_vec()));
        for written_over in [&b""[..], b"a title", b"a title\0\0\0", b"A=1\0\0"] {
            assert_eq!(variables_in(written_over), None);
        }
        assert!(given_environment().iter().any(|variable| variable.to_string_lossy().starts_with("PATH=")));
    }

    #[test]
    fn an_end_is_told_whichever_signal_caused_it() {
        for (script, end) in [
            ("exit 3".to_owned(), Exit::Code(3)),
            ("kill -9 $$".to_owned(), Exit::Signal(Signal::KILL)),
            // One that nix has no name for.
            (format!("kill -{} $$", libc::SIGRTMIN() + 1), Exit::Signal(Signal::from_raw(libc::SIGRTMIN() + 1).expect("a signal"))),
        ] {
            for blocks in [true, false] {
                #[expect(clippy::zombie_processes, reason = "what reaps it is tested here")]
                let child = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().expect("started");
                let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
                let exit = if blocks {
                    reap_at_its_end(pid)
                } else {
                    crate::binary::testing::until("it has ended", || has_ended(pid));
                    reap(Some(pid)).map(|(_, exit)| exit)
                };
                assert_eq!(exit, Some(end), "{script}");
                assert!(reap(Some(pid)).is_none(), "it is reaped");
            }
        }
    }
}
