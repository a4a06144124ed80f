//! GitHub, as far as a fetcher of releases sees it: an API that wants a token and answers by the time of the last change, and a storage
//! elsewhere that refuses everybody who sends that token on.

use super::build::Build;
use super::http::{self, Request, http_date, json_date};
use super::source::Source;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::env::consts::{ARCH, OS};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const REPOSITORY: &str = "overseer/app";
const TOKEN: &str = "token-of-the-demo";

pub(crate) struct GitHub {
    api: SocketAddr,
    /// The name of the file, with this system in it, as the fetcher looks for it unless told otherwise.
    file_name: String,
    releases: Arc<Mutex<Releases>>,
}

/// All that were published, the latest one last.
#[derive(Default)]
struct Releases(Vec<Published>);

struct Published {
    changed: SystemTime,
    files: Vec<Asset>,
    /// The ID of the build.
    id: String,
}

/// A file of a release.
#[derive(Clone)]
struct Asset {
    name: String,
    /// Where it lies for the storage.
    path: PathBuf,
    size_bytes: usize,
    sha256: String,
    downloads: usize,
}

impl GitHub {
    /// Starts API and storage, with no release.
    pub(crate) fn start() -> Result<Self, String> {
        let releases = Arc::new(Mutex::new(Releases::default()));
        let stored = Arc::clone(&releases);
        let storage = http::listen(move |request, connection| store(&stored, request, connection))?;
        let told = Arc::clone(&releases);
        let api = http::listen(move |request, connection| tell(&told, storage, request, connection))?;
        Ok(Self { api, file_name: format!("app-{OS}-{ARCH}"), releases })
    }
}

impl Source for GitHub {
    fn tell(&self, command: &mut Command) {
        command.args(["--fetch", &format!("github:http://{}/{REPOSITORY}", self.api)]).env("GITHUB_TOKEN", TOKEN);
    }

    fn file_name(&self) -> &str {
        &self.file_name
    }

    fn publish(&self, build: &Build, signature: Option<&str>) -> Result<Instant, String> {
        let failed = |error: io::Error| format!("cannot publish {}: {error}", build.path.display());
        let mut files = vec![Asset::of(self.file_name.clone(), build.path.clone()).map_err(failed)?];
        if let Some(signature) = signature {
            let path = build.path.with_extension("minisig");
            fs::write(&path, signature).map_err(failed)?;
            files.push(Asset::of(format!("{}.minisig", self.file_name), path).map_err(failed)?);
        }
        let releases = &mut lock(&self.releases).0;
        // GitHub tells times in seconds, and the newest release is the latest.
        let after = releases.last().map_or(SystemTime::UNIX_EPOCH, |latest| latest.changed + Duration::from_secs(1));
        releases.push(Published { changed: after.max(SystemTime::now()), files, id: build.id.clone() });
        Ok(Instant::now())
    }

    fn downloads(&self, build: &Build) -> Option<usize> {
        Some(lock(&self.releases).0.iter().filter(|release| release.id == build.id).map(|release| release.files[0].downloads).sum())
    }
}

impl Asset {
    fn of(name: String, path: PathBuf) -> io::Result<Self> {
        let bytes = fs::read(&path)?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { name, path, size_bytes: bytes.len(), sha256, downloads: 0 })
    }
}

impl Releases {
    /// The file with this number: ten for each release.
    fn file(&mut self, number: usize) -> Option<&mut Asset> {
        self.0.get_mut(number / 10)?.files.get_mut(number % 10)
    }
}

/// Answers for the API.
fn tell(releases: &Mutex<Releases>, storage: SocketAddr, request: &Request, connection: &mut TcpStream) -> io::Result<()> {
    let below = request.target.strip_prefix(&format!("/repos/{REPOSITORY}/releases/"));
    let is_known = request.method == "GET" && request.header("authorization").is_some_and(|value| value.ends_with(TOKEN));
    let Some(below) = below.filter(|_| is_known) else {
        return http::send(connection, "404 Not Found", "", r#"{"message":"Not Found"}"#);
    };
    if let Some(number) = below.strip_prefix("assets/") {
        return http::send(connection, "302 Found", &format!("Location: http://{storage}/{number}?signature=1\r\n"), "");
    }
    let (headers, body, is_same) = {
        let releases = lock(releases);
        let Some((index, latest)) = releases.0.iter().enumerate().next_back().filter(|_| below == "latest") else {
            drop(releases);
            return http::send(connection, "404 Not Found", "", r#"{"message":"Not Found"}"#);
        };
        let changed = http_date(latest.changed);
        let downloads: usize = latest.files.iter().map(|file| file.downloads).sum();
        let headers = format!("ETag: W/\"{index}-{downloads}\"\r\nLast-Modified: {changed}\r\nContent-Type: application/json\r\n");
        (headers, described(index, latest), request.header("if-modified-since") == Some(&changed))
    };
    match is_same {
        true => http::send(connection, "304 Not Modified", &headers, ""),
        false => http::send(connection, "200 OK", &headers, &body),
    }
}

/// The answer to `releases/latest`.
fn described(index: usize, release: &Published) -> String {
    let changed = json_date(release.changed);
    let assets = release.files.iter().enumerate().map(|(place, file)| {
        json!({
            "id": 10 * index + place,
            "name": file.name,
            "label": null,
            "content_type": "application/octet-stream",
            "state": "uploaded",
            "size": file.size_bytes,
            "digest": format!("sha256:{}", file.sha256),
            "download_count": file.downloads,
            "updated_at": changed,
        })
    });
    json!({
        "id": index + 1,
        "tag_name": format!("v{}", index + 1),
        "draft": false,
        "prerelease": false,
        "created_at": changed,
        "published_at": changed,
        "updated_at": changed,
        "assets": assets.collect::<Vec<_>>(),
    })
    .to_string()
}

/// Answers for the storage.
fn store(releases: &Mutex<Releases>, request: &Request, connection: &mut TcpStream) -> io::Result<()> {
    if request.header("authorization").is_some() {
        return http::send(connection, "400 Bad Request", "", "only one way to prove who you are is allowed");
    }
    let number = request.target.trim_start_matches('/').split('?').next().and_then(|number| number.parse().ok());
    let file = number.and_then(|number| {
        let mut releases = lock(releases);
        let file = releases.file(number)?;
        file.downloads += 1;
        Some(file.clone())
    });
    match file {
        Some(file) => http::send_file(connection, request, &file.path, &file.sha256, &format!("ETag: \"{}\"\r\n", file.sha256)),
        None => http::send(connection, "404 Not Found", "", ""),
    }
}

fn lock(releases: &Mutex<Releases>) -> MutexGuard<'_, Releases> {
    releases.lock().unwrap_or_else(PoisonError::into_inner)
}
