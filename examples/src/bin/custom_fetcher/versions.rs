//! Takes the highest version from a directory, such as a mounted share: `server-1.10.0` before `server-1.9.2`.
//!
//! A release counts once `server-1.10.0.sha256` is there too, which is copied last, so that half a copy is never taken.

use overseer_core::{Digest, FetchError, Fetcher, Known, Look, Release, SIGNATURE_BYTES_MAX};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than a checksum needs, and enough of a signature that is too long for core to refuse it.
const BESIDE_BYTES_MAX: u64 = SIGNATURE_BYTES_MAX as u64 + 1;

/// The versions of one program in a directory.
#[derive(Debug, Clone)]
pub struct Versions {
    directory: PathBuf,
    name: String,
    running: Vec<u64>,
    interval: Duration,
}

impl Versions {
    /// Looks in `directory` for files named `name`, a hyphen and a version of numbers and dots, every ten seconds.
    pub fn new(directory: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self { directory: directory.into(), name: name.into(), running: Vec::new(), interval: Duration::from_secs(10) }
    }

    /// Leaves alone what is not newer than `version`, which is to be that of the running program. Any version is taken unless set.
    #[must_use]
    pub fn newer_than(mut self, version: &str) -> Self {
        self.running = numbers(version).unwrap_or_default();
        self
    }

    /// The highest version that there is, and the name of its file.
    fn highest(&self) -> Result<Option<(Vec<u64>, String)>, FetchError> {
        let unreadable = |error| failed(&self.directory, &error);
        let mut highest = None;
        for entry in fs::read_dir(&self.directory).map_err(unreadable)? {
            let Ok(file_name) = entry.map_err(unreadable)?.file_name().into_string() else { continue };
            let version = file_name.strip_prefix(&self.name).and_then(|rest| numbers(rest.strip_prefix('-')?));
            highest = highest.max(version.map(|version| (version, file_name)));
        }
        Ok(highest)
    }

    /// The text of the file that is published beside the release, after it.
    fn beside(&self, file_name: &str, ending: &str) -> Result<Option<String>, FetchError> {
        let path = self.directory.join(format!("{file_name}{ending}"));
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(BESIDE_BYTES_MAX).read_to_string(&mut text)) {
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, &error)),
        }
    }
}

impl Fetcher for Versions {
    fn source(&self) -> String {
        format!("{}/{}-*", self.directory.display(), self.name)
    }

    fn check(&self) -> Result<(), FetchError> {
        if self.directory.is_absolute() {
            return Ok(());
        }
        Err(FetchError::settings(format!("the directory of releases {} is not an absolute path", self.directory.display())))
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        // A file name is a good tag here: whoever publishes a version a second time publishes nothing.
        let Some((version, tag)) = self.highest()? else { return Ok(Look::unchanged()) };
        if version <= self.running || known.is_settled(&tag) {
            return Ok(Look::unchanged());
        }
        let Some(checksum) = self.beside(&tag, ".sha256")? else {
            return Ok(Look::incomplete(format!("{tag} has no .sha256 file yet")));
        };
        let signature = if known.wants_signature() { self.beside(&tag, ".minisig")? } else { None };
        if known.wants_signature() && signature.is_none() {
            return Ok(Look::incomplete(format!("there is no {tag}.minisig; a release is taken only with its .minisig file")));
        }
        let path = self.directory.join(&tag);
        let unreadable = |error| failed(&path, &error);
        let digest = Digest::in_checksum_file(&checksum, &tag);
        let digest = digest.ok_or_else(|| FetchError::passing(format!("{}.sha256 does not begin with a SHA-256", path.display())))?;

        let mut file = File::open(&path).map_err(unreadable)?;
        let size_bytes = file.metadata().map_err(unreadable)?.len();
        // Goes on where an earlier look broke off, if it was in this very release.
        let begun = known.partial().filter(|partial| partial.tag == tag && partial.size_bytes <= size_bytes);
        let from = begun.map_or(0, |partial| partial.size_bytes);
        file.seek(SeekFrom::Start(from)).map_err(unreadable)?;

        let mut release = Release::new(&tag, &tag, file).size_bytes(size_bytes).resumed_at(from).digest_beside(digest);
        if let Some(minisig) = signature {
            release = release.signature(minisig);
        }
        Ok(Look::release(release))
    }
}

/// Who reads the log should know what to do: a right that is missing does not come back by itself, a share that is away may.
fn failed(path: &Path, error: &io::Error) -> FetchError {
    let text = format!("cannot read {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => FetchError::settings(text),
        _ => FetchError::passing(text),
    }
}

/// `1.10.0` is newer than `1.9.2`.
fn numbers(version: &str) -> Option<Vec<u64>> {
    version.split('.').map(|number| number.parse().ok()).collect()
}
