//! Where the program's file is.
//!
//! The path by which the program was called, not the one that the kernel calls it by: a symlink to the binary stays one, and is
//! resolved again at each restart, so that whoever changes it chooses the next binary.
//!
//! With a binary store ([`Place::with_store`]) the file there is the *packaged* one, which is left alone; committed releases lie in the store under its
//! name, and the one that lies there is the one to run.

use super::Identity;
use crate::sys::{files, process};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The program's path, and the places that go with it. Found once; the names stay for the life of the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    #[serde(with = "crate::protocol::path")]
    invoked: PathBuf,
    #[serde(with = "crate::protocol::path")]
    directory: PathBuf,
    name: OsString,
    #[serde(with = "crate::protocol::path")]
    state_dir: PathBuf,
    /// `directory` is a binary store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_store: bool,
}

impl Place {
    /// Finds the file that this process runs, by the path that it was called by if that leads to it.
    ///
    /// `state_dir` is the configured one, if any. Made absolute by the working directory, so to be called before anybody changes that.
    ///
    /// # Errors
    /// The system does not say what this process runs, or the directory of the file is gone.
    pub(crate) fn find(state_dir: Option<&Path>) -> io::Result<Self> {
        let running = Self::running()?;
        let called = std::env::args_os().next().unwrap_or_default();
        let search_path = std::env::var_os("PATH").unwrap_or_default();
        let invoked = match called_path(&called, &search_path, is_at(running)) {
            Some(path) => path,
            None => without_deleted(files::own_path()?),
        };
        Self::at(&invoked, state_dir)
    }

    /// The place of the program that this process was called as, whatever file is there by now: an upgrade may have replaced it since the start.
    ///
    /// # Errors
    /// See [`Place::find`].
    pub(crate) fn called(state_dir: Option<&Path>) -> io::Result<Self> {
        let called = std::env::args_os().next().unwrap_or_default();
        let search_path = std::env::var_os("PATH").unwrap_or_default();
        match called_path(&called, &search_path, Path::is_file) {
            Some(path) => Self::at(&path, state_dir),
            None => Self::find(state_dir),
        }
    }

    /// The file that this process runs.
    ///
    /// # Errors
    /// The system does not say.
    pub(crate) fn running() -> io::Result<Identity> {
        fs::metadata(files::own_file()?).map(|metadata| Identity::of(&metadata))
    }

    /// The path by which this process was called, if that leads to another file by now than to the one that it runs.
    pub(crate) fn replaced() -> Option<PathBuf> {
        let running = Self::running().ok()?;
        let called = std::env::args_os().next().unwrap_or_default();
        let search_path = std::env::var_os("PATH").unwrap_or_default();
        let path = called_path(&called, &search_path, Path::is_file)?;
        let is_gone = files::own_path().is_ok_and(|own| !is_at(running)(&own));
        (is_gone && !is_at(running)(&path)).then_some(path)
    }

