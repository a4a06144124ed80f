//! The bytes of a release, as a reader that goes on where a transfer broke off.
//!
//! What is read is always one release: the rest is asked for with `Range` and `If-Range` on a validator that stands for
//! exactly these bytes, and an answer that is not the rest of the same file ends the read with an error.

use crate::connect::Connection;
use crate::error::{is_short, is_stall, why_reading_failed};
use crate::tag::{Validator, text};
use crate::url::shown;
use overseer_core::FetchError;
use reqwest::blocking::Response;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderName, IF_RANGE, RANGE};
use reqwest::{Method, StatusCode};
use std::io::{self, Read};
use std::sync::Arc;

/// How often one body goes on after a break before the look fails. What arrived is kept by core, and the next look goes on there.
const RESUMES_MAX: u32 = 4;

pub(crate) struct Body {
    connection: Arc<Connection>,
    answer: Response,
    /// How many bytes of the published file have been read, those of earlier looks included.
    at: u64,
    size_bytes: Option<u64>,
    validator: Option<Validator>,
    resumes_left: u32,
    failed: Option<FetchError>,
}

impl Body {
    /// The body of `answer`, which begins at byte `at` of the published file.
    pub(crate) fn new(
        connection: Arc<Connection>,
        answer: Response,
        at: u64,
        size_bytes: Option<u64>,
        validator: Option<Validator>,
    ) -> Self {
        Self { connection, answer, at, size_bytes, validator, resumes_left: RESUMES_MAX, failed: None }
    }

    fn read_or_resume(&mut self, buffer: &mut [u8]) -> Result<usize, FetchError> {
        loop {
            let broken = match self.answer.read(buffer) {
                Ok(0) if self.size_bytes.is_none_or(|size_bytes| self.at >= size_bytes) => return Ok(0),
                Ok(0) => "ended".to_owned(),
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_stall(&error) => format!("stalled, with nothing for {:?},", self.connection.settings.get_timeout),
                Err(error) if is_short(&error) => "ended".to_owned(),
                Err(error) => format!("broke off ({})", why_reading_failed(&error)),
            };
            self.resume(&broken)?;
        }
    }

    /// Asks for the rest.
    fn resume(&mut self, broken: &str) -> Result<(), FetchError> {
        let start = &self.connection.settings.url;
        let progress = match self.size_bytes {
            Some(size_bytes) => format!("after {} of {size_bytes} bytes", self.at),
            None => format!("after {} bytes, before its end", self.at),
        };
        let what = format!("the transfer of {} {broken} {progress}", shown(start));
        let Some(validator) = &self.validator else {
            return Err(FetchError::passing(format!("{what}; the server gave no strong ETag to go on with")));
        };
        if self.resumes_left == 0 {
            return Err(FetchError::passing(format!("{what}; {RESUMES_MAX} attempts to go on were not enough")));
        }
        self.resumes_left -= 1;
        let answer = self
            .connection
            .send(&Method::GET, start, &rest_of(self.at, validator))
            .map_err(|error| FetchError::passing(format!("{what} and could not go on: {error}")))?;
        let headers = answer.headers();
        let changed = validator.contradicted_by(headers);
        match (answer.status(), changed) {
            (StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::PRECONDITION_FAILED, Some(now)) => {
                let was = validator.value();
                Err(FetchError::passing(format!("{} changed while it was downloaded: {progress} {was} became {now}", shown(start))))
            }
            (StatusCode::PARTIAL_CONTENT, None) => {
                let part = Part::of(headers).filter(|part| part.from == self.at);
                let part =
                    part.ok_or_else(|| FetchError::passing(format!("{what}; the server answered another part: {}", range(headers))))?;
                if let (Some(was), Some(now)) = (self.size_bytes, part.size_bytes)
                    && was != now
                {
                    let url = shown(start);
                    return Err(FetchError::passing(format!(
                        "{url} changed while it was downloaded: {progress} it has {now} bytes instead of {was}"
                    )));
                }
                self.size_bytes = self.size_bytes.or(part.size_bytes);
                self.answer = answer;
                Ok(())
            }
            (StatusCode::OK, None) => Err(FetchError::passing(format!("{what}; the server cannot send the rest alone"))),
            _ => {
                let refusal = self.connection.refusal(&answer, &Method::GET, start);
                let error = FetchError::passing(format!("{what} and could not go on: {refusal}"));
                Err(match refusal.pause_asked_for() {
                    Some(pause) => error.retry_after(pause),
                    None => error,
                })
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(error) = &self.failed {
            return Err(io::Error::other(error.clone()));
        }
        self.read_or_resume(buffer).map_err(|error| {
            self.failed = Some(error.clone());
            io::Error::other(error)
        })
    }
}

/// The headers that ask for everything from byte `at` on, if the file is still the same; else for all of it.
pub(crate) fn rest_of(at: u64, validator: &Validator) -> [(HeaderName, String); 2] {
    [(RANGE, format!("bytes={at}-")), (IF_RANGE, validator.value().to_owned())]
}

/// What part of a file an answer brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) from: u64,
    /// Of the whole file; the server need not know it.
    pub(crate) size_bytes: Option<u64>,
}

impl Part {
    /// Reads `Content-Range: bytes 5-9/10`.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = text(headers, &CONTENT_RANGE)?;
        let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (from, _) = range.split_once('-')?;
        Some(Self { from: from.trim().parse().ok()?, size_bytes: size.trim().parse().ok() })
    }
}

fn range(headers: &HeaderMap) -> String {
    text(headers, &CONTENT_RANGE).unwrap_or_else(|| "no Content-Range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_with_and_without_the_whole_size() {
        let part = |value: &str| Part::of(&[(CONTENT_RANGE, value.parse().expect("a value"))].into_iter().collect());
        assert_eq!(part("bytes 5-9/10"), Some(Part { from: 5, size_bytes: Some(10) }));
        assert_eq!(part("bytes 5-9/*"), Some(Part { from: 5, size_bytes: None }));
        assert_eq!(part("bytes */10"), None);
        assert_eq!(part("lines 5-9/10"), None);
    }
}
