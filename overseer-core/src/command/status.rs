//! The state of a program, as `OVERSEER=status.json` prints it. `page` shows the same facts to people.
//!
//! The form of the JSON is a promise: within one `schema`, fields are added and none changes or goes. docs/OPERATING.md has each.

use super::live::{Live, LiveGeneration, LiveState, Presence};
use super::{DONE, NOT_SERVING, Refused, Scene, page, say};
use crate::binary::{Judged, Record, unix_s};
use crate::config::Upgrades;
use crate::message::{Date, EPHEMERAL};
use crate::protocol::ReleaseName;
use crate::sys::connections::open_connections;
use nix::unistd::Pid;
use serde::Serialize;

/// The number of this form.
const SCHEMA: u32 = 1;
/// The last events that people see; JSON has all.
pub(super) const EVENTS_SHOWN: usize = 8;

/// A time, in seconds since 1970; in JSON `2026-12-31T23:59:59Z` (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(pub(super) u64);

impl Serialize for At {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Date(self.0).to_string().replacen(' ', "T", 1);
        serializer.serialize_str(&text.replace(" UTC", "Z"))
    }
}

/// What is known of a program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Status {
    schema: u32,
    /// Some generation serves.
    pub(super) serving: bool,
    /// Why what runs is not the newest, or that it is, in one sentence.
    pub(super) summary: String,
    pub(super) program: String,
    pub(super) state_dir: String,
    pub(super) at: At,
    pub(super) master: Option<Master>,
    pub(super) generations: Vec<Generation>,
    pub(super) installed: Option<Installed>,
    pub(super) previous: Option<Previous>,
    pub(super) probation: Option<Probation>,
    pub(super) source: Option<Source>,
    pub(super) upgrades: Policy,
    pub(super) available: Option<Available>,
    pub(super) waiting: Option<Release>,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) events: Vec<Event>,
    /// What is wrong with what is remembered.
    pub(super) problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Release {
    pub(super) id: Option<String>,
    pub(super) version: Option<String>,
    pub(super) tag: Option<String>,
    #[serde(skip)]
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Master {
    pub(super) pid: i32,
    pub(super) since: At,
    /// The version of overseer in it.
    pub(super) overseer: String,
    pub(super) release: Option<Release>,
    /// `running`, `leaving`, or `elsewhere` in another PID namespace.
    pub(super) state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Generation {
    pub(super) generation: u64,
    /// `starting`, `warming_up`, `serving`, `draining`, `killed`.
    pub(super) state: LiveState,
    pub(super) pid: i32,
    pub(super) started: At,
    pub(super) ready: Option<At>,
    /// When the state ends at the latest.
    pub(super) until: Option<At>,
    /// Open ones; `None` if nobody can tell.
    pub(super) connections: Option<u64>,
    pub(super) release: Option<Release>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Installed {
    #[serde(flatten)]
    pub(super) release: Release,
    pub(super) since: At,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Previous {
    pub(super) path: String,
    pub(super) release: Option<Release>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Probation {
    #[serde(flatten)]
    pub(super) release: Release,
    /// `None` while no master counts.
    pub(super) until: Option<At>,
    pub(super) starts: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) last_look: Option<At>,
    pub(super) last_success: Option<At>,
    pub(super) next_look: Option<At>,
    /// A look goes on.
    pub(super) looking: bool,
    pub(super) outcome: Option<String>,
    /// In a row.
    pub(super) failures: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Policy {
    pub(super) level: Upgrades,
    /// Why they are impossible here.
    pub(super) impossible: Option<String>,
    pub(super) held: Option<Held>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Held {
    pub(super) by: String,
    pub(super) reason: String,
    pub(super) since: At,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Available {
    #[serde(flatten)]
    pub(super) release: Release,
    pub(super) since: At,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Verdict {
    #[serde(flatten)]
    pub(super) release: Release,
    /// `held_back` or `rejected`.
    pub(super) verdict: &'static str,
    pub(super) until: Option<At>,
    pub(super) reason: String,
    pub(super) failures: u32,
    pub(super) at: At,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Event {
    pub(super) at: At,
    pub(super) text: String,
}

/// Prints it, and answers the exit status.
pub(super) fn show(scene: &Scene, json: bool) -> Result<i32, Refused> {
    let (record, problem) = match &scene.directory {
        Some(directory) => directory.peek().map_or_else(|why| (Record::default(), Some(why)), |record| (record, None)),
        None => (Record::default(), None),
    };
    let live = scene.master.as_ref().filter(|(_, presence)| *presence != Presence::Gone).map(|(live, presence)| (live, *presence));
    let has_previous = scene.directory.as_ref().is_some_and(|directory| crate::binary::previous::open(directory.path()).is_ok());
    let now = unix_s();
    let mut status = Status::of(&record, live, now);
    status.problem = problem;
    status.program = scene.program();
    status.state_dir = scene.state_dir();
    status.previous = has_previous.then(|| Previous {
        path: crate::binary::previous::path_in(scene.place.state_dir()).display().to_string(),
        release: record.previous.as_ref().map(Release::of),
    });
    for generation in &mut status.generations {
        generation.connections =
            live.filter(|(_, presence)| *presence == Presence::Here).and_then(|_| open_connections(Pid::from_raw(generation.pid)));
    }
    match json {
        true => say(&serde_json::to_string_pretty(&status).unwrap_or_default()),
        false => say(page::write(&status).trim_end()),
    }
    Ok(if status.serving { DONE } else { NOT_SERVING })
}

impl Release {
    fn of(release: &ReleaseName) -> Self {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Self { id: text(release.id()), version: text(release.version()), tag: text(release.tag()), name: release.to_string() }
    }

    fn known(release: &ReleaseName) -> Option<Self> {
        Some(release).filter(|release| **release != ReleaseName::default()).map(Self::of)
    }
}

impl Status {
    fn of(record: &Record, live: Option<(&Live, Presence)>, now: u64) -> Self {
        let serves = |live: &Live| live.generations.iter().any(|generation| generation.state == LiveState::Serving);
        let none = Live::default();
        let shown = live.map_or(&none, |(live, _)| live);
        let source =
            shown.source.clone().or_else(|| Some(record.looks.source.clone()).filter(|source| live.is_none() && !source.is_empty()));
        let looks = Some(&record.looks).filter(|looks| Some(&looks.source) == source.as_ref());
        let judged = record.judged(now).rev().map(|judged| Verdict {
            release: Release::of(&judged.release),
            verdict: if judged.until_unix_s.is_some() { "held_back" } else { "rejected" },
            until: judged.until_unix_s.map(At),
            reason: judged.reason.clone(),
            failures: judged.failures,
            at: At(judged.at_unix_s),
        });
        Self {
            schema: SCHEMA,
            serving: live.is_some_and(|(live, _)| serves(live)),
            summary: summary(record, live.map(|(live, _)| live), now),
            program: String::new(),
            state_dir: String::new(),
            at: At(now),
            master: live.map(|(live, presence)| Master {
                pid: live.process.pid,
                since: At(live.since_unix_s),
                overseer: live.overseer.clone(),
                release: Release::known(&live.release),
                state: match presence {
                    Presence::Elsewhere => "elsewhere",
                    Presence::Here | Presence::Gone if live.is_leaving => "leaving",
                    Presence::Here | Presence::Gone => "running",
                },
            }),
            generations: shown.generations.iter().rev().map(Generation::of).collect(),
            installed: record
                .installed
                .as_ref()
                .map(|installed| Installed { release: Release::of(&installed.release), since: At(installed.at_unix_s) }),
            previous: None,
            probation: record.probation.as_ref().map(|probation| Probation {
                release: Release::of(&probation.release),
                until: shown.probation_until_unix_s.map(At),
                starts: probation.starts,
            }),
            source: source.map(|name| Source {
                name,
                last_look: looks.and_then(|looks| looks.last_unix_s).map(At),
                last_success: looks.and_then(|looks| looks.last_success_unix_s).map(At),
                next_look: shown.next_look_unix_s.map(At),
                looking: shown.is_looking,
                outcome: looks.map(|looks| looks.outcome.clone()).filter(|outcome| !outcome.is_empty()),
                failures: looks.map_or(0, |looks| looks.failures),
            }),
            upgrades: Policy {
                level: shown.upgrades,
                impossible: shown.why_off.clone(),
                held: record.held.as_ref().map(|held| Held { by: held.by.clone(), reason: held.reason.clone(), since: At(held.at_unix_s) }),
            },
            available: record.named.as_ref().map(|named| Available { release: Release::of(&named.release), since: At(named.at_unix_s) }),
            waiting: shown.waiting.as_ref().map(Release::of),
            verdicts: judged.collect(),
            events: record.events.iter().map(|event| Event { at: At(event.at_unix_s), text: event.text.clone() }).collect(),
            problem: None,
        }
    }
}

impl Generation {
    fn of(live: &LiveGeneration) -> Self {
        Self {
            generation: live.generation.0,
            state: live.state,
            pid: live.pid,
            started: At(live.started_unix_s),
            ready: live.ready_unix_s.map(At),
            until: live.until_unix_s.map(At),
            connections: None,
            release: Release::known(&live.release),
        }
    }
}

/// Why what runs is not the newest, or that it is.
fn summary(record: &Record, live: Option<&Live>, now: u64) -> String {
    let looks = &record.looks;
    let Some(live) = live else {
        let held = record.held.as_ref().map(|held| format!("; upgrades are held by {}: {}", held.by, held.reason));
        return format!("no master runs{}", held.unwrap_or_default());
    };
    let there = record.named.as_ref().map(|named| format!("; {} is there", named.release)).unwrap_or_default();
    let coming = live.generations.iter().rev().find(|generation| matches!(generation.state, LiveState::Starting | LiveState::WarmingUp));
    if live.is_leaving {
        return "the service is ending".to_owned();
    }
    if let Some(held) = &record.held {
        return format!("upgrades are held by {} since {}: {}{there}", held.by, Date(held.at_unix_s), held.reason);
    }
    if let Some(why) = &live.why_off {
        return format!("upgrades are off: {why}");
    }
    if live.source.is_none() {
        return "upgrades are off: the program has no fetcher".to_owned();
    }
    if live.upgrades == Upgrades::Off {
        return "upgrades are off: the program has set them so".to_owned();
    }
    if let Some(coming) = coming {
        let what = Release::known(&coming.release).map(|release| format!(" with {}", release.name)).unwrap_or_default();
        return format!("generation {} is coming up{what}", coming.generation);
    }
    if let Some(waiting) = &live.waiting {
        return format!("{waiting} is proved and waits for the next restart");
    }
    if live.upgrades == Upgrades::Notify && record.named.is_some() {
        let why = if live.is_ephemeral { EPHEMERAL } else { "upgrades are set to notify" };
        return format!("{why}{there} and is not installed");
    }
    if looks.failures > 0 {
        let since = looks.last_success_unix_s.map(|last| format!(" since {}", Date(last))).unwrap_or_default();
        return format!("no look has worked{since}; the last one {}", looks.outcome);
    }
    let Some(last) = looks.last_success_unix_s.filter(|_| Some(&looks.source) == live.source.as_ref()) else {
        return "nobody has looked for a release yet".to_owned();
    };
    let installed_at = record.installed.as_ref().map_or(0, |installed| installed.at_unix_s);
    let is_newer = |judged: &&Judged| judged.release.source == looks.source && judged.at_unix_s >= installed_at;
    if let Some(judged) = record.judged(now).rev().find(is_newer) {
        return match judged.until_unix_s {
            Some(until) => format!("{} is held back until {}: it {}", judged.release, Date(until), judged.reason),
            None => format!("{} is rejected: it {}", judged.release, judged.reason),
        };
    }
    if let Some(rest) = looks.outcome.strip_prefix("refused: ").or_else(|| looks.outcome.strip_prefix("incomplete: ")) {
        return format!("what the look at {} found is no release to take: {rest}", Date(last));
    }
    match (&record.probation, live.probation_until_unix_s) {
        (Some(probation), Some(until)) => {
            format!("{} is the newest as of the look at {}, and on probation until {}", probation.release, Date(last), Date(until))
        }
        _ => format!("up to date as of the look at {}", Date(last)),
    }
}
