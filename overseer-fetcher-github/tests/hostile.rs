//! An API that lies: nothing of it reaches a log as it is, leads elsewhere or keeps a look from ending.

mod server;

use overseer_core::{FetchError, FetchErrorKind, Fetcher, Known, Look};
use overseer_fetcher_github::GitHubFetcher;
use serde_json::{Value, json};
use server::github::{GitHub, own_name};
use server::{Answer, Server, binary};
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

const ESCAPE: &str = "\u{1b}[2J\u{7}\r\n[overseer] all is well";

fn release(name: &str, changes: &[(&str, Value)]) -> Value {
    let mut asset =
        json!({"id": 102, "name": name, "state": "uploaded", "size": 1000, "digest": null, "updated_at": "2026-01-01T00:00:00Z"});
    let mut release = json!({"id": 1, "tag_name": "v1", "created_at": "2026-01-01T00:00:00Z", "published_at": "2026-01-01T00:00:00Z"});
    for (place, value) in changes {
        match place.strip_prefix("asset.") {
            Some(field) => asset[field] = value.clone(),
            None => release[place] = value.clone(),
        }
    }
    release["assets"] = json!([asset]);
    release
}

fn telling(json: &Value) -> GitHub {
    let (github, body) = (GitHub::start(), json.to_string());
    github.api_instead(move |request| {
        let tells = !request.target.contains("/assets/");
        tells.then(|| Answer::new("200 OK").header("Date", "Sun, 01 Mar 2026 12:00:00 GMT").body(body.as_bytes()))
    });
    github
}

fn look(json: &Value) -> Result<Look, FetchError> {
    telling(json).fetcher().token("t0ken").fetch(&Known::nothing())
}

/// What is logged in a process of its own, in which only this test runs.
const ALONE: &str = "OVERSEER_TEST_ALONE";

struct Kept(Mutex<Vec<u8>>);

impl log::Log for Kept {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().expect("no panic").write_all(format!("{}\u{2028}", record.args()).as_bytes()).expect("it is memory");
    }

    fn flush(&self) {}
}

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

#[test]
fn no_name_of_a_release_moves_a_cursor_or_writes_a_line_of_its_own() {
    let test = "no_name_of_a_release_moves_a_cursor_or_writes_a_line_of_its_own";
    if std::env::var(ALONE).is_err() {
        let status = Command::new(std::env::current_exe().expect("this program")).args(["--exact", test]).env(ALONE, "1").status();
        assert!(status.expect("it runs").success());
        return;
    }
    log::set_logger(&KEPT).expect("no other logger");
    log::set_max_level(log::LevelFilter::Trace);
    let own = own_name();
    let mut told = Vec::new();
    for place in ["tag_name", "html_url", "asset.name", "asset.state", "asset.digest", "asset.updated_at"] {
        for text in [format!("{own}{ESCAPE}"), format!("{own}{}", "x".repeat(100_000))] {
            let away = telling(&release(&own, &[(place, json!(text))]));
            let to = away.api.url("/elsewhere");
            // A repository that was renamed, so that its page is told.
            let renamed = GitHub::start();
            renamed.api_instead(move |_| Some(Answer::redirect(&to)));
            for github in [&away, &renamed] {
                let looked = github.fetcher().fetch(&Known::nothing());
                told.push(format!("{looked:?}"));
                told.extend(looked.err().map(|error| error.to_string()));
            }
        }
    }
    told.push(String::from_utf8(KEPT.0.lock().expect("no panic").clone()).expect("text"));
    for text in told {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(!text.contains(&"x".repeat(2000)), "{} bytes", text.len());
    }
}

