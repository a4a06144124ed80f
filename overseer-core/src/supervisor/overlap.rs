//! Programs of which two must not run at once: `overlap(false)`.
//!
//! The next generation is started all the same, and says hello: what cannot even start costs nothing. But the program begins only when the hello is answered,
//! and the answer waits until nobody runs any more that must not run beside it. When that is only the serving generation, it drains: the *gap* begins, in which nobody serves
//! and connections wait in the backlog. If the candidate fails in the gap, the binary that served before is started again.
//!
//! Where it is the active generation that has to wait, nobody serves; so those in its way have a last moment. All but one: who makes room in a gap has the
//! time that it has at each restart, since a release that fails is not to cut what a working generation has accepted.

use super::{Action, Child, Generation, Origin, Program, Settings, Stage, Supervisor, Time};
use crate::message::{Message, Seconds, Serving};
use crate::signal::Signal;
use crate::sys::process::Exit;

/// The time between two generations that must not overlap: until one serves again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gap {
    /// Who served last. It drains, or is gone.
    pub(super) last: Generation,
    /// How that one ended.
    pub(super) exit: Option<Exit>,
    /// Since when nobody accepts; `None` while a candidate does.
    pub(super) since: Option<Time>,
}

impl Supervisor {
    /// It is there, and its program runs when nobody is in its way.
    pub(super) fn said_hello(&mut self, generation: Generation, settings: Settings) {
        let is_leaving = self.is_leaving();
        let in_its_way = self.in_the_way_of(generation, &settings);
        let Some(child) = self.children.get_mut(&generation).filter(|child| child.stage == Stage::Starting) else { return };
        child.stage = Stage::Waiting;
        child.settings = settings;
        if !is_leaving {
            child.deadline = None;
        }
        if !in_its_way.is_empty() {
            let others = in_its_way.iter().map(Generation::to_string).collect::<Vec<_>>().join(", ");
            self.say(Message::WaitsAlone { generation, others });
        }
    }

    /// Whether the generation must wait for others to be gone before it can have its listeners.
    pub(crate) fn has_to_wait(&self, generation: Generation, settings: &Settings) -> bool {
        !self.in_the_way_of(generation, settings).is_empty()
    }

    /// Those that run and must not run beside it.
    pub(super) fn in_the_way_of(&self, generation: Generation, settings: &Settings) -> Vec<Generation> {
        let is_in_the_way = |other: &Child| other.runs && !(settings.overlap && other.settings.overlap);
        self.children.iter().filter(|(id, other)| **id != generation && is_in_the_way(other)).map(|(id, _)| *id).collect()
    }

    /// Until when the generation may take for what it is at: until its own deadline, or the latest of those whom it waits for.
    pub(super) fn waits_until(&self, generation: Generation) -> Option<Time> {
        let child = self.children.get(&generation)?;
        match child.stage {
            Stage::Waiting if child.deadline.is_none() => {
                let others = self.in_the_way_of(generation, &child.settings);
                others.iter().filter_map(|other| self.children[other].deadline).max()
            }
            _ => child.deadline,
        }
    }

    /// Lets programs begin that nobody is in the way of any more. A candidate that waits for the serving generation alone makes that one leave.
    pub(super) fn let_in(&mut self) {
        let waiting = self.children.iter().filter(|(_, child)| child.stage == Stage::Waiting);
        let waiting: Vec<_> = waiting.map(|(id, child)| (*id, self.in_the_way_of(*id, &child.settings))).collect();
        for (generation, in_its_way) in waiting {
            let is_asked_for = self.actions.iter().any(|action| *action == Action::Welcome { generation });
            if in_its_way.is_empty() && !is_asked_for {
                self.act(Action::Welcome { generation });
            } else if self.active == Some(generation) && !self.is_leaving() {
                let last = self.last();
                for other in in_its_way.into_iter().filter(|other| last != Some(*other)) {
                    self.hurry(other, &format!("nobody serves, and generation {generation} must not run beside it"));
                }
            } else if let [last] = in_its_way[..]
                && self.candidate == Some(generation)
                && self.active == Some(last)
                && self.children[&last].stage == Stage::Active
                && !self.is_leaving()
            {
                self.gap = Some(Gap { last, exit: None, since: Some(self.now) });
                self.drain(last);
            }
        }
    }

    /// The candidate has failed in the gap: what served before is to serve again, with the signals that nobody has got.
    pub(super) fn start_again(&mut self, kept: Vec<Signal>) {
        let Some(gap) = &mut self.gap else { return };
        gap.since = gap.since.or(Some(self.now));
        let generation = self.spawn(Program::Last, Origin::Start);
        self.active = Some(generation);
        if let Some(child) = self.children.get_mut(&generation) {
            child.kept = kept;
        }
    }

    /// The generation accepts.
    pub(super) fn accepts_again(&mut self, generation: Generation) {
        if let Some(since) = self.gap.as_mut().and_then(|gap| gap.since.take()) {
            self.say(Message::ServesAgain { generation, after: Seconds(self.now.saturating_sub(since)) });
        }
    }

    /// The generation whose file is started again if the candidate fails.
    pub(crate) fn last(&self) -> Option<Generation> {
        self.gap.as_ref().map(|gap| gap.last)
    }

    /// Who serves although something has failed.
    pub(super) fn who_serves(&self) -> Option<Serving> {
        let active = self.active?;
        Some(if self.last().is_some_and(|last| last != active) { Serving::StartsAgain(active) } else { Serving::KeepsServing(active) })
    }
}
