//! What FreeBSD does in its own way; see `linux.rs`. Compiled by our checks, not run by them.

use super::bsd;
use crate::signal::Signal;
use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::socket::SockFlag;
use nix::unistd::{AccessFlags, Pid};
use std::ffi::CStr;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

pub(super) use super::bsd::{
    TO_EXECUTE, be_expendable, has_rights_of_its_file, is_kept_unwritten, is_noexec, is_overlay, keep_unwritten, let_go_of_program,
    maker_of, memory_file, not_blocking, other_threads, own_file, own_path, own_pidfd_id, peer_of, process_descriptor, readable, set_name,
    signal_by_descriptor, start, trust,
};
pub(super) use nix::sys::socket::sockopt::TcpKeepIdle;

pub(super) const SOCKET_FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);
pub(super) const RECEIVE_FLAGS: libc::c_int = libc::MSG_CMSG_CLOEXEC;
pub(super) const ACCEPTED_DO_NOT_BLOCK: bool = false;
pub(super) const HUNG_UP: PollFlags = PollFlags::POLLHUP;
pub(super) const TELLS_LISTENING: bool = true;
pub(super) const NAMES_SENDERS: bool = true;
/// With all groups of the sender, of which there are at most 1023 besides the one that the structure has room for.
pub(super) const SENDER_BYTES: usize = size_of::<libc::sockcred2>() + 1023 * size_of::<libc::gid_t>();
pub(super) const MONOTONIC: libc::clockid_t = libc::CLOCK_MONOTONIC;
pub(super) const NOT_EXECUTABLE: &[Errno] = &[Errno::ENOEXEC, Errno::EINVAL];

/// There is no such call: the file is looked at and then replaced.
pub(super) fn exchange(_one: &CStr, _other: &CStr) -> io::Result<()> {
    Err(Errno::ENOSYS.into())
}

pub(super) fn may(path: &Path, rights: AccessFlags) -> nix::Result<()> {
    nix::unistd::eaccess(path, rights)
}

/// procctl(2), `PROC_PDEATHSIG_CTL`.
pub(super) fn die_with_parent(signal: Signal) {
    let mut signal = signal.as_raw();
    // SAFETY: the call reads the number behind the pointer.
    unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_PDEATHSIG_CTL, (&raw mut signal).cast()) };
}

pub(super) fn follow_parent(signal: Signal) {
    die_with_parent(signal);
}

pub(super) fn end_with_exec(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: the call takes numbers, and only sets a flag; systems before FreeBSD 14.1 refuse that.
    let result = unsafe { libc::close_range(first, last, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if result != 0 {
        bsd::end_with_exec(first, last);
    }
}

/// fexecve(2).
///
/// # Safety
/// Both lists end in a null pointer and, like the strings that they point to, live through the call.
pub(super) unsafe fn execute(program: RawFd, arguments: *const *const libc::c_char, environment: *const *const libc::c_char) {
    // SAFETY: as above.
    unsafe { libc::fexecve(program, arguments, environment) };
}

/// Signals of the terminal carry no information (`SI_NOINFO`), or `SI_KERNEL`; those of kill(2) say `SI_USER`.
pub(super) fn is_from_kernel(code: libc::c_int) -> bool {
    const SI_NOINFO: libc::c_int = 0;
    const SI_KERNEL: libc::c_int = 0x10006;
    matches!(code, SI_NOINFO | SI_KERNEL)
}

/// unix(4), `LOCAL_CREDS_PERSISTENT`.
pub(super) fn name_senders(socket: &OwnedFd) -> nix::Result<()> {
    let on: libc::c_int = 1;
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the call reads the number behind the pointer, whose size it is told.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_LOCAL, libc::LOCAL_CREDS_PERSISTENT, (&raw const on).cast(), bytes) };
    Errno::result(result).map(drop)
}

pub(super) fn sender(kind: libc::c_int, data: &[u8]) -> Option<Pid> {
    let place = offset_of!(libc::sockcred2, sc_pid);
    let pid = data.get(place..place + size_of::<libc::pid_t>()).filter(|_| kind == libc::SCM_CREDS2)?;
    Some(Pid::from_raw(libc::pid_t::from_ne_bytes(pid.try_into().ok()?)))
}
