//! Fetchers written with `async`, on a runtime that core owns.
//!
//! The poll process has one job and one thread for it, so the runtime has one thread too. It lives for one look: it is made
//! when the fetcher is asked, drives the body while core reads it, and ends with it. The time limit of a look is not its
//! business: the whole process is killed.

use super::release::{Body, Found};
use super::{FetchError, Fetcher, Known, Look};
use std::future::Future;
use std::io::{self, Read};
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Runtime;

/// Looks for releases at one source, with `async` code. Every one is a [`Fetcher`] and is given to
/// [`Config::fetcher`](crate::Config::fetcher) as it is; its methods mean what those of [`Fetcher`] mean.
///
/// `fetch` runs on a current-thread tokio runtime with time and I/O enabled. The body of its answer, made by
/// [`Release::streamed`](crate::Release::streamed), is read on the same runtime, and the tasks that `fetch` has spawned run meanwhile. The
/// runtime ends when that body is dropped, and at the end of `fetch` if there is none; nothing waits for `spawn_blocking` work then.
///
/// ```
/// use overseer_core::{AsyncFetcher, FetchError, Known, Look, Release};
/// use tokio::io::{AsyncBufReadExt, BufReader};
/// use tokio::net::TcpStream;
///
/// /// A server that says a line with the tag, and then the release.
/// struct Teller {
///     address: String,
/// }
///
/// impl AsyncFetcher for Teller {
///     fn source(&self) -> String {
///         format!("tcp://{}", self.address)
///     }
///
///     async fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
///         let failed = |error: std::io::Error| FetchError::passing(format!("cannot read from {}: {error}", self.address));
///         let mut stream = BufReader::new(TcpStream::connect(&self.address).await.map_err(failed)?);
///         let mut tag = String::new();
///         stream.read_line(&mut tag).await.map_err(failed)?;
///         if known.is_settled(&tag) {
///             return Ok(Look::unchanged());
///         }
///         Ok(Look::release(Release::streamed(tag, "app", stream)))
///     }
/// }
/// ```
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
        let runtime = OwnRuntime::start()?;
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

/// The runtime of one look.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn start() -> Result<Self, FetchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|error| {
            let text = format!("cannot make a runtime for the fetcher: {error}");
            FetchError::passing(text)
        })
    }
}

impl Deref for OwnRuntime {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A runtime that is simply dropped waits for blocking work, such as a name server that does not answer.
            runtime.shutdown_background();
        }
    }
}

/// A body, and the runtime that drives it.
struct OnRuntime {
    /// `None` only while it is dropped.
    body: Option<Pin<Box<dyn AsyncRead + Send>>>,
    runtime: OwnRuntime,
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

#[cfg(test)]
mod tests {
    use super::super::FetchErrorKind;
    use super::*;
    use crate::Release;
    use crate::binary::testing::PATIENCE;
    use std::sync::mpsc;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncWriteExt, ReadBuf, duplex};
    use tokio::runtime::Handle;
    use tokio::time::{sleep, timeout};

    /// Answers what the function makes of it, inside the runtime.
    struct Asks<M>(Option<M>);

    fn asks<M, L>(make: M) -> Asks<M>
    where
        M: FnOnce() -> L + Send + 'static,
        L: Future<Output = Result<Look, FetchError>> + Send,
    {
        Asks(Some(make))
    }

    impl<M, L> AsyncFetcher for Asks<M>
    where
        M: FnOnce() -> L + Send + 'static,
        L: Future<Output = Result<Look, FetchError>> + Send,
    {
        fn source(&self) -> String {
            "here".to_owned()
        }

        fn interval(&self) -> Duration {
            Duration::from_secs(7)
        }

        async fn fetch(&mut self, _: &Known) -> Result<Look, FetchError> {
            (self.0.take().expect("it is asked once"))().await
        }
    }

    fn release(mut fetcher: impl Fetcher) -> Release {
        fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release")
    }

    fn read(mut release: Release) -> (String, io::Result<usize>) {
        let mut bytes = Vec::new();
        let end = release.body().read_to_end(&mut bytes);
        (String::from_utf8(bytes).expect("text"), end)
    }

    #[test]
    fn what_an_async_fetcher_says_of_itself_is_passed_on() {
        let fetcher = asks(async || Ok(Look::unchanged()));
        let fetcher: &dyn Fetcher = &fetcher;
        assert_eq!((fetcher.source().as_str(), fetcher.interval()), ("here", Duration::from_secs(7)));
        fetcher.check().expect("the default");
    }

