//! What the fetcher finds, and what it asks for to find it.

mod server;

use chrono::TimeDelta;
use overseer_core::{FetchErrorKind, Fetcher, Known, Look, Release};
use overseer_fetcher_github::GitHubFetcher;
use serde_json::json;
use server::github::{GitHub, own_name, sha256};
use server::{Answer, binary};
use std::time::Duration;

fn look(fetcher: &mut GitHubFetcher, known: &Known) -> Look {
    fetcher.fetch(known).expect("a look")
}

fn release(github: &GitHub) -> Release {
    look(&mut github.fetcher(), &Known::nothing()).into_release().expect("a release")
}

fn whole(release: &mut Release) -> Vec<u8> {
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    bytes
}

/// What core knows after it has installed what a look found.
fn installed(look: Look) -> Known {
    let memo = look.memo().expect("a memo").to_owned();
    let mut release = look.into_release().expect("a release");
    whole(&mut release);
    Known::nothing().with_settled(release.tag()).with_memo(memo)
}

fn latest(github: &GitHub) -> Known {
    installed(look(&mut github.fetcher(), &Known::nothing()))
}

#[test]
fn the_file_for_this_system_of_the_latest_release_comes_with_its_version_its_size_and_its_digest() {
    let body = binary(100_000);
    let github = GitHub::with_release("v1.0", b"older");
    github.publish("v1.2", &[("app-plan9-amd64", b"other"), (&own_name(), &body), (&format!("{}.sha256", own_name()), b"beside")]);
    let mut release = release(&github);
    assert_eq!(whole(&mut release), body);
    assert_eq!((release.file_name(), release.version_name(), release.starts_at()), (own_name().as_str(), Some("v1.2"), 0));
    let digests: Vec<_> = release.digests().map(|digest| digest.to_hex()).collect();
    assert_eq!(digests, [sha256(&body)], "GitHub's own digest is enough");
    assert_eq!(release.tag(), format!("asset 105 sha256:{}", sha256(&body)));
    assert_eq!(github.api.lines(), ["GET /repos/octo/app/releases/latest", "GET /repos/octo/app/releases/assets/105"]);
    assert_eq!(github.storage.lines().len(), 1);
}

#[test]
fn a_look_with_nothing_new_is_one_conditional_get_answered_304_however_often_the_release_was_downloaded() {
    let github = GitHub::with_release("v1", &binary(1000));
    let known = latest(&github);
    for _ in 0..3 {
        // Each changes the ETag.
        github.change_last(|release| release.files[0].downloads += 1000);
        let (asked, sent) = (github.api.lines().len(), github.api.sent_bytes());
        let connections = github.api.connections();
        assert!(look(&mut github.fetcher(), &known).is_unchanged());
        let requests = github.api.seen().split_off(asked);
        assert_eq!(requests.len(), 1);
        assert!(requests[0].header("If-Modified-Since").is_some() && requests[0].header("If-None-Match").is_none());
        assert_eq!((github.api.sent_bytes(), github.api.connections()), (sent, connections + 1), "an answer without a body");
    }
    assert_eq!(github.storage.lines().len(), 1, "only the first look downloaded");
}

#[test]
fn no_time_is_too_long() {
    let github = GitHub::with_release("v1", b"first");
    let fetcher = github.fetcher().connect_timeout(Duration::MAX).api_timeout(Duration::MAX).get_timeout(Duration::MAX);
    let mut release = look(&mut { fetcher }, &Known::nothing()).into_release().expect("a release");
    assert_eq!(whole(&mut release), b"first");
}

#[test]
fn a_restart_downloads_nothing_even_where_only_the_tag_is_remembered() {
    let github = GitHub::with_release("v1", &binary(1000));
    let known = Known::nothing().with_settled(release(&github).tag());
    let downloads = github.storage.lines().len();
    let first = look(&mut github.fetcher(), &known);
    assert!(first.is_unchanged());
    let known = known.with_memo(first.memo().expect("what to ask by from now on"));
    let sent = github.api.sent_bytes();
    assert!(look(&mut github.fetcher(), &known).is_unchanged());
    assert_eq!((github.storage.lines().len(), github.api.sent_bytes()), (downloads, sent));
}

