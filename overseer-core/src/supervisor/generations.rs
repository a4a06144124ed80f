//! How a process becomes a candidate, the active generation, and ends.

use super::{
    Action, Asker, Blame, Child, Generation, Installation, Leaving, Origin, Program, Settings, Stage, Started, Supervisor, describe,
};
use crate::binary::{Identity, Probation};
use crate::message::{Connections, Message, Seconds, Serving};
use crate::protocol::ReleaseName;
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::time::Duration;

/// How long draining generations have once the active one has ended abnormally.
const ABNORMAL_END_GRACE: Duration = Duration::from_secs(2);
/// How long a draining generation still has when it is in somebody's way, or there are too many of them.
pub(super) const LAST_MOMENT: Duration = Duration::from_secs(2);

/// How the program ended, as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With success, or because it was asked to.
    Orderly,
    Abnormal,
}

impl Supervisor {
    /// Asks for a process of the next generation.
    pub(super) fn spawn(&mut self, program: Program, origin: Origin) -> Generation {
        let generation = Generation(self.newest.0 + 1);
        self.newest = generation;
        let child = Child {
            stage: Stage::Starting,
            origin,
            identity: Identity::default(),
            package: None,
            pid: 0,
            settings: self.settings.clone(),
            spawned_at: self.now,
            ready_at: None,
            drains_since: None,
            counted_by_age: None,
            drains: false,
            runs: false,
            deadline: Some(self.now + self.settings.check_timeout),
            kept: Vec::new(),
            sent: Vec::new(),
            is_blameless: false,
            has_served: false,
        };
        self.children.insert(generation, child);
        self.act(Action::Spawn { generation, program });
        generation
    }

    fn child(&mut self, generation: Generation) -> Option<&mut Child> {
        self.children.get_mut(&generation)
    }

    /// How long the generation has lived.
    fn age(&self, generation: Generation) -> Seconds {
        Seconds(self.children.get(&generation).map_or(Duration::ZERO, |child| self.now.saturating_sub(child.spawned_at)))
    }

    pub(super) fn spawned(&mut self, generation: Generation, started: Started) {
        let running =
            self.active.filter(|active| *active != generation).and_then(|active| self.children.get(&active)).map(|child| child.identity);
        let path = started.package.as_ref().map_or_else(|| self.path.clone(), |package| package.path.clone());
        let Some(child) = self.child(generation) else { return };
        child.identity = started.identity;
        child.package = started.package;
        child.pid = started.pid;
        child.deadline = child.deadline.map(|deadline| deadline + started.proof);
        let is_operators = child.origin == Origin::Restart && running.is_some_and(|running| !running.same_inode(&started.identity));
        if is_operators {
            child.origin = Origin::OperatorsFile;
        }
        self.say(Message::GenerationStarted { generation, pid: started.pid });
        if is_operators {
            self.say(Message::OwnFile { generation, path });
        }
    }

    pub(super) fn spawn_failed(&mut self, generation: Generation, why: String, blame: Blame) {
        if self.candidate == Some(generation) {
            self.candidate_failed(&why, blame);
            self.children.remove(&generation);
        } else if self.children.remove(&generation).is_some() && self.active == Some(generation) {
            self.say(Message::ProgramFailed { generation, why });
            self.active_ended(Exit::Code(1), End::Abnormal);
        }
    }

    pub(super) fn welcomed(&mut self, generation: Generation) {
        let (now, is_leaving) = (self.now, self.is_leaving());
        let Some(child) = self.child(generation) else { return };
        if child.stage == Stage::Waiting {
            child.stage = Stage::Welcomed;
            child.runs = true;
            let settings = child.settings.clone();
            if !is_leaving {
                child.deadline = Some(now + settings.ready_timeout.unwrap_or(settings.warm_up));
            }
            if self.active == Some(generation) && settings.installation == Installation::WithoutRestart {
                self.go_by(settings);
                self.comes_up();
                self.plan_first_look();
            }
        }
    }

    pub(super) fn drains(&mut self, generation: Generation) {
        if let Some(child) = self.child(generation) {
            child.drains = true;
        }
    }

