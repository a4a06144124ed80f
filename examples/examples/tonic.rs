//! A gRPC server: tonic's services are tower services, so one line serves them. This one has the standard health service, and `Routes` takes any other.
//!
//! To try it: `cargo run -p overseer-examples --example tonic`, `grpc-health-probe -addr 127.0.0.1:3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use overseer_core::hyper::serve;
use overseer_core::{Config, File, State, run};
use std::io;
use std::process::ExitCode;
use tonic::service::Routes;

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
    let (health, service) = tonic_health::server::health_reporter();
    health.set_service_status(format!("generation-{}", state.generation()), tonic_health::ServingStatus::Serving).await;
    serve(state.listener(), Routes::new(service), state.draining()).await
}
