//! What a user sets, and what core asks for.

use crate::look::look;
use crate::settings::{ChecksumFile, Settings};
use crate::url;
use overseer_core::{DEFAULT_INTERVAL, FetchError, Fetcher, Known, Look};
use std::fmt;
use std::time::Duration;

/// What the Go original compares. `If-Modified-Since` is a request header that no server answers; it is kept so that a list that was
/// copied from there means the same.
const CHECK_HEADERS: [&str; 4] = ["ETag", "If-Modified-Since", "Last-Modified", "Content-Length"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
const GET_TIMEOUT: Duration = Duration::from_secs(60);

/// Fetches releases from an HTTP or HTTPS server. The [crate's documentation](crate) has an example and a table of all settings.
///
/// The setters only store what they are given. What is wrong with it is found by [`Fetcher::check`], which core calls before anything is started.
#[derive(Clone)]
#[doc(alias = "HTTP")]
pub struct HttpFetcher {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) bearer: Option<String>,
    pub(crate) basic_auth: Option<(String, String)>,
    pub(crate) check_headers: Vec<String>,
    pub(crate) interval: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) head_timeout: Duration,
    pub(crate) get_timeout: Duration,
    pub(crate) root_certificates: Vec<Vec<u8>>,
    pub(crate) proxy: Proxy,
    pub(crate) checksum_file: ChecksumFile,
    pub(crate) file_name: Option<String>,
}

#[derive(Clone)]
pub(crate) enum Proxy {
    Environment,
    Nowhere,
    Url(String),
}

impl HttpFetcher {
    /// Looks at `url`, in which `{os}`, `{arch}`, `{target}`, `{goos}` and `{goarch}` are names of the system that the
    /// program was built for. A user and password in it are sent as [`basic_auth`](Self::basic_auth). A URL that has to be made of
    /// something else is made before this is called, since `main` runs again for each look.
    #[doc(alias = "URL")]
    #[doc(alias = "URLFunc")]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            bearer: None,
            basic_auth: None,
            check_headers: CHECK_HEADERS.map(str::to_owned).to_vec(),
            interval: DEFAULT_INTERVAL,
            connect_timeout: CONNECT_TIMEOUT,
            head_timeout: HEAD_TIMEOUT,
            get_timeout: GET_TIMEOUT,
            root_certificates: Vec::new(),
            proxy: Proxy::Environment,
            checksum_file: ChecksumFile::None,
            file_name: None,
        }
    }

    /// Sends `Authorization: Bearer TOKEN`, to the origin of the URL only.
    #[must_use]
    pub fn bearer(mut self, token: impl Into<String>) -> Self {
        self.bearer = Some(token.into());
        self
    }

    /// Sends `Authorization: Basic` with this user and password, to the origin of the URL only.
    #[must_use]
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.basic_auth = Some((user.into(), password.into()));
        self
    }

    /// Sends one more header with each request. Its value is treated as a secret, as a header is where many servers want a
    /// key: it is sent to the origin of the URL only and is in no text. May be called several times.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the headers that are compared: a release is new if any of them differs. `ETag`, `If-Modified-Since`,
    /// `Last-Modified` and `Content-Length` unless set.
    #[must_use]
    #[doc(alias = "CheckHeaders")]
    pub fn check_headers<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.check_headers = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the pause between two looks; 5 min unless set.
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

    /// Sets the time for a whole HEAD request, connecting included; 15 s unless set. Each redirect has it anew.
    #[must_use]
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// Sets for how long a GET may bring nothing: to its headers, and then between two pieces of its body; 60 s unless set. There is no limit for
    /// the whole, since a release may be big and a line slow.
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

    /// Sets whether a release must match the SHA-256 in the file beside it: its name with `.sha256` after it, as
    /// `sha256sum` writes it. Off unless set. While that file is missing, the release counts as not yet published. Replaces
    /// [`checksum_file`](Self::checksum_file).
    #[must_use]
    pub fn sha256_file(mut self, required: bool) -> Self {
        self.checksum_file = if required { ChecksumFile::Own } else { ChecksumFile::None };
        self
    }

    /// A release must match its SHA-256 in the file of this name in the same directory, as `sha256sum` writes it for many files: `SHA256SUMS`.
    /// None unless set. While that file is missing, the release counts as not yet published; while it does not name the
    /// release, looks fail. Replaces [`sha256_file`](Self::sha256_file).
    #[must_use]
    pub fn checksum_file(mut self, name: impl Into<String>) -> Self {
        self.checksum_file = ChecksumFile::Shared(name.into());
        self
    }

    /// Sets the name of the published file, for a URL that does not end in it: `app.gz`. It says how to unpack the release, is the name that its
    /// signature and its checksum must be for, and may have the placeholders of [`new`](Self::new). One `*` stands for a part that
    /// changes: with `app-*.gz` the name is that of the URL or of where its redirects end, and one that does not fit is an error.
    ///
    /// Unless set, the name is the last part of the URL; or, if only that says how to unpack the file, the last part of where its redirects
    /// end, but never for a program with trusted keys: whoever owns the server must not choose which of your signed programs this one is.
    #[must_use]
    pub fn file_name(mut self, name: impl Into<String>) -> Self {
        self.file_name = Some(name.into());
        self
    }
}

impl Fetcher for HttpFetcher {
    fn source(&self) -> String {
        url::parse(&self.url).map_or_else(|_| url::without_secrets(&self.url), |address| url::shown(&address.url))
    }

    fn check(&self) -> Result<(), FetchError> {
        Settings::read(self)?.check_certificates()
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        look(Settings::read(self)?, known)
    }
}

impl fmt::Debug for HttpFetcher {
    /// Everything but the secrets: of headers the names, of credentials that there are some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        let proxy = match &self.proxy {
            Proxy::Environment => "environment".to_owned(),
            Proxy::Nowhere => "none".to_owned(),
            Proxy::Url(url) => url::without_secrets(url),
        };
        f.debug_struct("HttpFetcher")
            .field("source", &self.source())
            .field("headers", &headers)
            .field("bearer", &self.bearer.is_some())
            .field("basic_auth", &self.basic_auth.is_some())
            .field("check_headers", &self.check_headers)
            .field("interval", &self.interval)
            .field("connect_timeout", &self.connect_timeout)
            .field("head_timeout", &self.head_timeout)
            .field("get_timeout", &self.get_timeout)
            .field("root_certificates", &self.root_certificates.len())
            .field("proxy", &proxy)
            .field("checksum_file", &self.checksum_file)
            .field("file_name", &self.file_name)
            .finish_non_exhaustive()
    }
}
