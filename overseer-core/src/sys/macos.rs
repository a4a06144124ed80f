//! What macOS does in its own way; see `linux.rs`. Compiled by our checks, not run by them.

use super::poll::{Interest, wait};
use super::process::kill;
use crate::signal::Signal;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::socket::SockFlag;
use nix::unistd::{AccessFlags, Pid, faccessat, getpid, getppid};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;

pub(super) use super::bsd::{
    TO_EXECUTE, be_expendable, end_with_exec, has_rights_of_its_file, is_kept_unwritten, is_noexec, is_overlay, keep_unwritten,
    let_go_of_program, maker_of, memory_file, not_blocking, other_threads, own_file, own_path, own_pidfd_id, peer_of, process_descriptor,
    readable, set_name, signal_by_descriptor, start, trust,
};
pub(super) use nix::sys::socket::sockopt::TcpKeepAlive as TcpKeepIdle;

pub(super) const SOCKET_FLAGS: SockFlag = SockFlag::empty();
pub(super) const RECEIVE_FLAGS: libc::c_int = 0;
pub(super) const ACCEPTED_DO_NOT_BLOCK: bool = true;
pub(super) const HUNG_UP: PollFlags = PollFlags::POLLHUP;
pub(super) const TELLS_LISTENING: bool = false;
/// It tells who has the other end of a socket only while that is open, which is too late for a process that answers and ends.
pub(super) const NAMES_SENDERS: bool = false;
pub(super) const SENDER_BYTES: usize = 0;
pub(super) const MONOTONIC: libc::clockid_t = libc::CLOCK_UPTIME_RAW;
pub(super) const NOT_EXECUTABLE: &[Errno] =
    &[Errno::ENOEXEC, Errno::EBADEXEC, Errno::EBADARCH, Errno::EBADMACHO, Errno::ESHLIBVERS, Errno::EINVAL];

/// renamex_np(2), `RENAME_SWAP`.
pub(super) fn exchange(one: &CStr, other: &CStr) -> io::Result<()> {
    // SAFETY: both are strings that end in a zero and live through the call.
    let result = unsafe { libc::renamex_np(one.as_ptr(), other.as_ptr(), libc::RENAME_SWAP) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

pub(super) fn may(path: &Path, rights: AccessFlags) -> nix::Result<()> {
    faccessat(AT_FDCWD, path, rights, AtFlags::AT_EACCESS)
}

/// Nothing does this before an exec; afterwards it is [`follow_parent`].
pub(super) fn die_with_parent(_signal: Signal) {}

/// A thread waits for the end of the parent and sends this process the signal: the system has no call for it.
pub(super) fn follow_parent(signal: Signal) {
    let die = move || {
        let _ = kill(getpid(), signal);
    };
    let parent = match process_descriptor(getppid()) {
        Ok(parent) => parent,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return die(),
        // Without it this process finds out by its socket, if the program follows the drain.
        Err(_) => return,
    };
    let _ = std::thread::Builder::new().name("overseer-parent".to_owned()).spawn(move || {
        while wait(&[Interest { descriptor: parent.as_fd(), write: false }], None).is_ok_and(|ready| !ready[0].read) {}
        die();
    });
}

/// Executes the path that the file has now, if that still leads to it: the system executes no descriptor.
///
/// # Safety
/// Both lists end in a null pointer and, like the strings that they point to, live through the call.
pub(super) unsafe fn execute(program: RawFd, arguments: *const *const libc::c_char, environment: *const *const libc::c_char) {
    let mut path: [libc::c_char; libc::PATH_MAX as usize] = [0; libc::PATH_MAX as usize];
    // SAFETY: `path` has the room that fcntl(2), F_GETPATH, asks for; all zeros are a valid stat, to which the calls write alone; the rest as above.
    unsafe {
        let (mut open, mut named) = (std::mem::zeroed::<libc::stat>(), std::mem::zeroed::<libc::stat>());
        if libc::fcntl(program, libc::F_GETPATH, path.as_mut_ptr()) < 0
            || libc::fstat(program, &raw mut open) < 0
            || libc::stat(path.as_ptr(), &raw mut named) < 0
            || (open.st_dev, open.st_ino) != (named.st_dev, named.st_ino)
        {
            Errno::ESTALE.set();
            return;
        }
        libc::execve(path.as_ptr(), arguments, environment);
    }
}

/// What a signal carries does not tell: one of the terminal is forwarded, though the children have it already.
pub(super) fn is_from_kernel(_code: libc::c_int) -> bool {
    false
}

pub(super) fn name_senders(_socket: &OwnedFd) -> nix::Result<()> {
    Ok(())
}

pub(super) fn sender(_kind: libc::c_int, _data: &[u8]) -> Option<Pid> {
    None
}
