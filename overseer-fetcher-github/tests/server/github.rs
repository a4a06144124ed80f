//! GitHub, as far as releases go: an API and a storage host on two ports, whose answers have the shape of recorded ones.
//!
//! What the recordings show and this keeps to: `Last-Modified` of a release is its last edit and does not follow its files; the ETag is that of
//! the whole JSON, so it changes when a download is counted; a list has an ETag only; the storage host wants its signature, refuses a request with
//! `Authorization`, and answers ranges.

use super::{Answer, Request, Server};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

pub(crate) const OWNER: &str = "octo";
pub(crate) const REPOSITORY: &str = "app";
/// What lets anybody in at the storage host, and so belongs in no text.
pub(crate) const SIGNATURE: &str = "s1gnature";

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
}

/// The clock of the servers.
fn now() -> DateTime<Utc> {
    at("2026-03-01T12:00:00Z")
}

/// The file for this system.
pub(crate) fn own_name() -> String {
    format!("app-{}-{}", std::env::consts::OS, std::env::consts::ARCH)
}

#[derive(Clone)]
pub(crate) struct File {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) body: Vec<u8>,
    pub(crate) state: &'static str,
    /// `None` leaves the field out, as older servers do.
    pub(crate) digest: Option<Value>,
    pub(crate) updated: DateTime<Utc>,
    pub(crate) downloads: u64,
}

#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) id: u64,
    pub(crate) tag: String,
    pub(crate) draft: bool,
    pub(crate) pre_release: bool,
    pub(crate) created: DateTime<Utc>,
    pub(crate) published: DateTime<Utc>,
    pub(crate) updated: DateTime<Utc>,
    pub(crate) files: Vec<File>,
}

type Instead = Box<dyn Fn(&Request) -> Option<Answer> + Send>;

pub(crate) struct State {
    pub(crate) now: DateTime<Utc>,
    pub(crate) releases: Vec<Published>,
    /// Without it the repository is not there.
    pub(crate) token: Option<String>,
    /// Where the API begins.
    pub(crate) base: &'static str,
    pub(crate) requests_left: u64,
    storage: String,
    next_id: u64,
    api_instead: Option<Instead>,
    storage_instead: Option<Instead>,
}

pub(crate) struct GitHub {
    pub(crate) api: Server,
    pub(crate) storage: Server,
    state: Arc<Mutex<State>>,
}

impl GitHub {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            now: now(),
            releases: Vec::new(),
            token: None,
            base: "",
            requests_left: 60,
            storage: String::new(),
            next_id: 100,
            api_instead: None,
            storage_instead: None,
        }));
        let (for_api, for_storage) = (Arc::clone(&state), Arc::clone(&state));
        let storage = Server::start(move |request| {
            let state = for_storage.lock().expect("no panic");
            state.storage_instead.as_ref().and_then(|instead| instead(request)).unwrap_or_else(|| state.stored(request))
        });
        let api = Server::start(move |request| {
            let mut state = for_api.lock().expect("no panic");
            let instead = state.api_instead.as_ref().and_then(|instead| instead(request));
            instead.unwrap_or_else(|| state.answer(request))
        });
        state.lock().expect("no panic").storage = storage.url("");
        Self { api, storage, state }
    }

    /// With one release of a day ago that has one file, for this system.
    pub(crate) fn with_release(tag: &str, body: &[u8]) -> Self {
        let github = Self::start();
        github.publish(tag, &[(&own_name(), body)]);
        github
    }

    pub(crate) fn fetcher(&self) -> overseer_fetcher_github::GitHubFetcher {
        let base = self.change(|state| state.base);
        overseer_fetcher_github::GitHubFetcher::new(OWNER, REPOSITORY).base_url(self.api.url(base)).no_proxy().no_token()
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no panic"))
    }

    /// A day ago, a minute after the one before.
    pub(crate) fn publish(&self, tag: &str, files: &[(&str, &[u8])]) -> u64 {
        self.change(|state| {
            let count = i32::try_from(state.releases.len()).expect("a small number");
            let published = state.now - TimeDelta::days(1) + TimeDelta::minutes(1) * count;
            let id = state.id();
            let files = files.iter().map(|(name, body)| state.file(name, body, published)).collect();
            let (created, updated) = (published - TimeDelta::hours(3), published);
            state.releases.push(Published {
                id,
                tag: tag.to_owned(),
                draft: false,
                pre_release: false,
                created,
                published,
                updated,
                files,
            });
            id
        })
    }

    /// Changes the release that was published last.
    pub(crate) fn change_last(&self, change: impl FnOnce(&mut Published)) {
        self.change(|state| change(state.releases.last_mut().expect("a release")));
    }

    /// Puts another file under the same name into the last release; its last edit stays what it was.
    pub(crate) fn replace(&self, name: &str, body: &[u8]) {
        self.change(|state| {
            let now = state.now;
            let file = state.file(name, body, now);
            let release = state.releases.last_mut().expect("a release");
            release.files.retain(|file| file.name != name);
            release.files.push(file);
        });
    }

    /// The API answers so where `instead` has an answer.
    pub(crate) fn api_instead(&self, instead: impl Fn(&Request) -> Option<Answer> + Send + 'static) {
        self.change(|state| state.api_instead = Some(Box::new(instead)));
    }

    pub(crate) fn storage_instead(&self, instead: impl Fn(&Request) -> Option<Answer> + Send + 'static) {
        self.change(|state| state.storage_instead = Some(Box::new(instead)));
    }

    /// The API always answers so.
    pub(crate) fn api_always(&self, answer: impl Fn() -> Answer + Send + 'static) {
        self.api_instead(move |_| Some(answer()));
    }
}

