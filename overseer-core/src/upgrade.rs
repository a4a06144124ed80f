//! An upgrade without a master: the whole way of a release, in the process that asks for it.
//!
//! The same look, the same proof, the same commit and the same memory as under a master; what is missing is the candidate, since a command-line tool
//! does not serve. One thread makes the look, so that the fetcher may block and may bring a runtime of its own wherever [`Upgrade::run`] is called; the
//! lock of the state directory is held until that thread is done, also if nobody waits for it any more.

use crate::binary::{self, Demands, Identity, Judged, Lock, Place, Probation, Record, StateDir, previous, unix_s};
use crate::config::{DURATION_MIN, PreUpgrade, check_duration};
use crate::fetcher::poll::Poll;
use crate::fetcher::{FetchError, Fetcher, Progress};
use crate::message::Seconds;
use crate::protocol::{Order, Outcome, ReleaseName, Report, Staged, Verdict};
use crate::supervisor::remembered::{RETRY_AFTER_MAX, grown_pause};
use crate::sys::signals::Original;
use crate::{Error, role, run};
use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many pieces of news the look may be ahead of [`Upgrade::on_progress`].
const NEWS_WAITING_MAX: usize = 16;

/// Upgrades the program that calls it, once: for command-line tools, without a master and without [`run`](crate::run()).
///
/// ```no_run
/// use overseer_core::{File, Progress, Upgrade, sanity_check};
///
/// fn main() {
///     sanity_check(); // First: see below.
///     if std::env::args_os().nth(1).is_some_and(|argument| argument == "upgrade") {
///         let upgrade = Upgrade::new(File::new("/srv/releases/tool")).on_progress(|progress| {
///             if let Progress::Downloading { bytes, .. } = progress {
///                 eprint!("\r{bytes} bytes");
///             }
///         });
///         match upgrade.run() {
///             Ok(outcome) => println!("{outcome}"),
///             Err(error) => eprintln!("{}", error.chain()),
///         }
///     }
/// }
/// ```
///
/// It looks at the source at once, whenever the last look was; downloads what is new, or the rest of what an earlier run has begun; proves it as a master
/// does (size, digests, signature, unpacking, header, marker, self-check, [pre-upgrade hook](Upgrade::pre_upgrade)); and puts it at the program's path.
/// This process goes on as what it was; the *next* start is the new release. The binary before is kept, and [`Upgraded::previous`] says where: to go back by
/// hand, move it to the path.
///
/// What is remembered (in `.NAME.overseer` beside the program, or [`Upgrade::state_dir`]) is what a master of the same program remembers: a release that
/// cannot be proved is rejected, one that fails its self-check is held back for 10 min, then for 1 h, then rejected, and is not downloaded again meanwhile.
/// A tool may have this beside [`Config::no_restart`](crate::Config::no_restart); the probation of a release that was installed here begins when it is first
/// run under a master.
///
/// # Interrupted
///
/// The process may be killed at any moment, by Ctrl-C too. The path then holds the old binary or the new one, whole. What was downloaded stays, and the next
/// run goes on with it, where the source can send the rest of a file.
///
/// # The self-check starts this program
///
/// A release is started with the arguments and the environment of this process, and must answer before it does anything else. `run` answers, and never
/// returns then; but what comes before it in `main` is done first, by a version whose arguments may mean something else. So call
/// [`sanity_check`](crate::sanity_check) first thing in `main`: it answers at once, and does nothing in any other process.
#[must_use = "nothing happens until it is run"]
pub struct Upgrade {
    fetcher: Box<dyn Fetcher>,
    demands: Demands,
    check_timeout: Duration,
    fetch_timeout: Duration,
    pre_upgrade: Option<PreUpgrade>,
    state_dir: Option<PathBuf>,
    on_progress: Box<dyn FnMut(Progress)>,
}

