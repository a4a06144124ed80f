//! How a release takes the program's place, and how it loses it again.
//!
//! At every instant the path holds a whole file that can be run, also when this process is killed or the power fails in between.
//! Somebody else's file is never lost: what comes out of an exchange is looked at, and put back if it is not what was expected.
//!
//! Nothing in here reads a release. [`take_back`] copies the previous binary where it cannot be linked: `previous` was
//! a copy then already, in a state directory on another file system, and the master is held up for as long as that takes. It is the
//! program's own binary of before and not something from outside, and this happens only after a release has failed.

use super::staging::Staging;
use super::{Identity, previous};
use crate::protocol::Staged;
use crate::sys::files;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Why the executable at the program's path could not be replaced. The old one is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CommitError {
    /// Somebody else's file must not be lost: nothing was changed.
    #[error("{path} was replaced while the upgrade ran")]
    PathChanged { path: PathBuf },
    /// Somebody changed or removed it: nothing was changed.
    #[error("the staged file {path} is not the one that was proved")]
    StagedChanged { path: PathBuf },
    /// Passes by itself or by making room; the release is tried again.
    #[error("cannot keep {path} as previous")]
    Previous { path: PathBuf, source: io::Error },
    /// There is nothing to put back.
    #[error("cannot use the previous binary {path}")]
    NoPrevious { path: PathBuf, source: io::Error },
    /// Stays until somebody changes the system.
    #[error("cannot replace {path}")]
    Replace { path: PathBuf, source: io::Error },
}

/// Puts the staged release at `path`, and the file that is there into the state directory as `previous`.
///
/// `path` has no symlinks left to resolve; `file` is the descriptor that came with the report. All is on the disk when this returns. Afterwards the
/// staged file's old name is gone. On an error it is still there, for another attempt or for [`discard`].
///
/// # Errors
/// See [`CommitError`]; the path holds what it held.
pub(crate) fn commit(path: &Path, staged: &Staged, file: BorrowedFd<'_>) -> Result<(), CommitError> {
    commit_to(path, path, staged, file)
}

/// The same where the release goes to `target`, and the file at `path` stays: the first one in a binary store.
///
/// # Errors
/// See [`CommitError`]; there is nothing new at `target`.
pub(crate) fn commit_to(target: &Path, path: &Path, staged: &Staged, file: BorrowedFd<'_>) -> Result<(), CommitError> {
    if !holds(path, &staged.started_from) {
        return Err(CommitError::PathChanged { path: path.to_owned() });
    }
    let proved = identity_of(file).is_ok_and(|identity| identity == staged.identity);
    if !proved || !holds(&staged.path, &staged.identity) {
        return Err(CommitError::StagedChanged { path: staged.path.clone() });
    }
    let state_dir = staged.previous.parent().unwrap_or(Path::new("/"));
    previous::promote(&staged.previous, state_dir).map_err(|source| CommitError::Previous { path: path.to_owned(), source })?;
    let replaced = match target == path {
        true => replace(path, &staged.path, &staged.started_from, &staged.identity),
        false => put_beside(target, &staged.path),
    };
    if let Err(error) = replaced {
        previous::demote(&staged.previous, state_dir);
        return Err(error);
    }
    // The older previous, if there was one.
    let _ = fs::remove_file(&staged.previous);
    Ok(())
}

/// Removes a staged release that is not to be committed. One that was committed, or is somebody else's by now, stays.
pub(crate) fn discard(staged: &Staged) {
    if holds(&staged.path, &staged.identity) {
        let _ = fs::remove_file(&staged.path);
    }
    let _ = fs::remove_file(&staged.previous);
}

