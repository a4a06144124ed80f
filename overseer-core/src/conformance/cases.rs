//! The cases, each on machines of its own, one after the other at the same source.

use super::machine::{Fate, Heard, Machine, PATIENCE, Seen, hear};
use super::{Case, Outcome, Report, Source, Trouble};
use crate::{FetchError, FetchErrorKind, Fetcher, Known, Look};
use sha1::{Digest, Sha1};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::mpsc;
use std::time::Duration;

/// Of a usual release: more than any buffer on the way.
const RELEASE_BYTES: usize = 1 << 20;
/// Where transfers of it break off or stand still.
const CUT_BYTES: u64 = 128 << 10;
/// The limit in the case of a release that is too large, which has twice as many bytes.
const SIZE_BYTES_MAX: u64 = 16 << 20;
/// What a source may send of it: a fetcher that does not know the size lets core read up to the limit, and buffers on the way take some more.
const SENT_BYTES_MAX: u64 = SIZE_BYTES_MAX + SIZE_BYTES_MAX / 2;
/// A stalled transfer moves no more when it has not moved for so long.
const QUIET: Duration = Duration::from_millis(500);
/// One that has not moved at all for so long is not handed over.
const FIRST_BYTES: Duration = Duration::from_secs(10);
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// The form of a signature, which the suite does not check.
const MINISIG: &str = "untrusted comment: the conformance suite\nRUQ\ntrusted comment: timestamp:1\nAAAA\n";

type Run<S> = fn(&mut Rig<'_, S>) -> Result<(), Stop>;

/// Why a case does not pass.
enum Stop {
    Failed(String),
    NotApplicable(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

pub(super) fn run<S: Source>(source: &mut S) -> Report {
    let cases: [(&'static str, Run<S>); 22] = [
        ("settings", settings),
        ("new", new),
        ("nothing new", nothing_new),
        ("nothing new in one request", nothing_new_in_one_request),
        ("remembered", remembered),
        ("changed", changed),
        ("one tag for one release", one_tag_for_one_release),
        ("published again", published_again),
        ("an earlier one again", an_earlier_one_again),
        ("held back", held_back),
        ("resumed", resumed),
        ("truncated", truncated),
        ("truncated, then changed", truncated_then_changed),
        ("stalled", stalled),
        ("handed over as it comes", handed_over_as_it_comes),
        ("too large", too_large),
        ("too large is not sent", too_large_is_not_sent),
        ("gone", gone),
        ("denied", denied),
        ("down and back", down_and_back),
        ("signed", signed),
        ("secrets", secrets),
    ];
    let mut rig = Rig { source, release: Vec::new(), id: String::new(), published: 0, heard: Heard::default(), sent_of_too_large: None };
    let run_one = |(name, case): (&'static str, Run<S>)| {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let ended = case(&mut rig);
            rig.source.recover();
            ended
        }));
        let outcome = match ended {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(Stop::Failed(why))) => Outcome::Failed(rig.blot_out(why)),
            Ok(Err(Stop::NotApplicable(why))) => Outcome::NotApplicable(rig.blot_out(why)),
            Err(panic) => {
                rig.source.recover();
                Outcome::Failed(rig.blot_out(format!("something panicked: {}", crate::fetcher::poll::panic_text(&*panic))))
            }
        };
        Case { name, outcome }
    };
    let cases = cases.into_iter().map(run_one).collect();
    let source = rig.blot_out(rig.source.fetcher().source());
    Report { source, cases }
}

/// The source, and what is known of it.
struct Rig<'a, S> {
    source: &'a mut S,
    /// What is published.
    release: Vec<u8>,
    id: String,
    /// How many releases were made so far.
    published: u64,
    heard: Heard,
    sent_of_too_large: Option<u64>,
}

