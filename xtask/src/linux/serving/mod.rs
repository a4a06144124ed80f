//! `cargo xtask bench serving`: what those who use a service see of its restarts and upgrades, under overseer and under its peers.
//!
//! All servers answer the same few bytes to the same clients on the same machine in the same run, in turn, round after round: the handler of
//! `xtask/peers` on hyper under overseer, ecdysis, shellflip and nobody, nginx and HAProxy, and three of the examples. A number that the README promises has a
//! limit; a limit that is not kept fails the benchmark.

mod answer;
mod clients;
mod http2;
mod rounds;
mod subjects;
mod timeline;

use super::build::{self, Build};
use super::report::{Report, median_ms, milliseconds, spread};
use super::{proc, process};
use crate::ci;
use clap::ValueEnum;
use clients::{Clients, Habit, Heard};
use rounds::{Course, Seen, WINDOW};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use subjects::{Kind, Served, Subject};

/// What is measured, and how often.
pub(crate) struct Plan {
    pub(crate) restarts: u32,
    pub(crate) upgrades: u32,
    pub(crate) rounds: u32,
    /// New connections a second. At the first rate, all other clients come as well; at the last one, times are taken.
    pub(crate) rates: Vec<u32>,
    pub(crate) peers: Vec<Peer>,
}

/// Whom overseer is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    Ecdysis,
    Shellflip,
    Nginx,
    Haproxy,
}

/// Connections that ask as fast as they are answered, to see how much a server can do.
const BUSY: u32 = 64;
/// For how long, each time: shorter than what else goes on on a machine, so that it hits both of a pair.
const BUSY_TIME: Duration = Duration::from_millis(400);
/// How often two servers are compared in a round.
const BUSY_PAIRS: u32 = 10;
/// What a new version takes that reads a cache before it listens.
const SLOW_START: &str = "500";

pub(crate) fn run(plan: &Plan) -> Result<(), String> {
    if plan.rates.is_empty() || plan.rounds == 0 {
        return Err("there must be at least one rate and one round".to_owned());
    }
    let begun_under = load_average();
    let directory = process::directory("serving")?;
    let http2 = build::http2_clients()?;
    let subjects = subjects(plan, &directory)?;
    let plain = server(&directory, "plain", Kind::Plain, build::peer("plain")?)?;

    let mut results = Results::new(&subjects, plan.rates.len());
    for round in 0..plan.rounds {
        let share = |of: u32| of * (round + 1) / plan.rounds - of * round / plan.rounds;
        for (index, subject) in subjects.iter().enumerate() {
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, subject.name);
            if share(plan.restarts) > 0 {
                results.of[index].restart(subject, &directory, plan, share(plan.restarts), &http2)?;
            }
            if share(plan.upgrades) > 0 && subject.is_example {
                results.of[index].upgrade(subject, &directory, plan, round, share(plan.upgrades), &http2)?;
            }
        }
    }
    eprintln!("measuring throughput");
    let throughput = throughput(subjects.first().ok_or("there is no server")?, &plain, &directory, plan.rounds)?;

    let mut report = Report::default();
    results.report(plan, &mut report);
    report.at_most(
        "throughput_plain_to_serve",
        "time per request through serve, to that of hyper alone",
        throughput.ratio,
        1.0 / 0.98,
        throughput.note,
    );
    report.tell("throughput_cpu_ratio", "  processor time of the server", throughput.processor_ratio, throughput.processor_note);
    report.print();

    let about = json!({
        "restarts": plan.restarts, "upgrades": plan.upgrades, "rounds": plan.rounds, "rates": plan.rates,
        "servers": subjects.iter().map(|subject| subject.name).collect::<Vec<_>>(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from), "processor": processor(),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "load_average_before": begun_under, "load_average_after": load_average(),
    });
    let target = ci::root().join("target");
    report.write(&target.join("serving.json"), about)?;
    let lanes: Vec<timeline::Lane> = results.of.iter().map(Outcome::lane).collect();
    for (name, text) in [("serving.svg", timeline::draw(&lanes)), ("serving.md", report.markdown())] {
        let path = target.join(name);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    println!("\nwritten to {}/serving.json, .svg and .md", target.display());
    match report.missed() {
        missed if missed.is_empty() => Ok(()),
        missed => Err(format!("limits were not kept:\n  {}", missed.join("\n  "))),
    }
}

