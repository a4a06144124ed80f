//! Requests and redirects.
//!
//! Redirects are followed here, so that what holds can be read in one place: the token goes to the API (scheme, host, port and path of the settings)
//! and to nobody else; once a chain of redirects has left it, it is not sent any more, also not when the chain comes back; `https` never leads to
//! `http`. Octocrab is given a client of our making and none of its own layers, which would put paths together in another way, ask again after errors,
//! and know a second host that may have the token.

use crate::error::{self, Asked, text};
use crate::settings::{ProxyAt, Settings};
use crate::url::{below, is_below, shown, strip};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use octocrab::service::middleware::reqwest_connector::ReqwestConnector;
use octocrab::{AuthState, Octocrab, OctocrabBuilder};
use overseer_core::FetchError;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION, RANGE, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use std::io::Read;
use tokio::time::timeout;

const REDIRECTS_MAX: usize = 5;
const AGENT: &str = concat!("overseer-fetcher-github/", env!("CARGO_PKG_VERSION"));
const JSON: &str = "application/vnd.github+json";
const FILE: &str = "application/octet-stream";

/// A page of ten releases with a thousand files each is below this.
const JSON_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A checksum file of a thousand files is below this, and so is what explains a refusal.
pub(crate) const TEXT_BYTES_MAX: usize = 256 * 1024;

/// What becomes of a body with more bytes than are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Longer {
    Refused,
    Cut,
}

/// A client that knows its settings. Lives for one look.
pub(crate) struct Api {
    pub(crate) settings: Settings,
    client: Octocrab,
    /// The system has no root certificates. Then `http` still works, and a redirect to `https` fails with a text that says why.
    rootless: bool,
}

/// An answer whose body has not been read.
pub(crate) struct Answer {
    /// What was asked, and what answered after redirects.
    asked: Url,
    url: Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: BoxBody<Bytes, octocrab::Error>,
}