impl<S: Source> Rig<'_, S> {
    fn publish_new(&mut self) {
        self.publish_new_of(RELEASE_BYTES);
    }

    /// A release like no other: it begins like a program, and its first [`RELEASE_BYTES`] cannot be compressed.
    fn publish_new_of(&mut self, size_bytes: usize) {
        self.published += 1;
        let mut release = vec![0; size_bytes];
        fastrand::Rng::with_seed(self.published).fill(&mut release[..RELEASE_BYTES]);
        release[..4].copy_from_slice(b"\x7fELF");
        self.publish(release);
    }

    fn publish(&mut self, release: Vec<u8>) {
        self.id = crate::binary::hex(&Sha1::digest(&release));
        self.source.publish(&release);
        self.release = release;
    }

    fn suffer(&mut self, trouble: Trouble) -> Result<(), Stop> {
        self.source.suffer(trouble).map_err(Stop::NotApplicable)
    }

    fn fetcher(&self) -> S::Fetcher {
        let fetcher = self.source.fetcher();
        hear(&self.heard, "the fetcher's Debug", format!("{fetcher:?} {fetcher:#?}"));
        hear(&self.heard, "the source's name", fetcher.source());
        fetcher
    }

    fn look(&self, machine: &mut Machine) -> Result<Seen, String> {
        self.look_with(machine, Fate::Installed)
    }

    fn look_with(&self, machine: &mut Machine, fate: Fate) -> Result<Seen, String> {
        let looking = machine.begin(self.fetcher(), &self.id, &self.heard);
        let report = looking.wait(PATIENCE)?;
        machine.end(&looking, report, fate)
    }

    /// The look takes what is published; answers its tag.
    fn takes(&self, machine: &mut Machine) -> Result<String, String> {
        match self.look(machine)? {
            Seen::Taken(release) => Ok(release.tag),
            other => Err(format!("{other}; there is a release to take")),
        }
    }

    fn sees_nothing_new(&self, machine: &mut Machine) -> Result<(), String> {
        match self.look(machine)? {
            Seen::Unchanged => Ok(()),
            other => Err(format!("{other}; there is nothing new")),
        }
    }

    fn blot_out(&self, text: String) -> String {
        let secrets = self.source.secrets();
        secrets.iter().filter(|secret| !secret.is_empty()).fold(text, |text, secret| text.replace(secret.as_str(), "***"))
    }
}

fn settings<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let before = rig.source.requests();
    let fetcher = rig.fetcher();
    let name = fetcher.source();
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(format!("source is {name:?}; it is to name the source in one line").into());
    }
    let other = rig.source.fetcher().source();
    if other != name || fetcher.source() != name {
        return Err(format!("source was {name} and then {other}; what is remembered of the one is forgotten with the other").into());
    }
    if !INTERVALS.contains(&fetcher.interval()) {
        return Err(format!("interval is {:?}; it is to be between 1 s and a day", fetcher.interval()).into());
    }
    passes_check(rig, &fetcher, "")?;
    if rig.source.suffer(Trouble::Down).is_ok() {
        let fetcher = rig.fetcher();
        passes_check(rig, &fetcher, " while the source is down")?;
    }
    let after = rig.source.requests();
    if before != after {
        return Err(format!("the source was asked before any look: {before:?} requests became {after:?}").into());
    }
    Ok(())
}

fn passes_check<S: Source>(rig: &Rig<'_, S>, fetcher: &S::Fetcher, when: &str) -> Result<(), String> {
    fetcher.check().map_err(|error| {
        hear(&rig.heard, "an error of check", format!("{error:?}"));
        format!("check failed{when}: {error}")
    })
}

fn new<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    rig.takes(&mut Machine::new())?;
    Ok(())
}

fn nothing_new<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.takes(&mut machine)?;
    Ok(rig.sees_nothing_new(&mut machine)?)
}

