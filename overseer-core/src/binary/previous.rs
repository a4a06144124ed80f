//! `previous`: the binary that a release replaced, kept so that it can be put back.
//!
//! A hard link to it, so that keeping it costs no space and putting it back no time. Where a link is refused (another file system, the
//! kernel's `protected_hardlinks`, no more links), a copy, which the poll process makes before the release is staged: the master reads no binaries.

use super::staging::{copy_attributes, is_at};
use super::{Identity, state_dir};
use crate::sys::files;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The beginning of the names of what a commit makes to `previous`. One name for each release, since one may wait while the next is fetched.
const NEXT: &str = "previous.next-";
const PREVIOUS: &str = "previous";

/// The path of `previous` in a state directory.
pub(crate) fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join(PREVIOUS)
}

/// Makes the file at `path` ready to become `previous`, for [`Staged::previous`](crate::protocol::Staged::previous). Done by the poll process.
///
/// # Errors
/// The path holds another file than `running` by now, or there is no room for a copy. An older `previous` is as it was.
pub(crate) fn prepare(path: &Path, running: &Identity, state_dir: &Path) -> io::Result<PathBuf> {
    let next = tempfile::Builder::new().prefix(NEXT).rand_bytes(6).tempfile_in(state_dir)?.into_temp_path();
    link_or_copy(path, running, &next)?;
    files::sync_directory(state_dir)?;
    next.keep().map_err(|error| error.error)
}

/// Removes what was prepared and never used, and answers the paths. To be called when no staged release waits.
pub(super) fn remove_prepared(state_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(state_dir) else { return Vec::new() };
    let prepared = entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(NEXT.as_bytes()));
    prepared.map(|entry| entry.path()).filter(|path| fs::remove_file(path).is_ok()).collect()
}

/// Puts a link to, or a copy of, the file at `from` at `to`, in place of what is there. The file must be the one that is `expected`.
pub(super) fn link_or_copy(from: &Path, expected: &Identity, to: &Path) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if fs::hard_link(from, to).is_ok() {
        return is_expected(&fs::symlink_metadata(to)?, expected, from);
    }
    // Whatever kept the link from being made, if a copy can be made all is well, and its error says more.
    let original = File::open(from)?;
    is_expected(&original.metadata()?, expected, from)?;
    let mut copy = state_dir::create(to)?;
    io::copy(&mut &original, &mut copy)?;
    copy_attributes(&original, &copy, to).map_err(io::Error::other)?;
    Ok(())
}

fn is_expected(metadata: &fs::Metadata, expected: &Identity, path: &Path) -> io::Result<()> {
    let found = Identity::of(metadata);
    // A link to a file in the lower layer of an overlay may have another number, and never another size or time.
    let is_alike = (found.size_bytes, found.modified_ns) == (expected.size_bytes, expected.modified_ns);
    if found.same_inode(expected) || is_alike {
        return Ok(());
    }
    Err(io::Error::other(format!("{} was replaced meanwhile", path.display())))
}

/// Makes `next` to `previous`. Answers the older `previous` under the name `next`, if there was one, so that it can be taken back.
pub(super) fn promote(next: &Path, state_dir: &Path) -> io::Result<()> {
    let previous = path_in(state_dir);
    match files::exchange(next, &previous) {
        Ok(()) => {}
        // No older one, or a file system that cannot exchange.
        Err(_) => fs::rename(next, &previous)?,
    }
    files::sync_directory(state_dir)
}

/// Undoes [`promote`], where there was an older `previous`. Otherwise the new one stays: the same file is at the program's path.
pub(super) fn demote(next: &Path, state_dir: &Path) {
    let _ = files::exchange(next, &path_in(state_dir));
}

