//! One look: HEAD, compare, GET.

use crate::beside::{self, Beside, NoRelease};
use crate::body::{Body, Part, rest_of};
use crate::connect::Connection;
use crate::digest;
use crate::error::unwrapped;
use crate::place::Place;
use crate::settings::{ChecksumFile, Settings};
use crate::tag::{Memo, Tag, Validator, text};
use crate::url::shown;
use overseer_core::{FetchError, Known, Look, Partial, Release};
use reqwest::blocking::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};
use std::io::{Cursor, Read};
use std::sync::Arc;

/// A page may begin with an empty line or a comment, a binary with neither.
const BEGINNING_BYTES: u64 = 512;

pub(crate) fn look(settings: Settings, known: &Known) -> Result<Look, FetchError> {
    match look_for_release(settings, known) {
        Ok(look) => Ok(look),
        Err(NoRelease::Incomplete(why)) => Ok(Look::incomplete(why)),
        Err(NoRelease::Failed(error)) => Err(error),
    }
}

fn look_for_release(settings: Settings, known: &Known) -> Result<Look, NoRelease> {
    let connection = Arc::new(Connection::open(settings)?);
    let Settings { url, check_headers, .. } = &connection.settings;
    let head = connection.send(&Method::HEAD, url, &[])?;
    match head.status() {
        StatusCode::OK => {
            let told = Tag::of(head.headers(), check_headers);
            if told.is_empty() {
                return look_without_head(&connection, known);
            }
            if known.is_settled(&told.to_string()) {
                return Ok(Look::unchanged());
            }
            look_after_head(&connection, known, &told, &head)
        }
        StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => look_without_head(&connection, known),
        _ => Err(connection.refusal(&head, &Method::HEAD, url).into()),
    }
}

/// HEAD told a tag that is not settled.
fn look_after_head(connection: &Arc<Connection>, known: &Known, told: &Tag, head: &Response) -> Result<Look, NoRelease> {
    let url = &connection.settings.url;
    let place = Place::of(&connection.settings, head.url(), known.wants_signature())?;
    let beside = beside::read(connection, &place, known.wants_signature())?;
    let tag = told.to_string();
    if let Some(partial) = known.partial().filter(|partial| partial.tag == tag && partial.size_bytes > 0)
        && let Some(validator) = Validator::of(head.headers())
    {
        let answer = connection.send(&Method::GET, url, &rest_of(partial.size_bytes, &validator))?;
        if let Some(rest) = rest(&answer, partial, &validator) {
            return release(connection, answer, tag, rest, (place, beside));
        }
        if answer.status() == StatusCode::OK {
            return whole_after_head(connection, known, told, head, answer, (place, beside));
        }
        // 416, or another part than the one that was asked for: such a beginning is of no use.
    }
    let answer = connection.send(&Method::GET, url, &[])?;
    if answer.status() != StatusCode::OK {
        return Err(connection.refusal(&answer, &Method::GET, url).into());
    }
    whole_after_head(connection, known, told, head, answer, (place, beside))
}

/// A GET brings the whole file. What lies beside it was read in between.
fn whole_after_head(
    connection: &Arc<Connection>,
    known: &Known,
    told: &Tag,
    head: &Response,
    answer: Response,
    (mut place, mut beside): (Place, Beside),
) -> Result<Look, NoRelease> {
    let got = told.corrected_by(&Tag::of(answer.headers(), &connection.settings.check_headers));
    let same = got == *told;
    let tag = got.to_string();
    if !same && known.is_settled(&tag) {
        // One of several servers behind the address is older than the one that answered HEAD.
        return Ok(Look::unchanged());
    }
    let place_now = Place::of(&connection.settings, answer.url(), known.wants_signature())?;
    if !same || place_now != place {
        // A signature of the file before this one would get this one rejected.
        beside = beside::read(connection, &place_now, known.wants_signature())?;
        place = place_now;
    }
    // A body without a length ends where the connection does; HEAD's length then tells whether that is its end.
    let told_size =
        length(head.headers()).filter(|size_bytes| same && *size_bytes > 0 && text(answer.headers(), &CONTENT_ENCODING).is_none());
    let size_bytes = length(answer.headers()).or(told_size);
    let whole = Span { from: 0, size_bytes, validator: Validator::of(answer.headers()) };
    release(connection, answer, tag, whole, (place, beside))
}

