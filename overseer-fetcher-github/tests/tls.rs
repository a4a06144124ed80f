//! Whom the fetcher trusts.

mod server;

use overseer_core::{FetchErrorKind, Fetcher, Known};
use overseer_fetcher_github::GitHubFetcher;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use server::github::own_name;
use server::{Answer, Request, Server};
use std::io::Write;
use std::process::Command;
use std::sync::Arc;

const AUTHORITY: &[u8] = include_bytes!("certificates/ca.pem");

fn tls() -> Arc<rustls::ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("certificates/server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("certificates/server.key")).expect("a key");
    Arc::new(rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).expect("they fit"))
}

/// A release whose file is on the same host.
fn github(request: &Request) -> Answer {
    match request.target.rsplit_once('/').expect("a path").1 {
        "latest" => {
            let json = format!(r#"{{"id":1,"tag_name":"v1","assets":[{{"id":2,"name":"{}","size":4}}]}}"#, own_name());
            Answer::new("200 OK").body(json.as_bytes())
        }
        "stored" => Answer::new("200 OK").body(b"\x7fELF"),
        _ => Answer::redirect("/stored"),
    }
}

fn fetcher(base: &str) -> GitHubFetcher {
    GitHubFetcher::new("octo", "app").base_url(base).no_proxy().no_token()
}

const LATEST: &str = "/repos/octo/app/releases/latest";

#[test]
fn a_certificate_of_an_unknown_authority_is_an_error_and_its_own_root_makes_it_trusted() {
    let server = Server::start_tls(tls(), github);
    let (base, url) = (server.https_url(""), server.https_url(LATEST));
    let error = fetcher(&base).root_certificate(OTHER_AUTHORITY).fetch(&Known::nothing()).expect_err("nobody knows it");
    assert_eq!(error.kind(), FetchErrorKind::Passing);
    let text = error.to_string();
    assert!(text.starts_with(&format!("the certificate of {url} is not trusted: ")) && text.contains("UnknownIssuer"), "{text}");
    assert!(server.seen().is_empty(), "nothing was asked");

    let mut release =
        fetcher(&base).root_certificate(AUTHORITY).fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    assert_eq!(bytes, b"\x7fELF");
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    let plain = Server::start(github);
    let elsewhere = plain.url("/stored?sig=s1gnature");
    let server = Server::start_tls(tls(), move |request| match request.target.as_str() {
        LATEST => github(request),
        _ => Answer::redirect(&elsewhere),
    });
    let error = fetcher(&server.https_url("")).root_certificate(AUTHORITY).fetch(&Known::nothing()).expect_err("it is refused");
    let (from, to) = (server.https_url("/repos/octo/app/releases/assets/2"), plain.url("/stored"));
    assert_eq!(error.to_string(), format!("{from} redirects to {to}, which anybody on the way could change; refused"));
    assert_eq!(error.kind(), FetchErrorKind::Settings);
    assert!(plain.seen().is_empty());
}

#[test]
fn a_server_that_does_not_speak_tls_is_told_of() {
    let server = Server::start(github);
    let error = fetcher(&server.https_url("")).root_certificate(AUTHORITY).fetch(&Known::nothing()).expect_err("no TLS");
    assert!(error.to_string().starts_with(&format!("cannot connect to {}: ", server.https_url(LATEST))), "{error}");
}

/// Set for a copy of this test program, which then only looks once.
const LOOK_AT: &str = "OVERSEER_TEST_LOOK_AT";

/// What one look in another process brings, in which `SSL_CERT_FILE` names a file with these certificates.
fn look_with_roots(test: &str, roots: &[u8], url: &str) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(roots).expect("written");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env(LOOK_AT, url).env("SSL_CERT_FILE", file.path()).env_remove("SSL_CERT_DIR");
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("LOOK: ").map(|(_, found)| found.to_owned()));
    line.unwrap_or_else(|| panic!("no look in {text}"))
}

/// In that other process: looks, and says what it found.
fn looked() -> bool {
    let Ok(url) = std::env::var(LOOK_AT) else { return false };
    let found = fetcher(&url).fetch(&Known::nothing());
    println!("LOOK: {}", found.map_or_else(|error| format!("{:?}: {error}", error.kind()), |_| "fine".to_owned()));
    true
}

#[test]
fn the_roots_are_those_of_the_system_and_ssl_cert_file_names_others() {
    if looked() {
        return;
    }
    let test = "the_roots_are_those_of_the_system_and_ssl_cert_file_names_others";
    let server = Server::start_tls(tls(), github);
    assert_eq!(look_with_roots(test, AUTHORITY, &server.https_url("")), "fine");
    let other = look_with_roots(test, OTHER_AUTHORITY, &server.https_url(""));
    assert!(other.contains("is not trusted"), "{other}");
}

#[test]
fn without_any_root_https_is_a_settings_error_that_says_what_to_do_and_http_works() {
    if looked() {
        return;
    }
    let test = "without_any_root_https_is_a_settings_error_that_says_what_to_do_and_http_works";
    let advice = "; this system has no root certificates: install ca-certificates, set SSL_CERT_FILE, or give root_certificate";
    let server = Server::start_tls(tls(), github);
    let base = server.https_url("");
    assert_eq!(look_with_roots(test, b"", &base), format!("Settings: cannot check the certificate of {base}/{advice}"));

    let plain = Server::start(github);
    assert_eq!(look_with_roots(test, b"", &plain.url("")), "fine");

    let (url, target) = (server.https_url(LATEST), server.https_url(LATEST));
    let redirect = Server::start(move |_| Answer::redirect(&target));
    let redirected = look_with_roots(test, b"", &redirect.url(""));
    assert!(redirected.contains(&format!("the certificate of {url} is not trusted")) && redirected.ends_with(advice), "{redirected}");
}

/// Signed nothing.
const OTHER_AUTHORITY: &[u8] = include_bytes!("certificates/other.pem");