    #[test]
    fn tasks_that_the_fetcher_has_spawned_run_while_the_body_is_read() {
        let fetcher = asks(async || {
            // Too small for the body: the task goes on only while somebody reads.
            let (mut writer, body) = duplex(8);
            tokio::spawn(async move {
                for number in 0..1000 {
                    writer.write_all(format!("{number} ").as_bytes()).await.expect("read");
                }
            });
            Ok(Look::release(Release::streamed("one", "app", body)))
        });
        let (text, end) = read(release(fetcher));
        end.expect("whole");
        assert_eq!(text.split_whitespace().count(), 1000);
        assert!(text.ends_with(" 998 999 "), "{text}");
    }

    #[test]
    fn timers_run_in_fetch_and_while_the_body_is_read() {
        let fetcher = asks(async || {
            timeout(Duration::from_millis(1), std::future::pending::<()>()).await.expect_err("it is never ready");
            let (mut writer, body) = duplex(8);
            tokio::spawn(async move {
                sleep(Duration::from_millis(1)).await;
                writer.write_all(b"late").await.expect("read");
            });
            Ok(Look::release(Release::streamed("one", "app", body)))
        });
        let (text, end) = read(release(fetcher));
        assert_eq!((text.as_str(), end.expect("whole")), ("late", 4));
    }

    /// A body that tells of its end.
    struct Body {
        error: Option<io::Error>,
        dropped: mpsc::Sender<bool>,
    }

    impl AsyncRead for Body {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.error.take().map_or(Ok(()), Err))
        }
    }

    impl Drop for Body {
        fn drop(&mut self) {
            let _ = self.dropped.send(Handle::try_current().is_ok());
        }
    }

    #[test]
    fn an_error_of_the_body_keeps_what_the_fetcher_has_wrapped() {
        let own = FetchError::settings("the token has run out");
        let error = io::Error::other(own.clone());
        let (dropped, _listens) = mpsc::channel();
        let body = Body { error: Some(error), dropped };
        let (_, end) = read(release(asks(async || Ok(Look::release(Release::streamed("one", "app", body))))));
        assert_eq!(end.expect_err("it fails").downcast::<FetchError>().expect("the fetcher's own"), own);
    }

    #[test]
    fn a_body_is_dropped_inside_its_runtime_before_the_runtime_ends() {
        let (dropped, hears) = mpsc::channel();
        let body = Body { error: None, dropped };
        let (ended, hears_end) = mpsc::channel::<()>();
        let fetcher = asks(async || {
            tokio::spawn(async move {
                let _ended = ended;
                std::future::pending::<()>().await;
            });
            Ok(Look::release(Release::streamed("one", "app", body)))
        });
        let release = release(fetcher);
        assert_eq!(hears_end.try_recv(), Err(mpsc::TryRecvError::Empty), "the task lives as long as the body");
        drop(release);
        assert_eq!(hears.try_recv(), Ok(true), "it was dropped outside of its runtime");
        assert_eq!(hears_end.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected), "the task ends with the runtime");
    }

    #[test]
    fn a_blocking_body_of_an_async_fetcher_is_read_as_it_is() {
        let fetcher = asks(async || Ok(Look::release(Release::new("one", "app", &b"blocking"[..])).remember("a memo")));
        let (text, end) = read(release(fetcher));
        assert_eq!((text.as_str(), end.expect("whole")), ("blocking", 8));
    }

    #[test]
    fn an_error_of_fetch_is_passed_on() {
        let own = FetchError::settings("no such bucket").retry_after(Duration::from_secs(9));
        let error = own.clone();
        let said = asks(async || Err(error)).fetch_blocking().expect_err("it fails");
        assert_eq!((said.kind(), &said), (FetchErrorKind::Settings, &own));
    }

    #[test]
    fn blocking_work_that_does_not_end_holds_nobody_up() {
        let (release, held) = mpsc::channel::<()>();
        let fetcher = asks(async move || {
            // As a name server does that does not answer.
            let (started, has_started) = mpsc::channel();
            tokio::task::spawn_blocking(move || {
                let _ = started.send(());
                let _ = held.recv();
            });
            has_started.recv_timeout(PATIENCE).expect("it has started");
            Err(FetchError::passing("the host cannot be found"))
        });
        let (answered, answer) = mpsc::channel();
        std::thread::spawn(move || answered.send(fetcher.fetch_blocking()));
        let answer = answer.recv_timeout(PATIENCE);
        drop(release);
        assert!(matches!(answer, Ok(Err(_))), "{answer:?}");
    }

    impl<M, L> Asks<M>
    where
        M: FnOnce() -> L + Send + 'static,
        L: Future<Output = Result<Look, FetchError>> + Send,
    {
        /// As core does.
        fn fetch_blocking(mut self) -> Result<Look, FetchError> {
            Fetcher::fetch(&mut self, &Known::nothing())
        }
    }
}
