//! Fetches releases for overseer from GitHub and GitHub Enterprise.
//!
//! A program that is published as the file of a GitHub release needs no more than the names of its owner and its repository. A look is one request
//! that GitHub answers with 304 and no body while nothing has changed; else the file is streamed to core, which proves, unpacks and installs it.
//!
//! ```no_run
//! use overseer_core::Fetcher;
//! use overseer_fetcher_github::GitHubFetcher;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fetcher = GitHubFetcher::new("example", "app")
//!     .asset_pattern("app-{version}-{os}-{arch}.tar.gz")
//!     .every(Duration::from_secs(10 * 60));
//! fetcher.check()?; // core does this, too
//! # Ok(())
//! # }
//! ```
//!
//! # Settings
//!
//! | setting | unless set | what it does |
//! | --- | --- | --- |
//! | [`new`](GitHubFetcher::new) | | owner and repository |
//! | [`latest`](GitHubFetcher::latest), [`tag`](GitHubFetcher::tag), [`pre_releases`](GitHubFetcher::pre_releases) | latest | which release: what GitHub calls the latest, that of a tag, or the newest one including pre-releases |
//! | [`asset`](GitHubFetcher::asset), [`asset_pattern`](GitHubFetcher::asset_pattern), [`asset_by`](GitHubFetcher::asset_by) | the one that names this system | which file of it; see [below](#which-file) |
//! | [`token`](GitHubFetcher::token), [`no_token`](GitHubFetcher::no_token) | `GITHUB_TOKEN`, then `GH_TOKEN` | for private repositories, and for 5000 requests an hour instead of 60 |
//! | [`base_url`](GitHubFetcher::base_url) | `https://api.github.com` | `https://HOST/api/v3` of an Enterprise server, `https://api.NAME.ghe.com` |
//! | [`sha256_file`](GitHubFetcher::sha256_file) | off | a release must match a checksum file in it |
//! | [`every`](GitHubFetcher::every) | 5 min | pause between two looks; core adds jitter, and backs off while looks fail |
//! | [`connect_timeout`](GitHubFetcher::connect_timeout) | 10 s | time for a connection, TLS included |
//! | [`api_timeout`](GitHubFetcher::api_timeout) | 30 s | time for a whole question to the API |
//! | [`get_timeout`](GitHubFetcher::get_timeout) | 60 s | time for which a download may bring nothing; no limit for the whole |
//! | [`root_certificate`](GitHubFetcher::root_certificate) | none | PEM certificates that are trusted beside the system's |
//! | [`proxy`](GitHubFetcher::proxy), [`no_proxy`](GitHubFetcher::no_proxy) | environment | `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not |
//!
//! What is wrong with a setting is found by [`check`](overseer_core::Fetcher::check), before anything is started.
//!
//! # Which file
//!
//! Unless set, the one file of the release whose name has a name of this system and one of this processor in it, as whole words, in capitals or not,
//! and none of another:
//!
//! | | names |
//! | --- | --- |
//! | Linux | `linux` |
//! | macOS | `darwin`, `macos`, `apple`, `osx`, `mac`; for the processor also `universal`, `universal2`, `all` |
//! | x86-64 | `x86_64`, `x86-64`, `amd64`, `x64`, and `linux64` for both |
//! | 64-bit ARM | `aarch64`, `arm64`, `armv8`, `arm64v8` |
//! | other | what Rust calls them, and the usual short forms |
//!
//! A file that names the C library (`gnu`, `musl`) must name that of the running program, and goes before one that names none. Files with checksums,
//! signatures, descriptions, sources, debug symbols and packages of other installers (`.deb`, `.rpm`, `.dmg`, `.msi`, `.exe`, `.sh`, ..) are left out,
//! and so are archives that core does not unpack (`.xz`, `.bz2`, `.7z`). No file, or several, is an error that lists them; then
//! [`asset`](GitHubFetcher::asset), [`asset_pattern`](GitHubFetcher::asset_pattern) or [`asset_by`](GitHubFetcher::asset_by) say which is meant.
//!
//! For a program with trusted keys the file must be named after the program or after its repository, apart from system, version and packing: a signature
//! holds for a name, and whoever owns the repository must not choose which of your signed programs this one becomes. A file that is called otherwise is named
//! with one of these settings. With `asset_by` that is up to the closure.
//!
//! In a pattern `{os}` and `{arch}` stand for each of the names above, `{target}` for the target triple of the program, and `{version}` for the tag
//! of the release: of `v1.2.3` also `1.2.3`.
//!
//! # What is asked
//!
//! - **A look with nothing new is one GET that is answered 304**, without a body. For the latest release it asks by `If-Modified-Since`, as its
//!   ETag changes with every download of one of its files. That time is the one of the last edit of the release; another file in it need not move it. So
//!   every six hours the whole answer is asked for, and a file or signature that was replaced in the latest release is found by then, or with the next look
//!   after somebody has edited the release, or when the release is to be tried again. A release of its own for each version is better.
//! - **A [`tag`](GitHubFetcher::tag) and [`pre_releases`](GitHubFetcher::pre_releases) ask by ETag**: a list has nothing else, and a tag that is
//!   followed is one whose files change. This is exact, but while files of the release are downloaded, each look gets the whole answer, which
//!   counts against the rate limit.
//! - **The tag of a release for core** is the ID of its file and the digest that GitHub tells of it; where it tells none (files from before 2025), the ID, the time
//!   of the upload and the size; with the same of the signature where one is wanted. Another file under the same name is another release.
//! - **The newest** with pre-releases is the one with the newest commit, as for GitHub's own latest one, so a fix of an older branch does not come
//!   after it. Ten releases are looked at.
//! - **Half-published releases are waited for**, without a download and without an error: a draft; for 15 minutes from the publication of the
//!   release (by the clock of the server) a file that is not there, and from its own upload one that is not whole or has no digest. A wanted signature (`NAME.minisig`) and a required checksum file are waited
//!   for however long it takes.
//! - **A yanked release** is not gone back from: if the release that was installed (or rejected) last is gone and the one that is offered in its place is older,
//!   and was neither published nor edited after it, that one is not taken, which a warning says. To go back, edit the older release or set it as the latest.
//! - **The token goes to the API and to nobody else**: to addresses with the scheme, the host, the port and the path of `base_url`. Storage hosts, to which GitHub
//!   redirects for a file, do not get it, and once a chain of redirects has left the API nobody does. `https` never leads to `http`. A repository that was
//!   renamed is found through GitHub's redirect, with a warning, since somebody else may take the old name.
//! - **Without a token GitHub answers 60 requests an hour** from one address, 304s included; with one it is 5000 (and 304s are free). An interval under a
//!   minute without a token is warned about at each look that asks for a whole answer.
//! - **A download that breaks off goes on**, up to four times within a look and again in the next one, each time at a fresh address.
//! - **Digests**: GitHub's own is checked by core. A checksum file (`NAME.sha256`, `SHA256SUMS`, `checksums.txt`, ..) in the release is used where GitHub tells
//!   none, and always where it is required.
//! - **Answers are bounded**: 32 MiB of JSON, 256 KiB of a checksum file.
//!
//! # Which certificates are trusted
//!
//! Those of the system, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, exactly as with `overseer-fetcher-http`, whose client this is: octocrab is given
//! a reqwest client, with rustls. No roots are compiled in. An image without any fails with a text that says what to do.
//!
//! # Errors
//!
//! Each names the address without user, password and query, and none has a secret in it. `..` stands for `https://api.github.com/repos/example/app/releases/latest`,
//! and what GitHub itself says follows in quotes.
//!
//! | text | kind |
//! | --- | --- |
//! | `.. answered 401 Unauthorized: the token of GITHUB_TOKEN was refused ("Bad credentials")` | settings |
//! | `.. answered 403 Forbidden: the token of the settings does not have the right to read releases`; also `is not authorised for the single sign-on of this organisation` | settings |
//! | `.. answered 403 Forbidden: the rate limit of 60 requests an hour for requests without a token from this address is used up, asks to come back in 1234s` | passing, with that pause |
//! | `.. answered 403 Forbidden: the secondary rate limit, against too many requests in a short time, holds, asks to come back in 60s`; likewise 429 | passing, with that pause |
//! | `.. answered 404 Not Found: example/app has no release that is neither a draft nor a pre-release, or it does not exist, or it is private, which needs a token, and none is set` | settings |
//! | `.. answered 404 Not Found: the file was replaced or taken away since its release was told of` | passing |
//! | `.. answered 503 Service Unavailable`; likewise any other status, with `Retry-After` | passing |
//! | `the answer of .. tells of no release: expected value at line 1 column 1` | passing |
//! | `v1.2 of example/app has no file that names this system (linux, x86_64/amd64/x64, x86_64-unknown-linux-gnu); it has app-darwin-arm64` | settings |
//! | `v1.2 of example/app has several files for this program: a, b; choose one with asset, asset_pattern or asset_by` | settings |
//! | `other-linux-amd64 of v1.2 of example/app is named neither after this program (app) nor after its repository, and may be another one that is signed with the same key; if it is the right one, say so with asset or asset_pattern` | settings |
//! | `the answer of .. has the token of this program in it, and is not read` | passing |
//! | `app-linux of v1.2 of example/app is not uploaded yet (its state is open), 15 min after it began; its upload has failed` | bad release |
//! | `the transfer of app-linux of v1.2 from https://release-assets.githubusercontent.com/.. ended after 5 of 13 bytes; 4 attempts to go on were not enough` | passing |
//! | `.. was silent: no answer within 30s`; `cannot connect to .. within 10s`; `nothing listens at ..`; `the host of .. cannot be found: ..` | passing |
//! | `the certificate of .. is not trusted: invalid peer certificate: UnknownIssuer` | passing |
//!
//! After each of them the service goes on as it was, and the next look succeeds when GitHub does.

mod api;
mod asset;
mod body;
mod choose;
mod error;
mod fetcher;
mod look;
mod memo;
mod settings;
mod system;
mod url;

pub use asset::Asset;
pub use fetcher::GitHubFetcher;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