/// What [`Upgrade::run`] did. Displayed, it is a line for whoever called the tool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpgradeOutcome {
    /// The source offers nothing that is new.
    UpToDate {
        /// What runs.
        running: ReleaseName,
        /// The release of this source that was declined last, if that was after the running one was installed and still holds. The source may offer it
        /// still; it is not asked for again.
        declined: Option<Declined>,
        /// The release that was installed last, if somebody has put another file in its place since. The source may offer it still; it is not
        /// installed over that file again.
        replaced: Option<ReleaseName>,
    },
    /// A release is installed.
    Upgraded(Upgraded),
    /// A release is being published and not whole yet. Nothing was changed.
    Incomplete {
        /// What is missing, in the words of the fetcher.
        why: String,
    },
    /// A release was found and is not installed. Nothing was changed.
    Declined(Declined),
}

/// What was installed, in place of what.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgraded {
    /// What runs in this process.
    pub from: ReleaseName,
    /// What runs from the next start on.
    pub to: ReleaseName,
    /// The program's file, symlinks resolved.
    pub path: PathBuf,
    /// The binary that was at the path before.
    pub previous: PathBuf,
}

/// A release that is not installed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Declined {
    /// Which one.
    pub release: ReleaseName,
    /// What is wrong with it: goes on from its name, as in `has the SHA-256 ..`.
    pub why: String,
    /// It is held back until then; `None` means rejected.
    pub until: Option<SystemTime>,
}

/// Why [`Upgrade::run`] did nothing. The program's file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The program that calls it has to be mended.
    #[error(transparent)]
    Settings(#[from] Error),
    /// Stays until somebody changes the system: the directory of the program cannot be written, its file is a mount point, the system is not supported,
    /// or `OVERSEER=off` is set.
    #[error("this program cannot be upgraded here: {why}")]
    #[expect(missing_docs, reason = "the message says it")]
    Unavailable { why: String },
    /// This process runs under a master, which looks by itself; [`State::poll_now`](crate::State::poll_now) asks it to.
    #[error("the master of this process upgrades the program")]
    UnderMaster,
    /// Passes when that process is done: a master, or another upgrade.
    #[error("{} has the lock {}", holder.map_or("another process".to_owned(), |pid| format!("process {pid}")), lock.display())]
    #[expect(missing_docs, reason = "the message says it")]
    Busy { lock: PathBuf, holder: Option<u32> },
    /// Somebody has replaced the program's file since this process was started, with another upgrade perhaps. The next start takes it.
    #[error("{} is not the running file any more", path.display())]
    #[expect(missing_docs, reason = "the message says it")]
    Replaced { path: PathBuf },
    /// The source could not be looked at, or the release not be fetched. What came of it is kept; [`FetchError::kind`] says what can be done, and
    /// [`FetchError::pause_asked_for`] how long the source wants to be left alone.
    #[error("the look at {at} failed{}", asked_for(source))]
    #[expect(missing_docs, reason = "the message says it")]
    Look { at: String, source: FetchError },
    /// The release is not to blame: the disk is full, a right is missing. Run it again once that is mended.
    #[error("{release} {why}; {} is as it was", path.display())]
    #[expect(missing_docs, reason = "the message says it")]
    NotInstalled { release: Box<ReleaseName>, why: String, path: PathBuf },
}

impl UpgradeError {
    /// Everything that went wrong, from the outside in.
    pub fn chain(&self) -> String {
        FetchError::chain(self)
    }

    fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into() }
    }
}

fn asked_for(error: &FetchError) -> String {
    error.pause_asked_for().map(|pause| format!(" (and is not to be repeated for {})", Seconds(pause))).unwrap_or_default()
}

impl fmt::Display for UpgradeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpToDate { running, declined: Some(declined), .. } => {
                write!(f, "nothing new is offered; {running} stays; before, {declined}")
            }
            Self::UpToDate { running, replaced: Some(replaced), .. } => {
                write!(
                    f,
                    "nothing new is offered; {running} stays, which somebody has put in the place of {replaced}; the next release is taken again"
                )
            }
            Self::UpToDate { running, declined: None, replaced: None } => write!(f, "{running} is up to date"),
            Self::Upgraded(Upgraded { from, to, path, previous }) => {
                let (path, previous) = (path.display(), previous.display());
                write!(f, "{to} is installed at {path} and runs from the next start on; {from} is kept as {previous}")
            }
            Self::Incomplete { why } => write!(f, "no release to take yet: {why}"),
            Self::Declined(declined) => declined.fmt(f),
        }
    }
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; ", self.release, self.why)?;
        match self.until {
            None => f.write_str("this release is rejected and not tried again"),
            Some(until) => {
                let seconds = until.duration_since(SystemTime::now()).unwrap_or_default().as_secs() + 1;
                // Just after it was set, it is shown as it was set.
                let seconds = if seconds < 120 { seconds } else { (seconds + 30) / 60 * 60 };
                write!(f, "it can be tried again in {}", Seconds(Duration::from_secs(seconds)))
            }
        }
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("source", &self.fetcher.source()).field("demands", &self.demands).finish_non_exhaustive()
    }
}

