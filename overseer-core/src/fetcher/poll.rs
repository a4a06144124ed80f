//! The poll process: one look at the source, and the way of a release from there to a proved file beside the program.
//!
//! Whatever happens in here, the file at the program's path is not touched, and the master hears one report, or of the death of this process.
//! A file that is not staged in the end is removed; the beginning of a download stays for the next look.

use super::download::{Download, DownloadError, Whole, local};
use super::release::Found;
use super::{FetchError, Fetcher, Known, Look, MEMO_BYTES_MAX, Progress, Release};
use crate::binary::header;
use crate::binary::staging::{self, AttributeError, Staging};
use crate::binary::store::Proof;
use crate::binary::{
    Demands, Hashes, Identity, Packaged, Packing, Refusal, Signed, UnpackError, Wanted, check, id_of, previous, prove_contents, unix_s,
    unpack,
};
use crate::config::PreUpgrade;
use crate::message::cut;
use crate::protocol::{FromPoll, Naming, Order, Outcome, ReleaseName, Report, Staged, StoreOrder, Verdict};
use crate::signal::Signal;
use crate::sys::files;
use crate::sys::link::{Link, Received};
use crate::sys::signals::{Original, reset_to_default};
use std::any::Any;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
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
    pub(crate) demands: Demands,
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
            exit(report(&mut link, Report { outcome, memo: None, running_id: None, packaged: None }, None))
        }
    };
    // Inherited as ignored, it would keep us from learning how the self-check ended.
    reset_to_default(Signal::CHLD);
    let (mut last, mut there) = (None::<Instant>, None);
    let mut progress = |progress: Progress| {
        let Some(bytes) = progress.bytes() else { return };
        // The first number may be that of an earlier look.
        let has_grown = there.replace(bytes).is_some_and(|before| before != bytes);
        if has_grown && last.is_none_or(|last| last.elapsed() >= PROGRESS_PAUSE) {
            last = Some(Instant::now());
            // That nobody listens shows at the report.
            let _ = link.send(&FromPoll::Progress { bytes }, []);
        }
    };
    let (said, file) = poll.look(order, &original, &mut progress);
    exit(report(&mut link, said, file))
}

