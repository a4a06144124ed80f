//! When to look for a release, and what is remembered of each.

use super::remembered::{self, RETRY_AFTER_MAX};
use super::{Action, Blame, Installation, Stage, Supervisor, describe};
use crate::binary::{Hold, Identity, Named};
use crate::config::Upgrades;
use crate::fetcher::{FetchError, FetchErrorKind, Known};
use crate::message::{EPHEMERAL, Message, Seconds, Serving};
use crate::protocol::{Naming, Outcome, ReleaseName, Report, Staged, Verdict};
use std::time::Duration;

/// The first look comes this long after the first ready, or after the interval if that is shorter. A program that ends by itself may not live so long: there
/// it comes at once.
const FIRST_LOOK: Duration = Duration::from_secs(1);

impl Supervisor {
    /// What the fetcher is to be told of the past, and the IDs of releases that are rejected or held back.
    pub(crate) fn known(&self) -> (Known, Vec<String>) {
        let source = self.settings.source.as_deref().unwrap_or_default();
        self.record.known(source, &self.running(), &self.path, self.waiting.as_ref(), self.unix_s())
    }

    /// When the installed release was signed, in seconds since 1970; no older one is taken.
    pub(crate) fn installed_signed_unix_s(&self) -> Option<u64> {
        self.record.installed_signed_unix_s()
    }

    /// The file that the active generation runs.
    pub(crate) fn running(&self) -> Identity {
        self.active.and_then(|active| self.children.get(&active)).map(|child| child.identity).unwrap_or_default()
    }

    /// The generation that serves has settings of its own, so the next look may be due at another time.
    pub(super) fn plan_first_look(&mut self) {
        let Some(source) = self.settings.source.clone().filter(|_| self.settings.looks()) else {
            self.looking.next = None;
            return;
        };
        self.record.will_look_at(&source);
        let soon = match self.settings.installation {
            Installation::WithoutRestart => self.now,
            Installation::Proved | Installation::AtNextRestart => self.now + FIRST_LOOK.min(self.settings.interval),
        };
        let unix_now = self.unix_s();
        let looks = &self.record.looks;
        let pause_after_last = match looks.next_unix_s {
            Some(next) if looks.failures > 0 => Duration::from_secs(next.saturating_sub(unix_now)).min(RETRY_AFTER_MAX),
            _ => {
                // A last look in the future is one of a clock that was set back since.
                let since = looks.last_unix_s.filter(|last| *last <= unix_now).map(|last| Duration::from_secs(unix_now - last));
                since.map_or(Duration::ZERO, |since| self.pause().saturating_sub(since))
            }
        };
        self.plan_look(soon.max(self.now + pause_after_last));
        self.act(Action::Save);
    }

    fn plan_look(&mut self, at: super::Time) {
        if !self.settings.looks() {
            return;
        }
        self.looking.next = Some(at);
        self.record.looks.next_unix_s = Some((self.unix_at_start + at).as_secs());
    }

    /// The pause between two looks that work.
    fn pause(&self) -> Duration {
        self.settings.interval.max(self.settings.min_fetch_interval)
    }

    /// The pause after so many failures in a row and one more.
    fn grown_pause(&self, failures_before: u32) -> Duration {
        remembered::grown_pause(self.pause(), failures_before)
    }

    /// A release could not be tried, or not be installed, for no fault of its own. It need not be downloaded at every look until somebody has mended that.
    pub(super) fn set_back(&mut self) {
        let grown = self.grown_pause(self.looking.setbacks);
        self.looking.setbacks = self.looking.setbacks.saturating_add(1);
        let pause = self.jittered(grown);
        self.plan_look(self.now + pause);
    }

    /// Up to a tenth more or less, so that a fleet does not look all at once.
    fn jittered(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(0.9 + 0.2 * self.random.f64()).max(self.settings.min_fetch_interval)
    }

