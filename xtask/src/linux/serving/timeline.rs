//! A picture of what clients see around a restart: who answers when, and where a request fails.
//!
//! All restarts of a server lie over each other in one lane. An SVG by hand, which follows the light and the dark of the page that it is in.

use super::rounds::Seen;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// From when to when it is drawn, before and after the restart.
const BEFORE: Duration = Duration::from_millis(200);
const AFTER: Duration = Duration::from_millis(1800);
/// What one column stands for.
const COLUMN: Duration = Duration::from_millis(10);
const COLUMNS: usize = 200;

/// The picture's measures.
const LEFT: usize = 170;
const COLUMN_WIDTH: usize = 4;
const LANE: usize = 84;
const BARS: usize = 56;
const TOP: usize = 64;

/// What happened around the restarts of one server.
pub(super) struct Lane {
    name: String,
    columns: Vec<Column>,
    restarts: usize,
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
        Self { name: name.to_owned(), columns: vec![Column::default(); COLUMNS], restarts: 0 }
    }

    /// Lays the restarts of one run over those that are there.
    pub(super) fn add(&mut self, seen: &Seen) {
        self.restarts += seen.changes.len();
        for sample in seen.heard.iter().flat_map(|heard| &heard.tally.samples) {
            for change in &seen.changes {
                let Some(column) = column(change.at, sample.done).and_then(|index| self.columns.get_mut(index)) else { continue };
                match sample.outcome {
                    Ok(who) if who == change.who => column.new += 1,
                    Ok(_) => column.old += 1,
                    Err(_) => column.failed += 1,
                }
            }
        }
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
        "<text x=\"{LEFT}\" y=\"22\" font-weight=\"600\">Answers around a restart, all restarts laid over each other, in columns of {} ms</text>",
        COLUMN.as_millis()
    );
    for (x, class, what) in
        [(0, "old", "old generation"), (150, "new", "new generation"), (300, "failed", "failed requests, with their number")]
    {
        put!(
            svg,
            "<rect class=\"{class}\" x=\"{}\" y=\"34\" width=\"12\" height=\"12\"/><text x=\"{}\" y=\"45\">{what}</text>",
            LEFT + x,
            LEFT + x + 18
        );
    }
}

fn draw_lane(svg: &mut String, lane: &Lane, top: usize) {
    let base = top + BARS;
    let most = lane.columns.iter().map(|column| column.new + column.old).max().unwrap_or_default().max(1) as usize;
    let failed: u32 = lane.columns.iter().map(|column| column.failed).sum();
    put!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-weight=\"600\">{}</text>", LEFT - 12, top + 24, lane.name);
    put!(
        svg,
        "<text class=\"faint\" x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"11\">{} restarts, {failed} failed</text>",
        LEFT - 12,
        top + 42,
        lane.restarts
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
    for (index, column) in lane.columns.iter().enumerate().filter(|(_, column)| column.failed > 0) {
        let x = LEFT + index * COLUMN_WIDTH + COLUMN_WIDTH / 2;
        put!(svg, "<circle class=\"failed\" cx=\"{x}\" cy=\"{}\" r=\"4\"><title>{} failed</title></circle>", base + 7, column.failed);
        put!(svg, "<text class=\"failed\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"9\">{}</text>", base + 21, column.failed);
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
    use crate::linux::load::{Failure, Sample, Tally};

    #[test]
    fn answers_and_failures_lie_in_the_column_of_their_time() {
        let at = Instant::now() + Duration::from_secs(1);
        let sample = |milliseconds: u64, outcome| Sample { due: at, done: at - BEFORE + Duration::from_millis(milliseconds), outcome };
        let samples = vec![sample(5, Ok(1)), sample(205, Ok(2)), sample(206, Ok(1)), sample(219, Err(Failure::Cut)), sample(2_000, Ok(2))];
        let heard = Heard { tally: Tally { samples }, ..Heard::nothing(Habit::New { per_second: 1 }) };
        let seen = Seen { heard: vec![heard], changes: vec![Change { at, answered: at, who: 2 }], ..Seen::default() };
        let mut lane = Lane::new("a server");
        lane.add(&seen);
        assert_eq!(lane.columns[0], Column { old: 1, ..Column::default() });
        assert_eq!(lane.columns[20], Column { new: 1, old: 1, failed: 0 });
        assert_eq!(lane.columns[21], Column { failed: 1, ..Column::default() });
        assert_eq!(lane.columns.iter().map(|column| column.new).sum::<u32>(), 1, "the last one is outside");
        let svg = draw(&[lane]);
        assert!(svg.contains("1 restarts, 1 failed") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
