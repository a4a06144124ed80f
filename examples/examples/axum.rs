//! An axum server that restarts and upgrades itself, and fails no request.
//!
//! To try it: `cargo run -p overseer-examples --example axum`, `curl http://127.0.0.1:3000`, and `kill -USR2 <the pid that it printed>` for a restart. With
//! `-- 127.0.0.1:3000 /srv/releases/hello` it upgrades itself to each new file that is put there.

use axum::{Router, routing::get};
use overseer_core::hyper::serve;
use overseer_core::{Config, File, State, run};
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(program).address(arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned()));
    if let Some(releases) = arguments.next() {
        config = config.fetcher(File::new(releases));
    }
    run(config)
}

#[tokio::main]
async fn program(state: State) -> io::Result<()> {
    let greeting = format!("hello from generation {}\n", state.generation());
    let router = Router::new().route("/", get(|| async { greeting }));
    serve(state.listener(), router, state.draining()).await
}
