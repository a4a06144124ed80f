//! A release in the file system.

use super::{Digest, FetchError, Fetcher, Known, Look, Release, SIGNATURE_BYTES_MAX};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Takes the file at a path as the release: the other end of a `scp`, a mounted share, a build directory.
///
/// The tag is made of inode, size and time of change. A file that is still being written is not taken: it must have kept
/// its size and its time for one [`File::settle`] (1 s), measured by its time of change against the clock. A file renamed into place
/// is whole at once, but is held to the same rule, since nothing tells it from the other kind.
///
/// A program with a [`trusted_key`](crate::Config::trusted_key) takes the file only with the signature beside it, `PATH.minisig`, which is held to the same
/// rule and has its part in the tag: a release that is signed anew is another one.
#[derive(Debug, Clone)]
pub struct File {
    path: PathBuf,
    interval: Duration,
    settle: Duration,
    sha256_file: bool,
}

/// A checksum file of a whole directory of releases is far below this.
const CHECKSUM_FILE_BYTES_MAX: usize = 64 * 1024;

impl File {
    /// Looks at `path` every second.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), interval: Duration::from_secs(1), settle: Duration::from_secs(1), sha256_file: false }
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

    /// Sets whether a release must match the SHA-256 in the file beside it, `PATH.sha256`, as `sha256sum` writes it. Off unless set. While that file is
    /// missing, the release counts as not yet published.
    #[must_use]
    pub fn sha256_file(mut self, required: bool) -> Self {
        self.sha256_file = required;
        self
    }

    /// Opens the file beside the release; `None` if it is not there.
    fn beside(&self, ending: &str) -> Result<Option<Opened>, FetchError> {
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        let path = PathBuf::from(path);
        match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => Opened::new(path, opened).map(Some),
        }
    }

    fn lacks(&self, ending: &str) -> Look {
        Look::incomplete(format!("there is no {}{ending}; a release is taken only with its {ending} file", self.path.display()))
    }
}

/// A file that is there.
struct Opened {
    path: PathBuf,
    file: fs::File,
    metadata: Metadata,
    changed: SystemTime,
}