impl State {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn file(&mut self, name: &str, body: &[u8], updated: DateTime<Utc>) -> File {
        let digest = Some(json!(format!("sha256:{}", sha256(body))));
        File { id: self.id(), name: name.to_owned(), body: body.to_vec(), state: "uploaded", digest, updated, downloads: 3 }
    }

    fn answer(&mut self, request: &Request) -> Answer {
        if request.header("User-Agent").is_none() {
            return self.told("403 Forbidden", "Request forbidden by administrative rules.");
        }
        let authorization = request.header("Authorization");
        match &self.token {
            Some(_) if authorization.is_none() => return self.told("404 Not Found", "Not Found"),
            Some(token) if authorization != Some(&format!("Bearer {token}")) => return self.told("401 Unauthorized", "Bad credentials"),
            _ => {}
        }
        if self.requests_left == 0 {
            return self.told("403 Forbidden", "API rate limit exceeded for 192.0.2.1.");
        }
        let Some(target) = request.target.strip_prefix(self.base) else { return self.told("404 Not Found", "Not Found") };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(path) = path.strip_prefix(&format!("/repos/{OWNER}/{REPOSITORY}/releases")) else {
            return self.told("404 Not Found", "Not Found");
        };
        if let Some(id) = path.strip_prefix("/assets/") {
            assert_eq!(request.header("Accept"), Some("application/octet-stream"));
            return self.redirect_to_storage(id);
        }
        assert_eq!(request.header("Accept"), Some("application/vnd.github+json"));
        if path.is_empty() {
            let per_page = query.strip_prefix("per_page=").and_then(|count| count.parse().ok()).unwrap_or(30);
            let mut all: Vec<_> = self.releases.iter().collect();
            all.sort_by_key(|release| std::cmp::Reverse((release.draft, release.created)));
            let page = all.into_iter().take(per_page).map(|release| self.json(release)).collect::<Vec<_>>();
            return self.conditional(request, &json!(page), None);
        }
        let full = |release: &&Published| !release.draft && !release.pre_release;
        let found = match path.strip_prefix("/tags/") {
            Some(tag) => self.releases.iter().find(|release| release.tag.replace('/', "%2F") == tag && !release.draft),
            None if path == "/latest" => self.releases.iter().filter(full).max_by_key(|release| release.created),
            None => None,
        };
        match found {
            Some(release) => self.conditional(request, &self.json(release), Some(release.updated)),
            None => self.told("404 Not Found", "Not Found"),
        }
    }

    /// The JSON, or that nothing changed.
    fn conditional(&self, request: &Request, json: &Value, changed: Option<DateTime<Utc>>) -> Answer {
        let body = json.to_string();
        let etag = format!("W/\"{}\"", sha256(body.as_bytes()));
        let is_same = match (request.header("If-None-Match"), request.header("If-Modified-Since")) {
            (Some(known), _) => known == etag,
            (None, Some(since)) => {
                let since = DateTime::parse_from_rfc2822(since).expect("a date").to_utc();
                changed.is_some_and(|changed| changed <= since)
            }
            (None, None) => false,
        };
        let answer = self.headers(Answer::new(if is_same { "304 Not Modified" } else { "200 OK" })).header("ETag", &etag);
        let answer = match changed {
            Some(changed) => answer.header("Last-Modified", http_date(changed)),
            None => answer,
        };
        if is_same { answer } else { answer.header("Content-Type", "application/json; charset=utf-8").chunked(body.as_bytes(), 1000) }
    }