fn nothing_new_in_one_request<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.takes(&mut machine)?;
    for _ in 0..2 {
        let Some(before) = rig.source.requests() else {
            return Err(Stop::NotApplicable("this source does not count requests".to_owned()));
        };
        let sent_before = rig.source.sent_bytes();
        rig.sees_nothing_new(&mut machine)?;
        let requests = rig.source.requests().unwrap_or_default().saturating_sub(before);
        if requests > 1 {
            return Err(format!("{requests} requests were made to find nothing new; one has to do").into());
        }
        if rig.source.sent_bytes() != sent_before {
            return Err("the source sent the release again, or some of it, to a machine that has it".to_owned().into());
        }
    }
    Ok(())
}

fn remembered<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.takes(&mut machine)?;
    for _ in 0..3 {
        rig.sees_nothing_new(&mut machine)?;
    }
    machine.record.memo = None;
    rig.sees_nothing_new(&mut machine).map_err(|why| format!("without its memo: {why}"))?;
    Ok(rig.sees_nothing_new(&mut machine)?)
}

fn changed<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    let first = rig.takes(&mut machine)?;
    rig.sees_nothing_new(&mut machine)?;
    rig.publish_new();
    let second = rig.takes(&mut machine).map_err(|why| format!("the release has changed: {why}"))?;
    if first == second {
        return Err(format!("two releases have one tag: {first:?}").into());
    }
    Ok(rig.sees_nothing_new(&mut machine)?)
}

fn one_tag_for_one_release<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let first = rig.takes(&mut Machine::new())?;
    let second = rig.takes(&mut Machine::new())?;
    if first != second {
        return Err(format!("one release has two tags: {first:?} and {second:?}").into());
    }
    Ok(())
}

fn published_again<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.takes(&mut machine)?;
    rig.publish(rig.release.clone());
    match rig.look(&mut machine)? {
        Seen::Unchanged | Seen::Taken(_) => Ok(rig.sees_nothing_new(&mut machine)?),
        other => Err(format!("the same release was put up again: {other}").into()),
    }
}

fn an_earlier_one_again<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let first = rig.release.clone();
    let mut machine = Machine::new();
    rig.takes(&mut machine)?;
    rig.publish_new();
    rig.takes(&mut machine)?;
    rig.sees_nothing_new(&mut machine)?;
    rig.publish(first);
    rig.takes(&mut machine).map_err(|why| format!("an earlier release was put up again: {why}"))?;
    Ok(rig.sees_nothing_new(&mut machine)?)
}

fn held_back<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    const PAUSE_S: u64 = 600;
    rig.publish_new();
    let mut machine = Machine::new();
    match rig.look_with(&mut machine, Fate::HeldBack { for_s: PAUSE_S })? {
        Seen::Taken(_) => {}
        other => return Err(format!("{other}; there is a release to take").into()),
    }
    for _ in 0..2 {
        rig.sees_nothing_new(&mut machine)?;
    }
    machine.now_unix_s += PAUSE_S + 1;
    rig.takes(&mut machine).map_err(|why| format!("a release that was held back is to be tried again: {why}"))?;
    Ok(rig.sees_nothing_new(&mut machine)?)
}

fn resumed<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let name = rig.fetcher().source();
    let tag = rig.takes(&mut Machine::new())?;
    for begun in [1, rig.release.len() / 2, rig.release.len()] {
        let mut machine = Machine::new();
        machine.has_beginning(&name, &tag, &rig.release[..begun]);
        let of = rig.release.len();
        rig.takes(&mut machine).map_err(|why| format!("{begun} of {of} bytes were there: {why}"))?;
    }
    let mut machine = Machine::new();
    machine.has_beginning(&name, "another tag", b"the beginning of another release");
    Ok(rig.takes(&mut machine).map(drop).map_err(|why| format!("the beginning of another release was there: {why}"))?)
}

/// What may come of a look at a transfer that ends early. Answers whether the release was taken all the same.
fn is_passing_or_whole(seen: Seen) -> Result<bool, String> {
    match seen {
        Seen::Incomplete(_) => Ok(false),
        Seen::Failed(error) if error.kind() == FetchErrorKind::Passing => Ok(false),
        // The fetcher has gone on by itself.
        Seen::Taken(_) => Ok(true),
        other => Err(format!("{other}; a transfer that breaks off is a passing error")),
    }
}

