//! The place of the S3 fetcher for [overseer](https://docs.rs/overseer-core). **There is nothing in it yet**: the fetcher
//! comes with a later release. Until then, an object that is public or has a presigned URL can be fetched with
//! `overseer-fetcher-http`, and `overseer_core::fetcher_fn` takes any code of your own.
