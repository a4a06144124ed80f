//! What is remembered across restarts and reboots: the contents of `state.json`.
//!
//! Plain data, changed by the supervisor alone. Every field has a default, and unknown ones are dropped, so that an older and a
//! newer master can follow each other. Times are seconds since 1970, since the monotonic clock does not survive a reboot.

use super::Identity;
use crate::protocol::ReleaseName;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most verdicts that are kept; the oldest goes first.
pub(crate) const VERDICTS_MAX: usize = 100;
/// The most events that are kept; the oldest goes first.
pub(crate) const EVENTS_MAX: usize = 50;
/// The most bytes of settled tags that a fetcher is told of, so that they fit into one frame.
const SETTLED_BYTES_MAX: usize = 32 * 1024;

/// The time of this machine's clock, in seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// All that is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// The release at the program's path, if core put it there.
    pub(crate) installed: Option<Installed>,
    /// The release that `previous` holds, where it is known.
    pub(crate) previous: Option<ReleaseName>,
    pub(crate) probation: Option<Probation>,
    /// With a binary store: the packaged file over which releases are committed there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) packaged: Option<Packaged>,
    /// The release that ran when somebody changed the packaged file: it is not installed over that again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) set_aside: Option<Installed>,
    /// How often the release in the binary store was started in a row and no generation of it became ready.
    pub(crate) unready_starts: u32,
    /// A release that makes way in the binary store for a while, since it did not come up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resting: Option<Resting>,
    /// When the release that was installed last was signed, in seconds since 1970, whatever has become of it since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signed_unix_s: Option<u64>,
    /// A release that is there and was not fetched, since upgrades are not to be installed.
    pub(crate) named: Option<Named>,
    /// Nothing is installed while it lasts.
    pub(crate) held: Option<Hold>,
    pub(crate) verdicts: Vec<Judged>,
    /// What the fetcher wanted to remember, and of which source.
    pub(crate) memo: Option<Memo>,
    /// Files whose ID is known, so that nobody hashes them again.
    pub(crate) known_ids: VecDeque<KnownId>,
    pub(crate) looks: Looks,
    pub(crate) events: VecDeque<Noted>,
}

/// A release that was put at the program's path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Installed {
    pub(crate) release: ReleaseName,
    pub(crate) at_unix_s: u64,
}

/// A release that was started in the binary store again and again, and did not come up. It has done so before, so this may pass: it lies beside its place, is held back, and
/// is tried again at a start after that time, or at the next start if the packaged file does not come up in its place either.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Resting {
    pub(crate) installed: Installed,
    pub(crate) previous: Option<ReleaseName>,
    /// The packaged file has come up in its place.
    pub(crate) is_replaced: bool,
}

/// The file that the operator or a package put at the program's path, where releases go to a binary store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Packaged {
    pub(crate) identity: Identity,
    /// The last change of its status, in nanoseconds since 1970.
    pub(crate) changed_ns: i64,
    /// In hex; empty until somebody has had the time.
    pub(crate) sha256: String,
    /// Known whenever `sha256` is.
    pub(crate) id: String,
}

/// A release that has not lived long enough to be trusted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Probation {
    pub(crate) release: ReleaseName,
    /// The file at the path while it lasts.
    pub(crate) identity: Identity,
    /// How often a master has started it since it was committed, that commit not counted.
    pub(crate) starts: u32,
}

/// An operator wants nothing installed until further notice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Hold {
    pub(crate) by: String,
    pub(crate) reason: String,
    pub(crate) at_unix_s: u64,
}

/// A release that is there and is not to be installed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub(crate) release: ReleaseName,
    /// The file that ran then, which is another one.
    pub(crate) running: Identity,
    pub(crate) at_unix_s: u64,
}

/// A release that is not to be tried now, or ever again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Judged {
    pub(crate) release: ReleaseName,
    /// How often it failed.
    pub(crate) failures: u32,
    /// Until then it is held back; `None` means rejected.
    pub(crate) until_unix_s: Option<u64>,
    pub(crate) reason: String,
    pub(crate) at_unix_s: u64,
}

/// What a fetcher wanted to remember.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memo {
    pub(crate) source: String,
    pub(crate) text: String,
}

/// The ID of a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KnownId {
    pub(crate) identity: Identity,
    pub(crate) id: String,
}

