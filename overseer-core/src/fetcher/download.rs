//! The published file on its way in: streamed to `download` in the state directory, hashed and counted as it comes.
//!
//! `download.json` says of what the bytes are the beginning, so that a later look can go on where this one broke off, also when this
//! process was killed. It is written before the first byte. When the last one is there it says so, and both stay until the file is proved or it is nothing:
//! who is killed during the proof need not download it again.

use super::{FetchError, Partial, Progress, Release};
use crate::binary::{Hashes, Refusal};
use crate::sys::files;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const DOWNLOAD: &str = "download";
const BEGINNING: &str = "download.json";
const BEGINNING_BYTES_MAX: u64 = 64 * 1024;
const PIECE_BYTES: usize = 128 * 1024;

/// Why there is no whole file.
#[derive(Debug)]
pub(super) enum DownloadError {
    Failed(FetchError),
    Refused(Refusal),
}

impl From<FetchError> for DownloadError {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for DownloadError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What `download` is the beginning of.
#[derive(Debug, Serialize, Deserialize)]
struct Beginning {
    source: String,
    tag: String,
    /// It is all of it.
    #[serde(default)]
    is_whole: bool,
}

/// The whole published file, whose size and digests are what its source says. Removed when dropped.
#[derive(Debug)]
pub(super) struct Whole {
    path: PathBuf,
    /// The byte at which this look went on with an earlier one; 0 if it read all of it, and its size if none of it.
    pub(super) resumed_at: u64,
}

impl Whole {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path.with_file_name(BEGINNING));
        let _ = fs::remove_file(&self.path);
    }
}

/// Where a published file goes, and how large it may be.
#[derive(Debug)]
pub(super) struct Download<'a> {
    pub(super) state_dir: &'a Path,
    pub(super) source: &'a str,
    pub(super) size_bytes_max: u64,
}

