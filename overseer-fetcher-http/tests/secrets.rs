//! Who gets credentials and the program's own headers, and who does not.

mod server;

use overseer_core::{FetchErrorKind, Fetcher, Known};
use overseer_fetcher_http::HttpFetcher;
use server::{Answer, Request, Server};
use std::sync::{Arc, OnceLock};

const SECRETS: [&str; 5] = ["t0ken", "k3y-value", "p4ssword", "s1gnature", "YWRtaW46cDRzc3dvcmQ="];

type Script = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

fn file() -> Answer {
    Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF")
}

fn with_secrets(url: String) -> HttpFetcher {
    HttpFetcher::new(url).no_proxy().bearer("t0ken").header("X-Api-Key", "k3y-value").header("User-Agent", "my-agent")
}

fn has_secrets(request: &Request) -> bool {
    let own = [request.header("Authorization"), request.header("X-Api-Key")];
    let agent = request.header("User-Agent") == Some("my-agent");
    assert!(own.iter().all(|value| value.is_some() == agent), "all or none: {request:?}");
    agent
}

fn assert_silent_about_secrets(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn the_origin_of_the_url_gets_credentials_and_own_headers_with_each_request() {
    let server = Server::start(|request| match request.target.as_str() {
        "/app" => Answer::redirect("/releases/app"),
        _ => file(),
    });
    let mut fetcher = with_secrets(server.url("/app")).sha256_file(true);
    fetcher.fetch(&Known::nothing()).expect_err("the digest file is none");
    assert_eq!(server.lines(), ["HEAD /app", "HEAD /releases/app", "GET /app.sha256"]);
    assert!(server.seen().iter().all(has_secrets));
    assert_eq!(server.seen()[0].header("Authorization"), Some("Bearer t0ken"));
}

#[test]
fn another_host_gets_neither_credentials_nor_own_headers_after_a_redirect() {
    let other = Server::start(|_| file());
    // The same machine and the same port number, but another name: another host.
    let names = Server::start(|request| match request.header("Host").is_some_and(|host| host.starts_with("localhost")) {
        true => file(),
        false => Answer::redirect(&format!(
            "http://localhost:{}/moved",
            request.header("Host").expect("a host").rsplit_once(':').expect("a port").1
        )),
    });
    let elsewhere = other.url("/stored");
    let other_port = Server::start(move |_| Answer::redirect(&elsewhere));
    for (server, target) in [(&other_port, &other), (&names, &names)] {
        let release = with_secrets(server.url("/app")).fetch(&Known::nothing()).expect("a look").into_release();
        assert!(release.is_some());
        let followed: Vec<_> = target.seen().into_iter().filter(|request| request.target != "/app").collect();
        assert_eq!(followed.len(), 2, "HEAD and GET");
        assert!(!followed.iter().any(has_secrets), "{followed:?}");
        assert!(server.seen().iter().filter(|request| request.target == "/app").all(has_secrets));
    }
}

#[test]
fn a_chain_that_comes_back_from_another_host_does_not_bring_credentials_back() {
    let home = Arc::new(OnceLock::<String>::new());
    let way_back = Arc::clone(&home);
    let other = Server::start(move |_| Answer::redirect(way_back.get().expect("known by now")));
    let away = other.url("/away");
    let server = Server::start(move |request| if request.target == "/app" { Answer::redirect(&away) } else { file() });
    home.set(server.url("/admin")).expect("set once");
    with_secrets(server.url("/app")).fetch(&Known::nothing()).expect("a look");
    for request in server.seen() {
        assert_eq!(has_secrets(&request), request.target == "/app", "{request:?}");
    }
}

#[test]
fn a_user_in_a_redirect_is_not_used_and_one_in_the_url_is() {
    let other = Server::start(|_| file());
    let elsewhere = other.url("/stored").replace("http://", "http://eve:p4ssword@");
    let server = Server::start(move |_| Answer::redirect(&elsewhere));
    let url = server.url("/app?sig=s1gnature").replace("http://", "http://admin:p4ssword@");
    HttpFetcher::new(url).no_proxy().fetch(&Known::nothing()).expect("a look");
    assert_eq!(server.seen()[0].header("Authorization"), Some("Basic YWRtaW46cDRzc3dvcmQ="));
    assert_eq!(server.lines()[0], "HEAD /app?sig=s1gnature");
    assert_eq!(other.seen()[0].header("Authorization"), None);
    assert_eq!(other.seen()[0].header("Referer"), None);
}

#[test]
fn basic_credentials_are_sent_as_such() {
    let server = Server::start(|_| file());
    HttpFetcher::new(server.url("/app")).no_proxy().basic_auth("admin", "p4ssword").fetch(&Known::nothing()).expect("a look");
    assert!(server.seen().iter().all(|request| request.header("Authorization") == Some("Basic YWRtaW46cDRzc3dvcmQ=")));
}

#[test]
fn no_text_of_a_fetcher_has_a_secret_in_it() {
    let fetcher = with_secrets("http://admin:p4ssword@host.invalid:81/app?sig=s1gnature#s1gnature".to_owned());
    let fetcher = fetcher.basic_auth("admin", "p4ssword").proxy("http://me:p4ssword@127.0.0.1:1");
    let debug = format!("{fetcher:?}");
    assert_silent_about_secrets(&debug);
    assert!(debug.contains("X-Api-Key") && debug.contains("http://host.invalid:81/app"), "{debug}");
    assert_eq!(fetcher.source(), "http://host.invalid:81/app");
    assert_silent_about_secrets(&fetcher.check().expect_err("two credentials").to_string());
    assert_eq!(HttpFetcher::new("host and no scheme/app?sig=s1gnature").source(), "host and no scheme/app");
}

#[test]
fn no_error_has_a_secret_in_it_also_not_that_of_a_redirect() {
    let statuses = ["401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Internal Server Error", "302 Found"];
    let scripts: Vec<Script> = vec![
        Box::new(|_| Answer::hang_up()),
        Box::new(|_| Answer::redirect("http://localhost:1/x?sig=s1gnature")),
        Box::new(|_| Answer::redirect("http://p4ssword:p4ssword@host.invalid/x?sig=s1gnature")),
        Box::new(|_| Answer::redirect("/app?sig=s1gnature")),
        Box::new(|_| Answer::redirect("ftp://p4ssword@host/?s1gnature")),
        Box::new(|_| Answer::new("200 OK").header("Content-Type", "text/html").body(b"<html>")),
    ];
    let plain = statuses.map(|status| Box::new(move |_: &Request| Answer::status(status)) as Script);
    for script in scripts.into_iter().chain(plain) {
        let server = Server::start(script);
        let url = server.url("/app?sig=s1gnature");
        let error = with_secrets(url).fetch(&Known::nothing()).expect_err("no release is there").to_string();
        assert_silent_about_secrets(&error);
        assert!(error.contains("http://"), "{error}");
    }
}

#[test]
fn refused_credentials_are_a_settings_error_that_says_whether_there_were_any() {
    let server = Server::start(|_| Answer::status("401 Unauthorized"));
    let with = with_secrets(server.url("/app")).fetch(&Known::nothing()).expect_err("refused");
    assert_eq!(
        with.to_string(),
        format!("{} answered 401 Unauthorized to HEAD: the credentials that are set were refused", server.url("/app"))
    );
    assert_eq!(with.kind(), FetchErrorKind::Settings);
    let without = HttpFetcher::new(server.url("/app")).no_proxy().fetch(&Known::nothing()).expect_err("refused");
    assert_eq!(without.to_string(), format!("{} answered 401 Unauthorized to HEAD: no credentials are set", server.url("/app")));

    let elsewhere = server.url("/stored");
    let first = Server::start(move |_| Answer::redirect(&elsewhere));
    let moved = with_secrets(first.url("/app")).fetch(&Known::nothing()).expect_err("refused");
    let (from, to) = (first.url("/app"), server.url("/stored"));
    assert_eq!(
        moved.to_string(),
        format!("{from}, redirected to {to}, answered 401 Unauthorized to HEAD: credentials are not sent to another origin")
    );
}
