//! Fetchers written with `async`, on a runtime that core owns.
//!
//! The poll process has one job and one thread for it, so the runtime has one thread too. It lives for one look: it is made
//! when the fetcher is asked, drives the body while core reads it, and ends with it. The time limit of a look is not its
//! business: the whole process is killed.

use super::release::{Body, Found};
use super::{FetchError, Fetcher, Known, Look};
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Runtime;

/// Looks for releases at one source, with `async` code. Every one is a [`Fetcher`] and is given to
/// [`Config::fetcher`](crate::Config::fetcher) as it is; its methods mean what those of [`Fetcher`] mean.
///
/// `fetch` runs on a current-thread tokio runtime with time and I/O enabled. The body of its answer, made by
/// [`Release::streamed`](crate::Release::streamed), is read on the same runtime, and so are the tasks that `fetch` has spawned.
pub trait AsyncFetcher: Send + 'static {
    /// See [`Fetcher::source`].
    fn source(&self) -> String;

    /// See [`Fetcher::check`].
    ///
    /// # Errors
    /// [`FetchError::settings`], with the name of the setting and its value.
    fn check(&self) -> Result<(), FetchError> {
        Ok(())
    }

    /// See [`Fetcher::interval`].
    fn interval(&self) -> Duration {
        super::DEFAULT_INTERVAL
    }

    /// See [`Fetcher::fetch`].
    ///
    /// # Errors
    /// See [`FetchError`].
    fn fetch(&mut self, known: &Known) -> impl Future<Output = Result<Look, FetchError>> + Send;
}

impl<F: AsyncFetcher> Fetcher for F {
    fn source(&self) -> String {
        AsyncFetcher::source(self)
    }

    fn check(&self) -> Result<(), FetchError> {
        AsyncFetcher::check(self)
    }

    fn interval(&self) -> Duration {
        AsyncFetcher::interval(self)
    }

    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| FetchError::passing(format!("cannot make a runtime for the fetcher: {error}")))?;
        let mut look = runtime.block_on(AsyncFetcher::fetch(self, known))?;
        if let Found::Release(release) = &mut look.found {
            let body = std::mem::replace(&mut release.body, Body::Blocking(Box::new(io::empty())));
            release.body = match body {
                Body::Async(body) => Body::Blocking(Box::new(OnRuntime { body: Some(body), runtime })),
                body @ Body::Blocking(_) => body,
            };
        }
        Ok(look)
    }
}

/// A body, and the runtime that drives it.
struct OnRuntime {
    /// `None` only while it is dropped.
    body: Option<Pin<Box<dyn AsyncRead + Send>>>,
    runtime: Runtime,
}

impl Read for OnRuntime {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(body) = &mut self.body else { return Ok(0) };
        self.runtime.block_on(body.read(buffer))
    }
}

impl Drop for OnRuntime {
    fn drop(&mut self) {
        // What a body does when it is dropped may need its runtime.
        let _inside = self.runtime.enter();
        self.body = None;
    }
}
