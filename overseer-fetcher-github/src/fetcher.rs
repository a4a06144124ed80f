//! What a user sets, and what core asks for.

use crate::asset::Asset;
use crate::choose::Choice;
use crate::look::look;
use crate::settings::Settings;
use crate::url::{self, PUBLIC_API};
use overseer_core::{AsyncFetcher, DEFAULT_INTERVAL, FetchError, Known, Look};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const API_TIMEOUT: Duration = Duration::from_secs(30);
const GET_TIMEOUT: Duration = Duration::from_secs(60);

/// Fetches releases from GitHub or a GitHub Enterprise server. The [crate's documentation](crate) has an example and a table of all settings.
///
/// The setters only store what they are given. What is wrong with it is found by [`Fetcher::check`](overseer_core::Fetcher::check), which core calls before
/// anything is started.
#[derive(Clone)]
#[doc(alias = "Github")]
pub struct GitHubFetcher {
    pub(crate) owner: String,
    pub(crate) repository: String,
    pub(crate) which: Which,
    pub(crate) choice: Choice,
    pub(crate) token: Token,
    pub(crate) base_url: String,
    pub(crate) sha256_file: bool,
    pub(crate) interval: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) api_timeout: Duration,
    pub(crate) get_timeout: Duration,
    pub(crate) root_certificates: Vec<Vec<u8>>,
    pub(crate) proxy: Proxy,
}

/// Which release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Latest,
    Newest,
    Tag(String),
}

#[derive(Clone)]
pub(crate) enum Token {
    Environment,
    None,
    Set(String),
}

#[derive(Clone)]
pub(crate) enum Proxy {
    Environment,
    Nowhere,
    Url(String),
}

impl GitHubFetcher {
    /// Looks at the latest release of `https://github.com/OWNER/REPOSITORY`, for the one file that names this system.
    #[doc(alias = "User")]
    #[doc(alias = "Repo")]
    pub fn new(owner: impl Into<String>, repository: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            repository: repository.into(),
            which: Which::Latest,
            choice: Choice::System,
            token: Token::Environment,
            base_url: PUBLIC_API.to_owned(),
            sha256_file: false,
            interval: DEFAULT_INTERVAL,
            connect_timeout: CONNECT_TIMEOUT,
            api_timeout: API_TIMEOUT,
            get_timeout: GET_TIMEOUT,
            root_certificates: Vec::new(),
            proxy: Proxy::Environment,
        }
    }

    /// Takes what GitHub calls the latest release: the newest one that is neither a draft nor a pre-release, or the one that its publisher has
    /// set as the latest. This is so unless set.
    #[must_use]
    pub fn latest(mut self) -> Self {
        self.which = Which::Latest;
        self
    }

    /// Takes the release of this tag, however old it is: to stay with it, or to follow a tag that moves (`nightly`).
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.which = Which::Tag(tag.into());
        self
    }

    /// Sets whether the newest release is taken also if it is a pre-release. Off unless set; replaces [`tag`](Self::tag). Newest is the one with
    /// the newest commit, as for GitHub's own latest one.
    #[must_use]
    pub fn pre_releases(mut self, included: bool) -> Self {
        if included {
            self.which = Which::Newest;
        } else if self.which == Which::Newest {
            self.which = Which::Latest;
        }
        self
    }

    /// Takes the file with exactly this name.
    #[must_use]
    #[doc(alias = "Asset")]
    pub fn asset(mut self, name: impl Into<String>) -> Self {
        self.choice = Choice::Name(name.into());
        self
    }

    /// Takes the file whose name fits to `pattern`, in which `{os}` and `{arch}` stand for each usual spelling of this system and processor,
    /// `{target}` for the target triple that the program was built for, and `{version}` for the tag of the release, with and without the `v` before
    /// its number. Capitals and small letters are the same.
    #[must_use]
    pub fn asset_pattern(mut self, pattern: impl Into<String>) -> Self {
        self.choice = Choice::Pattern(pattern.into());
        self
    }

    /// Takes the file for which `takes` answers true. It must be one: several are reported, with their names.
    #[must_use]
    pub fn asset_by(mut self, takes: impl Fn(&Asset) -> bool + Send + Sync + 'static) -> Self {
        self.choice = Choice::By(Arc::new(takes));
        self
    }

    /// Sends `Authorization: Bearer TOKEN`, to the API only. Unless set, `GITHUB_TOKEN` and then `GH_TOKEN` count, read at each look.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Token::Set(token.into());
        self
    }

    /// Sends no token, whatever the environment says.
    #[must_use]
    pub fn no_token(mut self) -> Self {
        self.token = Token::None;
        self
    }

    /// Sets where the API is: `https://HOST/api/v3` of a GitHub Enterprise server, `https://api.NAME.ghe.com` of a cloud of one's own.
    /// `https://api.github.com` unless set.
    #[must_use]
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// Sets whether a release must match the SHA-256 in a file of the same release: `NAME.sha256`, or one for all files such as `SHA256SUMS` or
    /// `checksums.txt`. Off unless set; then such a file is used if it is there and GitHub itself tells no digest. While it is required and
    /// missing, the release counts as not yet published.
    #[must_use]
    pub fn sha256_file(mut self, required: bool) -> Self {
        self.sha256_file = required;
        self
    }

    /// Sets the pause between two looks; 5 min unless set. Without a token GitHub answers 60 requests an hour.
    #[must_use]
    #[doc(alias = "Interval")]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the time for a connection, TLS included; 10 s unless set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time for a whole question to the API, redirects and the answer's body included; 30 s unless set.
    #[must_use]
    pub fn api_timeout(mut self, timeout: Duration) -> Self {
        self.api_timeout = timeout;
        self
    }

    /// Sets for how long the download of a file may bring nothing: to the headers of the storage host, and then between two pieces of its body; 60 s unless set. There
    /// is no limit for the whole, since a release may be big and a line slow.
    #[must_use]
    pub fn get_timeout(mut self, timeout: Duration) -> Self {
        self.get_timeout = timeout;
        self
    }

    /// Trusts the certificates in this PEM text, beside those of the system. May be called several times.
    #[must_use]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }

    /// Asks through this proxy, `http://[user:password@]host:port` or `https://...`, whatever the environment says. Unless set, `HTTP_PROXY`,
    /// `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` count, in capitals or not.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Proxy::Url(url.into());
        self
    }

    /// Asks through no proxy, whatever the environment says.
    #[must_use]
    pub fn no_proxy(mut self) -> Self {
        self.proxy = Proxy::Nowhere;
        self
    }
}

