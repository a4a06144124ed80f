//! A server that does what a test tells it to, and a bucket on it.

#![allow(dead_code, reason = "each test file uses a part of it")]

#[path = "../../../overseer-fetcher-http/tests/server/raw.rs"]
mod raw;

pub(crate) use raw::*;
use std::sync::{Arc, Mutex};

/// A HEAD or a GET has none, and does not say so either.
fn has_body(request: &Request) -> bool {
    request.header("content-length").is_some()
}

impl Request {
    /// The byte that a part is to begin at.
    pub(crate) fn range(&self) -> Option<usize> {
        self.header("Range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }
}

impl Answer {
    /// As S3 says no: a status and, unless asked by HEAD, a text with a code.
    pub(crate) fn error(status: &str, code: &str, more: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code>{more}<RequestId>1</RequestId></Error>");
        Self::new(status).header("Content-Type", "application/xml").body(body.as_bytes())
    }
}

/// An object that can be replaced, in a bucket that knows `Range` and `If-Match`.
#[derive(Clone)]
pub(crate) struct Published(Arc<Mutex<(String, Vec<u8>)>>);

impl Published {
    pub(crate) fn new(etag: &str, body: &[u8]) -> Self {
        Self(Arc::new(Mutex::new((etag.to_owned(), body.to_vec()))))
    }

    pub(crate) fn replace(&self, etag: &str, body: &[u8]) {
        *self.0.lock().expect("no panic") = (etag.to_owned(), body.to_vec());
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let (etag, body) = self.0.lock().expect("no panic").clone();
        if request.header("If-Match").is_some_and(|wanted| wanted != etag) {
            return Answer::error("412 Precondition Failed", "PreconditionFailed", "");
        }
        match request.range() {
            None => Answer::new("200 OK").header("ETag", &etag).body(&body),
            Some(from) if from >= body.len() => Answer::error("416 Requested Range Not Satisfiable", "InvalidRange", ""),
            Some(from) => part(&etag, &body, from),
        }
    }
}

/// The bytes of `body` from `from` on.
pub(crate) fn part(etag: &str, body: &[u8], from: usize) -> Answer {
    let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
    Answer::new("206 Partial Content").header("ETag", etag).header("Content-Range", range).body(&body[from..])
}