impl Opened {
    fn new(path: PathBuf, opened: io::Result<fs::File>) -> Result<Self, FetchError> {
        let read = opened.and_then(|file| file.metadata().and_then(|metadata| Ok((file, metadata.modified()?, metadata))));
        match read {
            Ok((file, changed, metadata)) if metadata.is_file() => Ok(Self { path, file, metadata, changed }),
            Ok(_) => Err(FetchError::settings(format!("{} is not a file", path.display()))),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    #[cfg(unix)]
    fn tag(&self) -> String {
        use std::os::unix::fs::MetadataExt;
        format!("{}-{}-{}", self.metadata.ino(), self.metadata.len(), nanoseconds(self.changed))
    }

    #[cfg(not(unix))]
    fn tag(&self) -> String {
        format!("{}-{}", self.metadata.len(), nanoseconds(self.changed))
    }

    /// The first so many bytes of it.
    fn text(self, bytes_max: usize) -> Result<String, FetchError> {
        let mut bytes = Vec::new();
        let read = self.file.take(bytes_max as u64).read_to_end(&mut bytes);
        read.map_err(|error| unreadable(&self.path, &error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> FetchError {
    let text = format!("cannot read {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => FetchError::settings(text),
        _ => FetchError::passing(text),
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
        let release = Opened::new(self.path.clone(), open(&self.path))?;
        let mut tag = release.tag();
        let mut changed = release.changed;
        let signature = if known.wants_signature() { self.beside(".minisig")? } else { None };
        if let Some(signature) = &signature {
            tag = format!("{tag}+{}", signature.tag());
            changed = changed.max(signature.changed);
        }
        if known.is_settled(&tag) {
            return Ok(Look::unchanged());
        }
        if known.wants_signature() && signature.is_none() {
            return Ok(self.lacks(".minisig"));
        }
        // A time of change in the future comes from a clock that was set back; such a file counts as whole.
        let age = SystemTime::now().duration_since(changed).unwrap_or(self.settle);
        if age < self.settle {
            return Ok(Look::incomplete(format!("{} changed {age:?} ago and may not be whole yet", self.path.display())));
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let size_bytes = release.metadata.len();
        let mut offered = Release::new(tag, &name, release.file).size_bytes(size_bytes);
        if let Some(signature) = signature {
            // One byte more than there may be, so that core sees that it is too long.
            offered = offered.signature(signature.text(SIGNATURE_BYTES_MAX + 1)?);
        }
        if self.sha256_file {
            let Some(beside) = self.beside(".sha256")? else { return Ok(self.lacks(".sha256")) };
            let text = beside.text(CHECKSUM_FILE_BYTES_MAX)?;
            let without = || FetchError::passing(format!("{}.sha256 has no SHA-256 of {name} in it", self.path.display()));
            offered = offered.digest_beside(Digest::in_checksum_file(&text, &name).ok_or_else(without)?);
        }
        Ok(Look::release(offered))
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

    /// Long enough ago for everything.
    fn put(path: &Path, contents: impl AsRef<[u8]>) {
        fs::write(path, contents).expect("written");
        let file = fs::File::options().write(true).open(path).expect("opened");
        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).expect("time set");
    }

    #[test]
    fn where_a_signature_is_wanted_the_file_waits_for_it_and_another_one_makes_it_new() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, beside) = (directory.path().join("app"), directory.path().join("app.minisig"));
        let wanted = || Known::nothing().with_wanted_signature();
        let mut fetcher = File::new(&path);
        put(&path, "contents");
        let unsigned = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("nobody wants one");
        let look = fetcher.fetch(&wanted()).expect("a look");
        let why = look.why_incomplete().expect("it is not there");
        assert!(why.contains("/app.minisig; a release is taken only with its .minisig file"), "{why}");
        let look = fetcher.fetch(&wanted().with_settled(unsigned.tag())).expect("a look");
        assert!(look.is_unchanged(), "what was installed without one waits for none: {look:?}");

        put(&beside, "signature");
        let signed = fetcher.fetch(&wanted().with_settled(unsigned.tag())).expect("a look").into_release().expect("a release");
        assert_eq!((signed.minisig(), signed.file_name()), (Some("signature"), "app"));
        let look = fetcher.fetch(&wanted().with_settled(signed.tag())).expect("a look");
        assert!(look.is_unchanged(), "{look:?}");
        put(&beside, "another one");
        let again = fetcher.fetch(&wanted().with_settled(signed.tag())).expect("a look").into_release().expect("a release");
        assert_eq!(again.minisig(), Some("another one"));
        put(&beside, "s".repeat(SIGNATURE_BYTES_MAX + 5));
        let long = fetcher.fetch(&wanted()).expect("a look").into_release().expect("a release");
        assert_eq!(long.minisig().map(str::len), Some(SIGNATURE_BYTES_MAX + 1), "core sees that it is too long");

        fs::write(&beside, "half a sig").expect("written");
        let look = fetcher.settle(Duration::from_secs(3600)).fetch(&wanted()).expect("a look");
        assert!(look.why_incomplete().is_some_and(|why| why.contains("may not be whole yet")), "{look:?}");
        fs::remove_file(&beside).expect("removed");
        fs::create_dir(&beside).expect("made");
        let error = File::new(&path).fetch(&wanted()).expect_err("it is a directory");
        assert!(error.to_string().ends_with("/app.minisig is not a file"), "{error}");
    }

    #[test]
    fn the_checksum_beside_the_file_is_passed_on_if_asked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, beside) = (directory.path().join("app"), directory.path().join("app.sha256"));
        put(&path, "");
        let mut fetcher = File::new(&path).sha256_file(true);
        let look = fetcher.fetch(&Known::nothing()).expect("a look");
        assert!(look.why_incomplete().is_some_and(|why| why.contains("app.sha256; a release is taken only with its .sha256")), "{look:?}");
        put(&beside, "not a digest");
        let error = fetcher.fetch(&Known::nothing()).expect_err("it has no digest");
        assert!(error.to_string().ends_with("app.sha256 has no SHA-256 of app in it"), "{error}");
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        put(&beside, format!("{digest}  app\n"));
        let release = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
        assert_eq!(release.digests().map(Digest::to_hex).collect::<Vec<_>>(), [digest]);
        assert_eq!(File::new(&path).fetch(&Known::nothing()).expect("a look").into_release().expect("a release").digests().count(), 0);
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
