//! Through whom the fetcher asks.

mod server;

use overseer_core::{Fetcher, Known};
use overseer_fetcher_http::HttpFetcher;
use server::{Answer, Server};
use std::process::Command;

fn file() -> Answer {
    Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF")
}

#[test]
fn a_proxy_is_asked_with_its_own_credentials_and_named_without_them() {
    let proxy = Server::start(|request| match request.target.as_str() {
        "http://host.invalid/app" => file(),
        _ => Answer::status("407 Proxy Authentication Required"),
    });
    let at = proxy.url("").replace("http://", "http://me:p4ssword@");
    let release = HttpFetcher::new("http://host.invalid/app").proxy(&at).fetch(&Known::nothing()).expect("a look").into_release();
    assert!(release.is_some());
    assert_eq!(proxy.seen()[0].header("Proxy-Authorization"), Some("Basic bWU6cDRzc3dvcmQ="));

    let error = HttpFetcher::new("http://host.invalid/other").proxy(&at).fetch(&Known::nothing()).expect_err("the proxy refuses");
    assert_eq!(
        error.to_string(),
        "http://host.invalid/other answered 407 Proxy Authentication Required to HEAD: the proxy wants credentials"
    );

    let tls = HttpFetcher::new("https://host.invalid/app").proxy(&at).fetch(&Known::nothing()).expect_err("the proxy refuses");
    assert!(!tls.to_string().contains("p4ssword"), "{tls}");
    assert!(tls.to_string().contains(&format!("through the proxy {}", proxy.url("/"))), "{tls}");
}

/// Set for a copy of this test program, which then only looks once.
const LOOK_AT: &str = "OVERSEER_TEST_LOOK_AT";

#[test]
fn the_proxy_of_the_environment_is_asked_except_for_hosts_of_no_proxy() {
    if let Ok(url) = std::env::var(LOOK_AT) {
        let found = HttpFetcher::new(url).fetch(&Known::nothing());
        println!("LOOK: {}", found.map_or_else(|error| error.to_string(), |_| "fine".to_owned()));
        return;
    }
    let proxy = Server::start(|_| file());
    let look = |url: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "the_proxy_of_the_environment_is_asked_except_for_hosts_of_no_proxy", "--nocapture"]);
        for name in ["http_proxy", "ALL_PROXY", "all_proxy", "no_proxy", "REQUEST_METHOD"] {
            command.env_remove(name);
        }
        command.env(LOOK_AT, url).env("HTTP_PROXY", proxy.url("")).env("NO_PROXY", "direct.invalid");
        let output = command.output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let through = look("http://host.invalid/app");
    assert!(through.contains("LOOK: fine"), "{through}");
    assert_eq!(proxy.lines()[0], "HEAD http://host.invalid/app");

    let asked = proxy.lines().len();
    let direct = look("http://direct.invalid/app");
    assert!(direct.contains("LOOK: the host of http://direct.invalid/app cannot be found"), "{direct}");
    assert_eq!(proxy.lines().len(), asked);
}
