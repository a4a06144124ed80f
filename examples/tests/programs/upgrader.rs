//! A command-line tool of the process tests that calls `Upgrade`, in all the places from which one can.
//!
//! It writes a line for each progress, and `outcome ..` or `error ..` at the end.

mod script;

use overseer_core::{
    AsyncFetcher, Config, FetchError, Fetcher, File, Known, Look, Release, State, Upgrade, UpgradeOutcome, run, sanity_check,
};
use overseer_fetcher_http::HttpFetcher;
use script::Script;
use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::process::{ExitCode, exit};
use std::thread;
use std::time::Duration;

fn main() -> ExitCode {
    let script = Script::read();
    if !script.has("late") {
        sanity_check();
    }
    // What the arguments of another version mean.
    if let Some(known) = script.text("argument")
        && std::env::args().nth(1).as_deref() != Some(known)
    {
        eprintln!("there is no such argument");
        exit(64);
    }
    if let Some(path) = script.text("work") {
        fs::File::options().append(true).create(true).open(path).and_then(|mut file| file.write_all(b"work\n")).expect("worked");
    }
    if script.has("ignore_sigchld") {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { nix::sys::signal::signal(nix::sys::signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn) }.expect("ignored");
    }
    if script.has("threads") {
        for number in 0..4_usize {
            // Whoever forks while somebody allocates must not allocate after it.
            thread::spawn(move || {
                loop {
                    black_box(vec![number; 1000 + number]);
                }
            });
        }
    }
    if script.has("under_master") {
        return run(Config::new(|_: State| ExitCode::from(upgrade(&Script::read()))).fetcher(Async("/nowhere".into())));
    }
    let code = match script.has("runtime") {
        true => tokio::runtime::Runtime::new().expect("a runtime").block_on(async { upgrade(&script) }),
        false => upgrade(&script),
    };
    if script.has("ignore_sigchld") {
        let mut child = std::process::Command::new("true").spawn().expect("started");
        let error = child.wait().expect_err("it is ignored again");
        println!("its own children: {error}");
    }
    match script.has("twice") {
        true => ExitCode::from(upgrade(&script)),
        false => ExitCode::from(code),
    }
}

fn upgrade(script: &Script) -> u8 {
    let from = script.text("fetch").expect("a source");
    if from == "hang" {
        return upgrade_from(
            overseer_core::fetcher_fn("hang", |_| {
                loop {
                    thread::park();
                }
            }),
            script,
        );
    }
    if from.contains("://") {
        return upgrade_from(HttpFetcher::new(from), script);
    }
    match script.has("async") {
        true => upgrade_from(Async(from.to_owned()), script),
        false => upgrade_from(File::new(from).settle(Duration::ZERO), script),
    }
}

fn upgrade_from(fetcher: impl Fetcher, script: &Script) -> u8 {
    let mut upgrade =
        Upgrade::new(fetcher).on_progress(|progress| println!("progress {progress:?}")).check_timeout(Duration::from_secs(60));
    upgrade = upgrade.trusted_keys(script.text("trusted_key"));
    if let Some(time) = script.milliseconds("fetch_timeout") {
        upgrade = upgrade.fetch_timeout(time);
    }
    if let Some(pipe) = script.text("hold").map(str::to_owned) {
        upgrade = upgrade.pre_upgrade(move |_| {
            println!("holding");
            fs::read(pipe).map(|_| ()).map_err(|error| error.to_string())
        });
    }
    if script.has("refuse") {
        upgrade = upgrade.pre_upgrade(|_| Err("it is not wanted".to_owned()));
    }
    match upgrade.run() {
        Ok(outcome) => {
            println!("outcome {outcome}");
            u8::from(!matches!(outcome, UpgradeOutcome::UpToDate { .. } | UpgradeOutcome::Upgraded(_)))
        }
        Err(error) => {
            println!("error {}", error.chain());
            2
        }
    }
}

/// The file at a path, read on a runtime of core's.
struct Async(String);

impl AsyncFetcher for Async {
    fn source(&self) -> String {
        format!("async {}", self.0)
    }

    async fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let bytes = fs::read(&self.0).map_err(|error| FetchError::passing(error.to_string()))?;
        let tag = bytes.len().to_string();
        if known.is_settled(&tag) {
            return Ok(Look::unchanged());
        }
        let size_bytes = bytes.len() as u64;
        Ok(Look::release(Release::streamed(tag, "release", std::io::Cursor::new(bytes)).size_bytes(size_bytes)))
    }
}