    /// When to look, unless something stands in the way.
    pub(super) fn next_look(&self) -> Option<super::Time> {
        let active = self.children.get(&self.active?)?;
        // Of a program that ends by itself, nothing more than that it has begun will ever be known.
        let serves = match self.settings.installation {
            Installation::WithoutRestart => matches!(active.stage, Stage::Welcomed | Stage::Active),
            Installation::Proved | Installation::AtNextRestart => active.stage == Stage::Active,
        };
        let may_look =
            !self.is_leaving() && self.candidate.is_none() && serves && self.looking.running_until.is_none() && !self.is_replacement_due();
        self.looking.next.filter(|_| may_look)
    }

    pub(super) fn look_if_due(&mut self) {
        let Some(mut next) = self.next_look() else { return };
        if std::mem::take(&mut self.looking.again) {
            next = next.min(self.looking.not_before.max(self.now));
            self.looking.next = Some(next);
        }
        if next > self.now {
            return;
        }
        self.looking.next = None;
        self.looking.has_moved = false;
        self.looking.running_until = Some(self.now + self.settings.fetch_timeout);
        self.say(Message::Look { source: self.source() });
        self.look_has_begun();
        self.act(Action::Poll);
    }

    fn source(&self) -> String {
        self.settings.source.clone().unwrap_or_default()
    }

    pub(super) fn poll_asked(&mut self) {
        self.looking.again = self.settings.looks();
    }

    pub(super) fn poll_progress(&mut self) {
        self.looking.has_moved = true;
        if let Some(until) = self.looking.running_until.as_mut().filter(|until| **until != super::Time::MAX) {
            *until = self.now + self.settings.fetch_timeout;
        }
    }

    /// Whether the poll process is to end because it has not moved.
    pub(crate) fn is_poll_overdue(&self) -> bool {
        self.looking.is_overdue
    }

    pub(super) fn poll_overdue(&mut self) {
        self.looking.is_overdue = true;
        self.kill_poll();
    }

    /// Ends a look that something else cannot wait for; it is repeated.
    pub(super) fn cut_look_short(&mut self) {
        if self.looking.running_until.is_some_and(|until| until != super::Time::MAX) {
            self.looking.is_cut_short = true;
            self.kill_poll();
        }
    }

    /// Its end is told by [`super::Event::PollEnded`]; until then there is nothing more to wait for.
    fn kill_poll(&mut self) {
        self.looking.running_until = Some(super::Time::MAX);
        self.act(Action::KillPoll);
    }

    pub(super) fn poll_ended(&mut self, report: Report) {
        self.looking.running_until = None;
        self.looking.is_overdue = false;
        self.looking.not_before = self.now + self.settings.min_fetch_interval;
        if let Some(packaged) = report.packaged
            && self.record.packaged.as_ref().is_some_and(|known| known.identity == packaged.identity)
        {
            self.record.packaged = Some(packaged);
        }
        let is_cut_short = std::mem::take(&mut self.looking.is_cut_short);
        if let Some(id) = &report.running_id {
            let running = self.running();
            self.record.remember_id(running, id);
        }
        if self.is_leaving() {
            if matches!(report.outcome, Outcome::Staged(_)) {
                self.act(Action::Discard);
            }
            // The next run of a program that ends by itself goes on with a download, but where none got going its source is left alone for the
            // interval: there may be a hundred runs in a second.
            if self.settings.installation == Installation::WithoutRestart && !self.looking.has_moved {
                self.record.looks.last_unix_s = Some(self.unix_s());
            }
            return self.act(Action::Save);
        }
        self.remember_memo(report.memo);
        let source = self.source();
        match report.outcome {
            Outcome::Unchanged => {
                self.record.named = None;
                self.looked("nothing new".to_owned());
                self.say(Message::LookUnchanged { source });
            }
            Outcome::Same { release } => {
                self.looked("the running release".to_owned());
                // One that was taken back while the look went on does not run any more.
                let now = self.unix_s();
                if !self.record.is_unwanted(&release, now) {
                    self.record.runs(release, now);
                }
            }
            Outcome::Judged { release } => {
                self.looked(format!("{} again", describe(&release)));
                self.record.judged_again(release);
            }
            Outcome::Incomplete { why } => {
                let outcome = format!("incomplete: {why}");
                let is_news = self.record.looks.outcome != outcome;
                self.looked(outcome);
                if is_news {
                    self.say(Message::LookIncomplete { source, why });
                }
            }
            Outcome::Failed { .. } if is_cut_short => {
                self.looking.again = true;
                self.plan_look(self.looking.not_before);
            }
            Outcome::Failed { error } => self.look_failed(&error),
            Outcome::Unknown => {
                let why = "its result is of a kind that this master does not know; start the service anew to run the newer one";
                self.look_failed(&FetchError::passing(why));
            }
            Outcome::Refused { release, why, .. } if self.record.is_installed(&release) => {
                // It was proved before it was installed; now its source is broken, or the disk.
                self.looked(format!("the installed release, refused: {why}"));
            }
            Outcome::Refused { release, verdict, why } => {
                self.looked(format!("refused: {why}"));
                match verdict {
                    Verdict::Reject => self.release_rejected(release, why),
                    Verdict::HoldBack => self.release_failed(release, why, Blame::Release),
                    Verdict::Mendable => self.release_waits_to_be_mended(release, why),
                    Verdict::Blameless => self.release_failed(release, why, Blame::Nobody),
                }
            }
            Outcome::Named { release } => self.named(release),
            Outcome::Staged(staged) if !self.may_install() => {
                // That was not known yet when the look began.
                self.act(Action::Discard);
                self.named(staged.release);
            }
            Outcome::Staged(staged) => {
                self.looked(format!("found {}", describe(&staged.release)));
                self.staged(staged);
            }
        }
        if !self.looking.again || !is_cut_short {
            self.look_is_over();
        }
        self.act(Action::Save);
    }