fn truncated<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.suffer(Trouble::Truncated { after_bytes: CUT_BYTES })?;
    let is_taken = is_passing_or_whole(rig.look(&mut machine)?)?;
    rig.source.recover();
    if !is_taken {
        rig.takes(&mut machine).map_err(|why| format!("the look after a transfer that broke off: {why}"))?;
    }
    Ok(rig.sees_nothing_new(&mut machine)?)
}

fn truncated_then_changed<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.suffer(Trouble::Truncated { after_bytes: CUT_BYTES })?;
    is_passing_or_whole(rig.look(&mut machine)?)?;
    rig.source.recover();
    rig.publish_new();
    rig.takes(&mut machine).map_err(|why| format!("the release has changed since its transfer broke off: {why}"))?;
    Ok(rig.sees_nothing_new(&mut machine)?)
}

fn stalled<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.suffer(Trouble::Stalled { after_bytes: CUT_BYTES })?;
    let looking = machine.begin(rig.fetcher(), &rig.id, &rig.heard);
    let report = match rig.source.gives_up_after() {
        Some(limit) => {
            let ended = looking.wait(limit + PATIENCE).map_err(|why| format!("the transfer stands still: {why}"));
            rig.source.recover();
            ended?
        }
        None => {
            let (_, ended) = looking.wait_until_quiet(QUIET, FIRST_BYTES);
            rig.source.recover();
            match ended {
                Some(report) => report,
                None => looking.wait(PATIENCE).map_err(|why| format!("the transfer stood still and does not any more: {why}"))?,
            }
        }
    };
    if !is_passing_or_whole(machine.end(&looking, report, Fate::Installed)?)? {
        rig.takes(&mut machine).map_err(|why| format!("the look after a transfer that stood still: {why}"))?;
    }
    Ok(rig.sees_nothing_new(&mut machine)?)
}

fn handed_over_as_it_comes<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    rig.suffer(Trouble::Stalled { after_bytes: CUT_BYTES })?;
    let mut machine = Machine::new();
    let looking = machine.begin(rig.fetcher(), &rig.id, &rig.heard);
    let own_limit = rig.source.gives_up_after();
    let (has_moved, report) = looking.wait_until_quiet(QUIET, own_limit.map_or(FIRST_BYTES, |limit| limit + PATIENCE));
    rig.source.recover();
    if report.is_none() {
        looking.wait(own_limit.unwrap_or_default() + PATIENCE)?;
    }
    if !has_moved {
        let text = format!("{CUT_BYTES} bytes were sent and none reached core: a body is read piece by piece, not collected first");
        return Err(text.into());
    }
    Ok(())
}

fn too_large<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new_of(2 * SIZE_BYTES_MAX as usize);
    let mut machine = Machine::new();
    machine.size_bytes_max = SIZE_BYTES_MAX;
    let before = rig.source.sent_bytes();
    match rig.look(&mut machine)? {
        Seen::Refused(why) if why.contains("size_bytes_max") => {}
        other => return Err(format!("the release has twice as many bytes as are allowed: {other}").into()),
    }
    rig.sent_of_too_large = before.zip(rig.source.sent_bytes()).map(|(before, after)| after - before);
    rig.sees_nothing_new(&mut machine).map_err(|why| format!("the release was rejected: {why}"))?;
    rig.publish_new();
    rig.takes(&mut machine).map_err(|why| format!("a smaller release followed: {why}"))?;
    Ok(())
}

fn too_large_is_not_sent<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    if rig.source.sent_bytes().is_none() {
        return Err(Stop::NotApplicable("this source does not count the bytes that it sends".to_owned()));
    }
    match rig.sent_of_too_large {
        Some(bytes) if bytes > SENT_BYTES_MAX => {
            let of = 2 * SIZE_BYTES_MAX;
            Err(format!("the source sent {bytes} of {of} bytes to a machine that takes {SIZE_BYTES_MAX}").into())
        }
        Some(_) => Ok(()),
        None => Err("the release that is too large was not refused".to_owned().into()),
    }
}

