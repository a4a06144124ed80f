//! How the signature of a release is found. Whether it is good is for core to say.

mod server;

use overseer_core::{FetchErrorKind, Fetcher, Known, Look, Release};
use overseer_fetcher_http::HttpFetcher;
use server::{Answer, Request, Server};
use std::sync::atomic::{AtomicBool, Ordering};

const SIGNATURE: &str = "untrusted comment: signature\nRUQ...\ntrusted comment: file:app\nAAA=\n";

fn file(etag: &str) -> Answer {
    Answer::new("200 OK").header("ETag", etag).body(b"\x7fELF")
}

fn signed() -> Known {
    Known::nothing().with_wanted_signature()
}

fn fetcher(server: &Server, path: &str) -> HttpFetcher {
    HttpFetcher::new(server.url(path)).no_proxy()
}

fn release(look: Look) -> Release {
    look.into_release().expect("a release")
}

/// A server with `/app` and what `beside` answers for everything else.
fn beside(beside: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |request| if request.target.starts_with("/app?") { file("\"one\"") } else { beside(request) })
}

#[test]
fn the_signature_beside_the_release_is_read_if_it_is_wanted_and_there_is_something_new() {
    let server = beside(|request| match request.target.as_str() {
        "/app.minisig?key=1" => Answer::new("200 OK").body(SIGNATURE.as_bytes()),
        other => Answer::status(&format!("404 {other}")),
    });
    let mut fetcher = fetcher(&server, "/app?key=1").bearer("t0ken");
    let found = release(fetcher.fetch(&signed()).expect("a look"));
    assert_eq!((found.minisig(), found.file_name()), (Some(SIGNATURE), "app"));
    assert_eq!(server.lines(), ["HEAD /app?key=1", "GET /app.minisig?key=1", "GET /app?key=1"]);
    assert!(server.seen().iter().all(|request| request.header("Authorization") == Some("Bearer t0ken")));

    assert_eq!(release(fetcher.fetch(&Known::nothing()).expect("a look")).minisig(), None);
    assert_eq!(server.lines()[3..], ["HEAD /app?key=1", "GET /app?key=1"]);
}

#[test]
fn a_signed_and_summed_release_that_is_settled_costs_one_head() {
    let server = beside(|_| Answer::status("500 Internal Server Error"));
    for fetcher in [fetcher(&server, "/app?").sha256_file(true), fetcher(&server, "/app?").checksum_file("SHA256SUMS")] {
        let before = server.lines().len();
        let mut fetcher = fetcher;
        let known = signed().with_settled("etag: \"one\", content-length: 4");
        assert!(fetcher.fetch(&known).expect("a look").is_unchanged());
        assert_eq!(server.lines()[before..], ["HEAD /app?"]);
    }
}

#[test]
fn a_release_whose_signature_is_missing_is_incomplete_and_not_downloaded() {
    for status in ["404 Not Found", "410 Gone"] {
        let server = beside(move |_| Answer::status(status));
        let look = fetcher(&server, "/app?").fetch(&signed()).expect("a look");
        let why = look.why_incomplete().expect("it is incomplete");
        assert_eq!(why, format!("{} answered {status}; a release is taken only with its .minisig file", server.url("/app.minisig")));
        assert_eq!(server.lines(), ["HEAD /app?", "GET /app.minisig?"]);
    }
}

#[test]
fn where_head_is_refused_the_signature_is_asked_for_just_the_same() {
    let server = Server::start(|request| match request.target.as_str() {
        "/app.minisig" => Answer::new("200 OK").body(SIGNATURE.as_bytes()),
        _ if request.is_head() => Answer::status("405 Method Not Allowed"),
        _ => file("\"one\""),
    });
    assert_eq!(release(fetcher(&server, "/app").fetch(&signed()).expect("a look")).minisig(), Some(SIGNATURE));
}

#[test]
fn what_is_no_signature_fails_the_look_and_never_becomes_a_bad_release() {
    let long = format!("{SIGNATURE}{}", "x".repeat(4096));
    for (body, text) in [
        ("<!DOCTYPE html>", "/app.minisig is no signature by minisign"),
        ("", "/app.minisig is no signature by minisign"),
        (&long, "/app.minisig has more than 4096 bytes; that is no .minisig file"),
    ] {
        let body = body.to_owned();
        let server = beside(move |_| Answer::new("200 OK").body(body.as_bytes()));
        let error = fetcher(&server, "/app?").fetch(&signed()).expect_err("there is no signature");
        assert_eq!(error.kind(), FetchErrorKind::Passing);
        assert!(error.to_string().ends_with(text), "{error}");
    }
}

