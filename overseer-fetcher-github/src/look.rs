//! One look: ask whether anything changed, choose a file, see whether it is whole, open it.

use crate::api::{Api, TEXT_BYTES_MAX, Told};
use crate::asset::{Asset, Published, SETTLING_MINUTES, ToldDigest};
use crate::body::{Body, Part};
use crate::choose::{Choice, Unclear, list};
use crate::error::{self, is_hasty, text};
use crate::fetcher::Which;
use crate::memo::{Memo, seconds};
use crate::settings::Settings;
use crate::system::{System, is_named_after};
use crate::url::shown;
use overseer_core::{Digest, FetchError, Known, Look, Release, SIGNATURE_BYTES_MAX};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use reqwest::{StatusCode, Url};
use std::sync::Arc;
use std::time::SystemTime;

/// Drafts, which only people with the right to write see, come first in the list.
const RELEASES_LISTED: &str = "10";

pub(crate) async fn look(settings: Settings, known: &Known) -> Result<Look, FetchError> {
    let api = Arc::new(Api::open(settings)?);
    // What is remembered of a release that is to be tried again must not hide it.
    let memo = known.memo().and_then(Memo::read).filter(|memo| known.is_settled(&memo.tag));
    let condition = memo.as_ref().map(|memo| condition(&api.settings.which, memo)).unwrap_or_default();
    let is_asked = !condition.is_empty();
    if !is_asked && is_hasty(&api.settings) {
        let every = api.settings.interval;
        log::warn!(target: "overseer::poll", "looking every {every:?} at GitHub without a token: it answers 60 requests an hour; set a token, or look less often");
    }
    let told = api.ask(&address(&api), condition).await?;
    match told.status {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED if is_asked => return Ok(Look::unchanged()),
        _ => return Err(error::refusal(&api.settings, &told)),
    }
    let Some(published) = published(&api.settings, &told)? else {
        let (at, name) = (shown(&told.asked), api.settings.name());
        return match is_list_of_drafts(&told) {
            true => Ok(Look::incomplete(format!("the {RELEASES_LISTED} newest releases of {name} are drafts"))),
            false => Err(FetchError::settings(format!("{at} lists no release; {name} has none"))),
        };
    };
    look_at(&api, known, memo, &told, &published).await
}

/// The address that tells of the release.
fn address(api: &Api) -> Url {
    match &api.settings.which {
        Which::Latest => api.about(&["releases", "latest"]),
        Which::Tag(tag) => api.about(&["releases", "tags", tag]),
        Which::Newest => {
            let mut url = api.about(&["releases"]);
            url.query_pairs_mut().append_pair("per_page", RELEASES_LISTED);
            url
        }
    }
}

/// What asks for an answer only if something changed.
///
/// The ETag of a release changes with each download of its files, so the latest one is asked for by the time of its last change alone. A list of
/// releases has no such time. Of a tag that is followed, files may come and go while the release itself stays as it was, which that time does not tell.
/// So both are asked for by ETag: exact, but a release that is downloaded all the time is told of anew each time.
fn condition(which: &Which, memo: &Memo) -> HeaderMap {
    let by_time = *which == Which::Latest && memo.last_modified.is_some();
    let (name, value) = if by_time { (IF_MODIFIED_SINCE, &memo.last_modified) } else { (IF_NONE_MATCH, &memo.etag) };
    let is_due = by_time && memo.is_old(SystemTime::now());
    let value = value.as_ref().filter(|_| !is_due).and_then(|value| HeaderValue::from_str(value).ok());
    value.map(|value| (name, value)).into_iter().collect()
}

/// The release that an answer tells of; of several the newest that is no draft.
fn published(settings: &Settings, told: &Told) -> Result<Option<Published>, FetchError> {
    let unreadable = |error: serde_json::Error| {
        let why = error::without_token(&error.to_string(), settings);
        FetchError::passing(format!("the answer of {} tells of no release: {why}", shown(&told.asked)))
    };
    // Names of a release are shown and remembered.
    if settings.token.as_ref().is_some_and(|token| token.is_in(&told.body)) {
        let text = format!("the answer of {} has the token of this program in it, and is not read", shown(&told.asked));
        return Err(FetchError::passing(text));
    }
    if settings.which != Which::Newest {
        return serde_json::from_slice(&told.body).map(Some).map_err(unreadable);
    }
    let all: Vec<Published> = serde_json::from_slice(&told.body).map_err(unreadable)?;
    Ok(all.into_iter().filter(|release| !release.draft).max_by_key(Published::place))
}

fn is_list_of_drafts(told: &Told) -> bool {
    serde_json::from_slice::<Vec<Published>>(&told.body).is_ok_and(|all| !all.is_empty())
}

