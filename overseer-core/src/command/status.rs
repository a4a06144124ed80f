//! The state of a program, as `OVERSEER=status.json` prints it. `page` shows the same facts to people.
//!
//! The form of the JSON is a promise: within one `schema`, fields are added and none changes or goes. docs/OPERATING.md has each.

use super::live::{Live, LiveGeneration, LiveState};
use super::{DONE, NOT_ALLOWED, NOT_SERVING, Refused, Scene, page, say};
use crate::binary::{Judged, Record, unix_s};
use crate::config::Upgrades;
use crate::message::{Date, EPHEMERAL};
use crate::protocol::ReleaseName;
use crate::sys::connections::open_connections;
use nix::unistd::Pid;
use serde::Serialize;

/// The number of this form.
const SCHEMA: u32 = 1;
/// Of so many sockets at most, those of a generation are counted; an operator can wait for that.
const COUNTED_MAX: usize = 1 << 18;
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
    /// Some generation serves; `None` if nobody can tell from here.
    pub(super) serving: Option<bool>,
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
    /// `running`, `leaving`, or `unknown`: nobody can tell from here whether it lives, and the rest is what it showed last.
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
    /// Pieces of work that it has open, as it said last; `None` if it does not drain, or does not say.
    pub(super) open_work: Option<u64>,
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
    /// Known from the master alone.
    pub(super) level: Option<Upgrades>,
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
    let has_previous = scene.directory.as_ref().is_some_and(|directory| crate::binary::previous::open(directory.path()).is_ok());
    let mut status = Status::of((scene.program(), scene.state_dir()), &record, &scene.master, unix_s());
    status.problem = problem;
    status.previous = has_previous.then(|| Previous {
        path: crate::binary::previous::path_in(scene.place.state_dir()).display().to_string(),
        release: record.previous.as_ref().map(Release::of),
    });
    if let super::Master::Here(_) = scene.master {
        for generation in &mut status.generations {
            generation.connections = open_connections(Pid::from_raw(generation.pid), COUNTED_MAX);
        }
    }
    match json {
        true => say(&serde_json::to_string_pretty(&status).unwrap_or_default()),
        false => say(page::write(&status).trim_end()),
    }
    Ok(match status.serving {
        Some(true) => DONE,
        Some(false) => NOT_SERVING,
        None => NOT_ALLOWED,
    })
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
    /// What follows from the record and from what the master shows; `previous`, open connections and a problem are for somebody else to find. `paths` are
    /// those of the program and of its state directory.
    fn of(paths: (String, String), record: &Record, master: &super::Master, now: u64) -> Self {
        let (program, state_dir) = paths;
        let (live, why_unclear) = match master {
            super::Master::Nobody => (None, None),
            super::Master::Here(live) => (Some(&**live), None),
            super::Master::Unclear(why, live) => (live.as_deref(), Some(why)),
        };
        let serves = |live: &Live| live.generations.iter().any(|generation| generation.state == LiveState::Serving);
        let none = Live::default();
        let shown = live.unwrap_or(&none);
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
            serving: why_unclear.is_none().then(|| live.is_some_and(serves)),
            summary: match (why_unclear, live) {
                (Some(why), _) => format!("nobody can tell from here whether it serves: {why}"),
                (None, None) => without_master(record, &state_dir),
                (None, Some(live)) => summary(record, live, now),
            },
            program,
            state_dir,
            at: At(now),
            master: live.map(|live| Master {
                pid: live.process.pid,
                since: At(live.since_unix_s),
                overseer: live.overseer.clone(),
                release: Release::known(&live.release),
                state: match why_unclear {
                    Some(_) => "unknown",
                    None if live.is_leaving => "leaving",
                    None => "running",
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
                level: live.map(|live| live.upgrades),
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
            open_work: live.open_work,
            release: Release::known(&live.release),
        }
    }
}

/// That there is none, and whether the next one upgrades.
fn without_master(record: &Record, state_dir: &str) -> String {
    let held = record.held.as_ref().map(|held| format!("; upgrades are held by {}: {}", held.by, held.reason));
    format!("no master runs (by {state_dir}){}", held.unwrap_or_default())
}

/// Why what runs is not the newest, or that it is.
fn summary(record: &Record, live: &Live, now: u64) -> String {
    let looks = &record.looks;
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

#[cfg(test)]
mod tests {
    use super::super::Master as Seen;
    use super::*;
    use crate::binary::{self, Hold, Looks, Named, Noted};
    use crate::command::Process;
    use serde_json::Value;
    use std::collections::BTreeSet;
    use std::path::Path;

    const GOLDEN: &str = include_str!("../../tests/golden/v1-status.json");
    const SOURCE: &str = "https://example.org/app";
    /// 2027-01-15 08:00:00 UTC.
    const NOW: u64 = 1_800_000_000;

    fn name(version: &str) -> ReleaseName {
        let digit = version.chars().last().expect("a digit");
        ReleaseName {
            id: String::from(digit).repeat(40),
            tag: format!("v{version}"),
            source: SOURCE.to_owned(),
            version: Some(version.to_owned()),
            signed_unix_s: None,
        }
    }

    fn generation(number: u64, state: LiveState, version: &str) -> LiveGeneration {
        LiveGeneration {
            generation: crate::supervisor::Generation(number),
            pid: 100 + i32::try_from(number).expect("small"),
            state,
            release: name(version),
            started_unix_s: NOW - 100,
            ready_unix_s: Some(NOW - 99),
            until_unix_s: None,
            open_work: None,
        }
    }

    /// A master of version 1.2, which serves.
    fn live() -> Live {
        Live {
            process: Process { pid: 100, ..Process::default() },
            since_unix_s: NOW - 1000,
            overseer: "0.1.0".to_owned(),
            release: name("1.2"),
            generations: vec![generation(2, LiveState::Serving, "1.2")],
            source: Some(SOURCE.to_owned()),
            ..Live::default()
        }
    }

    /// Its record: the last look found nothing new.
    fn record() -> Record {
        let looks = Looks {
            source: SOURCE.to_owned(),
            last_unix_s: Some(NOW - 60),
            last_success_unix_s: Some(NOW - 60),
            outcome: "nothing new".to_owned(),
            ..Looks::default()
        };
        let installed = Some(binary::Installed { release: name("1.2"), at_unix_s: NOW - 500 });
        Record { looks, installed, ..Record::default() }
    }

    fn held() -> Option<Hold> {
        Some(Hold { by: "root".to_owned(), reason: "the fair is on".to_owned(), at_unix_s: NOW - 50 })
    }

    fn named() -> Option<Named> {
        Some(Named { release: name("1.3"), at_unix_s: NOW - 40, ..Named::default() })
    }

    fn judged(until_unix_s: Option<u64>) -> Judged {
        let reason = "ended with exit code 7 before it was ready".to_owned();
        Judged { release: name("1.3"), failures: 1, until_unix_s, reason, at_unix_s: NOW - 30 }
    }

    fn status(record: &Record, master: &Seen) -> Status {
        Status::of(("/opt/app/app".to_owned(), "/opt/app/.app.overseer".to_owned()), record, master, NOW)
    }

    /// One in which nothing is missing, as no program ever has it.
    fn full() -> Status {
        let live = Live {
            generations: vec![
                LiveGeneration { until_unix_s: Some(NOW + 20), open_work: Some(3), ..generation(1, LiveState::Draining, "1.1") },
                LiveGeneration { until_unix_s: Some(NOW + 1), ..generation(2, LiveState::Serving, "1.2") },
            ],
            why_off: Some("/opt/app is on a file system that is mounted read-only".to_owned()),
            probation_until_unix_s: Some(NOW + 240),
            is_looking: true,
            next_look_unix_s: Some(NOW + 300),
            waiting: Some(name("1.4")),
            ..live()
        };
        let record = Record {
            probation: Some(binary::Probation { release: name("1.2"), starts: 1, ..binary::Probation::default() }),
            named: named(),
            held: held(),
            verdicts: vec![judged(None), Judged { release: name("1.5"), ..judged(Some(NOW + 600)) }],
            looks: Looks { last_unix_s: Some(NOW - 5), failures: 2, outcome: "failed: no answer".to_owned(), ..record().looks },
            events: [Noted { at_unix_s: NOW - 500, text: "release 1.2 is installed".to_owned() }].into(),
            ..record()
        };
        let mut status = status(&record, &Seen::Here(Box::new(live)));
        status.previous = Some(Previous { path: "/opt/app/.app.overseer/previous".to_owned(), release: Some(Release::of(&name("1.1"))) });
        status.problem = Some("/opt/app/.app.overseer/state.json is damaged".to_owned());
        for generation in &mut status.generations {
            generation.connections = Some(generation.generation);
        }
        status
    }

    /// Calls `found` with each name of a field, and with each text.
    fn walk(value: &Value, found: &mut impl FnMut(Option<&str>, &Value)) {
        found(None, value);
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                found(Some(name), value);
                walk(value, found);
            }),
            Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_json_of_schema_1_stays_as_it_is() {
        let now = serde_json::to_string_pretty(&full()).expect("JSON") + "\n";
        if std::env::var_os("OVERSEER_NEW_GOLDEN").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1-status.json"), &now).expect("written");
        }
        assert_eq!(now, GOLDEN, "within schema {SCHEMA} fields are added, and none changes or goes; see the README beside the golden file");
        let golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
        walk(&golden, &mut |name, value| {
            let is_rightly_null = ["until", "open_work"].map(Some).contains(&name) || name.is_none();
            assert!(is_rightly_null || !value.is_null(), "{name:?} is not shown by the golden file");
            assert_ne!(*value, Value::Array(Vec::new()), "{name:?}");
        });
    }

    #[test]
    fn every_name_in_the_json_is_documented() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATING.md");
        // In a published package there is none.
        let Ok(text) = std::fs::read_to_string(path) else { return };
        let section = text.split_once("\n## The JSON\n").expect("a section").1;
        let golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
        let mut names = BTreeSet::new();
        walk(&golden, &mut |name, _| names.extend(name.map(str::to_owned)));
        let states = [LiveState::Starting, LiveState::WarmingUp, LiveState::Serving, LiveState::Draining, LiveState::Killed];
        let levels = [Upgrades::Install, Upgrades::Notify, Upgrades::Off];
        let words = states.iter().map(serde_json::to_value).chain(levels.iter().map(serde_json::to_value));
        names.extend(words.map(|word| word.expect("JSON").as_str().expect("text").to_owned()));
        names.extend(["running", "leaving", "unknown", "held_back", "rejected"].map(str::to_owned));
        let missing: Vec<_> = names.iter().filter(|name| !section.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/OPERATING.md does not have {missing:?}");
        let rows: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .flat_map(|row| {
                let cell = row.split(" | ").next().expect("a cell");
                cell.split(", ").map(|name| name.trim_matches('`'))
            })
            .collect();
        let fields: BTreeSet<&str> = golden.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(rows, fields);
    }

    #[test]
    fn the_page_has_what_the_json_has() {
        let lines = [
            "/opt/app/app serves",
            "",
            "in short     upgrades are held by root since 2027-01-15 07:59:10 UTC: the fair is on; release 1.3 (333333333333) is there",
            "problem      /opt/app/.app.overseer/state.json is damaged",
            "master       pid 100, since 2027-01-15 07:43:20 UTC (16 min ago), overseer 0.1.0, release 1.2 (222222222222)",
            "generations  2 serving, pid 102, 100s old, 1s left, 2 connections, release 1.2 (222222222222)",
            "             1 draining, pid 101, 100s old, 20s left, 1 connection, 3 pieces of open work, release 1.1 (111111111111)",
            "installed    release 1.2 (222222222222), tag v1.2, since 2027-01-15 07:51:40 UTC (8 min ago)",
            "on probation release 1.2 (222222222222) until 2027-01-15 08:04:00 UTC",
            "previous     /opt/app/.app.overseer/previous, release 1.1 (111111111111)",
            "upgrades     install, impossible here: /opt/app is on a file system that is mounted read-only, held by root since 2027-01-15 07:59:10 UTC: the fair is on",
            "source       https://example.org/app (looking now)",
            "last look    2027-01-15 07:59:55 UTC (5s ago): failed: no answer, 2 failures in a row",
            "last success 2027-01-15 07:59:00 UTC (60s ago)",
            "next look    in 5 min",
            "available    release 1.3 (333333333333), tag v1.3, since 2027-01-15 07:59:20 UTC",
            "waiting      release 1.4 (444444444444), for the next restart",
            "not tried    release 1.5 (555555555555): held back until 2027-01-15 08:10:00 UTC, ended with exit code 7 before it was ready",
            "             release 1.3 (333333333333): rejected, ended with exit code 7 before it was ready",
            "state dir    /opt/app/.app.overseer",
            "last events  2027-01-15 07:51:40 UTC  release 1.2 is installed",
        ];
        let page = page::write(&full());
        assert_eq!(page.lines().collect::<Vec<_>>(), lines, "{page}");
    }

    #[test]
    fn what_the_master_alone_knows_is_not_said_without_one() {
        let without = status(&record(), &Seen::Nobody);
        assert_eq!((without.serving, without.upgrades.level, &without.master), (Some(false), None, &None));
        assert_eq!(without.source.as_ref().and_then(|source| source.outcome.as_deref()), Some("nothing new"), "the record knows it");
        let page = page::write(&without);
        assert!(page.starts_with("/opt/app/app does not serve\n") && page.contains("\nmaster       none\n"), "{page}");
        assert!(page.contains("\nupgrades     not known\n"), "{page}");
    }

    #[test]
    fn nobody_is_said_to_serve_who_may_be_gone() {
        let why = || "the master has the PID 1 in another PID namespace".to_owned();
        let unclear = status(&record(), &Seen::Unclear(why(), Some(Box::new(live()))));
        assert_eq!((unclear.serving, unclear.master.as_ref().map(|master| master.state)), (None, Some("unknown")));
        assert_eq!(unclear.generations.len(), 1, "what it showed last");
        let page = page::write(&unclear);
        assert!(
            page.starts_with("/opt/app/app may serve\n\nin short     nobody can tell from here whether it serves: the master has"),
            "{page}"
        );
        assert!(page.contains("\nmaster       pid 100, which may be gone, since "), "{page}");
        let unreadable = status(&record(), &Seen::Unclear(why(), None));
        assert_eq!((unreadable.serving, &unreadable.master, unreadable.upgrades.level), (None, &None, None));
        assert!(page::write(&unreadable).contains("\nmaster       not known\n"));
        let starting = Live { generations: vec![generation(1, LiveState::Starting, "1.2")], ..live() };
        assert_eq!(status(&record(), &Seen::Here(Box::new(starting))).serving, Some(false));
        let leaving = status(&record(), &Seen::Here(Box::new(Live { is_leaving: true, ..live() })));
        assert_eq!(leaving.master.map(|master| master.state), Some("leaving"));
    }

    #[test]
    fn there_is_a_sentence_for_every_reason_why_this_is_not_the_newest() {
        let says = |record: &Record, live: Option<Live>, sentence: &str| {
            let master = live.map_or(Seen::Nobody, |live| Seen::Here(Box::new(live)));
            assert_eq!(status(record, &master).summary, sentence);
        };
        let looked = |looks: Looks| Record { looks, ..record() };
        let looks = || record().looks;
        let verdict = |judged: Judged| Record { verdicts: vec![judged], ..record() };

        says(&record(), None, "no master runs (by /opt/app/.app.overseer)");
        let is_held = Record { held: held(), ..record() };
        says(&is_held, None, "no master runs (by /opt/app/.app.overseer); upgrades are held by root: the fair is on");
        says(&record(), Some(Live { is_leaving: true, ..live() }), "the service is ending");
        says(&is_held, Some(live()), "upgrades are held by root since 2027-01-15 07:59:10 UTC: the fair is on");
        says(
            &Record { named: named(), ..is_held },
            Some(live()),
            "upgrades are held by root since 2027-01-15 07:59:10 UTC: the fair is on; release 1.3 (333333333333) is there",
        );
        let why_off = Some("/opt/app/app is a mount point of its own and cannot be renamed over".to_owned());
        says(
            &record(),
            Some(Live { why_off, ..live() }),
            "upgrades are off: /opt/app/app is a mount point of its own and cannot be renamed over",
        );
        says(&record(), Some(Live { source: None, ..live() }), "upgrades are off: the program has no fetcher");
        says(&record(), Some(Live { upgrades: Upgrades::Off, ..live() }), "upgrades are off: the program has set them so");
        for state in [LiveState::Starting, LiveState::WarmingUp] {
            let mut coming = live();
            coming.generations.push(generation(3, state, "1.3"));
            says(&record(), Some(coming.clone()), "generation 3 is coming up with release 1.3 (333333333333)");
            coming.generations[1].release = ReleaseName::default();
            says(&record(), Some(coming), "generation 3 is coming up");
        }
        let waits = Live { waiting: Some(name("1.3")), ..live() };
        says(&record(), Some(waits), "release 1.3 (333333333333) is proved and waits for the next restart");
        let notify = || Live { upgrades: Upgrades::Notify, ..live() };
        let is_there = Record { named: named(), ..record() };
        says(&is_there, Some(notify()), "upgrades are set to notify; release 1.3 (333333333333) is there and is not installed");
        says(&record(), Some(notify()), "up to date as of the look at 2027-01-15 07:59:00 UTC");
        let failed = Looks { last_unix_s: Some(NOW), failures: 2, outcome: "failed: no answer".to_owned(), ..looks() };
        says(&looked(failed.clone()), Some(live()), "no look has worked since 2027-01-15 07:59:00 UTC; the last one failed: no answer");
        says(&looked(Looks { last_success_unix_s: None, ..failed }), Some(live()), "no look has worked; the last one failed: no answer");
        says(&looked(Looks { last_success_unix_s: None, ..looks() }), Some(live()), "nobody has looked for a release yet");
        says(&looked(Looks { source: "/srv/app".to_owned(), ..looks() }), Some(live()), "nobody has looked for a release yet");
        says(
            &verdict(judged(Some(NOW + 600))),
            Some(live()),
            "release 1.3 (333333333333) is held back until 2027-01-15 08:10:00 UTC: it ended with exit code 7 before it was ready",
        );
        says(&verdict(judged(None)), Some(live()), "release 1.3 (333333333333) is rejected: it ended with exit code 7 before it was ready");
        let up_to_date = "up to date as of the look at 2027-01-15 07:59:00 UTC";
        // It is over, of another source, or of a release before the one that is installed.
        for is_none in [
            judged(Some(NOW)),
            Judged { release: ReleaseName { source: "/srv/app".to_owned(), ..name("1.3") }, ..judged(None) },
            Judged { at_unix_s: NOW - 501, ..judged(None) },
        ] {
            says(&verdict(is_none), Some(live()), up_to_date);
        }
        for outcome in ["refused: it is for another machine", "incomplete: it is for another machine"] {
            says(
                &looked(Looks { outcome: outcome.to_owned(), ..looks() }),
                Some(live()),
                "what the look at 2027-01-15 07:59:00 UTC found is no release to take: it is for another machine",
            );
        }
        let probation = binary::Probation { release: name("1.2"), ..binary::Probation::default() };
        says(
            &Record { probation: Some(probation), ..record() },
            Some(Live { probation_until_unix_s: Some(NOW + 240), ..live() }),
            "release 1.2 (222222222222) is the newest as of the look at 2027-01-15 07:59:00 UTC, and on probation until 2027-01-15 08:04:00 UTC",
        );
        says(&record(), Some(live()), up_to_date);
    }
}
