//! The poll process: one look at the source, and the way of a release from there to a proved file beside the program.
//!
//! Whatever happens in here, the file at the program's path is not touched, and the master hears one report, or of the death of this process.
//! A file that is not staged in the end is removed; the beginning of a download stays for the next look.

use super::download::{Download, DownloadError, Whole, local};
use super::release::Found;
use super::{FetchError, Fetcher, Known, Look, MEMO_BYTES_MAX, Release};
use crate::binary::staging::{self, AttributeError, Staging};
use crate::binary::{Identity, Packing, Refusal, UnpackError, check, id_of, previous, prove_contents, unpack};
use crate::config::PreUpgrade;
use crate::message::cut;
use crate::protocol::{FromPoll, Order, Outcome, ReleaseName, Report, Staged, Verdict};
use crate::signal::Signal;
use crate::sys::files;
use crate::sys::link::{Link, Received};
use crate::sys::signals::{Original, reset_to_default};
use std::any::Any;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::exit;
use std::time::{Duration, Instant};

/// The pause between two messages that bytes came.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);
/// The longest text of a report: a frame has room for it, however it is escaped.
const TEXT_BYTES_MAX: usize = 8 * 1024;
/// The longest tag that can be remembered.
const TAG_BYTES_MAX: usize = 1024;
/// The longest version that is shown.
const VERSION_BYTES_MAX: usize = 128;

/// What the program's settings say about a look.
pub(crate) struct Poll {
    pub(crate) fetcher: Box<dyn Fetcher>,
    pub(crate) size_bytes_max: u64,
    pub(crate) check_timeout: Duration,
    pub(crate) pre_upgrade: Option<PreUpgrade>,
}

/// What the poll process does: takes its order, looks, reports, and ends.
///
/// Exit code 0 if the report was sent, 1 if there was no order or nobody to report to.
pub(crate) fn run(mut link: Link, poll: Poll) -> ! {
    let Ok(Received::Message(order, _)) = link.receive::<Order>() else { exit(1) };
    let original = match Original::capture() {
        Ok(original) => original,
        Err(error) => {
            let text = format!("the signals of the poll process cannot be read: {error}");
            let outcome = Outcome::Failed { error: FetchError::passing(text) };
            exit(report(&mut link, Report { outcome, memo: None, running_id: None }, None))
        }
    };
    // Inherited as ignored, it would keep us from learning how the self-check ended.
    reset_to_default(Signal::CHLD);
    let mut last = None::<Instant>;
    let mut progress = |bytes| {
        if last.is_none_or(|last| last.elapsed() >= PROGRESS_PAUSE) {
            last = Some(Instant::now());
            // That nobody listens shows at the report.
            let _ = link.send(&FromPoll::Progress { bytes }, &[]);
        }
    };
    let (said, file) = poll.look(order, &original, &mut progress);
    exit(report(&mut link, said, file.as_ref()))
}

fn report(link: &mut Link, report: Report, file: Option<&File>) -> i32 {
    let descriptors: Vec<BorrowedFd<'_>> = file.map(AsFd::as_fd).into_iter().collect();
    match link.send(&FromPoll::Report(Box::new(report)), &descriptors) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("the report could not be sent: {}", FetchError::chain(&error));
            1
        }
    }
}

/// Why a look stops short of a staged release.
#[derive(Debug)]
enum Stop {
    Same,
    /// It is rejected or held back already, under another tag.
    Judged,
    Failed(FetchError),
    Refused(Refusal),
}

impl From<FetchError> for Stop {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<DownloadError> for Stop {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Failed(error) => Self::Failed(error),
            DownloadError::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

impl From<AttributeError> for Stop {
    fn from(error: AttributeError) -> Self {
        let text = FetchError::chain(&error);
        Self::Failed(match error {
            AttributeError::Capabilities { .. } | AttributeError::Owner { .. } => FetchError::settings(text),
            AttributeError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FetchError::settings(text),
                _ => FetchError::passing(text),
            },
        })
    }
}

impl Poll {
    /// Looks once, and answers the report and the descriptor that goes with it: a staged release, opened for reading and flocked.
    pub(super) fn look(mut self, order: Order, original: &Original, progress: &mut dyn FnMut(u64)) -> (Report, Option<File>) {
        let mut report = Report { outcome: Outcome::Unchanged, memo: None, running_id: None };
        match self.look_into(order, original, progress, &mut report) {
            Ok(file) => (report, file),
            Err(error) => {
                report.outcome = Outcome::Failed { error: printable_error(error) };
                (report, None)
            }
        }
    }

