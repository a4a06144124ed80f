//! What Linux does in its own way. `freebsd.rs` and `macos.rs` have the same names.

use crate::signal::Signal;
use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::socket::{SockFlag, getsockopt, setsockopt, sockopt};
use nix::sys::stat::fstat;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, Pid};
use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) use nix::sys::socket::sockopt::TcpKeepIdle;

/// Which signal tells of a lease that is being broken (fcntl(2)); not in libc for all of Linux.
const F_SETSIG: libc::c_int = 10;
/// With these flags a file is opened to be executed: without the right to read it.
pub(super) const TO_EXECUTE: libc::c_int = libc::O_PATH;
/// What makes a socket close-on-exec and not blocking as it is made; empty where nothing does.
pub(super) const SOCKET_FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);
/// What makes received descriptors close-on-exec; zero where nothing does.
pub(super) const RECEIVE_FLAGS: libc::c_int = libc::MSG_CMSG_CLOEXEC;
/// Whether an accepted socket does not block where the listener does not.
pub(super) const ACCEPTED_DO_NOT_BLOCK: bool = false;
/// How poll(2) tells of a socket by which nothing can come any more.
pub(super) const HUNG_UP: PollFlags = PollFlags::POLLHUP.union(PollFlags::from_bits_retain(libc::POLLRDHUP));
/// Whether the system can tell if a socket listens.
pub(super) const TELLS_LISTENING: bool = true;
/// Whether the system vouches for who sent a message.
pub(super) const NAMES_SENDERS: bool = true;
/// Room for what vouches for it.
pub(super) const SENDER_BYTES: usize = size_of::<libc::ucred>();
/// The clock of [`Instant`](std::time::Instant).
pub(super) const MONOTONIC: libc::clockid_t = libc::CLOCK_MONOTONIC;
/// How an exec refuses a file that is none to be executed.
pub(super) const NOT_EXECUTABLE: &[Errno] = &[Errno::ENOEXEC, Errno::ELIBBAD, Errno::EINVAL];

/// `PID_FS_MAGIC` of linux/magic.h: where pidfds have inodes of their own.
const PIDFS: u64 = 0x5049_4446;

/// The inode of this process's pidfd, which no other process has; `None` where the system is older than that.
pub(super) fn own_pidfd_id() -> Option<u64> {
    // SAFETY: pidfd_open(2) takes two numbers; what it answers is a descriptor that nobody else knows.
    let pidfd = unsafe {
        let answer = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
        OwnedFd::from_raw_fd(RawFd::try_from(answer).ok().filter(|number| *number >= 0)?)
    };
    let is_pidfs = fstatfs(&pidfd).is_ok_and(|status| u64::try_from(status.filesystem_type().0) == Ok(PIDFS));
    fstat(&pidfd).ok().filter(|_| is_pidfs).map(|status| status.st_ino)
}

/// A path that leads to the file that this process runs, also where that has no name any more.
#[expect(clippy::unnecessary_wraps, reason = "other systems may not know")]
pub(super) fn own_file() -> io::Result<PathBuf> {
    Ok(PathBuf::from("/proc/self/exe"))
}

/// The path of the file that this process runs.
pub(super) fn own_path() -> io::Result<PathBuf> {
    fs::read_link("/proc/self/exe")
}

/// The same file, for reading. By its name in /proc, since a descriptor that is only a path cannot be read.
pub(super) fn readable(file: BorrowedFd<'_>) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The same pipe or terminal, for writing without blocking. A flag on the descriptor itself would be one for everybody who has it.
pub(super) fn not_blocking(output: BorrowedFd<'_>) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    File::options().write(true).custom_flags(flags).open(format!("/proc/self/fd/{}", output.as_raw_fd()))
}

/// A file in memory.
pub(super) fn memory_file() -> io::Result<File> {
    let make = |flags| {
        // SAFETY: the name is a string that ends in a zero and lives through the call.
        let descriptor = Errno::result(unsafe { libc::memfd_create(c"overseer-snapshot".as_ptr(), flags) })?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
        Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    };
    // A kernel before 6.3 does not know that a file is never to be executed; one that is told to insist on it (vm.memfd_noexec) makes no other.
    make(libc::MFD_CLOEXEC | libc::MFD_NOEXEC_SEAL).or_else(|_: io::Error| make(libc::MFD_CLOEXEC))
}

/// renameat2(2), `RENAME_EXCHANGE`.
pub(super) fn exchange(one: &CStr, other: &CStr) -> io::Result<()> {
    // By number: musl has no such function. SAFETY: both are strings that end in a zero and live through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Who listened on the Unix socket that this one is connected to, for a message.
pub(super) fn peer_of(socket: BorrowedFd<'_>) -> Option<String> {
    let who = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    // A process of another PID namespace has no number here.
    (who.pid() != 0).then(|| format!("pid {}, user {}", who.pid(), who.uid()))
}

/// A read lease (fcntl(2)), as long as the file is open: who opens it for writing waits for `lease-break-time`, and the lease says from then on that it is being broken.
pub(super) fn keep_unwritten(file: BorrowedFd<'_>) -> io::Result<bool> {
    // The signal that tells of it is one that is ignored unless handled, where the usual one ends the process.
    // SAFETY: both calls take numbers.
    let result = unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK)
    };
    match Errno::result(result) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        Err(_) => Ok(false),
    }
}

