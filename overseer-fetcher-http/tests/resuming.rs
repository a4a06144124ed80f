//! Transfers that break off, and how they go on.

mod server;

use overseer_core::{FetchErrorKind, Fetcher, Known, Release};
use overseer_fetcher_http::HttpFetcher;
use server::{Answer, Published, Request, Server, binary};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SIZE: usize = 300_000;
const CUT: usize = 123_456;
const TAG: &str = "etag: \"one\", content-length: 300000";

/// A file whose first transfer breaks off; `then` answers the following GETs.
fn breaks_once(then: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    let gets = AtomicUsize::new(0);
    Server::start(move |request| match request.is_head() {
        false if gets.fetch_add(1, Ordering::SeqCst) > 0 => then(request),
        false => Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE)).cut(CUT),
        true => Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE)),
    })
}

fn fetcher(server: &Server) -> HttpFetcher {
    HttpFetcher::new(server.url("/app?key=s3cret")).no_proxy()
}

fn release(server: &Server, known: &Known) -> Release {
    fetcher(server).fetch(known).expect("a look").into_release().expect("a release")
}

/// The bytes that came, and how it ended.
fn read(release: &mut Release) -> (Vec<u8>, Result<usize, std::io::Error>) {
    let mut bytes = Vec::new();
    let end = release.body().read_to_end(&mut bytes);
    (bytes, end)
}

/// The bytes and the error of a transfer that must fail after `CUT` bytes.
fn failure(server: &Server) -> String {
    let (bytes, end) = read(&mut release(server, &Known::nothing()));
    assert!(bytes == binary(SIZE)[..CUT], "what came is the beginning of the release, {} bytes", bytes.len());
    let error = end.expect_err("it broke off").downcast::<overseer_core::FetchError>().expect("an error of the fetcher");
    assert_eq!(error.kind(), FetchErrorKind::Passing);
    let text = error.to_string();
    assert!(text.contains(&server.url("/app")) && text.contains("after 123456 of 300000 bytes"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    text
}

#[test]
fn a_transfer_that_breaks_off_goes_on_in_the_same_look() {
    let file = Published::new("\"one\"", &binary(SIZE));
    let server = breaks_once(move |request| file.answer(request));
    let (bytes, end) = read(&mut release(&server, &Known::nothing()));
    end.expect("the whole body");
    assert!(bytes == binary(SIZE));
    let last = server.seen().pop().expect("a request");
    assert_eq!((last.header("Range"), last.header("If-Range")), (Some("bytes=123456-"), Some("\"one\"")));
}

#[test]
fn a_transfer_that_stalls_goes_on_after_the_time_out() {
    let file = Published::new("\"one\"", &binary(SIZE));
    let gets = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.is_head() {
        false if gets.fetch_add(1, Ordering::SeqCst) == 0 => Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE)).stall(CUT),
        _ => file.answer(request),
    });
    let mut fetcher = fetcher(&server).get_timeout(Duration::from_secs(2));
    let mut release = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let (bytes, end) = read(&mut release);
    end.expect("the whole body");
    assert!(bytes == binary(SIZE));
}

#[test]
fn a_date_of_change_stands_in_for_a_missing_etag_if_it_is_old_enough() {
    let dated =
        |answer: Answer| answer.header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT").header("Date", "Mon, 07 Nov 1994 08:49:37 GMT");
    let server = Server::start(move |request| match request.header("Range") {
        None => dated(Answer::new("200 OK")).body(&binary(SIZE)).cut(if request.is_head() { SIZE } else { CUT }),
        Some(_) => {
            dated(Answer::new("206 Partial Content")).header("Content-Range", "bytes 123456-299999/300000").body(&binary(SIZE)[CUT..])
        }
    });
    let (bytes, end) = read(&mut release(&server, &Known::nothing()));
    end.expect("the whole body");
    assert!(bytes == binary(SIZE));
    assert_eq!(server.seen().pop().expect("a request").header("If-Range"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
}

#[test]
fn a_file_that_changed_before_the_transfer_went_on_is_an_error_and_never_a_mix() {
    let file = Published::new("\"two\"", &binary(SIZE));
    let server = breaks_once(move |request| file.answer(request));
    assert!(failure(&server).ends_with("changed while it was downloaded: after 123456 of 300000 bytes \"one\" became \"two\""));
}

#[test]
fn a_part_of_another_file_under_the_right_status_is_an_error_and_never_a_mix() {
    let part = |etag: &'static str, range: &'static str| {
        breaks_once(move |_| {
            let answer = Answer::new("206 Partial Content").header("ETag", etag).header("Content-Range", range);
            answer.body(&binary(2 * SIZE)[CUT..SIZE])
        })
    };
    assert!(failure(&part("\"two\"", "bytes 123456-299999/300000")).contains("\"one\" became \"two\""));
    assert!(failure(&part("\"one\"", "bytes 123456-299999/300001")).ends_with("it has 300001 bytes instead of 300000"));
    assert!(failure(&part("\"one\"", "bytes 0-299999/300000")).ends_with("answered another part: bytes 0-299999/300000"));
}

#[test]
fn a_server_that_cannot_send_the_rest_alone_is_told_of() {
    let server = breaks_once(|_| Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE)));
    assert!(failure(&server).ends_with("the server cannot send the rest alone"));
}

