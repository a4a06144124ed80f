//! The state of a program as people read it.

use super::live::LiveState;
use super::status::{At, EVENTS_SHOWN, Generation, Release, Source, Status};
use crate::message::{Date, Seconds};
use std::fmt::Write;
use std::time::Duration;

/// The page; its lines may be long, as reasons are.
pub(super) fn write(status: &Status) -> String {
    let does = match status.serving {
        Some(true) => "serves",
        Some(false) => "does not serve",
        None => "may serve",
    };
    let mut page = format!("{} {does}\n\n", status.program);
    let mut line = |name: &str, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "{}", format!("{name:<13}{text}").trim_end());
    };
    let now = status.at;
    line("in short", &status.summary);
    if let Some(problem) = &status.problem {
        line("problem", problem);
    }
    match &status.master {
        Some(master) => {
            let state = match master.state {
                "running" => String::new(),
                "unknown" => ", which may be gone".to_owned(),
                state => format!(", {state}"),
            };
            let what = name(master.release.as_ref());
            line("master", &format!("pid {}{state}, since {}, overseer {}{what}", master.pid, past(master.since, now), master.overseer));
        }
        None => line("master", if status.serving.is_none() { "not known" } else { "none" }),
    }
    for (index, generation) in status.generations.iter().enumerate() {
        line(if index == 0 { "generations" } else { "" }, &describe(generation, now));
    }
    match &status.installed {
        Some(installed) => line("installed", &format!("{}, since {}", called(&installed.release), past(installed.since, now))),
        None => line("installed", "nothing that the source has a name for"),
    }
    if let Some(probation) = &status.probation {
        let until = probation.until.map(|until| format!(" until {}", Date(until.0))).unwrap_or_default();
        line("on probation", &format!("{}{until}", probation.release.name));
    }
    if let Some(previous) = &status.previous {
        line("previous", &format!("{}{}", previous.path, name(previous.release.as_ref())));
    }
    let held = status.upgrades.held.as_ref();
    let held = held.map(|held| format!(", held by {} since {}: {}", held.by, Date(held.since.0), held.reason)).unwrap_or_default();
    let impossible = status.upgrades.impossible.as_ref().map(|why| format!(", impossible here: {why}")).unwrap_or_default();
    let level = status.upgrades.level.map_or_else(|| "not known".to_owned(), |level| level.to_string());
    line("upgrades", &format!("{level}{impossible}{held}"));
    match &status.source {
        Some(source) => looks(source, now, &mut line),
        None => line("source", "none"),
    }
    if let Some(available) = &status.available {
        line("available", &format!("{}, since {}", called(&available.release), Date(available.since.0)));
    }
    if let Some(waiting) = &status.waiting {
        line("waiting", &format!("{}, for the next restart", waiting.name));
    }
    for (index, judged) in status.verdicts.iter().enumerate() {
        let until = judged.until.map(|until| format!(" until {}", Date(until.0))).unwrap_or_default();
        let verdict = judged.verdict.replace('_', " ");
        line(if index == 0 { "not tried" } else { "" }, &format!("{}: {verdict}{until}, {}", judged.release.name, judged.reason));
    }
    line("state dir", &status.state_dir);
    let skipped = status.events.len().saturating_sub(EVENTS_SHOWN);
    for (index, event) in status.events.iter().skip(skipped).enumerate() {
        line(if index == 0 { "last events" } else { "" }, &format!("{}  {}", Date(event.at.0), event.text));
    }
    page
}

fn describe(generation: &Generation, now: At) -> String {
    let state = match generation.state {
        LiveState::Starting => "starting",
        LiveState::WarmingUp => "warming up",
        LiveState::Serving => "serving",
        LiveState::Draining => "draining",
        LiveState::Killed => "killed",
        LiveState::Unknown => "in another state",
    };
    let until =
        generation.until.map(|until| format!(", {} left", Seconds(Duration::from_secs(until.0.saturating_sub(now.0))))).unwrap_or_default();
    let connections = match generation.connections {
        Some(1) => ", 1 connection".to_owned(),
        Some(count) => format!(", {count} connections"),
        None => String::new(),
    };
    let work = match generation.open_work.filter(|_| generation.open_work != generation.connections) {
        Some(1) => ", 1 piece of open work".to_owned(),
        Some(count) => format!(", {count} pieces of open work"),
        None => String::new(),
    };
    let age = Seconds(Duration::from_secs(now.0.saturating_sub(generation.started.0)));
    let what = name(generation.release.as_ref());
    format!("{} {state}, pid {}, {age} old{until}{connections}{work}{what}", generation.generation, generation.pid)
}

fn looks(source: &Source, now: At, line: &mut impl FnMut(&str, &str)) {
    let going_on = if source.looking { " (looking now)" } else { "" };
    line("source", &format!("{}{going_on}", source.name));
    let outcome = source.outcome.as_ref().map(|outcome| format!(": {outcome}")).unwrap_or_default();
    let in_a_row = if source.failures > 1 { format!(", {} failures in a row", source.failures) } else { String::new() };
    let last = source.last_look.map_or("none yet".to_owned(), |at| format!("{}{outcome}{in_a_row}", past(at, now)));
    line("last look", &last);
    if source.last_success != source.last_look {
        line("last success", &source.last_success.map_or("none yet".to_owned(), |at| past(at, now)));
    }
    if let Some(next) = source.next_look {
        line("next look", &format!("in {}", Seconds(Duration::from_secs(next.0.saturating_sub(now.0)))));
    }
}

fn past(at: At, now: At) -> String {
    format!("{} ({} ago)", Date(at.0), Seconds(Duration::from_secs(now.0.saturating_sub(at.0))))
}

fn name(release: Option<&Release>) -> String {
    release.map(|release| format!(", {}", release.name)).unwrap_or_default()
}

/// With its tag, by which its source knows it.
fn called(release: &Release) -> String {
    match &release.tag {
        Some(tag) if !release.name.ends_with(tag.as_str()) => format!("{}, tag {tag}", release.name),
        Some(_) | None => release.name.clone(),
    }
}
