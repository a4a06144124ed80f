//! Requests and redirects.
//!
//! Redirects are followed here and not by reqwest, so that what holds can be read in one place: credentials and the
//! program's own headers go to the origin (scheme, host, port) of the settings and to nobody else; once a chain of redirects has left that origin, they are
//! not sent any more, also not when it comes back; `https` never leads to `http`.

use crate::error::{self, Asked};
use crate::settings::{ProxyAt, Settings};
use crate::url::{same_origin, shown, strip};
use overseer_core::FetchError;
use reqwest::blocking::{Client, Response};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};

const REDIRECTS_MAX: usize = 10;
const AGENT: &str = concat!("overseer-fetcher-http/", env!("CARGO_PKG_VERSION"));

/// A client that knows its settings. Lives for one look.
pub(crate) struct Connection {
    pub(crate) settings: Settings,
    client: Client,
    /// The system has no root certificates. Then `http` still works, and a redirect to `https` fails with a text that says why.
    rootless: bool,
}

impl Connection {
    /// Reads the system's root certificates; connects to nobody yet.
    pub(crate) fn open(settings: Settings) -> Result<Self, FetchError> {
        let builder = || {
            let builder = Client::builder()
                .redirect(Policy::none())
                .referer(false)
                // A server may close a connection just when the next request goes out on it. A release is rare enough to have its own.
                .pool_max_idle_per_host(0)
                .connect_timeout(settings.connect_timeout)
                // Of a blocking client this is the time for the headers, and then for each read; of a request it would be the time for all.
                .timeout(settings.get_timeout);
            match &settings.proxy {
                ProxyAt::Environment => builder,
                ProxyAt::Nowhere => builder.no_proxy(),
                ProxyAt::Url { proxy, .. } => builder.proxy((**proxy).clone()),
            }
        };
        let own = || settings.certificates.iter().cloned();
        let built = builder().tls_certs_merge(own()).build();
        let (client, rootless) = match built {
            Err(error) if error::is_rootless(&error) && settings.url.scheme() == "http" => (builder().tls_certs_only(own()).build(), true),
            other => (other, false),
        };
        let client = client.map_err(|error| error::without_client(error, &settings.url))?;
        Ok(Self { settings, client, rootless })
    }

    /// Sends a request to `start` and follows redirects. Answers with whatever status comes in the end.
    pub(crate) fn send(&self, method: &Method, start: &Url, headers: &[(HeaderName, String)]) -> Result<Response, FetchError> {
        let mut url = start.clone();
        let mut passed = Vec::new();
        let mut at_home = same_origin(start, &self.settings.url);
        loop {
            let answer = self.send_once(method, &url, headers, at_home)?;
            if !is_redirect(answer.status()) {
                return Ok(answer);
            }
            let next = next(&answer, &url)?;
            passed.push(url);
            if passed.contains(&next) {
                return Err(FetchError::passing(format!("{} redirects in a loop: {} comes twice", shown(start), shown(&next))));
            }
            if passed.len() > REDIRECTS_MAX {
                return Err(FetchError::passing(format!("{} redirects more than {REDIRECTS_MAX} times", shown(start))));
            }
            at_home &= same_origin(&next, &self.settings.url);
            url = next;
        }
    }

    fn send_once(&self, method: &Method, url: &Url, headers: &[(HeaderName, String)], at_home: bool) -> Result<Response, FetchError> {
        let mut all = HeaderMap::new();
        all.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // Lengths, digests, ranges and ETags are then those of the published file.
        all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in headers {
            // What is asked back came from a header, so it fits into one.
            all.insert(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| FetchError::passing(format!("{name} cannot be sent")))?);
        }
        let mut request = self.client.request(method.clone(), url.clone()).headers(all);
        if at_home {
            request = request.headers(self.settings.secrets.clone());
        }
        let mut timeout = self.settings.get_timeout;
        if *method == Method::HEAD {
            timeout = self.settings.head_timeout;
            request = request.timeout(timeout);
        }
        let asked = Asked {
            method,
            url,
            proxy: match &self.settings.proxy {
                ProxyAt::Url { shown, .. } => Some(shown),
                ProxyAt::Environment | ProxyAt::Nowhere => None,
            },
            connect_timeout: self.settings.connect_timeout,
            timeout,
            rootless: self.rootless,
        };
        request.send().map_err(|error| asked.without_answer(error))
    }

    /// The error for an answer to a request to `start` that is of no use.
    pub(crate) fn refusal(&self, answer: &Response, method: &Method, start: &Url) -> FetchError {
        error::refusal(answer, method, start, !self.settings.secrets.is_empty())
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads.
fn next(answer: &Response, url: &Url) -> Result<Url, FetchError> {
    let status = answer.status();
    let unusable = |why: &str| FetchError::passing(format!("{} answered {status} {why}", shown(url)));
    let location = answer.headers().get(LOCATION).ok_or_else(|| unusable("without a Location"))?;
    let location = location.to_str().map_err(|_| unusable("with a Location that is no text"))?;
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