#[test]
fn the_signature_of_a_file_that_changed_between_head_and_get_is_read_again() {
    let replaced = AtomicBool::new(false);
    let server = Server::start(move |request| match (request.target.as_str(), replaced.load(Ordering::SeqCst)) {
        ("/app.minisig", false) => {
            replaced.store(true, Ordering::SeqCst);
            Answer::new("200 OK").body(SIGNATURE.as_bytes())
        }
        ("/app.minisig", true) => Answer::new("200 OK").body(format!("{SIGNATURE}two").as_bytes()),
        (_, false) => file("\"one\""),
        (_, true) => file("\"two\""),
    });
    let found = release(fetcher(&server, "/app").fetch(&signed()).expect("a look"));
    assert_eq!(found.tag(), "etag: \"two\", content-length: 4");
    assert_eq!(found.minisig(), Some(format!("{SIGNATURE}two").as_str()));
    assert_eq!(server.lines(), ["HEAD /app", "GET /app.minisig", "GET /app", "GET /app.minisig"]);
}

#[test]
fn a_store_behind_a_redirect_changes_neither_the_name_nor_the_place_of_the_signature() {
    let server = Server::start(|request| match request.target.as_str() {
        "/app.gz" => Answer::redirect("/store/0a1b?sig=1"),
        "/app.gz.minisig" => Answer::redirect("/store/2c3d?sig=2"),
        "/store/0a1b?sig=1" => file("\"one\""),
        "/store/2c3d?sig=2" => Answer::new("200 OK").body(SIGNATURE.as_bytes()),
        _ => Answer::status("404 Not Found"),
    });
    let found = release(fetcher(&server, "/app.gz").fetch(&signed()).expect("a look"));
    assert_eq!((found.file_name(), found.minisig()), ("app.gz", Some(SIGNATURE)));
}

#[test]
fn a_redirect_chooses_the_name_of_a_signed_release_only_where_file_name_lets_it() {
    let server = Server::start(|request| match request.target.as_str() {
        "/latest" => Answer::redirect("/1.2/app-1.2.gz"),
        "/1.2/app-1.2.gz" => file("\"one\""),
        "/1.2/app-1.2.gz.minisig" => Answer::new("200 OK").body(SIGNATURE.as_bytes()),
        _ => Answer::status("404 Not Found"),
    });
    let error = fetcher(&server, "/latest").fetch(&signed()).expect_err("it could be any program");
    assert_eq!(error.kind(), FetchErrorKind::Settings);
    assert!(error.to_string().ends_with("which file must be signed is not for the server to say; set file_name"), "{error}");

    let found = release(fetcher(&server, "/latest").file_name("app-*.gz").fetch(&signed()).expect("a look"));
    assert_eq!((found.file_name(), found.minisig()), ("app-1.2.gz", Some(SIGNATURE)));
    assert_eq!(release(fetcher(&server, "/latest").fetch(&Known::nothing()).expect("a look")).file_name(), "app-1.2.gz");
}

#[test]
fn a_release_that_is_compressed_on_the_way_is_refused_where_its_own_bytes_count() {
    let server = Server::start(|request| match request.target.as_str() {
        "/app.minisig" | "/app.gz.minisig" => Answer::new("200 OK").body(SIGNATURE.as_bytes()),
        "/app.sha256" => Answer::new("200 OK").body("0".repeat(64).as_bytes()),
        _ => Answer::new("200 OK").header("ETag", "W/\"one\"").header("Content-Encoding", "gzip").body(b"\x1f\x8b packed"),
    });
    for (fetcher, known, what) in
        [(fetcher(&server, "/app"), signed(), ".minisig"), (fetcher(&server, "/app").sha256_file(true), Known::nothing(), ".sha256")]
    {
        let mut fetcher = fetcher;
        let error = fetcher.fetch(&known).expect_err("these are not the bytes that were published");
        assert_eq!(
            error.to_string(),
            format!(
                "{} is sent with Content-Encoding gzip, though none was asked for, and its {what} file is for app as published: \
                 publish app.gz, or stop the server from compressing",
                server.url("/app")
            )
        );
    }
    // Many servers label a file of this name so and send it as it is.
    assert_eq!(release(fetcher(&server, "/app.gz").fetch(&signed()).expect("a look")).file_name(), "app.gz");
}