    fn look_into(
        &mut self,
        order: Order,
        original: &Original,
        progress: &mut dyn FnMut(u64),
        report: &mut Report,
    ) -> Result<Option<File>, FetchError> {
        let Order { mut known, path, state_dir, running, judged } = order;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = format!("{} is gone; nothing is fetched until the program is there again", path.display());
                report.outcome = Outcome::Incomplete { why };
                return Ok(None);
            }
            Err(error) => return Err(local("look at", &path, &error)),
        };
        let started_from = Identity::of(&metadata);
        if !started_from.same_inode(&running) {
            let why = format!("{} holds another file than the running one; restart to take it", path.display());
            report.outcome = Outcome::Incomplete { why };
            return Ok(None);
        }
        if known.id.is_none() {
            // A file that may be executed and not read has no ID. That is said when it matters: when there is a release.
            known.id = File::open(&path).and_then(|mut file| id_of(&mut file)).ok();
            report.running_id.clone_from(&known.id);
        }
        let source = caught(|| self.fetcher.source())?;
        let download = Download { state_dir: &state_dir, source: &source, size_bytes_max: self.size_bytes_max };
        known.path.clone_from(&path);
        known.size_bytes = metadata.len();
        known.partial = download.beginning();
        let Look { found, memo } = caught(|| self.fetcher.fetch(&known))??;
        // Cut so that it fits a frame and is still too long, which the master says.
        let memo = memo.map(|memo| cut(&memo, 2 * MEMO_BYTES_MAX).to_owned());
        let release = match found {
            Found::Unchanged => {
                download.forget();
                report.memo = memo;
                return Ok(None);
            }
            Found::Incomplete { why } => {
                report.memo = memo;
                report.outcome = Outcome::Incomplete { why: printable(&why, TEXT_BYTES_MAX) };
                return Ok(None);
            }
            // The fetcher did not ask; a settled release is not downloaded again.
            Found::Release(release) if known.is_settled(&release.tag) => {
                download.forget();
                report.memo = memo;
                return Ok(None);
            }
            Found::Release(release) => *release,
        };
        if release.tag.len() > TAG_BYTES_MAX {
            let text = format!("the tag of the release has {} bytes, more than {TAG_BYTES_MAX}", release.tag.len());
            return Err(FetchError::bad_release(text));
        }
        let version = release.version.as_deref().map(|version| printable(version, VERSION_BYTES_MAX));
        let mut name = ReleaseName { id: String::new(), tag: release.tag.clone(), source: source.clone(), version };
        let upgrade = Upgrade { known: &known, path: &path, state_dir: &state_dir, started_from, judged: &judged, original };
        match upgrade.stage(self, &download, release, &mut name, progress) {
            Ok((staged, file)) => {
                report.memo = memo;
                report.outcome = Outcome::Staged(staged);
                return Ok(Some(file));
            }
            Err(Stop::Same) => {
                report.memo = memo;
                report.outcome = Outcome::Same { release: name };
            }
            Err(Stop::Judged) => {
                report.memo = memo;
                report.outcome = Outcome::Judged { release: name };
            }
            Err(Stop::Refused(refusal)) => {
                // What is to be tried again must not be hidden by what the fetcher remembers of it.
                report.memo = memo.filter(|_| refusal.verdict == Verdict::Reject);
                let why = printable(&refusal.why, TEXT_BYTES_MAX);
                report.outcome = Outcome::Refused { release: name, verdict: refusal.verdict, why };
            }
            Err(Stop::Failed(error)) => return Err(error),
        }
        Ok(None)
    }
}

/// What a release is to replace.
struct Upgrade<'a> {
    known: &'a Known,
    path: &'a Path,
    state_dir: &'a Path,
    started_from: Identity,
    judged: &'a [String],
    original: &'a Original,
}

