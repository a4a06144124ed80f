//! Fetches releases for overseer from an HTTP or HTTPS server.
//!
//! Any server that hands out files will do: a static web server, a bucket with a public address, a build server. A look
//! is one HEAD request. If the answer's headers are those of a release that is installed or rejected, that is all; else one GET
//! streams the file to core, which proves, unpacks and installs it.
//!
//! ```no_run
//! use overseer_core::Fetcher;
//! use overseer_fetcher_http::HttpFetcher;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fetcher = HttpFetcher::new("https://releases.example.org/app-{os}-{arch}.gz")
//!     .bearer(std::env::var("RELEASE_TOKEN")?)
//!     .sha256_file(true)
//!     .every(Duration::from_secs(60));
//! fetcher.check()?; // core does this, too
//! # Ok(())
//! # }
//! ```
//!
//! # Settings
//!
//! | setting | unless set | what it does |
//! | --- | --- | --- |
//! | [`new`](HttpFetcher::new) | | the URL, with `{os}` (`linux`), `{arch}` (`x86_64`), `{target}` (`x86_64-unknown-linux-gnu`), `{goos}` (`linux`), `{goarch}` (`amd64`); a user and password in it are basic credentials |
//! | [`every`](HttpFetcher::every) | 5 min | pause between two looks; core adds jitter, and backs off while looks fail |
//! | [`check_headers`](HttpFetcher::check_headers) | `ETag`, `If-Modified-Since`, `Last-Modified`, `Content-Length` | a release is new if any of these headers differs |
//! | [`bearer`](HttpFetcher::bearer), [`basic_auth`](HttpFetcher::basic_auth) | none | credentials |
//! | [`header`](HttpFetcher::header) | none | one more header; its value is treated as a secret |
//! | [`sha256_file`](HttpFetcher::sha256_file) | off | a release must match the `.sha256` file beside it |
//! | [`checksum_file`](HttpFetcher::checksum_file) | none | a release must match this file in its directory: `SHA256SUMS` |
//! | [`file_name`](HttpFetcher::file_name) | of the URL | name of the published file where the URL does not end in it; one `*` for what changes |
//! | [`connect_timeout`](HttpFetcher::connect_timeout) | 10 s | time for a connection, TLS included |
//! | [`head_timeout`](HttpFetcher::head_timeout) | 15 s | time for a whole HEAD request |
//! | [`get_timeout`](HttpFetcher::get_timeout) | 60 s | time for which a GET may bring nothing; no limit for the whole |
//! | [`root_certificate`](HttpFetcher::root_certificate) | none | PEM certificates that are trusted beside the system's |
//! | [`proxy`](HttpFetcher::proxy), [`no_proxy`](HttpFetcher::no_proxy) | environment | `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not |
//!
//! What is wrong with a setting is found by [`check`](overseer_core::Fetcher::check), before anything is started.
//!
//! # What is asked
//!
//! - **A look with nothing new is one HEAD request.** Each request has a connection of its own, HTTP/1.1 or HTTP/2. The headers are those of the list that the server
//!   sends; together they are the tag of the release. A `Content-Length` of 0 does not count, as many servers answer HEAD so.
//! - **Where HEAD is answered by 403, 405 or 501**, or tells none of the headers, a GET follows, with `If-None-Match` and
//!   `If-Modified-Since` of the last release. A server that tells none of the headers at all is an error, as no change could be seen.
//! - **A download that breaks off goes on**, up to four times within a look and again in the next one, by `Range` and `If-Range`. That needs
//!   an `ETag` that is not weak, or without any a `Last-Modified` that was a minute old. If the file changed in between, a look
//!   starts over and never mixes two releases.
//! - **Redirects are followed**, ten at most, but never from `https` to `http`. Credentials and headers of the settings go to the origin
//!   (scheme, host, port) of the URL and to nobody else, and no longer once a redirect has led away from it. A proxy for
//!   `http` sees them, as it sees everything.
//! - **`Accept-Encoding: identity`** is sent, so that lengths, ranges and digests are those of the published file. If the server sends
//!   `Content-Encoding: gzip` all the same, the release is treated as if its name ended in `.gz`; one with a signature or a
//!   checksum file is refused, as those are for the file as published.
//! - **What lies beside a release** is asked for only when there is one: the `.sha256` file or the checksum file of the settings, and, for a
//!   program with trusted keys, the `.minisig` file. While one is missing, the release counts as not yet published: nothing is downloaded, and
//!   the look is [incomplete](overseer_core::Look::incomplete). They lie beside the URL, or, where the name of the release is that of a redirect's end, beside that.
//! - **Digests** in `Repr-Digest` (RFC 9530) and `Digest` (RFC 3230), SHA-256 and SHA-512, are checked by core, as is the `.sha256` file. Servers that
//!   send the first only on request are asked by `.header("Want-Repr-Digest", "sha-256=1")`.
//!
//! # Which certificates are trusted
//!
//! Those of the system, through `rustls-platform-verifier`. On Linux and other Unix systems these are the files where distributions keep them (`/etc/ssl/certs` and
//! its like), or, if set, those that the environment names in `SSL_CERT_FILE` and `SSL_CERT_DIR` instead; on macOS and
//! Windows it is the system's own verifier. They are read at each look, so a new one needs no restart. No roots are compiled in.
//!
//! An image made `FROM scratch` has none. Then `http` works, and a look at `https` fails with
//!
//! ```text
//! cannot check the certificate of https://host/app; this system has no root certificates: install ca-certificates, set SSL_CERT_FILE, or give root_certificate
//! ```
//!
//! With [`root_certificate`](HttpFetcher::root_certificate), those alone are trusted there.
//!
//! # Errors
//!
//! Each names the URL without user, password and query, and none has a secret in it. `..` stands for the URL.
//!
//! | text | kind |
//! | --- | --- |
//! | `.. answered 404 Not Found to HEAD`; likewise any other status, with `asks to come back in 120s` where the server sent `Retry-After` | passing |
//! | `.. answered 401 Unauthorized to HEAD: the credentials that are set were refused`; likewise 403 and 407 | settings |
//! | `.. sent an HTML page instead of a release: its Content-Type is text/html` | passing |
//! | `.. is empty` | passing |
//! | `the transfer of .. ended after 5 of 13 bytes; the server gave no strong ETag to go on with` | passing |
//! | `the transfer of .. stalled, with nothing for 60s, after 5 of 13 bytes; ..` | passing |
//! | `.. changed while it was downloaded: after 5 of 13 bytes "one" became "two"` | passing |
//! | `.. redirects in a loop: .. comes twice`, `.. redirects more than 10 times` | passing |
//! | `.. redirects to http://.., which anybody on the way could change; refused` | settings |
//! | `.. was silent: no answer to HEAD within 15s` | passing |
//! | `cannot connect to .. within 10s` | passing |
//! | `nothing listens at ..: Connection refused (os error 111)` | passing |
//! | `the host of .. cannot be found: ..` | passing |
//! | `the certificate of .. is not trusted: invalid peer certificate: UnknownIssuer` | passing |
//! | `.. tells none of etag, .., so no change can be seen; set check_headers to a header it has` | settings |
//! | `.. redirects to https://host/other.gz: which file must be signed is not for the server to say; set file_name` | settings |
//! | `.. led to https://host/other.gz, which is not named app-*.gz, as file_name says` | settings |
//! | `.. is sent with Content-Encoding gzip, though none was asked for, and its .minisig file is for app as published: ..` | settings |
//! | `...sha256 has no SHA-256 of app in it`, `...minisig is no signature by minisign` | passing |
//!
//! After each of them the service goes on as it was, and the next look succeeds when the server does.

mod beside;
mod body;
mod connect;
mod digest;
mod error;
mod fetcher;
mod look;
mod place;
mod settings;
mod tag;
mod url;

pub use fetcher::HttpFetcher;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The example of the repository's own README, which needs core and a fetcher.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct RepositoryReadme;
