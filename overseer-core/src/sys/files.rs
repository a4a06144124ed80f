//! Files: what the standard library does not do with them.

use nix::errno::Errno;
use nix::libc;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, Pid};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