    fn headers(&self, answer: Answer) -> Answer {
        answer
            .header("Date", http_date(self.now))
            .header("Server", "github.com")
            .header("X-RateLimit-Limit", "60")
            .header("X-RateLimit-Remaining", self.requests_left.to_string())
            .header("X-RateLimit-Reset", (self.now.timestamp() + 1234).to_string())
    }

    /// A refusal, as GitHub explains it.
    pub(crate) fn told(&self, status: &str, message: &str) -> Answer {
        let body = json!({"message": message, "documentation_url": "https://docs.github.com/rest", "status": status[..3]});
        self.headers(Answer::new(status)).header("Content-Type", "application/json; charset=utf-8").body(body.to_string().as_bytes())
    }

    /// Counts the download.
    fn redirect_to_storage(&mut self, id: &str) -> Answer {
        let storage = self.storage.clone();
        let files = self.releases.iter_mut().flat_map(|release| &mut release.files);
        let Some(file) = files.into_iter().find(|file| file.id.to_string() == id) else { return self.told("404 Not Found", "Not Found") };
        file.downloads += 1;
        self.headers(Answer::redirect(&format!("{storage}/release-asset/{id}?sp=r&sig={SIGNATURE}")))
            .header("Content-Type", "text/html;charset=utf-8")
    }

    fn stored(&self, request: &Request) -> Answer {
        if request.header("Authorization").is_some() {
            return Answer::new("400 Bad Request").body(b"<?xml version=\"1.0\"?><Error><Code>InvalidAuthenticationInfo</Code></Error>");
        }
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        if !query.ends_with(SIGNATURE) {
            return Answer::new("403 Forbidden").body(b"<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code></Error>");
        }
        let mut files = self.releases.iter().flat_map(|release| &release.files);
        let Some(file) = files.find(|file| path == format!("/release-asset/{}", file.id)) else { return Answer::status("404 Not Found") };
        let etag = format!("\"0x{:X}\"", file.id);
        let from = request.header("Range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let size = file.body.len();
        match from {
            None => Answer::new("200 OK").header("ETag", &etag).header("Content-Type", "application/octet-stream").body(&file.body),
            Some(from) if from >= size => Answer::status("416 Range Not Satisfiable").header("Content-Range", format!("bytes */{size}")),
            Some(from) => Answer::new("206 Partial Content")
                .header("ETag", &etag)
                .header("Content-Range", format!("bytes {from}-{}/{size}", size - 1))
                .body(&file.body[from..]),
        }
    }

    fn json(&self, release: &Published) -> Value {
        let api = "https://api.github.invalid/repos/octo/app/releases";
        let page = "https://github.invalid/octo/app/releases";
        let person = json!({"login": "octo-bot[bot]", "id": 41_898_282, "node_id": "MDM6Qm90", "avatar_url": "https://avatars.invalid/in/1?v=4",
            "gravatar_id": "", "url": "https://api.github.invalid/users/octo-bot%5Bbot%5D", "type": "Bot", "user_view_type": "public", "site_admin": false});
        let file = |file: &File| {
            let mut json = json!({"url": format!("{api}/assets/{}", file.id), "id": file.id, "node_id": "RA_kw", "name": file.name, "label": null,
                "uploader": person, "content_type": "application/octet-stream", "state": file.state, "size": file.body.len(),
                "download_count": file.downloads, "created_at": json_date(file.updated), "updated_at": json_date(file.updated),
                "browser_download_url": format!("{page}/download/{}/{}", release.tag, file.name)});
            if let Some(digest) = &file.digest {
                json["digest"] = digest.clone();
            }
            json
        };
        json!({"url": format!("{api}/{}", release.id), "assets_url": format!("{api}/{}/assets", release.id),
            "upload_url": format!("{api}/{}/assets{{?name,label}}", release.id), "html_url": format!("{page}/tag/{}", release.tag),
            "id": release.id, "author": person, "node_id": "RE_kw", "tag_name": release.tag, "target_commitish": "main", "name": release.tag,
            "draft": release.draft, "immutable": false, "prerelease": release.pre_release, "created_at": json_date(release.created),
            "updated_at": json_date(release.updated), "published_at": if release.draft { Value::Null } else { json!(json_date(release.published)) },
            "assets": release.files.iter().map(file).collect::<Vec<_>>(), "tarball_url": format!("{api}/tarball/{}", release.tag),
            "zipball_url": format!("{api}/zipball/{}", release.tag), "body": "What is new"})
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("it is memory");
        text
    })
}

pub(crate) fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn json_date(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}