/// The server does not answer HEAD, or tells nothing in it: a GET on condition that something changed.
fn look_without_head(connection: &Arc<Connection>, known: &Known) -> Result<Look, NoRelease> {
    let Settings { url, check_headers, .. } = &connection.settings;
    let mut headers = Vec::new();
    // What is remembered of a release that is to be tried again must not hide it.
    if let Some(memo) = known.memo().and_then(Memo::read).filter(|memo| known.is_settled(&memo.tag)) {
        headers.extend(memo.etag.map(|etag| (IF_NONE_MATCH, etag)));
        headers.extend(memo.last_modified.map(|date| (IF_MODIFIED_SINCE, date)));
    }
    let begun = known.partial().filter(|partial| partial.size_bytes > 0 && !known.is_settled(&partial.tag));
    let begun = begun.and_then(|partial| Some((partial, Validator::within(&partial.tag)?)));
    let condition = headers.clone();
    if let Some((partial, validator)) = &begun {
        headers.extend(rest_of(partial.size_bytes, validator));
    }
    let mut answer = connection.send(&Method::GET, url, &headers)?;
    if let Some((partial, validator)) = &begun {
        if let Some(rest) = rest(&answer, partial, validator) {
            let published = beside_answer(connection, known, &answer)?;
            return release(connection, answer, partial.tag.clone(), rest, published);
        }
        if matches!(answer.status(), StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
            answer = connection.send(&Method::GET, url, &condition)?;
        }
    }
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED if !condition.is_empty() => return Ok(Look::unchanged()),
        _ => return Err(connection.refusal(&answer, &Method::GET, url).into()),
    }
    check_is_no_page(&answer, &shown(url))?;
    let tag = Tag::of(answer.headers(), check_headers);
    if tag.is_empty() {
        let names = check_headers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let url = shown(url);
        return Err(FetchError::settings(format!(
            "{url} tells none of {names}, so no change can be seen; set check_headers to a header it has"
        ))
        .into());
    }
    let tag = tag.to_string();
    if known.is_settled(&tag) {
        let look = Look::unchanged();
        return Ok(match Memo::of(&tag, answer.headers()).write() {
            Some(memo) => look.remember(memo),
            None => look,
        });
    }
    let published = beside_answer(connection, known, &answer)?;
    let whole = Span { from: 0, size_bytes: length(answer.headers()), validator: Validator::of(answer.headers()) };
    release(connection, answer, tag, whole, published)
}

/// Where the file is that `answer` brings, and what lies beside it.
fn beside_answer(connection: &Connection, known: &Known, answer: &Response) -> Result<(Place, Beside), NoRelease> {
    let place = Place::of(&connection.settings, answer.url(), known.wants_signature())?;
    let beside = beside::read(connection, &place, known.wants_signature())?;
    Ok((place, beside))
}

/// Which bytes of the published file an answer brings.
struct Span {
    from: u64,
    /// Of the whole file.
    size_bytes: Option<u64>,
    validator: Option<Validator>,
}

/// The rest of a download that broke off in an earlier look, if `answer` is that.
fn rest(answer: &Response, partial: &Partial, validator: &Validator) -> Option<Span> {
    let same = answer.status() == StatusCode::PARTIAL_CONTENT && validator.contradicted_by(answer.headers()).is_none();
    let part = Part::of(answer.headers()).filter(|part| same && part.from == partial.size_bytes)?;
    Some(Span { from: part.from, size_bytes: part.size_bytes, validator: Some(validator.clone()) })
}

