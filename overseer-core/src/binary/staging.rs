//! A release beside the program, before it takes the program's place.
//!
//! It lies in the binary's own directory as `.NAME.new-XXXX`: same file system, same files beside it, same rules of path. It is 0600 and
//! flocked by a descriptor that cannot write, which can be executed and handed to the master. Whoever gets the flock of such a file
//! removes it, since the process that made it is gone.

use super::place::hidden_name;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempPath;
use xattr::FileExt;

const CAPABILITIES: &str = "security.capability";
const ACCESS_LIST: &str = "system.posix_acl_access";
/// Signatures over the contents: those of another file are wrong, and the kernel makes its own.
const OF_THE_CONTENTS: [&str; 2] = ["security.ima", "security.evm"];

/// Why a file did not get the attributes of the binary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AttributeError {
    /// Stays until somebody changes the system.
    #[error("cannot give {path} the capabilities of the running binary")]
    Capabilities { path: PathBuf, source: io::Error },
    /// Stays until somebody changes the system.
    #[error("cannot give {path} the owner {owner}:{group}, with whose rights the running binary runs (mode {mode:04o})")]
    Owner { path: PathBuf, owner: u32, group: u32, mode: u32, source: io::Error },
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// A file of our own beside the binary. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    path: TempPath,
    /// Opened for reading, and flocked.
    file: File,
}

impl Staging {
    /// Makes an empty one, and answers a second descriptor to write it by, which must be closed before the file can be executed.
    pub(crate) fn create(directory: &Path, name: &OsStr) -> io::Result<(Self, File)> {
        loop {
            let prefix = hidden_name(name, ".new-");
            let made =
                tempfile::Builder::new().prefix(&prefix).rand_bytes(6).permissions(Permissions::from_mode(0o600)).tempfile_in(directory)?;
            let (writer, path) = made.into_parts();
            let file = File::open(&path)?;
            // Somebody who removes stale files may have had the flock before us.
            if try_lock(&file)? && is_at(&file, &path) {
                return Ok((Self { path, file }, writer));
            }
        }
    }

    /// Makes one of a whole file elsewhere by a link to it, or by moving it where there are no links. `None` if that is on another file system; nothing
    /// has changed then.
    pub(crate) fn adopt(directory: &Path, name: &OsStr, file: &Path) -> io::Result<Option<Self>> {
        let (empty, writer) = Self::create(directory, name)?;
        drop(writer);
        let adopted = File::open(file)?;
        if !try_lock(&adopted)? {
            return Err(io::Error::other(format!("{} is locked by another process", file.display())));
        }
        fs::remove_file(&empty.path)?;
        match fs::hard_link(file, &empty.path).or_else(|_| fs::rename(file, &empty.path)) {
            Ok(()) => {
                // By its new name: a process finds what lies beside it by the name that its descriptor was opened with (`$ORIGIN`).
                let file = File::open(&empty.path)?;
                // Not only closed: a process that another thread starts has a copy of it until its exec, and the flock with that.
                adopted.unlock()?;
                if !try_lock(&file)? || !is_at(&file, &empty.path) {
                    return Err(io::Error::other(format!("{} was removed by another process", empty.path.display())));
                }
                Ok(Some(Self { path: empty.path, file }))
            }
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, opened for reading and flocked.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Lets its owner execute it, for the self-check.
    pub(crate) fn make_executable(&self) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(0o700))
    }

    /// Lets nobody but its owner write to it.
    pub(crate) fn close_to_others(&self) -> io::Result<()> {
        let mode = self.file.metadata()?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            self.file.set_permissions(Permissions::from_mode(mode & !0o022))?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// Leaves the file where it is. It belongs to whoever has the descriptor, whose flock protects it.
    pub(crate) fn keep(self) -> io::Result<(PathBuf, File)> {
        let path = self.path.keep().map_err(|error| error.error)?;
        Ok((path, self.file))
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the open file is the one at the path.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// Removes the staged files of this binary that nobody holds, and answers their paths. What cannot be looked at is left.
pub(crate) fn remove_stale(directory: &Path, name: &OsStr) -> Vec<PathBuf> {
    let prefix = hidden_name(name, ".new-");
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let ours = entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes()));
    ours.map(|entry| entry.path()).filter(|path| remove_if_stale(path).unwrap_or(false)).collect()
}

fn remove_if_stale(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)?;
    let is_stale = file.metadata()?.is_file() && try_lock(&file)? && is_at(&file, path);
    if is_stale {
        fs::remove_file(path)?;
    }
    Ok(is_stale)
}

