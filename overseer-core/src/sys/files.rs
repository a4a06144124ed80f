//! Files: what the standard library does not do with them.

use nix::errno::Errno;
use nix::libc;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, Pid};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Which signal tells of a lease that somebody wants to break (fcntl(2)); not in libc for all systems.
const F_SETSIG: libc::c_int = 10;

/// Puts each of two files at the other's path, at one instant (renameat2(2), `RENAME_EXCHANGE`).
///
/// # Errors
/// Nothing was changed. `InvalidInput` (EINVAL) or `Unsupported` (ENOSYS): this file system or kernel cannot do it at all.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let one = CString::new(one.as_os_str().as_bytes())?;
    let other = CString::new(other.as_os_str().as_bytes())?;
    // By number: musl has no such function. SAFETY: both are strings that end in a zero and live through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Renames a file, unless there is one of the new name already (renameat2(2), `RENAME_NOREPLACE`; by a link where that is unsupported).
///
/// # Errors
/// `AlreadyExists`: there is one. Nothing was changed.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (one, other) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    // SAFETY: both are strings that end in a zero and live through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_NOREPLACE) };
    match Errno::result(result) {
        Err(Errno::EINVAL | Errno::ENOSYS) => std::fs::hard_link(from, to).and_then(|()| std::fs::remove_file(from)),
        other => other.map(drop).map_err(io::Error::from),
    }
}

/// Keeps everybody from writing to a file that is open for reading, for as long as it is open (a read lease, fcntl(2)): who tries has to wait. `false`: this
/// file system knows no leases.
///
/// # Errors
/// `WouldBlock`: somebody has it open for writing.
pub(crate) fn keep_unwritten(file: &File) -> io::Result<bool> {
    // SAFETY: both calls take numbers. The signal that tells of a breach is one that is ignored unless handled, where the usual one ends the process.
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

/// Whether nobody has tried to write to the file since [`keep_unwritten`] began.
pub(crate) fn is_kept_unwritten(file: &File) -> bool {
    // SAFETY: the call takes numbers.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
}

/// Whether the path is on an overlay file system, as the writable layer of a container is.
pub(crate) fn is_overlay(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == OVERLAYFS_SUPER_MAGIC)
}

/// Makes the names in a directory last through a loss of power.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether this process may make and rename files in the directory.
///
/// # Errors
/// It may not; why.
pub(crate) fn may_change_directory(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::eaccess(path, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// How the file system that holds `path` is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountFlags {
    pub(crate) is_read_only: bool,
    pub(crate) is_noexec: bool,
}

/// Asks how the file system that holds `path` is mounted.
pub(crate) fn mount_flags(path: &Path) -> io::Result<MountFlags> {
    let flags = statvfs(path)?.flags();
    Ok(MountFlags { is_read_only: flags.contains(FsFlags::ST_RDONLY), is_noexec: flags.contains(FsFlags::ST_NOEXEC) })
}

/// How many bytes this user may still write to the file system that holds `path`; `None` if it does not say.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let status = statvfs(path).ok().filter(|status| status.blocks() > 0)?;
    #[allow(clippy::useless_conversion, reason = "the types differ between systems")]
    let (blocks, size) = (u64::from(status.blocks_available()), u64::from(status.fragment_size()));
    Some(blocks.saturating_mul(size))
}

/// A descriptor that turns readable when the process ends (pidfd_open(2); Linux 5.3).
pub(crate) fn process_descriptor(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let descriptor = Errno::result(result).map_err(io::Error::from)?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec), and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Runs test helpers in copies of the test program before its `main`, which would run all tests again.
#[cfg(test)]
pub(crate) mod before_main {
    use nix::libc;

    extern "C" fn play_part(_: libc::c_int, _: *const *const libc::c_char, _: *const *const libc::c_char) {
        crate::binary::testing::play_part();
    }

    // SAFETY: the section holds pointers to functions of this type, called once each before `main`.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static PLAY_PART: extern "C" fn(libc::c_int, *const *const libc::c_char, *const *const libc::c_char) = play_part;
}
