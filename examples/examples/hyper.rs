//! A server on hyper alone, without a framework: the service is a function.
//!
//! Any tower service does; a `hyper::service::Service` becomes one by `tower::service_fn`, as here. Time-outs and limits are hyper-util's: they are set on its builder.
//!
//! To try it: `cargo run -p overseer-examples --example hyper`, `curl http://127.0.0.1:3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use overseer_core::hyper::serve;
use overseer_core::{Config, File, State, run};
use std::convert::Infallible;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

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
    let generation = state.generation();
    let service = tower::service_fn(move |_: Request<Incoming>| async move {
        Ok::<_, Infallible>(Response::new(format!("hello from generation {generation}\n")))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    // A client that is slower with its head, or idle for longer, is cut off.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(75));
    serve(state.listener(), service, state.draining()).http(builder).await
}