/// Gives `file` (at `path`) the owner, mode and extended attributes of `model`, and brings all to the disk.
///
/// Answers what the system does not allow and the program can live without: another owner than an unprivileged user's own, a label of a
/// security module. Not logged here, since the master has no logger.
///
/// # Errors
/// See [`AttributeError`]; some attributes are set.
pub(crate) fn copy_attributes(model: &File, file: &File, path: &Path) -> Result<Vec<String>, AttributeError> {
    let mut warnings = Vec::new();
    let failed = |what| move |source| AttributeError::Io { what, path: path.to_owned(), source };
    let metadata = model.metadata().map_err(failed("look at the binary for"))?;
    // Changing the owner takes away capabilities and set-user-ID, so it comes first.
    warnings.extend(set_owner(&metadata, file, path)?);
    let names = match model.list_xattr() {
        Ok(names) => names.collect(),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Vec::new(),
        Err(error) => return Err(failed("read the binary's attributes for")(error)),
    };
    let copied = |name: &&std::ffi::OsString| !OF_THE_CONTENTS.iter().any(|own| name == own) && *name != ACCESS_LIST;
    for name in names.iter().filter(copied) {
        warnings.extend(copy_attribute(model, file, path, name)?);
    }
    file.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777)).map_err(failed("set the mode of"))?;
    // An access list holds the mode of the group too, so it comes last.
    if names.iter().any(|name| name == ACCESS_LIST) {
        warnings.extend(copy_attribute(model, file, path, OsStr::new(ACCESS_LIST))?);
    } else if file.get_xattr(ACCESS_LIST).is_ok_and(|list| list.is_some()) {
        file.remove_xattr(ACCESS_LIST).map_err(failed("remove the inherited access list of"))?;
    }
    file.sync_all().map_err(failed("bring to the disk"))?;
    Ok(warnings)
}

fn set_owner(metadata: &fs::Metadata, file: &File, path: &Path) -> Result<Option<String>, AttributeError> {
    let now = file.metadata().map_err(|source| AttributeError::Io { what: "look at", path: path.to_owned(), source })?;
    let (owner, group) = (metadata.uid(), metadata.gid());
    if (now.uid(), now.gid()) == (owner, group) {
        return Ok(None);
    }
    let Err(source) = std::os::unix::fs::fchown(file, Some(owner), Some(group)) else { return Ok(None) };
    let mode = metadata.mode() & 0o7777;
    // With set-user-ID or set-group-ID the file would run with other rights than the one that it replaces.
    if mode & 0o6000 != 0 {
        return Err(AttributeError::Owner { path: path.to_owned(), owner, group, mode, source });
    }
    let _ = std::os::unix::fs::fchown(file, None, Some(group));
    let path = path.display();
    Ok(Some(format!("{path} belongs to user {} and not to {owner}:{group} as the running binary does: {source}", now.uid())))
}

fn copy_attribute(model: &File, file: &File, path: &Path, name: &OsStr) -> Result<Option<String>, AttributeError> {
    let value = match model.get_xattr(name) {
        Ok(Some(value)) => value,
        Ok(None) => return Ok(None),
        Err(source) => return Err(AttributeError::Io { what: "read the binary's attributes for", path: path.to_owned(), source }),
    };
    if file.get_xattr(name).is_ok_and(|now| now.as_ref() == Some(&value)) {
        return Ok(None);
    }
    let Err(source) = file.set_xattr(name, &value) else { return Ok(None) };
    if name == CAPABILITIES {
        return Err(AttributeError::Capabilities { path: path.to_owned(), source });
    }
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return Err(AttributeError::Io { what: "set the attributes of", path: path.to_owned(), source });
    }
    Ok(Some(format!("cannot give {} the attribute {} of the running binary: {source}", path.display(), name.display())))
}

