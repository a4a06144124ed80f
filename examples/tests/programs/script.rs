//! What a test program is told to do: words, from the environment and from the end of its own file.
//!
//! A release of the tests is a copy of a built program with words appended, which the kernel does not mind. So each has an ID of its own, and
//! none has to be built. Words in the file come after those of the environment, and the last one of a name counts.

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// What the words begin with, at the end of a file.
pub(crate) const BEGINNING: &str = "\n#script# ";
/// The variable with the words that hold for all releases.
pub(crate) const VARIABLE: &str = "ACTOR";

pub(crate) struct Script(Vec<(String, String)>);

impl Script {
    pub(crate) fn read() -> Self {
        let all = std::env::var(VARIABLE).unwrap_or_default();
        let words = format!("{all} {}", at_end_of(Path::new("/proc/self/exe")));
        Self(words.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, ""))).map(|(a, b)| (a.into(), b.into())).collect())
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
    }

    /// `none` takes back what was said before.
    pub(crate) fn milliseconds(&self, name: &str) -> Option<Duration> {
        self.text(name).filter(|value| *value != "none")?;
        self.number(name).map(Duration::from_millis)
    }
}

fn at_end_of(file: &Path) -> String {
    let bytes = fs::read(file).expect("a program can read its own file");
    let beginning = BEGINNING.as_bytes();
    // The program itself holds the constant too, but not near its end.
    let end = &bytes[bytes.len().saturating_sub(4096)..];
    let place = end.windows(beginning.len()).rposition(|window| window == beginning);
    place.map(|place| String::from_utf8_lossy(&end[place + beginning.len()..]).into_owned()).unwrap_or_default()
}