/// What is there to be measured; the first one is the handler of the peers under overseer.
fn subjects(plan: &Plan, directory: &Path) -> Result<Vec<Subject>, String> {
    let mut subjects = vec![server(directory, "overseer", Kind::Overseer, build::peer("overseer")?)?];
    for (name, key) in [("hyper", "example hyper"), ("axum", "example axum"), ("std_threads", "example std_threads")] {
        let example = server(directory, key, Kind::Overseer, build::example(name)?)?;
        subjects.push(Subject { is_example: true, speaks_http2: name != "std_threads", ..example });
    }
    for peer in &plan.peers {
        let installed = |name: &'static str, kind| {
            let found = installed(name);
            if found.is_none() {
                println!("{name} is not installed, so it is left out; get it with: apt-get install {name}");
            }
            found.map(|path| Subject { name, kind, is_example: false, speaks_http2: false, path })
        };
        subjects.extend(match peer {
            Peer::Ecdysis => Some(server(directory, "ecdysis", Kind::Ecdysis, build::peer("ecdysis")?)?),
            Peer::Shellflip => Some(server(directory, "shellflip", Kind::Shellflip, build::peer("shellflip")?)?),
            Peer::Nginx => installed("nginx", Kind::Nginx),
            Peer::Haproxy => installed("haproxy", Kind::Haproxy),
        });
    }
    Ok(subjects)
}

/// A program of ours, at a place of its own.
fn server(directory: &Path, name: &'static str, kind: Kind, built: PathBuf) -> Result<Subject, String> {
    let home = directory.join(name.replace(' ', "-"));
    fs::create_dir(&home).map_err(|error| format!("cannot make {}: {error}", home.display()))?;
    let path = home.join("server");
    fs::copy(&built, &path).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(Subject { name, kind, is_example: false, speaks_http2: true, path })
}

/// Where a server of the system is. Those who are not root do not have the directories of its administrator in their PATH.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Everything that was seen of all servers.
struct Results {
    of: Vec<Outcome>,
}

/// Everything that was seen of one server.
struct Outcome {
    name: &'static str,
    kind: Kind,
    is_example: bool,
    /// Restarts, by rate.
    restarts: Vec<Vec<Seen>>,
    upgrades: Vec<Seen>,
    slow_starts: Vec<Seen>,
}

/// What comes at the first rate.
fn all_habits(rate: u32) -> [Habit; 5] {
    [
        Habit::New { per_second: rate },
        Habit::Kept { connections: 100, per_second: 2000 },
        Habit::Thinking { connections: 100 },
        Habit::Slow { per_second: 20 },
        Habit::Silent,
    ]
}

impl Outcome {
    fn restart(&mut self, subject: &Subject, directory: &Path, plan: &Plan, restarts: u32, http2: &Path) -> Result<(), String> {
        for (index, rate) in plan.rates.iter().enumerate() {
            let all = all_habits(*rate);
            let habits = if index == 0 { &all[..] } else { &all[..1] };
            let http2 = (index == 0 && subject.speaks_http2).then_some(http2);
            // Times are taken at the last rate, where clients are not in each other's way.
            let compare = index + 1 == plan.rates.len() && matches!(subject.kind, Kind::Overseer | Kind::Ecdysis | Kind::Shellflip);
            let course = Course { habits, http2, restarts, compare: compare && !subject.is_example, arguments: &[] };
            self.restarts[index].push(rounds::restarts(subject, directory, &course)?);
        }
        if !subject.is_example && matches!(subject.kind, Kind::Overseer | Kind::Ecdysis | Kind::Shellflip) {
            let habits = &all_habits(plan.rates[0])[..1];
            let course = Course { habits, http2: None, restarts: restarts.div_ceil(4), compare: true, arguments: &[SLOW_START] };
            self.slow_starts.push(rounds::restarts(subject, directory, &course)?);
        }
        Ok(())
    }

