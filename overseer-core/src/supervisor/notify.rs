//! What the process manager is told of the service, and when: the states, the status line, the pleas for time and the signs of life of sd_notify(3).
//!
//! It follows from what the rules know, and is compared after each event with what was told before; so nothing that happens can forget to tell it.
//!
//! - Ready once, when the first generation serves. A restart, whoever asked for it, is a reload: it begins when it is asked for, and is over (ready again)
//!   when its generation has taken over or has failed, and somebody serves. An upgrade is none: nobody waits for it, and a reload would be passed on to other
//!   units, hold up `systemctl reload`, and be given up after the time for starts.
//! - While somebody has a deadline that the manager waits for (a start, a reload, the end), it is asked for that much time, in pieces: so the manager
//!   still ends a master that hangs.
//! - The generation that serves is asked for a sign of life twice in the time of the watchdog, and the manager is told when it has answered. While one
//!   is being started in its place, the master answers for it until its deadline; then, if it is waited for all the same, it is asked itself.
//! - The PID never changes, so it is never told.
//!
//! The status line is shown to every user of the system: no reason that a release or a source has given is in it. The log has those.

use super::{Action, Child, Generation, Stage, Supervisor, Time};
use crate::binary::Identity;
use crate::message::{Date, Message, Seconds, cut};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The manager is asked for this much time at once.
const PLEA: Duration = Duration::from_secs(30);
/// It is asked again after this time, so that a busy machine does not make it too late.
const PLEA_AGAIN: Duration = Duration::from_secs(10);
/// What comes after a deadline (a kill, the reaping, the end of the master) takes a little longer.
const PLEA_MARGIN: Duration = Duration::from_secs(5);
/// A generation is asked for a sign of life no more often: one that says too much is killed for it.
const WATCH_PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest status line.
const STATUS_BYTES_MAX: usize = 512;
/// The longest version in it.
const VERSION_BYTES_MAX: usize = 64;

/// Something to tell the process manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    Ready,
    Reloading,
    Stopping,
    Status(String),
    /// What goes on may take so much longer.
    Extend(Duration),
    /// The service lives.
    Watchdog,
}

/// What the process manager was told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    /// There is one that wants to be told.
    is_wanted: bool,
    /// It takes the service for hung if it has heard nothing for so long.
    watchdog: Option<Duration>,
    phase: Phase,
    /// The candidate of the restart that was asked for last.
    pub(super) restarts_as: Option<Generation>,
    /// The generation that the last restart should have led to, and when (in seconds since 1970) it failed.
    failed_restart: Option<(Generation, u64)>,
    status: String,
    /// It waits until then.
    granted_until: Option<Time>,
    /// When it is to be asked for more time.
    plea_at: Option<Time>,
    watch: Watch,
    /// The generation that cannot be asked whether it lives, of which that was said.
    vouched_for: Option<Generation>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    #[default]
    Starting,
    Serving,
    /// `generation`: what the restart has led to; none yet while it has to wait.
    Reloading {
        generation: Option<Generation>,
    },
    Stopping,
}

/// Whether the generation that serves lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Watch {
    /// It does; `next` time to ask.
    Lives {
        next: Time,
    },
    Asked {
        generation: Generation,
        since: Time,
        until: Time,
    },
    /// It has not answered.
    Silent {
        generation: Generation,
        since: Time,
    },
}

impl Default for Watch {
    fn default() -> Self {
        Self::Lives { next: Time::ZERO }
    }
}

/// Who gives a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Witness {
    /// The generation that serves.
    Generation(Generation),
    /// The master: one is being started, or cannot be asked.
    Master,
    Nobody,
}

impl Supervisor {
    /// Whether a process manager wants to be told, and after how long without a sign of life it takes the service for hung.
    pub(crate) fn has_process_manager(&mut self, is_wanted: bool, watchdog: Option<Duration>) {
        self.told.is_wanted = is_wanted;
        self.told.watchdog = watchdog.filter(|_| is_wanted);
    }

