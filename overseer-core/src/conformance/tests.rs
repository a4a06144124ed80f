//! A suite that cannot fail shows nothing: each wrong fetcher here fails the cases that are meant for it, and no other.

mod file;

use super::machine::{Heard, Machine};
use super::{Report, Source, Trouble, run, try_run};
use crate::{FetchError, Fetcher, Known, Look, Release, fetcher_fn};
use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

const SECRET: &str = "s3cret";
const PIECE_BYTES: usize = 64 << 10;

/// What is wrong with a fetcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    AsksInCheck,
    NeverRests,
    AsksTwice,
    IgnoresWhatIsSettled,
    NeedsItsMemo,
    FloodsItsMemo,
    TakesTheSizeForTheTag,
    TakesTheMachineIntoTheTag,
    CannotSeeTheSameTwice,
    NeverGoesBack,
    TrustsItsMemo,
    FailsWhenAllIsThere,
    GoesOnAtTheWrongByte,
    GoesOnWithAnything,
    TakesABreakForTheEnd,
    BlamesTheReleaseForABreak,
    BlamesTheSettingsForAStall,
    CollectsTheBody,
    DrainsWhatIsLeft,
    HidesWhatIsLarge,
    PanicsWhenGone,
    BlamesTheReleaseWhenGone,
    TakesDenialForPassing,
    SwallowsTheDenial,
    BlamesTheSettingsWhenDown,
    ForgetsThatItIsDown,
    IgnoresSignatures,
    LosesTheSignature,
    HasASecretInErrors,
    HasASecretInDebug,
    HasASecretInTags,
    HasASecretInItsMemo,
}

#[derive(Default)]
struct Inside {
    release: Arc<Vec<u8>>,
    /// How often something was put up.
    put_up: u64,
    signature: Option<String>,
    trouble: Option<Trouble>,
    requests: u64,
    sent_bytes: u64,
}

/// A source in memory.
#[derive(Clone, Default)]
struct Shelf(Arc<(Mutex<Inside>, Condvar)>);

impl Shelf {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.0.lock().expect("no panic")
    }

    fn set(&self, trouble: Option<Trouble>) {
        self.inside().trouble = trouble;
        self.0.1.notify_all();
    }
}

struct Tested {
    shelf: Shelf,
    flaw: Flaw,
    gives_up_after: Option<Duration>,
}

impl Tested {
    fn with(flaw: Flaw) -> Self {
        Self { shelf: Shelf::default(), flaw, gives_up_after: Some(Duration::from_millis(50)) }
    }
}

impl Source for Tested {
    type Fetcher = FromShelf;

    fn fetcher(&self) -> FromShelf {
        FromShelf { shelf: self.shelf.clone(), flaw: self.flaw, gives_up_after: self.gives_up_after }
    }

    fn publish(&mut self, release: &[u8]) {
        let mut inside = self.shelf.inside();
        (inside.release, inside.signature) = (Arc::new(release.to_vec()), None);
        inside.put_up += 1;
    }

    fn suffer(&mut self, trouble: Trouble) -> Result<(), String> {
        self.shelf.set(Some(trouble));
        Ok(())
    }

    fn recover(&mut self) {
        self.shelf.set(None);
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.to_owned()]
    }

    fn sign(&mut self, minisig: &str) -> Result<(), String> {
        self.shelf.inside().signature = Some(minisig.to_owned());
        Ok(())
    }

    fn requests(&self) -> Option<u64> {
        Some(self.shelf.inside().requests)
    }

    fn sent_bytes(&self) -> Option<u64> {
        Some(self.shelf.inside().sent_bytes)
    }

    fn gives_up_after(&self) -> Option<Duration> {
        self.gives_up_after
    }

    fn denial(&self) -> String {
        "keep out".to_owned()
    }
}

#[derive(Clone)]
struct FromShelf {
    shelf: Shelf,
    flaw: Flaw,
    gives_up_after: Option<Duration>,
}

impl fmt::Debug for FromShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.flaw == Flaw::HasASecretInDebug { SECRET } else { "***" };
        f.debug_struct("FromShelf").field("password", &password).finish_non_exhaustive()
    }
}

