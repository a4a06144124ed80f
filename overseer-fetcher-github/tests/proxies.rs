//! Through whom the fetcher asks.

mod server;

use overseer_core::{Fetcher, Known};
use overseer_fetcher_github::GitHubFetcher;
use server::github::own_name;
use server::{Answer, Request, Server};
use std::process::Command;

/// A release of `http://host.invalid`, whose file is at `http://storage.invalid`.
fn github(request: &Request) -> Answer {
    match request.target.as_str() {
        LATEST => {
            let json = format!(r#"{{"id":1,"tag_name":"v1","assets":[{{"id":2,"name":"{}","size":4}}]}}"#, own_name());
            Answer::new("200 OK").body(json.as_bytes())
        }
        "http://host.invalid/repos/octo/app/releases/assets/2" => Answer::redirect("http://storage.invalid/2?sig=s1gnature"),
        "http://storage.invalid/2?sig=s1gnature" => Answer::new("200 OK").body(b"\x7fELF"),
        _ => Answer::status("407 Proxy Authentication Required"),
    }
}

const LATEST: &str = "http://host.invalid/repos/octo/app/releases/latest";

fn fetcher(base: &str) -> GitHubFetcher {
    GitHubFetcher::new("octo", "app").base_url(base).token("t0ken")
}

#[test]
fn a_proxy_is_asked_for_api_and_storage_with_its_own_credentials_and_named_without_them() {
    let proxy = Server::start(github);
    let at = proxy.url("").replace("http://", "http://me:p4ssword@");
    let mut release =
        fetcher("http://host.invalid").proxy(&at).fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    assert_eq!(bytes, b"\x7fELF");
    assert!(proxy.seen().iter().all(|request| request.header("Proxy-Authorization") == Some("Basic bWU6cDRzc3dvcmQ=")));
    assert_eq!(proxy.seen()[2].header("Authorization"), None, "{:?}", proxy.seen());

    let error = fetcher("http://other.invalid").proxy(&at).fetch(&Known::nothing()).expect_err("the proxy refuses");
    let text =
        "http://other.invalid/repos/octo/app/releases/latest answered 407 Proxy Authentication Required: the proxy wants credentials";
    assert_eq!(error.to_string(), text);

    let tls = fetcher("https://host.invalid").proxy(&at).fetch(&Known::nothing()).expect_err("the proxy refuses");
    assert!(!tls.to_string().contains("p4ssword"), "{tls}");
    assert!(tls.to_string().contains(&format!("through the proxy {}", proxy.url("/"))), "{tls}");
    assert_eq!(proxy.lines().last().map(String::as_str), Some("CONNECT host.invalid:443"));
    assert!(proxy.seen().last().expect("a request").header("Authorization").is_none(), "the proxy does not see the token");
}

/// Set for a copy of this test program, which then only looks once.
const LOOK_AT: &str = "OVERSEER_TEST_LOOK_AT";

#[test]
fn the_proxy_of_the_environment_is_asked_except_for_hosts_of_no_proxy() {
    if let Ok(url) = std::env::var(LOOK_AT) {
        let found = fetcher(&url).fetch(&Known::nothing());
        println!("LOOK: {}", found.map_or_else(|error| error.to_string(), |_| "fine".to_owned()));
        return;
    }
    let proxy = Server::start(github);
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
    let through = look("http://host.invalid");
    assert!(through.contains("LOOK: fine"), "{through}");
    assert_eq!(proxy.lines()[0], format!("GET {LATEST}"));

    let asked = proxy.lines().len();
    let direct = look("http://direct.invalid");
    assert!(direct.contains("LOOK: the host of http://direct.invalid/repos/octo/app/releases/latest cannot be found"), "{direct}");
    assert_eq!(proxy.lines().len(), asked);
}
