//! A picture of what clients see around a restart: who answers when, and where a request fails.
//!
//! All restarts of a server lie over each other in one lane. An SVG by hand, which follows the light and the dark of the page that it is in.

use super::rounds::Seen;
use crate::linux::load::Failure;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

/// From when to when it is drawn, before and after the restart. The next one may follow then.
const BEFORE: Duration = Duration::from_millis(200);
const AFTER: Duration = Duration::from_millis(1300);
/// What one column stands for.
const COLUMN: Duration = Duration::from_millis(10);
const COLUMNS: usize = 150;
/// Failed requests that are no further apart than this have one mark.
const MARK_COLUMNS: usize = 5;

/// The picture's measures.
const LEFT: usize = 190;
const COLUMN_WIDTH: usize = 6;
const LANE: usize = 84;
const BARS: usize = 52;
const TOP: usize = 100;

/// What happened around the restarts of one server.
pub(super) struct Lane {
    name: String,
    columns: Vec<Column>,
    restarts: usize,
    /// Requests that failed at other times.
    failed_elsewhere: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Column {
    /// Answers of the generation that was started, and of those before it.
    new: u32,
    old: u32,
    failed: u32,
}

impl Lane {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), columns: vec![Column::default(); COLUMNS], restarts: 0, failed_elsewhere: 0 }
    }

    /// Lays the restarts of one run over those that are there.
    pub(super) fn add(&mut self, seen: &Seen) {
        self.restarts += seen.changes.len();
        for sample in seen.heard.iter().flat_map(|heard| &heard.tally.samples) {
            // What is given up after some time has failed when it was sent.
            let at = if matches!(sample.outcome, Err(Failure::Lost | Failure::TimedOut)) { sample.due } else { sample.done };
            // Restarts are in order: the one before this moment, and the one that comes soon.
            let next = seen.changes.partition_point(|change| change.at <= at);
            let last = next.checked_sub(1).map(|index| &seen.changes[index]);
            if let Ok(who) = sample.outcome {
                for change in last.into_iter().chain(seen.changes.get(next)) {
                    let Some(column) = column(change.at, at) else { continue };
                    match who == change.who {
                        true => self.columns[column].new += 1,
                        false => self.columns[column].old += 1,
                    }
                }
            } else {
                // What comes after it has no part in it.
                match last.and_then(|change| column(change.at, at)) {
                    Some(column) => self.columns[column].failed += 1,
                    None => self.failed_elsewhere += 1,
                }
            }
        }
    }

    fn failed(&self) -> u32 {
        self.columns.iter().map(|column| column.failed).sum::<u32>() + self.failed_elsewhere
    }

    /// Where a mark is to be, and for how many failed requests it stands.
    fn marks(&self) -> Vec<(Range<usize>, u32)> {
        let mut marks: Vec<(Range<usize>, u32)> = Vec::new();
        for (index, column) in self.columns.iter().enumerate().filter(|(_, column)| column.failed > 0) {
            match marks.last_mut() {
                Some((columns, failed)) if index < columns.end + MARK_COLUMNS => {
                    columns.end = index + 1;
                    *failed += column.failed;
                }
                _ => marks.push((index..index + 1, column.failed)),
            }
        }
        marks
    }
}

/// The column of a moment, if it is in the picture.
fn column(restart: Instant, moment: Instant) -> Option<usize> {
    let after_begin = (moment + BEFORE).checked_duration_since(restart).filter(|after| *after < BEFORE + AFTER)?;
    usize::try_from(after_begin.as_millis() / COLUMN.as_millis()).ok()
}

