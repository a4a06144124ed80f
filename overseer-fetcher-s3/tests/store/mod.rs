//! Real counterparts: a server of the S3 protocol in this process, which verifies signatures and remembers what it was asked, and somebody who
//! publishes objects to it or to another.

#![allow(dead_code, reason = "each test file uses a part of it")]

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use hyper_util::rt::TokioIo;
use overseer_core::{FetchError, Known};
use overseer_fetcher_s3::S3Fetcher;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) const ACCESS: &str = "AKIDEXAMPLE0000000001";
pub(crate) const SECRET: &str = "s3cret-of-the-tests";
pub(crate) const BUCKET: &str = "releases";

/// s3s-fs on a free port. Lives as long as the value.
pub(crate) struct Embedded {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
    _directory: TempDir,
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
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, seen) = (service.clone(), Arc::clone(&seen));
                let answer = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    seen.lock().expect("no panic").push(format!("{} {}", request.method(), request.uri().path()));
                    hyper::service::Service::call(&service, request)
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { endpoint, asked, runtime: Some(runtime), _directory: directory }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What was asked since the last call, as `HEAD /releases/app`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }

    /// Somebody who publishes to it. What that takes is not remembered.
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
