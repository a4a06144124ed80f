//! A server that does what a test tells it to, and a GitHub on two of them.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod github;
#[path = "../../../overseer-fetcher-http/tests/server/raw.rs"]
mod raw;

pub(crate) use raw::*;

/// A GET has none; the client says so with a length of 0.
fn has_body(request: &Request) -> bool {
    request.header("content-length").is_some_and(|length| length != "0") || request.header("transfer-encoding").is_some()
}