fn gone<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let (mut machine, mut fresh) = (Machine::new(), Machine::new());
    rig.takes(&mut machine)?;
    rig.suffer(Trouble::Gone)?;
    for machine in [&mut machine, &mut fresh] {
        match rig.look(machine)? {
            Seen::Unchanged | Seen::Incomplete(_) => {}
            Seen::Failed(error) if error.kind() != FetchErrorKind::BadRelease => {}
            other => return Err(format!("there is no release any more: {other}").into()),
        }
    }
    rig.source.recover();
    rig.publish_new();
    for machine in [&mut machine, &mut fresh] {
        rig.takes(machine).map_err(|why| format!("a release followed one that was taken away: {why}"))?;
    }
    Ok(())
}

fn denied<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.suffer(Trouble::Denied)?;
    let word = rig.source.denial();
    match rig.look(&mut machine)? {
        Seen::Failed(error) if error.kind() == FetchErrorKind::Settings && error.to_string().contains(&word) => {}
        other => {
            let text = format!(
                "{other}; a source that denies is an error of the settings with what it says ({word:?}), as somebody has to mend it"
            );
            return Err(text.into());
        }
    }
    rig.source.recover();
    rig.takes(&mut machine).map_err(|why| format!("the source does not deny any more: {why}"))?;
    Ok(())
}

fn down_and_back<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    let mut machine = Machine::new();
    rig.takes(&mut machine)?;
    rig.suffer(Trouble::Down)?;
    for machine in [&mut machine, &mut Machine::new()] {
        match rig.look(machine)? {
            Seen::Failed(error) if error.kind() == FetchErrorKind::Passing => {}
            other => return Err(format!("the source is down: {other}; that is a passing error").into()),
        }
    }
    rig.source.recover();
    rig.sees_nothing_new(&mut machine).map_err(|why| format!("the source is back: {why}"))?;
    rig.publish_new();
    rig.takes(&mut machine).map_err(|why| format!("the source is back: {why}"))?;
    Ok(())
}

fn signed<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    rig.publish_new();
    rig.source.sign(MINISIG).map_err(Stop::NotApplicable)?;
    rig.publish_new();
    match ask(rig.fetcher())? {
        Ok(look) if look.why_incomplete().is_some() => {}
        other => return Err(format!("signatures are wanted and there is none: {other:?}; that is incomplete").into()),
    }
    rig.source.sign(MINISIG).map_err(Stop::NotApplicable)?;
    let look = ask(rig.fetcher())?.map_err(|error| format!("there is a signature: {error}"))?;
    let release = look.into_release().ok_or("there is a signature, and the look answers no release".to_owned())?;
    if release.minisig().map(str::trim) != Some(MINISIG.trim()) {
        return Err(format!("the signature is {MINISIG:?}, and the look answers {:?}", release.minisig()).into());
    }
    Ok(())
}

/// Asks the fetcher of a program that takes only signed releases.
fn ask(mut fetcher: impl Fetcher) -> Result<Result<Look, FetchError>, String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(fetcher.fetch(&Known::nothing().with_wanted_signature())));
    receiver.recv_timeout(PATIENCE).map_err(|_| format!("fetch panicked or did not answer within {PATIENCE:?}"))
}

fn secrets<S: Source>(rig: &mut Rig<'_, S>) -> Result<(), Stop> {
    let secrets = rig.source.secrets();
    if secrets.is_empty() {
        return Err(Stop::NotApplicable("this source has no secrets".to_owned()));
    }
    let heard = rig.heard.lock().unwrap_or_else(PoisonError::into_inner);
    let told = heard.iter().find(|(_, text)| secrets.iter().any(|secret| text.contains(secret.as_str())));
    match told {
        Some((what, text)) => Err(format!("a secret is in {what}: {text}").into()),
        None => Ok(()),
    }
}
