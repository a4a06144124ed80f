//! Who gets which signal, and how the master leaves.

use super::{Action, Asker, Generation, Leaving, Stage, Supervisor};
use crate::message::Message;
use crate::signal::Signal;
use std::time::Duration;

/// A second request to leave counts from here on: before, it is the process manager's to the whole group, or a key that bounced.
const SECOND_REQUEST: Duration = Duration::from_secs(1);
/// So many of one signal wait for a generation that is not ready; the system keeps some thousands of all together.
pub(super) const KEPT_MAX: usize = 1024;

impl Supervisor {
    /// A signal reached the master. What the kernel sent to the whole process group is not passed on: the children have it. But SIGTSTP is, since a SIGCONT
    /// that was passed on after the key was pressed has made them go on again; a stopped process forgets a second one when it is continued.
    pub(super) fn signal(&mut self, signal: Signal, to_the_group: bool) {
        if signal == self.settings.restart_signal {
            return self.restart_asked(Asker::Signal);
        }
        let is_stop = self.settings.stop_signals.contains(&signal);
        if is_stop || signal.means_leaving() {
            return self.leave(signal, is_stop, to_the_group);
        }
        if to_the_group {
            // They have it, and an end by it is not their fault.
            self.children.values_mut().for_each(|child| child.has_got(signal));
            if signal != Signal::TSTP {
                return;
            }
        }
        let is_job_control = matches!(signal, Signal::TSTP | Signal::CONT);
        let all: Vec<Generation> = self.children.keys().copied().collect();
        for generation in all {
            let serves = self.active == Some(generation) || self.candidate == Some(generation);
            if serves || is_job_control {
                self.deliver(generation, signal);
            }
        }
    }

    /// Passes a signal on, now or when the generation is ready for it.
    fn deliver(&mut self, generation: Generation, signal: Signal) {
        let Some(child) = self.children.get_mut(&generation) else { return };
        let is_job_control = matches!(signal, Signal::TSTP | Signal::CONT);
        match child.stage {
            Stage::Starting | Stage::Waiting | Stage::Welcomed if !is_job_control => {
                let kept = child.kept.iter().filter(|kept| **kept == signal).count() + 1;
                if kept <= KEPT_MAX {
                    child.kept.push(signal);
                }
                // It is said once, since it holds until the generation is ready.
                if kept == KEPT_MAX {
                    self.say(Message::SignalsDropped { signal, generation, kept });
                }
            }
            Stage::Killed => {}
            Stage::Starting | Stage::Waiting | Stage::Welcomed | Stage::WarmingUp | Stage::Active | Stage::Draining => {
                self.send_signal(generation, signal);
            }
        }
    }

    pub(super) fn send_signal(&mut self, generation: Generation, signal: Signal) {
        if let Some(child) = self.children.get_mut(&generation)
            && child.stage != Stage::Killed
        {
            child.has_got(signal);
            self.say(Message::Forwarded { signal, generation });
            self.act(Action::Signal { generation, signal });
        }
    }

    /// A signal that means leaving: everybody finishes, nothing is promoted or committed any more.
    fn leave(&mut self, signal: Signal, is_stop: bool, to_the_group: bool) {
        let all: Vec<Generation> = self.children.keys().copied().collect();
        let asked_at = match &self.leaving {
            Some(leaving) => leaving.asked_at,
            None => {
                self.note(Message::Leaving { signal });
                self.begin_to_leave();
                None
            }
        };
        match asked_at {
            Some(first) if is_stop && self.now.saturating_sub(first) >= SECOND_REQUEST => {
                self.say(Message::Killing { signal });
                return all.into_iter().for_each(|generation| self.kill(generation));
            }
            // Everybody has been asked already.
            Some(_) if is_stop => return,
            Some(_) => {}
            None => {
                if let Some(leaving) = self.leaving.as_mut().filter(|_| is_stop) {
                    leaving.asked_at = Some(self.now);
                }
            }
        }
        for generation in all {
            self.ask_to_leave(generation, signal, is_stop, to_the_group);
        }
        self.close_listeners_if_nobody_accepts();
    }

    /// Once all drain, whoever connects is refused at once, and does not wait in a backlog that nobody empties.
    fn close_listeners_if_nobody_accepts(&mut self) {
        if self.children.values().all(|child| child.stage == Stage::Killed || (child.drains && child.stage == Stage::Draining)) {
            self.close_listeners();
        }
    }

    /// Nobody accepts any more, and nobody will.
    pub(super) fn close_listeners(&mut self) {
        if !std::mem::replace(&mut self.has_closed_listeners, true) {
            self.act(Action::CloseListeners);
        }
    }

    fn ask_to_leave(&mut self, generation: Generation, signal: Signal, is_stop: bool, to_the_group: bool) {
        let Some(child) = self.children.get_mut(&generation) else { return };
        let follows_drain = child.drains && is_stop;
        if to_the_group {
            child.has_got(signal);
        }
        match child.stage {
            Stage::Killed => {}
            // It knows already: a program that follows a drain takes no second word for it, and nobody gets a signal twice.
            Stage::Draining if follows_drain || child.sent.contains(&signal) => {}
            // Nothing is open yet, so there is nothing to drain; the deadline stays what it is.
            Stage::Starting | Stage::Waiting | Stage::Welcomed => {
                child.deadline = Some(self.now + child.settings.terminate_timeout);
                if !to_the_group {
                    self.send_signal(generation, signal);
                }
            }
            Stage::WarmingUp | Stage::Active if follows_drain => self.drain(generation),
            Stage::WarmingUp | Stage::Active | Stage::Draining => {
                if !to_the_group {
                    self.send_signal(generation, signal);
                }
            }
        }
    }

    /// The program is to end gracefully, and the master with it.
    pub(super) fn shut_down(&mut self) {
        self.begin_to_leave();
        let all: Vec<(Generation, Stage)> = self.children.iter().map(|(generation, child)| (*generation, child.stage)).collect();
        for (generation, stage) in all {
            match stage {
                // A kill would be no graceful end for the process manager to see.
                Stage::Starting | Stage::Waiting => self.ask_to_leave(generation, Signal::TERM, true, false),
                Stage::Welcomed | Stage::WarmingUp | Stage::Active | Stage::Draining | Stage::Killed => self.drain(generation),
            }
        }
        self.close_listeners_if_nobody_accepts();
    }

    fn begin_to_leave(&mut self) {
        if self.leaving.is_none() {
            // In a gap, the program is the one that has made room; where that is gone already, it has ended as it did.
            let exit =
                self.gap.take().and_then(|gap| gap.exit).filter(|_| !self.active.is_some_and(|active| self.children.contains_key(&active)));
            self.leaving = Some(Leaving { asked_at: None, exit });
            self.stop_updates();
        }
    }
}
