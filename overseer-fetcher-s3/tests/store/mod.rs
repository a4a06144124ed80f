//! Real counterparts: a server of the S3 protocol in this process, which verifies signatures and remembers what it was asked, and somebody who
//! publishes objects to it or to another.

#![allow(dead_code, reason = "each test file uses a part of it")]

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use overseer_core::conformance::Trouble;
use overseer_core::{FetchError, Known};
use overseer_fetcher_s3::S3Fetcher;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

type StdError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) const ACCESS: &str = "AKIDEXAMPLE0000000001";
pub(crate) const SECRET: &str = "s3cret-of-the-tests";
pub(crate) const BUCKET: &str = "releases";

/// s3s-fs on a free port. Lives as long as the value.
pub(crate) struct Embedded {
    endpoint: String,
    played: Arc<Played>,
    runtime: Option<Runtime>,
    _directory: TempDir,
}

/// What the server has seen, and what is wrong with it.
#[derive(Default)]
struct Played {
    asked: Mutex<Vec<String>>,
    looked: AtomicU64,
    sent_bytes: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
    connections: Mutex<Vec<AbortHandle>>,
}

impl Embedded {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("a bucket");
        let service = {
            let mut builder = S3ServiceBuilder::new(FileSystem::new(directory.path()).expect("a file system"));
            builder.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
            builder.build()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let played = Arc::<Played>::default();
        let server = Arc::clone(&played);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, played) = (service.clone(), Arc::clone(&server));
                let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&played), request));
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                server.connections.lock().expect("no panic").push(tokio::spawn(connection).abort_handle());
            }
        });
        Self { endpoint, played, runtime: Some(runtime), _directory: directory }
    }

    /// Brings a trouble about, or ends it and every connection with it.
    pub(crate) fn suffer(&self, trouble: Option<Trouble>) {
        let ends = trouble.is_none();
        let before = std::mem::replace(&mut *self.played.trouble.lock().expect("no panic"), trouble);
        if ends && before.is_some() {
            self.played.connections.lock().expect("no panic").drain(..).for_each(|connection| connection.abort());
        }
    }

    /// How many times it was looked at: each HEAD and GET.
    pub(crate) fn looked(&self) -> u64 {
        self.played.looked.load(Ordering::SeqCst)
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.played.sent_bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What was asked since the last call, as `HEAD /releases/app`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.played.asked.lock().expect("no panic"))
    }

    /// Publishes an object. What that takes is not among what was asked.
    pub(crate) fn publish(&self, key: &str, bytes: &[u8]) {
        self.publish_with(key, bytes, |put| put);
    }

    pub(crate) fn publish_with(&self, key: &str, bytes: &[u8], how: impl FnOnce(PutObjectFluentBuilder) -> PutObjectFluentBuilder) {
        Publisher::new(&self.endpoint, ACCESS, SECRET).put(BUCKET, key, bytes, how);
        self.asked();
    }

    pub(crate) fn fetcher(&self, key: &str) -> S3Fetcher {
        S3Fetcher::new(BUCKET, key).region("us-east-1").endpoint(&self.endpoint).credentials(ACCESS, SECRET, None)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(service: S3Service, played: Arc<Played>, request: Request<Incoming>) -> Result<Response<Troubled>, StdError> {
    played.asked.lock().expect("no panic").push(format!("{} {}", request.method(), request.uri().path()));
    let is_look = request.method() == Method::HEAD || request.method() == Method::GET;
    let is_get = request.method() == Method::GET;
    let trouble = *played.trouble.lock().expect("no panic");
    if is_look {
        played.looked.fetch_add(1, Ordering::SeqCst);
        match trouble {
            Some(Trouble::Down) => return Err("the server is down".into()),
            Some(Trouble::Denied) => {
                let body = s3s::Body::from("<Error><Code>AccessDenied</Code></Error>".to_owned());
                let body = Troubled { body, left: None, played: None };
                return Ok(Response::builder().status(403).body(body).expect("an answer"));
            }
            _ => {}
        }
    }
    let answer = Service::call(&service, request).await.map_err(StdError::from)?;
    let left = match trouble {
        Some(Trouble::Truncated { after_bytes }) if is_get => Some((after_bytes, Then::Break)),
        Some(Trouble::Stalled { after_bytes }) if is_get => Some((after_bytes, Then::Stall)),
        _ => None,
    };
    Ok(answer.map(|body| Troubled { body, left, played: is_get.then_some(played) }))
}

#[derive(Clone, Copy)]
enum Then {
    Break,
    Stall,
}

/// A body that may end early, or never.
struct Troubled {
    body: s3s::Body,
    left: Option<(u64, Then)>,
    /// Where its bytes are counted.
    played: Option<Arc<Played>>,
}

impl hyper::body::Body for Troubled {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        match this.left {
            Some((0, Then::Break)) => return Poll::Ready(Some(Err("the connection breaks".into()))),
            // Until the connection is ended from outside.
            Some((0, Then::Stall)) => return Poll::Pending,
            _ => {}
        }
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.to_string().into()))),
            None => return Poll::Ready(None),
        };
        let mut bytes = frame.into_data().unwrap_or_default();
        if let Some((left, _)) = &mut this.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        if let Some(played) = &this.played {
            played.sent_bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// A client that writes.
pub(crate) struct Publisher {
    runtime: Runtime,
    pub(crate) client: Client,
}

impl Publisher {
    pub(crate) fn new(endpoint: &str, access: &str, secret: &str) -> Self {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(access, secret, None, None, "tests"))
            .endpoint_url(endpoint)
            .force_path_style(true)
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, client: Client::from_conf(config) }
    }

    pub(crate) fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        how: impl FnOnce(PutObjectFluentBuilder) -> PutObjectFluentBuilder,
    ) -> PutObjectOutput {
        let put = self.client.put_object().bucket(bucket).key(key).body(bytes.to_vec().into());
        self.wait(how(put).send()).expect("published")
    }

    pub(crate) fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }
}

/// What core tells of a running binary, of which it knows nothing else.
pub(crate) fn running(path: &Path, id: &str) -> Known {
    let size = std::fs::metadata(path).expect("a binary").len();
    serde_json::from_value(serde_json::json!({ "id": id, "path": path, "size_bytes": size })).expect("what core writes")
}

/// The bytes of a release, and how its body ended.
pub(crate) fn read(release: &mut overseer_core::Release) -> (Vec<u8>, Result<(), FetchError>) {
    let mut bytes = Vec::new();
    let end = std::io::Read::read_to_end(release.body(), &mut bytes);
    (bytes, end.map(drop).map_err(|error| error.downcast::<FetchError>().expect("an error of the fetcher")))
}
