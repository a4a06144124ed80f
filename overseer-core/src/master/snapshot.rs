//! What a master hands over to the one that replaces it: plain data, as JSON. No input or output in here.
//!
//! An unknown field is ignored. What is added needs a default; what cannot have one needs another [`FORMAT`], and a master that does not read that is
//! not replaced by it. [`Header`] is for ever: whoever cannot read the rest finds the way back in it.

use super::Asks;
use super::listeners::{HeldState, StoreState};
use super::notify::NotifyState;
use crate::binary::{Identity, Place};
use crate::protocol::Staged;
use crate::supervisor::{Generation, Supervisor, Time};
use crate::sys::handover::{Passed, bytes_of};
use crate::sys::link::LinkState;
use crate::sys::signals::{Original, SignalsState};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

/// The format of snapshots that this build writes and reads.
pub(crate) const FORMAT: u32 = 1;
/// How often a snapshot is handed on before the master gives up.
pub(crate) const ATTEMPTS_MAX: u32 = 4;

/// What every master of whatever version finds in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) format: u32,
    /// The file that the master ran which made the snapshot. Who cannot go on with that executes it.
    pub(crate) predecessor: Passed,
    /// How often somebody could not go on with it.
    #[serde(default)]
    pub(crate) attempts: u32,
    /// Why the last one could not.
    #[serde(default)]
    pub(crate) why: Option<String>,
    /// On the monotonic clock: since when nobody does the duties of the master.
    #[serde(default)]
    pub(crate) away_since: Duration,
}

/// All that a master knows and has open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) header: Header,
    /// On the monotonic clock: when the first master of this PID started. All times of the rules count from there.
    pub(crate) started: Duration,
    pub(crate) rules: Supervisor,
    pub(crate) children: Vec<ChildState>,
    pub(crate) listeners: Vec<HeldState>,
    #[serde(default)]
    pub(crate) store: StoreState,
    pub(crate) signals: SignalsState,
    pub(crate) original: Original,
    pub(crate) place: Place,
    pub(crate) staged: Option<(Staged, Passed)>,
    pub(crate) memory: Option<MemoryState>,
    #[serde(default)]
    pub(crate) has_sought_memory: bool,
    pub(crate) pid_file: Option<(PathBuf, Passed)>,
    #[serde(default)]
    pub(crate) lost_lines: u64,
    #[serde(default)]
    pub(crate) notify: NotifyState,
    /// The generation that is to be looked at for sockets of its own, and from when on.
    #[serde(default)]
    pub(crate) suspect: Option<(Generation, Time)>,
}

/// A generation's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChildState {
    pub(crate) generation: Generation,
    pub(crate) pid: i32,
    pub(crate) link: Option<LinkState>,
    pub(crate) unheard: Option<LinkState>,
    pub(crate) program: Passed,
    pub(crate) why: Option<String>,
    /// What it has asked for and not been answered.
    #[serde(default)]
    pub(super) asks: Option<Asks>,
    pub(crate) has_listeners: bool,
    /// How many pieces of work it has open, as it has said.
    #[serde(default)]
    pub(crate) open_work: Option<u64>,
}

/// Where releases are remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemoryState {
    #[serde(with = "crate::protocol::path")]
    pub(crate) directory: PathBuf,
    pub(crate) lock: Option<Passed>,
    #[serde(default)]
    pub(crate) has_said_second: bool,
    #[serde(default)]
    pub(crate) shunned: Option<Identity>,
    #[serde(default)]
    pub(crate) has_said_unsaved: bool,
    #[serde(default)]
    pub(crate) why_off: Option<String>,
}

