//! What the peers have in common: the service, how they are called, and how hyper-util lets a server leave.
//!
//! Each is called as `PEER ADDRESS [MILLISECONDS]`, and takes that long before it listens. Each answer names the process that gave it, as `X-Pid`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// What a peer is told on its command line.
pub struct Call {
    /// Where it listens.
    pub address: SocketAddr,
    /// For how long it prepares itself before.
    pub slow_start: Duration,
}

impl Call {
    /// Takes the arguments apart.
    ///
    /// # Errors
    /// One is missing or is not understood.
    pub fn read() -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let mut arguments = std::env::args().skip(1);
        let address = arguments.next().ok_or_else(|| wrong("the address is missing"))?;
        let address = address.parse().map_err(|_| wrong("the address is not one"))?;
        let slow_start = match arguments.next() {
            Some(milliseconds) => Duration::from_millis(milliseconds.parse().map_err(|_| wrong("the time is no number"))?),
            None => Duration::ZERO,
        };
        Ok(Self { address, slow_start })
    }

    /// Takes the time that a program needs which reads a cache or connects to a database first.
    pub fn start_slowly(&self) {
        std::thread::sleep(self.slow_start);
    }
}

/// Answers at once, or after the milliseconds of `/?d=MILLISECONDS`.
pub async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Some(milliseconds) = request.uri().query().and_then(|query| query.strip_prefix("d=")?.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
    let response = Response::builder().header("x-pid", std::process::id());
    Ok(response.body(Full::from("hello\n")).expect("the header is valid"))
}

/// The connections of a server that leaves as hyper-util's documentation shows.
pub struct Connections {
    builder: Builder<TokioExecutor>,
    graceful: GracefulShutdown,
}

impl Default for Connections {
    fn default() -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http2().enable_connect_protocol();
        Self { builder, graceful: GracefulShutdown::new() }
    }
}

impl Connections {
    /// Serves one in a task of its own.
    pub fn serve(&self, stream: TcpStream) {
        let service = TowerToHyperService::new(tower::service_fn(answer));
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let watched = self.graceful.watch(connection);
        // A client that hangs up is its own affair.
        tokio::spawn(async move { drop(watched.await) });
    }

    /// Finishes what is open.
    pub fn finish(self) -> impl Future<Output = ()> {
        self.graceful.shutdown()
    }
}
