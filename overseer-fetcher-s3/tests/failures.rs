//! What a look says when S3, or what stands in its place, refuses, lies or is not there.

mod server;

use overseer_core::{FetchError, FetchErrorKind, Fetcher, Known};
use overseer_fetcher_s3::S3Fetcher;
use server::{Answer, Request, Server, binary};
use std::time::Duration;

const SIZE: usize = 100_000;

fn fetcher(server: &Server) -> S3Fetcher {
    S3Fetcher::new("releases", "app").region("us-east-1").endpoint(server.url("")).credentials("AKIDEXAMPLE", "s3cret", None)
}

fn error(server: &Server) -> FetchError {
    fetcher(server).fetch(&Known::nothing()).expect_err("it fails")
}

/// What an error is about, which it begins with.
fn source(server: &Server) -> String {
    format!("s3://releases/app at {}", server.address())
}

/// The answer of a server that refuses HEAD with a status and GET with a code.
fn refuses(status: &'static str, code: &'static str, more: &'static str) -> Server {
    Server::start(move |request| if request.is_head() { Answer::status(status) } else { Answer::error(status, code, more) })
}

fn object() -> Answer {
    Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE))
}

/// A server that answers HEAD well, and GET with `get`.
fn after_head(get: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |request| if request.is_head() { object() } else { get(request) })
}

#[test]
fn each_refusal_has_words_and_a_kind_of_its_own() {
    use FetchErrorKind::{Passing, Settings};
    let cases = [
        ("403 Forbidden", "InvalidAccessKeyId", "", Settings, "PLACE does not know the access key given with credentials"),
        ("403 Forbidden", "SignatureDoesNotMatch", "", Settings, "the secret key given with credentials does not belong to its access key"),
        ("400 Bad Request", "ExpiredToken", "", Settings, "the session token given with credentials has expired"),
        ("400 Bad Request", "InvalidToken", "", Settings, "the session token given with credentials is not one of PLACE"),
        (
            "403 Forbidden",
            "AccessDenied",
            "",
            Settings,
            "the credentials given with credentials may not read it (s3:GetObject), or it is missing, which is told only to those who may list the bucket (s3:ListBucket)",
        ),
        ("404 Not Found", "NoSuchBucket", "", Settings, "there is no bucket releases at PLACE"),
        ("404 Not Found", "NoSuchKey", "", Passing, "there is no such key in the bucket"),
        ("404 Not Found", "NoSuchVersion", "", Settings, "there is no version v9 of it"),
        ("403 Forbidden", "InvalidObjectState", "", Settings, "it is archived and must be restored before it can be read"),
        (
            "400 Bad Request",
            "InvalidRequest",
            "<Message>A key of one&apos;s own is missing.</Message>",
            Passing,
            "A key of one's own is missing",
        ),
        (
            "400 Bad Request",
            "AuthorizationHeaderMalformed",
            "<Message>the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message>",
            Settings,
            "the bucket releases is in the region eu-west-1, and us-east-1 was asked; set region to eu-west-1",
        ),
        (
            "403 Forbidden",
            "RequestTimeTooSkewed",
            "<RequestTime>20200101T000000Z</RequestTime><ServerTime>2020-01-01T01:00:00Z</ServerTime>",
            Settings,
            "the clocks differ by more than the allowed 15 min: here it is 20200101T000000Z, there 2020-01-01T01:00:00Z; set the clock of this machine",
        ),
    ];
    for (status, code, more, kind, why) in cases {
        let server = refuses(status, code, more);
        let fetcher = fetcher(&server);
        let mut fetcher = if code == "NoSuchVersion" { fetcher.version_id("v9") } else { fetcher };
        let error = fetcher.fetch(&Known::nothing()).expect_err("it is refused");
        let number = &status[..3];
        let why = why.replace("PLACE", &server.address().to_string());
        assert_eq!(error.to_string(), format!("{} answered {number} to GET ({code}): {why}", source(&server)));
        assert_eq!(error.kind(), kind, "{code}");
        // The text of a HEAD's refusal is asked for once, and not more of the object than a byte.
        assert_eq!(server.lines().iter().map(|line| &line[..4]).collect::<Vec<_>>(), ["HEAD", "GET "]);
        assert_eq!(server.seen()[1].header("Range"), Some("bytes=0-0"));
    }
}