    /// The place of the file at `invoked`, which may be a symlink to it.
    pub(crate) fn at(invoked: &Path, state_dir: Option<&Path>) -> io::Result<Self> {
        let invoked = std::path::absolute(invoked)?;
        let real = match fs::canonicalize(&invoked) {
            Ok(real) => real,
            // The file was removed while it runs: it will be looked for where it was.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = invoked.parent().unwrap_or(Path::new("/"));
                fs::canonicalize(directory)?.join(invoked.file_name().unwrap_or_default())
            }
            Err(error) => return Err(error),
        };
        let (Some(directory), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a file", real.display())));
        };
        let state_dir = match state_dir {
            Some(path) => std::path::absolute(path)?,
            None => directory.join(hidden_name(name, ".overseer")),
        };
        Ok(Self { directory: directory.to_owned(), name: name.to_owned(), invoked, state_dir, has_store: false })
    }

    /// The same program, whose releases are committed to the directory `store`, which is made (mode 0700) if only its last part is missing. Nothing changes
    /// if the program lies in there.
    ///
    /// # Errors
    /// There is no such directory, and it cannot be made.
    pub(crate) fn with_store(&self, store: &Path, state_dir: Option<&Path>) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(store) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let directory = fs::canonicalize(store)?;
        if directory == self.directory {
            return Ok(self.clone());
        }
        let state_dir = match state_dir {
            Some(path) => std::path::absolute(path)?,
            None => directory.join(hidden_name(&self.name, ".overseer")),
        };
        Ok(Self { directory, state_dir, has_store: true, name: self.name.clone(), invoked: self.invoked.clone() })
    }

    /// Why releases are not committed to the binary store of this setting, or not to none where it is `None`, if that is so: it was decided when the service
    /// was started.
    pub(crate) fn why_not_in(&self, store: Option<&Path>) -> Option<String> {
        let wanted = store.map(|store| fs::canonicalize(store).unwrap_or_else(|_| store.to_owned()));
        let is_in = wanted.map_or(!self.has_store, |wanted| wanted == self.directory);
        (!is_in).then(|| match self.has_store {
            true => format!("{} decides where releases lie; it is what the service is started by", self.invoked.display()),
            false => format!("releases lie in {} until the service is started anew", self.directory.display()),
        })
    }

    pub(crate) fn has_store(&self) -> bool {
        self.has_store
    }

    /// The path of the packaged file, symlinks resolved, where releases are committed elsewhere. `None` without a store, or if it is gone.
    pub(crate) fn packaged(&self) -> Option<PathBuf> {
        fs::canonicalize(&self.invoked).ok().filter(|_| self.has_store)
    }

    /// Where a release is committed to.
    ///
    /// # Errors
    /// There is no store, and the path leads nowhere.
    pub(crate) fn target(&self) -> io::Result<PathBuf> {
        if self.has_store { Ok(self.stored()) } else { fs::canonicalize(&self.invoked) }
    }

    /// The path of the committed release in the store.
    fn stored(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Where a committed release goes that is not to run any more.
    fn aside(&self) -> PathBuf {
        self.directory.join(hidden_name(&self.name, ".set-aside"))
    }

    /// Moves the release that is committed to the store out of the way, so that the packaged file is the one to run. Answers where it is now; `None` if there is
    /// none.
    ///
    /// # Errors
    /// It is where it was.
    pub(crate) fn set_stored_aside(&self) -> io::Result<Option<PathBuf>> {
        let aside = self.aside();
        match fs::rename(self.stored(), &aside) {
            Ok(()) => files::sync_directory(&self.directory).map(|()| Some(aside)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a release that was moved out of the way back into its place, where nothing is now.
    ///
    /// # Errors
    /// It is where it was.
    pub(crate) fn put_stored_back(&self) -> io::Result<()> {
        fs::rename(self.aside(), self.stored())?;
        files::sync_directory(&self.directory)
    }

    /// The path that the program was called by; it may be a symlink.
    pub(crate) fn invoked(&self) -> &Path {
        &self.invoked
    }

    /// The path of the file now, symlinks resolved: the release that is committed to the store, if there is one, or what was called.
    ///
    /// # Errors
    /// There is none, or it cannot be looked at.
    pub(crate) fn resolve(&self) -> io::Result<PathBuf> {
        let stored = self.stored();
        if self.has_store && fs::symlink_metadata(&stored).is_ok() {
            return Ok(stored);
        }
        fs::canonicalize(&self.invoked)
    }

    /// The file name of the binary when it was found: what its processes are called, and what is beside it is named after.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// The directory that releases are staged in: the store, or that of the binary when it was found, symlinks resolved.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where `state.json`, `previous` and the lock lie.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The state directory beside the binary.
    pub(crate) fn default_state_dir(&self) -> PathBuf {
        self.directory.join(hidden_name(&self.name, ".overseer"))
    }

    /// Whether the state directory is the one beside the binary.
    pub(crate) fn is_state_dir_default(&self) -> bool {
        self.state_dir == self.default_state_dir()
    }

    /// Why no release could take the place of the file, if that is plain beforehand. Restarts work all the same.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let path = match self.target() {
            Ok(path) => path,
            Err(error) => return Some(format!("{} cannot be found: {error}", self.invoked.display())),
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        if self.has_store {
            return foreign_store(directory).or_else(|| Self::obstacle_in(&path, directory));
        }
        Self::obstacle_in(&path, directory).map(|why| format!("{why} (binary_store would keep releases in another directory)"))
    }

    fn obstacle_in(path: &Path, directory: &Path) -> Option<String> {
        if is_mount_point(path) {
            return Some(format!("{} is a mount point of its own and cannot be renamed over", path.display()));
        }
        if let Ok(mount) = files::mount_flags(directory) {
            if mount.is_read_only {
                return Some(format!("{} is on a file system that is mounted read-only", directory.display()));
            }
            if mount.is_noexec {
                return Some(format!("{} is on a file system that is mounted noexec", directory.display()));
            }
        }
        if let Err(error) = files::may_change_directory(directory) {
            let user = nix::unistd::geteuid();
            return Some(format!("user {user} cannot write the directory {}: {error}", directory.display()));
        }
        sticky_obstacle(path, directory)
    }

    /// Whether a release would be gone with the container: it would lie on the overlay that is the root of one, which is where what is written goes that was not given a
    /// volume. Machines have such roots too, and most of them keep what is written.
    pub(crate) fn is_ephemeral(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let is_on_root = device(&self.directory).is_some_and(|here| device(Path::new("/")) == Some(here));
        is_on_root && files::is_overlay(&self.directory) && process::is_in_container()
    }
}

/// What lies in a store is executed, so nobody else may write to it.
fn foreign_store(directory: &Path) -> Option<String> {
    let user = nix::unistd::geteuid().as_raw();
    let metadata = match fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("the binary store {} cannot be looked at: {error}", directory.display())),
    };
    if ![0, user].contains(&metadata.uid()) {
        return Some(format!("the binary store {} belongs to user {}, not to user {user} or root", directory.display(), metadata.uid()));
    }
    let mode = metadata.mode() & 0o7777;
    (mode & 0o022 != 0).then(|| format!("others can write to the binary store {} (mode {mode:04o})", directory.display()))
}