impl FromShelf {
    /// One request for what is there.
    fn ask(&self) -> Result<(), FetchError> {
        let mut inside = self.shelf.inside();
        inside.requests += 1;
        let trouble = inside.trouble;
        drop(inside);
        Err(match (trouble, self.flaw) {
            (Some(Trouble::Gone), Flaw::PanicsWhenGone) => panic!("there is always a release"),
            (Some(Trouble::Gone), Flaw::BlamesTheReleaseWhenGone) => FetchError::bad_release("the shelf is empty"),
            (Some(Trouble::Gone), _) => FetchError::passing("the shelf is empty"),
            (Some(Trouble::Denied), Flaw::TakesDenialForPassing) => FetchError::passing("the shelf says: keep out"),
            (Some(Trouble::Denied), Flaw::SwallowsTheDenial) => FetchError::settings("it does not work"),
            (Some(Trouble::Denied), Flaw::HasASecretInErrors) => FetchError::settings(format!("keep out, {SECRET}")),
            (Some(Trouble::Denied), _) => FetchError::settings("the shelf says: keep out"),
            (Some(Trouble::Down), Flaw::BlamesTheSettingsWhenDown) => FetchError::settings("there is no shelf"),
            (Some(Trouble::Down), Flaw::ForgetsThatItIsDown) => return Ok(()),
            (Some(Trouble::Down), _) => FetchError::passing("there is no shelf"),
            (None | Some(_), _) => return Ok(()),
        })
    }

    fn tag(&self, known: &Known) -> String {
        use sha1::Digest as _;
        let inside = self.shelf.inside();
        let digest = || crate::binary::hex(&sha1::Sha1::digest(&inside.release[..]));
        match self.flaw {
            Flaw::TakesTheSizeForTheTag => inside.release.len().to_string(),
            Flaw::TakesTheMachineIntoTheTag => format!("{} for {}", digest(), known.path().display()),
            Flaw::HasASecretInTags => format!("{SECRET}/{}", digest()),
            _ => digest(),
        }
    }

    fn memo(&self, tag: &str, known: &Known) -> String {
        let put_up = self.shelf.inside().put_up;
        match self.flaw {
            Flaw::FloodsItsMemo => "x".repeat(crate::MEMO_BYTES_MAX + 1),
            Flaw::HasASecretInItsMemo => SECRET.to_owned(),
            Flaw::CannotSeeTheSameTwice => format!("{put_up} {tag}"),
            Flaw::NeverGoesBack => format!("{} {tag}", known.memo().unwrap_or_default()),
            _ => tag.to_owned(),
        }
    }
}

impl Fetcher for FromShelf {
    fn source(&self) -> String {
        "shelf".to_owned()
    }

    fn check(&self) -> Result<(), FetchError> {
        if self.flaw == Flaw::AsksInCheck { self.ask() } else { Ok(()) }
    }

    fn interval(&self) -> Duration {
        if self.flaw == Flaw::NeverRests { Duration::ZERO } else { Duration::from_secs(60) }
    }

    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        self.ask()?;
        let tag = self.tag(known);
        let memo = self.memo(&tag, known);
        let is_known = match self.flaw {
            Flaw::AsksTwice => self.ask().map(|()| known.is_settled(&tag))?,
            Flaw::IgnoresWhatIsSettled => false,
            Flaw::NeedsItsMemo if known.memo().is_none() && !known.settled.is_empty() => {
                return Err(FetchError::passing("who am I?"));
            }
            Flaw::CannotSeeTheSameTwice if known.memo().is_some_and(|old| old.ends_with(&tag) && old != memo) => {
                return Err(FetchError::bad_release("it is the same"));
            }
            Flaw::NeverGoesBack => known.is_settled(&tag) || known.memo().is_some_and(|memo| memo.contains(&tag)),
            Flaw::TrustsItsMemo => known.is_settled(&tag) || known.memo() == Some(&tag),
            Flaw::HidesWhatIsLarge => known.is_settled(&tag) || self.shelf.inside().release.len() > 10 << 20,
            _ => known.is_settled(&tag),
        };
        if is_known {
            return Ok(Look::unchanged().remember(memo));
        }
        let signature = self.shelf.inside().signature.clone().filter(|_| known.wants_signature());
        if known.wants_signature() && signature.is_none() && self.flaw != Flaw::IgnoresSignatures {
            return Ok(Look::incomplete("the signature is not there yet"));
        }
        let bytes = Arc::clone(&self.shelf.inside().release);
        let size_bytes = bytes.len() as u64;
        let partial = known.partial().filter(|partial| partial.tag == tag || self.flaw == Flaw::GoesOnWithAnything);
        if partial.is_some_and(|partial| partial.size_bytes >= size_bytes) && self.flaw == Flaw::FailsWhenAllIsThere {
            return Err(FetchError::passing("the shelf has nothing behind the end"));
        }
        let from = partial.map_or(0, |partial| partial.size_bytes.min(size_bytes));
        let skipped = if from > 0 && self.flaw == Flaw::GoesOnAtTheWrongByte { 1 } else { 0 };
        self.shelf.inside().requests += 1;
        let mut body = Transfer { from: self.clone(), bytes, at: (from + skipped).min(size_bytes) as usize, sent_bytes: 0 };
        let mut release = if self.flaw == Flaw::CollectsTheBody {
            let mut collected = Vec::new();
            body.read_to_end(&mut collected).map_err(|error| FetchError::passing(error.to_string()))?;
            Release::new(tag, "app", io::Cursor::new(collected))
        } else {
            Release::new(tag, "app", body)
        };
        if self.flaw != Flaw::TakesABreakForTheEnd {
            release = release.size_bytes(size_bytes);
        }
        if let Some(minisig) = signature.filter(|_| self.flaw != Flaw::LosesTheSignature) {
            release = release.signature(minisig);
        }
        Ok(Look::release(release.resumed_at(from)).remember(memo))
    }
}

