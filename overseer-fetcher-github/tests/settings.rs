//! What is wrong with settings is said before anything is asked.

use overseer_core::{FetchErrorKind, Fetcher};
use overseer_fetcher_github::GitHubFetcher;
use std::time::Duration;

fn fetcher() -> GitHubFetcher {
    GitHubFetcher::new("octo", "app").no_token()
}

fn wrong(fetcher: GitHubFetcher) -> String {
    let error = fetcher.check().expect_err("a setting is wrong");
    assert_eq!(error.kind(), FetchErrorKind::Settings);
    error.to_string()
}

#[test]
fn each_unusable_setting_is_named() {
    for (fetcher, text) in [
        (GitHubFetcher::new("", "app"), "the owner \"\" is no name that GitHub gives"),
        (GitHubFetcher::new("octo", "app/x"), "the repository \"app/x\" is no name that GitHub gives"),
        (GitHubFetcher::new("octo", ".."), "the repository \"..\" is no name that GitHub gives"),
        (fetcher().tag(""), "tag is empty; without tag the latest release is taken"),
        (fetcher().asset(""), "asset is empty; it must be the name of a file"),
        (fetcher().asset_pattern(""), "asset_pattern is empty"),
        (
            fetcher().asset_pattern("{goos}"),
            "asset_pattern \"{goos}\" has an unknown placeholder {goos}; there are {os}, {arch}, {target}, {version}",
        ),
        (fetcher().token(""), "token is empty; leave it out, or set no_token"),
        (fetcher().base_url("ghe.example.org"), "base_url \"ghe.example.org\" cannot be read: relative URL without a base"),
        (
            fetcher().base_url("https://host/?x"),
            "base_url \"https://host/\" has a user, a query or a fragment; it is a host and a path, and a token is set by token",
        ),
        (fetcher().every(Duration::ZERO), "every is 0; it must be longer"),
        (fetcher().connect_timeout(Duration::ZERO), "connect_timeout is 0; it must be longer"),
        (fetcher().api_timeout(Duration::ZERO), "api_timeout is 0; it must be longer"),
        (fetcher().get_timeout(Duration::ZERO), "get_timeout is 0; it must be longer"),
        (fetcher().proxy("socks5://host"), "proxy \"socks5://host\" has the scheme socks5; it must be http or https"),
        (fetcher().root_certificate("none"), "root_certificate: no certificate in 4 bytes of PEM"),
    ] {
        assert_eq!(wrong(fetcher), text);
    }
    fetcher().check().expect("nothing is wrong");
    fetcher().root_certificate(include_bytes!("certificates/ca.pem")).check().expect("a root");
}

#[test]
fn the_source_is_the_page_of_the_release_and_how_the_file_is_chosen() {
    let source = |fetcher: GitHubFetcher| Fetcher::source(&fetcher);
    assert_eq!(source(fetcher()), "https://github.com/octo/app/releases/latest");
    assert_eq!(source(fetcher().tag("v1/x")), "https://github.com/octo/app/releases/tag/v1%2Fx");
    assert_eq!(source(fetcher().pre_releases(true)), "https://github.com/octo/app/releases");
    assert_eq!(source(fetcher().tag("v1").pre_releases(false)), "https://github.com/octo/app/releases/tag/v1");
    assert_eq!(source(fetcher().pre_releases(true).latest().asset("a b")), "https://github.com/octo/app/releases/latest#a b");
    assert_eq!(source(fetcher().asset_pattern("app-{os}")), "https://github.com/octo/app/releases/latest#app-{os}");
    assert_eq!(source(fetcher().asset_by(|_| true)), "https://github.com/octo/app/releases/latest#asset_by");
    assert_eq!(source(fetcher().base_url("https://ghe.example.org/api/v3/")), "https://ghe.example.org/octo/app/releases/latest");
    assert_eq!(source(fetcher().base_url("me:p4ssword@host")), "host/octo/app");
}

#[test]
fn it_looks_every_five_minutes_unless_told_otherwise() {
    assert_eq!(Fetcher::interval(&fetcher()), Duration::from_secs(300));
    assert_eq!(Fetcher::interval(&fetcher().every(Duration::from_secs(7))), Duration::from_secs(7));
}
