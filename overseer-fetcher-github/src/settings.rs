//! The settings of a fetcher, read: every text is an address, a header or a certificate, or an error that names it.

use crate::choose::Choice;
use crate::fetcher::{GitHubFetcher, Proxy, Token, Which};
use crate::url::{self, without_secrets};
use overseer_core::FetchError;
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Url};
use std::time::Duration;

/// Where a token is looked for, in this order.
const TOKEN_VARIABLES: [&str; 2] = ["GITHUB_TOKEN", "GH_TOKEN"];

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) api: Url,
    pub(crate) owner: String,
    pub(crate) repository: String,
    pub(crate) which: Which,
    pub(crate) choice: Choice,
    pub(crate) token: Option<Authorization>,
    pub(crate) sha256_file: bool,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) proxy: ProxyAt,
    pub(crate) interval: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) api_timeout: Duration,
    pub(crate) get_timeout: Duration,
}

/// What is sent to the API and to nobody else.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(crate) header: HeaderValue,
    /// The bare token, to keep it out of a text that a server made.
    pub(crate) token: String,
    /// Where it comes from: `the settings`, `GITHUB_TOKEN`.
    pub(crate) name: &'static str,
}

impl Authorization {
    /// Whether somebody sends the token back.
    pub(crate) fn is_in(&self, bytes: &[u8]) -> bool {
        bytes.windows(self.token.len()).any(|part| part == self.token.as_bytes())
    }
}

#[derive(Clone)]
pub(crate) enum ProxyAt {
    Environment,
    Nowhere,
    Url { proxy: Box<reqwest::Proxy>, shown: String },
}

impl Settings {
    /// Reads all settings and the environment. No other input, no output.
    pub(crate) fn read(fetcher: &GitHubFetcher) -> Result<Self, FetchError> {
        for (name, time) in [
            ("every", fetcher.interval),
            ("connect_timeout", fetcher.connect_timeout),
            ("api_timeout", fetcher.api_timeout),
            ("get_timeout", fetcher.get_timeout),
        ] {
            if time.is_zero() {
                return Err(FetchError::settings(format!("{name} is 0; it must be longer")));
            }
        }
        for (name, value) in [("owner", &fetcher.owner), ("repository", &fetcher.repository)] {
            let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
            if value.is_empty() || value == "." || value == ".." || !value.chars().all(is_name) {
                return Err(FetchError::settings(format!("the {name} \"{}\" is no name that GitHub gives", without_secrets(value))));
            }
        }
        if matches!(&fetcher.which, Which::Tag(tag) if tag.is_empty()) {
            return Err(FetchError::settings("tag is empty; without tag the latest release is taken"));
        }
        fetcher.choice.check()?;
        Ok(Self {
            api: url::api(&fetcher.base_url)?,
            owner: fetcher.owner.clone(),
            repository: fetcher.repository.clone(),
            which: fetcher.which.clone(),
            choice: fetcher.choice.clone(),
            token: authorization(&fetcher.token)?,
            sha256_file: fetcher.sha256_file,
            certificates: certificates(&fetcher.root_certificates)?,
            proxy: proxy(&fetcher.proxy)?,
            interval: fetcher.interval,
            connect_timeout: fetcher.connect_timeout,
            api_timeout: fetcher.api_timeout,
            get_timeout: fetcher.get_timeout,
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

    /// `owner/repository`, as people write it.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.owner, self.repository)
    }
}

fn authorization(setting: &Token) -> Result<Option<Authorization>, FetchError> {
    let (name, token) = match setting {
        Token::None => return Ok(None),
        Token::Set(token) if token.is_empty() => return Err(FetchError::settings("token is empty; leave it out, or set no_token")),
        Token::Set(token) => ("the settings", token.clone()),
        Token::Environment => {
            let set = |name: &&'static str| {
                Some((*name, std::env::var(name).ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())?))
            };
            let Some(found) = TOKEN_VARIABLES.iter().find_map(set) else { return Ok(None) };
            found
        }
    };
    let unusable = |_| FetchError::settings(format!("the token of {name} has a character that no header may have"));
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(unusable)?;
    header.set_sensitive(true);
    Ok(Some(Authorization { header, token, name }))
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
