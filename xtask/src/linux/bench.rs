//! `cargo xtask bench`: what a restart and an upgrade cost those who come in the meantime, and what the master costs while nothing
//! happens.
//!
//! Everything is measured on a release build from outside. A number that the README promises has a limit; a limit that is not kept
//! fails the benchmark.

use super::build::{self, Build, Profile};
use super::client::Asked;
use super::load::{Load, Sample, Tally};
use super::packing::Packing;
use super::proc;
use super::report::{Report, median_ms, milliseconds, spread};
use super::scene::{PATIENCE, Running, Scene};
use super::server::Kind;
use crate::ci;
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is measured for how long.
pub(crate) struct Plan {
    pub(crate) rate: u32,
    pub(crate) restarts: u32,
    pub(crate) upgrades: u32,
    pub(crate) idle_seconds: u64,
}

/// How often a start is measured.
const STARTS: usize = 20;
/// How long the slow request takes that is in flight at each restart.
const SLOW: Duration = Duration::from_secs(1);
/// How long the undisturbed load runs, to compare with.
const UNDISTURBED: Duration = Duration::from_secs(5);
/// How long looks are counted whose cost is measured.
const LOOKING: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

pub(crate) fn run(plan: &Plan) -> Result<(), String> {
    let scene = Scene::new("bench")?;
    let one = build::app(&scene.releases, Profile::Release, 1, None, &[])?;
    let two = build::app(&scene.releases, Profile::Release, 2, None, &[])?;
    let mut report = Report::default();
    let part = |what: &str| eprintln!("measuring {what}");

    part("starts");
    one.install_anew(&scene.path)?;
    scene.server.publish(&one)?;
    starts(&scene, &one, &mut report)?;
    if plan.restarts > 0 {
        part("restarts under load");
        restarts(&scene, plan, &mut report)?;
        part("restarts without overlap under load");
        restarts_alone(&scene, plan, &mut report)?;
    }
    if plan.upgrades > 0 {
        part("upgrades under load");
        upgrades(&scene, plan, &two, &mut report)?;
    }
    part("the idle master");
    idle(&scene, &one, plan, &mut report)?;
    part("looks at the source");
    looks(&scene, &one, &mut report)?;
    part("the memory of a download");
    downloads(&scene, &one, &two, &mut report)?;

    report.print();
    let path = ci::root().join("target/bench.json");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let about = json!({
        "requests_per_second": plan.rate, "restarts": plan.restarts, "upgrades": plan.upgrades, "idle_s": plan.idle_seconds,
        "cores": cores, "kernel": kernel.trim(), "binary_bytes": one.size_bytes()?,
    });
    report.write(&path, about)?;
    println!("\nwritten to {}", path.display());
    match report.missed() {
        missed if missed.is_empty() => Ok(()),
        missed => Err(format!("limits were not kept:\n  {}", missed.join("\n  "))),
    }
}

/// From the start of the process to its first answer, with a master and without, in turn.
fn starts(scene: &Scene, one: &Build, report: &mut Report) -> Result<(), String> {
    let (mut alone, mut mastered) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let running = Running::start(Command::new(&scene.path).args(["--listen", "127.0.0.1:0"]).env("OVERSEER", "off"))?;
        running.get("/")?;
        alone.push(running.started.elapsed());
        drop(running);
        // Nothing is remembered of a start before, not even the ID of the binary.
        one.install_anew(&scene.path)?;
        let running = scene.start(&[])?;
        running.get("/")?;
        mastered.push(running.started.elapsed());
        running.stop()?;
    }
    let later = median_ms(&mastered) - median_ms(&alone);
    report.tell("start_alone_ms", "start to first answer, program alone (ms)", median_ms(&alone), spread(&alone));
    report.tell("start_ms", "start to first answer, with a master (ms)", median_ms(&mastered), spread(&mastered));
    report.at_most("start_later_ms", "  later than alone (ms)", later, 50.0, "");
    Ok(())
}

