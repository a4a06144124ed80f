//! What operators ask for, and what becomes of it.
//!
//! A command that takes its time is answered when its outcome is known: a look when it has ended, a restart or a rollback when the new generation serves
//! or has failed. What was asked and answered travels with the rules, so a master that is replaced meanwhile answers all the same.

use super::{Action, Asker, Generation, Installation, Origin, Program, Stage, Supervisor};
use crate::binary::{Hold, Identity};
#[cfg(unix)]
use crate::command::{Live, LiveGeneration, LiveState, Told};
use crate::config::Upgrades;
use crate::message::Message;
use crate::protocol::ReleaseName;
use serde::{Deserialize, Serialize};

/// The most commands that are remembered, answered ones among them; the oldest answers go first.
const COMMANDS_MAX: usize = 32;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub(crate) enum Command {
    /// Look now.
    Poll,
    /// Forget all verdicts, and look now.
    Retry,
    /// Go back to `previous`.
    Rollback,
    /// Install nothing until further notice.
    Hold {
        #[serde(default)]
        reason: String,
    },
    Unhold,
    Restart,
    /// From a newer build.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A command, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// A random name for it, by which whoever asked finds the answer.
    pub(crate) token: String,
    pub(crate) command: Command,
    /// The user who asked.
    pub(crate) by: String,
    pub(crate) at_unix_s: u64,
    /// `None` while it goes on.
    pub(crate) answer: Option<Answer>,
    /// What it waits for.
    pub(super) waits_for: WaitsFor,
}

/// How a command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    pub(crate) is_success: bool,
    pub(crate) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WaitsFor {
    #[default]
    Nothing,
    /// A look that begins after it was asked for.
    Look { has_begun: bool },
    /// A restart that has not begun.
    Restart,
    /// A rollback that has not begun.
    Rollback,
    /// A generation that takes over.
    Generation(Generation),
}

impl Supervisor {
    /// The commands that are not answered, and the last answers.
    #[cfg(test)]
    pub(crate) fn commands(&self) -> impl Iterator<Item = &Asked> {
        self.commands.iter()
    }

    /// An operator asks for something. `obstacle`: why the system lets nobody do it.
    pub(super) fn commanded(&mut self, token: String, command: Command, by: String, obstacle: Option<String>) {
        self.note(Message::Commanded { by: by.clone(), command: command.to_string() });
        let at_unix_s = self.unix_s();
        let asked =
            Asked { token: token.clone(), command: command.clone(), by: by.clone(), at_unix_s, answer: None, waits_for: WaitsFor::Nothing };
        self.commands.push_back(asked);
        self.forget_old_answers();
        let begun = match (command, obstacle) {
            (_, Some(why)) => Err(why),
            _ if self.is_leaving() => Err("the service ends".to_owned()),
            (Command::Poll, None) => self.look_for_operator(""),
            (Command::Retry, None) => Ok(self.retry()),
            (Command::Rollback, None) => self.roll_back(&by),
            (Command::Hold { reason }, None) => Ok(Ok(self.hold(by, reason))),
            (Command::Unhold, None) => self.unhold().map(Ok),
            (Command::Restart, None) => Ok(self.restart_for_operator()),
            (Command::Unknown, None) => Err("this master does not know the command; it runs another version".to_owned()),
        };
        match begun {
            Err(why) => self.answer(&token, false, why),
            Ok(Ok(text)) => self.answer(&token, true, text),
            Ok(Err(waits_for)) => {
                if let Some(asked) = self.commands.iter_mut().find(|asked| asked.token == token) {
                    asked.waits_for = waits_for;
                }
            }
        }
    }

    fn answer(&mut self, token: &str, is_success: bool, text: String) {
        if let Some(asked) = self.commands.iter_mut().find(|asked| asked.token == token) {
            asked.answer = Some(Answer { is_success, text });
            asked.waits_for = WaitsFor::Nothing;
        }
    }

    /// Answers all commands that wait for this.
    fn answer_all(&mut self, is_meant: impl Fn(&WaitsFor) -> bool, is_success: bool, text: &str) {
        for asked in self.commands.iter_mut().filter(|asked| asked.answer.is_none() && is_meant(&asked.waits_for)) {
            asked.answer = Some(Answer { is_success, text: text.to_owned() });
            asked.waits_for = WaitsFor::Nothing;
        }
    }

    fn forget_old_answers(&mut self) {
        while self.commands.len() > COMMANDS_MAX {
            // If all wait, whoever floods us waits in vain.
            let oldest = self.commands.iter().position(|asked| asked.answer.is_some()).unwrap_or(0);
            self.commands.remove(oldest);
        }
    }

