//! What a user sets, and what core asks for.

use crate::look::look;
use crate::settings::{self, Settings};
use overseer_core::{AsyncFetcher, DEFAULT_INTERVAL, FetchError, Known, Look};
use std::fmt;
use std::time::Duration;

const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const GET_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Fetches releases from a bucket of S3 or of a server that speaks its protocol. The [crate's documentation](crate) has an example
/// and a table of all settings.
///
/// The setters only store what they are given. What is wrong with it is found by [`AsyncFetcher::check`], which core calls before
/// anything is started.
#[derive(Clone)]
#[doc(alias = "S3")]
pub struct S3Fetcher {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version_id: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) path_style: Option<bool>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) head_timeout: Duration,
    pub(crate) get_timeout: Duration,
    pub(crate) interval: Duration,
    pub(crate) sha256_file: bool,
    pub(crate) root_certificates: Vec<Vec<u8>>,
}

#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) session_token: Option<String>,
}

impl S3Fetcher {
    /// Looks at the object `key` in `bucket`. In the key, `{os}` (`linux`), `{arch}` (`x86_64`) and `{target}`
    /// (`x86_64-unknown-linux-gnu`) are names of the system that the program was built for.
    #[doc(alias = "Bucket")]
    #[doc(alias = "Key")]
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
            version_id: None,
            region: None,
            endpoint: None,
            path_style: None,
            credentials: None,
            head_timeout: HEAD_TIMEOUT,
            get_timeout: GET_TIMEOUT,
            interval: DEFAULT_INTERVAL,
            sha256_file: false,
            root_certificates: Vec::new(),
        }
    }

    /// Takes this version of the object and no newer one, in a bucket with versions. The newest unless set.
    #[must_use]
    pub fn version_id(mut self, version_id: impl Into<String>) -> Self {
        self.version_id = Some(version_id.into());
        self
    }

    /// Sets the region of the bucket. Unless set it comes from `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile, or, where there is no
    /// [`endpoint`](Self::endpoint), the instance; with an endpoint and without any of these it is `us-east-1`.
    #[must_use]
    #[doc(alias = "Region")]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Asks this server, `https://host:port`, instead of Amazon's: MinIO, R2, Garage, Ceph. Unless set, `AWS_ENDPOINT_URL_S3` and
    /// `AWS_ENDPOINT_URL` of the environment count.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets whether the bucket is written into the path (`https://host/bucket/key`) and not into the host name (`https://bucket.host/key`).
    /// Unless set it is with an endpoint, which any such server understands, and is not without one.
    #[must_use]
    pub fn path_style(mut self, path_style: bool) -> Self {
        self.path_style = Some(path_style);
        self
    }

    /// Signs with these keys, and with a token if they are temporary ones. Unless set, the keys come from where the AWS tools take them; see
    /// [Credentials](crate#credentials).
    #[must_use]
    #[doc(alias = "Access")]
    #[doc(alias = "Secret")]
    pub fn credentials(mut self, access_key: impl Into<String>, secret_key: impl Into<String>, session_token: Option<String>) -> Self {
        self.credentials = Some(Credentials { access_key: access_key.into(), secret_key: secret_key.into(), session_token });
        self
    }

    /// Sets the time for a whole HEAD request, connecting included; 5 s unless set.
    #[must_use]
    #[doc(alias = "HeadTimeout")]
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// Sets the time for the download within one look, from the request to the last byte; 5 min unless set. What has come when it is over is kept,
    /// and the next look goes on there: a release that is too big for the line takes several looks.
    #[must_use]
    #[doc(alias = "GetTimeout")]
    pub fn get_timeout(mut self, timeout: Duration) -> Self {
        self.get_timeout = timeout;
        self
    }

    /// Sets the pause between two looks; 5 min unless set.
    #[must_use]
    #[doc(alias = "Interval")]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets whether a release must match the SHA-256 in the object beside it: the key with `.sha256` after it, as `sha256sum` writes it. Off
    /// unless set. While that object is missing, the release counts as not yet published.
    #[must_use]
    pub fn sha256_file(mut self, required: bool) -> Self {
        self.sha256_file = required;
        self
    }

    /// Trusts the certificates in this PEM text, beside those of the system. May be called several times.
    #[must_use]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }
}

impl AsyncFetcher for S3Fetcher {
    fn source(&self) -> String {
        settings::source(self)
    }

    fn check(&self) -> Result<(), FetchError> {
        Settings::read(self).map(drop)
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        look(Settings::read(self)?, known).await
    }
}

impl fmt::Debug for S3Fetcher {
    /// Everything but the secrets: of credentials that there are some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Fetcher")
            .field("source", &settings::source(self))
            .field("version_id", &self.version_id)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("credentials", &self.credentials.is_some())
            .field("head_timeout", &self.head_timeout)
            .field("get_timeout", &self.get_timeout)
            .field("interval", &self.interval)
            .field("sha256_file", &self.sha256_file)
            .field("root_certificates", &self.root_certificates.len())
            .finish_non_exhaustive()
    }
}
