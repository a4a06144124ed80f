//! Whom the fetcher trusts.

mod server;

use overseer_core::{FetchErrorKind, Fetcher, Known};
use overseer_fetcher_s3::S3Fetcher;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use server::{Answer, Server};
use std::process::Command;
use std::sync::Arc;

const AUTHORITY: &[u8] = include_bytes!("certificates/ca.pem");
const OTHER_AUTHORITY: &[u8] = include_bytes!("certificates/other.pem");

fn server() -> Server {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("certificates/server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("certificates/server.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let tls = tls.with_no_client_auth().with_single_cert(vec![certificate], key).expect("they fit");
    Server::start_tls(Arc::new(tls), |_| Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"))
}

fn fetcher(endpoint: String) -> S3Fetcher {
    S3Fetcher::new("releases", "app").region("us-east-1").endpoint(endpoint).credentials("AKIDEXAMPLE", "s3cret", None)
}

#[test]
fn a_certificate_of_an_unknown_authority_is_an_error_and_its_own_root_makes_it_trusted() {
    let server = server();
    let mut distrusting = fetcher(server.https_url("")).root_certificate(OTHER_AUTHORITY);
    let error = distrusting.fetch(&Known::nothing()).expect_err("nobody knows it");
    assert_eq!(error.kind(), FetchErrorKind::Passing);
    let text = error.to_string();
    let address = server.address();
    assert!(text.starts_with(&format!("s3://releases/app at {address}: the certificate of {address} is not trusted: ")), "{text}");
    assert!(text.contains("UnknownIssuer"), "{text}");
    assert!(server.seen().is_empty(), "nothing was asked");

    let mut trusting = fetcher(server.https_url("")).root_certificate(AUTHORITY);
    let mut release = trusting.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    assert_eq!(bytes, b"\x7fELF");
}

/// Set for a copy of this test program, which then only looks once.
const LOOK_AT: &str = "OVERSEER_TEST_LOOK_AT";

#[test]
fn the_environment_may_name_the_roots_and_a_system_without_any_is_told_of() {
    if let Ok(endpoint) = std::env::var(LOOK_AT) {
        let found = fetcher(endpoint).fetch(&Known::nothing());
        println!("LOOK: {}", found.map_or_else(|error| error.to_string(), |_| "fine".to_owned()));
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let roots = directory.path().join("roots.pem");
    let none = directory.path().join("none.pem");
    std::fs::write(&roots, AUTHORITY).expect("a file");
    std::fs::write(&none, "").expect("a file");
    let look = |file: &std::path::Path, endpoint: String| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "the_environment_may_name_the_roots_and_a_system_without_any_is_told_of", "--nocapture"]);
        let output = command.env(LOOK_AT, endpoint).env("SSL_CERT_FILE", file).env_remove("SSL_CERT_DIR").output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (tls, plain) = (server(), Server::start(|_| Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF")));
    let said = look(&roots, tls.https_url(""));
    assert!(said.contains("LOOK: fine"), "{said}");
    let said = look(&none, tls.https_url(""));
    let words = "; this system has no root certificates: install ca-certificates, set SSL_CERT_FILE, or give root_certificate";
    assert!(said.contains("LOOK: cannot check the certificate for s3://releases/app at ") && said.contains(words), "{said}");
    let said = look(&none, plain.url(""));
    assert!(said.contains("LOOK: fine"), "{said}");
}