/// When the source was looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Looks {
    pub(crate) source: String,
    pub(crate) last_unix_s: Option<u64>,
    pub(crate) last_success_unix_s: Option<u64>,
    pub(crate) next_unix_s: Option<u64>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// What came of the last look.
    pub(crate) outcome: String,
}

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Noted {
    pub(crate) at_unix_s: u64,
    pub(crate) text: String,
}

impl Record {
    /// The tags of this source that are settled: what is installed, what waits for the next restart, what is rejected or held back.
    pub(crate) fn settled(&self, source: &str, waiting: Option<&ReleaseName>, now_unix_s: u64) -> Vec<String> {
        let installed = self.installed.iter().chain(&self.set_aside).map(|installed| &installed.release);
        let judged = self.judged(now_unix_s).rev().map(|judged| &judged.release);
        let newest_first = installed.chain(waiting).chain(judged);
        let tags = newest_first.filter(|release| release.source == source && !release.tag.is_empty()).map(|release| &release.tag);
        let mut room = SETTLED_BYTES_MAX;
        tags.take_while(|tag| room.checked_sub(escaped_bytes(tag)).map(|rest| room = rest).is_some()).cloned().collect()
    }

    /// The IDs of the releases that are rejected or held back.
    pub(crate) fn judged_ids(&self, now_unix_s: u64) -> Vec<String> {
        let judged = self.judged(now_unix_s).map(|judged| &judged.release).chain(self.set_aside.iter().map(|aside| &aside.release));
        judged.map(|release| release.id.clone()).filter(|id| !id.is_empty()).collect()
    }

    /// What the fetcher wanted to remember of this source.
    pub(crate) fn memo_of(&self, source: &str) -> Option<&str> {
        self.memo.as_ref().filter(|memo| memo.source == source).map(|memo| memo.text.as_str())
    }

    /// The verdicts that hold, the oldest first.
    pub(crate) fn judged(&self, now_unix_s: u64) -> impl DoubleEndedIterator<Item = &Judged> {
        self.verdicts.iter().filter(move |judged| judged.until_unix_s.is_none_or(|until| until > now_unix_s))
    }

    /// The ID of the file, if it has been hashed before.
    pub(crate) fn id_of(&self, identity: &Identity) -> Option<&str> {
        self.known_ids.iter().find(|known| known.identity == *identity).map(|known| known.id.as_str())
    }

    /// Remembers the ID of a file; the last few are kept.
    pub(crate) fn remember_id(&mut self, identity: Identity, id: &str) {
        const KNOWN_IDS_MAX: usize = 8;
        self.known_ids.retain(|known| known.identity != identity);
        self.known_ids.push_back(KnownId { identity, id: id.to_owned() });
        while self.known_ids.len() > KNOWN_IDS_MAX {
            self.known_ids.pop_front();
        }
    }

    /// What a second master of the same file needs of it: whether the release at the path is on probation, and what it would go back to.
    pub(crate) fn for_second_master(self) -> Self {
        let Self { probation, previous, known_ids, packaged, .. } = self;
        Self { probation, previous, known_ids, packaged, ..Self::default() }
    }

    /// How often the release has failed.
    pub(crate) fn failures_of(&self, release: &ReleaseName) -> u32 {
        self.verdicts.iter().find(|judged| judged.release.is_same(release)).map_or(0, |judged| judged.failures)
    }

    /// Remembers that the release has failed: held back until then, or rejected with `None`.
    pub(crate) fn judge(&mut self, release: ReleaseName, until_unix_s: Option<u64>, reason: String, at_unix_s: u64) {
        let failures = self.failures_of(&release) + 1;
        self.verdicts.retain(|judged| !judged.release.is_same(&release));
        self.verdicts.push(Judged { release, failures, until_unix_s, reason, at_unix_s });
        self.forget_old_verdicts();
    }

    /// The same release was found under another tag, which is settled for as long as the first.
    pub(crate) fn judged_again(&mut self, release: ReleaseName) {
        if let Some(aside) = self.set_aside.as_mut().filter(|aside| aside.release.is_same(&release)) {
            aside.release = ReleaseName { signed_unix_s: aside.release.signed_unix_s, ..release };
            return;
        }
        if let Some(judged) = self.verdicts.iter().find(|judged| judged.release.is_same(&release)).cloned() {
            self.verdicts.push(Judged { release, ..judged });
            self.forget_old_verdicts();
        }
    }