    pub(super) fn ready(&mut self, generation: Generation) {
        let now = self.now;
        let Some(child) = self.child(generation) else { return };
        match child.stage {
            Stage::Welcomed => {
                if self.candidate == Some(generation) {
                    self.warm_up(generation);
                } else {
                    self.became_ready(generation);
                    self.serves(generation);
                    self.replace_master_by(generation);
                }
            }
            Stage::WarmingUp | Stage::Active => {
                if let Some(counted) = child.counted_by_age.take() {
                    let after = Seconds(now.saturating_sub(child.spawned_at));
                    self.say(Message::ReadyLate { generation, after, counted: Seconds(counted) });
                }
            }
            // A generation that has nothing to serve with, or is on its way out, cannot be ready.
            Stage::Starting | Stage::Waiting | Stage::Draining | Stage::Killed => {}
        }
    }

    /// The candidate serves from now on, beside the old generation.
    fn warm_up(&mut self, generation: Generation) {
        self.became_ready(generation);
        let now = self.now;
        if let Some(child) = self.child(generation) {
            child.stage = Stage::WarmingUp;
            child.deadline = Some(now + child.settings.warm_up);
        }
    }

    fn became_ready(&mut self, generation: Generation) {
        let now = self.now;
        let after = self.age(generation);
        let is_leaving = self.is_leaving();
        let Some(child) = self.child(generation) else { return };
        child.ready_at = Some(now);
        if !is_leaving {
            child.deadline = None;
        }
        let (kept, accepts) = (std::mem::take(&mut child.kept), child.settings.accept_in_warm_up);
        self.say(Message::GenerationReady { generation, after });
        if accepts {
            self.accepts_again(generation);
        }
        self.act(Action::CheckListeners);
        for signal in kept {
            self.send_signal(generation, signal);
        }
    }

    /// The generation is the one that serves now.
    fn serves(&mut self, generation: Generation) {
        let Some(child) = self.child(generation) else { return };
        child.stage = Stage::Active;
        child.has_served = true;
        let (settings, identity, package) = (child.settings.clone(), child.identity, child.package.clone());
        self.go_by(settings);
        self.act(Action::Accept { generation });
        self.act(Action::Trust { generation });
        self.accepts_again(generation);
        self.gap = None;
        self.comes_up();
        if let Some(package) = package {
            self.record.package_wins(package.file);
            self.act(Action::SetStoredAside);
            self.act(Action::Save);
        }
        match &self.record.probation {
            Some(probation) if probation.identity == identity => {
                if self.probation_until.is_none() {
                    self.probation_until = Some(self.now + self.settings.probation);
                }
            }
            // It was installed while this one came up, and has not run.
            Some(probation) if probation.identity == self.staged_identity => {}
            Some(_) => {
                // Another file runs, so nobody will learn how the release would have lived.
                self.record.probation = None;
                self.probation_until = None;
                self.act(Action::Save);
            }
            None => self.probation_until = None,
        }
        self.plan_first_look();
    }

    /// What the service was started with comes up, so its starts do not add up.
    fn comes_up(&mut self) {
        if self.record.comes_up() {
            self.act(Action::Save);
        }
    }

    /// The candidate takes over; what it replaces drains.
    pub(super) fn promote(&mut self, generation: Generation) {
        self.candidate = None;
        if let Some(child) = self.child(generation) {
            child.deadline = None;
        }
        let old = self.active.replace(generation);
        let after = self.age(generation);
        self.serves(generation);
        self.note(Message::GenerationActive { generation, after });
        self.candidate_is_in(generation);
        if let Some(old) = old
            && self.children.contains_key(&old)
        {
            self.drain(old);
        }
        // Last, since it takes a moment: what the old one receives no more is to be received by the new one at once.
        self.replace_master_by(generation);
    }

    /// The warm-up is over, or the old generation has ended: the candidate is committed.
    fn commit(&mut self, generation: Generation) {
        let Some(child) = self.children.get(&generation) else { return };
        if let Origin::Release(release) = &child.origin
            && !self.may_install()
        {
            // When that was asked for it was the only one left to serve: one that is not installed is better than none.
            let (release, why) = (describe(release), self.why_not_installed());
            self.note(Message::CommitFailed { release, active: generation, why });
            self.act(Action::Discard);
            self.promote(generation);
        } else if let Origin::Release(release) = child.origin.clone() {
            // Its own settings, which hold from now on, and not those of the release that it replaces.
            let (identity, time) = (child.identity, child.settings.probation);
            self.begin_probation(release, identity, time);
            self.act(Action::Commit { generation });
        } else if child.origin == Origin::Rollback {
            if let Err(why) = self.put_back(Some(generation)) {
                self.put_back_failed(Some(generation), why);
            }
        } else {
            self.promote(generation);
        }
    }

