//! What was measured: a table for people, JSON for the rest.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
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
    /// What it is the sum of.
    kinds: BTreeMap<String, u64>,
}

impl Report {
    /// A number that is only told.
    pub(crate) fn tell(&mut self, key: impl Into<String>, what: impl Into<String>, value: f64, note: impl Into<String>) {
        self.rows.push(Row { key: key.into(), what: what.into(), value, limit: None, note: note.into(), kinds: BTreeMap::new() });
    }

    /// A number that must not be above `limit`.
    pub(crate) fn at_most(&mut self, key: impl Into<String>, what: impl Into<String>, value: f64, limit: f64, note: impl Into<String>) {
        self.rows.push(Row { key: key.into(), what: what.into(), value, limit: Some(limit), note: note.into(), kinds: BTreeMap::new() });
    }

    /// Says what the last number is the sum of.
    pub(crate) fn by_kind(&mut self, kinds: BTreeMap<String, u64>) {
        if let Some(row) = self.rows.last_mut() {
            row.kinds = kinds;
        }
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
        let text = format!("{:#}\n", json!({ "about": about, "measured": self.json() }));
        fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    fn json(&self) -> Map<String, Value> {
        let value = |row: &Row| {
            let mut value = json!({ "value": row.value, "at_most": row.limit, "what": row.what.trim(), "note": row.note });
            if !row.kinds.is_empty() {
                value["kinds"] = json!(row.kinds);
            }
            value
        };
        self.rows.iter().map(|row| (row.key.clone(), value(row))).collect()
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
    fn the_kinds_of_a_number_are_in_the_json() {
        let mut report = Report::default();
        report.at_most("all", "all of them", 0.0, 0.0, "");
        report.tell("some", "some", 3.0, "");
        report.by_kind(BTreeMap::from([("cut".to_owned(), 1), ("reset".to_owned(), 2)]));
        let json = report.json();
        assert_eq!(json["some"]["kinds"], json!({ "cut": 1, "reset": 2 }));
        assert_eq!(json["all"], json!({ "value": 0.0, "at_most": 0.0, "what": "all of them", "note": "" }));
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let times = [5, 1, 3].map(Duration::from_millis);
        assert_eq!(number(median_ms(&times)), "3");
        assert_eq!(spread(&times), "1.0 to 5.0 in 3");
        assert_eq!(number(median_ms(&[])), "0");
    }
}