    /// Whether a release may take the program's place.
    pub(crate) fn may_install(&self) -> bool {
        self.settings.upgrades() == Upgrades::Install && self.record.held.is_none()
    }

    /// Why no release may.
    pub(super) fn why_not_installed(&self) -> String {
        match &self.record.held {
            Some(Hold { by, reason, .. }) => format!("upgrades are held by {by}: {reason}"),
            None if self.settings.is_ephemeral => EPHEMERAL.to_owned(),
            None => format!("upgrades are set to {}", self.settings.upgrades()),
        }
    }

    /// What a look needs to know that is only to name what is new; `None` if what it finds may be installed.
    pub(crate) fn naming(&self) -> Option<Naming> {
        let (source, running) = (self.settings.source.as_deref().unwrap_or_default(), self.running());
        let id = self.record.id_of(&running);
        let installed = self.record.installed.iter().map(|installed| &installed.release);
        let is_identified = installed.clone().any(|release| release.source == source && Some(release.id.as_str()) == id);
        let named = self.record.named.iter().filter(|named| named.running == running && named.release.source == source);
        let differs = named.map(|named| named.release.tag.clone()).next();
        (!self.may_install()).then_some(Naming { is_identified, differs })
    }

    /// There is a release, and nobody may install it. That is said once of each.
    fn named(&mut self, release: ReleaseName) {
        self.looked(format!("found {}, which is not to be installed", describe(&release)));
        self.tell_of(release);
    }

    pub(super) fn tell_of(&mut self, release: ReleaseName) {
        let name = describe(&release);
        let (running, at_unix_s) = (self.running(), self.unix_s());
        if self.record.is_unwanted(&release, at_unix_s) {
            return;
        }
        let before = self.record.named.take().filter(|before| before.release.is_called_as(&release));
        let is_news = before.is_none();
        // It keeps the ID that it once had, and the day.
        self.record.named = Some(match before {
            Some(before) if release.id.is_empty() => Named { running, ..before },
            Some(before) => Named { release, running, ..before },
            None => Named { release, running, at_unix_s },
        });
        if is_news {
            let (source, why) = (self.source(), self.why_not_installed());
            self.note(Message::NotInstalled { release: name, source, why });
        }
    }

    fn remember_memo(&mut self, memo: Option<String>) {
        if let Err(bytes) = self.record.remember_memo(&self.source(), memo) {
            self.say(Message::MemoDropped { bytes });
        }
    }

    /// The look worked; the next one comes after the usual pause.
    fn looked(&mut self, outcome: String) {
        self.record.looked(outcome, self.unix_s());
        let pause = self.pause();
        let pause = self.jittered(pause);
        self.plan_look(self.now + pause);
    }

