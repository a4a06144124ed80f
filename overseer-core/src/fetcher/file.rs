//! A release in the file system.

use super::{FetchError, Fetcher, Known, Look, Release};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Takes the file at a path as the release: the other end of a `scp`, a mounted share, a build directory.
///
/// The tag is made of inode, size and time of change. A file that is still being written is not taken: it must have kept
/// its size and its time for one [`File::settle`] (1 s), measured by its time of change against the clock. A file renamed into place
/// is whole at once, but is held to the same rule, since nothing tells it from the other kind.
#[derive(Debug, Clone)]
pub struct File {
    path: PathBuf,
    interval: Duration,
    settle: Duration,
}

impl File {
    /// Looks at `path` every second.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), interval: Duration::from_secs(1), settle: Duration::from_secs(1) }
    }

    /// Sets the pause between two looks; 1 s unless set.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets for how long the file must not have changed before it is taken; 1 s unless set.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }
}

impl Fetcher for File {
    fn source(&self) -> String {
        self.path.display().to_string()
    }

    fn check(&self) -> Result<(), FetchError> {
        if self.path.as_os_str().is_empty() {
            return Err(FetchError::settings("the path of the file fetcher is empty"));
        }
        Ok(())
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        let unreadable = |error: io::Error| {
            let text = format!("cannot read the release {}: {error}", self.path.display());
            match error.kind() {
                io::ErrorKind::PermissionDenied => FetchError::settings(text),
                _ => FetchError::passing(text),
            }
        };
        let file = open(&self.path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(FetchError::settings(format!("{} is not a file", self.path.display())));
        }
        let changed = metadata.modified().map_err(unreadable)?;
        let tag = tag(&metadata, changed);
        if known.is_settled(&tag) {
            return Ok(Look::unchanged());
        }
        // A time of change in the future comes from a clock that was set back; such a file counts as whole.
        let age = SystemTime::now().duration_since(changed).unwrap_or(self.settle);
        if age < self.settle {
            return Ok(Look::incomplete(format!("{} changed {age:?} ago and may not be whole yet", self.path.display())));
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Look::release(Release::new(tag, name, file).size_bytes(metadata.len())))
    }
}

/// Opens the file. One that is a FIFO would keep us waiting for somebody to write to it.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<fs::File> {
    fs::File::open(path)
}

#[cfg(unix)]
fn tag(metadata: &fs::Metadata, changed: SystemTime) -> String {
    use std::os::unix::fs::MetadataExt;
    format!("{}-{}-{}", metadata.ino(), metadata.len(), nanoseconds(changed))
}

#[cfg(not(unix))]
fn tag(metadata: &fs::Metadata, changed: SystemTime) -> String {
    format!("{}-{}", metadata.len(), nanoseconds(changed))
}

fn nanoseconds(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_taken_once_it_has_stopped_changing_and_only_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app");
        let mut file = fs::File::create(&path).expect("a file");
        file.write_all(b"first half").expect("written");
        file.set_modified(SystemTime::now()).expect("time set");
        let mut fetcher = File::new(&path).settle(Duration::from_secs(3600));
        let look = fetcher.fetch(&Known::nothing()).expect("a look");
        assert!(look.why_incomplete().is_some(), "{look:?}");

        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).expect("time set");
        let release = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
        let again = fetcher.fetch(&Known::nothing().with_settled(release.tag())).expect("a look");
        assert!(again.is_unchanged(), "{again:?}");
    }

    #[test]
    fn a_missing_file_passes_and_what_is_no_file_does_not() {
        let directory = tempfile::tempdir().expect("a directory");
        #[cfg(unix)]
        {
            let pipe = directory.path().join("pipe");
            nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
            let wrong = File::new(pipe).fetch(&Known::nothing()).expect_err("it is a FIFO");
            assert_eq!(wrong.kind(), super::super::FetchErrorKind::Settings);
        }
        let missing = File::new(directory.path().join("app")).fetch(&Known::nothing()).expect_err("it is not there");
        assert_eq!(missing.kind(), super::super::FetchErrorKind::Passing);
        assert!(missing.to_string().contains("app"), "{missing}");
        let wrong = File::new(directory.path()).fetch(&Known::nothing()).expect_err("it is a directory");
        assert_eq!(wrong.kind(), super::super::FetchErrorKind::Settings);
    }
}
