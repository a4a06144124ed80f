//! A server that does what a test tells it to, and a good static file server on it.

#![allow(dead_code, reason = "each test file uses a part of it")]

mod raw;

pub(crate) use raw::*;
use std::sync::{Arc, Mutex};

/// A HEAD or a GET has none, and does not say so either.
fn has_body(request: &Request) -> bool {
    request.header("content-length").is_some()
}

/// A published file, which can be replaced, with all that a good static file server does.
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
        if request.header("If-None-Match") == Some(&etag) {
            return Answer::new("304 Not Modified").header("ETag", &etag);
        }
        let from = request.header("Range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let from = from.filter(|_| request.header("If-Range").is_none_or(|validator| validator == etag));
        match from {
            None => Answer::new("200 OK").header("ETag", &etag).body(&body),
            Some(from) if from >= body.len() => {
                Answer::status("416 Range Not Satisfiable").header("Content-Range", format!("bytes */{}", body.len()))
            }
            Some(from) => Answer::new("206 Partial Content")
                .header("ETag", &etag)
                .header("Content-Range", format!("bytes {from}-{}/{}", body.len() - 1, body.len()))
                .body(&body[from..]),
        }
    }
}