fn restarts(scene: &Scene, plan: &Plan, report: &mut Report) -> Result<(), String> {
    let mut running = scene.start(&[])?;
    let load = Load::start(running.address, plan.rate)?;
    let undisturbed = Instant::now();
    running.process.exit_within(UNDISTURBED).map_or(Ok(()), |exit| Err(format!("the master ended: {exit:?}")))?;
    let disturbed = Instant::now();
    let mut changes = Changes::default();
    for _ in 0..plan.restarts {
        changes.see(&mut running, &load, |running| {
            running.process.signal(nix::sys::signal::Signal::SIGUSR2);
            Ok(Instant::now())
        })?;
    }
    let tally = load.stop()?;
    running.stop()?;

    let before = tally.due_between(undisturbed, disturbed);
    latencies(report, ["undisturbed_p50_ms", "undisturbed_p99_ms", "undisturbed_max_ms"], "undisturbed", &before);
    let during = tally.due_between(disturbed, Instant::now());
    report.at_most("restart_failed", format!("failed requests in {} restarts", plan.restarts), tally.failed() as f64, 0.0, {
        format!("of {}: {}", during.samples.len(), during.failures_in_words())
    });
    report.at_most("restart_slow_lost", "  requests in flight that were not answered", changes.lost as f64, 0.0, "");
    latencies(report, ["restart_p50_ms", "restart_p99_ms", "restart_max_ms"], "restarts", &during);
    report.tell("restart_pause_ms", "  longest pause (ms)", milliseconds(during.longest_pause()), "between two answers");
    report.tell("restart_first_ms", "signal to first answer of the new generation (ms)", median_ms(&changes.first), spread(&changes.first));
    Ok(())
}

/// Restarts of a program of which two must not run at once: clients wait until the next generation accepts.
fn restarts_alone(scene: &Scene, plan: &Plan, report: &mut Report) -> Result<(), String> {
    let mut running = scene.start(&["--overlap", "false"])?;
    let load = Load::start(running.address, plan.rate)?;
    let mut seen = load.done();
    let mut pauses = Vec::new();
    for _ in 0..plan.restarts {
        let before = running.get("/")?.generation;
        running.process.signal(nix::sys::signal::Signal::SIGUSR2);
        pauses.push(running.master_says("that a generation serves", PATIENCE, pause_told)?);
        running.master_says("that it took over", PATIENCE, |line| line.contains(" took over after ").then_some(()))?;
        load.wait_for(&mut seen, "answer of a new generation", PATIENCE, |sample: &Sample| {
            sample.outcome.is_ok_and(|by| by.generation > before).then_some(())
        })?;
    }
    let tally = load.stop()?;
    running.stop()?;

    report.at_most(
        "overlap_false_failed",
        format!("failed requests in {} restarts without overlap", plan.restarts),
        tally.failed() as f64,
        0.0,
        format!("of {}: {}", tally.samples.len(), tally.failures_in_words()),
    );
    report.tell("overlap_false_pause_ms", "  time without a serving generation (ms)", median_ms(&pauses), spread(&pauses));
    latencies(report, ["overlap_false_p50_ms", "overlap_false_p99_ms", "overlap_false_max_ms"], "restarts without overlap", &tally);
    Ok(())
}

/// For how long nobody served, if the line tells of that.
fn pause_told(line: &str) -> Option<Duration> {
    let (_, time) = line.strip_suffix("s without a serving generation")?.rsplit_once(" serves, after ")?;
    Duration::try_from_secs_f64(time.parse().ok()?).ok()
}

fn upgrades(scene: &Scene, plan: &Plan, two: &Build, report: &mut Report) -> Result<(), String> {
    let mut running = scene.start(&["--every", "200ms"])?;
    let load = Load::start(running.address, plan.rate)?;
    let (mut changes, mut away) = (Changes::default(), Vec::new());
    for number in 0..plan.upgrades {
        // The same program, and a release of its own: a few bytes longer each.
        let name = format!("upgrade-{number}");
        let release = two.padded(&name, scene.releases.join(&name), two.size_bytes()? + 1 + u64::from(number))?;
        changes.see(&mut running, &load, |_| scene.server.publish(&release))?;
        if scene.installed_id()? != release.id {
            return Err(format!("{name} is not at the program's path; {}", running.process.account()));
        }
        away.push(running.master_says("that the master was replaced", PATIENCE, time_away)?);
        if !proc::executes(running.process.pid(), &scene.path)? {
            return Err(format!("the master does not execute {name}; {}", running.process.account()));
        }
    }
    let tally = load.stop()?;
    running.stop()?;

    report.at_most("upgrade_failed", format!("failed requests in {} upgrades", plan.upgrades), tally.failed() as f64, 0.0, {
        format!("of {}: {}", tally.samples.len(), tally.failures_in_words())
    });
    report.at_most("upgrade_slow_lost", "  requests in flight that were not answered", changes.lost as f64, 0.0, "");
    latencies(report, ["upgrade_p50_ms", "upgrade_p99_ms", "upgrade_max_ms"], "upgrades", &tally);
    report.tell("upgrade_pause_ms", "  longest pause (ms)", milliseconds(tally.longest_pause()), "between two answers");
    let longest = away.iter().max().copied().unwrap_or_default();
    report.at_most("master_away_ms", "  longest time of the master away from its duties (ms)", milliseconds(longest), 20.0, spread(&away));
    report.tell("upgrade_first_ms", "published to first answer of the release (ms)", median_ms(&changes.first), spread(&changes.first));
    Ok(())
}