#[test]
fn a_server_that_sends_the_token_back_as_a_name_or_in_a_redirect_brings_it_nowhere() {
    for place in ["tag_name", "asset.name", "asset.state", "asset.digest", "asset.updated_at", "asset.label"] {
        let error = look(&release(&own_name(), &[(place, json!("Bearer t0ken"))])).expect_err("it is refused").to_string();
        assert!(error.ends_with("has the token of this program in it, and is not read"), "{error}");
    }
    let other = Server::start(|_| Answer::status("404 Not Found"));
    let github = GitHub::start();
    let away = other.url("/t0ken?t0ken");
    github.api_always(move || Answer::redirect(&away));
    let error = github.fetcher().token("t0ken").fetch(&Known::nothing()).expect_err("it is refused").to_string();
    assert!(error.contains("a Location that has the token") && !error.contains("t0ken"), "{error}");
    assert!(other.seen().is_empty());
}

#[test]
fn what_is_no_number_of_a_file_is_no_release() {
    for (place, value) in [
        ("asset.id", json!(-1)),
        ("asset.id", json!(1.5)),
        ("asset.id", json!("102/../../../../user")),
        ("asset.size", json!(-1)),
        ("asset.size", json!(1e30)),
        ("id", json!(null)),
        ("tag_name", json!(["v1"])),
    ] {
        let error = look(&release(&own_name(), &[(place, value.clone())])).expect_err("it is refused");
        assert!(error.kind() == FetchErrorKind::Passing && error.to_string().contains("tells of no release"), "{value}: {error}");
    }
}

#[test]
fn a_digest_in_capitals_is_one_and_of_an_unknown_algorithm_none() {
    let hex = "0A".repeat(32);
    for (digest, count) in [(format!("sha256:{hex}"), 1), (format!("SHA256:{hex}"), 1), (format!("blake9:{hex}"), 0)] {
        let github = telling(&release(&own_name(), &[("asset.digest", json!(digest))]));
        github.storage_instead(|_| Some(Answer::new("200 OK").body(&binary(1000))));
        let to = github.storage.url("/102");
        let body = release(&own_name(), &[("asset.digest", json!(digest))]).to_string();
        github.api_instead(move |request| {
            Some(match request.target.contains("/assets/") {
                true => Answer::redirect(&to),
                false => Answer::new("200 OK").body(body.as_bytes()),
            })
        });
        let release = github.fetcher().fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
        assert_eq!(release.digests().count(), count, "{digest}");
    }
}

#[test]
fn paths_in_names_stay_names() {
    let name = format!("../../{}", own_name());
    let github = telling(&release(&name, &[]));
    let error = github.fetcher().fetch(&Known::nothing()).expect_err("no such file");
    assert_eq!(error.kind(), FetchErrorKind::Passing);
    assert!(
        error.to_string().contains("/repos/octo/app/releases/assets/102 answered 404 Not Found: the file was replaced or taken away"),
        "{error}"
    );
    assert!(github.api.seen().iter().all(|request| request.target.starts_with("/repos/octo/app/releases/")));
}

#[test]
fn two_files_of_one_name_are_an_ambiguity_and_ten_thousand_of_other_names_none() {
    let asset = |id: u64, name: &str| json!({"id": id, "name": name, "size": 1, "state": "uploaded"});
    let own = own_name();
    let mut twice = release(&own, &[]);
    twice["assets"] = json!([asset(1, &own), asset(2, &own)]);
    let error = look(&twice).expect_err("one of two").to_string();
    assert!(error.contains("several files for this program"), "{error}");
    let mut many = release(&own, &[]);
    many["assets"] = (0..10_000).map(|id| asset(id, &format!("other-{id}"))).collect();
    let error = look(&many).expect_err("none for this system").to_string();
    assert!(error.contains("and 9970 more") && error.len() < 2000, "{error}");
}

#[test]
fn dates_that_are_none_or_far_away_keep_no_look_from_its_end() {
    for date in ["", "yesterday", "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "-262143-01-01T00:00:00Z", "2026-01-01T00:00:00+23:59"] {
        for header in ["", "yesterday", "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            let fields = ["created_at", "published_at", "updated_at", "asset.updated_at"].map(|place| (place, json!(date)));
            let body = release("none-for-this-system", &fields).to_string();
            let github = GitHub::start();
            github.api_always(move || {
                Answer::new("200 OK").header("Date", header).header("Last-Modified", "\u{7f}garbage").body(body.as_bytes())
            });
            let looked = github.fetcher().fetch(&Known::nothing());
            assert!(looked.as_ref().map_or(true, |look| look.why_incomplete().is_some()), "{date} {header}: {looked:?}");
        }
    }
}