    /// Remembers the probation before the file is at the path: a master that is killed in between must not leave a release without one. A path that does
    /// not hold the file makes it void. A `time` of zero means none.
    pub(super) fn begin_probation(&mut self, release: ReleaseName, identity: Identity, time: Duration) {
        let probation = (!time.is_zero()).then_some(Probation { release, identity, starts: 0 });
        self.probation_before = std::mem::replace(&mut self.record.probation, probation);
        self.act(Action::Save);
    }

    /// The release did not get to the path.
    pub(super) fn undo_probation(&mut self) {
        self.record.probation = self.probation_before.take();
        self.act(Action::Save);
    }

    pub(super) fn commit_done(&mut self, generation: Generation) {
        let Some(child) = self.children.get(&generation) else { return };
        let Origin::Release(release) = child.origin.clone() else { return };
        let identity = child.identity;
        self.installed(release.clone(), identity);
        self.note(Message::Committed { release: describe(&release), path: self.path.clone() });
        if self.active.is_some() {
            self.promote(generation);
        }
    }

    /// Remembers that the release is at the program's path.
    pub(super) fn installed(&mut self, release: ReleaseName, identity: Identity) {
        self.record.was_installed(release, identity, self.unix_s());
        self.probation_until = None;
        self.looking.setbacks = 0;
        self.act(Action::Save);
    }

    pub(super) fn commit_failed(&mut self, generation: Generation, why: String) {
        let Some(child) = self.children.get(&generation) else { return };
        let Origin::Release(release) = child.origin.clone() else { return };
        self.undo_probation();
        let active = self.active.filter(|active| self.children.contains_key(active));
        match active {
            Some(active) => {
                self.candidate = None;
                self.set_back();
                self.note(Message::CommitFailed { release: describe(&release), active, why });
                self.act(Action::Discard);
                self.drain(generation);
            }
            None => {
                // The old generation is gone: an uninstalled one that serves is better than none.
                self.note(Message::CommitFailed { release: describe(&release), active: generation, why });
                self.act(Action::Discard);
                self.promote(generation);
            }
        }
    }

    /// Asks the generation to finish what is open, within its own time-out.
    pub(super) fn drain(&mut self, generation: Generation) {
        let now = self.now;
        let Some(child) = self.child(generation) else { return };
        let within = child.settings.terminate_timeout;
        match child.stage {
            Stage::Draining | Stage::Killed => return,
            Stage::Starting | Stage::Waiting => return self.kill(generation),
            Stage::Welcomed | Stage::WarmingUp | Stage::Active => {}
        }
        child.stage = Stage::Draining;
        child.drains_since = Some(now);
        child.deadline = Some(now + within);
        let (drains, was_ready) = (child.drains, child.ready_at.is_some());
        // To count its connections takes a moment, which nobody is to wait for.
        self.act(Action::Drain { generation, within });
        if !drains {
            self.send_signal(generation, Signal::TERM);
        }
        self.say(Message::Draining { generation, within: Seconds(within), connections: Connections::default() });
        if !drains && was_ready {
            self.say(Message::NoDrain { generation });
        }
        self.act(Action::CheckListeners);
    }

    /// Those that drain, in the order in which they make room where they are too many: first what never served, so that a release which has failed cuts nothing
    /// that a working generation has accepted; then the oldest.
    pub(super) fn draining(&self) -> Vec<Generation> {
        let drains = |(generation, child): &(&Generation, &Child)| child.stage == Stage::Draining && self.active != Some(**generation);
        let mut draining: Vec<_> = self.children.iter().filter(drains).map(|(generation, child)| (child.has_served, *generation)).collect();
        draining.sort_unstable();
        draining.into_iter().map(|(_, generation)| generation).collect()
    }