impl Download<'_> {
    fn path(&self) -> PathBuf {
        self.state_dir.join(DOWNLOAD)
    }

    /// What is there of a release of this source from an earlier look. All of one is of no use to a fetcher; [`Download::receive`] takes it.
    pub(super) fn beginning(&self) -> Option<Partial> {
        self.note().filter(|(note, _)| !note.is_whole).map(|(note, size_bytes)| Partial { tag: note.tag, size_bytes })
    }

    /// What is noted of this source, and the number of bytes that are there.
    fn note(&self) -> Option<(Beginning, u64)> {
        let mut text = String::new();
        let file = open_plainly(&self.state_dir.join(BEGINNING)).ok()?;
        file.take(BEGINNING_BYTES_MAX).read_to_string(&mut text).ok()?;
        let beginning: Beginning = serde_json::from_str(&text).ok()?;
        let metadata = fs::symlink_metadata(self.path()).ok()?;
        let is_of_use = beginning.source == self.source && metadata.is_file() && metadata.len() > 0;
        is_of_use.then_some((beginning, metadata.len()))
    }

    /// Removes what is there.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(self.state_dir.join(BEGINNING));
        let _ = fs::remove_file(self.path());
    }

    /// Reads the body to its end and compares size and digests. `progress` hears at first and after each piece how many bytes are there.
    ///
    /// If an earlier look has left all of the release, the body is not read.
    ///
    /// # Errors
    /// A body that breaks off or is too short leaves what came of it for a later look. After any other error nothing is left.
    pub(super) fn receive(
        &self,
        mut release: Release,
        partial: Option<&Partial>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Whole, DownloadError> {
        if let Some(whole) = self.left_whole(&release, progress)? {
            return Ok(whole);
        }
        let received = self.receive_into_file(&mut release, partial, progress);
        match &received {
            Err((_, Left::Nothing)) => self.forget(),
            // That it cannot be noted costs another download at worst.
            Ok(_) => drop(self.write_note(&release.tag, true)),
            Err((_, Left::Beginning)) => {}
        }
        received.map_err(|(error, _)| error)
    }

    /// All of the release, if an earlier look has left it and the source still says the same of it.
    fn left_whole(&self, release: &Release, progress: &mut dyn FnMut(Progress)) -> Result<Option<Whole>, FetchError> {
        let Some((_, size)) = self.note().filter(|(note, _)| note.is_whole && note.tag == release.tag) else { return Ok(None) };
        if release.size_bytes.is_some_and(|said| said != size) || size > self.size_bytes_max {
            return Ok(None);
        }
        let whole = Whole { path: self.path(), resumed_at: size };
        let mut hashes = [Hashes::new(&release.digests), Hashes::new(&release.digests_beside)];
        let mut file = open_plainly(whole.path()).map_err(|error| local("open", whole.path(), &error))?;
        hash_from(&mut file, size, &mut hashes).map_err(|error| local("read", whole.path(), &error))?;
        progress(Progress::Downloading { bytes: size, bytes_total: Some(size) });
        let is_right = hashes.into_iter().all(|hashes| hashes.finish().is_ok());
        Ok(is_right.then_some(whole))
    }

    fn receive_into_file(
        &self,
        release: &mut Release,
        partial: Option<&Partial>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Whole, (DownloadError, Left)> {
        if let Some(size) = release.size_bytes.filter(|size| *size > self.size_bytes_max) {
            let why = format!("has {size} bytes, more than the {} that are allowed (size_bytes_max)", self.size_bytes_max);
            return Err(nothing_left(Refusal::reject(why)));
        }
        let resumed_at = release.resumed_at;
        let needed = release.size_bytes.map_or(0, |size| size.saturating_sub(resumed_at));
        if let Some(free) = files::free_bytes(self.state_dir).filter(|free| *free < needed) {
            // Not tried, since the service may write to the same disk. What is there of it stays.
            let text = format!("{} needs {needed} bytes in {}, and {free} are free", release.tag, self.state_dir.display());
            return Err((FetchError::passing(text).into(), Left::Beginning));
        }
        let mut hashes = [Hashes::new(&release.digests), Hashes::new(&release.digests_beside)];
        let mut file = self.open(release, partial, &mut hashes).map_err(nothing_left)?;
        let mut size = resumed_at;
        let bytes_total = release.size_bytes;
        progress(Progress::Downloading { bytes: size, bytes_total });
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let bytes = match release.body.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err((broken_off(&release.tag, size, release.size_bytes, &error).into(), Left::Beginning)),
            };
            let piece = &buffer[..bytes];
            size += bytes as u64;
            if let Some(said) = release.size_bytes.filter(|said| size > *said) {
                let text = format!("the body of {} goes on after the {said} bytes that it is said to have", release.tag);
                return Err(nothing_left(FetchError::passing(text)));
            }
            if size > self.size_bytes_max {
                let why = format!("has more than the {} bytes that are allowed (size_bytes_max)", self.size_bytes_max);
                return Err(nothing_left(Refusal::reject(why)));
            }
            hashes.iter_mut().for_each(|hashes| hashes.update(piece));
            // Half a release on a full disk helps nobody; the service may need the room.
            file.write_all(piece).map_err(|error| nothing_left(local("write", &self.path(), &error)))?;
            progress(Progress::Downloading { bytes: size, bytes_total });
        }
        if let Some(said) = release.size_bytes.filter(|said| size < *said) {
            let text = format!("the body of {} ended after {size} of {said} bytes", release.tag);
            return Err((FetchError::passing(text).into(), Left::Beginning));
        }
        let whole = Whole { path: self.path(), resumed_at };
        let [hashes, beside] = hashes;
        hashes.finish().map_err(|refusal| nothing_left(whole.blame(refusal, &release.tag)))?;
        beside.finish().map_err(|refusal| {
            let text = format!("{} {}; the file with the digest may be older or newer than the release", release.tag, refusal.why);
            nothing_left(FetchError::passing(text))
        })?;
        Ok(whole)
    }

    /// Opens the file at the byte that the body starts at, with everything before it hashed.
    fn open(&self, release: &Release, partial: Option<&Partial>, hashes: &mut [Hashes]) -> Result<File, DownloadError> {
        let path = self.path();
        if release.resumed_at == 0 {
            return self.begin(&release.tag).map_err(|error| local("write", &path, &error).into());
        }
        let there = partial.filter(|partial| partial.tag == release.tag).map_or(0, |partial| partial.size_bytes);
        if release.resumed_at != there {
            let text =
                format!("the fetcher goes on with {} at byte {}, and {there} bytes of it are there", release.tag, release.resumed_at);
            return Err(FetchError::passing(text).into());
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| local("open", &path, &error))?;
        hash_from(&mut file, there, hashes).map_err(|error| local("read", &path, &error))?;
        // Nothing may lie behind it that was not hashed.
        file.set_len(there).and_then(|()| file.seek(SeekFrom::End(0))).map_err(|error| local("write", &path, &error))?;
        Ok(file)
    }

    /// Empties the file and notes what it will be the beginning of; in an order in which no note ever speaks of another file's bytes.
    fn begin(&self, tag: &str) -> io::Result<File> {
        self.forget();
        let file = File::options().write(true).create_new(true).mode(0o600).open(self.path())?;
        self.write_note(tag, false)?;
        Ok(file)
    }

    fn write_note(&self, tag: &str, is_whole: bool) -> io::Result<()> {
        let note = Beginning { source: self.source.to_owned(), tag: tag.to_owned(), is_whole };
        let path = self.state_dir.join(BEGINNING);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(&serde_json::to_vec(&note)?)
    }
}

