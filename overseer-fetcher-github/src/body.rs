//! The bytes of a file, as a reader that goes on where a transfer broke off.
//!
//! An asset ID stands for the same bytes for ever: another file under the same name has another ID. So the rest may be asked for without any
//! validator; that it is the rest of a file of the same size is looked at. Each time the API is asked for a fresh address at the storage host, since
//! its signature lasts only for minutes.

use crate::api::{Answer, Api};
use crate::error::{first_cause, is_short, text};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use overseer_core::FetchError;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use std::io;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

/// How often one body goes on after a break before the look fails. What arrived is kept by core, and the next look goes on there.
const RESUMES_MAX: u32 = 4;

pub(crate) struct Body {
    pub(crate) api: Arc<Api>,
    pub(crate) answer: Answer,
    /// For errors: `app-linux-amd64 of v1.2`.
    pub(crate) name: String,
    pub(crate) asset: u64,
    /// How many bytes of the published file have been read, those of earlier looks included.
    pub(crate) at: u64,
    pub(crate) size_bytes: u64,
    pub(crate) resumes_left: u32,
}

impl Body {
    /// The body of `answer`, which begins at byte `at` of the published file.
    pub(crate) fn new(api: Arc<Api>, answer: Answer, name: String, asset: u64, at: u64, size_bytes: u64) -> Self {
        Self { api, answer, name, asset, at, size_bytes, resumes_left: RESUMES_MAX }
    }

    pub(crate) fn into_reader(self) -> impl AsyncRead + Send + 'static {
        let pieces = stream::try_unfold(self, |mut body| async move {
            let piece = body.next().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(piece.map(|piece| (piece, body)))
        });
        StreamReader::new(Box::pin(pieces))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let silence = self.api.settings.get_timeout;
            let broken = match timeout(silence, self.answer.body.frame()).await {
                Err(_) => format!("stalled, with nothing for {silence:?},"),
                Ok(None) if self.at >= self.size_bytes => return Ok(None),
                Ok(None) => "ended".to_owned(),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => {
                        self.at += piece.len() as u64;
                        return Ok(Some(piece));
                    }
                    Ok(_) | Err(_) => continue,
                },
                Ok(Some(Err(error))) if is_short(&error) => "ended".to_owned(),
                Ok(Some(Err(error))) => format!("broke off ({})", first_cause(&error)),
            };
            self.resume(&broken).await?;
        }
    }

    /// Asks for the rest.
    async fn resume(&mut self, broken: &str) -> Result<(), FetchError> {
        let what =
            format!("the transfer of {} from {} {broken} after {} of {} bytes", self.name, self.answer.shown(), self.at, self.size_bytes);
        if self.resumes_left == 0 {
            return Err(FetchError::passing(format!("{what}; {RESUMES_MAX} attempts to go on were not enough")));
        }
        self.resumes_left -= 1;
        let could_not = |why: FetchError| {
            let error = FetchError::passing(format!("{what} and could not go on: {why}"));
            match why.pause_asked_for() {
                Some(pause) => error.retry_after(pause),
                None => error,
            }
        };
        let answer = self.api.open_file(self.asset, self.at).await.map_err(could_not)?;
        match answer.status {
            StatusCode::PARTIAL_CONTENT if Part::of(&answer.headers).is_rest(self.at, self.size_bytes) => {
                self.answer = answer;
                Ok(())
            }
            // Nothing had come yet, so no part was asked for.
            StatusCode::OK if self.at == 0 => {
                self.answer = answer;
                Ok(())
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = text(&answer.headers, &CONTENT_RANGE).unwrap_or_else(|| "no Content-Range".to_owned());
                Err(FetchError::passing(format!("{what}; the server answered another part: {range}")))
            }
            StatusCode::OK => Err(FetchError::passing(format!("{what}; the server cannot send the rest alone"))),
            _ => Err(could_not(self.api.refusal(answer).await)),
        }
    }
}

/// What part of a file an answer brings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    from: Option<u64>,
    /// Of the whole file; the server need not know it.
    size_bytes: Option<u64>,
}

impl Part {
    /// Reads `Content-Range: bytes 5-9/10`.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let read = || {
            let value = text(headers, &CONTENT_RANGE)?;
            let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
            let (from, _) = range.split_once('-')?;
            Some(Self { from: from.trim().parse().ok(), size_bytes: size.trim().parse().ok() })
        };
        read().unwrap_or_default()
    }

    pub(crate) fn is_rest(&self, from: u64, size_bytes: u64) -> bool {
        self.from == Some(from) && self.size_bytes.is_none_or(|told| told == size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_with_and_without_the_whole_size() {
        let part = |value: &str| Part::of(&[(CONTENT_RANGE, value.parse().expect("a value"))].into_iter().collect());
        assert!(part("bytes 5-9/10").is_rest(5, 10) && part("bytes 5-9/*").is_rest(5, 10));
        assert!(!part("bytes 5-9/10").is_rest(5, 11) && !part("bytes 4-9/10").is_rest(5, 10));
        assert_eq!(part("bytes */10"), Part::default());
        assert_eq!(part("lines 5-9/10"), Part::default());
    }
}