/// The whole picture.
pub(super) fn draw(lanes: &[Lane]) -> String {
    let (width, height) = (LEFT + COLUMNS * COLUMN_WIDTH + 30, TOP + lanes.len() * LANE + 30);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">
<title>Answers by generation around a restart</title>
<style>
  svg {{ background: #ffffff; }} text {{ fill: #24292f; }} .faint {{ fill: #6e7781; }} .line {{ stroke: #8c959f; }}
  .old {{ fill: #8fb3d9; }} .new {{ fill: #1a7f4b; }} .failed {{ fill: #cf222e; }}
  @media (prefers-color-scheme: dark) {{
    svg {{ background: #0d1117; }} text {{ fill: #e6edf3; }} .faint {{ fill: #8d96a0; }} .line {{ stroke: #6e7681; }}
    .old {{ fill: #3d5a80; }} .new {{ fill: #3fb950; }} .failed {{ fill: #ff7b72; }}
  }}
</style>
"
    );
    legend(&mut svg);
    for (index, lane) in lanes.iter().enumerate() {
        draw_lane(&mut svg, lane, TOP + index * LANE);
    }
    axis(&mut svg, TOP + lanes.len() * LANE);
    svg.push_str("</svg>\n");
    svg
}

/// Writing to a String cannot fail.
macro_rules! put {
    ($svg:expr, $($what:tt)*) => {{ let _ = writeln!($svg, $($what)*); }};
}

fn legend(svg: &mut String) {
    put!(
        svg,
        "<text x=\"{LEFT}\" y=\"21\" font-size=\"15\" font-weight=\"600\">Who answers around a restart, and where requests fail</text>"
    );
    let columns = format!(
        "Each column: the answers within {} ms to all clients, with all restarts of a server laid over each other.",
        COLUMN.as_millis()
    );
    let overseer = "Under overseer both generations accept for 1 s; then the old one is told to leave and finishes what it has. Datagrams go to the new one only then.";
    for (y, line) in [(38, columns.as_str()), (53, overseer)] {
        put!(svg, "<text class=\"faint\" x=\"{LEFT}\" y=\"{y}\" font-size=\"11\">{line}</text>");
    }
    for (x, class, what) in [
        (0, "old", "old generation answers"),
        (190, "new", "new generation answers"),
        (380, "failed", "requests failed, and how many, below their time"),
    ] {
        put!(
            svg,
            "<rect class=\"{class}\" x=\"{}\" y=\"66\" width=\"12\" height=\"12\"/><text x=\"{}\" y=\"77\">{what}</text>",
            LEFT + x,
            LEFT + x + 18
        );
    }
}

fn draw_lane(svg: &mut String, lane: &Lane, top: usize) {
    let base = top + BARS;
    let most = lane.columns.iter().map(|column| column.new + column.old).max().unwrap_or_default().max(1) as usize;
    let (x, failed) = (LEFT - 12, lane.failed());
    put!(svg, "<text x=\"{x}\" y=\"{}\" text-anchor=\"end\" font-weight=\"600\">{}</text>", top + 18, lane.name);
    put!(svg, "<text class=\"faint\" x=\"{x}\" y=\"{}\" text-anchor=\"end\" font-size=\"11\">{} restarts</text>", top + 34, lane.restarts);
    let class = if failed > 0 { "failed" } else { "faint" };
    let elsewhere = match lane.failed_elsewhere {
        0 => String::new(),
        count => format!(", {count} not shown"),
    };
    put!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{}\" text-anchor=\"end\" font-size=\"11\">{failed} failed{elsewhere}</text>",
        top + 48
    );
    for (class, bottom, count) in [
        ("old", None, (|column: &Column| column.old) as fn(&Column) -> u32),
        ("new", Some((|column: &Column| column.old) as fn(&Column) -> u32), |column| column.new),
    ] {
        let mut path = String::new();
        for (index, column) in lane.columns.iter().enumerate().filter(|(_, column)| count(column) > 0) {
            let height = |count: u32| count as usize * BARS * 10 / most;
            let (from, size) = (bottom.map_or(0, |bottom| height(bottom(column))), height(count(column)));
            let y = (base * 10 - from) as f64 / 10.0;
            let _ = write!(path, "M{} {y}v-{}h{COLUMN_WIDTH}v{}z", LEFT + index * COLUMN_WIDTH, size as f64 / 10.0, size as f64 / 10.0);
        }
        put!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
    }
    for (columns, failed) in lane.marks() {
        let (x, width) = (LEFT + columns.start * COLUMN_WIDTH, columns.len() * COLUMN_WIDTH);
        put!(svg, "<rect class=\"failed\" x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"6\"/>", base + 3);
        let middle = x + width / 2;
        put!(
            svg,
            "<text class=\"failed\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\" font-weight=\"600\">{failed}</text>",
            base + 20
        );
    }
    put!(svg, "<path class=\"line\" d=\"M{LEFT} {base}h{}\" fill=\"none\"/>", COLUMNS * COLUMN_WIDTH);
}

fn axis(svg: &mut String, bottom: usize) {
    let at = |milliseconds: usize| LEFT + milliseconds * COLUMN_WIDTH / COLUMN.as_millis() as usize;
    let restart = at(BEFORE.as_millis() as usize);
    put!(svg, "<path class=\"line\" d=\"M{restart} {}V{bottom}\" stroke-dasharray=\"4 3\" fill=\"none\"/>", TOP - 6);
    for milliseconds in (0..=AFTER.as_millis() as usize).step_by(200) {
        let label = if milliseconds == 0 { "signal".to_owned() } else { format!("{milliseconds} ms") };
        put!(
            svg,
            "<text class=\"faint\" x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\">{label}</text>",
            restart + at(milliseconds) - LEFT,
            bottom + 14
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::clients::{Habit, Heard};
    use super::super::rounds::Change;
    use super::*;
    use crate::linux::load::Sample;

    /// Restarts 1.4 s after each other, by generations 2 and 3, and what became of requests so many milliseconds after the first.
    fn lane(restarts: u64, outcomes: &[(i64, Result<u64, Failure>)]) -> Lane {
        let first = Instant::now() + Duration::from_secs(10);
        let after = |milliseconds: i64| first - Duration::from_secs(5) + Duration::from_millis((5000 + milliseconds).cast_unsigned());
        let mut heard = Heard::nothing(Habit::New { per_second: 1 });
        let sample = |(milliseconds, outcome): &(i64, _)| Sample { due: first, done: after(*milliseconds), outcome: *outcome };
        heard.tally.samples.extend(outcomes.iter().map(sample));
        let change = |number: u64| {
            let at = after(1400 * number.cast_signed());
            Change { at, answered: at, who: 2 + number }
        };
        let mut lane = Lane::new("a server");
        lane.add(&Seen { heard: vec![heard], changes: (0..restarts).map(change).collect(), ..Seen::default() });
        lane
    }

    #[test]
    fn answers_and_failures_lie_in_the_column_of_their_time() {
        let lane = lane(1, &[(-195, Ok(1)), (5, Ok(2)), (6, Ok(1)), (19, Err(Failure::Cut)), (1300, Ok(2)), (4000, Err(Failure::Cut))]);
        assert_eq!(lane.columns[0], Column { old: 1, ..Column::default() });
        assert_eq!(lane.columns[20], Column { new: 1, old: 1, failed: 0 });
        assert_eq!(lane.columns[21], Column { failed: 1, ..Column::default() });
        assert_eq!(lane.columns.iter().map(|column| column.new).sum::<u32>(), 1, "one is outside");
        let svg = draw(&[lane]);
        assert!(svg.contains("1 restarts<") && svg.contains("2 failed, 1 not shown") && svg.ends_with("</svg>\n"), "{svg}");
    }

    #[test]
    fn what_lies_between_two_restarts_is_old_to_the_next_and_new_to_the_last() {
        let lane = lane(2, &[(1250, Ok(2)), (1250, Err(Failure::Cut)), (1405, Ok(3))]);
        assert_eq!(lane.columns[145], Column { new: 1, old: 0, failed: 1 });
        assert_eq!(lane.columns[5], Column { new: 0, old: 1, failed: 0 });
        assert_eq!(lane.columns[20], Column { new: 1, old: 0, failed: 0 });
        assert_eq!(lane.failed(), 1);
    }

    #[test]
    fn what_is_given_up_has_failed_when_it_was_sent() {
        let lane = lane(1, &[(1000, Err(Failure::Lost))]);
        assert_eq!(lane.columns[20], Column { failed: 1, ..Column::default() }, "all are due with the first restart");
    }

    #[test]
    fn failures_that_are_close_to_each_other_have_one_mark() {
        let failed = |milliseconds| (milliseconds, Err(Failure::Reset));
        let lane = lane(1, &[failed(1), failed(2), failed(33), failed(300)]);
        assert_eq!(lane.marks(), [(20..24, 3), (50..51, 1)]);
    }
}