    /// After how long without a sign of life the process manager takes the service for hung; generations are asked for them then.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.told.watchdog
    }

    /// Tells what has changed since it was told last, and does what is due.
    pub(super) fn tell_process_manager(&mut self) {
        if !self.told.is_wanted {
            return;
        }
        let mut notices = Vec::new();
        self.tell_phase(&mut notices);
        self.plead(&mut notices);
        let status = self.status();
        if status != self.told.status {
            notices.push(Notice::Status(status.clone()));
            self.told.status = status;
        }
        self.watch(&mut notices);
        if !notices.is_empty() {
            self.act(Action::Notify(notices));
        }
    }

    /// When there is something to tell or to ask although nothing has happened.
    pub(super) fn notify_deadline(&self) -> Option<Time> {
        let watch = match self.told.watch {
            Watch::Lives { next } => Some(next),
            Watch::Asked { until, .. } => Some(until),
            Watch::Silent { .. } => None,
        };
        let watch = watch.filter(|_| self.is_watched() && self.witness() != Witness::Nobody);
        self.told.plea_at.into_iter().chain(watch).min()
    }

    fn tell_phase(&mut self, notices: &mut Vec<Notice>) {
        if self.told.phase == Phase::Stopping {
            return;
        }
        if self.is_leaving() {
            self.enter(Phase::Stopping);
            return notices.push(Notice::Stopping);
        }
        let is_served = self.serving().is_some_and(|(_, child)| child.stage == Stage::Active);
        if self.told.phase == Phase::Starting {
            if !is_served {
                return;
            }
            self.enter(Phase::Serving);
            notices.push(Notice::Ready);
        }
        let candidate = self.candidate.filter(|candidate| self.told.restarts_as == Some(*candidate));
        let wanted = (candidate.is_some() || self.restart_wanted.is_some()).then_some(candidate);
        if let Phase::Reloading { generation: Some(generation) } = self.told.phase
            && wanted != Some(Some(generation))
        {
            let has_failed = self.active != Some(generation);
            self.told.failed_restart = has_failed.then(|| (generation, self.unix_s()));
        }
        match (self.told.phase, wanted) {
            // It is over when all is well again.
            (Phase::Reloading { .. }, None) if !is_served => self.told.phase = Phase::Reloading { generation: None },
            (Phase::Reloading { generation: Some(over) }, Some(next)) if next != Some(over) && is_served => {
                notices.push(Notice::Ready);
                self.begin_reload(next, notices);
            }
            (Phase::Serving, Some(next)) => self.begin_reload(next, notices),
            (Phase::Reloading { .. }, Some(generation)) => self.told.phase = Phase::Reloading { generation },
            (Phase::Reloading { .. }, None) => {
                self.enter(Phase::Serving);
                notices.push(Notice::Ready);
            }
            (Phase::Starting | Phase::Serving | Phase::Stopping, _) => {}
        }
    }

    fn begin_reload(&mut self, generation: Option<Generation>, notices: &mut Vec<Notice>) {
        // Both in one message would mean a reload that is over already.
        if !notices.is_empty() {
            self.act(Action::Notify(std::mem::take(notices)));
        }
        self.enter(Phase::Reloading { generation });
        notices.push(Notice::Reloading);
    }

    /// The manager has a time for each state.
    fn enter(&mut self, phase: Phase) {
        self.told.phase = phase;
        (self.told.granted_until, self.told.plea_at) = (None, None);
    }

    /// Asks the manager to wait for whoever has a deadline.
    fn plead(&mut self, notices: &mut Vec<Notice>) {
        let until = match self.told.phase {
            // A service that hangs is not to be kept by a restart.
            Phase::Reloading { .. } if matches!(self.told.watch, Watch::Silent { .. }) => None,
            Phase::Starting | Phase::Reloading { .. } => {
                [self.active, self.candidate].into_iter().flatten().filter_map(|generation| self.waits_until(generation)).max()
            }
            Phase::Stopping => self.children.values().filter_map(|child| child.deadline).max(),
            Phase::Serving => None,
        };
        let now = self.now;
        let wanted = until.filter(|until| *until > now).map(|until| until.saturating_add(PLEA_MARGIN));
        let Some(wanted) = wanted.filter(|wanted| self.told.granted_until.is_none_or(|granted| granted < *wanted)) else {
            self.told.plea_at = None;
            return;
        };
        if self.told.plea_at.is_some_and(|at| at > now) {
            return;
        }
        let granted = wanted.min(now + PLEA);
        self.told.granted_until = Some(granted);
        self.told.plea_at = (granted < wanted).then(|| now + PLEA_AGAIN);
        notices.push(Notice::Extend(granted - now));
    }

    fn watch_pause(&self) -> Option<Duration> {
        self.told.watchdog.map(|watchdog| (watchdog / 2).max(WATCH_PAUSE_MIN))
    }

    fn is_watched(&self) -> bool {
        self.told.watchdog.is_some() && matches!(self.told.phase, Phase::Serving | Phase::Reloading { .. })
    }

    fn witness(&self) -> Witness {
        let Some((generation, child)) = self.serving() else { return Witness::Nobody };
        // What tells of drains listens to the master, and answers.
        let can_be_asked = child.settings.answers_pings || child.drains;
        match child.stage {
            Stage::Active if can_be_asked => Witness::Generation(generation),
            Stage::Active => Witness::Master,
            // For those that are on their way out, each by its deadline.
            Stage::Waiting => Witness::Master,
            Stage::Killed => Witness::Nobody,
            _ if child.deadline.is_some_and(|deadline| deadline > self.now) => Witness::Master,
            // Nobody could serve instead.
            Stage::Welcomed if can_be_asked => Witness::Generation(generation),
            Stage::Starting | Stage::Welcomed | Stage::WarmingUp | Stage::Draining => Witness::Nobody,
        }
    }

    /// Asks for a sign of life, or gives one, if it is time.
    fn watch(&mut self, notices: &mut Vec<Notice>) {
        let Some(pause) = self.watch_pause().filter(|_| self.is_watched()) else {
            self.told.watch = Watch::default();
            return;
        };
        let (now, witness) = (self.now, self.witness());
        match self.told.watch {
            // Somebody else serves.
            Watch::Asked { generation, .. } | Watch::Silent { generation, .. } if witness != Witness::Generation(generation) => {}
            Watch::Asked { generation, since, until } if until <= now => {
                self.told.watch = Watch::Silent { generation, since };
                return self.note(Message::Silent { generation, after: Seconds(now - since) });
            }
            Watch::Lives { next } if next <= now => {}
            Watch::Asked { .. } | Watch::Silent { .. } | Watch::Lives { .. } => return,
        }
        // Due at once when there is somebody again.
        self.told.watch = Watch::Lives { next: if witness == Witness::Nobody { now } else { now + pause } };
        match witness {
            Witness::Generation(generation) => {
                self.told.watch = Watch::Asked { generation, since: now, until: now + pause };
                self.act(Action::Ping { generation });
            }
            Witness::Master => {
                notices.push(Notice::Watchdog);
                let serves = self.serving().filter(|(_, child)| child.stage == Stage::Active).map(|(generation, _)| generation);
                if let Some(generation) = serves.filter(|generation| self.told.vouched_for != Some(*generation)) {
                    self.told.vouched_for = Some(generation);
                    self.say(Message::NotAsked { generation });
                }
            }
            Witness::Nobody => {}
        }
    }

    /// The generation gives a sign of life.
    pub(super) fn pong(&mut self, generation: Generation) {
        let Some(pause) = self.watch_pause().filter(|_| self.is_watched()) else { return };
        match self.told.watch {
            Watch::Asked { generation: asked, since, .. } if asked == generation => self.told.watch = Watch::Lives { next: since + pause },
            Watch::Silent { generation: silent, since } if silent == generation => {
                self.told.watch = Watch::Lives { next: self.now + pause };
                self.note(Message::AnswersAgain { generation, after: Seconds(self.now.saturating_sub(since)) });
            }
            Watch::Asked { .. } | Watch::Silent { .. } | Watch::Lives { .. } => return,
        }
        self.act(Action::Notify(vec![Notice::Watchdog]));
    }

    /// The generation may have been stopped with the master.
    pub(super) fn watch_is_moved(&mut self, stopped: Time) {
        if let Watch::Asked { until, .. } = &mut self.told.watch {
            *until += stopped;
        }
    }

    /// Who serves, or is being started with nobody else to serve.
    fn serving(&self) -> Option<(Generation, &Child)> {
        let candidate_alone = self.candidate.filter(|_| self.gap.is_some());
        self.active
            .into_iter()
            .chain(candidate_alone)
            .find_map(|generation| self.children.get(&generation).map(|child| (generation, child)))
    }

    /// How the service does, in one line. Times in it are those of what has happened, so that it changes only if something happens.
    fn status(&self) -> String {
        let mut parts = Vec::new();
        if let Some(leaving) = &self.leaving {
            let until = self.children.values().filter_map(|child| child.deadline).max();
            parts.extend(leaving.exit.map(|exit| format!("the program ended with {exit}")));
            parts.push(match (self.children.len(), until) {
                (0, _) => "leaving".to_owned(),
                (left, Some(until)) => format!("leaving: {left} to finish until {}", self.time_of_day(until)),
                (left, None) => format!("leaving: {left} to finish"),
            });
            return one_line(&parts.join("; "));
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((generation, child)) = self.serving() {
            let label = self.label(&child.identity).map(|label| format!(" {label}")).unwrap_or_default();
            parts.push(match child.ready_at.filter(|_| child.stage == Stage::Active) {
                Some(since) => format!("{name}{label}, generation {generation}, serving since {}", self.minute(since)),
                None if child.stage == Stage::Draining => format!("{name}{label}, generation {generation} makes room for the next one"),
                None => format!("{name}{label}, generation {generation} is starting"),
            });
        }
        match (self.told.phase, self.candidate) {
            (Phase::Reloading { generation: Some(generation) }, _) => parts.push(format!("restarting as generation {generation}")),
            (Phase::Reloading { generation: None }, _) if self.restart_wanted.is_some() => parts.push("a restart waits".to_owned()),
            (Phase::Reloading { generation: None }, _) => {}
            (_, Some(candidate)) => parts.push(format!("upgrading as generation {candidate}")),
            (_, None) => {}
        }
        if let Watch::Silent { generation, since } = self.told.watch {
            parts.push(format!("generation {generation} has not answered since {}", self.time_of_day(since)));
        }
        if let Some((generation, unix_s)) = self.told.failed_restart {
            parts.push(format!("the restart as generation {generation} failed at {} (see the log)", time_of_day(unix_s)));
        }
        let looks = &self.record.looks;
        if let Some(last) = looks.last_unix_s.filter(|_| self.settings.source.is_some()) {
            let outcome = match looks.failures {
                0 => looks.outcome.split(':').next().unwrap_or_default(),
                _ => "failed (see the log)",
            };
            parts.push(format!("last look {}: {outcome}", time_of_day(last)));
        }
        one_line(&parts.join("; "))
    }

    /// What the file is called: its version if its source names one, else the beginning of its ID; `None` if neither is known.
    fn label(&self, identity: &Identity) -> Option<String> {
        let id = self.record.id_of(identity)?;
        let mut releases = self.record.installed.iter().map(|installed| &installed.release).chain(&self.record.previous);
        let version = releases.find(|release| release.id == id).and_then(|release| release.version());
        version.map(|version| cut(version, VERSION_BYTES_MAX)).or(id.get(..12)).map(str::to_owned)
    }

    fn minute(&self, time: Time) -> String {
        let date = Date((self.unix_at_start + time).as_secs()).to_string();
        format!("{} UTC", date.get(..16).unwrap_or_default())
    }

    fn time_of_day(&self, time: Time) -> String {
        time_of_day(self.unix_at_start.saturating_add(time).as_secs())
    }
}

fn time_of_day(unix_s: u64) -> String {
    let date = Date(unix_s).to_string();
    format!("{} UTC", date.get(11..16).unwrap_or_default())
}

/// A version is its publisher's text, and a line break would begin another field of the message.
pub(crate) fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    cut(&text, STATUS_BYTES_MAX).to_owned()
}
