//! What was seen of the servers, and the rows of the report that it makes.

use super::clients::{Habit, Heard};
use super::jobs::{Cause, Job, SILENT, SLOW_START};
use super::rounds::{LEAVES_AFTER, Seen};
use super::subjects::{Kind, Speech, Subject};
use super::{Plan, timeline};
use crate::linux::report::{Report, median_ms, milliseconds, spread};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A master of overseer may have so much.
const MASTER_PSS_KIB_MAX: f64 = 3072.0;

/// Everything that was seen of all servers.
pub(super) struct Results {
    of: Vec<Outcome>,
    master_pss_kib: u64,
}

/// Everything that was seen of one server.
struct Outcome {
    name: &'static str,
    kind: Kind,
    is_example: bool,
    speech: Speech,
    /// By rate.
    restarts: Vec<Vec<Seen>>,
    upgrades: Vec<Vec<Seen>>,
    slow_starts: Vec<Seen>,
}

impl Results {
    pub(super) fn new(subjects: &[Subject], rates: usize) -> Self {
        let by_rate = || (0..rates).map(|_| Vec::new()).collect();
        let outcome = |subject: &Subject| Outcome {
            name: subject.name,
            kind: subject.kind,
            is_example: subject.is_example,
            speech: subject.speech,
            restarts: by_rate(),
            upgrades: by_rate(),
            slow_starts: Vec::new(),
        };
        Self { of: subjects.iter().map(outcome).collect(), master_pss_kib: 0 }
    }

    /// Adds what was seen in a job.
    pub(super) fn add(&mut self, job: Job, seen: Seen) {
        let outcome = &mut self.of[job.subject];
        if outcome.kind == Kind::Overseer && job.is_alone {
            // Two that run at the same time share their program, and each seems to have less.
            self.master_pss_kib = self.master_pss_kib.max(seen.master_pss_kib);
        }
        match job.cause {
            Cause::Restart => outcome.restarts[job.rate].push(seen),
            Cause::Upgrade => outcome.upgrades[job.rate].push(seen),
            Cause::SlowStart => outcome.slow_starts.push(seen),
        }
    }

    pub(super) fn report(&self, plan: &Plan, report: &mut Report) {
        for (cause, of) in [
            (Cause::Restart, (|outcome| &outcome.restarts) as fn(&Outcome) -> &Vec<Vec<Seen>>),
            (Cause::Upgrade, |outcome| &outcome.upgrades),
        ] {
            for outcome in &self.of {
                outcome.failures(cause, of(outcome), plan, report);
            }
        }
        self.first_answers(plan, report);
        for outcome in &self.of {
            outcome.latencies(report);
        }
        for outcome in &self.of {
            outcome.pauses(report);
        }
        if self.master_pss_kib > 0 {
            let what = "memory of a master of overseer after a round (KiB, PSS)";
            report.at_most("master_pss_kib", what, self.master_pss_kib as f64, MASTER_PSS_KIB_MAX, "the most of all");
        }
    }

    /// For the picture.
    pub(super) fn lanes(&self) -> Vec<timeline::Lane> {
        let lane = |outcome: &Outcome| {
            let mut lane = timeline::Lane::new(outcome.name);
            outcome.restarts.iter().flatten().for_each(|seen| lane.add(seen));
            lane
        };
        self.of.iter().map(lane).collect()
    }

