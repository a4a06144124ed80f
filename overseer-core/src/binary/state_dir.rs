//! The directory `.NAME.overseer`: what is remembered in files, and the lock that says who polls.
//!
//! What is in it decides which binary runs, so it belongs to the owner of the binary's directory and nobody else may write it.
//! Every file in it is whole at every instant: written under another name, then renamed.

use super::{Place, Record, staging};
use crate::command::{CommandFile, Live, Presence};
use crate::sys::files;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A longer `state.json` is no record of ours: a hundred verdicts with long reasons take a tenth of it.
const RECORD_BYTES_MAX: u64 = 4 << 20;

const RECORD: &str = "state.json";
const RECORD_NEW: &str = "state.json.new";
const RECORD_DAMAGED: &str = "state.json.damaged";
const LOCK: &str = "lock";
const LIVE: &str = "master.json";
const LIVE_NEW: &str = "master.json.new";
/// What an operator asks for lies in a file `command-TOKEN.json`.
const COMMAND: &str = "command-";
/// Nobody has so many words for a reason.
const COMMAND_BYTES_MAX: u64 = 16 << 10;

/// Why nothing can be remembered. The program can be served all the same, but not upgraded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StateDirError {
    /// Stays until somebody removes or corrects it.
    #[error("{path} is not a directory (symlinks are not followed)")]
    NotADirectory { path: PathBuf },
    /// Stays until somebody removes or corrects it.
    #[error("{path} belongs to user {owner}, who is neither this user nor the owner of the binary's directory")]
    Foreign { path: PathBuf, owner: u32 },
    /// Stays until somebody removes or corrects it.
    #[error("others can write {path} (mode {mode:04o})")]
    Writable { path: PathBuf, mode: u32 },
    /// Stays until somebody removes the other name. What it leads to may be anybody's.
    #[error("{path} is a file that has other names too (hard links are not followed)")]
    Linked { path: PathBuf },
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// The directory, looked at and found trustworthy.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
}

/// Held by the one master of a file that polls. Given up when dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

/// A command that lies in the directory for as long as somebody waits for what comes of it. It is locked, so that one whose owner was killed is not taken
/// later. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Left {
    path: PathBuf,
    _locked: File,
}

impl Drop for Left {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Lock {
    /// The lock that this process has held since before it was replaced by another program.
    pub(crate) fn resume(file: OwnedFd) -> Self {
        Self(File::from(file))
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl StateDir {
    /// Makes the directory if it is not there (mode 0700), and looks whether it can be trusted.
    ///
    /// The one beside the binary is given to the owner of the directory around it, if root makes it. A configured one has to lie in a directory that is there.
    ///
    /// # Errors
    /// See [`StateDirError`]. A directory that was made is left.
    pub(crate) fn open(place: &Place) -> Result<Self, StateDirError> {
        let path = place.state_dir().to_owned();
        let failed = |what| {
            let path = path.clone();
            move |source| StateDirError::Io { what, path, source }
        };
        let around = fs::metadata(place.directory()).map_err(failed("look at the directory around"))?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) if place.is_state_dir_default() && around.uid() != nix::unistd::geteuid().as_raw() => {
                match std::os::unix::fs::lchown(&path, Some(around.uid()), Some(around.gid())) {
                    // Only root can give it away; as our own it can be trusted as well.
                    Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(failed("give away")(error)),
                    Ok(()) | Err(_) => {}
                }
            }
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make")(error)),
        }
        Self::trusted(path, &around)
    }

    /// The directory, if it is there and can be trusted. Nothing is changed.
    ///
    /// # Errors
    /// See [`StateDirError`].
    pub(crate) fn find(place: &Place) -> Result<Option<Self>, StateDirError> {
        let path = place.state_dir().to_owned();
        let failed = |source| StateDirError::Io { what: "look at the directory around", path: path.clone(), source };
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(_) | Err(_) => {}
        }
        let around = fs::metadata(place.directory()).map_err(failed)?;
        Self::trusted(path, &around).map(Some)
    }

