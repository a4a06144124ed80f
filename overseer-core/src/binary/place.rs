//! Where the program's file is.
//!
//! The path by which the program was called, not the one that the kernel calls it by: a symlink to the binary stays one, and is
//! resolved again at each restart, so that whoever changes it chooses the next binary.

use super::Identity;
use crate::sys::files;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
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
        Ok(Self { directory: directory.to_owned(), name: name.to_owned(), invoked, state_dir })
    }

    /// The path that the program was called by; it may be a symlink.
    pub(crate) fn invoked(&self) -> &Path {
        &self.invoked
    }

    /// The path of the file now, symlinks resolved.
    ///
    /// # Errors
    /// There is none, or it cannot be looked at.
    pub(crate) fn resolve(&self) -> io::Result<PathBuf> {
        fs::canonicalize(&self.invoked)
    }

    /// The file name of the binary when it was found: what its processes are called, and what is beside it is named after.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// The directory of the binary when it was found, symlinks resolved.
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
        let path = match self.resolve() {
            Ok(path) => path,
            Err(error) => return Some(format!("{} cannot be found: {error}", self.invoked.display())),
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        if is_mount_point(&path) {
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
        sticky_obstacle(&path, directory)
    }
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
            assert_eq!(place.obstacle(), None);

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
                assert!(place.obstacle().is_some_and(|why| why.contains(word)), "{option}: {:?}", place.obstacle());
            }
        });
    }
}
