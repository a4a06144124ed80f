//! What is remembered for the next look: by what to ask whether anything changed, and of which release that was true.

use overseer_core::MEMO_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// GitHub's `Last-Modified` is the time of the last edit of the release itself: putting another file into it need not change it. So the whole
/// answer is asked for once in a while.
const WHOLE_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memo {
    /// The tag of the file that the release offered.
    pub(crate) tag: String,
    /// The release.
    pub(crate) release: u64,
    pub(crate) name: String,
    /// `Last-Modified` and `ETag` of the answer that told of it.
    pub(crate) last_modified: Option<String>,
    pub(crate) etag: Option<String>,
    /// The date of its commit, and when it was last published or edited, in seconds since 1970.
    pub(crate) created: Option<i64>,
    pub(crate) changed: Option<i64>,
    /// When that answer came, in seconds since 1970, by the clock of this machine, which also reads it again.
    pub(crate) asked: u64,
}

impl Memo {
    /// `None` if it is too long to be kept.
    pub(crate) fn write(&self) -> Option<String> {
        serde_json::to_string(self).ok().filter(|memo| memo.len() <= MEMO_BYTES_MAX)
    }

    pub(crate) fn read(memo: &str) -> Option<Self> {
        serde_json::from_str(memo).ok()
    }

    /// Whether the release of this memo was taken away: another one is offered in its place which is older, and was neither published nor edited after it.
    pub(crate) fn is_of_a_yanked_one(&self, offered: &Self) -> bool {
        let not_after = |was: Option<i64>, is: Option<i64>| was.zip(is).map(|(was, is)| is <= was);
        let is_older = not_after(self.created, offered.created) != Some(false);
        self.release != offered.release && is_older && not_after(self.changed, offered.changed) == Some(true)
    }

    /// Whether it is time to ask for a whole answer. Also if the clock was set back.
    pub(crate) fn is_old(&self, now: SystemTime) -> bool {
        seconds(now).checked_sub(self.asked).is_none_or(|age| age >= WHOLE_EVERY.as_secs())
    }
}

/// Since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memo() -> Memo {
        Memo {
            tag: "asset 1 sha256:ab".to_owned(),
            release: 2,
            name: "v1".to_owned(),
            last_modified: Some("Sun, 06 Nov 1994 12:00:00 GMT".to_owned()),
            etag: None,
            created: None,
            changed: Some(784_123_200),
            asked: 100_000,
        }
    }

    #[test]
    fn a_memo_reads_as_it_was_written_and_one_that_is_too_long_or_none_is_not_kept() {
        assert_eq!(Memo::read(&memo().write().expect("short enough")), Some(memo()));
        assert_eq!(Memo { name: "x".repeat(MEMO_BYTES_MAX), ..memo() }.write(), None);
        assert_eq!(Memo::read("something else"), None);
    }

    #[test]
    fn a_release_was_yanked_if_an_older_one_that_nobody_has_edited_since_is_offered_instead() {
        let installed = || Memo { created: Some(50), changed: Some(100), ..memo() };
        let yanked = |created, changed| installed().is_of_a_yanked_one(&Memo { release: 1, created, changed, ..memo() });
        assert!(yanked(Some(40), Some(90)) && yanked(None, Some(90)));
        assert!(!yanked(Some(40), Some(101)), "edited since");
        assert!(!yanked(Some(60), Some(90)), "newer, and a pre-release until now");
        assert!(!yanked(Some(40), None), "nobody knows");
        assert!(!installed().is_of_a_yanked_one(&installed()));
    }

    #[test]
    fn the_whole_answer_is_asked_for_every_six_hours_and_when_the_clock_was_set_back() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!memo().is_old(at(100_000)) && !memo().is_old(at(121_599)));
        assert!(memo().is_old(at(121_600)) && memo().is_old(at(99_999)));
    }
}
