//! What is said when GitHub, or something on the way to it, does not do what it should.

mod server;

use overseer_core::{FetchError, FetchErrorKind, Fetcher, Known};
use overseer_fetcher_github::GitHubFetcher;
use server::github::{GitHub, own_name};
use server::{Answer, binary};
use std::io::Write;
use std::time::Duration;

const LATEST: &str = "/repos/octo/app/releases/latest";

fn error_of(mut fetcher: GitHubFetcher) -> FetchError {
    fetcher.fetch(&Known::nothing()).expect_err("no release is there")
}

/// The error after the address, when the API answers so, without and with a token.
fn refused(answer: impl Fn() -> Answer + Send + 'static) -> [FetchError; 2] {
    let github = GitHub::start();
    github.api_always(answer);
    let begin = github.api.url(LATEST);
    [github.fetcher(), github.fetcher().token("t0ken")].map(|fetcher| {
        let error = error_of(fetcher);
        let text = error.to_string();
        let rest = text.strip_prefix(&format!("{begin} answered ")).unwrap_or_else(|| panic!("{text}"));
        let again = match error.kind() {
            FetchErrorKind::Settings => FetchError::settings(rest),
            _ => FetchError::passing(rest),
        };
        error.pause_asked_for().map_or(again.clone(), |pause| again.retry_after(pause))
    })
}

fn answer(status: &'static str, headers: &'static [(&str, &str)], message: &'static str) -> impl Fn() -> Answer + Send + 'static {
    move || {
        let body = format!("{{\"message\": \"{message}\"}}");
        headers.iter().fold(Answer::new(status), |answer, (name, value)| answer.header(name, value)).body(body.as_bytes())
    }
}

#[test]
fn a_used_up_rate_limit_is_named_with_the_pause_until_its_reset_by_the_clock_of_the_server() {
    for status in ["403 Forbidden", "429 Too Many Requests"] {
        let headers = &[
            ("Date", "Fri, 17 May 2013 12:00:00 GMT"),
            ("X-RateLimit-Limit", "60"),
            ("X-RateLimit-Remaining", "0"),
            ("X-RateLimit-Reset", "1368793800"),
        ];
        let [without, with] = refused(answer(status, headers, "API rate limit exceeded for 192.0.2.1."));
        let why = "the rate limit of 60 requests an hour";
        let rest = "is used up, asks to come back in 1800s (\"API rate limit exceeded for 192.0.2.1.\")";
        assert_eq!(without.to_string(), format!("{status}: {why} for requests without a token from this address {rest}"));
        assert_eq!(with.to_string(), format!("{status}: {why} for the token of the settings {rest}"));
        for error in [without, with] {
            assert_eq!((error.kind(), error.pause_asked_for()), (FetchErrorKind::Passing, Some(Duration::from_secs(1800))));
        }
    }
}

#[test]
fn a_rate_limit_that_the_settings_must_break_is_blamed_on_them() {
    let github = GitHub::with_release("v1", b"first");
    github.change(|state| state.requests_left = 0);
    let error = error_of(github.fetcher().every(Duration::from_secs(10)));
    assert!(
        error.to_string().contains(" is used up; looking every 10s without a token is more than it allows, asks to come back in 1234s"),
        "{error}"
    );
    assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(1234)));
    assert!(!error_of(github.fetcher()).to_string().contains("looking every"));
}

#[test]
fn the_secondary_limit_is_named_and_its_pause_obeyed() {
    let why = "the secondary rate limit, against too many requests in a short time, holds";
    let named = "You have exceeded a secondary rate limit";
    let [error, _] = refused(answer("403 Forbidden", &[("Retry-After", "60"), ("X-RateLimit-Remaining", "50")], named));
    assert_eq!(error.to_string(), format!("403 Forbidden: {why}, asks to come back in 60s (\"{named}\")"));
    assert_eq!((error.kind(), error.pause_asked_for()), (FetchErrorKind::Passing, Some(Duration::from_secs(60))));

    let dates = &[("Date", "Fri, 17 May 2013 12:00:00 GMT"), ("Retry-After", "Fri, 17 May 2013 12:02:00 GMT")];
    let [error, _] = refused(answer("429 Too Many Requests", dates, "slow down"));
    assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(120)));

    // GitHub wants a minute where it names no time.
    for (status, message) in [("403 Forbidden", named), ("429 Too Many Requests", "x")] {
        let [error, _] = refused(answer(status, &[], message));
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(60)));
    }
}