/// In a sticky directory such as `/tmp`, only the owner of a file or of the directory may rename over it.
fn sticky_obstacle(path: &Path, directory: &Path) -> Option<String> {
    let user = nix::unistd::geteuid();
    let (file, around) = (fs::metadata(path).ok()?, fs::metadata(directory).ok()?);
    let is_sticky = around.mode() & 0o1000 != 0;
    let is_ours = user.is_root() || [file.uid(), around.uid()].contains(&user.as_raw());
    (is_sticky && !is_ours)
        .then(|| format!("{} is in a sticky directory and belongs to user {}, not to user {user}", path.display(), file.uid()))
}

/// `.NAMEending`, for what lies beside the binary.
pub(crate) fn hidden_name(name: &OsStr, ending: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(ending);
    hidden
}

/// Whether a path leads to this file.
fn is_at(file: Identity) -> impl Fn(&Path) -> bool {
    move |path| fs::metadata(path).is_ok_and(|there| Identity::of(&there).same_inode(&file))
}

/// The path that a process was called by, if it `leads_there`. As a shell does: a name without a slash is searched for.
fn called_path(called: &OsStr, search_path: &OsStr, leads_there: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if called.as_bytes().contains(&b'/') {
        let path = std::path::absolute(called).ok()?;
        return leads_there(&path).then_some(path);
    }
    if called.is_empty() {
        return None;
    }
    std::env::split_paths(search_path)
        .filter_map(|directory| std::path::absolute(directory.join(called)).ok())
        .find(|path| leads_there(path))
}

/// The kernel adds this to the path of a file that was removed or replaced since it was executed.
fn without_deleted(path: PathBuf) -> PathBuf {
    if path.exists() {
        return path;
    }
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(before) => PathBuf::from(OsString::from_vec(before.to_vec())),
        None => path,
    }
}

/// Whether something is mounted at this very path, as containers do with single files.
fn is_mount_point(path: &Path) -> bool {
    fs::read("/proc/self/mountinfo").is_ok_and(|table| is_mount_point_in(&table, path))
}