    /// The look did not work; the pauses grow.
    fn look_failed(&mut self, error: &FetchError) {
        let (source, why) = (self.source(), error.to_string());
        let failures_before = self.record.look_failed(&why, self.unix_s());
        let grown = self.grown_pause(failures_before);
        let asked_for = error.pause_asked_for().unwrap_or_default().min(RETRY_AFTER_MAX);
        let pause = self.jittered(grown).max(asked_for);
        self.plan_look(self.now + pause);
        let again = Seconds(pause);
        match error.kind() {
            FetchErrorKind::Settings => self.note(Message::LookSettings { source, why, again }),
            FetchErrorKind::Passing | FetchErrorKind::BadRelease => self.note(Message::LookFailed { source, why, again }),
        }
    }

    /// A proved release lies beside the program.
    fn staged(&mut self, staged: Staged) {
        let release = staged.release;
        // There is one staged release; what waited has given way to it.
        self.waiting = None;
        self.record.remember_id(staged.identity, &release.id);
        if self.record.is_unwanted(&release, self.unix_s()) {
            // It was judged while the look went on.
            return self.act(Action::Discard);
        }
        self.say(Message::StagedRelease { release: describe(&release) });
        match self.settings.installation {
            Installation::Proved => self.try_release(release),
            Installation::WithoutRestart => {
                self.waiting = Some(release.clone());
                self.staged_identity = staged.identity;
                self.begin_probation(release, staged.identity, self.settings.probation);
                self.act(Action::Install);
            }
            Installation::AtNextRestart => {
                self.note(Message::ReleaseWaits { release: describe(&release) });
                self.waiting = Some(release);
            }
        }
    }

    pub(super) fn install_done(&mut self) {
        let Some(release) = self.waiting.take() else { return };
        self.installed(release.clone(), self.staged_identity);
        self.note(Message::InstalledOnly { release: describe(&release), path: self.path.clone() });
    }

    pub(super) fn install_failed(&mut self, why: String) {
        let Some(release) = self.waiting.take() else { return };
        self.act(Action::Discard);
        self.undo_probation();
        self.set_back();
        if let Some(active) = self.active {
            self.note(Message::CommitFailed { release: describe(&release), active, why });
        }
    }

    /// The release did not come up. It is tried again later, and rejected at the third failure.
    pub(super) fn release_failed(&mut self, release: ReleaseName, why: String, blame: Blame) {
        let Some(serving) = self.who_serves() else { return };
        let name = describe(&release);
        if blame == Blame::Nobody {
            self.set_back();
            return self.note(Message::TriedAgain { release: name, why, serving });
        }
        let Some(pause) = self.record.hold_back_of(&release) else { return self.release_rejected(release, why) };
        self.hold_back(release, why, serving, pause);
    }

    /// The signature of the release was not accepted. Another one may be published for the same release, or other settings, so it is tried again until it is.
    fn release_waits_to_be_mended(&mut self, release: ReleaseName, why: String) {
        let Some(serving) = self.who_serves() else { return };
        let pause = self.record.hold_back_until_mended(&release);
        self.hold_back(release, why, serving, pause);
    }

    fn hold_back(&mut self, release: ReleaseName, why: String, serving: Serving, pause: Duration) {
        let name = describe(&release);
        let until = self.unix_s() + pause.as_secs();
        self.judge(release, Some(until), why.clone());
        self.note(Message::HeldBack { release: name, why, serving, again: Seconds(pause) });
    }

    fn release_rejected(&mut self, release: ReleaseName, why: String) {
        let name = describe(&release);
        self.reject(release, why.clone());
        if let Some(serving) = self.who_serves() {
            self.note(Message::Rejected { release: name, why, serving });
        }
    }

    /// The release is not tried again.
    pub(super) fn reject(&mut self, release: ReleaseName, why: String) {
        self.judge(release, None, why);
    }

    fn judge(&mut self, release: ReleaseName, until: Option<u64>, reason: String) {
        let now = self.unix_s();
        if self.waiting.take_if(|waiting| waiting.is_same(&release)).is_some() {
            self.act(Action::Discard);
        }
        self.record.judge(release, until, reason, now);
        self.act(Action::Save);
    }
}
