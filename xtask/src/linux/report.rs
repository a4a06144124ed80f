//! What was measured: a table for people, JSON for the rest.

use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Measurements, in the order in which they were made.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    /// The key in the JSON; its last word is the unit.
    key: String,
    what: String,
    value: f64,
    limit: Option<f64>,
    note: String,
}

impl Report {
    /// A number that is only told.
    pub(crate) fn tell(&mut self, key: impl Into<String>, what: impl Into<String>, value: f64, note: impl Into<String>) {
        self.rows.push(Row { key: key.into(), what: what.into(), value, limit: None, note: note.into() });
    }

    /// A number that must not be above `limit`.
    pub(crate) fn at_most(&mut self, key: impl Into<String>, what: impl Into<String>, value: f64, limit: f64, note: impl Into<String>) {
        self.rows.push(Row { key: key.into(), what: what.into(), value, limit: Some(limit), note: note.into() });
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
        println!("\n{:width$}  {:>12}  {:>10}", "", "measured", "at most");
        for row in &self.rows {
            let limit = row.limit.map(number).unwrap_or_default();
            let mark = if row.is_missed() { "MISSED " } else { "" };
            println!("{:width$}  {:>12}  {limit:>10}  {mark}{}", row.what, number(row.value), row.note);
        }
    }

    /// The table for a page.
    pub(crate) fn markdown(&self) -> String {
        let mut text = "| | measured | at most | |\n| --- | ---: | ---: | --- |\n".to_owned();
        for row in &self.rows {
            let limit = row.limit.map(number).unwrap_or_default();
            let mark = if row.is_missed() { "**missed** " } else { "" };
            text.push_str(&format!("| {} | {} | {limit} | {mark}{} |\n", row.what.trim(), number(row.value), row.note));
        }
        text
    }

    /// Writes the numbers as one JSON object with `about` among them.
    pub(crate) fn write(&self, path: &Path, about: Value) -> Result<(), String> {
        let rows: Map<String, Value> = self
            .rows
            .iter()
            .map(|row| (row.key.clone(), json!({ "value": row.value, "at_most": row.limit, "what": row.what, "note": row.note })))
            .collect();
        let text = format!("{:#}\n", json!({ "about": about, "measured": rows }));
        fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// The limits that were not kept.
    pub(crate) fn missed(&self) -> Vec<String> {
        self.rows
            .iter()
            .filter(|row| row.is_missed())
            .map(|row| format!("{}: {} (at most {})", row.what, number(row.value), number(row.limit.unwrap_or_default())))
            .collect()
    }
}

impl Row {
    fn is_missed(&self) -> bool {
        self.limit.is_some_and(|limit| self.value > limit)
    }
}

/// `12`, `1.25`
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The middle of some durations, in milliseconds.
pub(crate) fn median_ms(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().map(milliseconds).unwrap_or_default()
}

/// `4.1 to 9.8 in 20`: what a median leaves out.
pub(crate) fn spread(times: &[Duration]) -> String {
    let bound = |bound: Option<&Duration>| bound.copied().map(milliseconds).unwrap_or_default();
    format!("{:.1} to {:.1} in {}", bound(times.iter().min()), bound(times.iter().max()), times.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_above_its_limit_is_missed() {
        let mut report = Report::default();
        report.at_most("good", "a good one", 3.0, 3.0, "");
        report.at_most("bad", "a bad one", 3.5, 3.0, "");
        report.tell("other", "another", 99.0, "");
        assert_eq!(report.missed(), ["a bad one: 3.50 (at most 3)"]);
        assert!(report.markdown().ends_with("| a bad one | 3.50 | 3 | **missed**  |\n| another | 99 |  |  |\n"), "{}", report.markdown());
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let times = [5, 1, 3].map(Duration::from_millis);
        assert_eq!(number(median_ms(&times)), "3");
        assert_eq!(spread(&times), "1.0 to 5.0 in 3");
        assert_eq!(number(median_ms(&[])), "0");
    }
}
