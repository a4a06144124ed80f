//! The small files that are published with a release: its digest and its signature.
//!
//! That one is missing is not a failure but a release that is being published: they are written after the release
//! that they are about, and backing off would only delay what its publisher is about to mend.

use crate::connect::Connection;
use crate::error::unwrapped;
use crate::place::Place;
use crate::settings::{ChecksumFile, Settings};
use crate::url::{shown, sibling, with_ending};
use overseer_core::{Digest, FetchError, SIGNATURE_BYTES_MAX};
use reqwest::{Method, StatusCode, Url};
use std::io::Read;

/// The checksums of a whole directory of releases are far below this.
const CHECKSUM_FILE_BYTES_MAX: u64 = 64 * 1024;
/// How each signature of minisign begins.
const SIGNATURE_BEGINNING: &str = "untrusted comment:";

/// What was read; `None` where nothing was asked for.
pub(crate) struct Beside {
    pub(crate) digest: Option<Digest>,
    pub(crate) signature: Option<String>,
}

/// Why a look ends without a release.
pub(crate) enum NoRelease {
    /// One of these files is not there yet. Says which, and why that matters.
    Incomplete(String),
    Failed(FetchError),
}

impl From<FetchError> for NoRelease {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

/// Reads what the settings and core ask for. Without either, nothing is requested.
pub(crate) fn read(connection: &Connection, place: &Place, must_be_signed: bool) -> Result<Beside, NoRelease> {
    let Settings { checksum_file, .. } = &connection.settings;
    let mut beside = Beside { digest: None, signature: None };
    let checksums = match checksum_file {
        ChecksumFile::None => None,
        ChecksumFile::Own => Some((with_ending(&place.url, ".sha256"), ".sha256")),
        ChecksumFile::Shared(name) => Some((sibling(&place.url, name), name.as_str())),
    };
    if let Some((url, what)) = checksums {
        let text = small_file(connection, &url, what, CHECKSUM_FILE_BYTES_MAX)?;
        let digest = Digest::in_checksum_file(&text, &place.name);
        beside.digest = Some(digest.ok_or_else(|| FetchError::passing(format!("{} has no SHA-256 of {} in it", shown(&url), place.name)))?);
    }
    if must_be_signed {
        let url = with_ending(&place.url, ".minisig");
        let text = small_file(connection, &url, ".minisig", SIGNATURE_BYTES_MAX as u64)?;
        // The page of a portal is no reason to reject a release.
        if !text.trim_start_matches('\u{feff}').starts_with(SIGNATURE_BEGINNING) {
            return Err(FetchError::passing(format!("{} is no signature by minisign", shown(&url))).into());
        }
        beside.signature = Some(text);
    }
    Ok(beside)
}

fn small_file(connection: &Connection, url: &Url, what: &str, size_bytes_max: u64) -> Result<String, NoRelease> {
    let shown = shown(url);
    let answer = connection.send(&Method::GET, url, &[])?;
    match answer.status() {
        StatusCode::OK => {}
        status @ (StatusCode::NOT_FOUND | StatusCode::GONE) => {
            return Err(NoRelease::Incomplete(format!("{shown} answered {status}; a release is taken only with its {what} file")));
        }
        _ => return Err(connection.refusal(&answer, &Method::GET, url).into()),
    }
    let mut content = Vec::new();
    let unreadable = |error| FetchError::passing(format!("{shown} cannot be read: {}", unwrapped(error)));
    answer.take(size_bytes_max + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > size_bytes_max {
        return Err(FetchError::passing(format!("{shown} has more than {size_bytes_max} bytes; that is no {what} file")).into());
    }
    Ok(String::from_utf8_lossy(&content).into_owned())
}
