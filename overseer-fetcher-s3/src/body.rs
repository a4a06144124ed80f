//! The bytes of a release, as a reader that goes on where a transfer broke off.
//!
//! What is read is always one object: the rest is asked for with `Range` and `If-Match`, and an answer that is not the rest of the same
//! object ends the read with an error. A task on the runtime of the look asks and waits; the reader takes what it brings.

use crate::checksum::Crc;
use crate::connect::Connection;
use crate::error::{Failure, first_cause};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Buf, Bytes};
use overseer_core::FetchError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout};

/// How often one body goes on after a break before the look fails. What arrived is kept by core, and the next look goes on there.
const RESUMES_MAX: u32 = 4;
/// A transfer has stalled when this part of the time for all of it brings nothing.
const STALL_PART: u32 = 5;
/// Pieces that wait for the disk.
const PIECES_MAX: usize = 2;

/// What a transfer is to bring.
pub(crate) struct Transfer {
    pub(crate) connection: Arc<Connection>,
    /// Stands for exactly these bytes, if there is one.
    pub(crate) etag: Option<String>,
    /// Of the whole object.
    pub(crate) size_bytes: u64,
    /// How many bytes of the object have come, those of earlier looks included.
    pub(crate) at: u64,
    /// Over the whole object. None for a body that starts elsewhere than at its beginning.
    pub(crate) crc: Option<Crc>,
    /// None if that is further away than a clock can tell.
    pub(crate) deadline: Option<Instant>,
    pub(crate) resumes_left: u32,
}

impl Transfer {
    pub(crate) fn new(connection: Arc<Connection>, etag: Option<String>, size_bytes: u64) -> Self {
        let deadline = Instant::now().checked_add(connection.settings.get_timeout);
        Self { connection, etag, size_bytes, at: 0, crc: None, deadline, resumes_left: RESUMES_MAX }
    }

    /// For how long nothing may come.
    pub(crate) fn patience(&self) -> Duration {
        let left = self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        patience(&self.connection).min(left)
    }

    /// Starts to read `body`, which begins at byte `at` of the object. Must be called on a runtime.
    pub(crate) fn into_reader(self, body: ByteStream) -> Body {
        let (sender, pieces) = channel(PIECES_MAX);
        tokio::spawn(async move {
            // An empty piece is the end. Nobody listens when the release was dropped.
            let end = self.carry(body, &sender).await.map(|()| Bytes::new());
            let _ = sender.send(end).await;
        });
        Body { pieces, piece: Bytes::new(), end: None }
    }