/// Puts `previous` at `path` again, in place of the release that failed, and answers which file is there now. `previous` stays too.
///
/// See the module's documentation for what this may block on.
///
/// # Errors
/// See [`CommitError`]. [`CommitError::PathChanged`]: the path does not hold the release that failed, so it is left alone.
pub(crate) fn take_back(path: &Path, state_dir: &Path, failed: &Identity) -> Result<Identity, CommitError> {
    if !holds(path, failed) {
        return Err(CommitError::PathChanged { path: path.to_owned() });
    }
    let from = previous::path_in(state_dir);
    let (file, identity) = previous::open(state_dir).map_err(|source| CommitError::NoPrevious { path: from.clone(), source })?;
    let unable = |source| CommitError::Replace { path: path.to_owned(), source };
    let (directory, name) = (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default());
    // Only for its name, which nobody else has.
    let (staging, writer) = Staging::create(directory, name).map_err(unable)?;
    drop(writer);
    // As a staged file's, its name stays clear of whoever removes stale ones while its flock is held.
    let _ = file.try_lock();
    previous::link_or_copy(&from, &identity, staging.path()).map_err(unable)?;
    let back = fs::symlink_metadata(staging.path()).map(|metadata| Identity::of(&metadata)).map_err(unable)?;
    let replaced = replace(path, staging.path(), failed, &back);
    if replaced.is_err() && !holds(staging.path(), &back) {
        // Somebody else's file came out and could not be put back: it is not ours to remove.
        let _ = staging.keep();
    }
    replaced.map(|()| back)
}

/// Why [`roll_back`] could not work, if that is plain beforehand: there is nothing to go back to, or the path does not hold what `running` is.
pub(crate) fn why_no_roll_back(place: &super::Place, state_dir: &Path, running: Option<&Identity>) -> Option<String> {
    let previous = match previous::open(state_dir) {
        Ok((_, identity)) => identity,
        Err(error) => {
            return Some(format!("there is no previous binary {} to go back to: {error}", previous::path_in(state_dir).display()));
        }
    };
    let there = match place.resolve().and_then(|path| identity_at(&path)) {
        Ok(there) => there,
        Err(error) => return Some(format!("{} cannot be looked at: {error}", place.invoked().display())),
    };
    if previous.same_inode(&there) {
        return Some(format!("{} is the previous binary already", place.invoked().display()));
    }
    let is_other = running.is_some_and(|running| !running.same_inode(&there));
    is_other.then(|| format!("{} holds another file than the one that runs; restart first", place.invoked().display()))
}

/// The same, since somebody asked for it: afterwards there is no `previous`, as nothing is left to go back to.
///
/// # Errors
/// See [`take_back`]; `previous` is as it was.
pub(crate) fn roll_back(path: &Path, state_dir: &Path, from: &Identity) -> Result<Identity, CommitError> {
    let there = take_back(path, state_dir, from)?;
    // If it stays, it is the file at the path, and nobody goes back to that.
    let _ = fs::remove_file(previous::path_in(state_dir));
    Ok(there)
}

/// Puts `new`, whose file is `expected_new`, at `path`, if that holds `expected_old`. Then the old file's last name here is removed.
fn replace(path: &Path, new: &Path, expected_old: &Identity, expected_new: &Identity) -> Result<(), CommitError> {
    let unable = |source| CommitError::Replace { path: path.to_owned(), source };
    match files::exchange(new, path) {
        Ok(()) if holds(new, expected_old) => {}
        Ok(()) => {
            undo(path, new, expected_new).map_err(unable)?;
            return Err(CommitError::PathChanged { path: path.to_owned() });
        }
        Err(error) if files::cannot_exchange(&error) => {
            if !holds(path, expected_old) {
                return Err(CommitError::PathChanged { path: path.to_owned() });
            }
            fs::rename(new, path).map_err(unable)?;
        }
        Err(error) => return Err(unable(error)),
    }
    // It has happened; that it lasts through a loss of power is the most that can fail now, and no reason to undo it.
    let _ = files::sync_directory(path.parent().unwrap_or(Path::new("/")));
    if holds(new, expected_old) {
        let _ = fs::remove_file(new);
    }
    Ok(())
}

/// Puts the file `new` at a path that nobody has taken.
fn put_beside(target: &Path, new: &Path) -> Result<(), CommitError> {
    files::rename_new(new, target).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CommitError::PathChanged { path: target.to_owned() },
        _ => CommitError::Replace { path: target.to_owned(), source },
    })?;
    let _ = files::sync_directory(target.parent().unwrap_or(Path::new("/")));
    Ok(())
}

/// After an exchange brought out a file that somebody put at the path meanwhile: exchanges until that, or what they put there even later, is at
/// the path again and our file is out.
fn undo(path: &Path, new: &Path, ours: &Identity) -> io::Result<()> {
    const TRIES_MAX: usize = 16;
    let mut put_in = *ours;
    for _ in 0..TRIES_MAX {
        let out = identity_at(new)?;
        files::exchange(new, path)?;
        // What came out is what we had put in: nobody came between.
        if identity_at(new)?.same_inode(&put_in) {
            return Ok(());
        }
        put_in = out;
    }
    Err(io::Error::other(format!("somebody replaces it without pause; a file of theirs may be {}", new.display())))
}

