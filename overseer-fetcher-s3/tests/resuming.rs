//! Transfers that break off, and how they go on.

mod server;

use overseer_core::{FetchError, FetchErrorKind, Fetcher, Known, Release};
use overseer_fetcher_s3::S3Fetcher;
use server::{Answer, Published, Request, Server, binary, part};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SIZE: usize = 300_000;
const CUT: usize = 123_456;
const TAG: &str = "etag: \"one\"";

fn whole() -> Answer {
    Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE))
}

/// An object whose first transfer is `first`; `then` answers the following GETs.
fn begins(first: fn() -> Answer, then: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    let gets = AtomicUsize::new(0);
    Server::start(move |request| match request.is_head() {
        false if gets.fetch_add(1, Ordering::SeqCst) > 0 => then(request),
        false => first(),
        true => whole(),
    })
}

fn breaks_once(then: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    begins(|| whole().cut(CUT), then)
}

fn fetcher(server: &Server) -> S3Fetcher {
    S3Fetcher::new("releases", "app").region("us-east-1").endpoint(server.url("")).credentials("AKIDEXAMPLE", "s3cret", None)
}

fn release(server: &Server, known: &Known) -> Release {
    fetcher(server).fetch(known).expect("a look").into_release().expect("a release")
}

/// The bytes that came, and how it ended.
fn read(release: &mut Release) -> (Vec<u8>, Result<(), FetchError>) {
    let mut bytes = Vec::new();
    let end = release.body().read_to_end(&mut bytes);
    (bytes, end.map(drop).map_err(|error| error.downcast().expect("an error of the fetcher")))
}

/// The error of a transfer that must fail after `CUT` bytes.
fn failure(server: &Server) -> String {
    let (bytes, end) = read(&mut release(server, &Known::nothing()));
    assert!(bytes == binary(SIZE)[..CUT], "what came is the beginning of the release, {} bytes", bytes.len());
    let error = end.expect_err("it broke off");
    assert_eq!(error.kind(), FetchErrorKind::Passing);
    error.to_string()
}

fn transfer(server: &Server, how: &str) -> String {
    format!("the transfer of s3://releases/app at {} {how} after 123456 of 300000 bytes", server.address())
}

fn published() -> Published {
    Published::new("\"one\"", &binary(SIZE))
}

#[test]
fn a_transfer_that_breaks_off_goes_on_in_the_same_look() {
    let server = breaks_once(move |request| published().answer(request));
    let (bytes, end) = read(&mut release(&server, &Known::nothing()));
    end.expect("the whole body");
    assert!(bytes == binary(SIZE));
    let last = server.seen().pop().expect("a request");
    assert_eq!((last.header("Range"), last.header("If-Match")), (Some("bytes=123456-"), Some("\"one\"")));
}

#[test]
fn a_crc_is_checked_over_the_whole_also_when_it_came_in_two_transfers() {
    // The CRC-32 of other bytes.
    let gets = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.is_head() {
        true => whole().header("x-amz-checksum-crc32", "AAAAAA=="),
        false if gets.fetch_add(1, Ordering::SeqCst) == 0 => whole().cut(CUT),
        false => published().answer(request),
    });
    let (bytes, end) = read(&mut release(&server, &Known::nothing()));
    assert_eq!(bytes.len(), SIZE);
    assert!(end.expect_err("it is damaged").to_string().contains("is damaged: its crc32 is "));
}

#[test]
fn a_transfer_that_stalls_goes_on_after_a_fifth_of_its_time() {
    let server = begins(|| whole().stall(CUT), move |request| published().answer(request));
    let mut fetcher = fetcher(&server).get_timeout(Duration::from_secs(20));
    let mut release = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let (bytes, end) = read(&mut release);
    end.expect("the whole body");
    assert!(bytes == binary(SIZE));
}

#[test]
fn a_transfer_that_stalls_for_good_is_stopped_and_kept_for_the_next_look() {
    let server = Server::start(|request| match (request.is_head(), request.range()) {
        (true, _) => whole(),
        (_, None) => whole().stall(CUT),
        (_, Some(from)) => part("\"one\"", &binary(SIZE), from).stall(0),
    });
    let mut fetcher = fetcher(&server).get_timeout(Duration::from_secs(3));
    let mut stalled = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let (bytes, end) = read(&mut stalled);
    assert!(bytes == binary(SIZE)[..CUT]);
    let text = end.expect_err("it never ends").to_string();
    let stalled = transfer(&server, "stalled, with nothing for 600ms,");
    let stopped = transfer(&server, "was stopped");
    assert!(
        text == format!("{stopped}, since 3s were over (get_timeout); the next look goes on there") || text.starts_with(&stalled),
        "{text}"
    );
}

#[test]
fn a_transfer_that_is_too_slow_for_one_look_is_finished_by_the_next_ones() {
    // Some bytes at a time, all of them in more time than a look has.
    let server = Server::start(|request| match request.is_head() {
        true => whole(),
        false => match request.range() {
            None => whole().trickle(8_000),
            Some(from) => part("\"one\"", &binary(SIZE), from).trickle(8_000),
        },
    });
    let mut have = Vec::new();
    for looks in 1.. {
        assert!(looks < 20, "each look brings something");
        let known = if have.is_empty() { Known::nothing() } else { Known::nothing().with_partial(TAG, have.len() as u64) };
        let mut fetcher = fetcher(&server).get_timeout(Duration::from_secs(5));
        let mut release = fetcher.fetch(&known).expect("a look").into_release().expect("a release");
        assert_eq!(release.starts_at(), have.len() as u64);
        let (bytes, end) = read(&mut release);
        have.extend(bytes);
        match end {
            Ok(()) => break,
            Err(error) => assert!(error.to_string().ends_with("since 5s were over (get_timeout); the next look goes on there"), "{error}"),
        }
    }
    assert!(have == binary(SIZE));
}

