//! `local_s3 DIRECTORY`: a server of the S3 protocol on a free port, for the demo. A bucket is a directory in that one, an object a file in it.
//!
//! Requests must be signed with the keys of the environment. It writes its address and then a line for each request, as `GET /bucket/key`.
//! It is a program of its own so that nobody who runs the demo over HTTP has to wait until its crates are built.

use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::env;
use std::error::Error;
use std::process::ExitCode;
use tokio::net::TcpListener;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("local_s3: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    let directory = env::args().nth(1).ok_or("the directory of the buckets is missing")?;
    let files = FileSystem::new(&directory).map_err(|error| format!("cannot serve {directory}: {error:?}"))?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(env::var("AWS_ACCESS_KEY_ID")?, env::var("AWS_SECRET_ACCESS_KEY")?));
    let service = service.build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            let (connection, _) = listener.accept().await?;
            let service = service.clone();
            let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                println!("{} {}", request.method(), request.uri().path());
                Service::call(&service, request)
            });
            // A client that hangs up is its own affair.
            tokio::spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(connection), answer).await) });
        }
    })
}