#[test]
fn a_bucket_in_another_region_is_told_with_the_name_of_that() {
    let to = |status: &'static str| Server::start(move |_| Answer::status(status).header("x-amz-bucket-region", "eu-west-1"));
    for status in ["301 Moved Permanently", "400 Bad Request"] {
        let server = to(status);
        let error = error(&server);
        let why = "the bucket releases is in the region eu-west-1, and us-east-1 was asked; set region to eu-west-1";
        assert_eq!(error.to_string(), format!("{} answered {} to HEAD: {why}", source(&server), &status[..3]));
        assert_eq!(error.kind(), FetchErrorKind::Settings);
        assert_eq!(server.lines().len(), 1, "HEAD said it all");
    }
}

#[test]
fn a_redirect_is_not_followed_so_no_other_host_sees_a_signature() {
    let other = Server::start(|_| object());
    let elsewhere = other.url("/releases/app");
    for (status, kind) in
        [("301 Moved", FetchErrorKind::Settings), ("302 Found", FetchErrorKind::Settings), ("307 Moved", FetchErrorKind::Passing)]
    {
        let elsewhere = elsewhere.clone();
        let server = Server::start(move |_| Answer::status(status).header("Location", &elsewhere));
        let error = error(&server);
        let why = "it redirects to 127.0.0.1, and no signed request follows a redirect";
        assert_eq!(error.to_string(), format!("{} answered {} to HEAD: {why}", source(&server), &status[..3]));
        assert_eq!(error.kind(), kind);
    }
    assert!(other.seen().is_empty());
}

#[test]
fn a_refused_head_that_nothing_explains_is_told_with_what_it_may_mean() {
    let server = Server::start(|_| Answer::status("403 Forbidden"));
    let text = error(&server).to_string();
    assert!(
        text.starts_with(&format!("{} answered 403 to HEAD: the credentials given with credentials may not", source(&server))),
        "{text}"
    );
    assert!(text.contains("s3:ListBucket"), "{text}");

    let server = Server::start(|request| if request.is_head() { Answer::status("403 Forbidden") } else { object() });
    let error = error(&server);
    assert_eq!(
        error.to_string(),
        format!("{} answered 403 to HEAD, but gives the object to GET; HEAD must be allowed, too", source(&server))
    );
    assert_eq!(error.kind(), FetchErrorKind::Settings);
}

#[test]
fn a_clock_that_is_off_is_seen_by_the_servers_own_where_nothing_else_tells() {
    let server = Server::start(|_| Answer::status("403 Forbidden").header("Date", "Sun, 06 Nov 1994 08:49:37 GMT"));
    let error = error(&server);
    let text = error.to_string();
    assert!(text.contains("the clocks differ by more than the allowed 15 min: here it is "), "{text}");
    assert!(text.ends_with("there Sun, 06 Nov 1994 08:49:37 GMT; set the clock of this machine"), "{text}");
    assert_eq!(error.kind(), FetchErrorKind::Settings);
}

#[test]
fn throttling_is_obeyed_with_the_pause_that_is_asked_for_or_a_minute() {
    for (header, pause) in [(None, 60), (Some("7"), 7)] {
        let server = Server::start(move |_| {
            let answer = Answer::status("503 Slow Down");
            if let Some(seconds) = header { answer.header("Retry-After", seconds) } else { answer }
        });
        let error = error(&server);
        let why = format!("{} asks for fewer requests; looked at again in {pause}s at the earliest", server.address());
        assert_eq!(error.to_string(), format!("{} answered 503 to HEAD: {why}", source(&server)));
        assert_eq!((error.kind(), error.pause_asked_for()), (FetchErrorKind::Passing, Some(Duration::from_secs(pause))));
        assert_eq!(server.lines().len(), 1, "a throttled look asks no more");
    }
    let server = after_head(|_| Answer::error("503 Slow Down", "SlowDown", ""));
    let error = error(&server);
    assert!(error.to_string().contains("answered 503 to GET (SlowDown): "), "{error}");
    assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(60)));
}

