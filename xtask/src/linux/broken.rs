//! `cargo xtask demo --broken`: releases that are broken in eleven ways are published one after the other, and then a good one.
//!
//! After each it is shown, and checked, that the service went on, what the master decided about the release and why, that the good
//! file is at the program's path, and that the release is not downloaded again. The program takes only what is signed, and so all but two are.

use super::build::{self, Build, Noise, Profile};
use super::client::Answer;
use super::load::{Load, Tally};
use super::process;
use super::scene::{PATIENCE, Running, Scene};
use super::signing::Key;
use super::source::Source;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Clients a second.
const CLIENTS_PER_SECOND: u32 = 200;
const SETTINGS: [&str; 10] =
    ["--every", "200ms", "--warm-up", "1s", "--ready-timeout", "2s", "--terminate-timeout", "2s", "--probation", "1m"];

/// A release that is published, and what is to become of it.
struct Case {
    what: &'static str,
    build: Build,
    signed: Signed,
    ends: Ends,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signed {
    WithTheKey,
    WithAnother,
    Not,
}

/// How far a broken release gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Before it accepts a connection.
    Unseen,
    /// While it accepts connections, which it takes with it.
    Serving,
    /// While it is the only one that accepts connections, and lies at the program's path.
    Installed,
}

/// What the master decided.
struct Decision {
    line: String,
    from: Instant,
    to: Instant,
}

pub(crate) fn run(verbose: bool) -> Result<(), String> {
    process::show_errors(verbose);
    let scene = Scene::new("demo")?;
    let good = build::app(&scene.releases, Profile::Dev, 1, None, &[])?;
    let next = build::app(&scene.releases, Profile::Dev, 3, None, &[])?;
    let cases = cases(&scene)?;

    let begun = Instant::now();
    println!("BUILT APP (1)");
    good.install(&scene.path)?;
    scene.publish_signed(&good)?;
    println!("RUNNING APP");
    let mut running = scene.start_trusting(&SETTINGS)?;
    let load = Load::start(running.address, CLIENTS_PER_SECOND)?;
    show(&running, &running.get("/")?, &good)?;
    let mut decisions = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        println!("\n{} of {}: {}", index + 1, cases.len(), case.what);
        decisions.push(publish_broken(&scene, &mut running, case, &good)?);
    }
    println!("\nafter all of them: version 3");
    let published = publish_good(&scene, &mut running, &next)?;
    let tally = load.stop()?;
    running.stop()?;
    println!("\nthe master was stopped and is started again, with a rejected release published");
    start_again(&scene, &cases, &next)?;
    summary(&tally, &cases, &decisions, published, begun.elapsed())
}

/// The eleven kinds of broken releases.
fn cases(scene: &Scene) -> Result<Vec<Case>, String> {
    let file = |name: &str| -> PathBuf { scene.releases.join(name) };
    let app = |fault| build::app(&scene.releases, Profile::Dev, 2, Some(fault), &[]);
    let mut noise = vec![0; 1 << 20];
    Noise::new("random bytes").fill(&mut noise);
    let program = fs::read("/bin/true").map_err(|error| format!("cannot read /bin/true: {error}"))?;
    let script = "echo the script ran > /dev/stderr\n";
    let whole = build::app(&scene.releases, Profile::Dev, 2, None, &[])?;
    let size_bytes = whole.size_bytes()?;
    let another = |name: &str, more| whole.padded(name, file(name), size_bytes + more);
    let case = |what, build, ends| Case { what, build, signed: Signed::WithTheKey, ends };
    let unsigned = |what, build, signed| Case { what, build, signed, ends: Ends::Unseen };
    Ok(vec![
        case("a version that exits at its start", app("exit-at-start")?, Ends::Unseen),
        case("a version that hangs before it is ready", app("hang-before-ready")?, Ends::Unseen),
        case("a version that crashes in its warm-up", app("crash-in-warm-up")?, Ends::Serving),
        case("a version that crashes in its probation", app("crash-in-probation")?, Ends::Installed),
        case("random bytes", Build::written("random bytes", file("random"), &noise)?, Ends::Unseen),
        case("a shell script", Build::written("a script", file("script"), format!("#!/bin/sh\n{script}").as_bytes())?, Ends::Unseen),
        case("a shell script without #!", Build::written("a bare script", file("bare-script"), script.as_bytes())?, Ends::Unseen),
        case("/bin/true", Build::written("/bin/true", file("true"), &program)?, Ends::Unseen),
        case("the first half of a build", whole.truncated("a truncated build", file("truncated"))?, Ends::Unseen),
        unsigned("a build that nobody has signed", another("unsigned", 1)?, Signed::Not),
        unsigned("a build that a stranger has signed", another("of-a-stranger", 2)?, Signed::WithAnother),
    ])
}