    fn trusted(path: PathBuf, around: &fs::Metadata) -> Result<Self, StateDirError> {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(source) => return Err(StateDirError::Io { what: "look at", path, source }),
        };
        if !metadata.is_dir() {
            return Err(StateDirError::NotADirectory { path });
        }
        let owner = metadata.uid();
        if ![0, around.uid(), nix::unistd::geteuid().as_raw()].contains(&owner) {
            return Err(StateDirError::Foreign { path, owner });
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(StateDirError::Writable { path, mode: metadata.mode() & 0o7777 });
        }
        Ok(Self { path })
    }

    /// The directory of the master before, which has looked at it.
    pub(crate) fn resume(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock, if no other process has it. Does not wait.
    ///
    /// # Errors
    /// The file of the lock cannot be made or locked.
    pub(crate) fn lock(&self) -> Result<Option<Lock>, StateDirError> {
        let path = self.lock_path();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path);
        let file = match file {
            Ok(file) => file,
            Err(source) => return Err(StateDirError::Io { what: "open", path, source }),
        };
        if file.metadata().is_ok_and(|metadata| metadata.nlink() != 1) {
            return Err(StateDirError::Linked { path });
        }
        self.give(&file);
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(StateDirError::Io { what: "lock", path, source }),
        }
    }

    /// The same, where a command may have it for a moment, as it has if no master is seen: then this waits for up to a second.
    ///
    /// # Errors
    /// See [`StateDir::lock`].
    pub(crate) fn lock_from_command(&self) -> Result<Option<Lock>, StateDirError> {
        const PAUSES: u32 = 50;
        for _ in 0..PAUSES {
            let lock = self.lock()?;
            let has_master = || self.shown().is_ok_and(|live| live.is_some_and(|live| self.presence(&live) == Presence::Here));
            if lock.is_some() || has_master() {
                return Ok(lock);
            }
            // Nobody tells when it is free.
            let _ = crate::sys::poll::wait(&[], Some(std::time::Duration::from_millis(20)));
        }
        Ok(None)
    }

    /// Whether the master that shows itself here is there.
    pub(crate) fn presence(&self, live: &Live) -> Presence {
        live.process.presence(|| self.is_locked())
    }

    /// Whether a process has the lock, in whichever namespace; `None` if this one cannot tell. If none has, this one keeps it from being taken for a moment,
    /// as a command does.
    pub(crate) fn is_locked(&self) -> Option<bool> {
        match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(self.lock_path()) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Some(false),
                Err(TryLockError::WouldBlock) => Some(true),
                Err(TryLockError::Error(_)) => None,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
            Err(_) => None,
        }
    }

    /// The file whose flock is the lock.
    pub(crate) fn lock_path(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// The process that has taken the lock, if the system says.
    pub(crate) fn lock_holder(&self) -> Option<u32> {
        let inode = fs::metadata(self.lock_path()).ok()?.ino();
        holder_in(&fs::read_to_string("/proc/locks").ok()?, inode)
    }

    /// What was remembered, and what is wrong with it. Nothing is remembered at first. A damaged `state.json` is set aside as
    /// `state.json.damaged`: what it said is lost, but no reason not to serve.
    pub(crate) fn load(&self) -> (Record, Option<String>) {
        let path = self.path.join(RECORD);
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Record::default(), None),
            Err(error) => return (Record::default(), Some(format!("cannot read {}, starting without it: {error}", path.display()))),
        };
        let why = match serde_json::from_slice(&bytes) {
            _ if bytes.len() as u64 > RECORD_BYTES_MAX => format!("it is longer than {RECORD_BYTES_MAX} bytes"),
            Ok(record) => return (record, None),
            Err(error) => error.to_string(),
        };
        let aside = self.path.join(RECORD_DAMAGED);
        let now = match fs::rename(&path, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(error) => format!("it could not be set aside as {}: {error}", aside.display()),
        };
        (Record::default(), Some(format!("{} is damaged ({why}); {now}; starting without it", path.display())))
    }

    /// Remembers the record, also through a loss of power.
    ///
    /// # Errors
    /// What was remembered before is still there.
    pub(crate) fn save(&self, record: &Record) -> Result<(), StateDirError> {
        let path = self.path.join(RECORD);
        self.write(record, &path).map_err(|source| StateDirError::Io { what: "write", path, source })
    }

    fn write(&self, record: &Record, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(record)?;
        if bytes.len() as u64 > RECORD_BYTES_MAX {
            return Err(io::Error::other(format!("{} bytes are more than {RECORD_BYTES_MAX}", bytes.len())));
        }
        let new = self.path.join(RECORD_NEW);
        let mut file = create(&new)?;
        self.give(&file);
        let written = file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            // On a full disk the beginning of it would only be in the way.
            let _ = fs::remove_file(&new);
        }
        written?;
        files::sync_directory(&self.path)
    }

    /// Gives a new file to the owner of the directory, if root has made it: a command given by root must not shut out the service's user.
    fn give(&self, file: &File) {
        let own = nix::unistd::geteuid().as_raw();
        if own == 0
            && let Ok(directory) = fs::metadata(&self.path)
            && file.metadata().is_ok_and(|file| file.uid() == own && directory.uid() != own)
        {
            let _ = std::os::unix::fs::fchown(file, Some(directory.uid()), Some(directory.gid()));
        }
    }

    /// What was remembered, for somebody who only looks: a damaged `state.json` stays.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(crate) fn peek(&self) -> Result<Record, String> {
        let path = self.path.join(RECORD);
        match read_bounded(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| format!("{} is damaged: {error}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    /// Shows what the master is up to, to whoever may read it. Not through a loss of power, which no master outlives.
    ///
    /// # Errors
    /// What was shown before is still there.
    pub(crate) fn show(&self, live: &Live) -> io::Result<()> {
        let new = self.path.join(LIVE_NEW);
        let mut file = create(&new)?;
        self.give(&file);
        let written = serde_json::to_vec(live).map_err(io::Error::from).and_then(|bytes| file.write_all(&bytes));
        let shown = written.and_then(|()| fs::rename(&new, self.path.join(LIVE)));
        if shown.is_err() {
            let _ = fs::remove_file(&new);
        }
        shown
    }

    /// What a master has shown last; `None` if there is nothing.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(crate) fn shown(&self) -> io::Result<Option<Live>> {
        match read_bounded(&self.path.join(LIVE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Leaves a command for the master, until what this answers is dropped.
    ///
    /// # Errors
    /// Nothing was left.
    pub(crate) fn leave(&self, command: &CommandFile) -> io::Result<Left> {
        let path = self.path.join(format!("{COMMAND}{}.json", command.token));
        let mut file = tempfile::Builder::new().prefix(".command-").tempfile_in(&self.path)?;
        file.write_all(&serde_json::to_vec(command)?)?;
        // The master may be another user, and the directory keeps out all others.
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.as_file().lock()?;
        let locked = file.persist(&path).map_err(|error| error.error)?;
        Ok(Left { path, _locked: locked })
    }

    /// Takes what operators have left, in the order in which they did. A file that is no command, is not from root or the owner of the directory, was left by
    /// somebody who is gone, or cannot be removed, comes with the reason: what stays is not to be done twice.
    pub(crate) fn take_commands(&self) -> Vec<(PathBuf, Result<CommandFile, String>)> {
        let (Ok(entries), Ok(directory)) = (fs::read_dir(&self.path), fs::metadata(&self.path)) else { return Vec::new() };
        let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(COMMAND.as_bytes()));
        let paths = entries.flatten().map(|entry| entry.path()).filter(is_one);
        let left_at = |path: &PathBuf| fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
        let mut paths: Vec<(PathBuf, _)> = paths.map(|path| (path.clone(), left_at(&path))).collect();
        paths.sort_by_key(|(_, left_at)| *left_at);
        let take = |(path, _): (PathBuf, _)| {
            let read = read_command(&path, directory.uid());
            let removed = fs::remove_file(&path).map_err(|error| format!("it cannot be removed: {error}"));
            (path, removed.and(read))
        };
        paths.into_iter().map(take).collect()
    }

    /// Removes what killed processes left behind: here, and beside the binary the staged files that nobody holds. To be called by the holder
    /// of the lock while no poll process runs. Answers what was removed. The beginning of a download stays: it is of use.
    pub(crate) fn clean(&self, _lock: &Lock, place: &Place) -> Vec<PathBuf> {
        let mut removed = staging::remove_stale(place.directory(), place.name());
        removed.extend(super::previous::remove_prepared(&self.path));
        // Whoever waits for an answer to a command sees that its master is gone.
        let commands = self.take_commands().into_iter().map(|(path, _)| path);
        removed.extend(commands);
        let left = [RECORD_NEW, LIVE_NEW].map(|name| self.path.join(name));
        removed.extend(left.into_iter().filter(|path| fs::remove_file(path).is_ok()));
        removed
    }
}

/// Lines as `1: FLOCK  ADVISORY  WRITE 4711 08:01:123456 0 EOF` (proc_locks(5)). The device is not compared: some file systems call it otherwise here. If
/// files of several have the inode, nobody is named.
fn holder_in(table: &str, inode: u64) -> Option<u32> {
    let holder = |line: &str| {
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        let is_it = file.rsplit(':').next()?.parse() == Ok(inode);
        pid.parse().ok().filter(|pid| is_it && *pid > 0)
    };
    let mut holders = table.lines().filter_map(holder);
    holders.next().filter(|_| holders.next().is_none())
}

/// Makes a new file that only its owner can read, in place of what is there, which may be a link to anything.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn read_command(path: &Path, owner: u32) -> Result<CommandFile, String> {
    let unable = |error: io::Error| format!("it cannot be read: {error}");
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unable)?;
    let metadata = file.metadata().map_err(unable)?;
    if !metadata.is_file() || metadata.len() > COMMAND_BYTES_MAX {
        return Err(format!("it is no file of at most {COMMAND_BYTES_MAX} bytes"));
    }
    if ![0, owner].contains(&metadata.uid()) {
        return Err(format!("it belongs to user {}, who is neither root nor the owner of the state directory", metadata.uid()));
    }
    if file.try_lock_shared().is_ok() {
        return Err("nobody waits for it: whoever gave it is gone".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(COMMAND_BYTES_MAX).read_to_end(&mut bytes).map_err(unable)?;
    serde_json::from_slice(&bytes).map_err(|error| format!("it is no command: {error}"))
}

/// Up to one byte more than a record may have.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use std::os::unix::fs::symlink;

    fn place(directory: &Path) -> Place {
        let path = directory.join("app");
        fs::write(&path, "one").expect("written");
        Place::at(&path, None).expect("a place")
    }

    #[test]
    fn a_record_is_found_again() {
        let directory = testing::directory();
        let place = place(directory.path());
        let state_dir = StateDir::open(&place).expect("a state directory");
        assert_eq!(state_dir.load(), (Record::default(), None));

        let mut record = Record::default();
        record.note(7, "committed".to_owned());
        state_dir.save(&record).expect("saved");
        let again = StateDir::open(&place).expect("a state directory");
        assert_eq!(again.load(), (record, None));
        let metadata = fs::metadata(state_dir.path()).expect("metadata");
        assert_eq!(metadata.mode() & 0o7777, 0o700);
        assert_eq!(metadata.uid(), fs::metadata(directory.path()).expect("metadata").uid());
    }

    #[test]
    fn a_damaged_record_is_set_aside_and_said() {
        let too_long = vec![b' '; RECORD_BYTES_MAX as usize + 1];
        for damaged in [&b"{\"installed\":"[..], b"", b"\0\0\0\0", b"7", &too_long] {
            let directory = testing::directory();
            let state_dir = StateDir::open(&place(directory.path())).expect("a state directory");
            let path = state_dir.path().join(RECORD);
            fs::write(&path, damaged).expect("written");
            let (record, warning) = state_dir.load();
            assert_eq!(record, Record::default());
            let warning = warning.expect("a warning");
            assert!(warning.contains("state.json.damaged"), "{warning}");
            assert!(!path.exists() && state_dir.path().join(RECORD_DAMAGED).exists());
            assert_eq!(state_dir.load(), (Record::default(), None));
        }
    }

    #[test]
    fn a_fifo_in_the_way_of_a_record_stops_nobody() {
        let directory = testing::directory();
        let state_dir = StateDir::open(&place(directory.path())).expect("a state directory");
        let new = state_dir.path().join(RECORD_NEW);
        nix::unistd::mkfifo(&new, nix::sys::stat::Mode::S_IRWXU).expect("made");
        state_dir.save(&Record::default()).expect("it was removed");
    }

    #[test]
    fn what_others_have_linked_to_is_neither_emptied_nor_given_away() {
        let directory = testing::directory();
        let state_dir = StateDir::open(&place(directory.path())).expect("a state directory");
        let theirs = directory.path().join("theirs");
        fs::write(&theirs, "of somebody else").expect("written");
        for name in [RECORD_NEW, LIVE_NEW, LOCK] {
            for link in [|from: &Path, to: &Path| fs::hard_link(from, to), |from: &Path, to: &Path| symlink(from, to)] {
                let _ = fs::remove_file(state_dir.path().join(name));
                link(&theirs, &state_dir.path().join(name)).expect("a link");
                let owner = fs::metadata(&theirs).expect("metadata").uid();
                if testing::is_root("a file that is given away") {
                    std::os::unix::fs::chown(state_dir.path(), Some(4711), None).expect("owner set");
                }
                match name {
                    RECORD_NEW => state_dir.save(&Record::default()).expect("saved"),
                    LIVE_NEW => state_dir.show(&Live::default()).expect("shown"),
                    _ => drop(state_dir.lock().expect_err("it is no file of ours")),
                }
                assert_eq!(
                    (fs::read(&theirs).expect("read"), fs::metadata(&theirs).expect("metadata").uid()),
                    (b"of somebody else".to_vec(), owner)
                );
            }
        }
    }

    #[test]
    fn the_lock_is_had_once() {
        let directory = testing::directory();
        let state_dir = StateDir::open(&place(directory.path())).expect("a state directory");
        let lock = state_dir.lock().expect("no error").expect("the lock");
        assert!(state_dir.lock().expect("no error").is_none());
        assert_eq!(state_dir.is_locked(), Some(true));
        drop(lock);
        testing::until("nobody has it", || state_dir.is_locked() == Some(false));
        // A process that another test forks at this moment has a copy of it until its exec.
        testing::until("it is free", || state_dir.lock().expect("no error").is_some());
    }

    fn command(token: &str) -> CommandFile {
        CommandFile { token: token.to_owned(), command: crate::supervisor::Command::Unhold, by: "somebody".to_owned(), ids: Vec::new() }
    }

    #[test]
    fn however_many_commands_there_are_they_are_taken_in_the_order_in_which_they_were_left() {
        let directory = testing::directory();
        let state_dir = StateDir::open(&place(directory.path())).expect("a state directory");
        let tokens: Vec<String> = (0..40).map(|number| format!("{:02}", number * 7 % 40)).collect();
        let left: Vec<Left> = tokens.iter().map(|token| state_dir.leave(&command(token)).expect("left")).collect();
        for (at, left) in (1..).zip(&left) {
            left._locked.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(at)).expect("set");
        }
        let taken: Vec<String> = state_dir.take_commands().into_iter().map(|(_, command)| command.expect("a command").token).collect();
        assert_eq!(taken, tokens);
        assert!(state_dir.take_commands().is_empty());
    }

    #[test]
    fn a_command_is_there_for_as_long_as_somebody_waits_for_its_answer() {
        let directory = testing::directory();
        let state_dir = StateDir::open(&place(directory.path())).expect("a state directory");
        let left = state_dir.leave(&command("x")).expect("left");
        // As if whoever left it had been killed.
        let path = state_dir.path().join("command-y.json");
        fs::copy(&left.path, &path).expect("copied");
        drop(left);
        let taken = state_dir.take_commands();
        assert_eq!(taken, [(path.clone(), Err("nobody waits for it: whoever gave it is gone".to_owned()))]);
        assert!(!path.exists());
    }

    #[test]
    fn a_command_that_cannot_be_removed_is_not_taken() {
        testing::in_own_mounts("binary::state_dir::tests::a_command_that_cannot_be_removed_is_not_taken", |directory| {
            testing::mount(&["-t", "tmpfs", "none", directory.to_str().expect("text")]);
            let state_dir = StateDir::open(&place(directory)).expect("a state directory");
            let left = state_dir.leave(&command("x")).expect("left");
            testing::mount(&["--bind", directory.to_str().expect("text"), directory.to_str().expect("text")]);
            testing::mount(&["-o", "remount,bind,ro", directory.to_str().expect("text")]);
            let taken = state_dir.take_commands();
            let why = taken[0].1.as_ref().expect_err("it stays");
            assert!(why.starts_with("it cannot be removed: ") && left.path.exists(), "{why}");
        });
    }

    #[test]
    fn who_has_the_lock_is_said() {
        let directory = testing::directory();
        let state_dir = StateDir::open(&place(directory.path())).expect("a state directory");
        let _lock = state_dir.lock().expect("no error").expect("the lock");
        assert_eq!(state_dir.lock_holder(), Some(std::process::id()));
        let table = "1: FLOCK  ADVISORY  WRITE 70 08:01:12 0 EOF\n2: POSIX  ADVISORY  WRITE 71 08:01:13 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 72 00:2f:14 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 73 00:2f:14 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 74 08:01:15 0 EOF\n5: FLOCK  ADVISORY  WRITE 75 08:02:15 0 EOF\n6: FLOCK  ADVISORY  WRITE -1 08:02:16 0 EOF\n";
        let holders = [12, 13, 14, 15, 16, 17].map(|inode| holder_in(table, inode));
        assert_eq!(holders, [Some(70), None, Some(72), None, None, None]);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = testing::directory();
        let place = place(directory.path());
        let path = StateDir::open(&place).expect("a state directory").path().to_owned();
        for mode in [0o770, 0o702, 0o1777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode set");
            let error = StateDir::open(&place).expect_err("others can write it");
            assert!(matches!(error, StateDirError::Writable { .. }), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode set");
        StateDir::open(&place).expect("others can only read it");
    }

    #[test]
    fn a_symlink_or_a_file_in_its_place_is_refused() {
        let directory = testing::directory();
        let place = place(directory.path());
        let elsewhere = testing::directory();
        symlink(elsewhere.path(), place.state_dir()).expect("a link");
        assert!(matches!(StateDir::open(&place), Err(StateDirError::NotADirectory { .. })));
        fs::remove_file(place.state_dir()).expect("removed");
        fs::write(place.state_dir(), "").expect("written");
        assert!(matches!(StateDir::open(&place), Err(StateDirError::NotADirectory { .. })));
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_of_the_owner_around_it_is_not() {
        if !testing::is_root("a directory of somebody else") {
            return;
        }
        let directory = testing::directory();
        let place = place(directory.path());
        let path = StateDir::open(&place).expect("a state directory").path().to_owned();
        std::os::unix::fs::chown(&path, Some(4711), None).expect("owner set");
        let error = StateDir::open(&place).expect_err("it is somebody else's");
        assert!(matches!(error, StateDirError::Foreign { owner: 4711, .. }), "{error}");

        std::os::unix::fs::chown(directory.path(), Some(4711), None).expect("owner set");
        StateDir::open(&place).expect("it is his");
        fs::remove_dir(&path).expect("removed");
        StateDir::open(&place).expect("made");
        assert_eq!(fs::metadata(&path).expect("metadata").uid(), 4711);
    }

    #[test]
    fn a_user_who_may_write_the_directory_of_somebody_else_has_one_of_his_own() {
        let name = "binary::state_dir::tests::a_user_who_may_write_the_directory_of_somebody_else_has_one_of_his_own";
        let prepare = |directory: &Path| {
            fs::create_dir(directory.join("around")).expect("a directory");
            fs::set_permissions(directory.join("around"), fs::Permissions::from_mode(0o777)).expect("mode set");
        };
        testing::as_nobody(name, prepare, |directory| {
            let place = place(&directory.join("around"));
            let state_dir = StateDir::open(&place).expect("made");
            let owner = fs::metadata(state_dir.path()).expect("metadata").uid();
            assert_eq!(owner, nix::unistd::geteuid().as_raw());
            assert_ne!(owner, fs::metadata(place.directory()).expect("metadata").uid());
            StateDir::open(&place).expect("found again");
        });
    }

    #[test]
    fn a_full_disk_leaves_the_old_record() {
        testing::in_own_mounts("binary::state_dir::tests::a_full_disk_leaves_the_old_record", |directory| {
            testing::mount(&["-t", "tmpfs", "-o", "size=256k", "none", directory.to_str().expect("text")]);
            let state_dir = StateDir::open(&place(directory)).expect("a state directory");
            let mut record = Record::default();
            record.note(1, "the old one".to_owned());
            state_dir.save(&record).expect("saved");
            testing::fill(directory);
            let mut longer = record.clone();
            longer.note(2, "x".repeat(10_000));
            let error = state_dir.save(&longer).expect_err("the disk is full");
            assert!(error.to_string().contains("state.json"), "{error}");
            assert_eq!(state_dir.load(), (record, None));
            assert!(!state_dir.path().join(RECORD_NEW).exists());
        });
    }
}
