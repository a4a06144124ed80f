//! Who gets the token, and who does not.

mod server;

use overseer_core::{Fetcher, Known};
use overseer_fetcher_github::GitHubFetcher;
use server::github::{GitHub, SIGNATURE, own_name};
use server::{Answer, Request, Server, binary};
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

const SECRETS: [&str; 3] = ["t0ken", "p4ssword", SIGNATURE];

fn has_token(request: &Request) -> bool {
    request.header("Authorization") == Some("Bearer t0ken")
}

fn assert_silent_about_secrets(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
}

/// With a repository that is there only for the token.
fn private() -> GitHub {
    let github = GitHub::with_release("v1", &binary(1000));
    github.change(|state| state.token = Some("t0ken".to_owned()));
    github
}

fn fetch(mut fetcher: GitHubFetcher) -> Vec<u8> {
    let known = Known::nothing().with_wanted_signature();
    let mut release = fetcher.fetch(&known).expect("a look").into_release().expect("a release");
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    bytes
}

#[test]
fn the_api_gets_the_token_with_each_request_and_the_storage_host_never() {
    let github = private();
    github.replace(&format!("{}.minisig", own_name()), b"signature");
    assert_eq!(fetch(github.fetcher().token("t0ken")), binary(1000));
    assert_eq!((github.api.seen().len(), github.storage.seen().len()), (3, 2));
    assert!(github.api.seen().iter().all(has_token));
    let headers = |request: &Request| {
        request.headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("authorization") || value.contains("t0ken"))
    };
    assert!(!github.storage.seen().iter().any(headers), "it refuses such a request");
    assert!(github.storage.seen().iter().all(|request| request.header("Referer").is_none()));
}

#[test]
fn storage_on_the_same_host_as_an_enterprise_api_does_not_get_the_token() {
    let github = private();
    github.change(|state| state.base = "/api/v3");
    github.api_instead(|request| {
        let away = request.target.ends_with("/assets/102").then(|| Answer::redirect("/storage/102?token=s1gnature"));
        away.or_else(|| request.target.starts_with("/storage/").then(|| Answer::new("200 OK").body(&binary(1000))))
    });
    let mut release = github.fetcher().token("t0ken").fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    release.body().read_to_end(&mut Vec::new()).expect("the whole body");
    let [asked, redirected, stored] = &github.api.seen()[..] else { panic!("three requests") };
    assert!(has_token(asked) && has_token(redirected));
    assert_eq!((stored.target.as_str(), stored.header("Authorization")), ("/storage/102?token=s1gnature", None));
}

#[test]
fn another_name_of_the_same_machine_and_a_chain_that_comes_back_do_not_get_the_token() {
    let home = Arc::new(OnceLock::<String>::new());
    let way_back = Arc::clone(&home);
    let other = Server::start(move |_| Answer::redirect(way_back.get().expect("known by now")));
    let away = other.url("/away");
    let github = GitHub::start();
    github.api_instead(move |request| (request.target.ends_with("/latest")).then(|| Answer::redirect(&away)));
    home.set(github.api.url("/back")).expect("set once");
    github.fetcher().token("t0ken").fetch(&Known::nothing()).expect_err("nothing is there");
    assert!(other.seen().iter().all(|request| request.header("Authorization").is_none()));
    assert_eq!(
        github.api.seen().iter().map(|request| (request.target.ends_with("/latest"), has_token(request))).collect::<Vec<_>>(),
        [(true, true), (false, false)]
    );

    let named = GitHub::start();
    let elsewhere = named.api.url_as("localhost", "/repositories/1/releases/latest");
    named.api_instead(move |request| request.target.ends_with("app/releases/latest").then(|| Answer::redirect(&elsewhere)));
    named.fetcher().token("t0ken").fetch(&Known::nothing()).expect_err("nothing is there");
    assert_eq!(named.api.seen().iter().map(has_token).collect::<Vec<_>>(), [true, false]);
}

/// Set for a copy of this test program, which then only looks once.
const LOOK_AT: &str = "OVERSEER_TEST_LOOK_AT";

