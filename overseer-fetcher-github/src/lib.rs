//! The place of the GitHub fetcher for [overseer](https://docs.rs/overseer-core). **There is nothing in it yet**: the
//! fetcher comes with a later release. Until then, the stable `releases/latest/download/NAME` URL of a public repository
//! can be fetched with `overseer-fetcher-http`, and `overseer_core::fetcher_fn` takes any code of your own.