struct Transfer {
    from: FromShelf,
    bytes: Arc<Vec<u8>>,
    at: usize,
    sent_bytes: u64,
}

impl Read for Transfer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let FromShelf { shelf, flaw, gives_up_after } = &self.from;
        let mut inside = shelf.inside();
        let room = match inside.trouble {
            Some(Trouble::Truncated { after_bytes } | Trouble::Stalled { after_bytes }) => after_bytes - self.sent_bytes,
            _ => u64::MAX,
        };
        if room == 0 && matches!(inside.trouble, Some(Trouble::Stalled { .. })) {
            let stands_still = |inside: &mut Inside| matches!(inside.trouble, Some(Trouble::Stalled { .. }));
            let limit = gives_up_after.unwrap_or(Duration::MAX);
            inside = shelf.0.1.wait_timeout_while(inside, limit, stands_still).expect("no panic").0;
            drop(inside);
            return Err(match flaw {
                Flaw::BlamesTheSettingsForAStall => io::Error::other(FetchError::settings("it stood still")),
                _ => io::ErrorKind::TimedOut.into(),
            });
        }
        if room == 0 {
            return match flaw {
                Flaw::TakesABreakForTheEnd => Ok(0),
                Flaw::BlamesTheReleaseForABreak => Err(io::Error::other(FetchError::bad_release("it is short"))),
                _ => Err(io::ErrorKind::ConnectionReset.into()),
            };
        }
        let piece = buffer.len().min(PIECE_BYTES).min(usize::try_from(room).unwrap_or(usize::MAX));
        let count = (&self.bytes[self.at..]).read(&mut buffer[..piece])?;
        self.at += count;
        self.sent_bytes += count as u64;
        inside.sent_bytes += count as u64;
        Ok(count)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.from.flaw == Flaw::DrainsWhatIsLeft {
            let _ = io::copy(self, &mut io::sink());
        }
    }
}

fn failed(report: &Report) -> Vec<&str> {
    report.failed().map(|case| case.name()).collect()
}

/// The wrong fetcher fails these cases and passes all others.
fn fails(flaw: Flaw, cases: &[&str]) {
    let report = try_run(Tested::with(flaw));
    assert_eq!(failed(&report), cases, "{flaw:?}\n{report}");
    assert!(!report.to_string().contains(SECRET), "{report}");
}

#[test]
fn a_fetcher_without_flaws_passes_everything() {
    let report = try_run(Tested::with(Flaw::None));
    let passed = report.cases().iter().filter(|case| *case.outcome() == super::Outcome::Passed).count();
    assert_eq!(passed, 22, "{report}");
}

#[test]
fn a_fetcher_that_waits_until_core_kills_it_passes_too() {
    run(Tested { gives_up_after: None, ..Tested::with(Flaw::None) });
}

