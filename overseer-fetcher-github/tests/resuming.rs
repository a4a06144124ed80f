//! Downloads that break off.

mod server;

use overseer_core::{Fetcher, Known, Release};
use overseer_fetcher_github::GitHubFetcher;
use server::github::{GitHub, own_name, sha256};
use server::{Answer, Request, binary};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn release(mut fetcher: GitHubFetcher, known: &Known) -> Release {
    fetcher.fetch(known).expect("a look").into_release().expect("a release")
}

fn read(release: &mut Release) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).map(|_| bytes)
}

fn from(request: &Request) -> usize {
    let range = request.header("Range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    range.map_or(0, |from| from.parse().expect("a number"))
}

/// Brings at most `piece` bytes with each request, then closes.
fn in_pieces(github: &GitHub, body: Vec<u8>, piece: usize) {
    github.storage_instead(move |request| {
        let from = from(request);
        let whole = Answer::new(if from == 0 { "200 OK" } else { "206 Partial Content" });
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        Some(whole.header("Content-Range", range).body(&body[from..]).cut(piece))
    });
}

#[test]
fn a_transfer_that_breaks_off_goes_on_within_the_look_each_time_with_a_fresh_address() {
    let body = binary(10_000);
    let github = GitHub::with_release("v1", &body);
    in_pieces(&github, body.clone(), 2100);
    let mut release = release(github.fetcher(), &Known::nothing());
    assert_eq!(read(&mut release).expect("the whole body"), body);
    assert_eq!(github.storage.seen().iter().map(from).collect::<Vec<_>>(), [0, 2100, 4200, 6300, 8400]);
    let assets = github.api.lines().iter().filter(|line| line.ends_with("/assets/102")).count();
    assert_eq!(assets, 5, "the signature of an address lasts for minutes only");
}

#[test]
fn a_transfer_that_breaks_off_too_often_ends_the_look_and_the_next_one_goes_on() {
    let body = binary(10_000);
    let github = GitHub::with_release("v1", &body);
    in_pieces(&github, body.clone(), 1500);
    let mut broken = release(github.fetcher(), &Known::nothing());
    let error = read(&mut broken).expect_err("five pieces are not enough").to_string();
    let stored = github.storage.url("/release-asset/102");
    let own = own_name();
    let text = format!("the transfer of {own} of v1 from {stored} ended after 7500 of 10000 bytes; 4 attempts to go on were not enough");
    assert_eq!(error, text);

    let known = Known::nothing().with_partial(broken.tag(), 7500);
    let mut rest = release(github.fetcher(), &known);
    assert_eq!((rest.starts_at(), rest.tag()), (7500, broken.tag()));
    assert_eq!(read(&mut rest).expect("the rest"), body[7500..]);
    assert_eq!(rest.digests().map(|digest| digest.to_hex()).collect::<Vec<_>>(), [sha256(&body)], "of the whole");
}

#[test]
fn the_beginning_of_another_file_is_not_gone_on_with() {
    let body = binary(1000);
    let github = GitHub::with_release("v1", &body);
    let tag = release(github.fetcher(), &Known::nothing()).tag().to_owned();
    github.replace(&own_name(), &binary(1001));
    let mut found = release(github.fetcher(), &Known::nothing().with_partial(tag, 500));
    assert_eq!((found.starts_at(), read(&mut found).expect("all of it").len()), (0, 1001));
}

#[test]
fn a_storage_host_that_cannot_send_a_part_sends_all_of_it() {
    let body = binary(1000);
    for status in ["200", "416", "other part", "other size"] {
        let github = GitHub::with_release("v1", &body);
        let all = body.clone();
        github.storage_instead(move |request| {
            let part = |range: &str| Answer::new("206 Partial Content").header("Content-Range", range).body(&all[400..]);
            Some(match status {
                _ if from(request) == 0 => return None,
                "416" => Answer::status("416 Range Not Satisfiable"),
                "other part" => part("bytes 400-999/1000"),
                "other size" => part("bytes 500-1999/2000"),
                _ => Answer::new("200 OK").body(&all),
            })
        });
        let tag = release(github.fetcher(), &Known::nothing()).tag().to_owned();
        let mut found = release(github.fetcher(), &Known::nothing().with_partial(tag, 500));
        assert_eq!((found.starts_at(), read(&mut found).expect("all of it")), (0, body.clone()), "{status}");
    }
}

#[test]
fn a_rest_that_is_none_ends_the_look() {
    let body = binary(1000);
    let second = |answer: fn(&[u8]) -> Answer| {
        let github = GitHub::with_release("v1", &body);
        let all = body.clone();
        let asked = AtomicUsize::new(0);
        github.storage_instead(move |_| {
            Some(match asked.fetch_add(1, Ordering::SeqCst) {
                0 => Answer::new("200 OK").body(&all).cut(300),
                _ => answer(&all),
            })
        });
        let mut found = release(github.fetcher(), &Known::nothing());
        read(&mut found).expect_err("no rest").to_string()
    };
    assert!(
        second(|all| Answer::new("200 OK").body(all)).ends_with("ended after 300 of 1000 bytes; the server cannot send the rest alone")
    );
    let other = second(|all| Answer::new("206 Partial Content").header("Content-Range", "bytes 200-999/1000").body(&all[200..]));
    assert!(other.ends_with("; the server answered another part: bytes 200-999/1000"), "{other}");
    let refused = second(|_| Answer::status("503 Service Unavailable"));
    assert!(refused.contains(" and could not go on: ") && refused.ends_with("answered 503 Service Unavailable"), "{refused}");
}

#[test]
fn a_rate_limit_in_the_middle_of_a_transfer_asks_for_its_pause() {
    let body = binary(1000);
    let github = GitHub::with_release("v1", &body);
    in_pieces(&github, body, 300);
    let mut found = release(github.fetcher(), &Known::nothing());
    github.change(|state| state.requests_left = 0);
    let error = read(&mut found).expect_err("no more requests");
    let error = error.downcast::<overseer_core::FetchError>().expect("a reason of ours");
    assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(1234)));
    assert!(error.to_string().contains("the rate limit of 60 requests an hour"), "{error}");
}

#[test]
fn a_transfer_that_stalls_goes_on_and_is_told_of_when_that_does_not_help() {
    let body = binary(1000);
    let github = GitHub::with_release("v1", &body);
    let all = body.clone();
    github.storage_instead(move |request| match from(request) {
        0 => Some(Answer::new("200 OK").body(&all).stall(400)),
        _ => None,
    });
    let quick = || github.fetcher().get_timeout(Duration::from_millis(1500));
    let mut found = release(quick(), &Known::nothing());
    assert_eq!(read(&mut found).expect("the whole body"), body);

    github.storage_instead(move |request| {
        let range = format!("bytes {}-999/1000", from(request));
        Some(
            Answer::new(if from(request) == 0 { "200 OK" } else { "206 Partial Content" })
                .header("Content-Range", range)
                .body(&[7; 1000])
                .stall(0),
        )
    });
    let mut found = release(quick(), &Known::nothing());
    let error = read(&mut found).expect_err("it stalls for ever").to_string();
    assert!(error.contains(" stalled, with nothing for 1.5s, after 0 of 1000 bytes; 4 attempts"), "{error}");
}