impl Upgrade<'_> {
    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Downloads, unpacks, proves and checks the release, and leaves it ready to be committed. `name` gets its ID as soon as it has one.
    fn stage(
        &self,
        poll: &mut Poll,
        download: &Download<'_>,
        release: Release,
        name: &mut ReleaseName,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Staged, File), Stop> {
        let packing = Packing::of(&release.file_name)?;
        let model = self.model()?;
        staging::try_out(&model, self.directory(), self.name())?;
        staging::remove_stale(self.directory(), self.name());
        let whole = caught(|| download.receive(release, self.known.partial.as_ref(), progress))??;
        let staging = self.unpack(packing, &whole, poll.size_bytes_max, progress).map_err(|stop| blame(stop, &whole, &name.tag))?;
        name.id = id_of_file(staging.path())?;
        if self.known.id.as_ref() == Some(&name.id) {
            return Err(Stop::Same);
        }
        if self.judged.contains(&name.id) {
            return Err(Stop::Judged);
        }
        prove_contents(staging.file()).map_err(|refusal| whole.blame(refusal, &name.tag))?;
        drop(whole);
        self.try_out(poll, &staging)?;
        self.make_ready(staging, &model, name)
    }

    /// The running binary, whose attributes the release gets. If it cannot be read, nobody need download anything.
    fn model(&self) -> Result<File, FetchError> {
        File::open(self.path).map_err(|error| local("read", self.path, &error))
    }

    fn unpack(&self, packing: Packing, whole: &Whole, size_bytes_max: u64, progress: &mut dyn FnMut(u64)) -> Result<Staging, Stop> {
        let in_directory = |error: &io::Error| local("make a file in", self.directory(), error);
        if packing == Packing::Plain
            && let Some(staging) = Staging::adopt(self.directory(), self.name(), whole.path()).map_err(|error| in_directory(&error))?
        {
            return Ok(staging);
        }
        let (staging, mut writer) = Staging::create(self.directory(), self.name()).map_err(|error| in_directory(&error))?;
        let from = File::open(whole.path()).map_err(|error| local("open", whole.path(), &error))?;
        unpack(packing, &from, &mut writer, size_bytes_max, progress).map_err(|error| match error {
            UnpackError::Refused(refusal) => Stop::Refused(refusal),
            UnpackError::Read(error) => Stop::Failed(local("read", whole.path(), &error)),
            UnpackError::Write(error, written) => {
                let what = format!("write more than {written} bytes to");
                Stop::Failed(local(&what, staging.path(), &error))
            }
        })?;
        Ok(staging)
    }

    /// The self-check, and what the program's own hook says.
    fn try_out(&self, poll: &mut Poll, staging: &Staging) -> Result<(), Stop> {
        let before = identity_of(staging)?;
        staging.make_executable().map_err(|error| local("make executable", staging.path(), &error))?;
        check::prove(staging.file(), staging.path(), poll.check_timeout, self.original)?;
        if let Some(hook) = poll.pre_upgrade.take() {
            match catch_unwind(AssertUnwindSafe(|| hook(staging.path()))) {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return Err(Refusal::hold_back(format!("is not wanted by the pre-upgrade hook: {why}")).into()),
                Err(panic) => {
                    let why = format!("could not be judged: the pre-upgrade hook panicked: {}", panic_text(&*panic));
                    return Err(Refusal::hold_back(why).into());
                }
            }
        }
        if identity_of(staging)? != before || !staging::is_at(staging.file(), staging.path()) {
            return Err(Refusal::hold_back("was changed by its self-check or by the pre-upgrade hook").into());
        }
        Ok(())
    }

    fn make_ready(&self, staging: Staging, model: &File, name: &ReleaseName) -> Result<(Staged, File), Stop> {
        let previous = previous::prepare(self.path, &self.started_from, self.state_dir)
            .map_err(|error| local("keep as previous", self.path, &error))?;
        let made = staging::copy_attributes(model, staging.file(), staging.path()).map_err(Stop::from).and_then(|warnings| {
            for warning in warnings {
                log::warn!(target: "overseer::poll", "{warning}");
            }
            files::sync_directory(self.directory()).map_err(|error| local("bring to the disk", self.directory(), &error))?;
            let identity = identity_of(&staging)?;
            let (path, file) = staging.keep().map_err(|error| local("keep the staged file in", self.directory(), &error))?;
            let (release, started_from, previous) = (name.clone(), self.started_from, previous.clone());
            Ok((Staged { release, path, identity, started_from, previous }, file))
        });
        if made.is_err() {
            let _ = fs::remove_file(&previous);
        }
        made
    }
}

/// Of a download put together by two looks, not the release need be wrong.
fn blame(stop: Stop, whole: &Whole, tag: &str) -> Stop {
    match stop {
        Stop::Refused(refusal) => whole.blame(refusal, tag).into(),
        other => other,
    }
}

fn identity_of(staging: &Staging) -> Result<Identity, FetchError> {
    let metadata = staging.file().metadata().map_err(|error| local("look at", staging.path(), &error))?;
    Ok(Identity::of(&metadata))
}

fn id_of_file(path: &Path) -> Result<String, FetchError> {
    File::open(path).and_then(|mut file| id_of(&mut file)).map_err(|error| local("read", path, &error))
}

/// Calls the fetcher; a panic in it is a failed look.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, FetchError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| FetchError::passing(format!("the fetcher panicked: {}", panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it did not say why")
}

/// The text for a log: at most so many bytes of it, and nothing that moves a terminal's cursor.
fn printable(text: &str, bytes_max: usize) -> String {
    let text: String = text.chars().map(|letter| if letter.is_control() && letter != '\n' { ' ' } else { letter }).collect();
    if text.len() <= bytes_max {
        return text;
    }
    format!("{}...", cut(&text, bytes_max))
}

