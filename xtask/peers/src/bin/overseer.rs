//! The service under overseer.

use overseer_core::hyper::serve;
use overseer_core::{Config, State, run};
use peers::{Call, answer};
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Config::new(program).address(std::env::args().nth(1).unwrap_or_default()))
}

fn program(state: State) -> io::Result<()> {
    Call::read()?.start_slowly();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async move { serve(state.listener(), tower::service_fn(answer), state.draining()).await })
}