    fn upgrade(&mut self, subject: &Subject, directory: &Path, plan: &Plan, round: u32, upgrades: u32, http2: &Path) -> Result<(), String> {
        let build = Build::of(subject.name, subject.path.clone())?;
        let looks_at = subject.path.with_file_name("release");
        let mut releases = Vec::new();
        for number in 0..upgrades {
            // The same program, and a release of its own: a few bytes longer each.
            let name = format!("release-{round}-{number}");
            let path = looks_at.with_file_name(&name);
            releases.push(build.padded(&name, path, build.size_bytes()? + 1 + u64::from(number))?.path);
        }
        let looks_at_text = looks_at.to_string_lossy();
        let course = Course {
            habits: &all_habits(plan.rates[0]),
            http2: subject.speaks_http2.then_some(http2),
            restarts: upgrades,
            compare: false,
            arguments: &[&looks_at_text],
        };
        self.upgrades.push(rounds::upgrades(subject, directory, &course, &looks_at, &releases)?);
        // The next round begins without a release.
        fs::remove_file(&looks_at).map_err(|error| format!("cannot remove {}: {error}", looks_at.display()))
    }

    /// From the signal to the first answer of the new generation, at the last rate.
    fn first_answers(&self) -> Vec<Duration> {
        let changes = self.restarts.last().into_iter().flatten().flat_map(|seen| &seen.changes);
        changes.map(|change| change.answered.saturating_duration_since(change.at)).collect()
    }

    fn lane(&self) -> timeline::Lane {
        let mut lane = timeline::Lane::new(self.name);
        for seen in self.restarts.last().into_iter().flatten() {
            lane.add(seen);
        }
        lane
    }
}

impl Results {
    fn new(subjects: &[Subject], rates: usize) -> Self {
        let outcome = |subject: &Subject| Outcome {
            name: subject.name,
            kind: subject.kind,
            is_example: subject.is_example,
            restarts: (0..rates).map(|_| Vec::new()).collect(),
            upgrades: Vec::new(),
            slow_starts: Vec::new(),
        };
        Self { of: subjects.iter().map(outcome).collect() }
    }

    fn report(&self, plan: &Plan, report: &mut Report) {
        for outcome in &self.of {
            for (rate, seen) in plan.rates.iter().zip(&outcome.restarts) {
                failures(report, outcome, "restart", &format!("new connections at {rate}/s"), seen, |habit| {
                    matches!(habit, Habit::New { .. })
                });
            }
            if let Some(seen) = outcome.restarts.first() {
                failures_of_all(report, outcome, "restart", seen);
            }
        }
        for outcome in self.of.iter().filter(|outcome| !outcome.upgrades.is_empty()) {
            let what = format!("new connections at {}/s", plan.rates[0]);
            failures(report, outcome, "upgrade", &what, &outcome.upgrades, |habit| matches!(habit, Habit::New { .. }));
            failures_of_all(report, outcome, "upgrade", &outcome.upgrades);
        }
        self.first_answers(plan, report);
        for outcome in &self.of {
            outcome.latencies(report);
        }
        for outcome in &self.of {
            outcome.pauses(report);
        }
        let masters = self.of.iter().filter(|outcome| outcome.kind == Kind::Overseer);
        let seen = masters.flat_map(|outcome| outcome.restarts.iter().flatten().chain(&outcome.upgrades));
        if let Some(most) = seen.map(|seen| seen.master_pss_kib).max() {
            report.at_most(
                "master_pss_kib",
                "memory of a master of overseer after a round (KiB, PSS)",
                most as f64,
                3072.0,
                "the most of all",
            );
        }
    }