impl Whole {
    /// Of a file put together by two looks, not the release need be wrong: it is fetched anew and not rejected.
    pub(super) fn blame(&self, refusal: Refusal, tag: &str) -> DownloadError {
        if self.resumed_at == 0 {
            return DownloadError::Refused(refusal);
        }
        let text = format!(
            "{tag}, fetched by more than one look (the last from byte {} on), {}; it is fetched anew",
            self.resumed_at, refusal.why
        );
        DownloadError::Failed(FetchError::passing(text))
    }
}

/// Hashes the next `bytes` of the file.
fn hash_from(file: &mut File, bytes: u64, hashes: &mut [Hashes]) -> io::Result<()> {
    let mut left = bytes;
    let mut buffer = vec![0; PIECE_BYTES];
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let piece = &mut buffer[..wanted];
        file.read_exact(piece)?;
        hashes.iter_mut().for_each(|hashes| hashes.update(piece));
        left -= piece.len() as u64;
    }
    Ok(())
}

/// Leaves the bytes as those of a download of the release that broke off.
#[cfg(feature = "conformance")]
pub(crate) fn leave_beginning(state_dir: &Path, source: &str, tag: &str, bytes: &[u8]) {
    let mut file = Download { state_dir, source, size_bytes_max: u64::MAX }.begin(tag).expect("a file in the state directory");
    file.write_all(bytes).expect("room for a release");
}

/// What an unsuccessful download leaves for later looks.
enum Left {
    Nothing,
    Beginning,
}

fn nothing_left(error: impl Into<DownloadError>) -> (DownloadError, Left) {
    (error.into(), Left::Nothing)
}

fn open_plainly(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)
}

/// What went wrong on this machine and not at the source: passes, unless somebody has to give a right.
pub(super) fn local(what: &str, path: &Path, error: &io::Error) -> FetchError {
    let text = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FetchError::settings(text),
        _ => FetchError::passing(text),
    }
}

/// A read of the body failed. If the fetcher has wrapped an error of its own, that is it.
fn broken_off(tag: &str, size: u64, said: Option<u64>, error: &io::Error) -> FetchError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|error| error as _);
    while let Some(error) = cause {
        if let Some(wrapped) = error.downcast_ref::<FetchError>() {
            return wrapped.clone();
        }
        cause = error.source();
    }
    let of = said.map(|said| format!(" of {said}")).unwrap_or_default();
    FetchError::passing(format!("the download of {tag} broke off after {size}{of} bytes: {}", FetchError::chain(error)))
}

#[cfg(test)]
mod tests {
    use super::super::{Digest, DigestAlgorithm, FetchErrorKind};
    use super::*;
    use crate::binary::testing;
    use crate::protocol::Verdict;
    use std::time::Duration;

