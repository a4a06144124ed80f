//! A bucket of S3: a server that checks each request's signature, in a process of its own.

use super::build::{self, Build};
use super::folder::Folder;
use super::process::Process;
use super::scene::PATIENCE;
use super::source::Source;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const BUCKET: &str = "releases";
const KEYS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "AKIDOFTHEDEMO0000001"), ("AWS_SECRET_ACCESS_KEY", "secret-of-the-demo"), ("AWS_REGION", "us-east-1")];

pub(crate) struct Bucket {
    server: Process,
    address: SocketAddr,
    /// The object.
    path: PathBuf,
    /// The ID of each build that was published, and how many requests had come by then.
    published: Mutex<Vec<(String, usize)>>,
}

impl Bucket {
    /// Builds and starts the server, with an empty bucket in `directory`.
    pub(crate) fn start(directory: &Path) -> Result<Self, String> {
        let path = directory.join(BUCKET);
        fs::create_dir(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        let mut command = Command::new(build::local_s3()?);
        let server = Process::start("the server of the bucket", command.arg(directory).envs(KEYS))?;
        let address =
            server.wait_for(&mut 0, "its address", PATIENCE, |line| line.text.strip_prefix("listening on ").map(str::to_owned))?;
        let address = address.parse().map_err(|error| format!("the server of the bucket listens on {address:?}: {error}"))?;
        Ok(Self { server, address, path: path.join("app"), published: Mutex::default() })
    }
}

impl Source for Bucket {
    fn tell(&self, command: &mut Command) {
        command.args(["--fetch", &format!("s3://{BUCKET}/app")]).envs(KEYS).env("AWS_ENDPOINT_URL", format!("http://{}", self.address));
    }

    fn publish(&self, build: &Build, signature: Option<&str>) -> Result<Instant, String> {
        let requests = self.server.lines().len();
        self.published.lock().unwrap_or_else(PoisonError::into_inner).push((build.id.clone(), requests));
        Folder::put(&self.path, build, signature)
    }

    /// How often the object was asked for while it was this build.
    fn downloads(&self, build: &Build) -> Option<usize> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = self.server.lines();
        let ends = published.iter().skip(1).map(|(_, requests)| *requests).chain([lines.len()]);
        let asked = published.iter().zip(ends).filter(|((id, _), _)| *id == build.id).flat_map(|((_, from), to)| &lines[*from..to]);
        Some(asked.filter(|line| line.text == format!("GET /{BUCKET}/app")).count())
    }
}