    fn first_answers(&self, plan: &Plan, report: &mut Report) {
        let rate = plan.rates.last().copied().unwrap_or_default();
        let mut best: Option<(f64, &str)> = None;
        let mut own = None;
        for outcome in &self.of {
            let times = outcome.first_answers();
            if times.is_empty() {
                continue;
            }
            let median = median_ms(&times);
            let what = format!("signal to first answer of the new generation at {rate}/s, {} (ms)", outcome.name);
            report.tell(key(&["first", outcome.name, "ms"]), what, median, spread(&times));
            if outcome.kind != Kind::Overseer && best.is_none_or(|(other, _)| median < other) {
                best = Some((median, outcome.name));
            }
            if outcome.kind == Kind::Overseer && !outcome.is_example {
                own = Some(median);
            }
        }
        if let (Some(own), Some((best, name))) = (own, best) {
            report.at_most("first_to_best_peer", "  overseer to the best peer", own / best, 1.2, format!("medians; the best is {name}"));
        }
    }
}

impl Outcome {
    /// Latencies after restarts, to those of a neighbour that executes the same program.
    fn latencies(&self, report: &mut Report) {
        let Some(seen) = self.restarts.last() else { return };
        let pooled = |begins: fn(&Seen) -> Vec<Instant>, after| {
            let mut histogram = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid");
            for seen in seen {
                // Bounds are the same, so this cannot fail.
                let _ = histogram.add(seen.in_windows(begins(seen), after).latencies_us());
            }
            histogram
        };
        let calm = pooled(|seen| seen.undisturbed.clone(), Duration::ZERO);
        if calm.is_empty() {
            return;
        }
        let ms = |histogram: &hdrhistogram::Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let name = self.name;
        report.tell(key(&["calm_p99", name, "ms"]), format!("latency while a neighbour starts, {name}, 99 % (ms)"), ms(&calm, 0.99), "");
        report.tell(key(&["calm_p999", name, "ms"]), "  99.9 % (ms)", ms(&calm, 0.999), format!("of {} requests", calm.len()));
        for (word, when, begins) in [
            (
                "start",
                "in the second after a restart",
                (|seen| seen.changes.iter().map(|change| change.at).collect()) as fn(&Seen) -> Vec<Instant>,
            ),
            ("drain", "in the second in which the old one leaves", |seen| {
                seen.changes.iter().map(|change| change.answered + WINDOW * 9 / 10).collect()
            }),
        ] {
            let after = pooled(begins, Duration::ZERO);
            let ratio = ms(&after, 0.99) / ms(&calm, 0.99);
            report.tell(key(&[word, "p99", name, "ms"]), format!("  {when}, 99 % (ms)"), ms(&after, 0.99), "");
            report.tell(key(&[word, "p999", name, "ms"]), "    99.9 % (ms)", ms(&after, 0.999), format!("of {} requests", after.len()));
            let key = key(&[word, "p99_ratio", name]);
            match self.kind {
                Kind::Overseer => report.at_most(key, "    99 %, to those beside a neighbour", ratio, 1.5, ""),
                _ => report.tell(key, "    99 %, to those beside a neighbour", ratio, ""),
            }
        }
    }

