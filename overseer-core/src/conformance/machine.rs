//! A program on a machine, as far as a fetcher can tell: its file, its state directory, and what is remembered there.

use crate::binary::{Demands, Identity, Installed, Memo, Place, Record, StateDir};
use crate::fetcher::poll::Poll;
use crate::protocol::{Order, Outcome, ReleaseName, Report, Verdict};
use crate::sys::signals::Original;
use crate::{FetchError, Fetcher, Known, Look, MEMO_BYTES_MAX};
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A look that takes longer without any reason hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// All that fetchers have said, which nobody's secret may be in.
pub(super) type Heard = Arc<Mutex<Vec<(&'static str, String)>>>;

pub(super) fn hear(heard: &Heard, what: &'static str, text: String) {
    heard.lock().unwrap_or_else(PoisonError::into_inner).push((what, text));
}

/// What came of a look.
#[derive(Debug)]
pub(super) enum Seen {
    Unchanged,
    Incomplete(String),
    /// The release that was published, byte for byte.
    Taken(ReleaseName),
    Failed(FetchError),
    Refused(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("the look found nothing new"),
            Self::Incomplete(why) => write!(f, "the look found something incomplete: {why}"),
            Self::Taken(release) => write!(f, "the look took the release {:?}", release.tag),
            Self::Failed(error) => write!(f, "the look failed ({:?}): {error}", error.kind()),
            Self::Refused(why) => write!(f, "core refused the release: it {why}"),
        }
    }
}

/// What becomes of a release that a look takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Installed,
    HeldBack { for_s: u64 },
}

pub(super) struct Machine {
    /// Removed when dropped.
    _directory: tempfile::TempDir,
    path: PathBuf,
    state_dir: PathBuf,
    pub(super) record: Record,
    pub(super) now_unix_s: u64,
    pub(super) size_bytes_max: u64,
}

