//! `cargo xtask demo`: a server is upgraded from version 1 to 2 to 3 under load and loses nothing. Each release is signed, and comes
//! through the fetcher of `--fetcher`.
//!
//! The story is printed line by line as it happens, and checked as it is printed: a line that does not come, or that comes out of
//! order, ends the demo with what was wrong.

use super::build::{self, Build, Profile};
use super::client::{Answer, Asked};
use super::load::{Load, Tally};
use super::process;
use super::scene::{PATIENCE, Running, Scene};
use super::source::{Fetcher, Source};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Clients a second, beside those of the story.
const CLIENTS_PER_SECOND: u32 = 200;
/// How long the slow request takes that is in flight during each upgrade.
const SLOW: Duration = Duration::from_secs(5);

pub(crate) fn run(fetcher: Fetcher, verbose: bool) -> Result<(), String> {
    process::show_errors(verbose);
    let scene = Scene::of("demo", fetcher)?;
    let app = |version| build::app(&scene.releases, Profile::Dev, version, None, fetcher.features());
    let builds = [app(1)?, app(2)?, app(3)?];

    println!("releases come {}, signed with the key {}", fetcher.in_words(), scene.key.public());
    let begun = Instant::now();
    let (mut story, load) = Story::begin(&scene, &builds)?;
    let mut published = Vec::new();
    for version in [2, 3] {
        published.push((version, story.upgrade_to(version)?));
    }
    let tally = load.stop()?;
    story.end()?;
    summary(&tally, &published, begun.elapsed())
}

type AnyScene = Scene<Box<dyn Source>>;

/// The server, and what is to be told of it.
struct Story<'a> {
    scene: &'a AnyScene,
    builds: &'a [Build; 3],
    running: Running,
}

impl<'a> Story<'a> {
    fn begin(scene: &'a AnyScene, builds: &'a [Build; 3]) -> Result<(Self, Load), String> {
        println!("BUILT APP (1)");
        builds[0].install(&scene.path)?;
        scene.publish_signed(&builds[0])?;
        println!("RUNNING APP");
        let running = scene.start_trusting(&["--every", "200ms", "--warm-up", "1s"])?;
        let load = Load::start(running.address, CLIENTS_PER_SECOND)?;
        let mut story = Self { scene, builds, running };
        story.app_writes(1, "listening...")?;
        story.says_hello_twice(1)?;
        Ok((story, load))
    }

    /// Publishes `version` while a slow request is in flight, and sees the one before answer it and leave.
    fn upgrade_to(&mut self, version: u32) -> Result<Instant, String> {
        let (asked_at, slow) = self.ask_slowly()?;
        println!("BUILT APP ({version})");
        let published = self.scene.publish_signed(self.build(version))?;
        self.app_writes(version, "listening...")?;
        self.says_hello_twice(version)?;
        if slow.is_finished() {
            return Err(format!("the slow request was over before version {version} answered: this machine is too busy for the story"));
        }
        let answer = slow.join().map_err(|_| "the slow client panicked")??;
        self.tell(&answer, version - 1)?;
        let left = self.app_writes(version - 1, "exiting...")?;
        if left < asked_at + SLOW {
            return Err(format!("version {} left {:?} before the slow request could be answered", version - 1, asked_at + SLOW - left));
        }
        match self.scene.installed_id()? {
            id if id == self.build(version).id => Ok(published),
            id => Err(format!("the file at the program's path has the ID {id}, not that of version {version}")),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        self.running.stop()?;
        self.app_writes(3, "exiting...")?;
        match self.scene.leftovers() {
            names if names.is_empty() => {}
            names => return Err(format!("files were left beside the program: {}", names.join(", "))),
        }
        for build in &self.builds[1..] {
            if let Some(downloads) = self.scene.server.downloads(build).filter(|downloads| *downloads != 1) {
                return Err(format!("version {} was downloaded {downloads} times", build.name));
            }
        }
        Ok(())
    }

    fn build(&self, version: u32) -> &'a Build {
        &self.builds[version as usize - 1]
    }

    fn ask_slowly(&self) -> Result<(Instant, JoinHandle<Result<Answer, String>>), String> {
        let asked = Asked::begin(self.running.address, &format!("/?d={}s", SLOW.as_secs()), SLOW + PATIENCE)?;
        Ok((Instant::now(), thread::spawn(move || asked.answer())))
    }

    /// The next line on the program's standard output is this one.
    fn app_writes(&mut self, version: u32, what: &str) -> Result<Instant, String> {
        let expected = format!("app#{version} ({}) {what}", self.build(version).id);
        let line = self.running.next_line(&expected)?;
        if line.text != expected {
            return Err(format!("the program wrote {:?} where {expected:?} belongs; {}", line.text, self.running.process.account()));
        }
        println!("{expected}");
        Ok(line.at)
    }

    /// Asks until `version` has answered twice. In its warm-up, the version before it still answers too, but no other does.
    fn says_hello_twice(&mut self, version: u32) -> Result<(), String> {
        for _ in 0..2 {
            let mut foreign = None;
            let answer = self.running.get_until(&format!("version {version}"), |answer| {
                if answer.version != version && answer.version + 1 != version {
                    foreign = Some(answer.text.clone());
                }
                answer.version == version || foreign.is_some()
            })?;
            self.running.check_parent(&answer)?;
            self.tell(&answer, version)?;
        }
        Ok(())
    }

    fn tell(&self, answer: &Answer, version: u32) -> Result<(), String> {
        let expected = format!("app#{version} ({}) says hello", self.build(version).id);
        if answer.text != expected {
            return Err(format!("{:?} was answered where {expected:?} belongs; {}", answer.text, self.running.process.account()));
        }
        println!("{expected}");
        Ok(())
    }
}

fn summary(tally: &Tally, published: &[(u32, Instant)], took: Duration) -> Result<(), String> {
    println!();
    println!("upgrades            {}", published.len());
    println!("requests            {} on new connections, {CLIENTS_PER_SECOND} a second", tally.samples.len());
    println!("failures            {}", tally.failures_in_words());
    for (version, published) in published {
        let first = tally.samples.iter().find(|sample| sample.outcome.is_ok_and(|by| by.version == *version));
        let first = first.ok_or_else(|| format!("no request of the steady stream was answered by version {version}"))?;
        println!("version {version}           answered {:.2?} after it was published", first.done.saturating_duration_since(*published));
    }
    println!("longest pause       {:.1?} between two answers", tally.longest_pause());
    println!("it took             {took:.1?}");
    if tally.failed() > 0 {
        return Err(format!("{} of {} requests failed: {}", tally.failed(), tally.samples.len(), tally.failures_in_words()));
    }
    Ok(())
}