impl Snapshot {
    /// # Errors
    /// The path of the PID file is no text.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| format!("what it knows cannot be written down: {error}"))
    }

    /// # Errors
    /// It is of another format, or damaged.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let header = Header::read(bytes).map_err(|error| format!("the snapshot cannot be read: {error}"))?;
        if header.format != FORMAT {
            return Err(format!("the snapshot has the format {}, and this build reads {FORMAT}", header.format));
        }
        let snapshot: Self = serde_json::from_slice(bytes).map_err(|error| format!("the snapshot cannot be read: {error}"))?;
        snapshot.listeners.iter().try_for_each(|held| held.address().map(drop))?;
        Ok(snapshot)
    }

    /// Every descriptor that goes on.
    pub(crate) fn descriptors(&self) -> Vec<Passed> {
        let links = self.children.iter().flat_map(|child| child.link.iter().chain(&child.unheard)).flat_map(LinkState::descriptors);
        let mut all: Vec<Passed> = links.collect();
        all.extend(self.children.iter().map(|child| child.program));
        all.extend(self.listeners.iter().map(|held| held.socket));
        all.extend([self.signals.reader, self.signals.writer, self.header.predecessor]);
        all.extend(self.staged.iter().map(|(_, file)| *file));
        all.extend(self.memory.iter().filter_map(|memory| memory.lock));
        all.extend(self.pid_file.iter().map(|(_, file)| *file));
        all
    }
}

impl Header {
    fn read(bytes: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Beginning {
            header: Header,
        }
        serde_json::from_slice::<Beginning>(bytes).map(|beginning| beginning.header)
    }

    /// The same snapshot, which somebody could not go on with, for its predecessor: another version's may hold what this one does not know.
    pub(crate) fn handed_back(bytes: &[u8], why: &str) -> Option<(Self, Vec<u8>)> {
        let mut whole: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let mut header = Self::read(bytes).ok()?;
        header.attempts += 1;
        header.why = Some(why.to_owned());
        whole["header"]["attempts"] = header.attempts.into();
        whole["header"]["why"] = why.into();
        Some((header, serde_json::to_vec(&whole).ok()?))
    }
}