#[test]
fn pauses_of_thousands_of_years_are_no_panic() {
    for (name, value) in [
        ("Retry-After", "18446744073709551615"),
        ("Retry-After", "99999999999999999999999"),
        ("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ("X-RateLimit-Reset", "18446744073709551615"),
        ("X-RateLimit-Reset", "-1"),
    ] {
        let github = GitHub::start();
        github.api_always(move || Answer::status("429 Too Many Requests").header("X-RateLimit-Remaining", "0").header(name, value));
        let error = github.fetcher().fetch(&Known::nothing()).expect_err("limited");
        assert_eq!(error.kind(), FetchErrorKind::Passing, "{error}");
    }
}

#[test]
fn an_answer_that_nothing_changed_to_a_question_that_did_not_ask_that_is_a_failure() {
    let github = GitHub::start();
    github.api_always(|| Answer::new("304 Not Modified"));
    let error = github.fetcher().fetch(&Known::nothing()).expect_err("nothing is known").to_string();
    assert!(error.contains("answered 304 Not Modified"), "{error}");
}

#[test]
fn an_answer_without_an_end_is_left() {
    let github = GitHub::start();
    github.api_always(|| Answer::new("200 OK").zeros(1 << 40));
    let error = github.fetcher().fetch(&Known::nothing()).expect_err("it is too long").to_string();
    assert!(error.ends_with("has more than 33554432 bytes"), "{error}");
    let bomb = Arc::new(OnceLock::new());
    bomb.get_or_init(|| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..64 {
            packer.write_all(&vec![b' '; 1 << 20]).expect("packed");
        }
        packer.finish().expect("packed")
    });
    github.api_always(move || Answer::new("200 OK").header("Content-Encoding", "gzip").body(bomb.get().expect("made")));
    let error = github.fetcher().fetch(&Known::nothing()).expect_err("it is a bomb").to_string();
    assert!(error.ends_with("has more than 33554432 bytes"), "{error}");
    github.api_always(|| Answer::new("200 OK").header("Content-Length", "10").bytes(b"{").stall(1));
    let error = github.fetcher().api_timeout(Duration::from_millis(200)).fetch(&Known::nothing()).expect_err("it stalls").to_string();
    assert!(error.contains("was silent: no answer within 200ms"), "{error}");
    github.api_always(move || Answer::new("200 OK").body("[".repeat(1 << 20).as_bytes()));
    github.fetcher().fetch(&Known::nothing()).expect_err("it is deep");
    github.fetcher().pre_releases(true).fetch(&Known::nothing()).expect_err("it is deep");
}

#[test]
fn where_signatures_are_wanted_the_repository_does_not_choose_which_program_this_one_becomes() {
    let file = |program: &str| own_name().replacen("app", program, 1);
    let look = |program: &str, known: &Known, asset: Option<&str>| {
        let name = file(program);
        let github = GitHub::start();
        github.publish("v1", &[(&name, &binary(1000)), (&format!("{name}.minisig"), b"signature")]);
        let fetcher = asset.into_iter().fold(github.fetcher(), GitHubFetcher::asset);
        { fetcher }.fetch(known).map(|look| look.into_release().is_some())
    };
    let signed = || Known::nothing().with_wanted_signature();
    assert_eq!(look("app", &signed(), None), Ok(true));
    assert_eq!(look("other", &Known::nothing(), None), Ok(true), "without a key nothing is proved anyway");
    for program in ["other", "app-admin"] {
        let error = look(program, &signed(), None).expect_err("it may be another program");
        assert_eq!(error.kind(), FetchErrorKind::Settings);
        assert!(error.to_string().contains("signed with the same key; if it is the right one, say so with asset"), "{error}");
        assert_eq!(look(program, &signed(), Some(&file(program))), Ok(true));
    }
}