    /// Why no look can be had, if that is so.
    fn why_no_look(&self) -> Option<String> {
        match &self.settings.source {
            None => Some("there is no source of releases: the program has no fetcher, or upgrades are impossible here".to_owned()),
            Some(_) if self.settings.upgrades() == Upgrades::Off => Some("the program has set upgrades to off".to_owned()),
            Some(_) => None,
        }
    }

    fn look_for_operator(&mut self, before: &str) -> Result<Result<String, WaitsFor>, String> {
        match self.why_no_look() {
            Some(why) => Err(format!("{before}nobody looks for a release: {why}")),
            None => {
                self.poll_asked();
                Ok(Err(WaitsFor::Look { has_begun: false }))
            }
        }
    }

    fn retry(&mut self) -> Result<String, WaitsFor> {
        let count = self.record.verdicts.len();
        self.record.forget_verdicts();
        self.looking.setbacks = 0;
        self.note(Message::Forgotten { count });
        self.look_for_operator("").unwrap_or_else(|why| Ok(format!("verdicts forgotten: {count}; {why}")))
    }

    fn hold(&mut self, by: String, reason: String) -> String {
        let may_install = self.may_install();
        let at_unix_s = self.unix_s();
        self.record.held = Some(Hold { by: by.clone(), reason: reason.clone(), at_unix_s });
        self.note(Message::Held { by, reason });
        if may_install {
            self.cut_look_short();
            self.abandon_release();
        }
        "upgrades are held; restarts work, and what is new is only told of".to_owned()
    }

    /// A release that is coming up is not to be installed any more. Not if nobody else serves: then it is the service.
    fn abandon_release(&mut self) {
        let Some(candidate) = self.candidate else { return };
        let release = self.children.get(&candidate).and_then(|child| match &child.origin {
            Origin::Release(release) => Some(release.clone()),
            Origin::Start | Origin::Restart | Origin::OperatorsFile | Origin::Rollback => None,
        });
        let serves = self.active.and_then(|active| self.children.get(&active)).is_some_and(|child| child.stage == Stage::Active);
        if let Some(release) = release.filter(|_| serves) {
            self.candidate = None;
            self.tell_of(release);
            self.act(Action::Discard);
            self.candidate_is_out(candidate, "upgrades are held");
            self.drain(candidate);
        }
    }

    fn unhold(&mut self) -> Result<String, String> {
        if self.record.held.take().is_none() {
            return Err("upgrades are not held".to_owned());
        }
        self.note(Message::Unheld {});
        self.poll_asked();
        Ok("upgrades are not held any more".to_owned())
    }

    fn restart_for_operator(&mut self) -> Result<String, WaitsFor> {
        self.restart_asked(Asker::Operator);
        match self.settings.installation {
            Installation::WithoutRestart => Ok("the program is asked to end, as it is not to be restarted by its master".to_owned()),
            Installation::Proved | Installation::AtNextRestart => Err(WaitsFor::Restart),
        }
    }

    fn roll_back(&mut self, by: &str) -> Result<Result<String, WaitsFor>, String> {
        if let Some(candidate) = self.candidate {
            return Err(format!("generation {candidate} is coming up; ask again when it has taken over or failed, or hold upgrades first"));
        }
        let serves = self.active.and_then(|active| self.children.get(&active)).is_some_and(|child| child.stage == Stage::Active);
        if !serves || self.rollback.is_some() || self.restart_wanted.is_some() {
            return Err("no generation is ready, or a restart goes on; ask again when one serves".to_owned());
        }
        let from = self.running();
        self.rollback = Some(Rollback { by: by.to_owned(), from });
        if self.settings.installation == Installation::WithoutRestart {
            return self.put_back(None).map(|()| Err(WaitsFor::Rollback));
        }
        Ok(Err(WaitsFor::Rollback))
    }

    /// Starts the previous binary, once no look goes on that could find another candidate.
    pub(super) fn roll_back_if_possible(&mut self) {
        let Some(rollback) = self.rollback.clone().filter(|_| self.candidate.is_none() && !self.is_leaving()) else { return };
        if self.active.and_then(|active| self.children.get(&active)).is_none_or(|child| child.stage != Stage::Active) {
            // It is over for the generation that was to be rolled back from.
            return self.rollback_is_out("the generation that served has ended");
        }
        if self.looking.running_until.is_some() {
            return self.cut_look_short();
        }
        let generation = self.spawn(Program::Previous, Origin::Rollback);
        self.candidate = Some(generation);
        self.are_under_way(WaitsFor::Rollback, generation);
        self.note_in_passing(Message::RollingBack { generation, by: rollback.by });
    }

