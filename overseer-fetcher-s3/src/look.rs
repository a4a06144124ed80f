//! One look: HEAD, compare, GET.

use crate::body::{Transfer, is_of, patience, replaced, starts_at};
use crate::checksum::Checksums;
use crate::connect::Connection;
use crate::error::Failure;
use crate::settings::Settings;
use crate::tag::{is_strong, md5_of, plain_md5, tag};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use overseer_core::{Digest, FetchError, Known, Look, Release};
use std::sync::Arc;
use tokio::time::timeout;

/// A signature and a list of the digests of a whole directory are far below this.
const SMALL_FILE_BYTES_MAX: usize = 64 * 1024;

pub(crate) async fn look(settings: Settings, known: &Known) -> Result<Look, FetchError> {
    let connection = Arc::new(Connection::open(settings).await?);
    let source = &connection.settings.source;
    let head = match connection.head().await {
        Ok(head) => head,
        Err(Failure::NoAnswer(error)) => return Err(error),
        Err(Failure::Refused(refusal)) => return Err(why_refused(&connection, *refusal).await),
    };
    let etag = head.e_tag().filter(|etag| !etag.is_empty());
    let etag = etag.ok_or_else(|| FetchError::settings(format!("{source} tells no ETag, so no change can be seen")))?;
    let tag = tag(etag, head.version_id());
    if known.is_settled(&tag) {
        return Ok(Look::unchanged());
    }
    let size_bytes = head.content_length().and_then(|length| u64::try_from(length).ok());
    let size_bytes = match size_bytes {
        Some(0) => return Err(FetchError::passing(format!("{source} is empty"))),
        Some(size_bytes) => size_bytes,
        None => return Err(FetchError::passing(format!("{source} tells no length"))),
    };
    // Whatever the tag of the running binary was elsewhere, these bytes need not come again; nor be compared again.
    let running = known.id().map(|id| format!("{id} {tag}"));
    if running.is_some() && known.memo() == running.as_deref() {
        return Ok(Look::unchanged());
    }
    if is_running(&head, size_bytes, known) {
        let look = Look::unchanged();
        return Ok(match running {
            Some(memo) => look.remember(memo),
            None => look,
        });
    }
    release(&connection, &head, Object { tag, etag, size_bytes }, known).await
}

/// What HEAD told of the object.
struct Object<'a> {
    tag: String,
    etag: &'a str,
    size_bytes: u64,
}

/// Whether the object is the running binary. One that cannot be read is compared after the download, by core.
fn is_running(head: &HeadObjectOutput, size_bytes: u64, known: &Known) -> bool {
    size_bytes == known.size_bytes() && plain_md5(head).is_some_and(|md5| md5_of(known.path()).is_ok_and(|own| own == md5))
}

async fn release(connection: &Arc<Connection>, head: &HeadObjectOutput, object: Object<'_>, known: &Known) -> Result<Look, FetchError> {
    let settings = &connection.settings;
    let source = &settings.source;
    let checksums = Checksums::of(head).map_err(|what| FetchError::passing(format!("{source} has {}", connection.words(&what))))?;
    let name = name_by_encoding(settings.file_name(), head.content_encoding())
        .map_err(|why| FetchError::settings(format!("{source} {}", connection.words(&why))))?;
    let mut signature = None;
    if known.wants_signature() {
        signature = match small_file(connection, ".minisig").await? {
            Ok(text) => Some(text),
            Err(missing) => return Ok(Look::incomplete(missing)),
        };
    }
    let mut digest = None;
    if settings.sha256_file {
        let text = match small_file(connection, ".sha256").await? {
            Ok(text) => text,
            Err(missing) => return Ok(Look::incomplete(missing)),
        };
        let found = Digest::in_checksum_file(&text, settings.file_name());
        let beside = settings.beside(".sha256");
        digest = Some(found.ok_or_else(|| FetchError::passing(format!("{beside} has no SHA-256 of {} in it", settings.file_name())))?);
    }

    let Object { tag, etag, size_bytes } = object;
    let begun = known.partial().filter(|partial| partial.tag == tag && partial.size_bytes < size_bytes && is_strong(etag));
    let begun = begun.map_or(0, |partial| partial.size_bytes);
    let mut transfer = Transfer::new(Arc::clone(connection), is_strong(etag).then(|| etag.to_owned()), size_bytes);
    let (answer, from) = get(&transfer, etag, begun).await?;
    if let (Some(told), Some(now)) = (head.version_id(), answer.version_id())
        && told != now
    {
        return Err(FetchError::passing(format!("{source} was replaced since HEAD told of it: version {told} became {now}")));
    }
    let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
    if let Some(length) = length.filter(|length| *length != size_bytes - from) {
        let rest = size_bytes - from;
        return Err(FetchError::passing(format!("{source} has {size_bytes} bytes, and GET brings {length} where {rest} are left")));
    }
    transfer.at = from;
    transfer.crc = checksums.crc.filter(|_| from == 0);
    let mut release = Release::streamed(tag, name, transfer.into_reader(answer.body)).size_bytes(size_bytes).resumed_at(from);
    for digest in checksums.digests {
        release = release.digest(digest);
    }
    if let Some(digest) = digest {
        release = release.digest_beside(digest);
    }
    if let Some(signature) = signature {
        release = release.signature(signature);
    }
    Ok(Look::release(release))
}