#[test]
fn a_refused_token_is_a_settings_error_that_says_which() {
    let [without, with] = refused(answer("401 Unauthorized", &[], "Bad credentials"));
    assert_eq!(without.to_string(), "401 Unauthorized: no token is set (\"Bad credentials\")");
    assert_eq!(with.to_string(), "401 Unauthorized: the token of the settings was refused (\"Bad credentials\")");
    assert_eq!((without.kind(), with.kind()), (FetchErrorKind::Settings, FetchErrorKind::Settings));
}

#[test]
fn each_other_403_says_what_is_missing() {
    let [without, with] = refused(answer("403 Forbidden", &[], "Resource not accessible by personal access token"));
    let message = "(\"Resource not accessible by personal access token\")";
    assert_eq!(without.to_string(), format!("403 Forbidden: no token is set {message}"));
    assert_eq!(with.to_string(), format!("403 Forbidden: the token of the settings does not have the right to read releases {message}"));
    assert_eq!(with.kind(), FetchErrorKind::Settings);
    let [_, sign_on] = refused(answer("403 Forbidden", &[("X-GitHub-SSO", "required; url=https://github.com/orgs/o/sso?x=1")], "SSO"));
    let text = "403 Forbidden: the token of the settings is not authorised for the single sign-on of this organisation (\"SSO\")";
    assert_eq!(sign_on.to_string(), text);
}

#[test]
fn not_found_says_what_it_may_mean() {
    let github = GitHub::start();
    github.change(|state| state.base = "/api/v3");
    let text = |fetcher: GitHubFetcher| {
        let error = error_of(fetcher);
        assert_eq!(error.kind(), FetchErrorKind::Settings);
        error.to_string().split_once("404 Not Found: ").expect("it is not found").1.to_owned()
    };
    let private = "or it does not exist, or it is private, which needs a token, and none is set";
    assert_eq!(text(github.fetcher()), format!("octo/app has no release that is neither a draft nor a pre-release, {private}"));
    assert_eq!(text(github.fetcher().tag("v9")), format!("octo/app has no release with the tag v9, {private}"));
    assert_eq!(
        text(github.fetcher().tag("v9").token("t0ken")),
        "octo/app has no release with the tag v9, or it does not exist, or it is private and out of reach for the token of the settings"
    );
    github.api_always(|| Answer::status("404 Not Found"));
    assert_eq!(text(github.fetcher().pre_releases(true)), format!("there is no octo/app, {private}"));
}

#[test]
fn a_file_that_is_replaced_before_it_is_asked_for_passes() {
    let github = GitHub::with_release("v1", b"first");
    github.api_instead(|request| request.target.contains("/assets/").then(|| Answer::status("404 Not Found")));
    let error = error_of(github.fetcher());
    let asked = github.api.url("/repos/octo/app/releases/assets/102");
    let text = format!("{asked} answered 404 Not Found: the file was replaced or taken away since its release was told of");
    assert_eq!((error.to_string(), error.kind()), (text, FetchErrorKind::Passing));
}

