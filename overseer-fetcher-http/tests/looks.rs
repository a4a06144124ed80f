//! What is asked of a server, and what is made of its answers.

mod server;

use overseer_core::{Digest, DigestAlgorithm, FetchErrorKind, Fetcher, Known, Release};
use overseer_fetcher_http::HttpFetcher;
use server::{Answer, Published, Server, binary};
use std::time::Duration;

fn fetcher(server: &Server) -> HttpFetcher {
    HttpFetcher::new(server.url("/app")).no_proxy()
}

fn release(fetcher: &mut HttpFetcher, known: &Known) -> Release {
    let look = fetcher.fetch(known).expect("a look");
    assert!(!look.is_unchanged(), "there is a release");
    look.into_release().expect("a release")
}

fn all(release: &mut Release) -> Vec<u8> {
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    bytes
}

#[test]
fn a_new_release_comes_whole_and_is_settled_by_its_tag() {
    let file = Published::new("\"one\"", &binary(100_000));
    let served = file.clone();
    let server = Server::start(move |request| served.answer(request));
    let mut fetcher = fetcher(&server);

    let mut first = release(&mut fetcher, &Known::nothing());
    assert_eq!(all(&mut first), binary(100_000));
    assert_eq!(first.file_name(), "app");
    assert_eq!(first.starts_at(), 0);
    assert_eq!(server.lines(), ["HEAD /app", "GET /app"]);

    let known = Known::nothing().with_settled(first.tag());
    assert!(fetcher.fetch(&known).expect("a look").is_unchanged());
    file.replace("\"two\"", &binary(100_000));
    let second = release(&mut fetcher, &known);
    assert_ne!(second.tag(), first.tag());
}

#[test]
fn no_time_is_too_long() {
    let published = Published::new("\"one\"", &binary(1000));
    let server = Server::start(move |request| published.answer(request));
    let fetcher = fetcher(&server).connect_timeout(Duration::MAX).head_timeout(Duration::MAX).get_timeout(Duration::MAX);
    assert_eq!(all(&mut release(&mut { fetcher }, &Known::nothing())), binary(1000));
}

#[test]
fn a_look_with_nothing_new_costs_exactly_one_head_request_without_a_body() {
    let file = Published::new("\"one\"", &binary(1000));
    let server = Server::start(move |request| file.answer(request));
    let mut fetcher = fetcher(&server);
    let known = Known::nothing().with_settled("etag: \"one\", content-length: 1000");
    for look in 1..=3 {
        assert!(fetcher.fetch(&known).expect("a look").is_unchanged());
        assert_eq!(server.lines(), vec!["HEAD /app"; look]);
        assert_eq!(server.connections(), look);
    }
    let asked = &server.seen()[0];
    assert_eq!(asked.header("Accept-Encoding"), Some("identity"));
    assert!(asked.header("User-Agent").is_some_and(|agent| agent.starts_with("overseer-fetcher-http/")));
    assert_eq!(asked.header("Transfer-Encoding"), None);
}