    /// Where more generations drain than may, those beyond have a last moment, each its own.
    pub(super) fn limit_draining(&mut self) {
        if self.is_leaving() {
            return;
        }
        let (draining, max) = (self.draining(), self.settings.max_draining);
        for generation in &draining[..draining.len().saturating_sub(max)] {
            self.hurry(*generation, &format!("too many generations drain (max_draining is {max})"));
        }
    }

    /// Gives a draining generation an earlier deadline.
    pub(super) fn hurry(&mut self, generation: Generation, why: &str) {
        let (by, age) = (self.now + LAST_MOMENT, self.age(generation));
        let Some(child) = self.child(generation).filter(|child| child.stage == Stage::Draining) else { return };
        if child.deadline.is_some_and(|deadline| deadline <= by) {
            return;
        }
        child.deadline = Some(by);
        let (pid, drains, within, connections) = (child.pid, child.drains, Seconds(LAST_MOMENT), Connections::default());
        // Another one has had its SIGTERM.
        if drains {
            self.act(Action::Drain { generation, within: LAST_MOMENT });
        }
        self.say(Message::GivesWay { generation, pid, age, within, why: why.to_owned(), connections });
    }

    /// What is open is cut.
    fn kill_overdue(&mut self, generation: Generation) {
        let (now, age) = (self.now, self.age(generation));
        let Some(child) = self.child(generation) else { return };
        let after = Seconds(now.saturating_sub(child.drains_since.unwrap_or(child.spawned_at)));
        let (pid, connections) = (child.pid, Connections::default());
        self.say(Message::DrainOverdue { generation, pid, age, after, connections });
        self.kill(generation);
    }

    pub(super) fn kill(&mut self, generation: Generation) {
        if let Some(child) = self.child(generation) {
            child.has_got(Signal::KILL);
            self.kill_for_fault(generation);
        }
    }

    /// Kills the generation for what it did, so that its end is its own fault.
    fn kill_for_fault(&mut self, generation: Generation) {
        let Some(child) = self.child(generation) else { return };
        if child.stage != Stage::Killed {
            child.stage = Stage::Killed;
            child.deadline = None;
            self.act(Action::Kill { generation });
        }
    }

    /// The stage of a generation has lasted as long as it may.
    pub(super) fn overdue(&mut self, generation: Generation) {
        let after = self.age(generation);
        let is_candidate = self.candidate == Some(generation);
        let is_leaving = self.is_leaving();
        let Some(child) = self.child(generation) else { return };
        child.deadline = None;
        match child.stage {
            Stage::Starting | Stage::Waiting | Stage::Welcomed if is_leaving => self.kill_overdue(generation),
            Stage::Starting => {
                self.failed(generation, format!("said nothing for {after}"), Blame::Release);
            }
            Stage::Welcomed if child.settings.ready_timeout.is_none() => {
                child.counted_by_age = Some(after.0);
                self.became_ready(generation);
                if is_candidate {
                    if let Some(child) = self.child(generation) {
                        child.stage = Stage::WarmingUp;
                    }
                    self.commit(generation);
                } else {
                    self.serves(generation);
                    self.replace_master_by(generation);
                }
            }
            Stage::Welcomed if is_candidate => {
                let limit = Seconds(child.settings.ready_timeout.unwrap_or_default());
                self.failed(generation, format!("not ready after {limit}, stopped"), Blame::Release);
            }
            Stage::Welcomed => self.say(Message::NotReadyYet { generation, after }),
            Stage::WarmingUp if is_candidate => self.commit(generation),
            // It was to leave and did not.
            Stage::WarmingUp | Stage::Active | Stage::Draining => self.kill_overdue(generation),
            Stage::Waiting | Stage::Killed => {}
        }
    }

    pub(super) fn misbehaved(&mut self, generation: Generation, why: String) {
        self.say(Message::Misbehaved { generation, why: why.clone() });
        if self.candidate == Some(generation) {
            self.candidate_failed(&format!("cannot be talked to: {why}"), Blame::Release);
        }
        self.kill_for_fault(generation);
    }