impl Upgrade {
    /// An upgrade from this source, with all settings at their defaults.
    pub fn new(fetcher: impl Fetcher) -> Self {
        Self {
            fetcher: Box::new(fetcher),
            demands: Demands::default(),
            check_timeout: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(10 * 60),
            pre_upgrade: None,
            state_dir: None,
            on_progress: Box::new(|_| ()),
        }
    }

    /// Trusts a minisign key; may be called several times. With a key, a release is installed only if it is signed with one of them; see
    /// [`Config::trusted_key`](crate::Config::trusted_key), which means the same.
    pub fn trusted_key(mut self, key: impl Into<String>) -> Self {
        self.demands.trusted_keys.push(key.into());
        self
    }

    /// Trusts several minisign keys.
    pub fn trusted_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.demands.trusted_keys.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Whether a release may be installed that was signed before the installed one; not unless set. See
    /// [`Config::allow_downgrade`](crate::Config::allow_downgrade), which means the same.
    pub fn allow_downgrade(mut self, allow: bool) -> Self {
        self.demands.allow_downgrade = allow;
        self
    }

    /// Hears how far it has come, on the thread that calls [`Upgrade::run`]: after each piece of a download, so often. It may be slow; the download waits.
    pub fn on_progress(mut self, listener: impl FnMut(Progress) + 'static) -> Self {
        self.on_progress = Box::new(listener);
        self
    }

    /// The largest release in bytes, before and after unpacking; 1 GiB unless set.
    pub fn size_bytes_max(mut self, bytes: u64) -> Self {
        self.demands.size_bytes_max = bytes;
        self
    }

    /// The program in an archive, in place of the entry that is named like the program's file. See
    /// [`Config::archive_entry`](crate::Config::archive_entry), which means the same.
    pub fn archive_entry(mut self, path: impl Into<String>) -> Self {
        self.demands.archive_entry = Some(path.into());
        self
    }

    /// Whether a release may be a script; not unless set. See [`Config::allow_scripts`](crate::Config::allow_scripts), which means the same.
    pub fn allow_scripts(mut self, allow: bool) -> Self {
        self.demands.allow_scripts = allow;
        self
    }

    /// How long the self-check of a release may take; 5 s unless set. Then it is held back.
    pub fn check_timeout(mut self, time: Duration) -> Self {
        self.check_timeout = time;
        self
    }

    /// For how long there may be no progress; 10 min unless set. Then [`Upgrade::run`] returns, while the look goes on until its fetcher gives up or the
    /// process ends; nothing comes of it any more.
    pub fn fetch_timeout(mut self, time: Duration) -> Self {
        self.fetch_timeout = time;
        self
    }

    /// Has the last word on a release that is proved and not yet installed, with the path of its file. An error or a panic holds the release back. It runs
    /// on another thread than [`Upgrade::run`] and must be done within the [`fetch_timeout`](Upgrade::fetch_timeout).
    pub fn pre_upgrade(mut self, hook: impl FnOnce(&Path) -> Result<(), String> + Send + 'static) -> Self {
        self.pre_upgrade = Some(Box::new(hook));
        self
    }

