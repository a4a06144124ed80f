//! A command-line tool that keeps itself up to date, in both ways that there are.
//!
//! - `tool upgrade` upgrades it now: [`Upgrade`] looks, downloads, proves and installs, with a bar on standard error if that is a terminal.
//! - `tool SECONDS` does its work, which is to count down, under `no_restart`: meanwhile its releases are looked for, proved and installed. The work is never
//!   interrupted, and ends with its own exit code.
//!
//! In both, the *next* run is the new version, and a run that ends before its download does has not begun it in vain: the next one goes on with it.
//!
//! To try it:
//!
//! ```sh
//! cargo build -p overseer-examples --bin self_upgrading_cli && install target/debug/self_upgrading_cli /tmp/tool
//! TOOL_VERSION=2 cargo build -p overseer-examples --bin self_upgrading_cli
//! export TOOL_RELEASES=target/debug/self_upgrading_cli    # or http://..
//! /tmp/tool 1           # counts down as version 1, and is likely to install version 2 meanwhile
//! /tmp/tool upgrade     # installs version 2, or says that it is up to date
//! /tmp/tool 1           # counts down as version 2
//! ```

use indicatif::{ProgressBar, ProgressStyle};
use overseer_core::{Config, File, Progress, State, Upgrade, UpgradeError, UpgradeOutcome, Upgrades, run, sanity_check};
use overseer_fetcher_http::HttpFetcher;
use std::process::ExitCode;
use std::time::Duration;

const VERSION: &str = match option_env!("TOOL_VERSION") {
    Some(version) => version,
    None => "1",
};

/// The minisign key that releases are signed with, if they are.
const KEY: Option<&str> = option_env!("TOOL_KEY");

fn main() -> ExitCode {
    // Before the arguments are looked at: when a release is checked, they are those of the version that checks it.
    sanity_check();
    // A real tool has the URL of its releases here.
    let releases = std::env::var("TOOL_RELEASES").ok();
    // Not `args`, which wants the path of the program to be text.
    let argument = std::env::args_os().nth(1).map(|argument| argument.to_string_lossy().into_owned());
    let seconds = match (argument.as_deref(), releases) {
        (Some("upgrade"), Some(releases)) => return upgrade(releases),
        (Some("upgrade"), None) => {
            eprintln!("TOOL_RELEASES does not say where the releases are");
            return ExitCode::from(2);
        }
        (Some(argument), releases) => argument.parse().map(|seconds| (seconds, releases)),
        (None, releases) => Ok((3, releases)),
    };
    match seconds {
        Ok((seconds, releases)) => work(seconds, releases),
        Err(wrong) => {
            eprintln!("the argument is neither upgrade nor a number of seconds: {wrong}");
            ExitCode::from(2)
        }
    }
}

fn is_url(releases: &str) -> bool {
    releases.contains("://")
}

/// The work of this tool, and what keeps it up to date beside it.
fn work(seconds: u32, releases: Option<String>) -> ExitCode {
    let config = Config::new(move |state| count_down(seconds, &state)).no_restart().upgrades(Upgrades::Install).trusted_keys(KEY);
    run(match releases {
        None => config,
        Some(url) if is_url(&url) => config.fetcher(HttpFetcher::new(url)),
        Some(path) => config.fetcher(File::new(path)),
    })
}

fn count_down(seconds: u32, state: &State) -> ExitCode {
    for left in (1..=seconds).rev() {
        println!("version {VERSION}: {left}");
        // It stops early when it is asked to leave.
        if state.draining().wait_timeout(Duration::from_secs(1)) {
            return ExitCode::FAILURE;
        }
    }
    println!("version {VERSION}: done");
    ExitCode::SUCCESS
}

/// Exit code 0 if the newest release runs now or is installed, 1 if there is one that is not good, 2 if none could be had.
fn upgrade(releases: String) -> ExitCode {
    let bar = Bar::new();
    let shown = bar.clone();
    let upgrade = if is_url(&releases) { Upgrade::new(HttpFetcher::new(releases)) } else { Upgrade::new(File::new(releases)) };
    let outcome = upgrade.trusted_keys(KEY).on_progress(move |progress| shown.show(progress)).run();
    bar.0.finish_and_clear();
    match outcome {
        Ok(outcome @ (UpgradeOutcome::UpToDate { .. } | UpgradeOutcome::Upgraded(_))) => {
            println!("{outcome}");
            ExitCode::SUCCESS
        }
        Ok(outcome) => {
            eprintln!("{outcome}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{}", advice(&error));
            ExitCode::from(2)
        }
    }
}

/// What went wrong, and what to do about it.
fn advice(error: &UpgradeError) -> String {
    let advice = match error {
        UpgradeError::Busy { .. } => "; it is upgraded by that already",
        UpgradeError::Replaced { .. } => "; it was upgraded meanwhile",
        UpgradeError::Unavailable { .. } => "; upgrade it in the way that it was installed",
        UpgradeError::Look { .. } => "; what came of the release is kept, and the next upgrade goes on with it",
        _ => "",
    };
    format!("{}{advice}", error.chain())
}

/// Draws nothing if standard error is no terminal.
#[derive(Clone)]
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        Self(ProgressBar::new_spinner())
    }

    fn show(&self, progress: Progress) {
        match progress {
            Progress::Looking => self.wait("looking for a release"),
            Progress::Downloading { bytes, bytes_total } => {
                if self.0.message() != "downloading" {
                    self.begin(bytes, bytes_total);
                }
                self.0.set_position(bytes);
            }
            Progress::Unpacking { .. } => self.wait("unpacking"),
            Progress::Checking => self.wait("checking"),
            Progress::Installing => self.wait("installing"),
            _ => {}
        }
    }

    /// Says what is done for which there is no number.
    fn wait(&self, what: &'static str) {
        if self.0.message() != what {
            self.0.set_style(style("{spinner} {msg}"));
            self.0.set_message(what);
        }
        self.0.tick();
    }

    fn begin(&self, bytes: u64, bytes_total: Option<u64>) {
        match bytes_total {
            Some(total) => {
                self.0.set_length(total);
                self.0.set_style(style("{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"));
            }
            None => self.0.set_style(style("{spinner} {msg} {bytes}, {bytes_per_sec}")),
        }
        self.0.set_message("downloading");
        // What an earlier run has fetched is neither fast nor slow.
        self.0.set_position(bytes);
        self.0.reset_eta();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is right").progress_chars("=> ")
}
