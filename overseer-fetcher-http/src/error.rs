//! What is told when a server or the way to it fails: one sentence for each, with the address and the number.

use crate::tag::text;
use crate::url::shown;
use overseer_core::FetchError;
use reqwest::blocking::Response;
use reqwest::header::{DATE, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

/// What was asked, for the text of an error.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) url: &'a Url,
    /// The proxy of the settings, as it may be shown.
    pub(crate) proxy: Option<&'a str>,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    /// This system has no root certificates; see [`Connection`](crate::connect::Connection).
    pub(crate) rootless: bool,
}

impl Asked<'_> {
    /// There was no answer at all.
    pub(crate) fn without_answer(&self, error: reqwest::Error) -> FetchError {
        let (timeout, connect, dns) = (error.is_timeout(), error.is_connect(), error.is_dns());
        let error = error.without_url();
        let cause = first_cause(&error);
        let refused = any_cause(&error, |cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        });
        let url = shown(self.url);
        let proxy = self.proxy.map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
        let method = self.method;
        FetchError::passing(if dns {
            format!("the host of {url} cannot be found{proxy}: {cause}")
        } else if connect && timeout {
            format!("cannot connect to {url}{proxy} within {:?}", self.connect_timeout)
        } else if refused {
            format!("nothing listens at {url}{proxy}: {cause}")
        } else if connect && cause.contains("certificate") {
            let hint = if self.rootless { NO_ROOTS } else { "" };
            format!("the certificate of {url} is not trusted{proxy}: {cause}{hint}")
        } else if connect {
            format!("cannot connect to {url}{proxy}: {cause}")
        } else if timeout {
            format!("{url} was silent: no answer to {method} within {:?}{proxy}", self.timeout)
        } else {
            format!("{url} gave no usable answer to {method}{proxy}: {cause}")
        })
    }
}

const NO_ROOTS: &str = "; this system has no root certificates: install ca-certificates, set SSL_CERT_FILE, or give root_certificate";

/// The client could not be made.
pub(crate) fn without_client(error: reqwest::Error, url: &Url) -> FetchError {
    let error = error.without_url();
    if is_rootless(&error) {
        return FetchError::settings(format!("cannot check the certificate of {}{NO_ROOTS}", shown(url)));
    }
    FetchError::settings(format!("cannot prepare to ask {}: {}", shown(url), first_cause(&error)))
}

/// Whether the client could not be made because the system has no root certificates.
pub(crate) fn is_rootless(error: &reqwest::Error) -> bool {
    any_cause(error, |cause| cause.to_string().contains("No CA certificates"))
}

/// An answer with a status that is of no use. `has_credentials`: the settings have some.
pub(crate) fn refusal(answer: &Response, method: &Method, from: &Url, has_credentials: bool) -> FetchError {
    let status = answer.status();
    let redirected = *answer.url() != *from;
    let way = if redirected { format!(", redirected to {},", shown(answer.url())) } else { String::new() };
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !has_credentials => ": no credentials are set",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if redirected && !crate::url::same_origin(answer.url(), from) => {
            ": credentials are not sent to another origin"
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ": the credentials that are set were refused",
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => ": the proxy wants credentials",
        _ => "",
    };
    let pause = retry_after(answer);
    let wish = pause.map_or_else(String::new, |pause| format!(", asks to come back in {pause:?}"));
    let text = format!("{}{way} answered {status} to {method}{wish}{hint}", shown(from));
    let error = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => FetchError::settings(text),
        _ => FetchError::passing(text),
    };
    match pause {
        Some(pause) => error.retry_after(pause),
        None => error,
    }
}

/// Seconds, or a date, which is taken against the server's own clock where it tells it.
fn retry_after(answer: &Response) -> Option<Duration> {
    let value = text(answer.headers(), &RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = text(answer.headers(), &DATE).and_then(|date| httpdate::parse_http_date(&date).ok());
    let now = date.unwrap_or_else(SystemTime::now);
    Some(httpdate::parse_http_date(&value).ok()?.duration_since(now).unwrap_or_default())
}

/// Why a read of a body failed, in a few words: the deepest cause, which tells most. None of them has a URL in it.
pub(crate) fn why_reading_failed(error: &io::Error) -> String {
    error.get_ref().map_or_else(|| error.to_string(), |inner| first_cause(inner))
}

/// Whether a read of a body failed because nothing came.
pub(crate) fn is_stall(error: &io::Error) -> bool {
    let reqwest = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
    error.kind() == io::ErrorKind::TimedOut || reqwest.is_some_and(reqwest::Error::is_timeout)
}

/// Whether a body ended before its announced length.
pub(crate) fn is_short(error: &io::Error) -> bool {
    let cause = why_reading_failed(error);
    // Hyper's words for a missing rest with a length, and for a missing last chunk.
    cause.contains("end of file before message length reached") || cause.contains("unexpected EOF")
}

/// The error that a reader wrapped, or one that names its text.
pub(crate) fn unwrapped(error: io::Error) -> FetchError {
    match error.downcast::<FetchError>() {
        Ok(inner) => inner,
        Err(other) => FetchError::passing(why_reading_failed(&other)),
    }
}

fn first_cause(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}

fn any_cause(error: &(dyn Error + 'static), holds: impl Fn(&(dyn Error + 'static)) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if holds(cause) {
            return true;
        }
        next = cause.source();
    }
    false
}