#[test]
fn a_failing_server_passes_and_its_pause_is_obeyed() {
    for status in ["500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable", "422 Unprocessable Entity"] {
        let [error, _] = refused(answer(status, &[], "Server Error"));
        assert_eq!(
            (error.to_string(), error.kind(), error.pause_asked_for()),
            (format!("{status} (\"Server Error\")"), FetchErrorKind::Passing, None)
        );
        let [error, _] = refused(answer(status, &[("Retry-After", "7")], "Server Error"));
        assert_eq!(error.pause_asked_for(), Some(Duration::from_secs(7)));
    }
    let [error, _] = refused(|| Answer::new("503 Service Unavailable").body(b"<html>unicorn</html>"));
    assert_eq!(error.to_string(), "503 Service Unavailable", "a page is not shown");
    let [error, _] = refused(|| Answer::status("407 Proxy Authentication Required"));
    assert_eq!(error.to_string(), "407 Proxy Authentication Required: the proxy wants credentials");
    let [error, _] = refused(|| Answer::status("304 Not Modified"));
    assert_eq!(error.to_string(), "304 Not Modified", "nobody asked whether it was modified");
}

#[test]
fn what_is_no_release_is_told_of_without_what_it_is() {
    let page = br#"<html>login"#.as_slice();
    let other = br#"{"id":"s3cret","tag_name":7}"#.as_slice();
    for body in [page, other, b"", br#"{"id":1,"tag_name":"v1","assets":[{"id":1}]}"#, b"[]", &[0xff; 10]] {
        let github = GitHub::start();
        let body = body.to_vec();
        github.api_always(move || Answer::new("200 OK").body(&body));
        let error = error_of(github.fetcher());
        assert!(error.to_string().starts_with(&format!("the answer of {} tells of no release: ", github.api.url(LATEST))), "{error}");
        assert_eq!(error.kind(), FetchErrorKind::Passing);
    }
}

#[test]
fn an_answer_of_gigabytes_is_read_up_to_a_limit_packed_or_not() {
    let github = GitHub::start();
    github.api_always(|| Answer::new("200 OK").zeros(8 * 1024 * 1024 * 1024));
    let text = format!("the answer of {} has more than 33554432 bytes", github.api.url(LATEST));
    assert_eq!(error_of(github.fetcher()).to_string(), text);

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        gzip.write_all(&vec![b' '; 1024 * 1024]).expect("it is memory");
    }
    let bomb = gzip.finish().expect("it is memory");
    github.api_always(move || Answer::new("200 OK").header("Content-Encoding", "gzip").body(&bomb));
    assert_eq!(error_of(github.fetcher()).to_string(), text);

    github.api_always(|| Answer::new("200 OK").header("Content-Encoding", "gzip").body(b"none"));
    assert!(error_of(github.fetcher()).to_string().contains("cannot be unpacked: "));
    github.api_always(|| Answer::new("200 OK").header("Content-Encoding", "br").body(b"none"));
    assert!(error_of(github.fetcher()).to_string().ends_with("has the Content-Encoding br, and none was asked for"));
}

#[test]
fn a_server_that_is_silent_slow_gone_or_talks_something_else_is_told_of() {
    let github = GitHub::start();
    let url = github.api.url(LATEST);
    let short = Duration::from_millis(300);
    github.api_always(Answer::silence);
    assert_eq!(error_of(github.fetcher().api_timeout(short)).to_string(), format!("{url} was silent: no answer within 300ms"));
    github.api_always(|| Answer::new("200 OK").header("Content-Length", "100").bytes(b"{\"id\":").stall(6));
    assert_eq!(error_of(github.fetcher().api_timeout(short)).to_string(), format!("{url} was silent: no answer within 300ms"));
    github.api_always(|| Answer::new("200 OK").header("Content-Length", "100").bytes(b"{\"id\":").cut(6));
    assert!(error_of(github.fetcher()).to_string().starts_with(&format!("the answer of {url} broke off: ")));
    github.api_always(Answer::hang_up);
    assert!(error_of(github.fetcher()).to_string().starts_with(&format!("{url} gave no usable answer: ")));
    github.api_always(|| Answer::garbage("SSH-2.0-OpenSSH_9.2\r\n"));
    assert!(error_of(github.fetcher()).to_string().starts_with(&format!("{url} gave no usable answer: ")));
    drop(github);
    let gone = GitHubFetcher::new("octo", "app").no_proxy().no_token();
    // A free port may be taken by another test at any time; this one is given to nobody.
    let base = "http://127.0.0.1:1";
    let error = error_of(gone.clone().base_url(base)).to_string();
    assert!(error.starts_with(&format!("nothing listens at {base}{LATEST}: ")), "{error}");
    let error = error_of(gone.base_url("http://host.invalid")).to_string();
    assert!(error.starts_with(&format!("the host of http://host.invalid{LATEST} cannot be found: ")), "{error}");
}