/// Finds out whether a release could be staged here with the capabilities of the running binary, before anybody downloads one.
///
/// # Errors
/// [`AttributeError::Capabilities`], and what else keeps a file from being made there.
pub(crate) fn try_out(model: &File, directory: &Path, name: &OsStr) -> Result<(), AttributeError> {
    let (staging, _writer) = Staging::create(directory, name).map_err(|source| AttributeError::Io {
        what: "make a file in",
        path: directory.to_owned(),
        source,
    })?;
    match model.get_xattr(CAPABILITIES) {
        Ok(Some(_)) => copy_attribute(model, staging.file(), staging.path(), OsStr::new(CAPABILITIES)).map(drop),
        Ok(None) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use std::io::Write;
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    const NAME: &str = "app";

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_staged_file_is_private_locked_and_gone_when_dropped() {
        let directory = testing::directory();
        let (staging, mut writer) = Staging::create(directory.path(), NAME.as_ref()).expect("a file");
        writer.write_all(b"release").expect("written");
        let name = staging.path().file_name().expect("a name").to_str().expect("text").to_owned();
        assert!(name.starts_with(".app.new-") && name.len() == ".app.new-".len() + 6, "{name}");
        assert_eq!(staging.file().metadata().expect("metadata").mode() & 0o7777, 0o600);
        assert!(remove_stale(directory.path(), NAME.as_ref()).is_empty(), "it is held");
        drop(staging);
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[test]
    fn stale_files_are_removed_and_others_are_not() {
        let directory = testing::directory();
        let (staging, writer) = Staging::create(directory.path(), NAME.as_ref()).expect("a file");
        drop(writer);
        let (path, file) = staging.keep().expect("kept");
        for other in [".app.overseer", ".application.new-abcdef", "app.new-abcdef", ".app.new"] {
            fs::write(directory.path().join(other), "").expect("written");
        }
        fs::create_dir(directory.path().join(".app.new-direct")).expect("a directory");
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join(".app.new-symlnk")).expect("a link");
        assert!(remove_stale(directory.path(), NAME.as_ref()).is_empty());
        drop(file);
        // A process that another test forks at this moment has a copy of the flock until its exec.
        let mut removed = Vec::new();
        testing::until("it is nobody's", || {
            removed = remove_stale(directory.path(), NAME.as_ref());
            !removed.is_empty()
        });
        assert_eq!(removed, [path]);
        assert_eq!(names(directory.path()).len(), 6);
    }

    #[test]
    fn a_whole_file_elsewhere_is_linked_here() {
        let directory = testing::directory();
        let download = directory.path().join("download");
        fs::write(&download, "release").expect("written");
        let staging = Staging::adopt(directory.path(), NAME.as_ref(), &download).expect("no error").expect("the same file system");
        assert!(is_at(staging.file(), &download));
        assert_eq!(fs::read(staging.path()).expect("read"), b"release");
        assert!(is_at(staging.file(), staging.path()));
        assert!(remove_stale(directory.path(), NAME.as_ref()).is_empty(), "it is held");
    }

    #[test]
    fn a_whole_file_is_adopted_also_while_another_thread_starts_processes() {
        let directory = testing::directory();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    Command::new("true").status().expect("started");
                }
            });
            let adopted = (0..500).try_for_each(|number| {
                let download = directory.path().join(number.to_string());
                fs::write(&download, "release")?;
                Staging::adopt(directory.path(), NAME.as_ref(), &download).map(drop)
            });
            is_over.store(true, Ordering::Relaxed);
            adopted.expect("no error");
        });
    }

    #[test]
    fn mode_and_user_attributes_are_kept_and_signatures_of_the_contents_are_not() {
        let directory = testing::directory();
        let model_path = directory.path().join(NAME);
        fs::write(&model_path, "old").expect("written");
        let has_attributes = xattr::set(&model_path, "user.origin", b"here").is_ok();
        let has_signature = xattr::set(&model_path, "security.ima", b"\x01signature").is_ok();
        if !has_attributes || !has_signature {
            testing::not_shown(&format!(
                "for want of a file system or a right: extended attributes (user: {has_attributes}, security: {has_signature})"
            ));
        }
        for mode in [0o755, 0o555, 0o4711, 0o2750] {
            fs::set_permissions(&model_path, Permissions::from_mode(mode)).expect("mode set");
            let model = File::open(&model_path).expect("opened");
            let (staging, _writer) = Staging::create(directory.path(), NAME.as_ref()).expect("a file");
            copy_attributes(&model, staging.file(), staging.path()).expect("copied");
            assert_eq!(staging.file().metadata().expect("metadata").mode() & 0o7777, mode);
            if has_attributes {
                assert_eq!(xattr::get(staging.path(), "user.origin").expect("read"), Some(b"here".to_vec()));
            }
            assert_ne!(xattr::get(staging.path(), "security.ima").ok().flatten(), Some(b"\x01signature".to_vec()));
        }
    }

    #[test]
    fn owner_and_capabilities_are_kept_where_root_runs() {
        if !testing::is_root("owner and capabilities") {
            return;
        }
        let directory = testing::directory();
        let model_path = directory.path().join(NAME);
        fs::write(&model_path, "old").expect("written");
        std::os::unix::fs::chown(&model_path, Some(4711), Some(4712)).expect("owner set");
        xattr::set(&model_path, CAPABILITIES, &testing::CAPABILITIES).expect("capabilities set");
        let model = File::open(&model_path).expect("opened");
        try_out(&model, directory.path(), NAME.as_ref()).expect("root may");
        let (staging, _writer) = Staging::create(directory.path(), NAME.as_ref()).expect("a file");
        copy_attributes(&model, staging.file(), staging.path()).expect("copied");
        let metadata = staging.file().metadata().expect("metadata");
        assert_eq!((metadata.uid(), metadata.gid()), (4711, 4712));
        assert_eq!(xattr::get(staging.path(), CAPABILITIES).expect("read"), Some(testing::CAPABILITIES.to_vec()));
        assert_eq!(names(directory.path()).len(), 2, "the trial left nothing");
    }
}
