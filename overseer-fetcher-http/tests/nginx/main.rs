//! The fetcher and a real nginx: what that does by itself, and not what we believe of it.

#[path = "nginx.rs"]
mod nginx;
#[path = "../server/mod.rs"]
mod server;

use nginx::Nginx;
use overseer_core::{FetchError, FetchErrorKind, Fetcher, Known, Release};
use overseer_fetcher_http::HttpFetcher;
use server::binary;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const SIZE: usize = 600_000;

/// For what must fail by its time-out.
const SHORT: Duration = Duration::from_secs(1);

fn fetcher(url: String) -> HttpFetcher {
    HttpFetcher::new(url).no_proxy()
}

fn release(fetcher: &mut HttpFetcher, known: &Known) -> Release {
    fetcher.fetch(known).expect("a look").into_release().expect("a release")
}

fn all(release: &mut Release) -> Vec<u8> {
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    bytes
}

fn refused(mut fetcher: HttpFetcher) -> FetchError {
    fetcher.fetch(&Known::nothing()).expect_err("it fails")
}

/// The bytes that came, and why no more did.
fn broken(mut release: Release, after: usize, then: impl FnOnce()) -> (Vec<u8>, String) {
    let mut bytes = vec![0; after];
    release.body().read_exact(&mut bytes).expect("the beginning");
    then();
    let error = release.body().read_to_end(&mut bytes).expect_err("it broke off");
    (bytes, error.to_string())
}

#[test]
fn a_release_comes_whole_and_then_each_look_is_one_head_until_the_file_changes() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    let mut fetcher = fetcher(nginx.url("/app")).sha256_file(true);
    nginx.publish("app.minisig", b"untrusted comment: one\n");
    let signed = Known::nothing().with_wanted_signature();
    let missing = format!("{} answered 404 Not Found; a release is taken only with its .sha256 file", nginx.url("/app.sha256"));
    assert_eq!(fetcher.fetch(&signed).expect("a look").why_incomplete(), Some(missing.as_str()));
    assert_eq!(nginx.requests(), ["HEAD /app 200 -", "GET /app.sha256 404 -"]);

    nginx.publish("app.sha256", "0".repeat(64).as_bytes());
    let mut first = release(&mut fetcher, &signed);
    assert_eq!((first.digests().count(), first.minisig()), (1, Some("untrusted comment: one\n")));
    assert!(all(&mut first) == binary(SIZE));
    assert_eq!(nginx.requests(), ["HEAD /app 200 -", "GET /app.sha256 200 -", "GET /app.minisig 200 -", "GET /app 200 -"]);

    let known = signed.with_settled(first.tag());
    for _ in 0..3 {
        assert!(fetcher.fetch(&known).expect("a look").is_unchanged());
        assert_eq!(nginx.requests(), ["HEAD /app 200 -"]);
    }
    nginx.publish("app", &binary(SIZE + 1));
    let mut second = release(&mut fetcher, &known);
    assert_ne!(second.tag(), first.tag());
    assert!(all(&mut second) == binary(SIZE + 1));
}

#[test]
fn a_download_that_nginx_did_not_survive_goes_on_by_range_when_it_is_back() {
    let Some(mut nginx) = Nginx::start(&binary(SIZE)) else { return };
    let mut fetcher = fetcher(nginx.url("/slow/app"));
    let release = release(&mut fetcher, &Known::nothing());
    let tag = release.tag().to_owned();
    let (begun, error) = broken(release, 100_000, || nginx.stop());
    assert!(begun.len() < SIZE && begun == binary(SIZE)[..begun.len()], "{} bytes", begun.len());
    let (url, count) = (nginx.url("/slow/app"), begun.len());
    assert!(error.starts_with(&format!("the transfer of {url} ")) && error.contains(&format!("after {count} of {SIZE} bytes")), "{error}");
    assert!(error.contains(&format!("and could not go on: nothing listens at {url}")), "{error}");

    let text = refused(fetcher.clone()).to_string();
    assert!(text.starts_with(&format!("nothing listens at {url}: ")), "{text}");

    nginx.start_again();
    let mut rest = fetcher.fetch(&Known::nothing().with_partial(&tag, count as u64)).expect("a look").into_release().expect("a release");
    assert_eq!((rest.starts_at(), rest.tag()), (count as u64, tag.as_str()));
    assert!(all(&mut rest) == binary(SIZE)[count..]);
    let range = format!("GET /slow/app 206 bytes {count}-{}/{SIZE}", SIZE - 1);
    assert_eq!(nginx.requests(), ["HEAD /slow/app 200 -", &range]);
}