    /// Puts `previous` at the program's path, as what was asked for: what is remembered changes first, so that whoever is killed in between does not
    /// fetch the same release again.
    pub(super) fn put_back(&mut self, generation: Option<Generation>) -> Result<(), String> {
        let Some(Rollback { by, from }) = self.rollback.clone() else { return Err("nobody asked for it".to_owned()) };
        self.before_rollback = Some(Box::new(self.record.clone()));
        let now = self.unix_s();
        self.record.rolled_back(&from, &by, now);
        self.act(Action::Save);
        self.act(Action::PutBack { generation, from });
        Ok(())
    }

    pub(super) fn put_back_done(&mut self, generation: Option<Generation>, there: Identity) {
        let from = self.before_rollback.take().and_then(|before| self.rollback.as_ref().map(|rollback| before.name_of(&rollback.from)));
        self.rollback = None;
        self.probation_until = None;
        self.looking.setbacks = 0;
        if let Some(id) = self.record.installed.as_ref().map(|installed| installed.release.id.clone()).filter(|id| !id.is_empty()) {
            self.record.remember_id(there, &id);
        }
        let from = from.unwrap_or_default().to_string();
        self.note(Message::RolledBack { from: from.clone(), path: self.path.clone() });
        match generation {
            Some(generation) if self.active.is_some() => self.promote(generation),
            Some(_) => {}
            None => {
                let text = format!(
                    "the previous binary is at the program's path and runs from the next start on; {from} is rejected until a retry"
                );
                self.answer_all(|waits| *waits == WaitsFor::Rollback, true, &text);
            }
        }
    }

    pub(super) fn put_back_failed(&mut self, generation: Option<Generation>, why: String) {
        if let Some(before) = self.before_rollback.take() {
            // What was noted since stays.
            let events = std::mem::take(&mut self.record.events);
            self.record = *before;
            self.record.events = events;
            self.act(Action::Save);
        }
        let is_alone = self.active.is_none_or(|active| !self.children.contains_key(&active));
        match generation.filter(|generation| self.candidate == Some(*generation)) {
            Some(generation) if is_alone => {
                // The generation that it was to replace is gone: it serves, whatever is at the path.
                self.rollback_is_out(&why);
                self.promote(generation);
            }
            Some(generation) => {
                self.candidate_failed(&format!("cannot take the program's path: {why}"), super::Blame::Nobody);
                self.drain(generation);
            }
            None => self.rollback_is_out(&why),
        }
    }

    /// Nothing comes of a rollback.
    pub(super) fn rollback_is_out(&mut self, why: &str) {
        if self.rollback.take().is_some() {
            self.note(Message::RollbackFailed { why: why.to_owned() });
            self.answer_all(|waits| *waits == WaitsFor::Rollback, false, &format!("nothing was rolled back: {why}"));
        }
    }

    /// The restart that was asked for is this generation.
    pub(super) fn restart_is_under_way(&mut self, generation: Generation) {
        self.are_under_way(WaitsFor::Restart, generation);
    }

    fn are_under_way(&mut self, what: WaitsFor, generation: Generation) {
        for asked in self.commands.iter_mut().filter(|asked| asked.waits_for == what) {
            asked.waits_for = WaitsFor::Generation(generation);
        }
    }

    /// The candidate has taken over.
    pub(super) fn candidate_is_in(&mut self, generation: Generation) {
        let text = format!("generation {generation} has taken over");
        self.answer_all(|waits| *waits == WaitsFor::Generation(generation), true, &text);
    }

    /// The candidate will not take over.
    pub(super) fn candidate_is_out(&mut self, generation: Generation, why: &str) {
        let text = format!("generation {generation} {why}; the one before goes on");
        self.answer_all(|waits| *waits == WaitsFor::Generation(generation), false, &text);
    }

    /// Nothing more comes of what was asked for.
    pub(super) fn commands_are_out(&mut self, why: &str) {
        self.rollback = None;
        self.answer_all(|waits| *waits != WaitsFor::Nothing, false, why);
    }

    /// No restart that has not begun will be.
    pub(super) fn restarts_are_out(&mut self, why: &str) {
        self.restart_wanted = None;
        self.answer_all(|waits| *waits == WaitsFor::Restart, false, why);
    }