    /// The generation cannot come up.
    pub(super) fn failed(&mut self, generation: Generation, why: String, blame: Blame) {
        if self.candidate == Some(generation) {
            self.candidate_failed(&why, blame);
            self.drain(generation);
        } else if self.active == Some(generation) {
            self.say(Message::ProgramFailed { generation, why });
            let end = self.now + self.settings.check_timeout;
            let Some(child) = self.child(generation) else { return };
            child.is_blameless = blame == Blame::Nobody;
            if child.deadline.is_none() {
                self.kill_for_fault(generation);
            } else {
                // A refused program ends by itself, with the reason; if not, then by its deadline.
                child.stage = Stage::Draining;
                child.deadline = Some(end);
            }
        }
    }

    /// The candidate will not take over: what is to be said and remembered of that. Its process, if there is one, is the caller's to stop.
    pub(super) fn candidate_failed(&mut self, why: &str, blame: Blame) {
        let Some(candidate) = self.candidate.take() else { return };
        self.candidate_is_out(candidate, why);
        let Some(child) = self.children.get_mut(&candidate) else { return };
        let (origin, package, kept) = (child.origin.clone(), child.package.clone(), std::mem::take(&mut child.kept));
        self.start_again(kept);
        let serving = self.who_serves().unwrap_or(Serving::KeepsServing(candidate));
        match origin {
            Origin::Release(release) => {
                self.act(Action::Discard);
                self.release_failed(release, why.to_owned(), blame);
            }
            Origin::OperatorsFile => {
                let path = package.map_or_else(|| self.path.clone(), |package| package.path);
                let previous = self.previous.clone();
                self.note(Message::OwnFileFailed { candidate, serving, why: why.to_owned(), path, previous });
            }
            Origin::Rollback => {
                self.rollback = None;
                self.note(Message::RollbackFailed { why: format!("generation {candidate} {why}; {serving}") });
            }
            Origin::Restart | Origin::Start => self.note(Message::RestartFailed { candidate, serving, why: why.to_owned() }),
        }
    }

    pub(super) fn exited(&mut self, generation: Generation, exit: Exit, why: Option<String>) {
        let Some(child) = self.children.get(&generation) else { return };
        let was_asked_to = was_asked_to(child, exit);
        let reason = why.unwrap_or_else(|| format!("ended with {exit}"));
        if self.candidate == Some(generation) {
            let when = if child.stage == Stage::WarmingUp { "in its warm-up" } else { "before it was ready" };
            let blame = if was_asked_to { Blame::Nobody } else { Blame::Release };
            self.candidate_failed(&format!("{reason} {when}"), blame);
            self.children.remove(&generation);
        } else if self.active == Some(generation) {
            self.active_exited(generation, exit, was_asked_to);
        } else {
            self.old_one_is_gone(generation, exit);
        }
        self.act(Action::CheckListeners);
    }

    fn old_one_is_gone(&mut self, generation: Generation, exit: Exit) {
        let drained = self.children.remove(&generation).filter(|child| child.stage == Stage::Draining);
        self.say(match drained.and_then(|child| child.drains_since) {
            Some(since) => Message::Drained { generation, exit, after: Seconds(self.now.saturating_sub(since)) },
            None => Message::GenerationGone { generation, exit },
        });
    }

    /// The serving generation is gone. Somebody else takes over, or the master ends as it did.
    fn active_exited(&mut self, generation: Generation, exit: Exit, was_asked_to: bool) {
        // A program that is not restarted ends by itself, and its exit code is an answer to whoever called it.
        let is_answer = self.settings.installation == Installation::WithoutRestart && matches!(exit, Exit::Code(_));
        let end = if exit.is_success() || was_asked_to || is_answer { End::Orderly } else { End::Abnormal };
        if let Some(gap) = self.gap.as_mut().filter(|gap| gap.last == generation) {
            // It has made room, and is no more than an old generation.
            gap.exit = Some(exit);
            return self.old_one_is_gone(generation, exit);
        }
        let ran = self.children.remove(&generation).map(|child| child.identity);
        if self.is_leaving() || end == End::Orderly {
            self.comes_up();
            self.lived_cleanly(ran, exit, was_asked_to);
            if !self.is_leaving() {
                self.note(Message::ProgramEnded { generation, exit });
            }
            return self.active_ended(exit, end);
        }
        let on_probation = self.record.probation.as_ref().map(|probation| probation.identity).filter(|identity| Some(*identity) == ran);
        match (on_probation, self.ready_candidate()) {
            // Even if a candidate is ready: what it would leave behind as `previous` is the release that has just crashed.
            (Some(failed), _) => {
                self.cut_look_short();
                self.failed_exit = Some(exit);
                self.act(Action::TakeBack { failed });
            }
            (None, Some(candidate)) => {
                self.say(Message::GenerationGone { generation, exit });
                self.commit(candidate);
            }
            (None, None) => {
                self.note(Message::ProgramEnded { generation, exit });
                self.active_ended(exit, end);
            }
        }
    }

