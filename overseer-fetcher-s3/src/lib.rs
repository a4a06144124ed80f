//! Fetches releases for overseer from a bucket of S3, or of a server that speaks its protocol: MinIO, R2, Garage, Ceph, SeaweedFS.
//!
//! A look is one HEAD request. If it tells the ETag and version of a release that is installed or rejected, that is all; else one
//! GET streams the object to core, which proves, unpacks and installs it.
//!
//! ```no_run
//! use overseer_core::Fetcher;
//! use overseer_fetcher_s3::S3Fetcher;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fetcher = S3Fetcher::new("my-releases", "app/app-{os}-{arch}.gz")
//!     .region("eu-west-1")
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
//! | [`new`](S3Fetcher::new) | | bucket and key; in the key `{os}` (`linux`), `{arch}` (`x86_64`) and `{target}` (`x86_64-unknown-linux-gnu`, with `gnu` or `musl` as the program was built) |
//! | [`version_id`](S3Fetcher::version_id) | the newest | the only version of the object that is taken |
//! | [`region`](S3Fetcher::region) | from the environment | region of the bucket |
//! | [`endpoint`](S3Fetcher::endpoint) | Amazon's | another server; also by `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL` |
//! | [`path_style`](S3Fetcher::path_style) | with an endpoint | the bucket is in the path and not in the host name |
//! | [`credentials`](S3Fetcher::credentials) | from the environment | access key, secret key and session token |
//! | [`head_timeout`](S3Fetcher::head_timeout) | 5 s | time for a whole HEAD request |
//! | [`get_timeout`](S3Fetcher::get_timeout) | 5 min | time for the download within one look; nothing for a fifth of it is a stall |
//! | [`every`](S3Fetcher::every) | 5 min | pause between two looks; core adds jitter, and backs off while looks fail |
//! | [`sha256_file`](S3Fetcher::sha256_file) | off | a release must match the `.sha256` object beside it |
//! | [`root_certificate`](S3Fetcher::root_certificate) | none | PEM certificates that are trusted beside the system's |
//!
//! What is wrong with a setting is found by [`check`](overseer_core::AsyncFetcher::check), before anything is started.
//!
//! # Credentials
//!
//! The first of these that there are:
//!
//! 1. those of [`credentials`](S3Fetcher::credentials);
//! 2. `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or `AWS_ACCESS_KEY` and `AWS_SECRET_KEY`, with `AWS_SESSION_TOKEN` if they are temporary;
//! 3. the profile that `AWS_PROFILE` names, in `~/.aws/config` and `~/.aws/credentials`: keys, roles, processes, and with the feature `sso` those
//!    of `aws sso login`;
//! 4. a web identity, as Kubernetes hands it out;
//! 5. the container's, then the instance's service.
//!
//! They are looked up for each look, within 30 s, so renewed ones need no restart. The region is that of [`region`](S3Fetcher::region), `AWS_REGION`,
//! `AWS_DEFAULT_REGION` or the profile; then, with an endpoint, `us-east-1`, and without one that of the instance, which has 3 s to answer.
//! Needed are `s3:GetObject`, with a version set `s3:GetObjectVersion`, and `s3:ListBucket` if a missing key is to be told from a forbidden one.
//!
//! # What is asked
//!
//! - **A look with nothing new is one HEAD request.** The tag is ETag and version together.
//! - **The running binary is not downloaded**, also when nothing is remembered: an ETag that is the MD5 of the object is compared with the binary's, if
//!   the sizes agree. The ETag of an upload in parts (`...-3`), and of an object encrypted with SSE-KMS or SSE-C, is no MD5 and not taken for one.
//! - **GET is asked with `If-Match`**, so an object that is replaced after HEAD is an error that passes and never a mix.
//! - **A download that breaks off or stalls goes on**, up to four times within a look and again in the next one, by `Range` and `If-Match`.
//! - **Checksums that the object carries** are checked: SHA-1, SHA-256 and SHA-512 by core, CRC-32, CRC-32C and CRC-64/NVME here. Those of an
//!   upload in parts (`COMPOSITE`) say nothing of the whole and are passed over. A CRC cannot be checked of a download that took
//!   several looks, since only core has its beginning; use SHA-256 or [`sha256_file`](S3Fetcher::sha256_file) for what matters.
//! - **The SDK retries nothing** and follows no redirect. A refused HEAD that could mean several things (400, 403, 404) is followed by a GET
//!   of one byte, whose refusal has a text.
//! - **A `.minisig` object** beside the release is fetched when the program has trusted keys, and the `.sha256` object when it is wanted. While one is
//!   missing, the look is [incomplete](overseer_core::Look::incomplete). They are the newest ones, also where a version is set.
//! - **`Content-Encoding: gzip`** of an object makes core treat it as if its name ended in `.gz`.
//!
//! # Certificates and proxies
//!
//! Those of the system are trusted, or those that the environment names in `SSL_CERT_FILE` and `SSL_CERT_DIR`, and what
//! [`root_certificate`](S3Fetcher::root_certificate) adds. Without any, `https` fails with an error that says what to do.
//! `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` count, in capitals or not. On an instance or in a container, put `169.254.169.254` and
//! `169.254.170.2` into `NO_PROXY`, or credentials are asked for through the proxy.
//!
//! # Errors
//!
//! Each begins with the object, `s3://bucket/key`, and the host of an endpoint. None has a secret in it: not the secret key, not the session
//! token, no signature, also not where a server repeats them. `..` stands for the object, `@` for `S3 in eu-west-1` or the host of the endpoint.
//!
//! | text | kind |
//! | --- | --- |
//! | `.. answered 403 to GET (InvalidAccessKeyId): @ does not know the access key given with credentials` | settings |
//! | `.. answered 403 to GET (SignatureDoesNotMatch): the secret key of the environment does not belong to its access key` | settings |
//! | `.. answered 400 to GET (ExpiredToken): the session token of the environment has expired` | settings |
//! | `no credentials for ..: none in credentials, in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ..` | settings |
//! | `no region for ..: none is set by region, AWS_REGION, AWS_DEFAULT_REGION or the profile, ..` | settings |
//! | `.. answered 301 to HEAD: the bucket releases is in the region eu-west-1, and us-east-1 was asked; set region to eu-west-1` | settings |
//! | `.. answered 404 to GET (NoSuchBucket): there is no bucket releases at @` | settings |
//! | `.. answered 404 to GET (NoSuchKey): there is no such key in the bucket` | passing |
//! | `.. answered 404 to HEAD: it was deleted: its newest version is a delete marker` | passing |
//! | `.. answered 403 to GET (AccessDenied): the credentials of .. may not read it (s3:GetObject), or it is missing, ..` | settings |
//! | `.. answered 403 to HEAD, but gives the object to GET; HEAD must be allowed, too` | settings |
//! | `.. answered 403 to HEAD: the clocks differ by more than the allowed 15 min: here it is .., there ..; set the clock of this machine` | settings |
//! | `.. answered 503 to HEAD: @ asks for fewer requests; looked at again in 60s at the earliest` | passing |
//! | `.. answered 412 to GET (PreconditionFailed): it was replaced since HEAD told of it` | passing |
//! | `the transfer of .. ended after 5 of 13 bytes; 4 attempts to go on were not enough` | passing |
//! | `the transfer of .. stalled, with nothing for 60s, after 5 of 13 bytes; ..` | passing |
//! | `the transfer of .. was stopped after 5 of 13 bytes, since 300s were over (get_timeout); the next look goes on there` | passing |
//! | `what came of .. is damaged: its crc32 is 1 instead of 2; it is fetched anew` | passing |
//! | `..: @ was silent: no answer to HEAD within 5s` | passing |
//! | `..: nothing listens at @: Connection refused (os error 111)` | passing |
//! | `..: the host of @ cannot be found: ..`, `..: the certificate of @ is not trusted: ..` | passing |
//!
//! After each of them the service goes on as it was, and the next look succeeds when the bucket can be read again.
//!
//! # Features
//!
//! - `sso`: credentials of `aws sso login` in a profile. Off by default, since it brings two more SDK crates.

mod body;
mod checksum;
mod connect;
mod error;
mod fetcher;
mod look;
mod settings;
mod tag;

pub use fetcher::S3Fetcher;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
