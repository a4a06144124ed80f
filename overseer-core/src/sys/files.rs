//! Files: what the standard library does not do with them.

use super::system;
use crate::protocol::Owner;
use nix::libc;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, Group, Pid, User};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The path that these bytes are.
pub(crate) fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// A path that leads to the file that this process runs, also where that has no name any more (if the system can say so).
///
/// # Errors
/// The system does not say.
pub(crate) fn own_file() -> io::Result<PathBuf> {
    system::own_file()
}

/// The path of the file that this process runs. Linux adds ` (deleted)` to that of a file which was removed or replaced.
///
/// # Errors
/// The system does not say.
pub(crate) fn own_path() -> io::Result<PathBuf> {
    system::own_path()
}

/// Opens a file to be executed, which on Linux needs no right to read it.
pub(crate) fn open_to_execute(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(system::TO_EXECUTE).open(path)
}

/// Whom `USER`, `USER:GROUP` or `:GROUP` means; each by its name or number.
///
/// # Errors
/// There is no such user or group, or the system's list of them cannot be read.
pub(crate) fn owner_of(text: &str) -> io::Result<Owner> {
    let (user, group) = text.split_once(':').map_or((text, ""), |(user, group)| (user, group));
    let none = |what: &str, name: &str| io::Error::new(io::ErrorKind::NotFound, format!("there is no {what} {name}"));
    let id = |what: &str, name: &str, found: &dyn Fn(&str) -> nix::Result<Option<u32>>| match name.parse() {
        _ if name.is_empty() => Ok(None),
        Ok(number) => Ok(Some(number)),
        Err(_) => found(name)?.map(Some).ok_or_else(|| none(what, name)),
    };
    let user_id = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
    let group_id = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
    Ok(Owner { user: id("user", user, &user_id)?, group: id("group", group, &group_id)? })
}

/// Opens the pipe or the terminal once more, for writing without blocking. A flag on the descriptor itself would be one for everybody who has it.
///
/// # Errors
/// It has no name by which it can be opened.
pub(crate) fn not_blocking(output: impl AsFd) -> io::Result<File> {
    system::not_blocking(output.as_fd())
}

/// Puts each of two files at the other's path, at one instant.
///
/// # Errors
/// Nothing was changed. See [`cannot_exchange`].
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let one = CString::new(one.as_os_str().as_bytes())?;
    let other = CString::new(other.as_os_str().as_bytes())?;
    system::exchange(&one, &other)
}

/// Whether [`exchange`] failed because this file system or kernel cannot do it at all.
pub(crate) fn cannot_exchange(error: &io::Error) -> bool {
    let errors = [libc::EINVAL, libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOTSUP];
    error.raw_os_error().is_some_and(|number| errors.contains(&number))
}

/// Renames a file, unless there is one of the new name already. Both names are there for an instant; where there are no links, the last look is an instant old.
///
/// # Errors
/// `AlreadyExists`: there is one. Nothing was changed.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from),
        Err(_) if std::fs::symlink_metadata(to).is_err() => std::fs::rename(from, to),
        Err(error) => Err(error),
    }
}

/// Keeps everybody from writing to a file that is open for reading, for as long as it is open: who tries has to wait. `false`: this system or this file system
/// cannot do that.
///
/// # Errors
/// `WouldBlock`: somebody has it open for writing.
pub(crate) fn keep_unwritten(file: &File) -> io::Result<bool> {
    system::keep_unwritten(file.as_fd())
}

/// Whether nobody has tried to write to the file since [`keep_unwritten`] began.
pub(crate) fn is_kept_unwritten(file: &File) -> bool {
    system::is_kept_unwritten(file.as_fd())
}

/// Whether the path is on an overlay file system, as the writable layer of a container is.
pub(crate) fn is_overlay(path: &Path) -> bool {
    system::is_overlay(path)
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
    Ok(system::may(path, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// How the file system that holds `path` is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountFlags {
    pub(crate) is_read_only: bool,
    pub(crate) is_noexec: bool,
}

/// Asks how the file system that holds `path` is mounted.
pub(crate) fn mount_flags(path: &Path) -> io::Result<MountFlags> {
    let is_read_only = statvfs(path)?.flags().contains(FsFlags::ST_RDONLY);
    Ok(MountFlags { is_read_only, is_noexec: system::is_noexec(path)? })
}

/// How many bytes this user may still write to the file system that holds `path`; `None` if it does not say.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let status = statvfs(path).ok().filter(|status| status.blocks() > 0)?;
    #[allow(clippy::useless_conversion, reason = "the types differ between systems")]
    let (blocks, size) = (u64::from(status.blocks_available()), u64::from(status.fragment_size()));
    Some(blocks.saturating_mul(size))
}

/// A descriptor that turns readable when the process ends.
pub(crate) fn process_descriptor(pid: Pid) -> io::Result<OwnedFd> {
    system::process_descriptor(pid)
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
