//! A web server that upgrades itself: the program of `cargo xtask demo`.
//!
//! It shows the whole of overseer in one `main`: an address, a fetcher, the accept loop that ends at the drain, and requests that
//! are still answered after it. There is no web framework in it; see `http.rs` for the few lines of HTTP.
//!
//! To try it by hand:
//!
//! ```sh
//! APP_VERSION=1 cargo build -p overseer-examples --bin app && install target/debug/app /tmp/app
//! /tmp/app --listen 127.0.0.1:3000 --fetch http://127.0.0.1:8000/app --every 1s &
//! (cd target/debug && python3 -m http.server 8000) &
//! curl '127.0.0.1:3000/?d=5s' &                                # a slow request: version 1 stays until it is answered
//! APP_VERSION=2 cargo build -p overseer-examples --bin app    # version 2 is fetched, proved, started and installed
//! curl 127.0.0.1:3000                                          # app#2 (...) says hello
//! kill -USR2 $(pgrep -o -x app)                                # a restart
//! ```
//!
//! Releases can also come from a file, from S3 and from GitHub: see `source.rs`. `OVERSEER=off /tmp/app` runs it alone, without a master.

mod fault;
mod http;
mod settings;
mod source;

use overseer_core::{Config, Listener, State, Upgrades, run};
use settings::Settings;
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// The version of this build, a constant as in any program that is released: `APP_VERSION=2 cargo build`.
const VERSION: &str = match option_env!("APP_VERSION") {
    Some(version) => version,
    None => "1",
};

fn main() -> ExitCode {
    let settings = match Settings::from_arguments(std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned())) {
        Ok(settings) => settings,
        Err(wrong) => {
            eprintln!("app: {wrong}");
            return ExitCode::FAILURE;
        }
    };
    run(config(settings))
}

/// What overseer needs to know. Every setting has a default; those below can be set on the command line.
fn config(settings: Settings) -> Config<io::Result<()>> {
    let warm_up = settings.warm_up.unwrap_or(Duration::from_secs(1));
    let mut config = Config::new(move |state| program(&state, warm_up))
        .addresses(settings.listen)
        // This program says that it is ready, by accepting; one that does not manage to within this time is not a good release.
        .ready_timeout(settings.ready_timeout.unwrap_or(Duration::from_secs(60)))
        .warm_up(warm_up)
        // Unsaid, releases would only be told of on the writable layer of a container, where it is likely to be tried out.
        .upgrades(Upgrades::Install)
        .trusted_keys(settings.trusted_keys)
        .allow_downgrade(settings.allow_downgrade)
        .overlap(settings.overlap.unwrap_or(true))
        .upgrade_master(!settings.keep_master)
        .debug(settings.debug);
    if let Some(time) = settings.terminate_timeout {
        config = config.terminate_timeout(time);
    }
    if let Some(time) = settings.probation {
        config = config.probation(time);
    }
    if let Some(source) = settings.fetch {
        if let Some(interval) = settings.every {
            config = config.min_fetch_interval(interval.min(Duration::from_secs(1)));
        }
        config = source.set(config, settings.every);
    }
    if let Some(path) = settings.pid_file {
        config = config.pid_file(path);
    }
    if let Some(path) = settings.state_dir {
        config = config.state_dir(path);
    }
    config
}

/// The server: one thread for each connection.
fn program(state: &State, warm_up: Duration) -> io::Result<()> {
    let name = format!("app#{VERSION} ({})", state.id());
    fault::before_ready();
    eprintln!("serving as pid {}", std::process::id());
    for address in state.addresses() {
        eprintln!("listening on {address}");
    }
    println!("{name} listening...");
    fault::while_serving(warm_up);
    let page = &http::Page { greeting: format!("{name} says hello\n"), generation: state.generation() };
    // Leaving the scope waits for every thread in it, so the last request is answered when this program says that it exits.
    thread::scope(|scope| {
        let accept = move |listener: &Listener| {
            for connection in listener.incoming() {
                let connection = connection?;
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, move || http::answer(connection, page)) {
                    eprintln!("app: a connection was lost: {error}");
                }
            }
            Ok(())
        };
        for other in &state.listeners()[1..] {
            scope.spawn(move || accept(other).inspect_err(|error: &io::Error| eprintln!("app: {error}")));
        }
        accept(&state.listener())
    })
    .inspect(|()| println!("{name} exiting..."))
}