    fn forget_old_verdicts(&mut self) {
        let excess = self.verdicts.len().saturating_sub(VERDICTS_MAX);
        self.verdicts.drain(..excess);
    }

    /// The release on probation is not at the program's path any more: it is rejected, and its predecessor is the installed one.
    pub(crate) fn taken_back(&mut self, reason: String, at_unix_s: u64) {
        if let Some(probation) = self.probation.take() {
            // The same release twice: an operator's file lay between, and nobody knows what that is called.
            let previous = self.previous.take().filter(|previous| !previous.is_same(&probation.release));
            self.installed = previous.map(|release| Installed { release, at_unix_s });
            if let Some(installed) = &self.installed {
                // It serves, whatever its source has said of it since.
                self.verdicts.retain(|judged| !judged.release.is_same(&installed.release));
            }
            self.judge(probation.release, None, reason, at_unix_s);
        }
    }

    /// Somebody has changed the packaged file, which runs from now on in place of what was committed over the one before.
    pub(crate) fn package_wins(&mut self, packaged: Packaged) {
        self.packaged = Some(packaged);
        let resting = self.resting.take().map(|resting| resting.installed);
        self.set_aside = self.installed.take().or(resting).or(self.set_aside.take());
        (self.previous, self.probation, self.unready_starts) = (None, None, 0);
    }

    /// The release in the binary store does not run and is not there any more. It can be installed again, so nothing may hide it from the next look.
    pub(crate) fn lost_stored(&mut self) {
        (self.installed, self.previous, self.probation, self.memo, self.unready_starts) = (None, None, None, None, 0);
    }

    /// The release in the binary store does not come up, and is moved aside. It is held back until then.
    pub(crate) fn rests(&mut self, release: &ReleaseName, until_unix_s: u64, reason: String, at_unix_s: u64) {
        let installed = self.installed.take().filter(|installed| installed.release.is_same(release));
        let installed = installed.unwrap_or_else(|| Installed { release: release.clone(), at_unix_s });
        let resting = Resting { installed, previous: self.previous.take(), is_replaced: false };
        self.lost_stored();
        self.resting = Some(resting);
        self.judge(release.clone(), Some(until_unix_s), reason, at_unix_s);
    }

    /// Whether the release that rests is to be tried again at this start of the service.
    pub(crate) fn is_rested(&self, now_unix_s: u64) -> bool {
        self.resting.as_ref().is_some_and(|resting| !resting.is_replaced || !self.is_unwanted(&resting.installed.release, now_unix_s))
    }

    /// It is in the binary store again.
    pub(crate) fn has_rested(&mut self) {
        let Some(Resting { installed, previous, .. }) = self.resting.take() else { return };
        self.verdicts.retain(|judged| !judged.release.is_same(&installed.release));
        (self.installed, self.previous, self.unready_starts) = (Some(installed), previous, 0);
    }

    /// What the service was started with comes up, so its starts do not add up. Answers whether that is news.
    pub(crate) fn comes_up(&mut self) -> bool {
        let was_replaced = self.resting.as_mut().is_none_or(|resting| std::mem::replace(&mut resting.is_replaced, true));
        std::mem::take(&mut self.unready_starts) > 0 || !was_replaced
    }

    /// Whether what runs where nothing is in the binary store is the installed release itself: the packaged file.
    pub(crate) fn is_package_installed(&self) -> bool {
        let packaged = self.packaged.as_ref().filter(|packaged| !packaged.id.is_empty());
        packaged.zip(self.installed.as_ref()).is_some_and(|(packaged, installed)| packaged.id == installed.release.id)
    }

    /// The IDs of the releases whose files may lie in the binary store, or rest beside it.
    pub(crate) fn stored_ids(&self) -> Vec<String> {
        let resting = self.resting.iter().map(|resting| &resting.installed);
        let installed = self.installed.iter().chain(resting).map(|installed| &installed.release);
        let all = installed.chain(&self.previous).chain(self.probation.iter().map(|probation| &probation.release));
        all.map(|release| release.id.clone()).collect()
    }

    /// Remembers that something happened; the last few are kept.
    pub(crate) fn note(&mut self, at_unix_s: u64, text: String) {
        self.events.push_back(Noted { at_unix_s, text });
        while self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }
}

/// How long the text is in a frame.
fn escaped_bytes(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX, |escaped| escaped.len())
}
