//! A fetcher of one's own: releases lie in a directory as `server-1.2.3`, and the highest version is taken.
//!
//! It shows how little a fetcher has to do: name its source, and answer the release that is there unless it is settled. When to look,
//! what to remember, proving and installing belong to core. The tests at the end show that it can be tested without any of that.
//!
//! To try it:
//!
//! ```sh
//! cargo build -p overseer-examples --bin custom_fetcher && install target/debug/custom_fetcher /tmp/server
//! mkdir -p /tmp/releases && RELEASES=/tmp/releases /tmp/server &
//! curl telnet://127.0.0.1:3003
//! SERVER_VERSION=1.10.0 cargo build -p overseer-examples --bin custom_fetcher
//! cp target/debug/custom_fetcher /tmp/releases/.copy && mv /tmp/releases/.copy /tmp/releases/server-1.10.0
//! ```

use overseer_core::{Config, FetchError, Fetcher, Known, Look, Release, State, run};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const VERSION: &str = match option_env!("SERVER_VERSION") {
    Some(version) => version,
    None => "1.0.0",
};

fn main() -> ExitCode {
    let directory = std::env::var_os("RELEASES").unwrap_or_else(|| "/tmp/releases".into());
    run(Config::new(program).address("127.0.0.1:3003").fetcher(Directory { path: directory.into() }))
}

fn program(state: State) -> io::Result<()> {
    for connection in state.listener().incoming() {
        // A client that hung up is no reason to end.
        let _ = writeln!(connection?, "hello from version {VERSION}");
    }
    Ok(())
}

/// A directory with one file for each release.
struct Directory {
    path: PathBuf,
}

impl Fetcher for Directory {
    fn source(&self) -> String {
        self.path.display().to_string()
    }

    fn check(&self) -> Result<(), FetchError> {
        if self.path.is_absolute() {
            return Ok(());
        }
        Err(FetchError::settings(format!("RELEASES={} is not an absolute path", self.path.display())))
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        let passing = |error: io::Error| FetchError::passing(format!("cannot read {}: {error}", self.path.display()));
        let names = fs::read_dir(&self.path).map_err(passing)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let Some((version, name)) = names.filter_map(|name| Some((version(&name)?, name))).max() else {
            return Ok(Look::unchanged());
        };
        // The name is the tag: whoever publishes under a name that was used before publishes nothing.
        if version <= version_numbers(VERSION).unwrap_or_default() || known.is_settled(&name) {
            return Ok(Look::unchanged());
        }
        let file = File::open(self.path.join(&name)).map_err(passing)?;
        let size_bytes = file.metadata().map_err(passing)?.len();
        Ok(Look::release(Release::new(name.clone(), name, file).size_bytes(size_bytes)))
    }
}

/// The version in the name of a release.
fn version(name: &str) -> Option<Vec<u64>> {
    version_numbers(name.strip_prefix("server-")?)
}

/// `1.10.0` is newer than `1.9.0`.
fn version_numbers(text: &str) -> Option<Vec<u64>> {
    text.split('.').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases(names: &[&str]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("custom_fetcher-{}-{}", std::process::id(), names.len()));
        fs::create_dir_all(&path).expect("a directory");
        for name in names {
            fs::write(path.join(name), name).expect("a release");
        }
        path
    }

    #[test]
    fn the_highest_version_is_taken_once() {
        let path = releases(&["server-1.9.0", "server-1.10.0", ".copy", "notes.txt"]);
        let mut fetcher = Directory { path: path.clone() };
        let mut release = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
        assert_eq!(release.tag(), "server-1.10.0");
        let mut body = String::new();
        io::Read::read_to_string(release.body(), &mut body).expect("read");
        assert_eq!(body, "server-1.10.0");

        let known = Known::nothing().with_settled("server-1.10.0");
        assert!(fetcher.fetch(&known).expect("a look").is_unchanged());
        fs::remove_dir_all(path).expect("removed");
    }

    #[test]
    fn a_version_that_is_not_newer_is_no_release() {
        let path = releases(&["server-1.0.0"]);
        assert!(Directory { path: path.clone() }.fetch(&Known::nothing()).expect("a look").is_unchanged());
        fs::remove_dir_all(path).expect("removed");
    }
}