#[test]
fn settings_are_found_wrong() {
    fails(Flaw::AsksInCheck, &["settings"]);
    fails(Flaw::NeverRests, &["settings"]);
}

#[test]
fn requests_are_counted() {
    fails(Flaw::AsksTwice, &["nothing new in one request"]);
    fails(Flaw::IgnoresWhatIsSettled, &["nothing new in one request"]);
}

#[test]
fn memos_are_found_wrong() {
    fails(Flaw::NeedsItsMemo, &["remembered", "held back"]);
    fails(Flaw::TrustsItsMemo, &["held back"]);
    let report = try_run(Tested::with(Flaw::FloodsItsMemo));
    assert!(failed(&report).starts_with(&["new", "nothing new"]), "{report}");
}

#[test]
fn tags_are_found_wrong() {
    fails(Flaw::TakesTheSizeForTheTag, &["changed", "an earlier one again", "truncated, then changed", "gone", "down and back"]);
    fails(Flaw::TakesTheMachineIntoTheTag, &["one tag for one release"]);
    fails(Flaw::CannotSeeTheSameTwice, &["published again"]);
    fails(Flaw::NeverGoesBack, &["an earlier one again", "held back"]);
}

#[test]
fn transfers_that_go_on_are_found_wrong() {
    fails(Flaw::FailsWhenAllIsThere, &["resumed"]);
    fails(Flaw::GoesOnAtTheWrongByte, &["resumed", "truncated", "stalled"]);
    fails(Flaw::GoesOnWithAnything, &["resumed", "truncated, then changed"]);
}

#[test]
fn transfers_that_end_early_are_found_wrong() {
    fails(Flaw::TakesABreakForTheEnd, &["truncated", "truncated, then changed"]);
    fails(Flaw::BlamesTheReleaseForABreak, &["truncated", "truncated, then changed"]);
    fails(Flaw::BlamesTheSettingsForAStall, &["stalled"]);
}

#[test]
fn releases_in_memory_are_found() {
    fails(Flaw::CollectsTheBody, &["handed over as it comes", "too large is not sent"]);
    fails(Flaw::DrainsWhatIsLeft, &["too large is not sent"]);
    fails(Flaw::HidesWhatIsLarge, &["too large", "too large is not sent"]);
}

#[test]
fn errors_of_the_wrong_kind_are_found() {
    fails(Flaw::PanicsWhenGone, &["gone"]);
    fails(Flaw::BlamesTheReleaseWhenGone, &["gone"]);
    fails(Flaw::TakesDenialForPassing, &["denied"]);
    fails(Flaw::SwallowsTheDenial, &["denied"]);
    fails(Flaw::BlamesTheSettingsWhenDown, &["down and back"]);
    fails(Flaw::ForgetsThatItIsDown, &["down and back"]);
}

#[test]
fn missing_signatures_are_found() {
    fails(Flaw::IgnoresSignatures, &["signed"]);
    fails(Flaw::LosesTheSignature, &["signed"]);
}

#[test]
fn secrets_are_found_and_not_printed() {
    fails(Flaw::HasASecretInErrors, &["secrets"]);
    fails(Flaw::HasASecretInDebug, &["secrets"]);
    fails(Flaw::HasASecretInTags, &["secrets"]);
    fails(Flaw::HasASecretInItsMemo, &["secrets"]);
}

#[test]
fn a_look_that_hangs_is_left_alone_after_a_while() {
    let released = Arc::new((Mutex::new(false), Condvar::new()));
    let hold = Arc::clone(&released);
    let hangs = fetcher_fn("hangs", move |_: &Known| {
        let _guard = hold.1.wait_while(hold.0.lock().expect("no panic"), |released| !*released).expect("no panic");
        Ok(Look::unchanged())
    });
    let mut machine = Machine::new();
    let looking = machine.begin(hangs, "", &Heard::default());
    let why = looking.wait(Duration::from_millis(50)).expect_err("it hangs");
    assert_eq!(why, "the look does not end within 50ms");
    *released.0.lock().expect("no panic") = true;
    released.1.notify_all();
    looking.wait(crate::binary::testing::PATIENCE).expect("it ends");
}

#[test]
#[should_panic(expected = "FAILED          denied")]
fn a_failed_case_fails_the_test_of_the_fetcher() {
    run(Tested::with(Flaw::SwallowsTheDenial));
}