/// Whether the lease is whole.
pub(super) fn is_kept_unwritten(file: BorrowedFd<'_>) -> bool {
    // SAFETY: the call takes numbers.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
}

/// Whether the path is on an overlay.
pub(super) fn is_overlay(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == OVERLAYFS_SUPER_MAGIC)
}

/// Whether this process has these rights to the path.
pub(super) fn may(path: &Path, rights: AccessFlags) -> nix::Result<()> {
    nix::unistd::eaccess(path, rights)
}

/// Whether the file system that holds `path` is mounted so that nothing on it can be executed.
pub(super) fn is_noexec(path: &Path) -> io::Result<bool> {
    Ok(statvfs(path)?.flags().contains(FsFlags::ST_NOEXEC))
}

/// pidfd_send_signal(2); Linux 5.1.
pub(super) fn signal_by_descriptor(process: BorrowedFd<'_>, _pid: Pid, signal: Signal) -> io::Result<()> {
    let no_details = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without details, the call takes numbers alone.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal.as_raw(), no_details, 0) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// pidfd_open(2); Linux 5.3.
pub(super) fn process_descriptor(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let descriptor = Errno::result(result).map_err(io::Error::from)?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec), and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The names of the threads of this process besides the main one; none where the system does not tell.
pub(super) fn other_threads() -> Vec<String> {
    let main = std::process::id().to_string();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks
        .flatten()
        .filter(|task| task.file_name().to_str() != Some(&main))
        .map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.trim_end().to_owned()
        })
        .collect()
}

/// Takes the pages of its program's file that this process has not written to out of its memory, until it uses them again: they stay in the system's cache, where
/// the next use finds them. Nothing is done where other threads run.
///
/// A use of one page maps all those around it that are in the cache, so that a process which uses a tenth of a program has nearly all of it as its own.
pub(super) fn let_go_of_program() {
    let (Ok(maps), Ok(program)) = (fs::read("/proc/self/smaps"), own_path()) else { return };
    if !other_threads().is_empty() {
        return;
    }
    for range in unwritten(&maps, program.as_os_str().as_bytes()) {
        // SAFETY: no page of the range was written to, none can be, and no other thread changes that; so the next use of it reads the same bytes from the file
        // (madvise(2), MADV_DONTNEED on a private mapping of a file).
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(range.start), range.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings of the file in a text as of `/proc/PID/smaps` that nobody can write to, and of which no page is a copy: not where the loader has put addresses, nor
/// where a debugger has set a breakpoint.
fn unwritten(maps: &[u8], file: &[u8]) -> Vec<Range<usize>> {
    let mut of_file = None;
    let mut ranges = Vec::new();
    for line in maps.split(|byte| *byte == b'\n') {
        if let Some(number) = line.strip_prefix(b"Anonymous:") {
            let is_written = !number.trim_ascii().starts_with(b"0 ");
            ranges.extend(of_file.take().filter(|_| !is_written));
        } else if let Some(mapping) = mapping(line) {
            let (range, rights, path) = mapping;
            of_file = Some(range).filter(|_| matches!(rights, b"r-xp" | b"r--p") && path == file);
        }
    }
    ranges
}

/// `55d0c8a2b000-55d0c8a4c000 r-xp 00021000 08:01 131 /usr/bin/app`: the range, the rights and the path (proc_pid_maps(5)).
fn mapping(line: &[u8]) -> Option<(Range<usize>, &[u8], &[u8])> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let (range, rights) = (std::str::from_utf8(fields.next()?).ok()?, fields.next()?);
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?..address(end)?, rights, fields.nth(3)?.trim_ascii_start()))
}

/// Calls the main thread, and so the process, by this name in `ps`, in place of the descriptor that it was executed by.
pub(super) fn set_name(name: &OsStr) {
    if let Ok(name) = std::ffi::CString::new(name.as_bytes()) {
        // SAFETY: the argument is a string that ends in a zero and lives through the call (prctl(2), PR_SET_NAME).
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// Makes memory pressure take the process as late as this one.
pub(super) fn trust(pid: Pid) {
    // Without the right to do it, or without the process, there is nothing to be done.
    if let Ok(own) = fs::read("/proc/self/oom_score_adj") {
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), own);
    }
}

/// Makes memory pressure take this process before others. Async-signal-safe.
pub(super) fn be_expendable() {
    // SAFETY: open(2) and write(2) read constants, and close(2) takes a number that nobody else knows.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        libc::write(file, c"500".as_ptr().cast(), 3);
        libc::close(file);
    }
}

/// The stack of a process that is about to execute its program.
const START_STACK_BYTES: usize = 32 * 1024;