/// The fifth field of a line is the mount point, with blanks and backslashes as `\040` (proc_pid_mountinfo(5)).
fn is_mount_point_in(table: &[u8], path: &Path) -> bool {
    table.split(|byte| *byte == b'\n').any(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4);
        field.is_some_and(|field| unescape(field) == path.as_os_str().as_bytes())
    })
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\');
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn the_test_program_finds_itself() {
        let place = Place::find(None).expect("a place");
        let running = fs::canonicalize("/proc/self/exe").expect("a path");
        assert_eq!(place.resolve().expect("a path"), running);
        assert_eq!(place.name(), running.file_name().expect("a name"));
        assert_eq!(place.state_dir(), place.directory().join(hidden_name(place.name(), ".overseer")));
        assert!(place.is_state_dir_default());
    }

    #[test]
    fn a_symlink_stays_the_path_and_is_resolved_again() {
        let directory = testing::directory();
        fs::write(directory.path().join("app-1"), "one").expect("written");
        fs::write(directory.path().join("app-2"), "two").expect("written");
        let link = directory.path().join("app");
        std::os::unix::fs::symlink("app-1", &link).expect("a link");
        let running = Identity::of(&fs::metadata(directory.path().join("app-1")).expect("metadata"));

        let invoked = called_path(link.as_os_str(), OsStr::new(""), is_at(running)).expect("it leads there");
        assert_eq!(invoked, link);
        let place = Place::at(&invoked, None).expect("a place");
        assert_eq!(place.resolve().expect("a path"), directory.path().join("app-1"));
        assert_eq!(place.name(), "app-1");

        fs::remove_file(&link).expect("removed");
        std::os::unix::fs::symlink("app-2", &link).expect("a link");
        assert_eq!(place.resolve().expect("a path"), directory.path().join("app-2"));
        assert_eq!(called_path(link.as_os_str(), OsStr::new(""), is_at(running)), None, "another file is there now");
    }

    #[test]
    fn a_bare_name_is_searched_for_as_a_shell_does() {
        let directory = testing::directory();
        let path = directory.path().join("app");
        fs::write(&path, "one").expect("written");
        let running = Identity::of(&fs::metadata(&path).expect("metadata"));
        let search = std::env::join_paths([Path::new("/nonexistent"), directory.path()]).expect("a search path");
        assert_eq!(called_path(OsStr::new("app"), &search, is_at(running)), Some(path));
        assert_eq!(called_path(OsStr::new("app"), OsStr::new("/bin"), is_at(running)), None);
        assert_eq!(called_path(OsStr::new("-bash"), &search, is_at(running)), None);
        assert_eq!(called_path(OsStr::new(""), &search, is_at(running)), None);
    }

    #[test]
    fn a_removed_file_is_looked_for_where_it_was() {
        let directory = testing::directory();
        let path = directory.path().join("app");
        assert_eq!(without_deleted(directory.path().join("app (deleted)")), path);
        let place = Place::at(&path, None).expect("a place");
        assert_eq!((place.directory(), place.name()), (directory.path(), OsStr::new("app")));
        assert!(place.obstacle().is_some_and(|why| why.contains("cannot be found")));

        let really = directory.path().join("app (deleted)");
        fs::write(&really, "").expect("written");
        assert_eq!(without_deleted(really.clone()), really);
    }

    #[test]
    fn an_ordinary_directory_is_no_obstacle() {
        let directory = testing::directory();
        let path = directory.path().join("app");
        fs::write(&path, "one").expect("written");
        let place = Place::at(&path, Some(Path::new("/var/lib/app"))).expect("a place");
        assert_eq!(place.obstacle(), None);
        assert_eq!(place.state_dir(), Path::new("/var/lib/app"));
        assert!(!place.is_state_dir_default());
    }

    #[test]
    fn with_a_store_the_release_that_lies_there_is_the_file_and_the_packaged_one_is_left_alone() {
        let directory = testing::directory();
        let path = directory.path().join("app");
        fs::write(&path, "packaged").expect("written");
        let plain = Place::at(&path, None).expect("a place");
        assert_eq!((plain.packaged(), plain.target().expect("a path")), (None, path.clone()));
        assert_eq!(plain.with_store(directory.path(), None).expect("a place"), plain, "its own directory is no store");
        plain.with_store(Path::new("/nonexistent/store"), None).expect_err("it cannot be made");

        let link = directory.path().join("link");
        let store = directory.path().join("store");
        let place = plain.with_store(&store, None).expect("a store, which is made");
        assert_eq!(fs::metadata(&store).expect("there").mode() & 0o7777, 0o700);
        std::os::unix::fs::symlink(&store, &link).expect("a link");
        assert_eq!(plain.with_store(&link, None).expect("a store"), place);
        assert_eq!((place.directory(), place.state_dir()), (store.as_path(), store.join(".app.overseer").as_path()));
        assert_eq!((place.packaged(), place.resolve().expect("a path")), (Some(path.clone()), path));
        assert_eq!((place.obstacle(), place.set_stored_aside().expect("nothing is there")), (None, None));
        let elsewhere = directory.path().join("elsewhere");
        for (place, holds, others) in
            [(&place, Some(store.as_path()), [None, Some(elsewhere.as_path())]), (&plain, None, [Some(&*store), Some(&*elsewhere)])]
        {
            assert_eq!(place.why_not_in(holds), None);
            assert!(others.iter().all(|other| place.why_not_in(*other).is_some()), "it was decided otherwise");
        }
        assert_eq!((place.why_not_in(Some(&link)), plain.why_not_in(Some(plain.directory()))), (None, None), "it is the same directory");

        let target = place.target().expect("a path");
        fs::write(&target, "committed").expect("written");
        assert_eq!((target.as_path(), place.resolve().expect("a path")), (store.join("app").as_path(), target.clone()));
        let aside = place.set_stored_aside().expect("moved");
        assert_eq!(aside, Some(store.join(".app.set-aside")));
        assert_eq!(place.resolve().expect("a path"), directory.path().join("app"));

        fs::set_permissions(&store, std::os::unix::fs::PermissionsExt::from_mode(0o770)).expect("mode set");
        assert!(place.obstacle().is_some_and(|why| why.contains("others can write to the binary store")));
    }

    #[test]
    fn a_mount_point_is_found_in_the_table_of_the_kernel() {
        let table = b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n40 22 8:1 /b /opt/my\\040app/app rw - ext4 /dev/sda rw\n";
        assert!(is_mount_point_in(table, Path::new("/opt/my app/app")));
        assert!(!is_mount_point_in(table, Path::new("/opt/my app")));
        assert!(!is_mount_point_in(table, Path::new("/opt/my app/app2")));
    }

    #[test]
    fn mounts_that_rule_out_an_upgrade_are_named() {
        testing::in_own_mounts("binary::place::tests::mounts_that_rule_out_an_upgrade_are_named", |directory| {
            let path = directory.join("app");
            fs::write(&path, "one").expect("written");
            let place = Place::at(&path, None).expect("a place");
            assert_eq!((place.obstacle(), place.is_ephemeral()), (None, false));
            if testing::try_mount_overlay(directory, &["lower", "upper", "work", "merged"]) {
                fs::write(directory.join("merged/app"), "one").expect("written");
                let on_overlay = Place::at(&directory.join("merged/app"), None).expect("a place");
                assert!(!on_overlay.is_ephemeral(), "it is not the root of a container");
            }

            testing::mount(&["--bind", path.to_str().expect("text"), path.to_str().expect("text")]);
            assert!(place.obstacle().is_some_and(|why| why.contains("mount point of its own")), "{:?}", place.obstacle());

            for (option, word) in [("ro", "read-only"), ("noexec", "noexec")] {
                let mounted = directory.join(option);
                fs::create_dir(&mounted).expect("a directory");
                testing::mount(&["-t", "tmpfs", "none", mounted.to_str().expect("text")]);
                let path = mounted.join("app");
                fs::write(&path, "one").expect("written");
                testing::mount(&["-o", &format!("remount,{option}"), mounted.to_str().expect("text")]);
                let place = Place::at(&path, None).expect("a place");
                assert!(
                    place.obstacle().is_some_and(|why| why.contains(word) && why.contains("binary_store")),
                    "{option}: {:?}",
                    place.obstacle()
                );
            }
        });
    }
}