    /// Where `state.json`, `previous` and the lock lie; `.NAME.overseer` beside the program unless set. The same as in
    /// [`Config::state_dir`](crate::Config::state_dir), if there is a `Config` too.
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Looks once and installs what is new; see [`Upgrade`]. Blocks until that is done. In the self-check of a release it does not return.
    ///
    /// Other threads may run. In an asynchronous program, call it where blocking is allowed (`spawn_blocking`). A program that ignores SIGCHLD does not for
    /// the time of the self-check. One that reaps processes which it did not start (`waitpid(-1)`) takes the end of the self-check from it, and then it fails.
    ///
    /// # Errors
    /// See [`UpgradeError`]. The program's file is as it was, and what is left behind is of use to the next run or removed by it.
    pub fn run(mut self) -> Result<UpgradeOutcome, UpgradeError> {
        binary::keep_marker();
        let valid = self.validate();
        run::answer_check(|| valid.as_ref().err().map(Error::chain));
        valid?;
        if run::has_master() || role::started_in().is_some() {
            return Err(UpgradeError::UnderMaster);
        }
        if run::is_switched_off()? {
            return Err(UpgradeError::unavailable("OVERSEER=off is set"));
        }
        if !run::is_supported() {
            return Err(UpgradeError::unavailable(format!("{} is not supported", std::env::consts::OS)));
        }
        let ground = Ground::take(self.state_dir.as_deref(), self.fetcher.source())?;
        let interval = self.fetcher.interval();
        (self.on_progress)(Progress::Looking);
        let (report, staged) = self.look(&ground)?;
        ground.conclude(report, staged, interval)
    }

    fn validate(&self) -> Result<(), Error> {
        check_duration("check_timeout", self.check_timeout, DURATION_MIN)?;
        check_duration("fetch_timeout", self.fetch_timeout, DURATION_MIN)?;
        self.demands.validate()?;
        if self.state_dir.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(Error::setting("state_dir", "", "the path is empty"));
        }
        self.fetcher.check().map_err(|source| Error::Fetcher { source })
    }

    /// Looks on a thread of its own, and passes on what that says.
    fn look(self, ground: &Ground) -> Result<(Report, Option<File>), UpgradeError> {
        let Self { fetcher, demands, check_timeout, fetch_timeout, pre_upgrade, mut on_progress, .. } = self;
        let unable = |what: &str, error: std::io::Error| UpgradeError::unavailable(format!("cannot {what}: {error}"));
        let original = Original::capture().map_err(|error| unable("read the signal mask", error))?;
        let look = LookThread {
            poll: Poll { fetcher, demands, check_timeout, pre_upgrade },
            order: ground.order(),
            original,
            _lock: Arc::clone(&ground.lock),
        };
        let (news, heard) = sync_channel(NEWS_WAITING_MAX);
        let thread = thread::Builder::new().name("overseer".to_owned()).spawn(move || look.run(&news));
        let thread = thread.map_err(|error| unable("start a thread", error))?;
        let looked = listen(&heard, thread, fetch_timeout, &mut on_progress);
        if matches!(looked, Ok((Report { outcome: Outcome::Staged(_), .. }, _))) {
            on_progress(Progress::Installing);
        }
        Ok(looked.unwrap_or_else(|why| {
            let outcome = Outcome::Failed { error: FetchError::passing(why) };
            (Report { outcome, memo: None, running_id: None, packaged: None }, None)
        }))
    }
}

/// What comes from the thread that looks.
enum News {
    Progress(Progress),
    Looked(Box<(Report, Option<File>)>),
}

/// All that a look needs.
struct LookThread {
    poll: Poll,
    order: Order,
    original: Original,
    /// Nobody else touches the download while this thread may.
    _lock: Arc<Lock>,
}

impl LookThread {
    fn run(self, news: &SyncSender<News>) {
        let looked = self.poll.look(self.order, &self.original, &mut |progress| drop(news.send(News::Progress(progress))));
        // If nobody waits any more, it is not to be installed.
        if let Err(unheard) = news.send(News::Looked(Box::new(looked)))
            && let News::Looked(looked) = unheard.0
            && let Outcome::Staged(staged) = looked.0.outcome
        {
            binary::discard(&staged);
        }
    }
}