#[test]
fn a_failure_of_the_server_is_one_request_and_passes() {
    let server = Server::start(|_| Answer::status("500 Internal Server Error"));
    let error = error(&server);
    assert_eq!(error.to_string(), format!("{} answered 500 to HEAD", source(&server)));
    assert_eq!(error.kind(), FetchErrorKind::Passing);
    assert_eq!(server.lines().len(), 1);
}

#[test]
fn a_deleted_object_is_told_as_such() {
    let server = Server::start(|_| Answer::status("404 Not Found").header("x-amz-delete-marker", "true"));
    let error = error(&server);
    assert!(error.to_string().ends_with("answered 404 to HEAD: it was deleted: its newest version is a delete marker"), "{error}");
    assert_eq!(error.kind(), FetchErrorKind::Passing);
}

#[test]
fn an_object_replaced_between_head_and_get_is_an_error_that_passes() {
    let conditional = after_head(|request| {
        assert_eq!(request.header("If-Match"), Some("\"one\""));
        Answer::error("412 Precondition Failed", "PreconditionFailed", "")
    });
    let error_412 = error(&conditional);
    let why = "it was replaced since HEAD told of it";
    assert_eq!(error_412.to_string(), format!("{} answered 412 to GET (PreconditionFailed): {why}", source(&conditional)));
    assert_eq!(error_412.kind(), FetchErrorKind::Passing);

    // A server that does not know the condition is caught by what it answers.
    let unconditional = after_head(|_| Answer::new("200 OK").header("ETag", "\"two\"").body(&binary(SIZE)));
    let text = error(&unconditional).to_string();
    assert_eq!(text, format!("{} was replaced since HEAD told of it: \"one\" became \"two\"", source(&unconditional)));

    let versions = Server::start(|request| object().header("x-amz-version-id", if request.is_head() { "v1" } else { "v2" }));
    let text = error(&versions).to_string();
    assert_eq!(text, format!("{} was replaced since HEAD told of it: version v1 became v2", source(&versions)));
}

#[test]
fn a_wrong_length_is_told_before_a_byte_is_read() {
    let server = after_head(|_| Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(SIZE + 7)));
    let text = error(&server).to_string();
    assert_eq!(text, format!("{} has 100000 bytes, and GET brings 100007 where 100000 are left", source(&server)));
}

#[test]
fn an_object_that_tells_nothing_to_compare_is_an_error() {
    let server = Server::start(|_| Answer::new("200 OK").body(b"x"));
    let error_etag = error(&server);
    assert_eq!(error_etag.to_string(), format!("{} tells no ETag, so no change can be seen", source(&server)));
    assert_eq!(error_etag.kind(), FetchErrorKind::Settings);
    let server = Server::start(|_| Answer::new("200 OK").header("ETag", "\"one\"").header("Connection", "close"));
    assert_eq!(error(&server).to_string(), format!("{} tells no length", source(&server)));
    let server = Server::start(|_| object().header("x-amz-checksum-crc32", "AAAA"));
    assert_eq!(error(&server).to_string(), format!("{} has a crc32 checksum that cannot be read: AAAA", source(&server)));
}