impl AsyncFetcher for GitHubFetcher {
    /// The address of the release's page, and after a `#` how the file is chosen.
    fn source(&self) -> String {
        let Ok(base) = url::api(&self.base_url) else {
            return format!("{}/{}/{}", url::without_secrets(&self.base_url), self.owner, self.repository);
        };
        let page = url::page(&base, &self.owner, &self.repository);
        let mut page = match &self.which {
            Which::Latest => url::below(&page, &["releases", "latest"]),
            Which::Newest => url::below(&page, &["releases"]),
            Which::Tag(tag) => url::below(&page, &["releases", "tag", tag]),
        }
        .to_string();
        if let Some(choice) = self.choice.shown() {
            page.push('#');
            page.push_str(choice);
        }
        page
    }

    fn check(&self) -> Result<(), FetchError> {
        Settings::read(self)?.check_certificates()
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        look(Settings::read(self)?, known).await
    }
}

impl fmt::Debug for GitHubFetcher {
    /// Everything but the secrets: of the token where it comes from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = match self.token {
            Token::Environment => "environment",
            Token::None => "none",
            Token::Set(_) => "set",
        };
        let proxy = match &self.proxy {
            Proxy::Environment => "environment".to_owned(),
            Proxy::Nowhere => "none".to_owned(),
            Proxy::Url(url) => url::without_secrets(url),
        };
        f.debug_struct("GitHubFetcher")
            .field("source", &AsyncFetcher::source(self))
            .field("token", &token)
            .field("base_url", &url::without_secrets(&self.base_url))
            .field("sha256_file", &self.sha256_file)
            .field("interval", &self.interval)
            .field("connect_timeout", &self.connect_timeout)
            .field("api_timeout", &self.api_timeout)
            .field("get_timeout", &self.get_timeout)
            .field("root_certificates", &self.root_certificates.len())
            .field("proxy", &proxy)
            .finish_non_exhaustive()
    }
}