/// How long nobody did the duties of the master while it was replaced, if the line tells of that.
pub(super) fn time_away(line: &str) -> Option<Duration> {
    let seconds = line.strip_prefix("the master runs ")?.rsplit_once("; it was away for ")?.1.strip_suffix('s')?;
    Duration::try_from_secs_f64(seconds.parse().ok()?).ok()
}

/// What was seen of several restarts or upgrades.
#[derive(Default)]
struct Changes {
    /// From the cause to the first answer of the new generation.
    first: Vec<Duration>,
    /// Slow requests that the old generation did not answer.
    lost: u32,
    /// The processes that have served before: an answer of theirs may still be on its way.
    served: Vec<i32>,
}

impl Changes {
    /// Has a request in flight, lets `cause` happen, and waits until the new generation is alone.
    fn see(&mut self, running: &mut Running, load: &Load, cause: impl FnOnce(&Running) -> Result<Instant, String>) -> Result<(), String> {
        let old = running.get("/")?.pid;
        self.served.push(old);
        let slow = Asked::begin(running.address, &format!("/?d={}ms", SLOW.as_millis()), SLOW + PATIENCE)?;
        let mut seen = load.done();
        let begun = cause(running)?;
        let first = load.wait_for(&mut seen, "answer of a new generation", PATIENCE, |sample: &Sample| {
            sample.outcome.is_ok_and(|by| !self.served.contains(&by.pid)).then_some(sample.done)
        });
        self.first.push(first.map_err(|wrong| format!("{wrong}; {}", running.process.account()))? - begun);
        if !slow.answer().is_ok_and(|answer| answer.pid == old) {
            self.lost += 1;
        }
        running.process_leaves()
    }
}

/// The memory and the wake-ups of a master that has nothing to do.
fn idle(scene: &Scene, one: &Build, plan: &Plan, report: &mut Report) -> Result<(), String> {
    // A master before it may have looked already, and its next look is an hour away.
    one.install_anew(&scene.path)?;
    scene.server.publish(one)?;
    let asked = scene.server.requests();
    let running = scene.start(&["--every", "1h"])?;
    let serving = running.get("/")?.pid;
    // The first look finds the running release; its process is gone when the master is alone with the child.
    scene.server.wait_for_requests(asked, 1, PATIENCE)?;
    running.wait_until_alone(serving)?;
    let master = running.process.pid();
    let lives_for = |time| running.process.exit_within(time).map_or(Ok(()), |exit| Err(format!("the idle master ended: {exit:?}")));
    // It may still be writing down what came of the look: that is over when it has slept through half a second, or never is.
    let deadline = Instant::now() + PATIENCE;
    let mut before = proc::sleeps(master)?;
    loop {
        lives_for(Duration::from_millis(500))?;
        let now = proc::sleeps(master)?;
        if now == before || Instant::now() > deadline {
            break;
        }
        before = now;
    }
    lives_for(Duration::from_secs(plan.idle_seconds))?;
    let woken = proc::sleeps(master)? - before;
    report.at_most("idle_wakeups", format!("wake-ups of the idle master in {} s", plan.idle_seconds), woken as f64, 0.0, "");
    report.at_most("idle_pss_kib", "  its memory (KiB, PSS)", proc::pss_kib(master)? as f64, 3072.0, "");
    report.at_most("idle_threads", "  its threads", proc::threads(master)? as f64, 1.0, "");
    report.tell("idle_descriptors", "  its descriptors", proc::descriptors(master)? as f64, "");
    let child = nix::unistd::Pid::from_raw(serving);
    report.tell("idle_child_pss_kib", "memory of the child beside it (KiB, PSS)", proc::pss_kib(child)? as f64, "");
    running.stop()
}