    const BODY: &[u8] = b"abc";
    const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    fn at(directory: &Path) -> Download<'_> {
        Download { state_dir: directory, source: "here", size_bytes_max: 1000 }
    }

    fn sha1() -> Digest {
        Digest::from_hex(DigestAlgorithm::Sha1, SHA1).expect("a digest")
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("text")).collect();
        names.sort();
        names
    }

    fn failed(received: Result<Whole, DownloadError>) -> FetchError {
        match received {
            Err(DownloadError::Failed(error)) => error,
            other => panic!("it did not fail: {other:?}"),
        }
    }

    fn refused(received: Result<Whole, DownloadError>) -> Refusal {
        match received {
            Err(DownloadError::Refused(refusal)) => refusal,
            other => panic!("it was not refused: {other:?}"),
        }
    }

    /// Bytes, and then an error.
    struct Breaks(&'static [u8], Option<io::Error>);

    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(self.1.take().expect("read after an error"));
            }
            self.0.read(buffer)
        }
    }

    #[test]
    fn a_digest_file_that_is_one_release_behind_fails_the_look_and_rejects_nothing() {
        let directory = testing::directory();
        let release = Release::new("two", "app", &b"abd"[..]).digest_beside(sha1());
        let error = failed(at(directory.path()).receive(release, None, &mut |_| ()));
        assert!(error.kind() == FetchErrorKind::Passing && error.to_string().contains("may be older or newer"), "{error}");
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_whole_body_is_kept_until_it_is_dropped() {
        let directory = testing::directory();
        let download = at(directory.path());
        let mut heard = Vec::new();
        let release = Release::new("one", "app", BODY).size_bytes(3).digest(sha1());
        let whole = download.receive(release, None, &mut |progress| heard.push(progress.bytes())).expect("whole");
        assert_eq!((fs::read(whole.path()).expect("read"), heard), (BODY.to_vec(), vec![Some(0), Some(3)]));
        assert_eq!(names(directory.path()), [DOWNLOAD, BEGINNING]);
        assert_eq!(download.beginning(), None, "no fetcher is to go on with it");
        drop(whole);
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[test]
    fn what_a_killed_look_has_left_whole_is_not_read_again() {
        let directory = testing::directory();
        let download = at(directory.path());
        let leave = || {
            let whole = download.receive(Release::new("one", "app", BODY), None, &mut |_| ()).expect("whole");
            // As if this process had been killed.
            std::mem::forget(whole);
        };
        let unread = || Breaks(b"", Some(io::Error::other("it was read")));
        for release in [Release::new("one", "app", unread()), Release::new("one", "app", unread()).size_bytes(3).digest(sha1())] {
            leave();
            let mut heard = Vec::new();
            let whole =
                download.receive(release, download.beginning().as_ref(), &mut |progress| heard.push(progress.bytes())).expect("whole");
            assert_eq!((fs::read(whole.path()).expect("read"), heard, whole.resumed_at), (BODY.to_vec(), vec![Some(3)], 3));
            drop(whole);
            assert_eq!(names(directory.path()), [""; 0]);
        }

        // Unless the source says something else of it by now.
        let another = Digest::from_hex(DigestAlgorithm::Sha1, &SHA1.replace('a', "b")).expect("a digest");
        for release in [
            Release::new("two", "app", unread()),
            Release::new("one", "app", unread()).size_bytes(4),
            Release::new("one", "app", unread()).digest(another),
        ] {
            leave();
            let error = failed(download.receive(release, None, &mut |_| ()));
            assert!(error.to_string().contains("it was read"), "{error}");
        }
    }

    #[test]
    fn what_broke_off_is_gone_on_with() {
        let directory = testing::directory();
        let download = at(directory.path());
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let release = Release::new("one", "app", Breaks(b"ab", Some(reset))).size_bytes(3);
        let error = failed(download.receive(release, None, &mut |_| ()));
        assert_eq!(error.kind(), FetchErrorKind::Passing);
        assert!(error.to_string().contains("broke off after 2 of 3 bytes: connection reset"), "{error}");
        let partial = download.beginning().expect("a beginning");
        assert_eq!(partial, Partial { tag: "one".to_owned(), size_bytes: 2 });
        let elsewhere = Download { source: "elsewhere", ..at(directory.path()) };
        assert_eq!(elsewhere.beginning(), None);

        let release = Release::new("one", "app", &b"c"[..]).size_bytes(3).digest(sha1()).resumed_at(2);
        let whole = download.receive(release, Some(&partial), &mut |_| ()).expect("whole");
        assert_eq!((fs::read(whole.path()).expect("read"), whole.resumed_at), (BODY.to_vec(), 2));
    }

    #[test]
    fn what_cannot_be_gone_on_with_starts_over() {
        let directory = testing::directory();
        let download = at(directory.path());
        let begin = || {
            let release = Release::new("one", "app", &b"ab"[..]).size_bytes(3);
            let error = failed(download.receive(release, None, &mut |_| ()));
            assert!(error.to_string().contains("ended after 2 of 3 bytes"), "{error}");
            download.beginning().expect("a beginning")
        };
        let partial = begin();
        for (tag, byte) in [("one", 1), ("one", 3), ("two", 2)] {
            let release = Release::new(tag, "app", &b"c"[..]).resumed_at(byte);
            let error = failed(download.receive(release, Some(&begin()), &mut |_| ()));
            assert!(error.to_string().contains("bytes of it are there"), "{error}");
            assert_eq!(download.beginning(), None);
        }
        begin();
        let release = Release::new("one", "app", &b"x"[..]).digest(sha1()).resumed_at(2);
        let error = failed(download.receive(release, Some(&partial), &mut |_| ()));
        assert!(error.to_string().contains("fetched anew") && error.to_string().contains("SHA-1"), "{error}");
        assert_eq!(names(directory.path()), [""; 0]);

        begin();
        let whole = download.receive(Release::new("two", "app", BODY), Some(&partial), &mut |_| ()).expect("whole");
        assert_eq!(fs::read(whole.path()).expect("read"), BODY, "another release takes its place");
    }

    #[test]
    fn a_body_that_is_too_long_or_another_is_not_kept() {
        let directory = testing::directory();
        let download = at(directory.path());
        let error = failed(download.receive(Release::new("one", "app", BODY).size_bytes(2), None, &mut |_| ()));
        assert!(error.to_string().contains("goes on after the 2 bytes"), "{error}");
        assert_eq!(names(directory.path()), [""; 0]);

        let refusal = refused(download.receive(Release::new("one", "app", &b"abd"[..]).digest(sha1()), None, &mut |_| ()));
        assert!(refusal.verdict == Verdict::Reject && refusal.why.contains(SHA1), "{refusal:?}");
        assert_eq!(names(directory.path()), [""; 0]);

        let unread = Breaks(b"", None);
        let refusal = refused(download.receive(Release::new("one", "app", unread).size_bytes(1001), None, &mut |_| ()));
        assert!(refusal.why.contains("1001 bytes") && refusal.why.contains("1000"), "{}", refusal.why);
        let endless = io::repeat(7);
        let refusal = refused(download.receive(Release::new("one", "app", endless), None, &mut |_| ()));
        assert!(refusal.why.contains("more than the 1000 bytes"), "{}", refusal.why);
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[test]
    fn an_error_that_the_fetcher_wrapped_is_taken_out_again() {
        let directory = testing::directory();
        let own = FetchError::settings("the token has run out").retry_after(Duration::from_secs(9));
        let body = Breaks(b"ab", Some(io::Error::other(own.clone())));
        assert_eq!(failed(at(directory.path()).receive(Release::new("one", "app", body), None, &mut |_| ())), own);
    }

    #[test]
    fn a_damaged_note_is_no_beginning() {
        let directory = testing::directory();
        let download = at(directory.path());
        fs::write(directory.path().join(DOWNLOAD), "ab").expect("written");
        assert_eq!(download.beginning(), None);
        for note in ["", "{", "{\"source\":\"here\"}", "7"] {
            fs::write(directory.path().join(BEGINNING), note).expect("written");
            assert_eq!(download.beginning(), None, "{note}");
        }
        let whole = download.receive(Release::new("one", "app", BODY), None, &mut |_| ()).expect("whole");
        assert_eq!(fs::read(whole.path()).expect("read"), BODY);
    }

    #[test]
    fn a_full_disk_is_said_and_left_empty() {
        testing::in_own_mounts("fetcher::download::tests::a_full_disk_is_said_and_left_empty", |directory| {
            testing::mount(&["-t", "tmpfs", "-o", "size=128k", "none", directory.to_str().expect("text")]);
            let download = Download { size_bytes_max: 1 << 30, ..at(directory) };
            let body = io::repeat(7).take(1 << 20);
            let error = failed(download.receive(Release::new("one", "app", body), None, &mut |_| ()));
            assert_eq!(error.kind(), FetchErrorKind::Passing);
            let text = error.to_string();
            assert!(text.contains("/download: No space left on device"), "{text}");
            assert_eq!(names(directory), [""; 0]);

            let unread = Breaks(b"", None);
            let error = failed(download.receive(Release::new("one", "app", unread).size_bytes(1 << 20), None, &mut |_| ()));
            assert!(error.to_string().contains("needs 1048576 bytes") && error.to_string().ends_with("131072 are free"), "{error}");
        });
    }
}