/// What keeps this build from going on with the snapshot in the file; for the role check.
pub(crate) fn problem(file: &File) -> Option<String> {
    let read = bytes_of(file).map_err(|error| format!("the snapshot cannot be read: {error}")).and_then(|bytes| Snapshot::read(&bytes));
    read.err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn header() -> serde_json::Value {
        serde_json::json!({"format": FORMAT, "predecessor": {"descriptor": 7, "inode": 42}, "attempts": 1, "colour": "blue"})
    }

    #[test]
    fn the_way_back_is_found_in_a_snapshot_of_which_nothing_else_is_known() {
        let bytes = serde_json::to_vec(&serde_json::json!({"header": header(), "rules": {"of": "tomorrow"}})).expect("JSON");
        let (header, bytes) = Header::handed_back(&bytes, "no such setting").expect("it has a header");
        assert_eq!((header.attempts, header.predecessor), (2, Passed { descriptor: 7, inode: 42 }));
        let whole: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!((&whole["rules"]["of"], &whole["header"]["colour"]), (&"tomorrow".into(), &"blue".into()), "all else stays as it was");
        assert_eq!((&whole["header"]["attempts"], &whole["header"]["why"]), (&2.into(), &"no such setting".into()));
    }

    #[test]
    fn another_format_and_damage_are_told() {
        let mut other = serde_json::json!({"header": header()});
        other["header"]["format"] = (FORMAT + 1).into();
        let why = |bytes: &[u8]| Snapshot::read(bytes).expect_err("it cannot be read");
        assert!(why(&serde_json::to_vec(&other).expect("JSON")).contains("has the format 2, and this build reads 1"));
        assert!(why(b"{\"header\":").contains("cannot be read"));
        assert!(why(&serde_json::to_vec(&serde_json::json!({"header": header()})).expect("JSON")).contains("cannot be read"));
    }

    /// One with something in each of its fields.
    const GOLDEN: &str = include_str!("../../tests/golden/v1-snapshot.json");

    /// What every snapshot of format 1 must have, since there is no default for it. Nothing is ever added here.
    #[rustfmt::skip]
    const NEEDED: &[&str] = &[
        "/children", "/children/generation", "/children/has_listeners", "/children/link/descriptors", "/children/link/is_ended",
        "/children/link/outgoing", "/children/link/read", "/children/link/socket", "/children/pid", "/children/program",
        "/children/unheard/descriptors", "/children/unheard/is_ended", "/children/unheard/outgoing", "/children/unheard/read",
        "/children/unheard/socket", "/header", "/header/format", "/header/predecessor", "/listeners", "/listeners/address",
        "/listeners/bound_to", "/listeners/key", "/listeners/socket", "/listeners/users", "/memory/directory", "/original",
        "/original/ignored", "/original/mask", "/place", "/place/directory", "/place/invoked", "/place/name", "/place/state_dir",
        "/rules", "/rules/children", "/rules/children/drains", "/rules/children/identity", "/rules/children/is_blameless",
        "/rules/children/kept", "/rules/children/origin", "/rules/children/sent", "/rules/children/settings",
        "/rules/children/spawned_at", "/rules/children/stage", "/rules/has_closed_listeners", "/rules/looking", "/rules/newest",
        "/rules/now", "/rules/own", "/rules/path", "/rules/previous", "/rules/random", "/rules/record", "/rules/replacement",
        "/rules/settings", "/rules/staged_identity", "/rules/told/watch/asked/generation", "/rules/told/watch/asked/since", "/rules/told/watch/asked/until", "/rules/unix_at_start", "/signals", "/signals/overflow", "/signals/read",
        "/signals/reader", "/signals/writer", "/staged/identity", "/staged/path", "/staged/previous", "/staged/release",
        "/staged/started_from", "/started",
    ];

    fn golden() -> Value {
        serde_json::from_str(GOLDEN).expect("JSON")
    }

    fn read(whole: &Value) -> Result<Snapshot, String> {
        Snapshot::read(&serde_json::to_vec(whole).expect("JSON"))
    }

    #[test]
    fn a_snapshot_in_format_1_is_written_and_read_as_ever() {
        let snapshot = Snapshot::read(GOLDEN.as_bytes()).expect("it can be read");
        let now = String::from_utf8(snapshot.to_bytes().expect("it can be written")).expect("text");
        if std::env::var_os("OVERSEER_NEW_GOLDEN").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1-snapshot.json"), &now)
                .expect("the directory can be written");
        }
        assert_eq!(now, GOLDEN);
        assert_eq!(read(&golden()).expect("it can be read"), snapshot);
        // Every descriptor that the text names is handed over.
        let numbers: BTreeSet<i32> = snapshot.descriptors().iter().map(|passed| passed.descriptor).collect();
        assert_eq!((numbers.len(), snapshot.descriptors().len()), (GOLDEN.matches("\"descriptor\":").count(), numbers.len()));
    }

    /// The places of all objects with fields: not times, and not those whose names are generations or kinds of something.
    fn objects(value: &Value, place: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if fields.len() > 1 && !fields.contains_key("nanos") && place != "/rules/children" {
                    found.push(place.to_owned());
                }
                fields.iter().for_each(|(name, value)| objects(value, &format!("{place}/{name}"), found));
            }
            Value::Array(values) => values.iter().enumerate().for_each(|(index, value)| objects(value, &format!("{place}/{index}"), found)),
            _ => {}
        }
    }

    fn places() -> Vec<String> {
        let mut places = Vec::new();
        objects(&golden(), "", &mut places);
        assert!(places.len() > 50, "{places:?}");
        places
    }

    #[test]
    fn what_a_later_version_adds_to_a_snapshot_is_ignored() {
        let mut whole = golden();
        for place in places() {
            whole.pointer_mut(&place).expect("it is there")["tomorrow"] = serde_json::json!({"of": [1]});
        }
        assert_eq!(read(&whole), read(&golden()));
    }

    #[test]
    fn what_an_earlier_version_has_not_written_into_a_snapshot_has_a_default() {
        let mut needed = BTreeSet::new();
        for place in places() {
            let names: Vec<String> = golden().pointer(&place).and_then(Value::as_object).expect("it is there").keys().cloned().collect();
            for name in names.iter().filter(|name| !["descriptor", "inode"].contains(&name.as_str())) {
                let mut whole = golden();
                whole.pointer_mut(&place).and_then(Value::as_object_mut).expect("it is there").remove(name);
                if read(&whole).is_err() {
                    let kind: Vec<&str> = place.split('/').filter(|part| part.parse::<u64>().is_err()).collect();
                    needed.insert(format!("{}/{name}", kind.join("/")));
                }
            }
        }
        assert_eq!(needed.iter().map(String::as_str).collect::<Vec<_>>(), NEEDED, "what is added to format 1 needs a default");
    }
}