#[test]
fn redirects_that_lead_nowhere_are_told_of() {
    let github = GitHub::start();
    let url = github.api.url(LATEST);
    github.api_always(|| Answer::redirect(LATEST));
    assert_eq!(error_of(github.fetcher()).to_string(), format!("{url} redirects in a loop: {url} comes twice"));
    github.api_instead(|request| Some(Answer::redirect(&format!("{}x", request.target))));
    assert_eq!(error_of(github.fetcher()).to_string(), format!("{url} redirects more than 5 times"));
    github.api_always(|| Answer::status("302 Found"));
    assert_eq!(error_of(github.fetcher()).to_string(), format!("{url} answered 302 Found without a Location"));
    github.api_always(|| Answer::redirect("ftp://host/x"));
    assert_eq!(error_of(github.fetcher()).to_string(), format!("{url} answered 302 Found with a Location of the scheme ftp"));
}

#[test]
fn a_storage_host_that_refuses_is_named_without_its_signature_and_blames_no_token() {
    let github = GitHub::with_release("v1", &binary(100));
    let asked = github.api.url("/repos/octo/app/releases/assets/102");
    let stored = github.storage.url("/release-asset/102");
    let error = |answer: fn() -> Answer| {
        github.storage_instead(move |_| Some(answer()));
        let error = error_of(github.fetcher().token("t0ken"));
        assert_eq!(error.kind(), FetchErrorKind::Passing);
        error
    };
    let text = format!("{asked}, redirected to {stored}, answered ");
    assert_eq!(error(|| Answer::status("403 Forbidden")).to_string(), format!("{text}403 Forbidden"));
    let slow = error(|| Answer::status("503 Service Unavailable").header("Retry-After", "9"));
    assert_eq!(slow.to_string(), format!("{text}503 Service Unavailable, asks to come back in 9s"));
    assert_eq!(slow.pause_asked_for(), Some(Duration::from_secs(9)));
    let page = error(|| Answer::new("200 OK").header("Content-Type", "text/html").body(b"<html>"));
    assert_eq!(page.to_string(), format!("{stored} sent a page instead of {}: its Content-Type is text/html", own_name()));
    let packed = error(|| Answer::new("200 OK").header("Content-Encoding", "gzip").body(b"x"));
    assert_eq!(packed.to_string(), format!("{stored} sends {} with the Content-Encoding gzip, and none was asked for", own_name()));
}

#[test]
fn a_storage_host_that_is_silent_is_told_of() {
    let github = GitHub::with_release("v1", &binary(100));
    github.storage_instead(|_| Some(Answer::silence()));
    let error = error_of(github.fetcher().get_timeout(Duration::from_millis(300)));
    assert_eq!(error.to_string(), format!("{} was silent: no answer within 300ms", github.storage.url("/release-asset/102")));
}

#[test]
fn a_digest_that_is_none_and_an_empty_file_are_told_of() {
    let github = GitHub::with_release("v1", b"first");
    github.change_last(|release| release.files[0].digest = Some(serde_json::json!("sha256:abc123")));
    let text = format!("{} of v1 of octo/app has the digest \"sha256:abc123\", which is none", own_name());
    assert_eq!(error_of(github.fetcher()).to_string(), text);
    github.replace(&own_name(), b"");
    let error = error_of(github.fetcher());
    assert_eq!((error.to_string(), error.kind()), (format!("{} of v1 of octo/app is empty", own_name()), FetchErrorKind::BadRelease));
}