fn printable_error(error: FetchError) -> FetchError {
    FetchError { text: printable(&error.text, TEXT_BYTES_MAX), ..error }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{Digest, DigestAlgorithm, FetchErrorKind, fetcher_fn};
    use super::*;
    use crate::binary::testing::{self, PATIENCE, Part};
    use crate::binary::{StateDir, commit};
    use crate::role::RoleName;
    use crate::sys::process;
    use crate::sys::spawn::Spawn;
    use nix::unistd::Pid;
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Scene {
        directory: testing::Directory,
        path: PathBuf,
        state_dir: PathBuf,
        judged: Vec<String>,
    }

    impl Scene {
        fn new() -> Self {
            Self::at(testing::directory())
        }

        fn at(directory: testing::Directory) -> Self {
            let path = directory.path().join("app");
            testing::program(&path, Part::Good);
            let place = crate::binary::Place::at(&path, None).expect("a place");
            let state_dir = StateDir::open(&place).expect("a state directory").path().to_owned();
            Self { directory, path, state_dir, judged: Vec::new() }
        }

        fn order(&self, known: Known) -> Order {
            let running = Identity::of(&fs::metadata(&self.path).expect("metadata"));
            Order { known, path: self.path.clone(), state_dir: self.state_dir.clone(), running, judged: self.judged.clone() }
        }

        fn look(&self, fetcher: impl Fetcher) -> (Report, Option<File>) {
            self.look_with(fetcher, |_| ())
        }

        fn look_with(&self, fetcher: impl Fetcher, change: impl FnOnce(&mut Poll)) -> (Report, Option<File>) {
            let mut poll = Poll { fetcher: Box::new(fetcher), size_bytes_max: 1 << 30, check_timeout: PATIENCE, pre_upgrade: None };
            change(&mut poll);
            poll.look(self.order(Known::nothing()), &Original::capture().expect("signals"), &mut |_| ())
        }

        /// What lies beside the program and in the state directory.
        fn names(&self) -> Vec<String> {
            let entries = [self.directory.path(), &self.state_dir].map(|path| fs::read_dir(path).expect("a directory"));
            let names = entries.into_iter().flatten().map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        }

        fn has_only_the_program(&self) {
            assert_eq!(self.names(), [".app.overseer", "app"]);
        }
    }

    fn offer(name: &'static str, bytes: Vec<u8>) -> impl Fetcher {
        fetcher_fn("here", move |_| {
            let release = Release::new("one", name, io::Cursor::new(bytes.clone())).size_bytes(bytes.len() as u64).version("v1");
            Ok(Look::release(release).remember("a memo"))
        })
    }

    fn refused(said: (Report, Option<File>)) -> (ReleaseName, Verdict, String) {
        assert!(said.1.is_none());
        match said.0.outcome {
            Outcome::Refused { release, verdict, why } => (release, verdict, why),
            other => panic!("it was not refused: {other:?}"),
        }
    }

    fn failed(said: (Report, Option<File>)) -> FetchError {
        assert!(said.1.is_none() && said.0.memo.is_none());
        match said.0.outcome {
            Outcome::Failed { error } => error,
            other => panic!("it did not fail: {other:?}"),
        }
    }

    fn staged(said: (Report, Option<File>)) -> (Staged, File) {
        match said.0.outcome {
            Outcome::Staged(staged) => (staged, said.1.expect("a descriptor")),
            other => panic!("it was not staged: {other:?}"),
        }
    }

    fn id(bytes: &[u8]) -> String {
        use sha1::{Digest, Sha1};
        crate::binary::hex(&Sha1::digest(bytes))
    }

    /// A release that works, and is another file than the program.
    fn release() -> Vec<u8> {
        let mut bytes = testing::program_bytes(Part::Good);
        bytes.splice(bytes.len() - 70..bytes.len() - 64, *b"newer ");
        bytes
    }

    #[test]
    fn a_release_is_staged_and_can_be_committed() {
        let scene = Scene::new();
        fs::set_permissions(&scene.path, fs::Permissions::from_mode(0o751)).expect("mode set");
        let bytes = release();
        let old = fs::read(&scene.path).expect("read");
        let said = scene.look(offer("app", bytes.clone()));
        assert_eq!((said.0.memo.as_deref(), said.0.running_id.clone()), (Some("a memo"), Some(id(&old))));
        let (staged, file) = staged(said);
        let name = ReleaseName { id: id(&bytes), tag: "one".to_owned(), source: "here".to_owned(), version: Some("v1".to_owned()) };
        assert_eq!(staged.release, name);
        let metadata = fs::metadata(&staged.path).expect("metadata");
        assert_eq!((Identity::of(&metadata), metadata.mode() & 0o7777), (staged.identity, 0o751));
        assert!(staging::remove_stale(scene.directory.path(), OsStr::new("app")).is_empty(), "the descriptor holds the flock");
        assert_eq!(scene.names().len(), 4, "{:?}", scene.names());

        commit(&scene.path, &staged, file.as_fd()).expect("committed");
        assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
        assert!(fs::read(&scene.path).expect("read") == bytes);
        assert!(fs::read(scene.state_dir.join("previous")).expect("read") == old);
    }

    #[cfg(feature = "unpack")]
    #[test]
    fn a_packed_release_is_unpacked() {
        let scene = Scene::new();
        let bytes = release();
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&bytes).expect("packed");
        let packed = packer.finish().expect("packed");
        let limit = |poll: &mut Poll| poll.size_bytes_max = bytes.len() as u64 - 1;
        let (_, verdict, why) = refused(scene.look_with(offer("app.gz", packed.clone()), limit));
        assert!(verdict == Verdict::Reject && why.contains("when unpacked"), "{why}");
        scene.has_only_the_program();

        let (staged, _file) = staged(scene.look(offer("app.gz", packed)));
        assert_eq!(staged.release.id, id(&bytes));
        assert!(fs::read(&staged.path).expect("read") == bytes);
        assert_eq!(scene.names().len(), 4, "the download is gone: {:?}", scene.names());
    }

    #[test]
    fn what_is_no_program_is_rejected_and_nothing_is_left() {
        let scene = Scene::new();
        let whole = release();
        for (bytes, word) in [
            (b"#!/bin/sh\n".to_vec(), "is a script"),
            (b"hello\n".to_vec(), "is text"),
            (Vec::new(), "is empty"),
            (whole[..whole.len() / 2].to_vec(), "is cut off"),
            (fs::read("/bin/true").expect("read"), "not an overseer program"),
        ] {
            let said = scene.look(offer("app", bytes.clone()));
            assert_eq!(said.0.memo.as_deref(), Some("a memo"));
            let (name, verdict, why) = refused(said);
            assert_eq!((name.id, verdict), (id(&bytes), Verdict::Reject));
            assert!(why.contains(word), "{word}: {why}");
            scene.has_only_the_program();
        }
    }

    #[test]
    fn one_that_fails_its_check_is_held_back_and_nothing_is_left() {
        let scene = Scene::new();
        let said = scene.look(offer("app", testing::program_bytes(Part::Problem)));
        assert_eq!(said.0.memo, None, "it would hide the release from the next look");
        let (_, verdict, why) = refused(said);
        assert!(verdict == Verdict::HoldBack && why.contains("port 99999"), "{why}");
        let short = |poll: &mut Poll| poll.check_timeout = Duration::from_millis(200);
        let (_, verdict, why) = refused(scene.look_with(offer("app", testing::program_bytes(Part::Stays)), short));
        assert!(verdict == Verdict::HoldBack && why.contains("200ms"), "{why}");
        scene.has_only_the_program();
    }

    #[test]
    fn the_running_one_is_the_same_and_a_refused_one_stays_refused() {
        let mut scene = Scene::new();
        let running = fs::read(&scene.path).expect("read");
        let (report, file) = scene.look(offer("app", running));
        assert!(matches!(&report.outcome, Outcome::Same { release } if release.tag == "one") && file.is_none(), "{report:?}");
        scene.has_only_the_program();

        let bytes = release();
        scene.judged.push(id(&bytes));
        let (report, file) = scene.look(offer("app", bytes.clone()));
        assert!(matches!(&report.outcome, Outcome::Judged { release } if release.id == id(&bytes)) && file.is_none(), "{report:?}");
        scene.has_only_the_program();
    }

    struct Unread;

    impl Read for Unread {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("it was read");
        }
    }

    #[test]
    fn a_settled_tag_is_not_read_even_if_the_fetcher_does_not_ask() {
        let scene = Scene::new();
        let fetcher = fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app", Unread))));
        let poll = Poll { fetcher: Box::new(fetcher), size_bytes_max: 1, check_timeout: PATIENCE, pre_upgrade: None };
        let order = scene.order(Known::nothing().with_settled("one"));
        let (report, _) = poll.look(order, &Original::capture().expect("signals"), &mut |_| ());
        assert!(matches!(report.outcome, Outcome::Unchanged), "{report:?}");

        let fetcher = fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app.tar.gz", Unread))));
        let (_, verdict, why) = refused(scene.look(fetcher));
        assert!(verdict == Verdict::Reject && why.contains(".tar.gz cannot be unpacked"), "{why}");
        let fetcher = fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app", Unread))));
        let error = failed(scene.look(fetcher));
        assert!(error.to_string().contains("panicked: it was read"), "{error}");
        scene_has_no_staged_file(&scene);
    }

    fn scene_has_no_staged_file(scene: &Scene) {
        assert!(scene.names().iter().all(|name| !name.contains(".new-")), "{:?}", scene.names());
    }

    #[test]
    fn a_fetcher_that_panics_or_fails_is_a_failed_look() {
        let scene = Scene::new();
        let error = failed(scene.look(fetcher_fn("here", |_| panic!("no such {}", "bucket"))));
        assert!(error.to_string().contains("panicked: no such bucket"), "{error}");
        let own = FetchError::settings("wrong\u{1b}[31m password").retry_after(Duration::from_secs(7));
        let error = failed(scene.look(fetcher_fn("here", move |_| Err(own.clone()))));
        assert_eq!(error, FetchError::settings("wrong [31m password").retry_after(Duration::from_secs(7)));
        let error = failed(scene.look(fetcher_fn("here", |_| Err(FetchError::passing("é".repeat(20_000))))));
        assert!(error.to_string().len() <= TEXT_BYTES_MAX + 3);
        let error = failed(scene.look(fetcher_fn("here", |_| Ok(Look::release(Release::new("x".repeat(2000), "app", io::empty()))))));
        assert_eq!(error.kind(), FetchErrorKind::BadRelease);
        scene.has_only_the_program();
    }

    #[test]
    fn what_the_source_says_of_itself_is_passed_on() {
        let scene = Scene::new();
        let (report, _) = scene.look(fetcher_fn("here", |known| {
            assert!(known.size_bytes() > 0 && known.path().ends_with("app") && known.id().is_some());
            Ok(Look::incomplete("no asset yet").remember("m"))
        }));
        assert_eq!(report.memo.as_deref(), Some("m"));
        assert!(matches!(&report.outcome, Outcome::Incomplete { why } if why == "no asset yet"), "{report:?}");
        let (report, _) = scene.look(fetcher_fn("here", |_| Ok(Look::unchanged().remember("x".repeat(MEMO_BYTES_MAX + 1)))));
        let is_still_too_long = report.memo.as_ref().is_some_and(|memo| memo.len() == MEMO_BYTES_MAX + 1);
        assert!(matches!(report.outcome, Outcome::Unchanged) && is_still_too_long, "the master says so");
    }

    #[test]
    fn nothing_is_fetched_for_another_file_than_the_running_one() {
        let scene = Scene::new();
        let unasked = || fetcher_fn("here", |_| panic!("it was asked"));
        let mut order = scene.order(Known::nothing());
        order.running.inode += 1;
        for (word, is_there) in [("holds another file", true), ("is gone", false)] {
            if !is_there {
                fs::remove_file(&scene.path).expect("removed");
            }
            let poll = Poll { fetcher: Box::new(unasked()), size_bytes_max: 1, check_timeout: PATIENCE, pre_upgrade: None };
            let (report, _) = poll.look(order.clone(), &Original::capture().expect("signals"), &mut |_| ());
            assert!(matches!(&report.outcome, Outcome::Incomplete { why } if why.contains(word)), "{report:?}");
        }
    }

    #[test]
    fn the_hook_has_the_last_word() {
        let scene = Scene::new();
        let is_called = Arc::new(AtomicBool::new(false));
        let called = Arc::clone(&is_called);
        let directory = scene.directory.path().to_owned();
        let bytes = release();
        let agree = move |poll: &mut Poll| {
            poll.pre_upgrade = Some(Box::new(move |path| {
                assert!(path.starts_with(&directory));
                called.store(true, Ordering::Relaxed);
                Ok(())
            }));
        };
        let (staged, _) = staged(scene.look_with(offer("app", bytes.clone()), agree));
        assert!(is_called.load(Ordering::Relaxed));
        crate::binary::discard(&staged);
        scene.has_only_the_program();

        type Hook = fn(&Path) -> Result<(), String>;
        let hooks: [(Hook, &str); 3] = [
            (|_| Err("not on a Friday".to_owned()), "hook: not on a Friday"),
            (|_| panic!("oops"), "hook panicked: oops"),
            (|path| fs::write(path, "mine").map_err(|error| error.to_string()), "was changed"),
        ];
        for (hook, word) in hooks {
            let said = scene.look_with(offer("app", bytes.clone()), |poll| poll.pre_upgrade = Some(Box::new(hook)));
            let (_, verdict, why) = refused(said);
            assert!(verdict == Verdict::HoldBack && why.contains(word), "{word}: {why}");
            scene.has_only_the_program();
        }
    }

    #[test]
    fn a_release_put_together_of_two_is_not_blamed_on_the_source() {
        let scene = Scene::new();
        let digest = Digest::from_hex(DigestAlgorithm::Sha1, &id(b"abcd")).expect("a digest");
        let error = failed(scene.look(fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app", &b"xx"[..]).size_bytes(4))))));
        assert!(error.to_string().contains("ended after 2 of 4 bytes"), "{error}");
        let error = failed(scene.look(fetcher_fn("here", move |known| {
            let partial = known.partial().expect("a beginning");
            assert_eq!((partial.tag.as_str(), partial.size_bytes), ("one", 2));
            Ok(Look::release(Release::new("one", "app", &b"cd"[..]).size_bytes(4).resumed_at(2).digest(digest.clone())))
        })));
        assert!(error.to_string().contains("fetched anew"), "{error}");
        let error = failed(scene.look(fetcher_fn("here", |known| {
            assert_eq!(known.partial(), None);
            Err(FetchError::passing("enough"))
        })));
        assert_eq!(error.to_string(), "enough");
        scene.has_only_the_program();
    }

    #[test]
    fn a_disk_that_is_full_at_any_point_is_said_and_nothing_is_left() {
        testing::in_own_mounts("fetcher::poll::tests::a_disk_that_is_full_at_any_point_is_said_and_nothing_is_left", |directory| {
            let bytes = release();
            let mebibytes = bytes.len() / (1 << 20) + 2;
            // Room for the program, and for less than the release.
            let size = format!("size={}m", mebibytes + mebibytes / 2);
            testing::mount(&["-t", "tmpfs", "-o", &size, "none", directory.to_str().expect("text")]);
            let scene = Scene::at(testing::Directory::at(directory));
            let error = failed(scene.look(offer("app", bytes.clone())));
            assert!(error.kind() == FetchErrorKind::Passing && error.to_string().contains("are free"), "{error}");
            scene.has_only_the_program();

            let of_unknown_size = bytes.clone();
            let error = failed(scene.look(fetcher_fn("here", move |_| {
                Ok(Look::release(Release::new("one", "app", io::Cursor::new(of_unknown_size.clone()))))
            })));
            assert_eq!(error.kind(), FetchErrorKind::Passing);
            assert!(error.to_string().contains("/download: No space left on device"), "{error}");
            scene.has_only_the_program();

            #[cfg(feature = "unpack")]
            {
                // Small enough while it is packed.
                let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                packer.write_all(&vec![0; bytes.len()]).expect("packed");
                let error = failed(scene.look(offer("app.gz", packer.finish().expect("packed"))));
                assert_eq!(error.kind(), FetchErrorKind::Passing);
                assert!(error.to_string().contains("/.app.new-") && error.to_string().contains("No space left"), "{error}");
                scene.has_only_the_program();
            }
        });
    }

    #[test]
    fn nothing_is_downloaded_where_nothing_can_be_staged() {
        testing::in_own_mounts("fetcher::poll::tests::nothing_is_downloaded_where_nothing_can_be_staged", |directory| {
            let mut scene = Scene::at(testing::Directory::at(directory));
            let elsewhere = testing::directory();
            scene.state_dir = elsewhere.path().to_owned();
            testing::mount(&["--bind", directory.to_str().expect("text"), directory.to_str().expect("text")]);
            testing::mount(&["-o", "remount,bind,ro", directory.to_str().expect("text")]);
            let error = failed(scene.look(fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app", Unread))))));
            assert_eq!(error.kind(), FetchErrorKind::Settings);
            assert!(error.to_string().contains("cannot make a file in") && error.to_string().contains("Read-only"), "{error}");
        });
    }

    #[test]
    fn a_state_directory_on_another_file_system_works_too() {
        testing::in_own_mounts("fetcher::poll::tests::a_state_directory_on_another_file_system_works_too", |directory| {
            let mut scene = Scene::at(testing::Directory::at(directory));
            let state_dir = directory.join("state");
            fs::create_dir(&state_dir).expect("a directory");
            testing::mount(&["-t", "tmpfs", "-o", "size=200m", "none", state_dir.to_str().expect("text")]);
            scene.state_dir = state_dir;
            let (bytes, old) = (release(), fs::read(&scene.path).expect("read"));
            let (staged, file) = staged(scene.look(offer("app", bytes.clone())));
            assert!(fs::read(&staged.path).expect("read") == bytes);
            commit(&scene.path, &staged, file.as_fd()).expect("committed");
            assert!(fs::read(scene.state_dir.join("previous")).expect("read") == old);
            assert_eq!(scene.names(), [".app.overseer", "app", "previous", "state"]);
        });
    }

    /// What a copy of the test program does in the role poll: offers the file `release` beside it, followed by what comes out of the
    /// pipe `more` if there is one; or, if there is a file `huge`, 256 MiB.
    pub(crate) fn play_poll(link: Link) -> ! {
        let beside = std::env::current_exe().expect("a path").parent().expect("a directory").to_owned();
        let fetcher = fetcher_fn("beside", move |known| {
            if beside.join("huge").exists() {
                return Ok(Look::release(Release::new("huge", "app", Huge { left: 256 << 20, note: beside.join("huge") })));
            }
            let mut file = File::open(beside.join("release")).expect("opened");
            let start = known.partial().map_or(0, |partial| partial.size_bytes);
            fs::write(beside.join("start"), start.to_string()).expect("written");
            io::Seek::seek(&mut file, io::SeekFrom::Start(start)).expect("sought");
            let more = Later(beside.join("more"), None);
            Ok(Look::release(Release::new("one", "app", file.chain(more)).resumed_at(start)))
        });
        run(link, Poll { fetcher: Box::new(fetcher), size_bytes_max: 1 << 30, check_timeout: PATIENCE, pre_upgrade: None })
    }

    /// A pipe that is opened when it is read.
    struct Later(PathBuf, Option<File>);

    impl Read for Later {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.1.is_none() && !self.0.exists() {
                return Ok(0);
            }
            let file = match &mut self.1 {
                Some(file) => file,
                none => none.insert(File::open(&self.0)?),
            };
            file.read(buffer)
        }
    }

    /// Zeros. Notes by how much the process grew while they were read.
    struct Huge {
        left: usize,
        note: PathBuf,
    }

    impl Read for Huge {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let bytes = buffer.len().min(self.left);
            if self.left == 256 << 20 || bytes == 0 {
                let status = fs::read_to_string("/proc/self/status")?;
                let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
                writeln!(File::options().append(true).open(&self.note)?, "{peak}")?;
            }
            buffer[..bytes].fill(0);
            self.left -= bytes;
            Ok(bytes)
        }
    }

    /// A poll process, which is killed when dropped.
    struct Process(Pid, Link);

    impl Process {
        fn start(scene: &Scene) -> Self {
            let program = File::open(&scene.path).expect("opened");
            let null = File::options().write(true).open("/dev/null").expect("opened");
            let original = Original::capture().expect("signals");
            let spawn = Spawn {
                program: program.as_fd(),
                role: RoleName::Poll,
                quiet: Some(null.as_fd()),
                own_group: true,
                expendable: true,
                parent_death_signal: Signal::KILL,
                original: &original,
            };
            let (pid, mut link) = spawn.start().expect("started");
            link.send(&scene.order(Known::nothing()), &[]).expect("sent");
            Self(pid, link)
        }

        fn message(&mut self) -> (FromPoll, Option<File>) {
            let deadline = Instant::now() + PATIENCE;
            loop {
                match self.1.receive::<FromPoll>().expect("a link") {
                    Received::Message(message, descriptors) => return (message, descriptors.into_iter().next().map(File::from)),
                    Received::Nothing => {
                        let left = deadline.checked_duration_since(Instant::now()).expect("a message in time");
                        let mut waiting = [nix::poll::PollFd::new(self.1.as_fd(), nix::poll::PollFlags::POLLIN)];
                        let timeout = nix::poll::PollTimeout::try_from(left).unwrap_or(nix::poll::PollTimeout::MAX);
                        let _ = nix::poll::poll(&mut waiting, timeout);
                    }
                    other => panic!("no message: {other:?}"),
                }
            }
        }

        fn report(&mut self) -> (Report, Option<File>) {
            loop {
                if let (FromPoll::Report(report), file) = self.message() {
                    return (*report, file);
                }
            }
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            process::kill_group(self.0);
            let _ = nix::sys::wait::waitpid(self.0, None);
        }
    }

    #[test]
    fn a_poll_process_that_is_killed_is_gone_on_with() {
        let scene = Scene::new();
        let beside = |name: &str| scene.directory.path().join(name);
        let bytes = release();
        let half = bytes.len() / 2;
        fs::write(beside("release"), &bytes[..half]).expect("written");
        nix::unistd::mkfifo(&beside("more"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let mut process = Process::start(&scene);
        assert!(matches!(process.message(), (FromPoll::Progress { bytes }, None) if bytes > 0));
        let download = scene.state_dir.join("download");
        testing::until("half of it is there", || fs::metadata(&download).is_ok_and(|metadata| metadata.len() == half as u64));
        drop(process);
        scene_has_no_staged_file(&scene);

        fs::remove_file(beside("more")).expect("removed");
        fs::write(beside("release"), &bytes).expect("written");
        let mut process = Process::start(&scene);
        let (staged, file) = staged(process.report());
        assert_eq!(fs::read_to_string(beside("start")).expect("read"), half.to_string());
        assert_eq!(staged.release.id, id(&bytes));
        drop(process);
        assert!(staging::remove_stale(scene.directory.path(), OsStr::new("app")).is_empty(), "the flock came with the descriptor");
        commit(&scene.path, &staged, file.as_fd()).expect("committed");
    }

    #[test]
    fn its_memory_does_not_grow_with_the_release_and_its_messages_are_few() {
        let scene = Scene::new();
        let huge = scene.directory.path().join("huge");
        File::create(&huge).expect("created");
        let before = Instant::now();
        let mut process = Process::start(&scene);
        let mut messages = 0;
        let said = loop {
            match process.message() {
                (FromPoll::Report(report), file) => break (*report, file),
                _ => messages += 1,
            }
        };
        assert!((1..=before.elapsed().as_secs() + 1).contains(&messages), "{messages} messages in {:?}", before.elapsed());
        let (_, verdict, why) = refused(said);
        assert!(verdict == Verdict::Reject && why.contains("is no executable"), "{why}");
        let peaks = fs::read_to_string(&huge).expect("read");
        let peaks: Vec<u64> = peaks.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect();
        assert!(peaks.len() >= 2 && peaks[peaks.len() - 1] < peaks[0] + 2048, "KiB at first and in the end: {peaks:?}");
        fs::remove_file(huge).expect("removed");
        scene.has_only_the_program();
    }
}