fn identity_at(path: &Path) -> io::Result<Identity> {
    fs::symlink_metadata(path).map(|metadata| Identity::of(&metadata))
}

fn identity_of(file: BorrowedFd<'_>) -> io::Result<Identity> {
    fs::File::from(file.as_fd().try_clone_to_owned()?).metadata().map(|metadata| Identity::of(&metadata))
}

/// Whether the path holds this very inode.
fn holds(path: &Path, expected: &Identity) -> bool {
    identity_at(path).is_ok_and(|identity| identity.same_inode(expected))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Place, StateDir, id_of, staging, testing};
    use super::*;
    use crate::protocol::ReleaseName;
    use std::ffi::OsStr;
    use std::fs::{File, Permissions};
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    const OLD: &[u8] = b"the old binary";
    const NEW: &[u8] = b"the new binary, and longer";
    const OLDEST: &[u8] = b"the one before";

    struct Scene {
        directory: testing::Directory,
        place: Place,
        path: PathBuf,
        target: PathBuf,
        state_dir: StateDir,
        _around: Option<testing::Directory>,
    }

    impl Scene {
        fn new() -> Self {
            let directory = testing::directory();
            let path = directory.path().join("app");
            write_program(&path, OLD);
            let place = Place::at(&path, None).expect("a place");
            let state_dir = StateDir::open(&place).expect("a state directory");
            Self { directory, place, target: path.clone(), path, state_dir, _around: None }
        }

        /// A packaged file, and an empty binary store.
        fn with_store() -> Self {
            let Self { directory: around, path, place, .. } = Self::new();
            let place = place.with_store(&around.path().join("store"), None).expect("a store");
            let state_dir = StateDir::open(&place).expect("a state directory");
            let (directory, target) = (testing::Directory::at(place.directory()), place.target().expect("a target"));
            Self { directory, place, path, target, state_dir, _around: Some(around) }
        }

        fn with_older_previous() -> Self {
            let scene = Self::new();
            write_program(&scene.previous(), OLDEST);
            scene
        }

        fn previous(&self) -> PathBuf {
            previous::path_in(self.state_dir.path())
        }

        fn stage(&self) -> (Staged, File) {
            let (staging, mut writer) = Staging::create(self.directory.path(), OsStr::new("app")).expect("a file");
            writer.write_all(NEW).expect("written");
            drop(writer);
            let started_from = identity_at(&self.path).expect("an identity");
            let previous = previous::prepare(&self.path, &started_from, self.state_dir.path()).expect("prepared");
            let model = File::open(&self.path).expect("opened");
            staging::copy_attributes(&model, staging.file(), staging.path()).expect("copied");
            let identity = Identity::of(&staging.file().metadata().expect("metadata"));
            let (path, file) = staging.keep().expect("kept");
            (Staged { release: ReleaseName::default(), path, identity, started_from, previous }, file)
        }

        /// What lies beside the program.
        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.directory.path())
                .expect("a directory")
                .chain(fs::read_dir(self.state_dir.path()).expect("a directory"))
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
                .collect();
            names.sort();
            names
        }
    }

    fn write_program(path: &Path, contents: &[u8]) {
        fs::write(path, contents).expect("written");
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("mode set");
    }

    fn read(path: &Path) -> Vec<u8> {
        fs::read(path).expect("read")
    }

    #[test]
    fn the_release_is_at_the_path_and_the_old_binary_is_previous() {
        for scene in [Scene::new(), Scene::with_older_previous()] {
            let (staged, file) = scene.stage();
            commit(&scene.path, &staged, file.as_fd()).expect("committed");
            assert_eq!((read(&scene.path), read(&scene.previous())), (NEW.to_vec(), OLD.to_vec()));
            assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
            assert!(holds(&scene.path, &staged.identity));
            let mode = fs::metadata(&scene.path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);

            let back = take_back(&scene.path, scene.state_dir.path(), &staged.identity).expect("taken back");
            assert!(back.same_inode(&staged.started_from), "it is a link, not a copy");
            assert_eq!((read(&scene.path), read(&scene.previous())), (OLD.to_vec(), OLD.to_vec()));
            assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);

            let (staged, file) = scene.stage();
            commit(&scene.path, &staged, file.as_fd()).expect("committed again");
            assert_eq!((read(&scene.path), read(&scene.previous())), (NEW.to_vec(), OLD.to_vec()));
            assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
        }
    }

    #[test]
    fn a_file_that_somebody_put_there_is_never_lost() {
        let scene = Scene::with_older_previous();
        let (staged, file) = scene.stage();
        let theirs = scene.directory.path().join("theirs");
        write_program(&theirs, b"the operator's");
        fs::rename(&theirs, &scene.path).expect("renamed");
        let error = commit(&scene.path, &staged, file.as_fd()).expect_err("the path changed");
        assert!(matches!(error, CommitError::PathChanged { .. }), "{error}");
        assert_eq!((read(&scene.path), read(&scene.previous())), (b"the operator's".to_vec(), OLDEST.to_vec()));

        // Also when it is put there at the last moment, after the first look.
        let before = staged.started_from;
        let error = replace(&scene.path, &staged.path, &before, &staged.identity).expect_err("the path changed");
        assert!(matches!(error, CommitError::PathChanged { .. }), "{error}");
        assert_eq!((read(&scene.path), read(&staged.path)), (b"the operator's".to_vec(), NEW.to_vec()));

        let error = take_back(&scene.path, scene.state_dir.path(), &staged.identity).expect_err("the path changed");
        assert!(matches!(error, CommitError::PathChanged { .. }), "{error}");
        discard(&staged);
        assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
        assert_eq!(read(&scene.path), b"the operator's");
    }

    #[test]
    fn a_staged_file_that_was_changed_is_not_committed() {
        let scene = Scene::with_older_previous();
        let (staged, file) = scene.stage();
        File::options().append(true).open(&staged.path).expect("opened").write_all(b"!").expect("written");
        let error = commit(&scene.path, &staged, file.as_fd()).expect_err("it was changed");
        assert!(matches!(error, CommitError::StagedChanged { .. }), "{error}");
        fs::remove_file(&staged.path).expect("removed");
        let error = commit(&scene.path, &staged, file.as_fd()).expect_err("it is gone");
        assert!(matches!(error, CommitError::StagedChanged { .. }), "{error}");
        assert_eq!((read(&scene.path), read(&scene.previous())), (OLD.to_vec(), OLDEST.to_vec()));
    }

    #[test]
    fn nothing_is_taken_back_without_a_previous() {
        let scene = Scene::new();
        let current = identity_at(&scene.path).expect("an identity");
        let error = take_back(&scene.path, scene.state_dir.path(), &current).expect_err("there is none");
        assert!(matches!(error, CommitError::NoPrevious { .. }), "{error}");
        assert_eq!(scene.names(), [".app.overseer", "app"]);
    }

    #[test]
    fn what_is_undone_leaves_the_last_file_that_somebody_put_there() {
        let scene = Scene::new();
        let (staged, _file) = scene.stage();
        // Ours is at the path already, and theirs came out; they put a newer one there before we look.
        let newer = scene.directory.path().join("newer");
        write_program(&newer, b"newer");
        files::exchange(&staged.path, &scene.path).expect("exchanged");
        fs::rename(&newer, &scene.path).expect("renamed");
        undo(&scene.path, &staged.path, &staged.identity).expect("undone");
        assert_eq!(read(&scene.path), b"newer");
    }

    #[test]
    fn previous_on_another_file_system_is_copied_back() {
        testing::in_own_mounts("binary::commit::tests::previous_on_another_file_system_is_copied_back", |directory| {
            let path = directory.join("app");
            write_program(&path, OLD);
            let elsewhere = directory.join("elsewhere");
            fs::create_dir(&elsewhere).expect("a directory");
            testing::mount(&["-t", "tmpfs", "none", elsewhere.to_str().expect("text")]);
            let place = Place::at(&path, Some(&elsewhere.join("state"))).expect("a place");
            let state_dir = StateDir::open(&place).expect("a state directory");
            let directory = testing::Directory::at(directory);
            let scene = Scene { directory, place, target: path.clone(), path, state_dir, _around: None };
            let (staged, file) = scene.stage();
            commit(&scene.path, &staged, file.as_fd()).expect("committed");
            assert_eq!((read(&scene.path), read(&scene.previous())), (NEW.to_vec(), OLD.to_vec()));
            let back = take_back(&scene.path, scene.state_dir.path(), &staged.identity).expect("taken back");
            assert!(holds(&scene.path, &back));
            assert_eq!((read(&scene.path), read(&scene.previous())), (OLD.to_vec(), OLD.to_vec()));
            let mode = fs::metadata(&scene.path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);
            assert_eq!(scene.names(), ["app", "elsewhere", "previous"]);
        });
    }

    #[test]
    fn a_binary_of_another_user_is_copied_to_previous_and_replaced_as_far_as_the_rights_go() {
        let name = "binary::commit::tests::a_binary_of_another_user_is_copied_to_previous_and_replaced_as_far_as_the_rights_go";
        let prepare = |directory: &Path| {
            for (name, mode) in [("app", 0o755), ("setuid", 0o4755), ("capable", 0o755)] {
                write_program(&directory.join(name), OLD);
                fs::set_permissions(directory.join(name), Permissions::from_mode(mode)).expect("mode set");
            }
            xattr::set(directory.join("capable"), "security.capability", &testing::CAPABILITIES).expect("capabilities set");
        };
        testing::as_nobody(name, prepare, |directory| {
            let path = directory.join("app");
            let place = Place::at(&path, None).expect("a place");
            let state_dir = StateDir::open(&place).expect("a state directory");
            let scene = Scene { directory: testing::Directory::at(directory), place, target: path.clone(), path, state_dir, _around: None };
            let (staged, file) = scene.stage();
            let is_copied = !identity_at(&staged.previous).expect("an identity").same_inode(&staged.started_from);
            if !is_copied {
                testing::not_shown("for want of protected_hardlinks: a previous that has to be copied");
            }
            commit(&scene.path, &staged, file.as_fd()).expect("committed");
            assert_eq!((read(&scene.path), read(&scene.previous())), (NEW.to_vec(), OLD.to_vec()));
            take_back(&scene.path, scene.state_dir.path(), &staged.identity).expect("taken back");
            assert_eq!((read(&scene.path), read(&scene.previous())), (OLD.to_vec(), OLD.to_vec()));

            // With other rights than the ones that it had, a program must not be replaced.
            let (staging, _writer) = Staging::create(directory, OsStr::new("app")).expect("a file");
            let refused = |name: &str| {
                let model = File::open(directory.join(name)).expect("opened");
                staging::copy_attributes(&model, staging.file(), staging.path()).expect_err("no right to do that").to_string()
            };
            assert!(refused("setuid").contains("the owner 0:0, with whose rights the running binary runs (mode 4755)"));
            assert!(refused("capable").contains("the capabilities of the running binary"));
            let model = File::open(directory.join("capable")).expect("opened");
            staging::try_out(&model, directory, OsStr::new("capable")).expect_err("that is known before a download");
        });
    }

    #[test]
    fn a_binary_in_a_lower_layer_of_an_overlay_is_replaced_as_any_other() {
        testing::in_own_mounts("binary::commit::tests::a_binary_in_a_lower_layer_of_an_overlay_is_replaced_as_any_other", |directory| {
            // As in a container: the layers on one file system, and on two.
            for kind in ["one", "two"] {
                let base = directory.join(kind);
                let [lower, top, merged] = ["lower", "top", "merged"].map(|name| base.join(name));
                for path in [&lower, &top, &merged] {
                    fs::create_dir_all(path).expect("a directory");
                }
                if kind == "two" {
                    testing::mount(&["-t", "tmpfs", "none", top.to_str().expect("text")]);
                }
                fs::create_dir(top.join("upper")).expect("a directory");
                fs::create_dir(top.join("work")).expect("a directory");
                write_program(&lower.join("app"), OLD);
                let options = format!("lowerdir={},upperdir={}/upper,workdir={}/work", lower.display(), top.display(), top.display());
                if !testing::try_mount(&["-t", "overlay", "-o", &options, "overlay", merged.to_str().expect("text")]) {
                    testing::not_shown(&format!("for want of an overlay: layers on {kind} file systems"));
                    continue;
                }
                let path = merged.join("app");
                let place = Place::at(&path, None).expect("a place");
                let state_dir = StateDir::open(&place).expect("a state directory");
                let scene =
                    Scene { directory: testing::Directory::at(&merged), place, target: path.clone(), path, state_dir, _around: None };
                let (staged, file) = scene.stage();
                commit(&scene.path, &staged, file.as_fd()).unwrap_or_else(|error| panic!("{kind}: {error}"));
                assert_eq!((read(&scene.path), read(&scene.previous())), (NEW.to_vec(), OLD.to_vec()));
                take_back(&scene.path, scene.state_dir.path(), &staged.identity).unwrap_or_else(|error| panic!("{kind}: {error}"));
                assert_eq!((read(&scene.path), read(&scene.previous())), (OLD.to_vec(), OLD.to_vec()));
                assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
            }
        });
    }

    /// Set in a copy of the test program that is to commit or to take back: what, and for which scene.
    pub(in crate::binary) const VARIABLE: &str = "OVERSEER_TEST_COMMITTER";

    /// What that copy does, before its `main`. The file `begin` tells the trace from the start of the process.
    pub(in crate::binary) fn play_committer() -> ! {
        let order = std::env::var(VARIABLE).expect("an order");
        let (target, path, json): (PathBuf, PathBuf, String) = serde_json::from_str(&order).expect("an order");
        let staged: Staged = serde_json::from_str(&json).expect("a staged release");
        let state_dir = staged.previous.parent().expect("a directory").to_owned();
        if staged.path.exists() {
            let file = File::open(&staged.path).expect("opened");
            let _ = fs::symlink_metadata(BEGIN);
            commit_to(&target, &path, &staged, file.as_fd()).expect("committed");
        } else {
            let _ = fs::symlink_metadata(BEGIN);
            take_back(&path, &state_dir, &staged.identity).expect("taken back");
        }
        std::process::exit(0)
    }

    const BEGIN: &str = "/the committer begins here";

    /// The committer under strace, with `rest` of its arguments.
    fn committer(scene: &Scene, staged: &Staged, rest: &[String]) -> std::process::Output {
        let order = serde_json::to_string(&(&scene.target, &scene.path, serde_json::to_string(staged).expect("json"))).expect("json");
        let test = std::env::current_exe().expect("the test program");
        Command::new("strace").args(rest).arg(test).env(VARIABLE, order).output().expect("started")
    }

    /// The system calls that change something or look at files, by name and how manieth of that name, from the beginning marked above.
    fn calls(trace: &str) -> Vec<(String, usize)> {
        let mut counts = std::collections::HashMap::<&str, usize>::new();
        let mut calls = Vec::new();
        let mut has_begun = false;
        for line in trace.lines() {
            let Some((name, _)) = line.split_once('(') else { continue };
            let count = counts.entry(name).or_default();
            *count += 1;
            has_begun |= line.contains(BEGIN);
            if has_begun {
                calls.push((name.to_owned(), *count));
            }
        }
        calls
    }

    fn killed_at_every_call(begin: impl Fn() -> (Scene, Staged), check: impl Fn(&Scene, &Staged, bool)) {
        if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
            testing::not_shown("for want of strace: killed at every system call");
            return;
        }
        let (scene, staged) = begin();
        let trace = scene.directory.path().join("trace");
        let output = committer(&scene, &staged, &["-o".to_owned(), trace.display().to_string()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let calls = calls(&fs::read_to_string(&trace).expect("a trace"));
        fs::remove_file(&trace).expect("removed");
        check(&scene, &staged, true);
        assert!(calls.len() > 10 && calls.iter().any(|(name, _)| name == "renameat2"), "{calls:?}");
        for (name, count) in calls.iter().filter(|(name, _)| name != "exit_group") {
            let (scene, staged) = begin();
            let inject = format!("inject={name}:signal=KILL:when={count}");
            let output = committer(&scene, &staged, &["-o".to_owned(), "/dev/null".to_owned(), "-e".to_owned(), inject.clone()]);
            assert!(!output.status.success(), "it was not killed by {inject}");
            check(&scene, &staged, false);
        }
    }

    /// What the next start of a master does.
    fn clean(scene: &Scene) {
        let lock = scene.state_dir.lock().expect("no error").expect("the lock");
        // A process that another test forks at this moment has a copy of the flock until its exec.
        testing::until("the staged file is nobody's", || {
            scene.state_dir.clean(&lock, &scene.place);
            scene.names().iter().all(|name| !name.contains(".new-"))
        });
        drop(lock);
        fs::remove_file(scene.state_dir.path().join("lock")).expect("removed");
    }

    #[test]
    fn a_commit_that_is_killed_at_any_call_leaves_a_whole_binary() {
        let begin = || {
            let scene = Scene::with_older_previous();
            let (staged, file) = scene.stage();
            drop(file);
            (scene, staged)
        };
        killed_at_every_call(begin, |scene, _, is_done| {
            let now = read(&scene.path);
            clean(scene);
            assert_eq!(read(&scene.path), now, "cleaning is no change");
            let previous = read(&scene.previous());
            if now == NEW {
                assert_eq!(previous, OLD);
            } else {
                assert_eq!(now, OLD);
                assert!(!is_done && (previous == OLDEST || previous == OLD), "{previous:?}");
            }
            assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
            let mode = fs::metadata(&scene.path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);
        });
    }

    #[test]
    fn the_first_release_in_a_store_is_killed_at_any_call_and_whole_or_not_there() {
        let begin = || {
            let scene = Scene::with_store();
            let (staged, file) = scene.stage();
            drop(file);
            (scene, staged)
        };
        killed_at_every_call(begin, |scene, _, is_done| {
            clean(scene);
            assert_eq!(read(&scene.path), OLD, "the packaged file stays");
            let stored = fs::read(&scene.target).ok();
            assert!(stored.as_deref() == Some(NEW) || (stored.is_none() && !is_done), "{stored:?}");
            let previous = fs::read(scene.previous()).ok();
            assert!(previous.as_deref() == Some(OLD) || stored.is_none(), "{previous:?}");
            let known = [".app.overseer", "app", "previous"];
            assert!(scene.names().iter().all(|name| known.contains(&name.as_str())), "{:?}", scene.names());
        });
    }

    #[test]
    fn what_somebody_has_put_into_a_store_is_not_replaced_by_the_first_release() {
        let scene = Scene::with_store();
        let (staged, file) = scene.stage();
        write_program(&scene.target, b"somebody's");
        let error = commit_to(&scene.target, &scene.path, &staged, file.as_fd()).expect_err("it is taken");
        assert!(matches!(error, CommitError::PathChanged { .. }), "{error:?}");
        assert_eq!(read(&scene.target), b"somebody's");
        discard(&staged);
        fs::remove_file(&scene.target).expect("removed");

        let (staged, file) = scene.stage();
        write_program(&scene.path, b"a new package");
        fs::rename(&scene.path, scene.path.with_extension("moved")).expect("renamed");
        write_program(&scene.path, b"a new package");
        let error = commit_to(&scene.target, &scene.path, &staged, file.as_fd()).expect_err("it has changed");
        assert!(matches!(error, CommitError::PathChanged { .. }), "{error:?}");
        assert!(!scene.target.exists());
    }

    #[test]
    fn taking_back_that_is_killed_at_any_call_leaves_a_whole_binary() {
        let begin = || {
            let scene = Scene::new();
            let (staged, file) = scene.stage();
            commit(&scene.path, &staged, file.as_fd()).expect("committed");
            (scene, staged)
        };
        killed_at_every_call(begin, |scene, staged, is_done| {
            let now = read(&scene.path);
            clean(scene);
            assert_eq!(read(&scene.path), now, "cleaning is no change");
            assert_eq!(read(&scene.previous()), OLD);
            assert!(now == OLD || (!is_done && now == NEW), "{now:?}");
            assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
            if now == NEW {
                take_back(&scene.path, scene.state_dir.path(), &staged.identity).expect("taken back");
                assert_eq!(read(&scene.path), OLD);
            }
        });
    }

    #[test]
    fn where_files_cannot_be_exchanged_one_is_renamed() {
        let scene = Scene::with_older_previous();
        if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
            testing::not_shown("for want of strace: a file system that cannot exchange");
            return;
        }
        let (staged, file) = scene.stage();
        drop(file);
        let inject = "inject=renameat2:error=EINVAL".to_owned();
        let output = committer(&scene, &staged, &["-o".to_owned(), "/dev/null".to_owned(), "-e".to_owned(), inject]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((read(&scene.path), read(&scene.previous())), (NEW.to_vec(), OLD.to_vec()));
        assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
        let id = id_of(&mut File::open(&scene.path).expect("opened")).expect("hashed");
        assert_eq!(id.len(), 40);
    }
}