fn publish_broken(scene: &Scene, running: &mut Running, case: &Case, good: &Build) -> Result<Decision, String> {
    running.skip_what_was_said();
    let from = match case.signed {
        Signed::WithTheKey => scene.publish_signed(&case.build)?,
        Signed::WithAnother => {
            Source::publish(&scene.server, &case.build, Some(&Key::new()?.sign(&case.build.path, scene.server.file_name())?))?
        }
        Signed::Not => scene.server.publish(&case.build)?,
    };
    let line = running.master_says("a decision about the release", PATIENCE, decision)?;
    let to = Instant::now();
    for said in running.said_since(from) {
        println!("  {} {said}", if said == line { "=>" } else { "  " });
    }
    // After a crash in its probation, the version before is starting: this client waits for it in the backlog.
    show(running, &running.get("/")?, good)?;
    if scene.installed_id()? != good.id {
        return Err(format!("after {} the file at the program's path is not the good one", case.what));
    }
    not_downloaded_again(scene, &case.build, usize::from(case.signed != Signed::Not))?;
    Ok(Decision { line, from, to })
}

/// Whether a line of the master's is its last word on a release for now.
pub(crate) fn decision(line: &str) -> Option<String> {
    ["rejected", "tried again in", "is taken only with its .minisig file"].iter().any(|words| line.contains(words)).then(|| line.to_owned())
}

/// The source has been looked at twice more, and the release was not asked for again. One whose signature is missing is never asked for.
fn not_downloaded_again(scene: &Scene, build: &Build, expected: usize) -> Result<(), String> {
    scene.server.wait_for_requests(scene.server.requests(), 2, PATIENCE)?;
    match scene.server.downloads(&build.id) {
        count if count == expected => Ok(()),
        count => Err(format!("{} was downloaded {count} times and not {expected}", build.name)),
    }
}

fn publish_good(scene: &Scene, running: &mut Running, next: &Build) -> Result<Instant, String> {
    let published = scene.publish_signed(next)?;
    let answer = running.get_until("version 3", |answer| answer.id == next.id)?;
    show(running, &answer, next)?;
    running.master_says("that version 3 is installed", PATIENCE, |line| line.contains("is installed at").then_some(()))?;
    if scene.installed_id()? != next.id {
        return Err("the file at the program's path is not version 3".to_owned());
    }
    Ok(published)
}

/// What was decided holds for the next master too.
fn start_again(scene: &Scene, cases: &[Case], next: &Build) -> Result<(), String> {
    let rejected = cases.iter().find(|case| case.ends == Ends::Installed).ok_or("no release was taken back")?;
    scene.publish_signed(&rejected.build)?;
    let running = scene.start_trusting(&SETTINGS)?;
    show(&running, &running.get("/")?, next)?;
    not_downloaded_again(scene, &rejected.build, 1)?;
    running.stop()?;
    match scene.leftovers() {
        names if names.is_empty() => Ok(()),
        names => Err(format!("files were left beside the program: {}", names.join(", "))),
    }
}

/// Prints an answer that must come from `build`, and from a child of the master.
fn show(running: &Running, answer: &Answer, build: &Build) -> Result<(), String> {
    running.check_parent(answer)?;
    if answer.id != build.id {
        return Err(format!("{} was answered where version {} should; {}", answer.text, build.name, running.process.account()));
    }
    println!("{}", answer.text);
    Ok(())
}

/// Which failures are put down to a candidate that crashed: connections that it may have accepted, broken off while it was there.
fn lost_with_a_candidate(tally: &Tally, cases: &[Case], decisions: &[Decision]) -> usize {
    let crashes = cases.iter().zip(decisions).filter(|(case, _)| case.ends != Ends::Unseen);
    crashes.map(|(_, decision)| tally.due_between(decision.from, decision.to).broken_off()).sum()
}

fn summary(tally: &Tally, cases: &[Case], decisions: &[Decision], published: Instant, took: Duration) -> Result<(), String> {
    println!();
    for (case, decision) in cases.iter().zip(decisions) {
        println!("{:<40} decided after {:>5.1?}: {}", case.what, decision.to - decision.from, verdict(&decision.line));
    }
    let lost = lost_with_a_candidate(tally, cases, decisions);
    let failed = tally.failed() - lost;
    let first = tally.samples.iter().find(|sample| sample.done > published && sample.outcome.is_ok_and(|by| by.version == 3));
    println!();
    println!("requests            {} on new connections, {CLIENTS_PER_SECOND} a second", tally.samples.len());
    println!("failures            {failed}");
    println!("lost with a crash   {lost} that the crashing version had accepted");
    println!("longest pause       {:.1?} between two answers", tally.longest_pause());
    if let Some(first) = first {
        println!("version 3           answered {:.2?} after it was published", first.done - published);
    }
    println!("it took             {took:.1?}");
    if failed > 0 {
        return Err(format!("requests failed: {}, of which {lost} were lost with a crashing version", tally.failures_in_words()));
    }
    Ok(())
}

fn verdict(line: &str) -> &'static str {
    if line.contains("previous binary is back") {
        "taken back and rejected"
    } else if line.contains("rejected") {
        "rejected"
    } else if line.contains("is taken only with") {
        "not taken yet"
    } else {
        "held back"
    }
}
