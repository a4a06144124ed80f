//! `cargo xtask bench serving`: what those who use a service see of its restarts and upgrades, under overseer and under its peers.
//!
//! All servers answer the same few bytes to the same clients on the same machine in the same run, in turn, round after round: the handler of
//! `xtask/peers` on hyper under overseer, ecdysis, shellflip and nobody, nginx and HAProxy, and four of the examples, one of which answers datagrams. A number that the README promises has a
//! limit; a limit that is not kept fails the benchmark.

mod answer;
mod clients;
mod connections;
mod datagrams;
mod http2;
mod jobs;
mod results;
mod rounds;
mod subjects;
mod timeline;

use super::build;
use super::report::Report;
use super::{proc, process};
use crate::ci;
use clap::ValueEnum;
use clients::{Clients, Habit};
use jobs::{Round, Scene};
use results::Results;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use subjects::{Kind, Served, Speech, Subject};

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

/// The examples that are measured: their names, what the report calls them, and what they speak.
const EXAMPLES: [(&str, &str, Speech); 4] = [
    ("hyper", "example hyper", Speech::Http2),
    ("axum", "example axum", Speech::Http2),
    ("std_threads", "example std_threads", Speech::Http1),
    ("udp_echo", "example udp_echo", Speech::Datagrams),
];

/// Connections that ask as fast as they are answered, to see how much a server can do.
const BUSY: u32 = 64;
/// For how long, each time: shorter than what else goes on on a machine, so that it hits both of a pair.
const BUSY_TIME: Duration = Duration::from_millis(400);
/// How often two servers are compared in a round.
const BUSY_PAIRS: u32 = 10;

pub(crate) fn run(plan: &Plan) -> Result<(), String> {
    if plan.rates.is_empty() || plan.rounds == 0 {
        return Err("there must be at least one rate and one round".to_owned());
    }
    let begun_under = load_average();
    let directory = process::directory("serving")?;
    let http2 = build::http2_clients()?;
    let subjects = subjects(plan, &directory)?;
    let plain = server(&directory, "plain", Kind::Plain, Speech::Http2, build::peer("plain")?)?;

    let scene = Scene { plan, subjects: &subjects, directory: &directory, http2: &http2 };
    let rounds: Vec<Round> = (0..plan.rounds).map(|number| Round::new(number, plan, &subjects)).collect();
    let throughput_time = BUSY_TIME * 2 * (BUSY_PAIRS + 1) * plan.rounds.max(3);
    let expected = rounds.iter().map(|round| round.expected(scene)).sum::<Duration>() + throughput_time;
    let begun = Instant::now();
    eprintln!("everything is built; this takes about {} min", expected.as_secs().div_ceil(60));
    let mut results = Results::new(&subjects, plan.rates.len());
    for round in &rounds {
        round.run(scene, |job, seen| results.add(job, seen))?;
    }
    eprintln!("measuring throughput");
    let throughput = throughput(subjects.first().ok_or("there is no server")?, &plain, &directory, plan.rounds)?;
    let took = begun.elapsed();

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
        "expected_s": expected.as_secs(), "took_s": took.as_secs(),
    });
    let target = ci::root().join("target");
    report.write(&target.join("serving.json"), about)?;
    for (name, text) in [("serving.svg", timeline::draw(&results.lanes())), ("serving.md", report.markdown())] {
        let path = target.join(name);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    println!("\nwritten to {}/serving.json, .svg and .md after {} s", target.display(), took.as_secs());
    match report.missed() {
        missed if missed.is_empty() => Ok(()),
        missed => Err(format!("limits were not kept:\n  {}", missed.join("\n  "))),
    }
}

/// What is there to be measured; the first one is the handler of the peers under overseer.
fn subjects(plan: &Plan, directory: &Path) -> Result<Vec<Subject>, String> {
    let peer = |name: &'static str, kind| server(directory, name, kind, Speech::Http2, build::peer(name)?);
    let mut subjects = vec![peer("overseer", Kind::Overseer)?];
    for (example, name, speech) in EXAMPLES {
        let server = server(directory, name, Kind::Overseer, speech, build::example(example)?)?;
        subjects.push(Subject { is_example: true, ..server });
    }
    for which in &plan.peers {
        let installed = |name: &'static str, kind| {
            let found = installed(name);
            if found.is_none() {
                println!("{name} is not installed, so it is left out; get it with: apt-get install {name}");
            }
            found.map(|path| Subject { name, kind, is_example: false, speech: Speech::Http1, path })
        };
        subjects.extend(match which {
            Peer::Ecdysis => Some(peer("ecdysis", Kind::Ecdysis)?),
            Peer::Shellflip => Some(peer("shellflip", Kind::Shellflip)?),
            Peer::Nginx => installed("nginx", Kind::Nginx),
            Peer::Haproxy => installed("haproxy", Kind::Haproxy),
        });
    }
    Ok(subjects)
}

/// A program of ours, at a place of its own.
fn server(directory: &Path, name: &'static str, kind: Kind, speech: Speech, built: PathBuf) -> Result<Subject, String> {
    let home = directory.join(name.replace(' ', "-"));
    fs::create_dir(&home).map_err(|error| format!("cannot make {}: {error}", home.display()))?;
    let path = home.join("server");
    fs::copy(&built, &path).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(Subject { name, kind, is_example: false, speech, path })
}

/// Where a server of the system is. Those who are not root do not have the directories of its administrator in their PATH.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
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