/// Starts a process that runs this, and ends with the answer as its code if it comes back; waits until it executes its program or ends. Until then it shares all memory with this
/// one (clone(2), CLONE_VM and CLONE_VFORK, as posix_spawn(3) does it), so nothing is copied for it: neither the table of pages nor pages that both write to.
///
/// # Safety
/// It calls async-signal-safe functions only (signal-safety(7)), and writes to no memory but its own stack and errno. No handler may run in it.
pub(super) unsafe fn start(run: &dyn Fn() -> libc::c_int) -> nix::Result<Pid> {
    extern "C" fn enter(run: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the reference below, which lives until this process has its program.
        let run = unsafe { *run.cast::<&dyn Fn() -> libc::c_int>() };
        run()
    }
    let mut stack = MaybeUninit::<[u128; START_STACK_BYTES / size_of::<u128>()]>::uninit();
    // It grows downwards, on every processor that Rust has Linux on.
    let top = stack.as_mut_ptr().wrapping_add(1).cast();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: as above. Nothing goes on here while the stack and the reference are used.
    let pid = unsafe { libc::clone(enter, top, flags, (&raw const run).cast_mut().cast()) };
    Errno::result(pid).map(Pid::from_raw)
}

/// Sets which signal this process gets when its parent ends (prctl(2), PR_SET_PDEATHSIG). Async-signal-safe.
pub(super) fn die_with_parent(signal: Signal) {
    // SAFETY: the argument is a number.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal.as_raw()) };
}

/// The same, for a program that runs.
pub(super) fn follow_parent(signal: Signal) {
    die_with_parent(signal);
}

/// Makes all descriptors from `first` to `last` end with an exec. Async-signal-safe.
pub(super) fn end_with_exec(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: the call takes numbers, and only sets a flag.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Executes the file in place of this process (execveat(2)); returns only if it could not, with the reason in errno. Async-signal-safe.
///
/// # Safety
/// Both lists end in a null pointer and, like the strings that they point to, live through the call.
pub(super) unsafe fn execute(program: RawFd, arguments: *const *const libc::c_char, environment: *const *const libc::c_char) {
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_execveat, program, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH) };
}

/// Whether the kernel sent a signal with this `si_code`, as the terminal does to a whole process group (sigaction(2)).
pub(super) fn is_from_kernel(code: libc::c_int) -> bool {
    code > 0
}

/// Has the system vouch for who sends what comes over the socket (unix(7)).
pub(super) fn name_senders(socket: &OwnedFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::PassCred, &true)
}

/// Whether the file that this process runs gave it rights that whoever executed it may not have: a set-user-ID or set-group-ID bit, or capabilities (getauxval(3)).
pub(super) fn has_rights_of_its_file() -> bool {
    // SAFETY: the call takes a number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// As which user and group the process ran that made the socket's pair, or connected it (unix(7), `SO_PEERCRED`).
pub(super) fn maker_of(socket: &OwnedFd) -> nix::Result<(libc::uid_t, libc::gid_t)> {
    getsockopt(socket, sockopt::PeerCredentials).map(|maker| (maker.uid(), maker.gid()))
}

/// Who sent a message, if this control message tells it.
pub(super) fn sender(kind: libc::c_int, data: &[u8]) -> Option<Pid> {
    if kind != libc::SCM_CREDENTIALS || data.len() < size_of::<libc::ucred>() {
        return None;
    }
    // SAFETY: the data is long enough for it, and any bytes are numbers.
    Some(Pid::from_raw(unsafe { data.as_ptr().cast::<libc::ucred>().read_unaligned() }.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
5000-6000 r--p 00000000 08:01 131                        /srv/the app (deleted)
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
6000-9000 r-xp 00001000 08:01 131                        /srv/the app (deleted)
Anonymous:             0 kB
9000-a000 r-xp 00004000 08:01 131                        /srv/the app (deleted)
Anonymous:             4 kB
a000-b000 r--p 00005000 08:01 131                        /srv/the app (deleted)
Anonymous:            40 kB
b000-c000 rw-p 00006000 08:01 131                        /srv/the app (deleted)
Anonymous:             0 kB
c000-d000 r--s 00007000 08:01 131                        /srv/the app (deleted)
Anonymous:             0 kB
d000-e000 rw-p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
e000-f000 r-xp 00000000 08:01 7                          /lib/libc.so.6
Anonymous:             0 kB
f000-f100 r-xp 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn what_was_written_to_or_is_another_files_is_kept() {
        assert_eq!(unwritten(MAPS.as_bytes(), b"/srv/the app (deleted)"), [0x5000..0x6000, 0x6000..0x9000]);
        assert_eq!(unwritten(MAPS.as_bytes(), b"/srv/the app"), []);
        assert_eq!(unwritten(b"", b""), []);
    }

    #[test]
    fn this_test_is_among_its_own_pages() {
        let maps = fs::read("/proc/self/smaps").expect("readable");
        let path = own_path().expect("a path");
        let here = this_test_is_among_its_own_pages as fn() as usize;
        assert!(unwritten(&maps, path.as_os_str().as_bytes()).iter().any(|range| range.contains(&here)));
    }
}