/// An answer whose body has been read.
pub(crate) struct Told {
    pub(crate) asked: Url,
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Api {
    /// Reads the system's root certificates; connects to nobody yet.
    pub(crate) fn open(settings: Settings) -> Result<Self, FetchError> {
        let builder = || {
            let builder = Client::builder()
                .redirect(Policy::none())
                .referer(false)
                // A server may close a connection just when the next request goes out on it. A look is rare enough to have its own.
                .pool_max_idle_per_host(0)
                .connect_timeout(settings.connect_timeout);
            match &settings.proxy {
                ProxyAt::Environment => builder,
                ProxyAt::Nowhere => builder.no_proxy(),
                ProxyAt::Url { proxy, .. } => builder.proxy((**proxy).clone()),
            }
        };
        let own = || settings.certificates.iter().cloned();
        let built = builder().tls_certs_merge(own()).build();
        let (client, rootless) = match built {
            Err(error) if error::is_rootless(&error) && settings.api.scheme() == "http" => (builder().tls_certs_only(own()).build(), true),
            other => (other, false),
        };
        let client = client.map_err(|error| error::without_client(error, &settings.api))?;
        let built = OctocrabBuilder::new_empty().with_service(ReqwestConnector::new(client)).with_auth(AuthState::None).build();
        let client = built.unwrap_or_else(|never| match never {});
        Ok(Self { settings, client, rootless })
    }

    /// The address of something about the repository.
    pub(crate) fn about(&self, parts: &[&str]) -> Url {
        let repository = below(&self.settings.api, &["repos", &self.settings.owner, &self.settings.repository]);
        below(&repository, parts)
    }

    /// Asks the API. Answers with whatever status comes in the end.
    pub(crate) async fn ask(&self, url: &Url, headers: HeaderMap) -> Result<Told, FetchError> {
        let limit = self.settings.api_timeout;
        let asking = async { self.read(self.send(url, JSON, &headers).await?, JSON_BYTES_MAX, Longer::Refused).await };
        timeout(limit, asking).await.unwrap_or_else(|_| Err(self.asked(url).silent(limit)))
    }

    /// Asks for a file of a release, from byte `from` on. Answers with whatever status comes in the end.
    pub(crate) async fn open_file(&self, asset: u64, from: u64) -> Result<Answer, FetchError> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            headers.insert(RANGE, range.map_err(|_| FetchError::passing("a range cannot be sent"))?);
        }
        self.send(&self.about(&["releases", "assets", &asset.to_string()]), FILE, &headers).await
    }

    /// The text of a small file of a release; of a longer one its beginning.
    pub(crate) async fn small_file(&self, asset: u64, bytes_max: usize) -> Result<String, FetchError> {
        let limit = self.settings.api_timeout;
        let url = self.about(&["releases", "assets", &asset.to_string()]);
        let asking = async { self.read(self.send(&url, FILE, &HeaderMap::new()).await?, bytes_max, Longer::Cut).await };
        let told = timeout(limit, asking).await.unwrap_or_else(|_| Err(self.asked(&url).silent(limit)))?;
        match told.status {
            StatusCode::OK => Ok(String::from_utf8_lossy(&told.body).into_owned()),
            _ => Err(error::refusal(&self.settings, &told)),
        }
    }

    /// The error for the answer to a question for a file that is of no use.
    pub(crate) async fn refusal(&self, answer: Answer) -> FetchError {
        let (limit, url) = (self.settings.api_timeout, answer.asked.clone());
        let Answer { asked, url: answered, status, headers, .. } = &answer;
        let bare = Told { asked: asked.clone(), url: answered.clone(), status: *status, headers: headers.clone(), body: Vec::new() };
        match timeout(limit, self.read(answer, TEXT_BYTES_MAX, Longer::Cut)).await {
            Ok(Ok(told)) => error::refusal(&self.settings, &told),
            // The status says more than that its explanation did not come.
            Ok(Err(_)) | Err(_) => {
                log::debug!(target: "overseer::poll", "{} did not explain its {}", shown(&url), bare.status);
                error::refusal(&self.settings, &bare)
            }
        }
    }

    fn asked<'a>(&'a self, url: &'a Url) -> Asked<'a> {
        Asked {
            url,
            proxy: match &self.settings.proxy {
                ProxyAt::Url { shown, .. } => Some(shown),
                ProxyAt::Environment | ProxyAt::Nowhere => None,
            },
            connect_timeout: self.settings.connect_timeout,
            rootless: self.rootless,
        }
    }

    /// Sends a request to `start` and follows redirects. Each request to the API has `api_timeout`, and each to a storage host `get_timeout`, until
    /// its headers are there.
    async fn send(&self, start: &Url, accept: &'static str, headers: &HeaderMap) -> Result<Answer, FetchError> {
        let mut url = start.clone();
        let mut passed = Vec::new();
        let mut at_home = is_below(start, &self.settings.api);
        loop {
            let answer = self.send_once(start, &url, accept, headers, at_home).await?;
            if !is_redirect(answer.status) {
                return Ok(answer);
            }
            let next = self.next(&answer, &url)?;
            passed.push(url);
            if passed.contains(&next) {
                return Err(FetchError::passing(format!("{} redirects in a loop: {} comes twice", shown(start), shown(&next))));
            }
            if passed.len() > REDIRECTS_MAX {
                return Err(FetchError::passing(format!("{} redirects more than {REDIRECTS_MAX} times", shown(start))));
            }
            at_home &= is_below(&next, &self.settings.api);
            url = next;
        }
    }

    async fn send_once(
        &self,
        start: &Url,
        url: &Url,
        accept: &'static str,
        headers: &HeaderMap,
        at_home: bool,
    ) -> Result<Answer, FetchError> {
        let mut all = headers.clone();
        all.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        all.insert(ACCEPT, HeaderValue::from_static(accept));
        // Lengths, digests and ranges are then those of the published file.
        all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(token) = self.settings.token.as_ref().filter(|_| at_home) {
            all.insert(AUTHORIZATION, token.header.clone());
        }
        let asked = self.asked(url);
        let limit = if is_below(url, &self.settings.api) { self.settings.api_timeout } else { self.settings.get_timeout };
        let sending = timeout(limit, self.client._get_with_headers(url.as_str(), Some(all))).await;
        let answer = sending.map_err(|_| asked.silent(limit))?.map_err(|error| asked.without_answer(&error))?;
        let (parts, body) = answer.into_parts();
        Ok(Answer { asked: start.clone(), url: url.clone(), status: parts.status, headers: parts.headers, body })
    }

    /// Where a redirect leads.
    fn next(&self, answer: &Answer, url: &Url) -> Result<Url, FetchError> {
        let status = answer.status;
        let unusable = |why: &str| FetchError::passing(format!("{} answered {status} {why}", shown(url)));
        let location = answer.headers.get(LOCATION).ok_or_else(|| unusable("without a Location"))?;
        let location = location.to_str().map_err(|_| unusable("with a Location that is no text"))?;
        // Who asks there would hand it over, and so would a log that names the place.
        if self.settings.token.as_ref().is_some_and(|token| token.is_in(location.as_bytes())) {
            return Err(unusable("with a Location that has the token of this program in it"));
        }
        let mut next = url.join(location).map_err(|_| unusable("with a Location that is no URL"))?;
        strip(&mut next);
        match (url.scheme(), next.scheme()) {
            ("https", "http") => Err(FetchError::settings(format!(
                "{} redirects to {}, which anybody on the way could change; refused",
                shown(url),
                shown(&next)
            ))),
            (_, "http" | "https") => Ok(next),
            (_, scheme) => Err(unusable(&format!("with a Location of the scheme {scheme}"))),
        }
    }

    /// Reads at most `bytes_max` of a body, before and after it is unpacked if it is compressed.
    async fn read(&self, answer: Answer, bytes_max: usize, longer: Longer) -> Result<Told, FetchError> {
        let Answer { asked, url, status, headers, mut body } = answer;
        let at = shown(&url);
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| FetchError::passing(format!("the answer of {at} broke off: {}", error::first_cause(&error))))?;
            let Ok(piece) = frame.into_data() else { continue };
            bytes.extend_from_slice(&piece);
            if bytes.len() > bytes_max {
                break;
            }
        }
        let is_too_long = bytes.len() > bytes_max;
        match text(&headers, &CONTENT_ENCODING).map(|encoding| encoding.to_ascii_lowercase()).as_deref() {
            None | Some("identity") => {}
            Some("gzip" | "x-gzip") => {
                let mut unpacked = Vec::new();
                let unpacking = MultiGzDecoder::new(bytes.as_slice()).take(bytes_max as u64 + 1).read_to_end(&mut unpacked);
                unpacking.map_err(|error| FetchError::passing(format!("the answer of {at} cannot be unpacked: {error}")))?;
                bytes = unpacked;
            }
            Some(other) => {
                return Err(FetchError::passing(format!("the answer of {at} has the Content-Encoding {other}, and none was asked for")));
            }
        }
        if (is_too_long || bytes.len() > bytes_max) && longer == Longer::Refused {
            return Err(FetchError::passing(format!("the answer of {at} has more than {bytes_max} bytes")));
        }
        bytes.truncate(bytes_max);
        Ok(Told { asked, url, status, headers, body: bytes })
    }
}

impl Answer {
    /// What answered, as it may be shown.
    pub(crate) fn shown(&self) -> String {
        shown(&self.url)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