    fn first_answers(&self, plan: &Plan, report: &mut Report) {
        let rate = plan.rates.last().copied().unwrap_or_default();
        let mut best: Option<(f64, &str)> = None;
        let mut own = None;
        for outcome in self.of.iter().filter(|outcome| outcome.speech != Speech::Datagrams) {
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
    /// How many requests failed, for each habit of the clients.
    fn failures(&self, cause: Cause, by_rate: &[Vec<Seen>], plan: &Plan, report: &mut Report) {
        for (rate, seen) in plan.rates.iter().zip(by_rate) {
            let what = format!("new connections at {rate}/s");
            self.failures_of(report, cause, &what, seen, |habit| matches!(habit, Habit::New { .. }));
        }
        let Some(seen) = by_rate.first() else { return };
        self.failures_of(report, cause, "100 kept connections, 2000/s", seen, |habit| matches!(habit, Habit::Kept { .. }));
        self.failures_of(report, cause, "100 thinking connections", seen, |habit| matches!(habit, Habit::Thinking { .. }));
        self.failures_of(report, cause, "slow requests", seen, |habit| matches!(habit, Habit::Slow { .. }));
        self.failures_of(report, cause, "datagrams, 1000/s", seen, |habit| matches!(habit, Habit::Datagrams { .. }));
        self.silent_ones(report, cause, seen);
        let asked: u64 = seen.iter().map(|seen| seen.streams.asked).sum();
        if asked > 0 {
            let mut kinds = BTreeMap::<_, u64>::new();
            for why in seen.iter().flat_map(|seen| &seen.streams.failures) {
                *kinds.entry(why.clone()).or_default() += 1;
            }
            self.row(report, cause, "HTTP/2 streams", asked, kinds, Vec::new());
        }
    }

    /// The row of one habit.
    fn failures_of(&self, report: &mut Report, cause: Cause, what: &str, seen: &[Seen], of: impl Fn(Habit) -> bool) {
        let heard: Vec<&Heard> = seen.iter().flat_map(|seen| &seen.heard).filter(|heard| of(heard.habit)).collect();
        if heard.is_empty() {
            return;
        }
        let sum = |count: fn(&Heard) -> u64| heard.iter().map(|heard| count(heard)).sum::<u64>();
        let mut notes = Vec::new();
        match sum(|heard| heard.closed_idle) {
            0 => {}
            closed => notes.push(format!("{closed} connections closed while idle")),
        }
        match sum(|heard| heard.too_late) {
            0 => {}
            too_late => notes.push(format!("{too_late} asked after the grace")),
        }
        self.row(report, cause, what, sum(|heard| heard.tally.samples.len() as u64), kinds(&heard), notes);
    }

    /// The rows of those who say nothing for a while. All that came must have been answered.
    fn silent_ones(&self, report: &mut Report, cause: Cause, seen: &[Seen]) {
        let mut by_time = BTreeMap::<Duration, Vec<&Heard>>::new();
        for heard in seen.iter().flat_map(|seen| &seen.heard) {
            if let Habit::Silent { ask_after, .. } = heard.habit {
                by_time.entry(ask_after).or_default().push(heard);
            }
        }
        let came = u64::from(SILENT) * seen.iter().map(|seen| u64::from(seen.silences)).sum::<u64>();
        for (ask_after, heard) in by_time {
            let mut kinds = kinds(&heard);
            let over: u64 = heard.iter().map(|heard| heard.tally.samples.len() as u64).sum();
            if over < came {
                kinds.insert("nothing heard".to_owned(), came - over);
            }
            let what = format!("silent connections that ask {} s after", ask_after.as_secs_f64());
            self.row(report, cause, &what, came, kinds, Vec::new());
        }
    }

    fn row(&self, report: &mut Report, cause: Cause, what: &str, asked: u64, kinds: BTreeMap<String, u64>, notes: Vec<String>) {
        let key = key(&[cause.word(), "failed", self.name, what]);
        let what = format!("failed, {}s, {}: {what}", cause.word(), self.name);
        let failed = kinds.values().sum::<u64>() as f64;
        let in_words = kinds.iter().map(|(kind, count)| format!("{count} {kind}"));
        let note = std::iter::once(format!("of {asked}")).chain(in_words).chain(notes).collect::<Vec<_>>().join(", ");
        match self.kind {
            Kind::Overseer => report.at_most(key, what, failed, 0.0, note),
            _ => report.tell(key, what, failed, note),
        }
        report.by_kind(kinds);
    }

    /// From the signal to the first answer of the new generation, at the last rate.
    fn first_answers(&self) -> Vec<Duration> {
        let changes = self.restarts.last().into_iter().flatten().flat_map(|seen| &seen.changes);
        changes.map(|change| change.answered.saturating_duration_since(change.at)).collect()
    }

    /// Latencies after restarts, to those of a neighbour that executes the same program.
    fn latencies(&self, report: &mut Report) {
        let Some(seen) = self.restarts.last() else { return };
        let pooled = |begins: fn(&Seen) -> Vec<Instant>| {
            let mut histogram = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid");
            for seen in seen {
                // Bounds are the same, so this cannot fail.
                let _ = histogram.add(seen.in_windows(begins(seen)).latencies_us());
            }
            histogram
        };
        let calm = pooled(|seen| seen.undisturbed.clone());
        if calm.is_empty() {
            return;
        }
        let ms = |histogram: &hdrhistogram::Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let name = self.name;
        report.tell(key(&["calm_p99", name, "ms"]), format!("latency while a neighbour starts, {name}, 99 % (ms)"), ms(&calm, 0.99), "");
        report.tell(key(&["calm_p999", name, "ms"]), "  99.9 % (ms)", ms(&calm, 0.999), format!("of {} requests", calm.len()));
        let start: (_, _, fn(&Seen) -> Vec<Instant>) =
            ("start", "in the second after a restart", |seen| seen.changes.iter().map(|change| change.at).collect());
        let drain: (_, _, fn(&Seen) -> Vec<Instant>) = ("drain", "in the second in which the old one leaves", |seen| {
            seen.changes.iter().map(|change| change.answered + LEAVES_AFTER).collect()
        });
        // The old process of the others leaves in the second after the restart.
        let windows = if self.kind == Kind::Overseer { vec![start, drain] } else { vec![start] };
        for (word, when, begins) in windows {
            let after = pooled(begins);
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
        let what = format!("longest pause when a new version takes {} ms to start, {} (ms)", SLOW_START.as_millis(), self.name);
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
        self.failures_of(report, Cause::SlowStart, "while a new version starts slowly", &self.slow_starts, |habit| {
            matches!(habit, Habit::New { .. })
        });
    }
}

/// How often a request failed in which way.
fn kinds(heard: &[&Heard]) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for (kind, count) in heard.iter().flat_map(|heard| heard.tally.failures()) {
        *kinds.entry(kind.in_words().to_owned()).or_default() += count as u64;
    }
    kinds
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::load::{Failure, Sample};

    #[test]
    fn a_key_is_made_of_words() {
        assert_eq!(
            key(&["restart", "failed", "example axum", "new connections at 1000/s"]),
            "restart_failed_example_axum_new_connections_at_1000_s"
        );
    }

    fn outcome(kind: Kind) -> Outcome {
        let (restarts, upgrades) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
        Outcome { name: "a server", kind, is_example: false, speech: Speech::Http2, restarts, upgrades, slow_starts: Vec::new() }
    }

    /// What became of these requests.
    fn heard(habit: Habit, outcomes: &[Result<u64, Failure>]) -> Heard {
        let now = Instant::now();
        let mut heard = Heard::nothing(habit);
        heard.tally.samples.extend(outcomes.iter().map(|outcome| Sample { due: now, done: now, outcome: *outcome }));
        heard
    }

    fn missed(kind: Kind, seen: Vec<Seen>) -> Vec<String> {
        let plan = Plan { restarts: 1, upgrades: 1, rounds: 1, rates: vec![1000, 5000], peers: Vec::new() };
        let mut outcome = outcome(kind);
        outcome.restarts[0] = seen;
        let mut report = Report::default();
        Results { of: vec![outcome], master_pss_kib: 0 }.report(&plan, &mut report);
        report.missed()
    }

    #[test]
    fn one_failed_request_of_any_habit_misses_a_limit() {
        let silent = Habit::Silent { connections: SILENT, ask_after: Duration::from_millis(700) };
        for habit in [
            Habit::New { per_second: 1000 },
            Habit::Kept { connections: 100, per_second: 2000 },
            Habit::Thinking { connections: 100 },
            Habit::Slow { per_second: 20 },
            Habit::Datagrams { sockets: 50, per_second: 1000 },
            silent,
        ] {
            let answered = Seen { heard: vec![heard(habit, &[Ok(1); 10])], silences: 1, ..Seen::default() };
            let mut failed = answered.clone();
            failed.heard[0].tally.samples[3].outcome = Err(Failure::Cut);
            assert_eq!(missed(Kind::Overseer, vec![answered.clone()]), [""; 0], "{habit:?}");
            let limits = missed(Kind::Overseer, vec![answered, failed.clone()]);
            assert!(limits.len() == 1 && limits[0].ends_with(": 1 (at most 0)"), "{habit:?}: {limits:?}");
            assert_eq!(missed(Kind::Nginx, vec![failed]), [""; 0], "a peer has no limit");
        }
        let nine_came = Seen { heard: vec![heard(silent, &[Ok(1); 9])], silences: 1, ..Seen::default() };
        assert_eq!(missed(Kind::Overseer, vec![nine_came]).len(), 1);
        let streams = super::super::http2::Streams { asked: 10, failures: vec!["reset".to_owned()] };
        assert_eq!(missed(Kind::Overseer, vec![Seen { streams, ..Seen::default() }]).len(), 1);
    }
}