    /// What a new version that starts slowly costs.
    fn pauses(&self, report: &mut Report) {
        let pauses = |begins: fn(&Seen) -> Vec<Instant>| -> Vec<Duration> {
            self.slow_starts.iter().flat_map(|seen| seen.pauses(begins(seen))).collect()
        };
        let after = pauses(|seen| seen.changes.iter().map(|change| change.at).collect());
        let calm = pauses(|seen| seen.undisturbed.clone());
        let (Some(longest), Some(longest_calm)) =
            (after.iter().max().copied().map(milliseconds), calm.iter().max().copied().map(milliseconds))
        else {
            return;
        };
        let what = format!("longest pause when a new version takes {SLOW_START} ms to start, {} (ms)", self.name);
        let note = format!("{longest_calm:.1} without a restart; in {} restarts", after.len());
        match self.kind {
            // A pause of a few milliseconds is a scheduler's.
            Kind::Overseer => report.at_most(
                key(&["slow_start_pause", self.name, "ms"]),
                what,
                longest,
                (longest_calm * 2.0).max(longest_calm + 10.0),
                note,
            ),
            _ => report.tell(key(&["slow_start_pause", self.name, "ms"]), what, longest, note),
        }
        failures(report, self, "slow_start", "while a new version starts slowly", &self.slow_starts, |habit| {
            matches!(habit, Habit::New { .. })
        });
    }
}

/// The rows of what comes at the first rate beside new connections.
fn failures_of_all(report: &mut Report, outcome: &Outcome, cause: &str, seen: &[Seen]) {
    failures(report, outcome, cause, "100 kept connections, 2000/s", seen, |habit| matches!(habit, Habit::Kept { .. }));
    failures(report, outcome, cause, "100 thinking connections", seen, |habit| matches!(habit, Habit::Thinking { .. }));
    failures(report, outcome, cause, "slow requests", seen, |habit| matches!(habit, Habit::Slow { .. }));
    failures(report, outcome, cause, "silent connections", seen, |habit| habit == Habit::Silent);
    let asked: u64 = seen.iter().map(|seen| seen.streams.asked).sum();
    if asked > 0 {
        let why: Vec<&str> = seen.iter().flat_map(|seen| &seen.streams.failures).map(String::as_str).collect();
        let note = why.first().map_or(format!("of {asked}"), |first| format!("of {asked}, the first: {first}"));
        row(report, outcome, cause, "HTTP/2 streams", why.len() as u64, note);
    }
}

/// The row of one habit.
fn failures(report: &mut Report, outcome: &Outcome, cause: &str, what: &str, seen: &[Seen], of: impl Fn(Habit) -> bool) {
    let heard: Vec<&Heard> = seen.iter().flat_map(|seen| &seen.heard).filter(|heard| of(heard.habit)).collect();
    if heard.is_empty() {
        return;
    }
    let sum = |count: fn(&Heard) -> u64| heard.iter().map(|heard| count(heard)).sum::<u64>();
    let (closed, too_late, asked) =
        (sum(|heard| heard.closed_idle), sum(|heard| heard.too_late), sum(|heard| heard.tally.samples.len() as u64));
    let mut failed = sum(|heard| heard.tally.failed() as u64);
    let mut notes = vec![format!("of {asked}")];
    let kinds: Vec<String> = heard.iter().filter(|heard| heard.tally.failed() > 0).map(|heard| heard.tally.failures_in_words()).collect();
    if !kinds.is_empty() {
        notes.push(kinds.join(" and "));
    }
    if heard.iter().any(|heard| heard.habit == Habit::Silent) {
        // Who was closed before it could ask has not been answered either.
        failed += closed;
    }
    if closed > 0 {
        notes.push(format!("{closed} connections closed while idle"));
    }
    if too_late > 0 {
        notes.push(format!("{too_late} asked after the grace"));
    }
    row(report, outcome, cause, what, failed, notes.join(", "));
}

fn row(report: &mut Report, outcome: &Outcome, cause: &str, what: &str, failed: u64, note: String) {
    let key = key(&[cause, "failed", outcome.name, what]);
    let what = format!("failed, {cause}s, {}: {what}", outcome.name).replace('_', " ");
    match outcome.kind {
        Kind::Overseer => report.at_most(key, what, failed as f64, 0.0, note),
        _ => report.tell(key, what, failed as f64, note),
    }
}

/// `restart_failed_example_axum_slow_requests`
fn key(words: &[&str]) -> String {
    let word = |text: &str| {
        text.to_lowercase()
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join("_")
    };
    words.iter().map(|text| word(text)).collect::<Vec<_>>().join("_")
}