#[test]
fn a_server_that_is_silent_gone_or_no_server_is_told_of() {
    let place = |server: &Server| server.address().to_string();
    let silent = Server::start(|_| Answer::silence());
    let error_silent = fetcher(&silent).head_timeout(Duration::from_secs(1)).fetch(&Known::nothing()).expect_err("it is silent");
    assert_eq!(error_silent.to_string(), format!("{}: {} was silent: no answer to HEAD within 1s", source(&silent), place(&silent)));
    assert_eq!(error_silent.kind(), FetchErrorKind::Passing);

    for answer in [Answer::hang_up as fn() -> Answer, || Answer::garbage("SSH-2.0-OpenSSH_9.2\r\n")] {
        let server = Server::start(move |_| answer());
        let text = error(&server).to_string();
        assert!(text.starts_with(&format!("{}: {} gave no usable answer: ", source(&server), place(&server))), "{text}");
    }

    let gone = {
        let server = Server::start(|_| object());
        fetcher(&server)
    };
    let mut gone = gone;
    let text = gone.fetch(&Known::nothing()).expect_err("nobody is there").to_string();
    assert!(text.contains(": nothing listens at 127.0.0.1:"), "{text}");

    let mut nowhere = S3Fetcher::new("releases", "app").endpoint("http://host.invalid").credentials("A", "s3cret", None).region("x");
    let text = nowhere.fetch(&Known::nothing()).expect_err("there is no such host").to_string();
    assert!(text.starts_with("s3://releases/app at host.invalid: the host of host.invalid cannot be found: "), "{text}");
}

#[test]
fn an_endless_text_of_an_error_is_not_read_to_its_end() {
    let server = after_head(|_| Answer::new("500 Internal Server Error").zeros(1 << 40));
    let text = error(&server).to_string();
    assert!(text.starts_with(&source(&server)), "{text}");
}

#[test]
fn a_body_that_is_damaged_on_its_way_is_found_by_each_crc() {
    // The checksums of other bytes.
    for (header, wrong) in [("crc32", "AAAAAA=="), ("crc32c", "AAAAAA=="), ("crc64nvme", "AAAAAAAAAAA=")] {
        let server = Server::start(move |request| {
            let told = object().header(&format!("x-amz-checksum-{header}"), wrong);
            if request.is_head() { told } else { object() }
        });
        let mut release = fetcher(&server).fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
        let end = std::io::copy(release.body(), &mut std::io::sink()).expect_err("it is damaged");
        let error = end.downcast::<FetchError>().expect("an error of the fetcher");
        let text = error.to_string();
        assert!(text.starts_with(&format!("what came of {} is damaged: its {header} is ", source(&server))), "{text}");
        assert!(text.ends_with(" instead of 0; it is fetched anew"), "{text}");
        assert_eq!(error.kind(), FetchErrorKind::Passing);
        let again = std::io::copy(release.body(), &mut std::io::sink()).expect_err("it stays damaged");
        assert_eq!(again.to_string(), text);
        assert_eq!(server.seen()[0].header("x-amz-checksum-mode"), Some("ENABLED"));
    }
}

#[test]
fn the_checksums_of_parts_are_not_taken_for_those_of_the_object() {
    let server = Server::start(|_| {
        let parts = object().header("x-amz-checksum-crc32", "AAAAAA==-3").header("x-amz-checksum-sha256", "AAAA-3");
        parts.header("x-amz-checksum-type", "COMPOSITE")
    });
    let mut release = fetcher(&server).fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    assert_eq!(release.digests().count(), 0);
    assert_eq!(std::io::copy(release.body(), &mut std::io::sink()).expect("the whole body"), SIZE as u64);
}

#[test]
fn a_version_that_is_set_is_asked_for_and_part_of_the_tag() {
    let server = Server::start(|_| object().header("x-amz-version-id", "v7"));
    let release = fetcher(&server).version_id("v7").fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    assert_eq!(release.tag(), "etag: \"one\", version-id: v7");
    for line in server.lines() {
        assert!(line.contains("versionId=v7"), "{line}");
    }
}

#[test]
fn the_bucket_is_in_the_path_unless_it_is_wanted_in_the_host() {
    let server = Server::start(|_| object());
    let known = Known::nothing().with_settled("etag: \"one\"");
    assert!(fetcher(&server).fetch(&known).expect("a look").is_unchanged());
    assert_eq!(server.lines(), ["HEAD /releases/app"]);
    let by_name = format!("http://localhost:{}", server.address().port());
    // `*.localhost` resolves on few systems; whether it does shows in what was asked or in the error.
    match fetcher(&server).endpoint(by_name).path_style(false).fetch(&known) {
        Ok(_) => assert_eq!(server.lines()[1], "HEAD /app"),
        Err(error) => assert!(error.to_string().contains("cannot be found"), "{error}"),
    }
}