/// The cost of a look that finds nothing, from many that follow each other without a pause.
fn looks(scene: &Scene, one: &Build, report: &mut Report) -> Result<(), String> {
    one.install_anew(&scene.path)?;
    scene.server.publish(one)?;
    let asked = scene.server.requests();
    let running = scene.start(&["--every", "1ms"])?;
    scene.server.wait_for_requests(asked, 5, PATIENCE)?;
    let heads = || scene.server.count(|request| request.kind == Kind::Head);
    let (begun, heads_before, time_before) = (Instant::now(), heads(), proc::time_of_reaped_children(running.process.pid())?);
    if let Some(exit) = running.process.exit_within(LOOKING) {
        return Err(format!("the master ended: {exit:?}"));
    }
    let count = u32::try_from(heads() - heads_before).unwrap_or(u32::MAX).max(1);
    let took = begun.elapsed() / count;
    let time = (proc::time_of_reaped_children(running.process.pid())? - time_before) / count;
    report.tell("look_cpu_ms", "processor time of a look (ms)", milliseconds(time), format!("mean of {count}"));
    report.tell("look_ms", "  duration of a look (ms)", milliseconds(took), "one after the other without a pause");
    running.stop()
}

/// The peak memory of the poll process for a small release and for one that is much longer, plain and packed.
fn downloads(scene: &Scene, one: &Build, two: &Build, report: &mut Report) -> Result<(), String> {
    for (packing, [small, large], what) in [
        (Packing::Plain, ["download_20_peak_kib", "download_500_peak_kib"], "plain"),
        (Packing::Gz, ["download_gz_20_peak_kib", "download_gz_500_peak_kib"], "as .gz"),
        (Packing::TarGz, ["download_tar_gz_20_peak_kib", "download_tar_gz_500_peak_kib"], "as .tar.gz"),
        (Packing::Zip, ["download_zip_20_peak_kib", "download_zip_500_peak_kib"], "as .zip"),
        (Packing::TarZst, ["download_tar_zst_20_peak_kib", "download_tar_zst_500_peak_kib"], "as .tar.zst"),
    ] {
        let mut peaks = Vec::new();
        for size_mib in [20, 500] {
            let name = format!("release-{size_mib}");
            let whole = two.padded(&name, scene.releases.join(&name), size_mib * MIB)?;
            let release = packing.pack(&whole, scene.releases.join(format!("{name}{}", packing.ending())))?;
            one.install_anew(&scene.path)?;
            scene.server.publish_packed(&release, packing.ending())?;
            let mut running = scene.start(&["--every", "1s"])?;
            let serving = running.get("/")?.pid;
            peaks.push(peak_until_proved(&mut running, serving)?);
            running.process_leaves()?;
            running.stop()?;
            for path in [&whole.path, &release.path] {
                // Plain, it is the same file.
                let _ = std::fs::remove_file(path);
            }
        }
        report.tell(small, format!("peak memory of a poll of 20 MiB, {what} (KiB)"), peaks[0] as f64, "");
        report.at_most(large, "  of 500 MiB (KiB)", peaks[1] as f64, peaks[0] as f64 + 10.0 * 1024.0, "");
    }
    Ok(())
}

/// The peak memory of the largest process of the master beside the serving one, until a release is proved.
fn peak_until_proved(running: &mut Running, serving: i32) -> Result<u64, String> {
    let deadline = Instant::now() + PATIENCE * 6;
    let mut peak = 0;
    while Instant::now() < deadline {
        for other in running.others_than(serving) {
            // It may have gone since.
            peak = peak.max(proc::peak_kib(other.pid).unwrap_or_default());
        }
        if running.master_says("", Duration::from_millis(1), |line| line.ends_with("is proved").then_some(())).is_ok() {
            return Ok(peak);
        }
    }
    Err(format!("the release was not proved in time; {}", running.process.account()))
}

fn latencies(report: &mut Report, [p50, p99, max]: [&'static str; 3], what: &str, tally: &Tally) {
    let histogram = tally.latencies_us();
    let count = || format!("of {} requests", histogram.len());
    report.tell(p50, format!("  latency, {what}, median (ms)"), histogram.value_at_quantile(0.5) as f64 / 1000.0, count());
    report.tell(p99, "    99 % (ms)", histogram.value_at_quantile(0.99) as f64 / 1000.0, "from when each was due");
    report.tell(max, "    longest (ms)", histogram.max() as f64 / 1000.0, "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_away_is_read_from_the_line_of_the_master() {
        assert_eq!(time_away("the master runs release 0badc0de1234 now; it was away for 0.004s"), Some(Duration::from_millis(4)));
        assert_eq!(time_away("generation 2 took over after 0.004s"), None);
    }
}