struct Throughput {
    /// Time per request, to that of hyper alone.
    ratio: f64,
    processor_ratio: f64,
    note: String,
    processor_note: String,
}

/// What a request costs a server that has as much to do as it can.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    processor_seconds: f64,
}

/// How much a server can do, through `serve` and alone. Both run all the time, and are asked in turn for moments; what counts is the median of the ratios within pairs,
/// since what goes on on the machine meanwhile changes more from one second to the next than the servers differ.
fn throughput(served: &Subject, plain: &Subject, directory: &Path, rounds: u32) -> Result<Throughput, String> {
    let mut pairs = Vec::new();
    for _ in 0..rounds.max(3) {
        let servers = [served.start(directory, &[])?, plain.start(directory, &[])?];
        for number in 0..=BUSY_PAIRS {
            // Who is second in one pair is first in the next.
            let mut costs = [busy(&servers[number as usize % 2])?, busy(&servers[(number as usize + 1) % 2])?];
            costs.rotate_left(number as usize % 2);
            // The first time, neither is warm.
            if number > 0 {
                pairs.push(costs);
            }
        }
        for server in servers {
            server.stop()?;
        }
    }
    let ratios = |of: fn(&Cost) -> f64| {
        let mut ratios: Vec<f64> = pairs.iter().map(|[served, plain]| of(served) / of(plain)).collect();
        ratios.sort_by(f64::total_cmp);
        let quartile = |quarter: usize| ratios.get(ratios.len() * quarter / 4).copied().unwrap_or_default();
        (quartile(2), format!("{:.3} to {:.3} in half of {} pairs", quartile(1), quartile(3), ratios.len()))
    };
    let typical = |index: usize, of: fn(&Cost) -> f64| median(pairs.iter().map(|costs| of(&costs[index])).collect());
    let (ratio, spread) = ratios(|cost| cost.seconds);
    let (processor_ratio, processor_spread) = ratios(|cost| cost.processor_seconds);
    let per_second = |index| 1.0 / typical(index, |cost| cost.seconds);
    let microseconds = |index| 1e6 * typical(index, |cost| cost.processor_seconds);
    Ok(Throughput {
        ratio,
        processor_ratio,
        note: format!("{spread}; {:.0} and {:.0} requests a second on {BUSY} connections", per_second(0), per_second(1)),
        processor_note: format!("{processor_spread}; {:.2} and {:.2} µs", microseconds(0), microseconds(1)),
    })
}

/// Lets a server have as much to do as it can, for a moment.
fn busy(server: &Served) -> Result<Cost, String> {
    let processor_time = || -> Result<Duration, String> { server.processes().into_iter().map(proc::time_of).sum() };
    let before = processor_time()?;
    let clients = Clients::start(server.address, &[Habit::Busy { connections: BUSY }])?;
    let begun = Instant::now();
    server.watch(begun + BUSY_TIME)?;
    let heard = clients.stop()?;
    let used = processor_time()?.saturating_sub(before);
    let samples: Vec<_> = heard.into_iter().flat_map(|heard| heard.tally.samples).collect();
    // A busy machine may have let them ask for longer.
    let took = samples.iter().map(|sample| sample.done).max().map_or(BUSY_TIME, |last| last - begun);
    let answered = samples.iter().filter(|sample| sample.outcome.is_ok()).count();
    if answered < samples.len() || answered == 0 {
        return Err(format!("of {} requests on {BUSY} connections, {answered} were answered", samples.len()));
    }
    Ok(Cost { seconds: took.as_secs_f64() / answered as f64, processor_seconds: used.as_secs_f64() / answered as f64 })
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_of_words() {
        assert_eq!(
            key(&["restart", "failed", "example axum", "new connections at 1000/s"]),
            "restart_failed_example_axum_new_connections_at_1000_s"
        );
    }
}