#[test]
fn a_download_from_an_nginx_that_froze_stops_at_the_time_out_and_goes_on_later() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    let url = nginx.url("/slow/app");
    let mut fetcher = fetcher(url.clone());
    let tag = release(&mut fetcher, &Known::nothing()).tag().to_owned();
    let release = release(&mut fetcher.clone().get_timeout(3 * SHORT), &Known::nothing());
    let (begun, error) = broken(release, 100_000, || nginx.signal("-STOP"));
    nginx.signal("-CONT");
    assert!(begun == binary(SIZE)[..begun.len()]);
    let stalled = format!("the transfer of {url} stalled, with nothing for 3s, after {} of {SIZE} bytes", begun.len());
    assert_eq!(error, format!("{stalled} and could not go on: {url} was silent: no answer to GET within 3s"));

    let mut rest =
        fetcher.fetch(&Known::nothing().with_partial(tag, begun.len() as u64)).expect("a look").into_release().expect("a release");
    assert_eq!(rest.starts_at(), begun.len() as u64);
    assert!(all(&mut rest) == binary(SIZE)[begun.len()..]);
}

#[test]
fn a_file_that_was_replaced_is_not_gone_on_with_and_comes_whole() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    let mut fetcher = fetcher(nginx.url("/app"));
    let tag = release(&mut fetcher, &Known::nothing()).tag().to_owned();
    nginx.publish("app", &binary(SIZE + 1));
    let mut whole = release(&mut fetcher, &Known::nothing().with_partial(tag, 1000));
    assert_eq!(whole.starts_at(), 0);
    assert!(all(&mut whole) == binary(SIZE + 1));
}

#[test]
fn where_ranges_or_validators_are_turned_off_the_next_look_starts_over() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    for path in ["/whole/app", "/untagged/app"] {
        let mut fetcher = fetcher(nginx.url(path));
        let tag = release(&mut fetcher, &Known::nothing()).tag().to_owned();
        let mut whole = release(&mut fetcher, &Known::nothing().with_partial(&tag, 1000));
        assert_eq!((whole.starts_at(), whole.tag()), (0, tag.as_str()));
        assert!(all(&mut whole) == binary(SIZE));
        assert!(fetcher.fetch(&Known::nothing().with_settled(tag)).expect("a look").is_unchanged());
    }
}

#[test]
fn compression_on_the_fly_leaves_a_release_alone() {
    let text = "the same line again and again\n".repeat(10_000);
    let Some(nginx) = Nginx::start(text.as_bytes()) else { return };
    let url = nginx.url("/gzip/app");
    let host = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/gzip/app")).expect("an address");
    let mut other_client = TcpStream::connect(host).expect("a connection");
    write!(other_client, "GET /gzip/app HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n").expect("asked");
    let mut answer = Vec::new();
    other_client.read_to_end(&mut answer).expect("answered");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("Content-Encoding: gzip") && answer.contains("ETag: W/"), "nginx compresses for others: {answer:.300}");

    nginx.publish("app.minisig", b"untrusted comment: one\n");
    let mut found = release(&mut fetcher(url), &Known::nothing().with_wanted_signature());
    assert_eq!(found.file_name(), "app");
    assert!(found.tag().starts_with("etag: \""), "{}", found.tag());
    assert!(all(&mut found) == text.as_bytes());
}

