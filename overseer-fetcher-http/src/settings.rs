//! The settings of a fetcher, read: every text is a URL, a header or a certificate, or an error that names it.

use crate::fetcher::{HttpFetcher, Proxy};
use crate::place::NamePattern;
use crate::url::{self, without_secrets};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use overseer_core::FetchError;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Url};
use std::time::Duration;

/// Headers that the fetcher sets by itself, or that would change what an answer means.
const OWN_HEADERS: [&str; 11] = [
    "accept-encoding",
    "connection",
    "content-length",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "transfer-encoding",
];

pub(crate) struct Settings {
    pub(crate) url: Url,
    /// What is sent to the origin of `url` and to nobody else: credentials and the program's own headers.
    pub(crate) secrets: HeaderMap,
    pub(crate) check_headers: Vec<HeaderName>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) proxy: ProxyAt,
    pub(crate) connect_timeout: Duration,
    pub(crate) head_timeout: Duration,
    pub(crate) get_timeout: Duration,
    pub(crate) checksum_file: ChecksumFile,
    pub(crate) file_name: Option<NamePattern>,
}

/// Which file tells the SHA-256 of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChecksumFile {
    None,
    /// Beside the release, under its name and `.sha256`.
    Own,
    /// This one in the directory of the release: `SHA256SUMS`.
    Shared(String),
}

pub(crate) enum ProxyAt {
    Environment,
    Nowhere,
    Url { proxy: Box<reqwest::Proxy>, shown: String },
}

impl Settings {
    /// Reads all settings. No input or output.
    pub(crate) fn read(fetcher: &HttpFetcher) -> Result<Self, FetchError> {
        let address = url::parse(&fetcher.url)?;
        for (name, time) in [
            ("every", fetcher.interval),
            ("connect_timeout", fetcher.connect_timeout),
            ("head_timeout", fetcher.head_timeout),
            ("get_timeout", fetcher.get_timeout),
        ] {
            if time.is_zero() {
                return Err(FetchError::settings(format!("{name} is 0; it must be longer")));
            }
        }
        Ok(Self {
            secrets: secrets(fetcher, address.credentials)?,
            url: address.url,
            check_headers: check_headers(&fetcher.check_headers)?,
            certificates: certificates(&fetcher.root_certificates)?,
            proxy: proxy(&fetcher.proxy)?,
            connect_timeout: fetcher.connect_timeout,
            head_timeout: fetcher.head_timeout,
            get_timeout: fetcher.get_timeout,
            checksum_file: checksum_file(&fetcher.checksum_file)?,
            file_name: fetcher.file_name.as_deref().map(file_name).transpose()?,
        })
    }

    /// Whether the certificates can be used as roots, which is seen only when a client is made of them.
    pub(crate) fn check_certificates(&self) -> Result<(), FetchError> {
        if self.certificates.is_empty() {
            return Ok(());
        }
        let client = reqwest::ClientBuilder::new().no_proxy().tls_certs_only(self.certificates.iter().cloned()).build();
        let unusable = |error: reqwest::Error| {
            FetchError::settings(format!("root_certificate cannot be used: {}", FetchError::chain(&error.without_url())))
        };
        client.map(drop).map_err(unusable)
    }
}

fn secrets(fetcher: &HttpFetcher, in_url: Option<(String, String)>) -> Result<HeaderMap, FetchError> {
    let mut secrets = HeaderMap::new();
    for (name, value) in &fetcher.headers {
        let header = header_name("header", name)?;
        if OWN_HEADERS.contains(&header.as_str()) {
            return Err(FetchError::settings(format!("header {name} is set by the fetcher itself")));
        }
        secrets.append(header, secret(&format!("header {name}"), value)?);
    }
    let basic = |(user, password): &(String, String)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let bearer = fetcher.bearer.iter().map(|token| ("bearer", format!("Bearer {token}")));
    let set = fetcher.basic_auth.iter().map(|pair| ("basic_auth", basic(pair)));
    let written = in_url.iter().map(|pair| ("the user in the URL", basic(pair)));
    let mut used = secrets.contains_key(AUTHORIZATION).then_some("header Authorization");
    for (name, value) in bearer.chain(set).chain(written) {
        if let Some(other) = used.replace(name) {
            return Err(FetchError::settings(format!("{other} and {name} are both set; a request has one authorization")));
        }
        secrets.insert(AUTHORIZATION, secret(name, &value)?);
    }
    Ok(secrets)
}

fn secret(name: &str, value: &str) -> Result<HeaderValue, FetchError> {
    let unusable = |_| FetchError::settings(format!("the value of {name} has a character that no header may have"));
    let mut value = HeaderValue::from_str(value).map_err(unusable)?;
    value.set_sensitive(true);
    Ok(value)
}

fn check_headers(names: &[String]) -> Result<Vec<HeaderName>, FetchError> {
    if names.is_empty() {
        return Err(FetchError::settings("check_headers is empty; without a header to compare no change is ever seen"));
    }
    names.iter().map(|name| header_name("check_headers", name)).collect()
}

fn checksum_file(setting: &ChecksumFile) -> Result<ChecksumFile, FetchError> {
    if let ChecksumFile::Shared(name) = setting
        && (matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '?', '#']))
    {
        return Err(FetchError::settings(format!("checksum_file \"{name}\" is no name of a file in the directory of the release")));
    }
    Ok(setting.clone())
}

fn file_name(template: &str) -> Result<NamePattern, FetchError> {
    NamePattern::parse(&url::expand(template, || format!("file_name \"{template}\""))?)
}

fn header_name(setting: &str, name: &str) -> Result<HeaderName, FetchError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| FetchError::settings(format!("{setting}: \"{name}\" is no header name")))
}

fn certificates(pems: &[Vec<u8>]) -> Result<Vec<Certificate>, FetchError> {
    let mut all = Vec::new();
    for pem in pems {
        match Certificate::from_pem_bundle(pem) {
            Ok(some) if !some.is_empty() => all.extend(some),
            Ok(_) => return Err(FetchError::settings(format!("root_certificate: no certificate in {} bytes of PEM", pem.len()))),
            Err(error) => {
                let error = error.without_url();
                return Err(FetchError::settings(format!("root_certificate cannot be read: {}", FetchError::chain(&error))));
            }
        }
    }
    Ok(all)
}

fn proxy(setting: &Proxy) -> Result<ProxyAt, FetchError> {
    let text = match setting {
        Proxy::Environment => return Ok(ProxyAt::Environment),
        Proxy::Nowhere => return Ok(ProxyAt::Nowhere),
        Proxy::Url(text) => text,
    };
    let unusable = |why: String| FetchError::settings(format!("proxy \"{}\" {why}", without_secrets(text)));
    let url = Url::parse(text).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unusable(format!("has the scheme {}; it must be http or https", url.scheme())));
    }
    let shown = url::shown(&url);
    let proxy = reqwest::Proxy::all(url).map_err(|error| unusable(FetchError::chain(&error.without_url())))?;
    Ok(ProxyAt::Url { proxy: Box::new(proxy), shown })
}