    async fn carry(mut self, mut body: ByteStream, pieces: &Sender<Result<Bytes, FetchError>>) -> Result<(), FetchError> {
        loop {
            let patience = self.patience();
            if patience.is_zero() {
                return Err(self.out_of_time());
            }
            let broken = match timeout(patience, body.next()).await {
                Ok(Some(Ok(piece))) => {
                    self.at += piece.len() as u64;
                    if let Some(crc) = &mut self.crc {
                        crc.update(&piece);
                    }
                    if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                Ok(None) if self.at >= self.size_bytes => break,
                Ok(None) => "ended".to_owned(),
                Ok(Some(Err(error))) => match first_cause(&error) {
                    // Hyper's words for a missing rest with a length, and for a missing last chunk.
                    cause if cause.contains("end of file before message length reached") || cause.contains("unexpected EOF") => {
                        "ended".to_owned()
                    }
                    cause => format!("broke off ({cause})"),
                },
                Err(_) if self.patience().is_zero() => return Err(self.out_of_time()),
                Err(_) => format!("stalled, with nothing for {patience:?},"),
            };
            body = self.resume(&broken).await?;
        }
        let Some(crc) = self.crc else { return Ok(()) };
        crc.finish().map_err(|wrong| {
            FetchError::passing(format!("what came of {} is damaged: {wrong}; it is fetched anew", self.connection.settings.source))
        })
    }

    fn progress(&self) -> String {
        format!("after {} of {} bytes", self.at, self.size_bytes)
    }

    fn out_of_time(&self) -> FetchError {
        let settings = &self.connection.settings;
        let (source, time, progress) = (&settings.source, settings.get_timeout, self.progress());
        FetchError::passing(format!(
            "the transfer of {source} was stopped {progress}, since {time:?} were over (get_timeout); the next look goes on there"
        ))
    }

    /// Asks for the rest.
    async fn resume(&mut self, broken: &str) -> Result<ByteStream, FetchError> {
        let source = self.connection.settings.source.clone();
        let what = format!("the transfer of {source} {broken} {}", self.progress());
        let Some(etag) = &self.etag else {
            return Err(FetchError::passing(format!("{what}; the server gave no strong ETag to go on with")));
        };
        if self.resumes_left == 0 {
            return Err(FetchError::passing(format!("{what}; {RESUMES_MAX} attempts to go on were not enough")));
        }
        self.resumes_left -= 1;
        let error = match self.connection.get(self.at, Some(etag), self.patience()).await {
            Ok(answer) if !is_of(&answer, etag) => return Err(replaced(&source, etag, &answer)),
            Ok(answer) => match starts_at(&answer) {
                Some(from) if from == self.at => return Ok(answer.body),
                Some(from) => return Err(FetchError::passing(format!("{what}; the server answered what begins at byte {from}"))),
                None if self.at == 0 => return Ok(answer.body),
                None => return Err(FetchError::passing(format!("{what}; the server cannot send the rest alone"))),
            },
            Err(Failure::NoAnswer(error)) => error,
            Err(Failure::Refused(refusal)) => refusal.into_error(&self.connection, &source, "GET"),
        };
        let both = FetchError::passing(format!("{what} and could not go on: {error}"));
        Err(match error.pause_asked_for() {
            Some(pause) => both.retry_after(pause),
            None => both,
        })
    }
}

/// For how long nothing may come of a GET.
pub(crate) fn patience(connection: &Connection) -> Duration {
    connection.settings.get_timeout / STALL_PART
}

/// Whether an answer is about the object with this ETag. One that tells nothing is.
pub(crate) fn is_of(answer: &GetObjectOutput, etag: &str) -> bool {
    answer.e_tag().is_none_or(|now| now == etag)
}

/// Not every server knows `If-Match`.
pub(crate) fn replaced(source: &str, was: &str, answer: &GetObjectOutput) -> FetchError {
    let now = answer.e_tag().unwrap_or_default();
    FetchError::passing(format!("{source} was replaced since HEAD told of it: {was} became {now}"))
}

/// The byte of the object that an answer begins at, if it brings a part: `bytes 5-9/10`.
pub(crate) fn starts_at(answer: &GetObjectOutput) -> Option<u64> {
    let (from, _) = answer.content_range()?.strip_prefix("bytes ")?.split_once('-')?;
    from.trim().parse().ok()
}

/// What a [`Transfer`] brings.
pub(crate) struct Body {
    pieces: Receiver<Result<Bytes, FetchError>>,
    piece: Bytes,
    end: Option<Result<(), FetchError>>,
}

impl AsyncRead for Body {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.piece.is_empty() && this.end.is_none() {
            match ready!(this.pieces.poll_recv(context)) {
                Some(Ok(piece)) if piece.is_empty() => this.end = Some(Ok(())),
                Some(Ok(piece)) => this.piece = piece,
                Some(Err(error)) => this.end = Some(Err(error)),
                None => this.end = Some(Err(FetchError::passing("the transfer stopped without a reason"))),
            }
        }
        if let (true, Some(end)) = (this.piece.is_empty(), &this.end) {
            return Poll::Ready(end.clone().map_err(io::Error::other));
        }
        let count = this.piece.len().min(buffer.remaining());
        buffer.put_slice(&this.piece[..count]);
        this.piece.advance(count);
        Poll::Ready(Ok(()))
    }
}