impl Machine {
    /// One that knows nothing.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the suite");
        let path = directory.path().canonicalize().expect("its real path").join("program");
        fs::write(&path, "a program that wants to be replaced").expect("a file for the suite");
        let place = Place::at(&path, None).expect("a place for the suite");
        let state_dir = StateDir::open(&place).expect("a state directory for the suite").path().to_owned();
        let demands = Demands::default();
        let (record, now_unix_s) = (Record::default(), 1_000_000_000);
        Self { _directory: directory, path, state_dir, record, now_unix_s, size_bytes_max: demands.size_bytes_max }
    }

    /// Has the beginning of a release from a download that broke off.
    pub(super) fn has_beginning(&self, source: &str, tag: &str, bytes: &[u8]) {
        crate::fetcher::leave_beginning(&self.state_dir, source, tag, bytes);
    }

    /// Begins a look in a thread, which stands in for the poll process. `id` is that of the release that is published.
    pub(super) fn begin<F: Fetcher>(&mut self, fetcher: F, id: &str, heard: &Heard) -> Looking {
        // As it comes out of state.json.
        let record = serde_json::to_vec(&self.record).expect("a record is JSON");
        self.record = serde_json::from_slice(&record).expect("it was written so");
        let source = fetcher.source();
        let metadata = fs::metadata(&self.path).expect("the file of the suite");
        let known = Known {
            settled: self.record.settled(&source, None, self.now_unix_s),
            memo: self.record.memo_of(&source).map(str::to_owned),
            ..Known::default()
        };
        // A release with this ID ends the look where it would be proved.
        let order = Order {
            known,
            path: self.path.clone(),
            state_dir: self.state_dir.clone(),
            running: Identity::of(&metadata),
            judged: vec![id.to_owned()],
            installed_signed_unix_s: None,
            naming: None,
            store: None,
        };
        let order = serde_json::to_vec(&order).expect("an order is JSON");
        let demands = Demands { size_bytes_max: self.size_bytes_max, ..Demands::default() };
        let fetcher = Witness { fetcher, heard: Arc::clone(heard) };
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let order = serde_json::from_slice(&order).expect("it was written so");
            let original = Original::capture().expect("the signals can be read");
            let poll = Poll { fetcher: Box::new(fetcher), demands, check_timeout: PATIENCE, pre_upgrade: None };
            // Whoever has no patience any more does not listen.
            let (report, _) = poll.look(order, &original, &mut |_| drop(sender.send(News::Progress)));
            let _ = sender.send(News::Ended(Box::new(report)));
        });
        Looking { receiver, source, id: id.to_owned(), heard: Arc::clone(heard) }
    }

    /// Remembers what came of a look, as the master does.
    ///
    /// # Errors
    /// What no look of a fetcher may come to.
    pub(super) fn end(&mut self, looking: &Looking, report: Report, fate: Fate) -> Result<Seen, String> {
        let Report { outcome, memo, .. } = report;
        let is_to_be_remembered = fate == Fate::Installed || !matches!(outcome, Outcome::Judged { .. });
        if let Some(text) = memo.filter(|_| is_to_be_remembered) {
            if text.len() > MEMO_BYTES_MAX {
                return Err(format!("the memo has more than the {MEMO_BYTES_MAX} bytes that core keeps"));
            }
            self.record.memo = Some(Memo { source: looking.source.clone(), text });
        }
        match outcome {
            Outcome::Unchanged => Ok(Seen::Unchanged),
            Outcome::Incomplete { why } => Ok(Seen::Incomplete(why)),
            Outcome::Failed { error } => {
                hear(&looking.heard, "an error", format!("{error:?}"));
                if error.to_string().starts_with("the fetcher panicked") {
                    return Err(error.to_string());
                }
                Ok(Seen::Failed(error))
            }
            Outcome::Judged { release } => {
                self.settle(&release, fate);
                Ok(Seen::Taken(release))
            }
            Outcome::Refused { release, why, verdict } if release.id.is_empty() => {
                if verdict == Verdict::Reject {
                    self.record.judge(release, None, why.clone(), self.now_unix_s);
                }
                Ok(Seen::Refused(why))
            }
            Outcome::Refused { release, why, .. } => {
                let (id, tag, wanted) = (release.id, release.tag, &looking.id);
                Err(format!(
                    "the release {tag:?} came as other bytes than were published: SHA-1 {id} instead of {wanted}; core says of it: {why}"
                ))
            }
            Outcome::Same { .. } | Outcome::Staged(_) | Outcome::Named { .. } | Outcome::Unknown => {
                Err("the look took a release that the suite did not publish".to_owned())
            }
        }
    }

    fn settle(&mut self, release: &ReleaseName, fate: Fate) {
        match fate {
            Fate::Installed => {
                self.record.installed = Some(Installed { release: release.clone(), at_unix_s: self.now_unix_s });
            }
            Fate::HeldBack { for_s } => {
                self.record.judge(release.clone(), Some(self.now_unix_s + for_s), "the suite wants it so".to_owned(), self.now_unix_s);
            }
        }
    }
}

enum News {
    Progress,
    Ended(Box<Report>),
}

/// A look that goes on.
pub(super) struct Looking {
    receiver: Receiver<News>,
    source: String,
    id: String,
    heard: Heard,
}

/// Why there is no report.
const HANGS: &str = "the look does not end";

impl Looking {
    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time, or not as it should.
    pub(super) fn wait(&self, patience: Duration) -> Result<Report, String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Progress) => {}
                Ok(News::Ended(report)) => return Ok(*report),
                Err(RecvTimeoutError::Timeout) => return Err(format!("{HANGS} within {patience:?}")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("the fetcher panicked where core does not expect it: in a Drop".to_owned());
                }
            }
        }
    }

    /// Waits until nothing has moved for so long; answers whether anything has, and the report if the look has ended.
    pub(super) fn wait_until_quiet(&self, quiet: Duration, patience: Duration) -> (bool, Option<Report>) {
        let mut has_moved = false;
        loop {
            match self.receiver.recv_timeout(if has_moved { quiet } else { patience }) {
                Ok(News::Progress) => has_moved = true,
                Ok(News::Ended(report)) => return (has_moved, Some(*report)),
                Err(_) => return (has_moved, None),
            }
        }
    }
}

/// Passes all on, and remembers what was said.
struct Witness<F> {
    fetcher: F,
    heard: Heard,
}

impl<F: Fetcher> Fetcher for Witness<F> {
    fn source(&self) -> String {
        self.fetcher.source()
    }

    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        let answer = self.fetcher.fetch(known);
        match &answer {
            Ok(look) => hear(&self.heard, "an answer (tag, file name, version or memo)", format!("{look:?}")),
            Err(error) => hear(&self.heard, "an error", format!("{error:?}")),
        }
        answer
    }
}