async fn look_at(api: &Arc<Api>, known: &Known, memo: Option<Memo>, told: &Told, published: &Published) -> Result<Look, FetchError> {
    let name = release_name(api, published);
    if published.draft {
        return Ok(Look::incomplete(format!("{name} is a draft")));
    }
    let now = error::now(&told.headers);
    let is_young = published.is_young(now);
    let asset = match api.settings.choice.of(published, &System::this()) {
        Ok(asset) => asset,
        Err(unclear) => return without_asset(api, published, unclear, is_young),
    };
    let tag = tag(known, published, asset);
    let changed = published.changed_at().or_else(|| error::date(&told.headers, &LAST_MODIFIED));
    let offered = Memo {
        tag: tag.clone(),
        release: published.id,
        name: published.tag_name.clone(),
        last_modified: text(&told.headers, &LAST_MODIFIED),
        etag: text(&told.headers, &ETAG),
        created: published.created_at().map(|time| time.timestamp()),
        changed: changed.map(|time| time.timestamp()),
        asked: seconds(SystemTime::now()),
    };
    if let Some(installed) = memo.filter(|memo| memo.is_of_a_yanked_one(&offered)) {
        let (gone, repository) = (installed.name, api.settings.name());
        log::warn!(
            target: "overseer::poll",
            "{gone} is gone from {repository}, and {name} is older, so it is not taken; publish a release, or edit that one, to go back to it"
        );
        return Ok(Look::unchanged());
    }
    if known.is_settled(&tag) {
        return Ok(remembering(Look::unchanged(), &offered));
    }
    refuse_another_program(api, known, asset, &name)?;
    if told.url != told.asked {
        let (name, to) = (api.settings.name(), error::without_token(published.html_url.as_deref().unwrap_or_default(), &api.settings));
        log::warn!(target: "overseer::poll", "{name} was renamed, and GitHub redirects to {}: {to}; somebody else may take the old name", shown(&told.url));
    }
    if let Some(look) = unfinished(asset, &name, is_young || asset.is_young(now))? {
        return Ok(look);
    }
    let digest = asset
        .digest()
        .map_err(|digest| FetchError::passing(format!("{} of {name} has the digest \"{digest}\", which is none", asset.name)))?;
    let mut release = match beside(api, known, published, asset).await? {
        Beside::Missing(why) => return Ok(Look::incomplete(why)),
        Beside::There { signature, digest } => {
            let release = open(api, known, published, asset, &tag).await?;
            let release = signature.into_iter().fold(release, Release::signature);
            digest.into_iter().fold(release, Release::digest_beside)
        }
    };
    if let Some(digest) = digest {
        release = release.digest(digest);
    }
    Ok(remembering(Look::release(release), &offered))
}

/// A signature holds for a file of one name. Where the settings leave that open, whoever owns the repository must not choose which of the signer's
/// programs this one becomes.
fn refuse_another_program(api: &Api, known: &Known, asset: &Asset, release: &str) -> Result<(), FetchError> {
    let program = known.path().file_name().unwrap_or_default().to_string_lossy();
    let names = [&*program, &api.settings.repository];
    let is_open = known.wants_signature() && matches!(api.settings.choice, Choice::System);
    if !is_open || names.iter().any(|name| is_named_after(&asset.name, name)) {
        return Ok(());
    }
    Err(FetchError::settings(format!(
        "{} of {release} is named neither after this program ({program}) nor after its repository, and may be another one that is signed with \
         the same key; if it is the right one, say so with asset or asset_pattern",
        asset.name
    )))
}

/// The tag of a file, and of its signature where one is wanted: a release that is signed anew is another one.
fn tag(known: &Known, published: &Published, asset: &Asset) -> String {
    match signature_file(published, asset).filter(|_| known.wants_signature()) {
        Some(signature) => format!("{}, signature {}", asset.tag(), signature.tag()),
        None => asset.tag(),
    }
}

fn signature_file<'a>(published: &'a Published, asset: &Asset) -> Option<&'a Asset> {
    published.asset(&format!("{}.minisig", asset.name)).filter(|file| file.is_uploaded())
}

/// `v1.2 of owner/repository`.
fn release_name(api: &Api, published: &Published) -> String {
    format!("{} of {}", published.tag_name, api.settings.name())
}

fn remembering(look: Look, memo: &Memo) -> Look {
    match memo.write() {
        Some(memo) => look.remember(memo),
        None => look,
    }
}

/// The release has no file for this program, or several.
fn without_asset(api: &Api, published: &Published, unclear: Unclear, is_young: bool) -> Result<Look, FetchError> {
    let name = release_name(api, published);
    let there = match published.assets.is_empty() {
        true => "it has no files at all".to_owned(),
        false => format!("it has {}", list(&published.assets)),
    };
    match unclear {
        Unclear::None(missing) if is_young => {
            Ok(Look::incomplete(format!("{name} has {missing} and is younger than {SETTLING_MINUTES} min; {there} so far")))
        }
        Unclear::None(missing) => Err(FetchError::settings(format!("{name} has {missing}; {there}"))),
        Unclear::Several(candidates) => {
            let advice = "choose one with asset, asset_pattern or asset_by";
            Err(FetchError::settings(format!("{name} has several files for this program: {candidates}; {advice}")))
        }
    }
}