#[test]
fn what_is_remembered_of_a_release_does_not_hide_it_when_it_is_to_be_tried_again() {
    let github = GitHub::with_release("v1", &binary(1000));
    let memo = look(&mut github.fetcher(), &Known::nothing()).memo().expect("a memo").to_owned();
    // It was held back, and its time has come: its tag is not settled.
    assert!(look(&mut github.fetcher(), &Known::nothing().with_memo(memo)).into_release().is_some());
    assert!(github.api.seen().iter().all(|request| request.header("If-Modified-Since").is_none()));
}

#[test]
fn the_next_release_is_found() {
    let github = GitHub::with_release("v1", &binary(1000));
    let known = latest(&github);
    github.publish("v2", &[(&own_name(), &binary(2000))]);
    let found = look(&mut github.fetcher(), &known).into_release().expect("a release");
    assert_eq!(found.version_name(), Some("v2"));
}

#[test]
fn a_draft_and_a_pre_release_are_not_the_latest_release() {
    let github = GitHub::with_release("v1", &binary(1000));
    github.publish("v2-rc1", &[(&own_name(), b"rc")]);
    github.change_last(|release| release.pre_release = true);
    github.publish("v2", &[(&own_name(), b"draft")]);
    github.change_last(|release| release.draft = true);
    assert_eq!(release(&github).version_name(), Some("v1"));

    let mut newest = github.fetcher().pre_releases(true);
    let found = look(&mut newest, &Known::nothing());
    let known = installed(found);
    assert_eq!(github.api.lines()[2], "GET /repos/octo/app/releases?per_page=10");
    let sent = github.api.sent_bytes();
    // The download of the first look has changed the ETag, which is all that a list has.
    let second = look(&mut newest, &known);
    assert!(second.is_unchanged() && github.api.sent_bytes() > sent);
    let (known, sent) = (known.with_memo(second.memo().expect("a memo")), github.api.sent_bytes());
    assert!(look(&mut newest, &known).is_unchanged());
    assert_eq!(github.api.sent_bytes(), sent, "nothing was downloaded in between");

    github.change_last(|release| release.draft = false);
    let found = look(&mut newest, &known).into_release().expect("a release");
    assert_eq!(found.version_name(), Some("v2"));
}

#[test]
fn newest_is_the_release_with_the_newest_commit_as_for_github_itself() {
    let github = GitHub::with_release("v2", b"new");
    // A release of an old branch, published later.
    github.publish("v1.9.1", &[(&own_name(), b"old branch")]);
    github.change_last(|release| release.created -= TimeDelta::days(90));
    assert_eq!(release(&github).version_name(), Some("v2"));
    let found = look(&mut github.fetcher().pre_releases(true), &Known::nothing()).into_release().expect("a release");
    assert_eq!(found.version_name(), Some("v2"));
}

#[test]
fn a_list_of_drafts_is_incomplete_and_an_empty_one_an_error() {
    let github = GitHub::start();
    let error = github.fetcher().pre_releases(true).fetch(&Known::nothing()).expect_err("there is none");
    assert_eq!(error.kind(), FetchErrorKind::Settings);
    assert_eq!(error.to_string(), format!("{} lists no release; octo/app has none", github.api.url("/repos/octo/app/releases")));
    github.publish("v1", &[(&own_name(), b"draft")]);
    github.change_last(|release| release.draft = true);
    let look = look(&mut github.fetcher().pre_releases(true), &Known::nothing());
    assert_eq!(look.why_incomplete(), Some("the 10 newest releases of octo/app are drafts"));
}