/// The object from byte `begun` on, or all of it where a part cannot be had; and the byte that the answer begins at.
async fn get(transfer: &Transfer, etag: &str, begun: u64) -> Result<(GetObjectOutput, u64), FetchError> {
    let connection = &transfer.connection;
    let source = &connection.settings.source;
    let ask = async |from| match connection.get(from, transfer.etag.as_deref(), transfer.patience()).await {
        Ok(answer) if !is_of(&answer, etag) => Err(Failure::NoAnswer(replaced(source, etag, &answer))),
        other => other,
    };
    if begun > 0 {
        match ask(begun).await {
            Ok(answer) => match starts_at(&answer) {
                Some(from) if from == begun => return Ok((answer, begun)),
                None if answer.content_range().is_none() => return Ok((answer, 0)),
                // Another part than the one that was asked for.
                _ => {}
            },
            Err(Failure::Refused(refusal)) if refusal.status == 416 => {}
            Err(failure) => return Err(failure.into_error(connection, source)),
        }
    }
    ask(0).await.map(|answer| (answer, 0)).map_err(|failure| failure.into_error(connection, source))
}

/// Reads the object beside the release with this ending. `Err` in it says that it is missing, which is not a failure but a release that is
/// being published: it is written after the release, and backing off would only delay what its publisher is about to mend.
async fn small_file(connection: &Connection, ending: &str) -> Result<Result<String, String>, FetchError> {
    let object = connection.settings.beside(ending);
    let patience = patience(connection);
    let answer = match connection.get_beside(&format!("{}{ending}", connection.settings.key), patience).await {
        Ok(answer) => answer,
        Err(Failure::Refused(refusal)) if refusal.is_missing() => {
            return Ok(Err(format!("{object} is not there; a release is taken only with its {ending} file")));
        }
        Err(failure) => return Err(failure.into_error(connection, &object)),
    };
    let mut body = answer.body;
    let mut content = Vec::new();
    let read = async {
        while let Some(piece) = body.next().await {
            let piece =
                piece.map_err(|error| FetchError::passing(format!("{object} cannot be read: {}", crate::error::first_cause(&error))))?;
            content.extend_from_slice(&piece);
            if content.len() > SMALL_FILE_BYTES_MAX {
                return Err(FetchError::passing(format!("{object} has more than {SMALL_FILE_BYTES_MAX} bytes")));
            }
        }
        Ok(())
    };
    timeout(patience, read).await.map_err(|_| FetchError::passing(format!("{object} did not come within {patience:?}")))??;
    Ok(Ok(String::from_utf8_lossy(&content).into_owned()))
}

/// The answer to a HEAD has no text. Where its status means several things, a GET of one byte is asked, which says which.
async fn why_refused(connection: &Connection, refusal: crate::error::Refusal) -> FetchError {
    let source = &connection.settings.source;
    if !refusal.is_ambiguous() {
        return refusal.into_error(connection, source, "HEAD");
    }
    let status = refusal.status;
    match connection.ask_why().await {
        // An empty object has no first byte.
        Err(Failure::Refused(why)) if why.status == 416 => given(source, status),
        Err(Failure::Refused(why)) if !why.code.is_empty() => why.into_error(connection, source, "GET"),
        Ok(_) => given(source, status),
        _ => refusal.into_error(connection, source, "HEAD"),
    }
}

/// HEAD was refused, and GET is not.
fn given(source: &str, status: u16) -> FetchError {
    match status {
        404 => FetchError::passing(format!("{source} answered 404 to HEAD, and was there right after it")),
        _ => FetchError::settings(format!("{source} answered {status} to HEAD, but gives the object to GET; HEAD must be allowed, too")),
    }
}

/// An object that was stored compressed is unpacked by core, which goes by the ending of its name.
fn name_by_encoding(name: &str, encoding: Option<&str>) -> Result<String, String> {
    let encoding = encoding.map(str::to_ascii_lowercase).unwrap_or_default();
    // `aws-chunked` is how it was uploaded, and no encoding of the object.
    let mut encodings = encoding.split(',').map(str::trim).filter(|name| !matches!(*name, "" | "identity" | "aws-chunked"));
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(name.to_owned()),
        (Some("gzip"), None) if name.to_ascii_lowercase().ends_with("gz") => Ok(name.to_owned()),
        (Some("gzip"), None) => Ok(format!("{name}.gz")),
        _ => Err(format!("is stored with Content-Encoding {encoding}; only gzip can be unpacked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_stored_as_gzip_is_named_so_and_how_it_was_uploaded_does_not_count() {
        let named = |name: &str, encoding: &str| name_by_encoding(name, Some(encoding));
        assert_eq!(name_by_encoding("app", None).as_deref(), Ok("app"));
        assert_eq!(named("app", "aws-chunked").as_deref(), Ok("app"));
        assert_eq!(named("app", "gzip,aws-chunked").as_deref(), Ok("app.gz"));
        assert_eq!(named("app.tgz", "GZIP").as_deref(), Ok("app.tgz"));
        assert!(named("app", "br").is_err());
    }
}
