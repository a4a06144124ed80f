//! Real answers of GitHub, replayed. `.ci/github-recordings` collects them.

mod server;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use overseer_core::{FetchError, FetchErrorKind, Fetcher, Known, Look};
use overseer_fetcher_github::GitHubFetcher;
use serde::Deserialize;
use server::github::{at, sha256};
use server::{Answer, Server};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

#[derive(Clone, Deserialize)]
struct Recorded {
    from: String,
    method: String,
    host: String,
    path: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Recorded {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn body(&self) -> Vec<u8> {
        match self.body.strip_prefix("base64:") {
            Some(text) => STANDARD.decode(text).expect("base64"),
            None => self.body.clone().into_bytes(),
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The answer as it was sent: compressed and in chunks, if it was so. A redirect leads to `storage`.
    fn answer(&self, storage: &str) -> Answer {
        let of_transfer = ["content-length", "transfer-encoding", "connection", "location", "status"];
        let mut answer = Answer::new(&format!("{} Recorded", self.status));
        for (name, value) in &self.headers {
            if !of_transfer.contains(&name.to_ascii_lowercase().as_str()) {
                answer = answer.header(name, value);
            }
        }
        if let Some(location) = self.header("location") {
            let (_, path) = location.split_once("://").and_then(|(_, rest)| rest.split_once('/')).expect("an address");
            answer = answer.header("Location", format!("{storage}/{path}"));
        }
        let mut body = self.body();
        if self.header("content-encoding").is_some_and(|encoding| encoding == "gzip") {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&body).expect("it is memory");
            body = gzip.finish().expect("it is memory");
        }
        match (self.status, self.header("transfer-encoding")) {
            (304, _) => answer,
            (_, Some("chunked")) => answer.chunked(&body, 500),
            _ => answer.body(&body),
        }
    }
}

/// All that a GET was answered, and what others were refused with, or `None` after a line that says what is missing.
fn recordings() -> Option<Vec<Recorded>> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/github-recordings.json");
    let path = std::env::var_os("OVERSEER_GITHUB_RECORDINGS").map_or(usual, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(&path) else {
        let missing = format!("{} is missing; make it with .ci/github-recordings, which needs pip and npm", path.display());
        assert!(std::env::var_os("OVERSEER_CI").is_none(), "{missing}");
        // Once, and not by `eprintln`, whose lines only a failed test shows.
        static SAID: Once = Once::new();
        SAID.call_once(|| drop(writeln!(std::io::stderr(), "not shown here, how the fetcher reads recorded answers of GitHub: {missing}")));
        return None;
    };
    let all: Vec<Recorded> = serde_json::from_str(&text).expect("a list of answers");
    Some(all.into_iter().filter(|recorded| recorded.method == "GET" || recorded.status == 422).collect())
}

fn fetcher(api: &Server) -> GitHubFetcher {
    // What was published then is for no system.
    let named = |asset: &overseer_fetcher_github::Asset| !asset.name().ends_with(".gz");
    GitHubFetcher::new("octo", "app").base_url(api.url("")).no_proxy().token("t0ken").asset_by(named)
}

/// One look, at which the API answers so.
fn look(recorded: &Recorded, known: &Known) -> (Result<Look, FetchError>, Server) {
    let replayed = recorded.clone();
    let api = Server::start(move |request| {
        assert!(request.header("User-Agent").is_some_and(|agent| agent.starts_with("overseer-fetcher-github/")));
        match request.target.contains("/releases/assets/") {
            true => Answer::redirect("/stored"),
            false if request.target == "/stored" => Answer::new("200 OK").body(b"bytes"),
            false => replayed.answer(""),
        }
    });
    let mut fetcher = match recorded.body.starts_with('[') {
        true => fetcher(&api).pre_releases(true),
        false => fetcher(&api),
    };
    (fetcher.fetch(known), api)
}

#[test]
fn each_recorded_release_is_read() {
    let Some(all) = recordings() else { return };
    let is_release =
        |recorded: &&Recorded| recorded.status == 200 && recorded.path.contains("/releases") && recorded.body.contains("\"tag_name\"");
    let (mut with_file, mut without) = (0, 0);
    for recorded in all.iter().filter(is_release) {
        let (found, _api) = look(recorded, &Known::nothing());
        let json = recorded.json();
        let release = if json.is_array() { &json[0] } else { &json };
        let assets = release["assets"].as_array().expect("assets");
        let file = assets.iter().find(|asset| !asset["name"].as_str().expect("a name").ends_with(".gz"));
        let is_fake = |digest: &&str| digest.len() != "sha256:".len() + 64;
        match file {
            // Its recorder has put a short text into the place of the digest.
            Some(file) if file["digest"].as_str().is_some_and(|digest| is_fake(&digest)) => {
                let error = found.expect_err("that is no digest").to_string();
                assert!(error.ends_with("which is none"), "{}: {error}", recorded.from);
            }
            Some(file) => {
                with_file += 1;
                let look = found.unwrap_or_else(|error| panic!("{}: {error}", recorded.from));
                // Young ones without a digest are waited for.
                let Some(release) = look.into_release() else { continue };
                assert!(release.tag().starts_with(&format!("asset {} ", file["id"])), "{}: {}", recorded.from, release.tag());
                assert_eq!(release.file_name(), file["name"].as_str().expect("a name"));
            }
            None => {
                without += 1;
                let text = found.map_or_else(|error| error.to_string(), |look| look.why_incomplete().expect("it has no file").to_owned());
                assert!(text.contains("it has no files at all"), "{}: {text}", recorded.from);
            }
        }
    }
    println!("{with_file} releases with a file, {without} without");
    assert!(with_file >= 8 && without >= 3, "{with_file} and {without}");
}

#[test]
fn the_recorded_times_of_change_show_that_a_file_does_not_move_them() {
    let Some(all) = recordings() else { return };
    let releases =
        all.iter().filter(|recorded| recorded.status == 200 && recorded.body.contains("\"tag_name\"") && !recorded.body.starts_with('['));
    let changed = |recorded: &Recorded| {
        let json = recorded.json();
        let changed = json["updated_at"].as_str().or(json["published_at"].as_str()).expect("a date").to_owned();
        let files = json["assets"].as_array().expect("assets").iter();
        let newest = files.map(|file| at(file["updated_at"].as_str().expect("a date"))).max();
        (at(&changed), newest, server::github::http_date(at(&changed)))
    };
    let (mut all, mut later) = (0, 0);
    for recorded in releases {
        let (changed, newest_file, date) = changed(recorded);
        assert_eq!(recorded.header("last-modified"), Some(date.as_str()), "{}", recorded.from);
        all += 1;
        later += u32::from(newest_file.is_some_and(|newest| newest > changed));
    }
    println!("Last-Modified of {all} releases is that of the release itself; {later} have a younger file");
    assert!(all >= 10 && later >= 1);
}

#[test]
fn a_recorded_download_goes_from_the_api_to_the_storage_host_and_has_the_digest_that_the_api_told() {
    let Some(all) = recordings() else { return };
    let mut whole = 0;
    for release in
        all.iter().filter(|recorded| recorded.status == 200 && recorded.body.contains("\"tag_name\"") && !recorded.body.starts_with('['))
    {
        for file in release.json()["assets"].as_array().expect("assets") {
            let end = format!("/releases/assets/{}", file["id"]);
            let Some(redirect) = all.iter().find(|recorded| recorded.status == 302 && recorded.path.ends_with(&end)) else { continue };
            let location = redirect.header("location").expect("a Location");
            let Some(stored) = all.iter().find(|recorded| format!("https://{}{}", recorded.host, recorded.path) == location) else {
                continue;
            };
            let recorded_stored = stored.clone();
            let storage = Server::start(move |request| match request.header("Authorization") {
                Some(_) => Answer::status("400 Bad Request"),
                None if request.target == recorded_stored.path => recorded_stored.answer(""),
                None => Answer::status("404 Not Found"),
            });
            let (told, moved, base) = (release.clone(), redirect.clone(), storage.url(""));
            let api = Server::start(move |request| match request.target.contains("/releases/assets/") {
                true => moved.answer(&base),
                false => told.answer(""),
            });
            let name = file["name"].as_str().expect("a name");
            let found = fetcher(&api).asset(name).fetch(&Known::nothing());
            let is_real = file["digest"].as_str().is_none_or(|digest| digest.len() > 70);
            if !is_real {
                found.expect_err("that is no digest");
                continue;
            }
            let mut found = found.expect("a look").into_release().expect("a release");
            let mut bytes = Vec::new();
            found.body().read_to_end(&mut bytes).expect("the whole body");
            assert_eq!(bytes, stored.body());
            let digests: Vec<_> = found.digests().map(|digest| digest.to_hex()).collect();
            match file["digest"].is_string() {
                true => assert_eq!(digests, [sha256(&bytes)]),
                false => assert!(digests.is_empty(), "an old file has none"),
            }
            whole += usize::from(file["digest"].is_string());
        }
    }
    assert!(whole >= 1, "no recorded file has a digest and all of its answers");
}

#[test]
fn a_recorded_304_is_nothing_new() {
    let Some(all) = recordings() else { return };
    let not_modified: Vec<_> = all.iter().filter(|recorded| recorded.status == 304).collect();
    let release = all.iter().find(|recorded| recorded.path.ends_with("/releases/latest") && recorded.status == 200).expect("a release");
    let (found, _api) = look(release, &Known::nothing());
    let found = found.expect("a look");
    let memo = found.memo().expect("a memo").to_owned();
    let known = Known::nothing().with_settled(found.into_release().expect("a release").tag()).with_memo(memo);
    for recorded in &not_modified {
        let (found, api) = look(recorded, &known);
        assert!(found.expect("a look").is_unchanged());
        assert_eq!(api.seen()[0].header("If-Modified-Since"), release.header("last-modified"));
    }
    assert!(!not_modified.is_empty());
}

#[test]
fn each_recorded_refusal_is_told_of_as_what_it_is() {
    let Some(all) = recordings() else { return };
    let mut seen = Vec::new();
    for recorded in all.iter().filter(|recorded| recorded.status >= 400) {
        let (found, _api) = look(recorded, &Known::nothing());
        let error = found.expect_err("it is a refusal");
        let text = error.to_string();
        println!("{}: {text}", recorded.from);
        let is_limit = recorded.header("x-ratelimit-remaining") == Some("0");
        let (kind, words, pause) = match recorded.status {
            401 => (FetchErrorKind::Settings, "the token of the settings was refused", None),
            403 if is_limit => (FetchErrorKind::Passing, "the rate limit of 60 requests an hour", Some(60)),
            403 if recorded.header("retry-after").is_some() => (FetchErrorKind::Passing, "the secondary rate limit", Some(60)),
            403 => (FetchErrorKind::Passing, "it misses the User-Agent", None),
            404 => (FetchErrorKind::Settings, "or it is private", None),
            _ => (FetchErrorKind::Passing, "answered", None),
        };
        assert!(text.contains(&format!("answered {}", recorded.status)) && text.contains(words), "{text}");
        assert_eq!((error.kind(), error.pause_asked_for()), (kind, pause.map(Duration::from_secs)), "{text}");
        seen.push((recorded.status, words));
    }
    seen.sort_unstable();
    seen.dedup();
    let statuses: Vec<_> = seen.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [400, 401, 403, 403, 403, 404, 422, 500, 502, 503]);
}