#[test]
fn a_release_that_is_told_of_as_a_draft_is_incomplete() {
    let github = GitHub::start();
    github.api_always(|| Answer::new("200 OK").body(br#"{"id":1,"tag_name":"v1","draft":true,"assets":[]}"#));
    assert_eq!(look(&mut github.fetcher(), &Known::nothing()).why_incomplete(), Some("v1 of octo/app is a draft"));
}

#[test]
fn a_tag_is_followed_when_its_files_change_though_the_release_does_not() {
    let github = GitHub::with_release("nightly/x", &binary(1000));
    github.publish("v2", &[(&own_name(), b"other")]);
    github.change(|state| state.releases.swap(0, 1));
    let mut fetcher = github.fetcher().tag("nightly/x");
    let known = installed(look(&mut fetcher, &Known::nothing()));
    assert_eq!(github.api.lines()[0], "GET /repos/octo/app/releases/tags/nightly%2Fx");
    let second = look(&mut fetcher, &known);
    let (known, sent) = (known.with_memo(second.memo().expect("a memo")), github.api.sent_bytes());
    assert!(look(&mut fetcher, &known).is_unchanged());
    assert_eq!(github.api.sent_bytes(), sent, "304");

    github.replace(&own_name(), &binary(1001));
    let mut found = look(&mut fetcher, &known).into_release().expect("the new file");
    assert_eq!(whole(&mut found).len(), 1001);
}

#[test]
fn another_file_under_the_same_name_of_the_latest_release_is_found_at_once_after_an_edit_and_else_within_six_hours() {
    let github = GitHub::with_release("v1", &binary(1000));
    let known = latest(&github);
    github.replace(&own_name(), &binary(1000));
    assert!(look(&mut github.fetcher(), &known).is_unchanged(), "GitHub says that nothing changed");

    let memo: serde_json::Value = serde_json::from_str(known.memo().expect("a memo")).expect("JSON");
    let mut old = memo.clone();
    old["asked"] = json!(memo["asked"].as_u64().expect("a number") - 6 * 60 * 60);
    let found = look(&mut github.fetcher(), &known.clone().with_memo(old.to_string())).into_release().expect("the new file");
    assert!(!known.is_settled(found.tag()), "the same bytes are another asset");

    github.change_last(|release| release.updated += TimeDelta::seconds(1));
    assert!(look(&mut github.fetcher(), &known).into_release().is_some());
}

#[test]
fn the_release_before_a_yanked_one_is_taken_only_once_somebody_has_edited_it() {
    let github = GitHub::with_release("v1", b"first");
    github.publish("v2", &[(&own_name(), b"bad")]);
    let known = latest(&github);
    github.change(|state| state.releases.pop());
    assert!(look(&mut github.fetcher(), &known).is_unchanged(), "304: v1 is older");
    // Also where the whole answer is asked for.
    let mut old: serde_json::Value = serde_json::from_str(known.memo().expect("a memo")).expect("JSON");
    old["asked"] = json!(0);
    let known_for_long = known.clone().with_memo(old.to_string());
    assert!(look(&mut github.fetcher(), &known_for_long).is_unchanged());
    assert!(github.api.seen().last().expect("a request").header("If-Modified-Since").is_none());

    github.change_last(|release| release.updated += TimeDelta::hours(20));
    for known in [known, known_for_long] {
        let found = look(&mut github.fetcher(), &known).into_release().expect("the release that is to be gone back to");
        assert_eq!(found.version_name(), Some("v1"));
    }
}

#[test]
fn a_pre_release_that_becomes_the_latest_release_is_found_at_the_latest_after_six_hours() {
    let github = GitHub::start();
    github.publish("v2", &[(&own_name(), b"second")]);
    github.change_last(|release| {
        release.pre_release = true;
        release.created += TimeDelta::hours(1);
    });
    github.publish("v1", &[(&own_name(), b"first")]);
    let known = latest(&github);
    github.change(|state| state.releases[0].pre_release = false);
    let mut old: serde_json::Value = serde_json::from_str(known.memo().expect("a memo")).expect("JSON");
    old["asked"] = json!(0);
    let found = look(&mut github.fetcher(), &known.with_memo(old.to_string())).into_release().expect("a release");
    assert_eq!(found.version_name(), Some("v2"));
}

#[test]
fn a_renamed_repository_is_found_through_the_redirect_and_gets_the_token() {
    let github = GitHub::with_release("v1", b"first");
    github.change(|state| state.token = Some("t0ken".to_owned()));
    github.api_instead(|request| {
        let rest = request.target.strip_prefix("/repos/octo/old")?;
        let body = br#"{"message":"Moved Permanently","url":"https://api.github.invalid/repositories/7/releases/latest"}"#;
        let location = format!("http://{}/repos/octo/app{rest}", request.header("Host").expect("a host"));
        Some(Answer::new("301 Moved Permanently").header("Location", location).body(body))
    });
    let mut fetcher = GitHubFetcher::new("octo", "old").base_url(github.api.url("")).no_proxy().token("t0ken");
    let known = installed(look(&mut fetcher, &Known::nothing()));
    assert!(look(&mut fetcher, &known).is_unchanged());
    assert!(github.api.seen().iter().all(|request| request.header("Authorization") == Some("Bearer t0ken")));
    assert!(github.api.seen().last().expect("a request").header("If-Modified-Since").is_some(), "also after a redirect");
}

#[test]
fn an_enterprise_server_is_asked_below_the_path_of_its_api() {
    let github = GitHub::with_release("v1", b"first");
    github.change(|state| state.base = "/api/v3");
    let found = release(&github);
    assert_eq!(found.version_name(), Some("v1"));
    assert_eq!(github.api.lines(), ["GET /api/v3/repos/octo/app/releases/latest", "GET /api/v3/repos/octo/app/releases/assets/102"]);
    let wrong = GitHubFetcher::new("octo", "app").base_url(github.api.url("")).no_proxy().no_token().fetch(&Known::nothing());
    let error = wrong.expect_err("nothing is there").to_string();
    assert!(error.ends_with("; the base_url of an Enterprise server ends in /api/v3"), "{error}");
}

#[test]
fn files_are_chosen_by_name_by_pattern_and_by_closure() {
    let github = GitHub::start();
    let spelled = format!("tool_1.2.3_{}_{}.gz", std::env::consts::OS.to_uppercase(), std::env::consts::ARCH);
    github.publish("v1.2.3", &[("tool", b"1"), (&spelled, b"22"), ("README", b"333"), ("big", b"4444")]);
    let chosen = |mut fetcher: GitHubFetcher| {
        let release = look(&mut fetcher, &Known::nothing()).into_release().expect("a release");
        release.file_name().to_owned()
    };
    assert_eq!(chosen(github.fetcher()), spelled);
    assert_eq!(chosen(github.fetcher().asset("tool")), "tool");
    assert_eq!(chosen(github.fetcher().asset_pattern("tool_{version}_{os}_{arch}.gz")), spelled);
    assert_eq!(chosen(github.fetcher().asset_by(|asset| asset.size_bytes() == 4 && asset.name() == "big")), "big");
}

#[test]
fn an_ambiguity_and_a_release_without_a_file_for_this_program_are_settings_errors_with_the_names() {
    let github = GitHub::start();
    let archive = format!("{}.tar.gz", own_name());
    github.publish("v1", &[(&archive, b"1"), (&own_name(), b"2"), ("other", b"3")]);
    let error = |mut fetcher: GitHubFetcher| {
        let error = fetcher.fetch(&Known::nothing()).expect_err("unclear");
        assert_eq!(error.kind(), FetchErrorKind::Settings);
        error.to_string()
    };
    let own = own_name();
    assert_eq!(
        error(github.fetcher()),
        format!("v1 of octo/app has several files for this program: {own}, {archive}; choose one with asset, asset_pattern or asset_by")
    );
    assert_eq!(error(github.fetcher().asset("none")), format!("v1 of octo/app has no file none; it has {own}, {archive}, other"));
    github.publish("v2", &[]);
    assert_eq!(error(github.fetcher().asset("none")), "v2 of octo/app has no file none; it has no files at all");
    assert!(github.storage.lines().is_empty());
}

/// What is said about a release of one minute ago after `change`, and of an hour ago.
fn young_and_old(change: impl Fn(&GitHub)) -> [Result<Look, overseer_core::FetchError>; 2] {
    [TimeDelta::minutes(1), TimeDelta::hours(1)].map(|age| {
        let github = GitHub::with_release("v1", &binary(100));
        change(&github);
        let now = github.change(|state| state.now);
        github.change_last(|release| {
            release.published = now - age;
            release.files.iter_mut().for_each(|file| file.updated = now - age);
        });
        let found = github.fetcher().fetch(&Known::nothing());
        if let Ok(look) = &found
            && look.why_incomplete().is_some()
        {
            assert!(github.storage.lines().is_empty(), "no download");
            assert_eq!(look.memo(), None, "nothing that could hide the rest");
        }
        found
    })
}

fn why(look: Result<Look, overseer_core::FetchError>) -> String {
    let look = look.expect("no error");
    look.why_incomplete().expect("it is incomplete").to_owned()
}

#[test]
fn a_file_that_is_not_uploaded_is_waited_for_and_after_a_quarter_of_an_hour_its_upload_has_failed() {
    let [young, old] = young_and_old(|github| github.change_last(|release| release.files[0].state = "open"));
    let text = format!("{} of v1 of octo/app is not uploaded yet (its state is open)", own_name());
    assert_eq!(why(young), text);
    let error = old.expect_err("it will never be");
    assert_eq!(error.to_string(), format!("{text}, 15 min after it began; its upload has failed"));
    assert_eq!(error.kind(), FetchErrorKind::BadRelease);
}

#[test]
fn a_digest_that_is_missing_is_waited_for_and_old_files_have_none() {
    let [young, old] = young_and_old(|github| github.change_last(|release| release.files[0].digest = Some(json!(null))));
    assert_eq!(why(young), format!("{} of v1 of octo/app has no digest yet, and is younger than 15 min", own_name()));
    let old = old.expect("a look").into_release().expect("a release");
    assert_eq!(old.digests().count(), 0);
    assert_eq!(old.tag(), "asset 102 of 2026-03-01T11:00:00Z, 100 bytes");
    // A server that does not know digests is not waited for.
    let [young, _] = young_and_old(|github| github.change_last(|release| release.files[0].digest = None));
    assert!(young.expect("a look").into_release().is_some());
}

#[test]
fn a_file_that_is_not_there_yet_is_waited_for() {
    let [young, old] = young_and_old(|github| github.change_last(|release| release.files[0].name = "app-other".to_owned()));
    let young = why(young);
    assert!(
        young.starts_with("v1 of octo/app has no file that names this system (")
            && young.ends_with("and is younger than 15 min; it has app-other so far"),
        "{young}"
    );
    assert_eq!(old.expect_err("it is an error").kind(), FetchErrorKind::Settings);
    let [young, old] = young_and_old(|github| github.change_last(|release| release.files.clear()));
    assert!(why(young).ends_with("it has no files at all so far"));
    assert!(old.expect_err("it is an error").to_string().ends_with("; it has no files at all"));
}

#[test]
fn age_is_told_by_the_clock_of_the_server() {
    let github = GitHub::with_release("v1", &binary(100));
    // By the clock of this machine it is long past.
    github.change_last(|release| release.files[0].digest = Some(json!(null)));
    github.change(|state| state.now = state.releases[0].published + TimeDelta::minutes(14));
    assert!(look(&mut github.fetcher(), &Known::nothing()).why_incomplete().is_some());
    github.change(|state| state.now += TimeDelta::minutes(1));
    assert!(look(&mut github.fetcher(), &Known::nothing()).into_release().is_some());
}

#[test]
fn a_young_file_of_an_old_release_is_waited_for() {
    let github = GitHub::with_release("nightly", &binary(100));
    github.replace(&own_name(), &binary(101));
    github.change_last(|release| release.files[0].state = "open");
    let mut fetcher = github.fetcher().tag("nightly");
    let text = format!("{} of nightly of octo/app is not uploaded yet (its state is open)", own_name());
    assert_eq!(look(&mut fetcher, &Known::nothing()).why_incomplete(), Some(text.as_str()));
    github.change_last(|release| {
        release.files[0].state = "uploaded";
        release.files[0].digest = Some(json!(null));
    });
    let text = format!("{} of nightly of octo/app has no digest yet, and is younger than 15 min", own_name());
    assert_eq!(look(&mut fetcher, &Known::nothing()).why_incomplete(), Some(text.as_str()));
    github.change(|state| state.now += TimeDelta::minutes(15));
    assert!(look(&mut fetcher, &Known::nothing()).into_release().is_some());
}

#[test]
fn a_release_that_is_signed_anew_is_another_one_where_signatures_are_wanted() {
    let github = GitHub::with_release("v1", &binary(100));
    let minisig = format!("{}.minisig", own_name());
    let unsigned = release(&github).tag().to_owned();
    let wants = Known::nothing().with_wanted_signature();
    assert!(look(&mut github.fetcher(), &wants.clone().with_settled(&unsigned)).is_unchanged(), "installed before there were keys");

    github.replace(&minisig, b"by a wrong key");
    let first = look(&mut github.fetcher(), &wants).into_release().expect("a release").tag().to_owned();
    github.replace(&minisig, b"by the right key");
    let second = look(&mut github.fetcher(), &wants.clone().with_settled(&first)).into_release().expect("it may be accepted now");
    assert_eq!(second.minisig(), Some("by the right key"));
    assert_eq!(release(&github).tag(), unsigned, "nobody wants one");

    github.replace(&minisig, &[b'x'; 100_000]);
    let third = look(&mut github.fetcher(), &wants).into_release().expect("core refuses it");
    assert_eq!(third.minisig().map(str::len), Some(overseer_core::SIGNATURE_BYTES_MAX + 1));
}

#[test]
fn a_wanted_signature_is_taken_from_beside_the_file_and_waited_for_however_long_it_takes() {
    let github = GitHub::with_release("v1", &binary(100));
    let known = Known::nothing().with_wanted_signature();
    let missing = format!("v1 of octo/app has no {}.minisig; a release is taken only with its .minisig file", own_name());
    assert_eq!(look(&mut github.fetcher(), &known).why_incomplete(), Some(missing.as_str()));
    github.replace(&format!("{}.minisig", own_name()), b"untrusted comment: x\n");
    github.change_last(|release| release.files[1].state = "open");
    assert_eq!(look(&mut github.fetcher(), &known).why_incomplete(), Some(missing.as_str()));
    assert!(github.storage.lines().is_empty());

    github.change_last(|release| release.files[1].state = "uploaded");
    let mut found = look(&mut github.fetcher(), &known).into_release().expect("a release");
    assert_eq!(found.minisig(), Some("untrusted comment: x\n"));
    assert_eq!(whole(&mut found), binary(100));
    assert_eq!(release(&github).minisig(), None, "nobody wants one");
}

#[test]
fn a_checksum_file_counts_where_github_tells_no_digest_and_where_it_is_required() {
    let body = binary(100);
    let sums = format!("{}  other\n{}  {}\n", sha256(b"other"), sha256(&body), own_name());
    for name in [format!("{}.sha256", own_name()), "SHA256SUMS".to_owned(), "checksums.txt".to_owned(), "app_1.2_checksums.txt".to_owned()]
    {
        let github = GitHub::start();
        github.publish("v1", &[(&own_name(), &body), (&name, sums.as_bytes())]);
        assert_eq!(release(&github).digests().count(), 1, "GitHub's own is enough");
        assert_eq!(github.storage.lines().len(), 1);
        let required = look(&mut github.fetcher().sha256_file(true), &Known::nothing()).into_release().expect("a release");
        assert_eq!(required.digests().map(|digest| digest.to_hex()).collect::<Vec<_>>(), [sha256(&body), sha256(&body)], "{name}");
        github.change_last(|release| release.files[0].digest = Some(json!(null)));
        let old = release(&github);
        assert_eq!(old.digests().map(|digest| digest.to_hex()).collect::<Vec<_>>(), [sha256(&body)], "{name}");
    }
    let github = GitHub::with_release("v1", &body);
    let look = look(&mut github.fetcher().sha256_file(true), &Known::nothing());
    let missing = format!(
        "v1 of octo/app has neither {}.sha256 nor SHA256SUMS or checksums.txt; a release is taken only with one of them",
        own_name()
    );
    assert_eq!(look.why_incomplete(), Some(missing.as_str()));
    github.replace("SHA256SUMS", b"nothing of use");
    let error = github.fetcher().sha256_file(true).fetch(&Known::nothing()).expect_err("it has no digest");
    assert_eq!(error.to_string(), format!("SHA256SUMS of v1 of octo/app has no SHA-256 of {} in it", own_name()));
}

#[test]
fn compressed_answers_are_understood_though_nobody_asks_for_them() {
    let github = GitHub::with_release("v1", b"first");
    let known = latest(&github);
    assert!(github.api.seen().iter().all(|request| request.header("Accept-Encoding") == Some("identity")));
    let json = br#"{"id":9,"tag_name":"v9","updated_at":"2027-01-01T00:00:00Z","assets":[]}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, json).expect("it is memory");
    let gzip = gzip.finish().expect("it is memory");
    github.api_always(move || Answer::new("200 OK").header("Content-Encoding", "gzip").chunked(&gzip, 20));
    let error = github.fetcher().fetch(&known).expect_err("it has no files");
    assert!(error.to_string().starts_with("v9 of octo/app has no file"), "{error}");
}