fn release(
    connection: &Arc<Connection>,
    answer: Response,
    tag: String,
    span: Span,
    (place, beside): (Place, Beside),
) -> Result<Look, NoRelease> {
    let Settings { url, checksum_file, .. } = &connection.settings;
    let shown = shown(url);
    check_is_no_page(&answer, &shown)?;
    let as_published = match (&beside.signature, checksum_file) {
        (Some(_), _) => Some(".minisig"),
        (None, ChecksumFile::Own) => Some(".sha256"),
        (None, ChecksumFile::Shared(name)) => Some(name.as_str()),
        (None, ChecksumFile::None) => None,
    };
    let name =
        name_by_encoding(&answer, place.name, as_published).map_err(|why| FetchError::settings(format!("{shown} is sent with {why}")))?;
    let told = digest::in_headers(answer.headers()).map_err(|what| FetchError::passing(format!("{shown} has {what}")))?;
    let memo = Memo::of(&tag, answer.headers()).write();

    let Span { from, size_bytes, validator } = span;
    let mut body = Body::new(Arc::clone(connection), answer, from, size_bytes, validator);
    let mut beginning = Vec::new();
    if from == 0 {
        body.by_ref().take(BEGINNING_BYTES).read_to_end(&mut beginning).map_err(unwrapped)?;
        if beginning.is_empty() {
            return Err(FetchError::passing(format!("{shown} is empty")).into());
        }
        if begins_as_page(&beginning) {
            return Err(FetchError::passing(format!("{shown} sent an HTML page instead of a release: its body begins as one")).into());
        }
    }
    let mut release = Release::new(tag, name, Cursor::new(beginning).chain(body)).resumed_at(from);
    if let Some(size_bytes) = size_bytes {
        release = release.size_bytes(size_bytes);
    }
    for digest in told {
        release = release.digest(digest);
    }
    if let Some(digest) = beside.digest {
        release = release.digest_beside(digest);
    }
    if let Some(signature) = beside.signature {
        release = release.signature(signature);
    }
    let look = Look::release(release);
    Ok(match memo {
        Some(memo) => look.remember(memo),
        None => look,
    })
}

/// A login page, a captive portal or a single-page application that answers every path.
fn check_is_no_page(answer: &Response, shown: &str) -> Result<(), FetchError> {
    let Some(kind) = text(answer.headers(), &CONTENT_TYPE) else { return Ok(()) };
    let lower = kind.to_ascii_lowercase();
    if lower.starts_with("text/html") || lower.starts_with("application/xhtml") {
        return Err(FetchError::passing(format!("{shown} sent an HTML page instead of a release: its Content-Type is {kind}")));
    }
    Ok(())
}

fn begins_as_page(beginning: &[u8]) -> bool {
    let beginning = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning).trim_ascii_start();
    let starts = |with: &[u8]| beginning.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    starts(b"<!doctype") || starts(b"<html")
}

/// A file that is sent compressed is unpacked by core, which goes by the ending of its name. What is compressed on the way is not what
/// was published: a file that is about the published one, `as_published`, would then make a good release look bad.
fn name_by_encoding(answer: &Response, name: String, as_published: Option<&str>) -> Result<String, String> {
    let encoding = text(answer.headers(), &CONTENT_ENCODING).map(|encoding| encoding.to_ascii_lowercase());
    match encoding.as_deref() {
        None | Some("identity") => Ok(name),
        Some("gzip" | "x-gzip") if is_gzip(&name) => Ok(name),
        Some("gzip" | "x-gzip") => match as_published {
            None => Ok(format!("{name}.gz")),
            Some(what) => Err(format!(
                "Content-Encoding gzip, though none was asked for, and its {what} file is for {name} as published: publish {name}.gz, or stop the server from compressing"
            )),
        },
        Some(other) => Err(format!("Content-Encoding {other}; only gzip can be unpacked, and none was asked for")),
    }
}

fn is_gzip(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_by_its_beginning_and_a_binary_is_none() {
        for page in ["<!DOCTYPE html>", "  \r\n<!doctype HTML", "\u{feff}<html lang=en>", "<HTML>"] {
            assert!(begins_as_page(page.as_bytes()), "{page:?}");
        }
        for other in [b"\x7fELF".as_slice(), b"", b"<", b"#!/bin/sh <html", b"\x1f\x8b"] {
            assert!(!begins_as_page(other), "{other:?}");
        }
    }
}
