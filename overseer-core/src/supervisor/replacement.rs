//! When the master replaces itself, and how the rules go on in the one that follows.
//!
//! The master becomes the file that the serving generation runs: after a commit the release, and after a taking back its predecessor. First that file
//! reads a real snapshot in the role check (the *rehearsal*), while the master goes on; one that cannot is no reason to reject anything. Then, as
//! soon as no poll process runs, the shell executes it and hands the rules over as they are.

use super::{Action, Generation, Stage, Supervisor, Time};
use crate::binary::Identity;
use crate::message::{Message, Seconds};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How far the replacement of the master has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Replacement {
    #[default]
    None,
    /// The file of this generation reads a snapshot; `until` then.
    Rehearsing { generation: Generation, until: Option<Time> },
    /// It has, so the master executes it as soon as it can.
    Due { generation: Generation },
}

impl Supervisor {
    /// The generation serves from now on. If it runs another file than the master does, the master is to become that file.
    pub(super) fn replace_master_by(&mut self, generation: Generation) {
        let is_other = self.children.get(&generation).is_some_and(|child| !child.identity.same_inode(&self.own));
        if is_other && self.settings.upgrade_master && !self.is_leaving() {
            let until = Some(self.now + self.settings.check_timeout);
            self.replacement = Replacement::Rehearsing { generation, until };
            self.act(Action::Rehearse { generation });
        } else {
            self.forget_replacement();
        }
    }

    /// No replacement is wanted any more.
    pub(super) fn forget_replacement(&mut self) {
        if let Replacement::Rehearsing { .. } = std::mem::take(&mut self.replacement) {
            self.act(Action::EndRehearsal);
        }
    }

    pub(super) fn rehearsed(&mut self, generation: Generation, result: Result<(), String>) {
        if !matches!(self.replacement, Replacement::Rehearsing { generation: current, .. } if current == generation) {
            return;
        }
        self.replacement = Replacement::None;
        match result {
            Err(why) => self.master_stays(why),
            Ok(()) if self.is_leaving() || self.active != Some(generation) => {}
            Ok(()) => {
                self.replacement = Replacement::Due { generation };
                // It cannot be handed over, and is repeated.
                self.cut_look_short();
            }
        }
    }

    pub(super) fn rehearsal_overdue(&mut self) {
        if let Replacement::Rehearsing { until, .. } = &mut self.replacement
            && until.is_some_and(|until| until <= self.now)
        {
            // Its end is told by the shell.
            *until = None;
            self.act(Action::EndRehearsal);
        }
    }

    pub(super) fn rehearsal_is_moved(&mut self, stopped: Time) {
        if let Replacement::Rehearsing { until: Some(until), .. } = &mut self.replacement {
            *until += stopped;
        }
    }

    pub(super) fn rehearsal_deadline(&self) -> Option<Time> {
        match self.replacement {
            Replacement::Rehearsing { until, .. } => until,
            Replacement::None | Replacement::Due { .. } => None,
        }
    }

    /// Whether the master waits for nothing but its turn; a look that began now would keep it waiting.
    pub(super) fn is_replacement_due(&self) -> bool {
        matches!(self.replacement, Replacement::Due { .. })
    }

    /// The generation whose file the master is to execute now. The shell asks when it has nothing else in hand.
    pub(crate) fn due_replacement(&self) -> Option<Generation> {
        let Replacement::Due { generation } = self.replacement else { return None };
        let serves = self.active == Some(generation) && self.children.get(&generation).is_some_and(|child| child.stage == Stage::Active);
        // What is known of a gap is not handed over.
        (serves && self.gap.is_none() && !self.is_leaving() && self.looking.running_until.is_none() && self.actions.is_empty())
            .then_some(generation)
    }

    /// The master could not be replaced and goes on as it is.
    pub(super) fn not_replaced(&mut self, why: String) {
        self.replacement = Replacement::None;
        self.master_stays(why);
    }

    fn master_stays(&mut self, why: String) {
        let Some(active) = self.active else { return };
        self.note(Message::MasterStays { generation: active, why });
    }

    /// This process goes on as the master, and runs the file `own`. `why`: it is the predecessor again, since its successor could not.
    pub(super) fn replaced(&mut self, own: Identity, took: super::Time, why: Option<String>) {
        self.own = own;
        self.replacement = Replacement::None;
        match why {
            Some(why) => self.master_stays(why),
            None => {
                let release = self.record.installed.iter().map(|installed| &installed.release).chain(&self.record.previous);
                let id = self.record.id_of(&own).map(str::to_owned);
                let named = id.as_ref().and_then(|id| release.clone().find(|release| release.id == *id)).map(ToString::to_string);
                let what = named.or(id).unwrap_or_else(|| self.path.display().to_string());
                self.note(Message::MasterReplaced { what, took: Seconds(took) });
            }
        }
    }
}

/// A source of random numbers goes on where it was.
pub(super) mod random {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(random: &fastrand::Rng, serializer: S) -> Result<S::Ok, S::Error> {
        random.get_seed().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<fastrand::Rng, D::Error> {
        u64::deserialize(deserializer).map(fastrand::Rng::with_seed)
    }
}