#[test]
fn a_server_that_fails_when_the_transfer_should_go_on_is_told_of_with_both_reasons() {
    let server = breaks_once(|_| Answer::status("503 Service Unavailable").header("Retry-After", "7"));
    let mut release = release(&server, &Known::nothing());
    let error = read(&mut release).1.expect_err("it broke off").downcast::<overseer_core::FetchError>().expect("an error of the fetcher");
    let text = error.to_string();
    assert!(text.contains("ended after 123456 of 300000 bytes and could not go on: "), "{text}");
    assert!(text.contains("answered 503 Service Unavailable to GET"), "{text}");
    assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(7)));
    let asked = server.lines().len();
    let again = release.body().read(&mut [0; 8]).expect_err("it stays failed");
    assert_eq!(again.to_string(), text);
    assert_eq!(server.lines().len(), asked);
}

#[test]
fn a_body_that_always_breaks_off_is_given_up_after_four_attempts() {
    let server = Server::start(|request| {
        if request.is_head() {
            return Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE));
        }
        let from: usize = request.header("Range").map_or(0, |range| range[6..range.len() - 1].parse().expect("a number"));
        let answer = match from {
            0 => Answer::new("200 OK"),
            _ => Answer::new("206 Partial Content").header("Content-Range", format!("bytes {from}-299999/300000")),
        };
        answer.header("ETag", "\"one\"").body(&binary(SIZE)[from..]).cut(1000)
    });
    let (bytes, end) = read(&mut release(&server, &Known::nothing()));
    assert!(bytes == binary(SIZE)[..5000]);
    let text = end.expect_err("it is short").to_string();
    assert!(text.ends_with("ended after 5000 of 300000 bytes; 4 attempts to go on were not enough"), "{text}");
    assert_eq!(server.lines().len(), 1 + 1 + 4);
}

#[test]
fn a_short_body_without_a_strong_validator_is_an_error_and_not_asked_for_again() {
    for etag in ["W/\"one\"", ""] {
        let server = Server::start(move |request| {
            let answer = Answer::new("200 OK");
            let answer = if etag.is_empty() { answer } else { answer.header("ETag", etag) };
            answer.body(&binary(SIZE)).cut(if request.is_head() { SIZE } else { CUT })
        });
        assert!(failure(&server).ends_with("ended after 123456 of 300000 bytes; the server gave no strong ETag to go on with"));
        assert_eq!(server.lines().len(), 2);
    }
}

#[test]
fn the_next_look_goes_on_where_the_last_one_broke_off() {
    let file = Published::new("\"one\"", &binary(SIZE));
    let server = Server::start(move |request| file.answer(request));
    let mut release = release(&server, &Known::nothing().with_partial(TAG, CUT as u64));
    assert_eq!((release.starts_at(), release.tag()), (CUT as u64, TAG));
    let (bytes, end) = read(&mut release);
    end.expect("the rest");
    assert!(bytes == binary(SIZE)[CUT..]);
    let last = server.seen().pop().expect("a request");
    assert_eq!((last.header("Range"), last.header("If-Range")), (Some("bytes=123456-"), Some("\"one\"")));
    assert_eq!(server.lines().len(), 2);
}

#[test]
fn the_next_look_goes_on_also_where_head_is_refused() {
    let file = Published::new("\"one\"", &binary(SIZE));
    let server = Server::start(move |request| if request.is_head() { Answer::status("405 No") } else { file.answer(request) });
    let mut release = release(&server, &Known::nothing().with_partial(TAG, CUT as u64));
    assert_eq!((release.starts_at(), release.tag()), (CUT as u64, TAG));
    let (bytes, end) = read(&mut release);
    end.expect("the rest");
    assert!(bytes == binary(SIZE)[CUT..]);
}

#[test]
fn a_file_that_changed_between_two_looks_comes_whole() {
    for head_is_refused in [false, true] {
        let file = Published::new("\"two\"", &binary(SIZE));
        let server = Server::start(move |request| match request.is_head() {
            true if head_is_refused => Answer::status("405 Method Not Allowed"),
            // The change comes right after HEAD.
            true => Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE)),
            false => file.answer(request),
        });
        let mut release = release(&server, &Known::nothing().with_partial(TAG, CUT as u64));
        assert_eq!((release.starts_at(), release.tag()), (0, "etag: \"two\", content-length: 300000"));
        let (bytes, end) = read(&mut release);
        end.expect("the whole body");
        assert!(bytes == binary(SIZE));
    }
}

#[test]
fn the_beginning_of_another_release_is_not_gone_on_with() {
    let file = Published::new("\"two\"", &binary(SIZE));
    let server = Server::start(move |request| file.answer(request));
    let release = release(&server, &Known::nothing().with_partial(TAG, CUT as u64));
    assert_eq!(release.starts_at(), 0);
    assert!(server.seen().iter().all(|request| request.header("Range").is_none()));
}

#[test]
fn a_beginning_that_the_server_has_no_rest_for_is_dropped() {
    for head_is_refused in [false, true] {
        for (begun, lie) in [
            (SIZE, None),
            (CUT, Some(("\"one\"", "bytes 7-299999/300000"))),
            (CUT, Some(("\"two\"", "bytes 123456-299999/300000"))),
            (CUT, Some(("\"one\"", "nonsense"))),
        ] {
            let file = Published::new("\"one\"", &binary(SIZE));
            let server = Server::start(move |request| match (request.header("Range"), lie) {
                _ if request.is_head() && head_is_refused => Answer::status("405 Method Not Allowed"),
                (Some(_), Some((etag, range))) => {
                    Answer::new("206 Partial Content").header("ETag", etag).header("Content-Range", range).body(b"another part")
                }
                _ => file.answer(request),
            });
            let mut release = release(&server, &Known::nothing().with_partial(TAG, begun as u64));
            assert_eq!((release.starts_at(), release.tag()), (0, TAG));
            let (bytes, end) = read(&mut release);
            end.expect("the whole body");
            assert!(bytes == binary(SIZE));
        }
    }
}
