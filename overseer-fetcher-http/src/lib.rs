//! HTTP fetcher.
