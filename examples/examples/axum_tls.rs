//! axum behind TLS by rustls. The handshake runs in the connection's own task; a drain treats it as any other connection.
//!
//! A renewed certificate comes with a restart: each generation reads the files anew.
//!
//! To try it: `openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=localhost`, `cargo run -p overseer-examples --example axum_tls -- cert.pem key.pem`,
//! `curl -k https://127.0.0.1:3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use axum::{Router, routing::get};
use overseer_core::hyper::serve;
use overseer_core::{Config, File, State, run};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// A client that takes longer for its handshake is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let [Some(certificate), Some(key)] = [arguments.next(), arguments.next()] else {
        eprintln!("usage: axum_tls CERTIFICATE KEY [ADDRESS] [RELEASES]");
        return ExitCode::from(2);
    };
    let program = move |state| serve_tls(state, certificate, key);
    let mut config = Config::new(program).address(arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned()));
    if let Some(releases) = arguments.next() {
        config = config.fetcher(File::new(releases));
    }
    run(config)
}

#[tokio::main]
async fn serve_tls(state: State, certificate: String, key: String) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(settings(&certificate, &key)?));
    let greeting = format!("hello from generation {}\n", state.generation());
    let router = Router::new().route("/", get(|| async { greeting }));
    let secure = move |connection| {
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(connection));
        async { handshake.await? }
    };
    serve(state.listener(), router, state.draining()).over(secure).await
}

fn settings(certificate: &str, key: &str) -> io::Result<ServerConfig> {
    let certificates = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let mut settings = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).map_err(io::Error::other)?;
    settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(settings)
}