/// Waits for the end of a look.
fn listen(
    heard: &Receiver<News>,
    thread: JoinHandle<()>,
    fetch_timeout: Duration,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<(Report, Option<File>), String> {
    loop {
        match heard.recv_timeout(fetch_timeout) {
            Ok(News::Progress(progress)) => on_progress(progress),
            Ok(News::Looked(looked)) => {
                // It has nothing left to do but to give up the lock.
                let _ = thread.join();
                return Ok(*looked);
            }
            Err(RecvTimeoutError::Timeout) => return Err(format!("it made no progress for {} (fetch_timeout)", Seconds(fetch_timeout))),
            Err(RecvTimeoutError::Disconnected) => return Err("the thread that looks has panicked".to_owned()),
        }
    }
}

/// The program's file and what is remembered of it, while nobody else may upgrade it.
struct Ground {
    path: PathBuf,
    running: Identity,
    directory: StateDir,
    lock: Arc<Lock>,
    record: Record,
    source: String,
    now: u64,
}

impl Ground {
    /// Finds the file, sees whether it could be replaced, and takes the lock.
    fn take(state_dir: Option<&Path>, source: String) -> Result<Self, UpgradeError> {
        let unable = |error: &(dyn std::error::Error + 'static)| UpgradeError::unavailable(FetchError::chain(error));
        // Before anything is looked for beside a file that is not there any more.
        if let Some(path) = Place::replaced() {
            return Err(UpgradeError::Replaced { path });
        }
        let place = Place::find(state_dir).map_err(|error| unable(&error))?;
        if let Some(why) = place.obstacle() {
            return Err(UpgradeError::unavailable(why));
        }
        let path = place.resolve().map_err(|error| unable(&error))?;
        let running = Place::running().map_err(|error| unable(&error))?;
        let directory = StateDir::open(&place).map_err(|error| unable(&error))?;
        let Some(lock) = directory.lock().map_err(|error| unable(&error))? else {
            return Err(UpgradeError::Busy { holder: directory.lock_holder(), lock: directory.lock_path() });
        };
        // With the lock, so that no other upgrade comes between.
        if !fs::metadata(&path).is_ok_and(|there| Identity::of(&there).same_inode(&running)) {
            return Err(UpgradeError::Replaced { path });
        }
        let (mut record, damage) = directory.load();
        if let Some(why) = damage {
            log::warn!(target: "overseer::upgrade", "what was remembered is lost: {why}");
        }
        directory.clean(&lock, &place);
        record.will_look_at(&source);
        Ok(Self { path, running, directory, lock: Arc::new(lock), record, source, now: unix_s() })
    }

    fn order(&self) -> Order {
        let (known, judged) = self.record.known(&self.source, &self.running, &self.path, None, self.now);
        let (path, state_dir) = (self.path.clone(), self.directory.path().to_owned());
        let installed_signed_unix_s = self.record.installed_signed_unix_s();
        Order { known, path, state_dir, running: self.running, judged, installed_signed_unix_s, naming: None, store: None }
    }

    /// Remembers what came of the look, and installs what is staged.
    fn conclude(mut self, report: Report, file: Option<File>, interval: Duration) -> Result<UpgradeOutcome, UpgradeError> {
        self.now = unix_s();
        if let Some(id) = &report.running_id {
            self.record.remember_id(self.running, id);
        }
        if let Err(bytes) = self.record.remember_memo(&self.source, report.memo) {
            log::warn!(target: "overseer::upgrade", "the fetcher's memo of {bytes} bytes is longer than 4 KiB and was dropped");
        }
        self.record.looks.next_unix_s = Some(self.now.saturating_add(interval.as_secs()));
        let concluded = match report.outcome {
            Outcome::Unchanged => {
                self.record.looked("nothing new".to_owned(), self.now);
                Ok(self.up_to_date())
            }
            Outcome::Same { release } => {
                self.record.looked("the running release".to_owned(), self.now);
                self.record.runs(release, self.now);
                Ok(self.up_to_date())
            }
            Outcome::Judged { release } => {
                self.record.looked(format!("{release} again"), self.now);
                self.record.judged_again(release.clone());
                let judged = self.record.judged(self.now).find(|judged| judged.release.is_same(&release));
                Ok(judged.map(Declined::of).map_or_else(|| self.up_to_date(), UpgradeOutcome::Declined))
            }
            Outcome::Incomplete { why } => {
                self.record.looked(format!("incomplete: {why}"), self.now);
                Ok(UpgradeOutcome::Incomplete { why })
            }
            Outcome::Failed { error } => Err(self.failed(error, interval)),
            // This very version has looked, and was asked for more than a name.
            Outcome::Unknown | Outcome::Named { .. } => Err(self.failed(FetchError::passing("its result is of an unknown kind"), interval)),
            Outcome::Refused { release, why, .. } if self.record.is_installed(&release) => {
                self.record.looked(format!("the installed release, refused: {why}"), self.now);
                Ok(self.up_to_date())
            }
            Outcome::Refused { release, verdict, why } => {
                self.record.looked(format!("refused: {why}"), self.now);
                self.refused(release, verdict, why)
            }
            Outcome::Staged(staged) => {
                self.record.looked(format!("found {}", staged.release), self.now);
                self.install(&staged, file.as_ref())
            }
        };
        match &concluded {
            Ok(UpgradeOutcome::UpToDate { .. } | UpgradeOutcome::Incomplete { .. }) => {}
            Ok(outcome) => self.record.note(self.now, outcome.to_string()),
            Err(error) => self.record.note(self.now, error.chain()),
        }
        if let Err(error) = self.directory.save(&self.record) {
            log::warn!(target: "overseer::upgrade", "what came of this look will be forgotten: {}", FetchError::chain(&error));
        }
        concluded
    }

    fn up_to_date(&self) -> UpgradeOutcome {
        let installed_at = self.record.installed.as_ref().map_or(0, |installed| installed.at_unix_s);
        let judged = self.record.judged(self.now).rev();
        let declined =
            judged.filter(|judged| judged.release.source == self.source && judged.at_unix_s >= installed_at).map(Declined::of).next();
        let running = self.running_release();
        let replaced = self.record.installed.as_ref().map(|installed| &installed.release).filter(|release| !release.is_same(&running));
        UpgradeOutcome::UpToDate { replaced: replaced.cloned(), running, declined }
    }

    /// What is known of the running binary. One that somebody put there has an ID alone.
    fn running_release(&self) -> ReleaseName {
        let id = self.record.id_of(&self.running).unwrap_or_default();
        let installed = self.record.installed.as_ref().map(|installed| &installed.release).filter(|release| release.id == id);
        installed.cloned().unwrap_or_else(|| ReleaseName { id: id.to_owned(), ..ReleaseName::default() })
    }

    /// A master that comes later leaves the source alone for as long as it would after a look of its own.
    fn failed(&mut self, error: FetchError, interval: Duration) -> UpgradeError {
        let failures_before = self.record.look_failed(&error.to_string(), self.now);
        let pause = grown_pause(interval, failures_before).max(error.pause_asked_for().unwrap_or_default().min(RETRY_AFTER_MAX));
        self.record.looks.next_unix_s = Some(self.now.saturating_add(pause.as_secs()));
        UpgradeError::Look { at: self.source.clone(), source: error }
    }

    fn refused(&mut self, release: ReleaseName, verdict: Verdict, why: String) -> Result<UpgradeOutcome, UpgradeError> {
        let pause = match verdict {
            Verdict::Blameless => return Err(UpgradeError::NotInstalled { release: Box::new(release), why, path: self.path.clone() }),
            Verdict::Reject => None,
            Verdict::HoldBack => self.record.hold_back_of(&release),
            Verdict::Mendable => Some(self.record.hold_back_until_mended(&release)),
        };
        let until = pause.map(|pause| self.now + pause.as_secs());
        self.record.judge(release.clone(), until, why.clone(), self.now);
        Ok(UpgradeOutcome::Declined(Declined { release, why, until: until.map(at_unix_s) }))
    }

    fn install(&mut self, staged: &Staged, file: Option<&File>) -> Result<UpgradeOutcome, UpgradeError> {
        let release = staged.release.clone();
        let probation = Probation { release: release.clone(), identity: staged.identity, starts: 0 };
        let before = self.record.probation.replace(probation);
        // What is remembered of the release must be there before it is.
        let remembered = self.directory.save(&self.record).map_err(|error| FetchError::chain(&error));
        let committed = remembered.and_then(|()| {
            let file = file.ok_or("is staged without a descriptor")?;
            binary::commit(&self.path, staged, file.as_fd()).map_err(|error| FetchError::chain(&error))
        });
        if let Err(why) = committed {
            binary::discard(staged);
            self.record.probation = before;
            let why = format!("could not be installed: {why}");
            return Err(UpgradeError::NotInstalled { release: Box::new(release), why, path: self.path.clone() });
        }
        let (from, path) = (self.running_release(), self.path.clone());
        self.record.was_installed(release.clone(), staged.identity, self.now);
        Ok(UpgradeOutcome::Upgraded(Upgraded { from, to: release, path, previous: previous::path_in(self.directory.path()) }))
    }
}

impl Declined {
    fn of(judged: &Judged) -> Self {
        Self { release: judged.release.clone(), why: judged.reason.clone(), until: judged.until_unix_s.map(at_unix_s) }
    }
}

fn at_unix_s(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Known, Look, fetcher_fn};

    struct Wrong;

    impl Fetcher for Wrong {
        fn source(&self) -> String {
            "nowhere".to_owned()
        }

        fn check(&self) -> Result<(), FetchError> {
            Err(FetchError::settings("the bucket has no name"))
        }

        fn fetch(&mut self, _known: &Known) -> Result<Look, FetchError> {
            Ok(Look::unchanged())
        }
    }

    #[test]
    fn a_wrong_setting_is_named_before_anything_is_done() {
        let upgrade = || Upgrade::new(fetcher_fn("here", |_| panic!("nothing is done")));
        for (upgrade, begins) in [
            (upgrade().check_timeout(Duration::ZERO), "setting check_timeout is \"0ns\": "),
            (upgrade().fetch_timeout(Duration::MAX), "setting fetch_timeout is "),
            (upgrade().size_bytes_max(0), "setting size_bytes_max is \"0\": "),
            (upgrade().state_dir(""), "setting state_dir is \"\": "),
            (Upgrade::new(Wrong), "the fetcher's settings cannot be used: the bucket has no name"),
        ] {
            let error = upgrade.run().expect_err("a setting is wrong");
            assert!(matches!(error, UpgradeError::Settings(_)), "{error:?}");
            assert!(error.chain().starts_with(begins), "{}\nis not\n{begins}", error.chain());
        }
    }

    #[test]
    fn how_long_the_source_is_to_be_left_alone_is_said() {
        let source = FetchError::passing("429 Too Many Requests").retry_after(Duration::from_secs(600));
        let error = UpgradeError::Look { at: "https://host/app".to_owned(), source };
        assert_eq!(error.chain(), "the look at https://host/app failed (and is not to be repeated for 10 min): 429 Too Many Requests");
    }

    #[test]
    fn what_was_done_is_a_line() {
        let release = |id: &str, version: Option<&str>| ReleaseName {
            id: id.repeat(40),
            version: version.map(str::to_owned),
            ..ReleaseName::default()
        };
        let (from, to) = (release("a", None), release("b", Some("v2")));
        let declined = Declined { release: to.clone(), why: "is empty".to_owned(), until: None };
        let later = Declined { until: Some(SystemTime::now() + Duration::from_secs(3600)), ..declined.clone() };
        let upgraded = Upgraded { from: from.clone(), to, path: "/app".into(), previous: "/previous".into() };
        for (outcome, text) in [
            (UpgradeOutcome::UpToDate { running: from.clone(), declined: None, replaced: None }, "release aaaaaaaaaaaa is up to date"),
            (
                UpgradeOutcome::Upgraded(upgraded),
                "release v2 (bbbbbbbbbbbb) is installed at /app and runs from the next start on; release aaaaaaaaaaaa is kept as /previous",
            ),
            (UpgradeOutcome::Incomplete { why: "half of it".to_owned() }, "no release to take yet: half of it"),
            (UpgradeOutcome::Declined(later), "release v2 (bbbbbbbbbbbb) is empty; it can be tried again in 1 h"),
            (
                UpgradeOutcome::UpToDate { running: from, declined: Some(declined), replaced: None },
                "nothing new is offered; release aaaaaaaaaaaa stays; before, release v2 (bbbbbbbbbbbb) is empty; this release is rejected and not tried again",
            ),
        ] {
            assert_eq!(outcome.to_string(), text);
        }
    }
}