    /// The candidate, if it serves already.
    fn ready_candidate(&self) -> Option<Generation> {
        self.candidate.filter(|candidate| self.children.get(candidate).is_some_and(|child| child.stage == Stage::WarmingUp))
    }

    /// The end of the program is the end of the master, once all others are gone.
    pub(super) fn active_ended(&mut self, exit: Exit, end: End) {
        self.active = None;
        self.gap = None;
        self.probation_until = None;
        let asked_at = self.leaving.as_ref().and_then(|leaving| leaving.asked_at);
        self.leaving = Some(Leaving { asked_at, exit: Some(exit) });
        self.stop_updates();
        self.close_listeners();
        let others: Vec<Generation> = self.children.keys().copied().collect();
        for generation in others {
            self.drain(generation);
            if end == End::Abnormal {
                let latest = self.now + ABNORMAL_END_GRACE;
                if let Some(child) = self.child(generation) {
                    child.deadline = child.deadline.map(|deadline| deadline.min(latest));
                }
            }
        }
    }

    /// No release is tried any more: the look and the candidate end.
    pub(super) fn stop_updates(&mut self) {
        self.restart_wanted = None;
        self.commands_are_out("the service ends");
        self.forget_replacement();
        if self.looking.running_until.is_some() {
            self.act(Action::KillPoll);
        }
        if self.waiting.take().is_some() {
            self.act(Action::Discard);
        }
        if let Some(candidate) = self.candidate.take() {
            if self.children.get(&candidate).is_some_and(|child| matches!(child.origin, Origin::Release(_))) {
                self.act(Action::Discard);
            }
            self.drain(candidate);
        }
    }

    /// A release that ended as it should is not one that keeps crashing, so its starts do not add up.
    fn lived_cleanly(&mut self, ran: Option<Identity>, exit: Exit, was_asked_to: bool) {
        let is_asked = was_asked_to || self.is_leaving();
        let ends_by_itself = self.settings.installation == Installation::WithoutRestart;
        // One that was installed without a restart has not lived at all.
        if let Some(probation) = self.record.probation.as_mut().filter(|probation| Some(probation.identity) == ran) {
            if ends_by_itself && exit.is_success() && !is_asked {
                self.record.probation = None;
            } else if is_asked || ends_by_itself {
                probation.starts = 0;
            }
            // A server that nobody asked to end is no crash, and has proved nothing either.
            self.act(Action::Save);
        }
    }

    pub(super) fn trusted(&mut self) {
        let after = Seconds(self.settings.probation);
        self.probation_until = None;
        if let Some(probation) = self.record.probation.take() {
            self.note(Message::Trusted { release: describe(&probation.release), after });
        }
    }

    pub(super) fn taken_back(&mut self, at_path: bool) {
        let exit = self.failed_exit.take().unwrap_or(Exit::Code(1));
        let Some(release) = self.record.probation.as_ref().map(|probation| probation.release.clone()) else { return };
        self.probation_until = None;
        if !at_path {
            // A restart would start again what has just crashed.
            self.restarts_are_out("the program has crashed in its probation, and the previous binary is started");
        }
        if let Some(candidate) = self.candidate {
            self.candidate_failed("has to give way to the previous binary", Blame::Nobody);
            self.drain(candidate);
        }
        let now = self.unix_s();
        self.record.taken_back(format!("ended with {exit} in its probation"), now);
        if self.settings.installation == Installation::WithoutRestart && at_path {
            // What it was called for must not happen twice.
            self.note(Message::TakenBackOnly { release: describe(&release), exit });
            return self.active_ended(exit, End::Abnormal);
        }
        // Of the settings of a bad release, none may keep its predecessor from coming up.
        self.settings.check_timeout = self.settings.check_timeout.max(Settings::default().check_timeout);
        let generation = self.spawn(if at_path { Program::AtPath } else { Program::Previous }, Origin::Start);
        self.active = Some(generation);
        let release = describe(&release);
        self.note(match at_path {
            true => Message::TakenBack { release, exit, generation },
            false => Message::TakenBackHere { release, exit, generation },
        });
    }