#[test]
fn an_object_that_changed_before_the_transfer_went_on_is_an_error_and_never_a_mix() {
    let server = breaks_once(move |request| Published::new("\"two\"", &binary(SIZE)).answer(request));
    let text = failure(&server);
    let broken = transfer(&server, "ended");
    assert!(text.starts_with(&format!("{broken} and could not go on: ")), "{text}");
    assert!(text.ends_with("it was replaced since HEAD told of it"), "{text}");
    // The same of a server that does not know the condition.
    let server = breaks_once(move |request| part("\"two\"", &binary(SIZE), request.range().expect("a part")));
    assert!(failure(&server).ends_with("was replaced since HEAD told of it: \"one\" became \"two\""));
}

#[test]
fn a_server_that_sends_another_part_or_no_part_is_told_of() {
    let server = breaks_once(|_| part("\"one\"", &binary(SIZE), 7));
    assert_eq!(failure(&server), format!("{}; the server answered what begins at byte 7", transfer(&server, "ended")));
    let server = breaks_once(|_| whole());
    assert_eq!(failure(&server), format!("{}; the server cannot send the rest alone", transfer(&server, "ended")));
}

#[test]
fn a_server_that_fails_when_the_transfer_should_go_on_is_told_of_with_both_reasons() {
    let server = breaks_once(|_| Answer::error("503 Slow Down", "SlowDown", "").header("Retry-After", "7"));
    let mut release = release(&server, &Known::nothing());
    let error = read(&mut release).1.expect_err("it broke off");
    let text = error.to_string();
    assert!(text.starts_with(&format!("{} and could not go on: ", transfer(&server, "ended"))), "{text}");
    assert!(text.contains("answered 503 to GET (SlowDown)"), "{text}");
    assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(7)));
}

#[test]
fn a_body_that_always_breaks_off_is_given_up_after_four_attempts() {
    let server = Server::start(|request| match (request.is_head(), request.range()) {
        (true, _) => whole(),
        (_, None) => whole().cut(1000),
        (_, Some(from)) => part("\"one\"", &binary(SIZE), from).cut(1000),
    });
    let (bytes, end) = read(&mut release(&server, &Known::nothing()));
    assert!(bytes == binary(SIZE)[..5000]);
    let text = end.expect_err("it is short").to_string();
    assert!(text.ends_with("ended after 5000 of 300000 bytes; 4 attempts to go on were not enough"), "{text}");
    assert_eq!(server.lines().len(), 1 + 1 + 4);
}

#[test]
fn a_short_body_of_an_object_with_a_weak_etag_is_an_error_and_not_asked_for_again() {
    let weak = || Answer::new("200 OK").header("ETag", "W/\"one\"").body(&binary(SIZE));
    let server = Server::start(move |request| if request.is_head() { weak() } else { weak().cut(CUT) });
    assert_eq!(failure(&server), format!("{}; the server gave no strong ETag to go on with", transfer(&server, "ended")));
    assert!(server.seen().iter().all(|request| request.header("If-Match").is_none()));
}

#[test]
fn the_next_look_goes_on_where_the_last_one_broke_off() {
    let server = Server::start(move |request| published().answer(request));
    let mut release = release(&server, &Known::nothing().with_partial(TAG, CUT as u64));
    assert_eq!((release.starts_at(), release.tag()), (CUT as u64, TAG));
    let (bytes, end) = read(&mut release);
    end.expect("the rest");
    assert!(bytes == binary(SIZE)[CUT..]);
    let last = server.seen().pop().expect("a request");
    assert_eq!((last.header("Range"), last.header("If-Match")), (Some("bytes=123456-"), Some("\"one\"")));
    assert_eq!(server.lines().len(), 2);
}

#[test]
fn a_beginning_that_is_of_no_use_is_dropped() {
    let other_tag = ("etag: \"two\"", CUT);
    let whole_already = (TAG, SIZE);
    for (tag, begun) in [other_tag, whole_already] {
        let server = Server::start(move |request| published().answer(request));
        let mut release = release(&server, &Known::nothing().with_partial(tag, begun as u64));
        assert_eq!(release.starts_at(), 0);
        assert!(read(&mut release).0 == binary(SIZE));
        assert!(server.seen().iter().all(|request| request.header("Range").is_none()));
    }
    let lies: [fn() -> Answer; 3] = [|| part("\"one\"", &binary(SIZE), 7), || Answer::error("416 No Range", "InvalidRange", ""), whole];
    for lie in lies {
        let server = Server::start(move |request| match request.range() {
            Some(_) => lie(),
            None => published().answer(request),
        });
        let mut release = release(&server, &Known::nothing().with_partial(TAG, CUT as u64));
        assert_eq!((release.starts_at(), release.tag()), (0, TAG));
        assert!(read(&mut release).0 == binary(SIZE));
    }
}