#[test]
fn a_server_that_closes_the_connection_after_each_answer_without_a_word_is_no_problem() {
    let server = Server::start(|_| Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF").cut(4));
    for _ in 0..20 {
        assert_eq!(all(&mut release(&mut fetcher(&server), &Known::nothing())), b"\x7fELF");
    }
}

#[test]
fn a_change_of_any_checked_header_is_a_new_release() {
    let tag = |headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let server = Server::start(move |_| {
            headers.iter().fold(Answer::new("200 OK"), |answer, (name, value)| answer.header(name, value)).body(b"\x7fELF")
        });
        release(&mut fetcher(&server), &Known::nothing()).tag().to_owned()
    };
    let plain = tag(&[]);
    let tagged = tag(&[("ETag", "\"one\"")]);
    let dated = tag(&[("ETag", "\"one\""), ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
    let later = tag(&[("ETag", "\"one\""), ("Last-Modified", "Sun, 06 Nov 1994 08:49:38 GMT")]);
    let unrelated = tag(&[("ETag", "\"one\""), ("X-Request-Id", "7")]);
    assert_eq!(plain, "content-length: 4");
    assert_ne!(tagged, plain);
    assert_ne!(dated, tagged);
    assert_ne!(later, dated);
    assert_eq!(unrelated, tagged);
}

#[test]
fn only_the_headers_that_are_set_are_compared() {
    let server = Server::start(|request| {
        let answer = Answer::new("200 OK").header("X-Version", "7").header("ETag", format!("\"{}\"", request.method));
        answer.body(b"\x7fELF")
    });
    let mut fetcher = fetcher(&server).check_headers(["X-Version"]);
    assert_eq!(release(&mut fetcher, &Known::nothing()).tag(), "x-version: 7");
}

#[test]
fn where_head_is_refused_a_get_on_condition_takes_its_place() {
    for status in ["403 Forbidden", "405 Method Not Allowed", "501 Not Implemented"] {
        let file = Published::new("\"one\"", &binary(1000));
        let served = file.clone();
        let server = Server::start(move |request| if request.is_head() { Answer::status(status) } else { served.answer(request) });
        let mut fetcher = fetcher(&server);

        let look = fetcher.fetch(&Known::nothing()).expect("a look");
        let memo = look.memo().expect("validators to remember").to_owned();
        let mut first = look.into_release().expect("a release");
        assert_eq!(all(&mut first), binary(1000));

        let known = Known::nothing().with_memo(&memo).with_settled(first.tag());
        assert!(fetcher.fetch(&known).expect("a look").is_unchanged());
        let last = server.seen().pop().expect("a request");
        assert_eq!((last.method.as_str(), last.header("If-None-Match")), ("GET", Some("\"one\"")));

        let to_be_tried_again = Known::nothing().with_memo(&memo);
        release(&mut fetcher, &to_be_tried_again);

        file.replace("\"two\"", &binary(1000));
        release(&mut fetcher, &known);
    }
}

#[test]
fn where_head_is_refused_and_conditions_are_ignored_a_settled_release_is_not_read_again() {
    let server = Server::start(|request| match request.is_head() {
        true => Answer::status("405 Method Not Allowed"),
        false => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"),
    });
    let known = Known::nothing().with_settled("etag: \"one\", content-length: 4");
    let look = fetcher(&server).fetch(&known).expect("a look");
    assert!(look.is_unchanged());
    assert!(look.memo().is_some(), "the next look may be cheaper");
}

#[test]
fn a_head_that_tells_nothing_is_followed_by_a_get() {
    let server = Server::start(|request| match request.is_head() {
        true => Answer::status("200 OK"),
        false => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"),
    });
    let mut release = release(&mut fetcher(&server), &Known::nothing());
    assert_eq!(release.tag(), "etag: \"one\", content-length: 4");
    assert_eq!(all(&mut release), b"\x7fELF");
}

#[test]
fn a_server_that_tells_nothing_to_compare_is_a_settings_error_that_says_so() {
    let server =
        Server::start(|request| if request.is_head() { Answer::new("200 OK") } else { Answer::new("200 OK").bytes(b"\x7fELF").cut(4) });
    let error = fetcher(&server).fetch(&Known::nothing()).expect_err("no change could be seen");
    assert_eq!(error.kind(), FetchErrorKind::Settings);
    assert!(error.to_string().contains("tells none of etag, if-modified-since, last-modified, content-length"), "{error}");
}

#[test]
fn a_file_that_changed_between_head_and_get_has_the_tag_of_what_came() {
    let server = Server::start(|request| match request.is_head() {
        true => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"),
        false => Answer::new("200 OK").header("ETag", "\"two\"").body(b"\x7fELF2"),
    });
    let mut fetcher = fetcher(&server);
    assert_eq!(release(&mut fetcher, &Known::nothing()).tag(), "etag: \"two\", content-length: 5");
    let known = Known::nothing().with_settled("etag: \"two\", content-length: 5");
    assert!(fetcher.fetch(&known).expect("a look").is_unchanged(), "an older server behind the same address");
}

#[test]
fn a_server_whose_head_counts_differently_is_not_asked_again_for_a_settled_release() {
    let server = Server::start(|request| match request.is_head() {
        true => Answer::new("200 OK").header("ETag", "\"one\"").header("Content-Length", "9"),
        false => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"),
    });
    let mut fetcher = fetcher(&server);
    let mut first = release(&mut fetcher, &Known::nothing());
    assert_eq!(all(&mut first), b"\x7fELF");
    assert!(fetcher.fetch(&Known::nothing().with_settled(first.tag())).expect("a look").is_unchanged());
}

#[test]
fn a_body_without_a_length_that_ends_before_the_length_of_head_is_short() {
    let server = Server::start(|request| match request.is_head() {
        true => Answer::new("200 OK").header("ETag", "W/\"one\"").header("Content-Length", "1000"),
        false => Answer::new("200 OK").header("ETag", "W/\"one\"").bytes(&binary(1000)).cut(600),
    });
    let mut release = release(&mut fetcher(&server), &Known::nothing());
    let error = release.body().read_to_end(&mut Vec::new()).expect_err("it is short");
    assert!(error.to_string().contains("ended after 600 of 1000 bytes"), "{error}");
}

#[test]
fn a_compressed_release_is_known_by_its_name_or_by_its_encoding() {
    for (path, encoding, name) in [
        ("/app.gz", None, "app.gz"),
        ("/app", Some("gzip"), "app.gz"),
        ("/app", Some("x-gzip"), "app.gz"),
        ("/app.gz", Some("gzip"), "app.gz"),
        ("/app", Some("identity"), "app"),
    ] {
        let server = Server::start(move |_| {
            let answer = Answer::new("200 OK").header("ETag", "\"one\"");
            encoding.iter().fold(answer, |answer, encoding| answer.header("Content-Encoding", encoding)).body(b"\x1f\x8b packed")
        });
        let mut release = release(&mut HttpFetcher::new(server.url(path)).no_proxy(), &Known::nothing());
        assert_eq!(release.file_name(), name);
        assert_eq!(all(&mut release), b"\x1f\x8b packed", "bytes come as they were published");
    }
}

#[test]
fn a_redirect_to_a_compressed_release_tells_how_to_unpack_it() {
    let server = Server::start(|request| match request.target.as_str() {
        "/latest" => Answer::redirect("/app-1.2.gz"),
        _ => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x1f\x8b packed"),
    });
    let release = release(&mut HttpFetcher::new(server.url("/latest")).no_proxy(), &Known::nothing());
    assert_eq!(release.file_name(), "app-1.2.gz");
}

#[test]
fn a_release_in_another_encoding_is_an_error_that_names_it() {
    let server = Server::start(|_| Answer::new("200 OK").header("Content-Encoding", "br").body(b"\x7fELF"));
    let error = fetcher(&server).fetch(&Known::nothing()).expect_err("br cannot be unpacked");
    assert!(error.to_string().contains("Content-Encoding br"), "{error}");
}

const OF_ELF: &str = "3bdbb4fe8397cd2b842430b39ccff01a8663c751945ef5e9a09e267fb8b1d359";

#[test]
fn a_digest_header_is_handed_to_core() {
    let server = Server::start(|_| {
        let answer = Answer::new("200 OK").header("Repr-Digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:");
        answer.body(b"\x7fELF")
    });
    let release = release(&mut fetcher(&server), &Known::nothing());
    let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let digest = Digest::from_hex(DigestAlgorithm::Sha256, of_nothing).expect("a digest");
    assert_eq!(release.digests().collect::<Vec<_>>(), [&digest]);
}

#[test]
fn a_damaged_digest_header_is_an_error_and_not_passed_over() {
    let server = Server::start(|_| Answer::new("200 OK").header("Digest", "SHA-256=47DE").body(b"\x7fELF"));
    let error = fetcher(&server).fetch(&Known::nothing()).expect_err("the digest is damaged");
    assert!(error.to_string().contains("digest header that cannot be read: SHA-256=47DE"), "{error}");
}

#[test]
fn the_digest_file_beside_the_release_is_read_only_when_there_is_a_release() {
    let server = Server::start(|request| match request.target.as_str() {
        "/app.sha256?key=1" => Answer::new("200 OK").body(format!("{OF_ELF}  app\n").as_bytes()),
        _ => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"),
    });
    let mut fetcher = HttpFetcher::new(server.url("/app?key=1")).no_proxy().sha256_file(true);
    let found = release(&mut fetcher, &Known::nothing());
    let digest = Digest::from_hex(DigestAlgorithm::Sha256, OF_ELF).expect("a digest");
    assert_eq!(found.digests().collect::<Vec<_>>(), [&digest]);
    assert_eq!(server.lines(), ["HEAD /app?key=1", "GET /app.sha256?key=1", "GET /app?key=1"]);

    assert!(fetcher.fetch(&Known::nothing().with_settled(found.tag())).expect("a look").is_unchanged());
    assert_eq!(server.lines().len(), 4);
}

#[test]
fn a_release_whose_digest_file_is_missing_is_incomplete_and_not_downloaded() {
    let server = Server::start(|request| match request.target.as_str() {
        "/app.sha256" => Answer::status("404 Not Found"),
        _ => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"),
    });
    let look = fetcher(&server).sha256_file(true).fetch(&Known::nothing()).expect("a look");
    let why = look.why_incomplete().expect("it is incomplete");
    assert_eq!(why, format!("{} answered 404 Not Found; a release is taken only with its .sha256 file", server.url("/app.sha256")));
    assert_eq!(server.lines(), ["HEAD /app", "GET /app.sha256"]);
}

#[test]
fn a_digest_file_that_cannot_be_read_or_has_none_is_an_error() {
    for (answer, text) in [
        ((|| Answer::status("500 Internal Server Error")) as fn() -> Answer, "/app.sha256 answered 500 Internal Server Error to GET"),
        (|| Answer::new("200 OK").body(b"<html>"), "/app.sha256 has no SHA-256 of app in it"),
        (|| Answer::new("200 OK").body(&[b'a'; 64]).cut(10), "/app.sha256 cannot be read"),
    ] {
        let server = Server::start(move |request| match request.target.as_str() {
            "/app.sha256" => answer(),
            _ => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"),
        });
        let error = fetcher(&server).sha256_file(true).fetch(&Known::nothing()).expect_err("there is no digest");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_checksum_file_of_many_releases_lies_in_their_directory() {
    let sums = format!("{}  other\n{OF_ELF} *app\n", "0".repeat(64));
    let server = Server::start(move |request| match request.target.as_str() {
        "/1.2/SHA256SUMS?key=1" => Answer::new("200 OK").body(sums.as_bytes()),
        _ => Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF"),
    });
    let fetcher = |path: &str| HttpFetcher::new(server.url(path)).no_proxy().checksum_file("SHA256SUMS");
    let found = release(&mut fetcher("/1.2/app?key=1"), &Known::nothing());
    let digest = Digest::from_hex(DigestAlgorithm::Sha256, OF_ELF).expect("a digest");
    assert_eq!(found.digests().collect::<Vec<_>>(), [&digest]);

    let error = fetcher("/1.2/third?key=1").fetch(&Known::nothing()).expect_err("it is not named");
    assert_eq!(error.to_string(), format!("{} has no SHA-256 of third in it", server.url("/1.2/SHA256SUMS")));
}
