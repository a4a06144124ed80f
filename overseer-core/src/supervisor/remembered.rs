//! What follows from what is remembered: which releases are settled, for how long one is held back, what a look leaves behind.
//!
//! The rules that a master shares with an [`Upgrade`](crate::Upgrade), which has none. They are told the time, in seconds since 1970.

use crate::binary::{Identity, Installed, Looks, Memo, Record};
use crate::fetcher::{Known, MEMO_BYTES_MAX};
use crate::protocol::ReleaseName;
use std::path::Path;
use std::time::Duration;

/// The longest pause that a source can ask for.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Failing looks are never further apart than this, unless the interval is.
const BACK_OFF_MAX: Duration = Duration::from_secs(60 * 60);
/// For how long a release is held back after its first and second failure; the third rejects it, unless it can be mended.
const HOLD_BACKS: [Duration; 2] = [Duration::from_secs(10 * 60), Duration::from_secs(60 * 60)];

/// The pause after so many failures in a row and one more, where it is `pause` between looks that work.
pub(crate) fn grown_pause(pause: Duration, failures_before: u32) -> Duration {
    pause.saturating_mul(1 << failures_before.min(16)).min(BACK_OFF_MAX.max(pause))
}

impl Record {
    /// What a fetcher of this source is to be told of the past, where the file `running` runs and `waiting` is staged already; and the IDs of releases that
    /// are rejected or held back.
    pub(crate) fn known(
        &self,
        source: &str,
        running: &Identity,
        path: &Path,
        waiting: Option<&ReleaseName>,
        now_unix_s: u64,
    ) -> (Known, Vec<String>) {
        let known = Known {
            settled: self.settled(source, waiting, now_unix_s),
            id: self.id_of(running).map(str::to_owned),
            size_bytes: running.size_bytes,
            path: path.to_owned(),
            memo: self.memo_of(source).map(str::to_owned),
            partial: None,
            wants_signature: false,
        };
        (known, self.judged_ids(now_unix_s))
    }

    /// What is known of looks at another source says nothing about this one.
    pub(crate) fn will_look_at(&mut self, source: &str) {
        if self.looks.source != source {
            self.looks = Looks { source: source.to_owned(), ..Looks::default() };
        }
    }

    /// The look worked.
    pub(crate) fn looked(&mut self, outcome: String, now_unix_s: u64) {
        let looks = &mut self.looks;
        (looks.last_unix_s, looks.last_success_unix_s) = (Some(now_unix_s), Some(now_unix_s));
        (looks.failures, looks.outcome) = (0, outcome);
    }

    /// The look did not work. Answers how many before it did not either.
    pub(crate) fn look_failed(&mut self, why: &str, now_unix_s: u64) -> u32 {
        let looks = &mut self.looks;
        looks.last_unix_s = Some(now_unix_s);
        looks.outcome = format!("failed: {why}");
        let failures_before = looks.failures;
        looks.failures = failures_before.saturating_add(1);
        failures_before
    }

    /// Remembers what the fetcher of this source wants remembered; nothing new if it does not say.
    ///
    /// # Errors
    /// It is longer than [`MEMO_BYTES_MAX`], by so many bytes in all; then nothing is remembered.
    pub(crate) fn remember_memo(&mut self, source: &str, memo: Option<String>) -> Result<(), usize> {
        let Some(text) = memo else { return Ok(()) };
        let bytes = text.len();
        let fits = bytes <= MEMO_BYTES_MAX;
        self.memo = fits.then(|| Memo { source: source.to_owned(), text });
        if fits { Ok(()) } else { Err(bytes) }
    }

    /// For how long the release is to be held back when it fails now; `None` rejects it. One that only rests has served before.
    pub(crate) fn hold_back_of(&self, release: &ReleaseName) -> Option<Duration> {
        if self.resting.as_ref().is_some_and(|resting| resting.installed.release.is_same(release)) {
            return Some(self.hold_back_until_mended(release));
        }
        HOLD_BACKS.get(self.failures_of(release) as usize).copied()
    }

    /// For how long the release is to be held back where it can be mended without another release, however often it fails.
    pub(crate) fn hold_back_until_mended(&self, release: &ReleaseName) -> Duration {
        HOLD_BACKS[(self.failures_of(release) as usize).min(HOLD_BACKS.len() - 1)]
    }

    /// When the installed release was signed, or the last of which that is known; no older one is taken.
    pub(crate) fn installed_signed_unix_s(&self) -> Option<u64> {
        self.installed.as_ref().and_then(|installed| installed.release.signed_unix_s).or(self.signed_unix_s)
    }

    /// Whether the release is rejected, or held back and its time has not come.
    pub(crate) fn is_unwanted(&self, release: &ReleaseName, now_unix_s: u64) -> bool {
        self.set_aside.as_ref().is_some_and(|aside| aside.release.is_same(release))
            || self.judged(now_unix_s).any(|judged| judged.release.is_same(release))
    }

    /// Whether core has put the release at the program's path.
    pub(crate) fn is_installed(&self, release: &ReleaseName) -> bool {
        self.installed.as_ref().is_some_and(|installed| installed.release.is_same(release))
    }

    /// The source offers what is installed, perhaps under another tag. A program without trusted keys does not look at the signature, which does
    /// not unmake what was proved before.
    pub(crate) fn runs(&mut self, mut release: ReleaseName, now_unix_s: u64) {
        let before = self.installed.as_ref().filter(|before| before.release.is_same(&release));
        release.signed_unix_s = release.signed_unix_s.or(before.and_then(|before| before.release.signed_unix_s));
        let at_unix_s = before.map_or(now_unix_s, |before| before.at_unix_s);
        self.named = None;
        self.signed_unix_s = release.signed_unix_s.or(self.signed_unix_s);
        self.installed = Some(Installed { release, at_unix_s });
    }

    /// The release is at the program's path, and what was there before is `previous`.
    pub(crate) fn was_installed(&mut self, release: ReleaseName, identity: Identity, now_unix_s: u64) {
        self.previous = self.installed.take().map(|installed| installed.release);
        (self.set_aside, self.resting) = (None, None);
        self.signed_unix_s = release.signed_unix_s.or(self.signed_unix_s);
        // It was nameless while its signature was not accepted.
        let nameless = ReleaseName { id: String::new(), ..release.clone() };
        self.verdicts.retain(|judged| !judged.release.is_same(&release) && !judged.release.is_same(&nameless));
        self.remember_id(identity, &release.id);
        self.named = None;
        self.installed = Some(Installed { release, at_unix_s: now_unix_s });
    }
}