#[test]
fn the_token_of_the_environment_is_sent_unless_one_is_set_or_none_is_wanted() {
    if let Ok(url) = std::env::var(LOOK_AT) {
        let at = || GitHubFetcher::new("octo", "app").base_url(&url).no_proxy();
        for mut fetcher in [at(), at().token("of-the-builder"), at().no_token()] {
            assert!(!format!("{fetcher:?}").contains("of-the-environment"));
            let error = fetcher.fetch(&Known::nothing()).expect_err("refused").to_string();
            println!("LOOK: {}", error.split_once("Unauthorized: ").expect("it is refused").1);
        }
        return;
    }
    let test = "the_token_of_the_environment_is_sent_unless_one_is_set_or_none_is_wanted";
    let looks = |variables: &[(&str, &str)]| {
        let server = Server::start(|_| Answer::status("401 Unauthorized"));
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", test, "--nocapture"]).env(LOOK_AT, server.url("")).env_remove("GITHUB_TOKEN").env_remove("GH_TOKEN");
        let output = command.envs(variables.iter().copied()).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said: Vec<_> = text.lines().filter_map(|line| Some(line.split_once("LOOK: ")?.1.to_owned())).collect();
        let sent: Vec<_> = server.seen().iter().map(|request| request.header("Authorization").unwrap_or("none").to_owned()).collect();
        (said, sent)
    };
    let builder = ("the token of the settings was refused", "Bearer of-the-builder");
    let none = ("no token is set", "none");
    let of = |name: &str| (format!("the token of {name} was refused"), "Bearer of-the-environment".to_owned());
    let expect = |first: (String, String)| {
        let all = [first, (builder.0.to_owned(), builder.1.to_owned()), (none.0.to_owned(), none.1.to_owned())];
        all.into_iter().unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let both = [("GITHUB_TOKEN", "of-the-environment"), ("GH_TOKEN", "other")];
    assert_eq!(looks(&both), expect(of("GITHUB_TOKEN")));
    assert_eq!(looks(&[("GH_TOKEN", "of-the-environment\n"), ("GITHUB_TOKEN", "")]), expect(of("GH_TOKEN")));
    assert_eq!(looks(&[]), expect((none.0.to_owned(), none.1.to_owned())));
}

#[test]
fn no_text_of_a_fetcher_has_a_secret_in_it() {
    let fetcher = GitHubFetcher::new("octo", "app")
        .token("t0ken")
        .proxy("http://me:p4ssword@127.0.0.1:1")
        .base_url("https://me:p4ssword@host/api/v3");
    let debug = format!("{fetcher:?}");
    assert_silent_about_secrets(&debug);
    assert!(debug.contains("token: \"set\"") && debug.contains("http://127.0.0.1:1"), "{debug}");
    assert_silent_about_secrets(&Fetcher::source(&fetcher));
    assert_silent_about_secrets(&fetcher.check().expect_err("a user in base_url").to_string());
    let odd = GitHubFetcher::new("octo", "app").token("t0ken\n").check().expect_err("no header has a line break");
    assert_eq!(odd.to_string(), "the token of the settings has a character that no header may have");
}

#[test]
fn no_error_has_a_secret_in_it_also_not_that_of_a_redirect_or_of_a_server_that_sends_the_token_back() {
    let statuses = ["401 Unauthorized", "403 Forbidden", "404 Not Found", "429 Too Many Requests", "500 Internal Server Error"];
    let mut answers: Vec<Box<dyn Fn() -> Answer + Send>> = vec![
        Box::new(Answer::hang_up),
        Box::new(|| Answer::redirect("http://localhost:1/x?sig=s1gnature")),
        Box::new(|| Answer::redirect("http://p4ssword:p4ssword@host.invalid/x?sig=s1gnature")),
        Box::new(|| Answer::redirect("ftp://p4ssword@host/?s1gnature")),
        Box::new(|| Answer::new("200 OK").body(br#"{"id":"Bearer t0ken"}"#)),
        Box::new(|| Answer::new("200 OK").header("Content-Encoding", "gzip").body(b"t0ken")),
    ];
    for status in statuses {
        answers.push(Box::new(move || Answer::new(status).body(br#"{"message":"do not send me \"Bearer t0ken\""}"#)));
    }
    for answer in answers {
        let github = GitHub::start();
        github.api_always(answer);
        let error = github.fetcher().token("t0ken").fetch(&Known::nothing()).expect_err("no release is there").to_string();
        assert_silent_about_secrets(&error);
        assert!(error.contains("http://"), "{error}");
    }
}

/// Keeps all that anybody logs.
struct Kept(Mutex<Vec<u8>>);

impl log::Log for Kept {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        writeln!(self.0.lock().expect("no panic"), "{} {} {}", record.level(), record.target(), record.args()).expect("it is memory");
    }

    fn flush(&self) {}
}

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

/// What is logged in a process of its own, in which only this test runs.
#[test]
fn nothing_is_logged_of_the_token_or_of_a_signature_and_an_interval_that_is_too_short_is_warned_about_once() {
    let test = "nothing_is_logged_of_the_token_or_of_a_signature_and_an_interval_that_is_too_short_is_warned_about_once";
    if std::env::var(LOOK_AT).is_err() {
        let status =
            Command::new(std::env::current_exe().expect("this program")).args(["--exact", test]).env(LOOK_AT, "this process").status();
        assert!(status.expect("it runs").success());
        return;
    }
    log::set_logger(&KEPT).expect("no other logger");
    log::set_max_level(log::LevelFilter::Trace);
    let logged = || String::from_utf8(std::mem::take(&mut KEPT.0.lock().expect("no panic"))).expect("text");

    let github = private();
    github.replace(&format!("{}.minisig", own_name()), b"signature");
    fetch(github.fetcher().token("t0ken").every(std::time::Duration::from_secs(1)));
    let text = logged();
    assert_silent_about_secrets(&text);
    assert!(!text.is_empty() && !text.contains("WARN"), "{text}");

    github.change(|state| state.token = None);
    let mut hasty = github.fetcher().every(std::time::Duration::from_secs(59));
    let look = hasty.fetch(&Known::nothing()).expect("a look");
    let warning =
        "WARN overseer::poll looking every 59s at GitHub without a token: it answers 60 requests an hour; set a token, or look less often";
    assert_eq!(logged().matches(warning).count(), 1);
    let memo = look.memo().expect("a memo").to_owned();
    let known = Known::nothing().with_settled(look.into_release().expect("a release").tag()).with_memo(memo);
    logged();
    assert!(hasty.fetch(&known).expect("a look").is_unchanged());
    assert!(!logged().contains("WARN"), "said once for each release");
    github.fetcher().every(std::time::Duration::from_secs(60)).fetch(&Known::nothing()).expect("a look");
    assert!(!logged().contains("WARN"));
}