/// Opens `previous` and looks whether it could be the program: a file of at least one byte that its owner may execute.
pub(crate) fn open(state_dir: &Path) -> io::Result<(File, Identity)> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let path = path_in(state_dir);
    let file = File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(&path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 || metadata.mode() & 0o111 == 0 || !is_at(&file, &path) {
        return Err(io::Error::other(format!("it is no program ({} bytes, mode {:04o})", metadata.len(), metadata.mode() & 0o7777)));
    }
    Ok((file, Identity::of(&metadata)))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect()
    }

    #[test]
    fn it_is_a_link_and_made_again_without_a_trace() {
        let directory = testing::directory();
        let (path, state_dir) = (directory.path().join("app"), directory.path().join("state"));
        fs::create_dir(&state_dir).expect("a directory");
        fs::write(&path, "old").expect("written");
        let running = Identity::of(&fs::metadata(&path).expect("metadata"));
        for _ in 0..2 {
            let next = prepare(&path, &running, &state_dir).expect("prepared");
            assert!(Identity::of(&fs::metadata(&next).expect("metadata")).same_inode(&running));
            assert_eq!(names(&state_dir), [next.file_name().expect("a name").to_str().expect("text")]);
            promote(&next, &state_dir).expect("promoted");
            assert!(path_in(&state_dir).exists());
            fs::remove_file(path_in(&state_dir)).expect("removed");
            let _ = fs::remove_file(next);
        }
        let waiting = [0; 2].map(|_| prepare(&path, &running, &state_dir).expect("prepared"));
        assert_ne!(waiting[0], waiting[1], "a release may wait while the next one is fetched");
        promote(&waiting[0], &state_dir).expect("promoted");
        assert_eq!(remove_prepared(&state_dir), waiting[1..]);
        assert_eq!(names(&state_dir), [PREVIOUS]);

        let other = directory.path().join("other");
        fs::write(&other, "another").expect("written");
        fs::rename(&other, &path).expect("renamed");
        let error = prepare(&path, &running, &state_dir).expect_err("the path holds another file");
        assert!(error.to_string().contains("replaced"), "{error}");
        assert_eq!(names(&state_dir), [PREVIOUS], "nothing is left of the attempt");
    }

    #[test]
    fn on_another_file_system_it_is_a_copy_with_all_attributes() {
        testing::in_own_mounts("binary::previous::tests::on_another_file_system_it_is_a_copy_with_all_attributes", |directory| {
            let (path, state_dir) = (directory.join("app"), directory.join("state"));
            fs::create_dir(&state_dir).expect("a directory");
            testing::mount(&["-t", "tmpfs", "-o", "size=64k", "none", state_dir.to_str().expect("text")]);
            fs::write(&path, "old").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).expect("mode set");
            let running = Identity::of(&fs::metadata(&path).expect("metadata"));
            let next = prepare(&path, &running, &state_dir).expect("prepared");
            let metadata = fs::metadata(&next).expect("metadata");
            assert_eq!((fs::read(&next).expect("read"), metadata.mode() & 0o7777), (b"old".to_vec(), 0o711));
            promote(&next, &state_dir).expect("promoted");

            fs::write(&path, vec![1; 100_000]).expect("written");
            let error = prepare(&path, &running, &state_dir).expect_err("there is no room");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
            assert_eq!(names(&state_dir), [PREVIOUS]);
            assert_eq!(fs::read(path_in(&state_dir)).expect("read"), b"old");
        });
    }

    #[test]
    fn what_is_no_program_is_not_put_back() {
        let directory = testing::directory();
        assert_eq!(open(directory.path()).expect_err("it is not there").kind(), io::ErrorKind::NotFound);
        let previous = path_in(directory.path());
        for (contents, mode) in [("", 0o755), ("old", 0o644)] {
            fs::write(&previous, contents).expect("written");
            fs::set_permissions(&previous, fs::Permissions::from_mode(mode)).expect("mode set");
            open(directory.path()).expect_err("it is no program");
        }
        fs::set_permissions(&previous, fs::Permissions::from_mode(0o755)).expect("mode set");
        open(directory.path()).expect("it could be one");
    }
}