    pub(super) fn take_back_failed(&mut self, why: String) {
        let exit = self.failed_exit.take().unwrap_or(Exit::Code(1));
        let release = self.record.probation.take().map(|probation| probation.release);
        match (release, self.ready_candidate()) {
            (release, Some(candidate)) => {
                if let Some(release) = release {
                    let why = format!("ended with {exit} in its probation");
                    self.record.installed = None;
                    self.note(Message::Rejected {
                        release: describe(&release),
                        why: why.clone(),
                        serving: Serving::KeepsServing(candidate),
                    });
                    self.reject(release, why);
                }
                self.commit(candidate);
            }
            (release, None) => {
                if let Some(release) = release {
                    self.note(Message::TakeBackFailed { release: describe(&release), exit, why });
                }
                self.active_ended(exit, End::Abnormal);
            }
        }
    }

    pub(super) fn restart_asked(&mut self, asker: Asker) {
        if self.is_leaving() {
            return;
        }
        if self.settings.installation == Installation::WithoutRestart {
            // What such a program was called for must not happen twice: what is at the path runs from the next start on.
            if asker != Asker::PathChanged {
                self.say(Message::ShuttingDown {});
                self.shut_down();
            }
            return;
        }
        if let Some(why) = self.why_no_restart_now() {
            self.say(Message::RestartWaits { why });
        }
        self.restart_wanted = Some(asker);
    }

    fn why_no_restart_now(&self) -> Option<String> {
        if let Some(candidate) = self.candidate {
            return Some(format!("generation {candidate} has taken over or failed"));
        }
        let active = self.active?;
        let is_ready = self.children.get(&active).is_some_and(|child| child.stage == Stage::Active);
        (!is_ready).then(|| format!("generation {active} is ready"))
    }

    pub(super) fn restart_if_possible(&mut self) {
        if self.is_leaving() || self.active.is_none() || self.why_no_restart_now().is_some() {
            return;
        }
        if self.restart_wanted.is_some() && self.looking.running_until.is_some() {
            // What the poll finds would be a second candidate. It is repeated afterwards.
            return self.cut_look_short();
        }
        let Some(asker) = self.restart_wanted.take() else { return };
        let may_install = self.may_install();
        if let Some(release) = self.waiting.take_if(|_| may_install) {
            self.try_release(release);
            self.told.restarts_as = self.candidate;
            return self.candidate.into_iter().for_each(|candidate| self.restart_is_under_way(candidate));
        }
        let generation = self.spawn(Program::AtPath, Origin::Restart);
        self.candidate = Some(generation);
        self.told.restarts_as = self.candidate;
        self.restart_is_under_way(generation);
        let why = match asker {
            Asker::Signal => format!("got {}", self.settings.restart_signal),
            Asker::Operator => "an operator asked for it".to_owned(),
            Asker::Program => "the program asked for it".to_owned(),
            Asker::PathChanged => "the file at the program's path has changed".to_owned(),
        };
        self.note_in_passing(Message::Restarting { generation, why });
    }

    /// Starts the staged release as candidate.
    pub(super) fn try_release(&mut self, release: ReleaseName) {
        let name = describe(&release);
        let generation = self.spawn(Program::Staged, Origin::Release(release));
        self.candidate = Some(generation);
        self.note_in_passing(Message::Upgrading { generation, release: name });
    }
}

/// Whether the end is one that we asked for: by the signal that ended it, or by one that means leaving.
fn was_asked_to(child: &Child, exit: Exit) -> bool {
    child.is_blameless || child.sent.iter().any(|sent| exit == Exit::Signal(*sent) || sent.means_leaving())
}
