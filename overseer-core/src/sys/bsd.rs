//! What FreeBSD and macOS do in the same way, and what neither does.

use crate::signal::Signal;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::unistd::{ForkResult, Pid, fork};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// With these flags a file is opened to be executed. The right to read it is needed; whoever puts a pipe there does not stop us.
pub(super) const TO_EXECUTE: libc::c_int = libc::O_NONBLOCK;

/// Starts a process that runs this, and ends with the answer as its code if it comes back.
///
/// # Safety
/// It calls async-signal-safe functions only (sigaction(2)). No handler may run in it.
pub(super) unsafe fn start(run: &dyn Fn() -> libc::c_int) -> nix::Result<Pid> {
    // SAFETY: as above.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        // SAFETY: _exit(2) runs nothing of the copied process.
        ForkResult::Child => unsafe { libc::_exit(run()) },
    }
}

/// What a service manager of Linux tells nobody else.
pub(super) fn own_pidfd_id() -> Option<u64> {
    None
}

/// The system may know; nobody has asked it yet.
pub(super) fn peer_of(_socket: BorrowedFd<'_>) -> Option<String> {
    None
}

pub(super) fn own_file() -> io::Result<PathBuf> {
    std::env::current_exe()
}

pub(super) fn own_path() -> io::Result<PathBuf> {
    std::env::current_exe()
}

pub(super) fn readable(file: BorrowedFd<'_>) -> io::Result<File> {
    file.try_clone_to_owned().map(File::from)
}

/// Only a terminal has a name by which it can be opened once more.
pub(super) fn not_blocking(output: BorrowedFd<'_>) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    File::options().write(true).custom_flags(flags).open(nix::unistd::ttyname(output)?)
}

/// Neither system has leases.
#[expect(clippy::unnecessary_wraps, reason = "another system says who writes")]
pub(super) fn keep_unwritten(_: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn is_kept_unwritten(_: BorrowedFd<'_>) -> bool {
    false
}

pub(super) fn is_overlay(_: &Path) -> bool {
    false
}

/// An unlinked file.
pub(super) fn memory_file() -> io::Result<File> {
    tempfile::tempfile()
}

pub(super) fn is_noexec(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros are a valid statfs; statfs(2) reads the string, which ends in a zero, and writes to `status` alone.
    let status = unsafe {
        let mut status = std::mem::zeroed::<libc::statfs>();
        Errno::result(libc::statfs(path.as_ptr(), &raw mut status))?;
        status
    };
    Ok(i64::from(status.f_flags as u32) & libc::MNT_NOEXEC as i64 != 0)
}

/// Between the look at the process and this, its PID may have become another one's.
pub(super) fn signal_by_descriptor(_process: BorrowedFd<'_>, pid: Pid, signal: Signal) -> io::Result<()> {
    super::process::kill(pid, signal)
}

/// A queue of events that tells the end of the process (kqueue(2), `EVFILT_PROC`).
pub(super) fn process_descriptor(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: kqueue(2) takes nothing; the descriptor that it makes is known to nobody else.
    let queue = unsafe { OwnedFd::from_raw_fd(Errno::result(libc::kqueue())?) };
    fcntl(&queue, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: all zeros are a valid kevent, which kevent(2) only reads; room for events is neither given nor wanted.
    unsafe {
        let mut event = std::mem::zeroed::<libc::kevent>();
        event.ident = pid.as_raw().unsigned_abs() as libc::uintptr_t;
        event.filter = libc::EVFILT_PROC;
        event.flags = libc::EV_ADD;
        event.fflags = libc::NOTE_EXIT;
        Errno::result(libc::kevent(queue.as_raw_fd(), &raw const event, 1, std::ptr::null_mut(), 0, std::ptr::null()))?;
    }
    Ok(queue)
}

pub(super) fn other_threads() -> Vec<String> {
    Vec::new()
}

pub(super) fn let_go_of_program() {}

/// issetugid(2).
pub(super) fn has_rights_of_its_file() -> bool {
    // SAFETY: the call takes nothing.
    unsafe { libc::issetugid() != 0 }
}

/// getpeereid(3).
pub(super) fn maker_of(socket: &OwnedFd) -> nix::Result<(libc::uid_t, libc::gid_t)> {
    nix::unistd::getpeereid(socket).map(|(user, group)| (user.as_raw(), group.as_raw()))
}

/// They call a process by the name of its file.
pub(super) fn set_name(_name: &OsStr) {}

pub(super) fn trust(_pid: Pid) {}

pub(super) fn be_expendable() {}

/// One by one, for systems that have no call for a range of descriptors. Async-signal-safe.
pub(super) fn end_with_exec(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: getdtablesize(2) takes nothing, and fcntl(2) takes numbers, of which those that are not open are refused.
    unsafe {
        let open_max = libc::getdtablesize().unsigned_abs();
        for descriptor in first..=last.min(open_max) {
            libc::fcntl(descriptor.cast_signed(), libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}