    pub(super) fn look_has_begun(&mut self) {
        for asked in &mut self.commands {
            if let WaitsFor::Look { has_begun } = &mut asked.waits_for {
                *has_begun = true;
            }
        }
    }

    /// The look is over; what it came to is remembered.
    pub(super) fn look_is_over(&mut self) {
        let looks = &self.record.looks;
        let (is_success, text) = (looks.failures == 0, format!("looked at {}: {}", looks.source, looks.outcome));
        self.answer_all(|waits| *waits == WaitsFor::Look { has_begun: true }, is_success, &text);
    }
}

#[cfg(unix)]
impl Supervisor {
    /// What is to be seen of these rules from outside; the shell adds what it alone knows.
    pub(crate) fn live(&self) -> Live {
        let unix = |time: super::Time| (self.unix_at_start + time).as_secs();
        let generation = |(number, child): (&Generation, &super::Child)| LiveGeneration {
            generation: *number,
            pid: child.pid,
            state: match child.stage {
                Stage::Starting | Stage::Waiting | Stage::Welcomed => LiveState::Starting,
                Stage::WarmingUp => LiveState::WarmingUp,
                Stage::Active => LiveState::Serving,
                Stage::Draining => LiveState::Draining,
                Stage::Killed => LiveState::Killed,
            },
            release: match &child.origin {
                Origin::Release(release) => release.clone(),
                Origin::Start | Origin::Restart | Origin::OperatorsFile | Origin::Rollback => self.record.name_of(&child.identity),
            },
            started_unix_s: unix(child.spawned_at),
            ready_unix_s: child.ready_at.map(unix),
            until_unix_s: child.deadline.map(unix),
            open_work: None,
        };
        Live {
            since_unix_s: self.unix_at_start.as_secs(),
            path: self.path.clone(),
            release: self.record.name_of(&self.own),
            generations: self.children.iter().map(generation).collect(),
            is_leaving: self.is_leaving(),
            is_restart_wanted: self.restart_wanted.is_some(),
            source: self.settings.source.clone(),
            upgrades: self.settings.upgrades(),
            is_ephemeral: self.settings.is_ephemeral,
            probation_until_unix_s: self.probation_until.filter(|_| self.record.probation.is_some()).map(unix),
            is_looking: self.looking.running_until.is_some(),
            next_look_unix_s: self.next_look().map(unix),
            waiting: self.waiting.clone(),
            commands: self.commands.iter().map(Told::of).collect(),
            ..Live::default()
        }
    }
}

/// A rollback that was asked for and is not done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Rollback {
    by: String,
    /// The file that ran then.
    from: Identity,
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Poll => "poll",
            Self::Retry => "retry",
            Self::Rollback => "rollback",
            Self::Hold { .. } => "hold",
            Self::Unhold => "unhold",
            Self::Restart => "restart",
            Self::Unknown => "a command of another version",
        })
    }
}

impl crate::binary::Record {
    /// Everything is to be tried again. But not what somebody has set aside by a package: that has other reasons than a failure.
    pub(crate) fn forget_verdicts(&mut self) {
        self.verdicts.clear();
        // It may keep the fetcher from offering again what it has offered.
        self.memo = None;
        self.looks.failures = 0;
    }

    /// What the file is called, as far as that is known.
    pub(crate) fn name_of(&self, file: &Identity) -> ReleaseName {
        let installed = self.installed.iter().map(|installed| &installed.release);
        let id = self.id_of(file);
        let mut known = installed.chain(&self.previous).chain(self.probation.as_ref().map(|probation| &probation.release));
        let named = known.find(|release| Some(release.id.as_str()) == id).cloned();
        named.unwrap_or_else(|| ReleaseName { id: id.unwrap_or_default().to_owned(), ..ReleaseName::default() })
    }

    /// The previous binary is put at the path in place of this file, which is not to be fetched again.
    pub(crate) fn rolled_back(&mut self, from: &Identity, by: &str, now_unix_s: u64) {
        let release = self.name_of(from);
        // They were those of the file that is rolled back from.
        self.unready_starts = 0;
        self.probation.take_if(|probation| probation.identity == *from);
        self.installed = self.previous.take().map(|release| crate::binary::Installed { release, at_unix_s: now_unix_s });
        if let Some(installed) = &self.installed {
            self.verdicts.retain(|judged| !judged.release.is_same(&installed.release));
        }
        if !release.id.is_empty() && self.installed.as_ref().is_none_or(|installed| !installed.release.is_same(&release)) {
            self.judge(release, None, format!("rolled back by {by} at {}", crate::message::Date(now_unix_s)), now_unix_s);
        }
    }
}