#[test]
fn a_packed_file_that_nginx_sends_in_its_place_is_taken_for_what_it_is_but_not_for_what_was_signed() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    nginx.publish("app.gz", b"\x1f\x8b packed");
    nginx.publish("app.minisig", b"untrusted comment: one\n");
    let mut fetcher = fetcher(nginx.url("/packed/app"));
    let mut found = release(&mut fetcher, &Known::nothing());
    assert_eq!(found.file_name(), "app.gz");
    assert_eq!(all(&mut found), b"\x1f\x8b packed");
    let error = fetcher.fetch(&Known::nothing().with_wanted_signature()).expect_err("the signature is for another file");
    let text = error.to_string();
    assert!(text.contains("sent with Content-Encoding gzip") && text.contains("its .minisig file is for app as published"), "{text}");
}

#[test]
fn redirects_are_followed_and_endless_ones_are_told_of() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    assert!(all(&mut release(&mut fetcher(nginx.url("/latest")), &Known::nothing())) == binary(SIZE));
    let (url, text) = (nginx.url("/loop/"), refused(fetcher(nginx.url("/loop/"))).to_string());
    assert_eq!(text, format!("{url} redirects in a loop: {url} comes twice"));
    let (url, text) = (nginx.url("/deeper/"), refused(fetcher(nginx.url("/deeper/"))).to_string());
    assert_eq!(text, format!("{url} redirects more than 10 times"));
}

#[test]
fn a_password_opens_the_door_and_a_wrong_one_or_none_is_told_of() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    let url = nginx.url("/auth/app");
    assert!(all(&mut release(&mut fetcher(url.clone()).basic_auth("user", "pass"), &Known::nothing())) == binary(SIZE));
    for (fetcher, why) in [
        (fetcher(url.clone()).basic_auth("user", "s3cret"), "the credentials that are set were refused"),
        (fetcher(url.clone()), "no credentials are set"),
    ] {
        let error = refused(fetcher);
        assert_eq!(error.kind(), FetchErrorKind::Settings);
        assert_eq!(error.to_string(), format!("{url} answered 401 Unauthorized to HEAD: {why}"));
    }
}

#[test]
fn the_pause_that_a_busy_server_asks_for_is_passed_on() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    let (url, error) = (nginx.url("/busy/app"), refused(fetcher(nginx.url("/busy/app"))));
    assert_eq!(error.to_string(), format!("{url} answered 503 Service Unavailable to HEAD, asks to come back in 7s"));
    assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(7)));

    // One request a minute: HEAD is that one.
    let (url, error) = (nginx.url("/limited/app"), refused(fetcher(nginx.url("/limited/app"))));
    assert_eq!(error.to_string(), format!("{url} answered 429 Too Many Requests to GET, asks to come back in 60s"));
    assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(60)));
}

#[test]
fn an_answer_that_never_comes_ends_the_look_at_its_time_out() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    let (url, text) = (nginx.url("/silent/app"), refused(fetcher(nginx.url("/silent/app")).head_timeout(SHORT)).to_string());
    assert_eq!(text, format!("{url} was silent: no answer to HEAD within 1s"));
    let url = nginx.url("/silent-body/app");
    let text = refused(fetcher(url.clone()).get_timeout(SHORT)).to_string();
    assert_eq!(text, format!("{url} was silent: no answer to GET within 1s"));
}

#[test]
fn a_private_authority_is_trusted_when_it_is_named_and_an_unknown_and_an_expired_certificate_never() {
    let Some(nginx) = Nginx::start(&binary(SIZE)) else { return };
    let authority = include_bytes!("../certificates/ca.pem");
    let url = nginx.https_url("/app");
    assert!(all(&mut release(&mut fetcher(url.clone()).root_certificate(authority), &Known::nothing())) == binary(SIZE));

    let other = include_bytes!("../certificates/other.pem");
    let text = refused(fetcher(url.clone()).root_certificate(other)).to_string();
    assert!(text.starts_with(&format!("the certificate of {url} is not trusted: ")) && text.contains("UnknownIssuer"), "{text}");

    let expired = nginx.expired_url("/app");
    let text = refused(fetcher(expired.clone()).root_certificate(authority)).to_string();
    assert!(text.starts_with(&format!("the certificate of {expired} is not trusted: ")) && text.contains("expired"), "{text}");
    assert_eq!(nginx.requests().len(), 2, "only the first was asked anything");
}