fn report(link: &mut Link, report: Report, file: Option<File>) -> i32 {
    match link.send(&FromPoll::Report(Box::new(report)), file.map(OwnedFd::from)) {
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
    pub(crate) fn look(mut self, order: Order, original: &Original, progress: &mut dyn FnMut(Progress)) -> (Report, Option<File>) {
        let mut report = Report { outcome: Outcome::Unchanged, memo: None, running_id: None, packaged: None };
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
        progress: &mut dyn FnMut(Progress),
        report: &mut Report,
    ) -> Result<Option<File>, FetchError> {
        let Order { mut known, path, state_dir, running, judged, installed_signed_unix_s, naming, store } = order;
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
        if let Some(StoreOrder { packaged_path, packaged, .. }) = &store
            && !Packaged::at(packaged_path).is_ok_and(|now| now.identity == packaged.identity)
        {
            let why = format!(
                "{} was changed since the service began to run it or what came after it; restart to take it",
                packaged_path.display()
            );
            report.outcome = Outcome::Incomplete { why };
            return Ok(None);
        }
        if known.id.is_none() {
            // A file that may be executed and not read has no ID. That is said when it matters: when there is a release.
            known.id = File::open(&path).and_then(|mut file| id_of(&mut file)).ok();
            report.running_id.clone_from(&known.id);
        }
        let source = caught(|| self.fetcher.source())?;
        let download = Download { state_dir: &state_dir, source: &source, size_bytes_max: self.demands.size_bytes_max };
        known.path.clone_from(&path);
        known.size_bytes = metadata.len();
        known.partial = download.beginning();
        known.wants_signature = !self.demands.trusted_keys.is_empty();
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
        let mut name = ReleaseName { id: String::new(), tag: release.tag.clone(), source: source.clone(), version, signed_unix_s: None };
        if let Some(StoreOrder { packaged_path, packaged, .. }) = store.as_ref().filter(|store| store.packaged.sha256.is_empty()) {
            // By what it is from now on known where it has other numbers: in another container, after a boot.
            let hashed = Packaged::hashed(packaged_path).map_err(|error| local("read", packaged_path, &error))?;
            report.packaged = Some(hashed).filter(|hashed| hashed.identity == packaged.identity);
        }
        let (known, path, state_dir, judged) = (&known, path.as_path(), state_dir.as_path(), judged.as_slice());
        let target = store.as_ref().map_or(path, |store| &store.target);
        let is_stored = store.is_some();
        let upgrade = Upgrade { known, path, target, is_stored, state_dir, started_from, judged, installed_signed_unix_s, original };
        let looked = match naming {
            None => upgrade.stage(self, &download, release, &mut name, progress).map(Some),
            Some(naming) => upgrade.compare(&naming, &self.demands, &download, release, &mut name, progress).map(|()| None),
        };
        match looked {
            // Without the memo, which might keep the look from finding it that is to install it.
            Ok(None) => report.outcome = Outcome::Named { release: name },
            Ok(Some((staged, file))) => {
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
    /// Where it is committed to.
    target: &'a Path,
    /// That is in a binary store.
    is_stored: bool,
    state_dir: &'a Path,
    started_from: Identity,
    judged: &'a [String],
    installed_signed_unix_s: Option<u64>,
    original: &'a Original,
}

impl Upgrade<'_> {
    fn directory(&self) -> &Path {
        self.target.parent().unwrap_or(Path::new("/"))
    }

    fn name(&self) -> &OsStr {
        self.target.file_name().unwrap_or_default()
    }

    /// Downloads, unpacks, proves and checks the release, and leaves it ready to be committed. `name` gets its ID as soon as it has one.
    fn stage(
        &self,
        poll: &mut Poll,
        download: &Download<'_>,
        release: Release,
        name: &mut ReleaseName,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Staged, File), Stop> {
        let packing = Packing::of(&release.file_name)?;
        let minisig = release.signature.as_deref();
        let signed = poll.demands.examine(minisig, &release.file_name, self.installed_signed_unix_s, unix_s())?;
        let (file_name, minisig) = (release.file_name.clone(), release.signature.clone());
        let model = self.model()?;
        staging::try_out(&model, self.directory(), self.name())?;
        staging::remove_stale(self.directory(), self.name());
        // What was published stays until there is a verdict: who is killed before need not download it again.
        let (staging, whole) = self.prove(packing, signed, &poll.demands, download, release, name, progress)?;
        self.try_out(poll, &staging)?;
        if self.is_stored {
            // Under a name of its own, so one that is not committed is in nobody's way.
            let signed = minisig.map(|minisig| (minisig, whole.path()));
            Proof::keep(name, staging.path(), &file_name, signed, self.state_dir)
                .map_err(|error| local("keep the proof of the release in", self.state_dir, &error))?;
        }
        self.make_ready(staging, &model, name)
    }

    /// Finds out whether the release is the running file: by what is known, by what its source says of it, or else by its bytes. Nothing is left of them.
    fn compare(
        &self,
        naming: &Naming,
        demands: &Demands,
        download: &Download<'_>,
        release: Release,
        name: &mut ReleaseName,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Stop> {
        let packing = Packing::of(&release.file_name)?;
        match self.is_running_file(packing, &release)? {
            Some(true) => {
                name.id = self.known.id.clone().unwrap_or_default();
                return Err(Stop::Same);
            }
            None if !naming.is_identified && naming.differs.as_ref() != Some(&release.tag) => {}
            Some(false) | None => return Ok(()),
        }
        let whole = caught(|| download.receive(release, self.known.partial.as_ref(), progress))??;
        staging::remove_stale(self.state_dir, self.name());
        let staging = self.unpack(self.state_dir, packing, &whole, demands, progress).map_err(|stop| blame(stop, &whole, &name.tag))?;
        name.id = id_of_file(staging.path())?;
        download.forget();
        match &name.id {
            id if self.known.id.as_ref() == Some(id) => Err(Stop::Same),
            id if self.judged.contains(id) => Err(Stop::Judged),
            _ => Ok(()),
        }
    }

    /// Whether the release is the file at the path, if what its source says of it tells.
    fn is_running_file(&self, packing: Packing, release: &Release) -> Result<Option<bool>, FetchError> {
        match release.size_bytes {
            _ if packing != Packing::Plain => return Ok(None),
            Some(bytes) if bytes != self.known.size_bytes => return Ok(Some(false)),
            // Digests from another file may be those of the release before.
            _ if release.digests.is_empty() => return Ok(None),
            Some(_) | None => {}
        }
        let unreadable = |error: io::Error| local("read", self.path, &error);
        let mut file = File::open(self.path).map_err(unreadable)?;
        let (mut hashes, mut buffer) = (Hashes::new(&release.digests), vec![0; 128 * 1024]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Some(hashes.finish().is_ok())),
                Ok(bytes) => hashes.update(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
    }

    /// Downloads and unpacks the release, and proves of it what can be proved without executing it.
    #[expect(clippy::too_many_arguments, reason = "they are the release and what is wanted of it, which nothing else holds together")]
    fn prove(
        &self,
        packing: Packing,
        signed: Option<Signed>,
        demands: &Demands,
        download: &Download<'_>,
        release: Release,
        name: &mut ReleaseName,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Staging, Whole), Stop> {
        let whole = caught(|| download.receive(release, self.known.partial.as_ref(), progress))??;
        if let Some(signed) = signed {
            name.signed_unix_s = prove_signature(&signed, &whole).map_err(|stop| blame(stop, &whole, &name.tag))?;
        }
        let staging = self.unpack(self.directory(), packing, &whole, demands, progress).map_err(|stop| blame(stop, &whole, &name.tag))?;
        name.id = id_of_file(staging.path())?;
        if self.known.id.as_ref() == Some(&name.id) {
            return Err(Stop::Same);
        }
        if self.judged.contains(&name.id) {
            return Err(Stop::Judged);
        }
        progress(Progress::Checking);
        prove_contents(staging.file(), demands.allow_scripts).map_err(|refusal| whole.blame(refusal, &name.tag))?;
        Ok((staging, whole))
    }

    /// The running binary, whose attributes the release gets. If it cannot be read, nobody need download anything.
    fn model(&self) -> Result<File, FetchError> {
        File::open(self.path).map_err(|error| local("read", self.path, &error))
    }

    fn unpack(
        &self,
        directory: &Path,
        packing: Packing,
        whole: &Whole,
        demands: &Demands,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Staging, Stop> {
        let in_directory = |error: &io::Error| local("make a file in", directory, error);
        if packing == Packing::Plain
            && let Some(staging) = Staging::adopt(directory, self.name(), whole.path()).map_err(|error| in_directory(&error))?
        {
            return Ok(staging);
        }
        let (staging, mut writer) = Staging::create(directory, self.name()).map_err(|error| in_directory(&error))?;
        let from = File::open(whole.path()).map_err(|error| local("open", whole.path(), &error))?;
        let wanted = Wanted {
            program: &self.name().to_string_lossy(),
            entry: demands.archive_entry.as_deref(),
            scripts: demands.allow_scripts,
            size_bytes_max: demands.size_bytes_max,
        };
        let mut heard = |bytes| progress(Progress::Unpacking { bytes });
        unpack(packing, &from, &mut writer, &wanted, &mut heard).map_err(|error| match error {
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
        let executed = check::prove(staging.file(), staging.path(), poll.check_timeout, self.original)?;
        if header::is_script(staging.file()).unwrap_or(false) {
            self.prove_script(executed)?;
        }
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

    /// A script at the program's path that starts the program at that path would start itself for ever.
    fn prove_script(&self, executed: Option<Identity>) -> Result<(), Refusal> {
        match executed {
            Some(executed) if !executed.same_inode(&self.started_from) => Ok(()),
            Some(_) => Err(Refusal::reject(format!("is a script that starts {}, which it would replace", self.path.display()))),
            None => {
                Err(Refusal::reject("is a script, and what it starts does not say which file it is: it is built with too old an overseer"))
            }
        }
    }

    fn make_ready(&self, staging: Staging, model: &File, name: &ReleaseName) -> Result<(Staged, File), Stop> {
        let previous = previous::prepare(self.path, &self.started_from, self.state_dir)
            .map_err(|error| local("keep as previous", self.path, &error))?;
        let made = staging::copy_attributes(model, staging.file(), staging.path()).map_err(Stop::from).and_then(|warnings| {
            // In a store it is to belong to the service's own user.
            for warning in warnings.iter().filter(|_| !self.is_stored) {
                log::warn!(target: "overseer::poll", "{warning}");
            }
            if self.is_stored {
                staging.close_to_others().map_err(|error| local("set the mode of", staging.path(), &error))?;
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

/// Whether the file as it was published is what was signed, and when.
fn prove_signature(signed: &Signed, whole: &Whole) -> Result<Option<u64>, Stop> {
    let unreadable = |error: io::Error| local("read", whole.path(), &error);
    let published = File::open(whole.path()).map_err(unreadable)?;
    Ok(signed.prove(published).map_err(unreadable)??)
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

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
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

#[cfg(all(test, feature = "unpack"))]
mod mutants;
#[cfg(test)]
pub(crate) mod tests;