/// What says that a file is not whole, or will never be.
fn unfinished(asset: &Asset, release: &str, is_young: bool) -> Result<Option<Look>, FetchError> {
    let file = format!("{} of {release}", asset.name);
    if !asset.is_uploaded() {
        let text = format!("{file} is not uploaded yet (its state is {})", asset.state);
        return match is_young {
            true => Ok(Some(Look::incomplete(text))),
            false => Err(FetchError::bad_release(format!("{text}, {SETTLING_MINUTES} min after it began; its upload has failed"))),
        };
    }
    if asset.digest == ToldDigest::NotYet && is_young {
        let text = format!("{file} has no digest yet, and is younger than {SETTLING_MINUTES} min");
        return Ok(Some(Look::incomplete(text)));
    }
    if asset.size == 0 {
        return Err(FetchError::bad_release(format!("{file} is empty")));
    }
    Ok(None)
}

/// What lies beside the file in the same release and proves it.
enum Beside {
    There { signature: Option<String>, digest: Option<Digest> },
    Missing(String),
}

async fn beside(api: &Api, known: &Known, published: &Published, asset: &Asset) -> Result<Beside, FetchError> {
    let name = release_name(api, published);
    let mut signature = None;
    if known.wants_signature() {
        let Some(file) = signature_file(published, asset) else {
            let missing = format!("{name} has no {}.minisig; a release is taken only with its .minisig file", asset.name);
            return Ok(Beside::Missing(missing));
        };
        // One byte more is enough for core to refuse it.
        signature = Some(api.small_file(file.id, SIGNATURE_BYTES_MAX + 1).await?);
    }
    let required = api.settings.sha256_file;
    if !required && matches!(asset.digest, ToldDigest::Is(_)) {
        return Ok(Beside::There { signature, digest: None });
    }
    let Some(file) = checksum_file(published, asset).filter(|file| file.is_uploaded()) else {
        let missing = || {
            format!("{name} has neither {}.sha256 nor SHA256SUMS or checksums.txt; a release is taken only with one of them", asset.name)
        };
        return Ok(if required { Beside::Missing(missing()) } else { Beside::There { signature, digest: None } });
    };
    let digest = Digest::in_checksum_file(&api.small_file(file.id, TEXT_BYTES_MAX).await?, &asset.name);
    match digest {
        None if required => Err(FetchError::passing(format!("{} of {name} has no SHA-256 of {} in it", file.name, asset.name))),
        digest => Ok(Beside::There { signature, digest }),
    }
}

/// The file with the SHA-256 of `asset`: one of its own, or one for all.
fn checksum_file<'a>(published: &'a Published, asset: &Asset) -> Option<&'a Asset> {
    let own = [".sha256", ".sha256sum", ".sha256.txt"].map(|ending| format!("{}{ending}", asset.name));
    let of_all = |name: &str| {
        let name = name.to_ascii_lowercase();
        let known = [
            "sha256sums",
            "sha256sums.txt",
            "sha256sum.txt",
            "sha256.sum",
            "sha256.txt",
            "checksums.txt",
            "checksums_sha256.txt",
            "checksums.sha256",
        ];
        known.contains(&name.as_str())
            || name.ends_with("_checksums.txt")
            || name.ends_with("-checksums.txt")
            || name.ends_with("_sha256sums")
    };
    let own = own.iter().find_map(|name| published.asset(name));
    own.or_else(|| published.assets.iter().find(|file| of_all(&file.name)))
}

/// Opens the file, where an earlier look broke off if there is a beginning of it.
async fn open(api: &Arc<Api>, known: &Known, published: &Published, asset: &Asset, tag: &str) -> Result<Release, FetchError> {
    let begun =
        known.partial().filter(|partial| partial.tag == tag && partial.size_bytes < asset.size).map_or(0, |partial| partial.size_bytes);
    let mut from = begun;
    let mut answer = api.open_file(asset.id, from).await?;
    if answer.status == StatusCode::PARTIAL_CONTENT && !Part::of(&answer.headers).is_rest(from, asset.size)
        || answer.status == StatusCode::RANGE_NOT_SATISFIABLE
    {
        // Such a beginning is of no use.
        from = 0;
        answer = api.open_file(asset.id, 0).await?;
    }
    match answer.status {
        StatusCode::PARTIAL_CONTENT if from > 0 => {}
        StatusCode::OK => from = 0,
        _ => return Err(api.refusal(answer).await),
    }
    let kind = text(&answer.headers, &CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    if kind.starts_with("text/html") || kind.starts_with("application/vnd.github") {
        return Err(FetchError::passing(format!("{} sent a page instead of {}: its Content-Type is {kind}", answer.shown(), asset.name)));
    }
    if let Some(encoding) = text(&answer.headers, &CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        let text = format!("{} sends {} with the Content-Encoding {encoding}, and none was asked for", answer.shown(), asset.name);
        return Err(FetchError::passing(text));
    }
    let file = format!("{} of {}", asset.name, published.tag_name);
    let body = Body::new(Arc::clone(api), answer, file, asset.id, from, asset.size);
    let release = Release::streamed(tag, &asset.name, body.into_reader()).resumed_at(from);
    Ok(release.size_bytes(asset.size).version(&published.tag_name))
}
