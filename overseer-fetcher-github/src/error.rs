//! What is told when GitHub or the way to it fails: one sentence for each, with the address and the number, and the pause where one is asked for.

use crate::api::Told;
use crate::fetcher::Which;
use crate::settings::Settings;
use crate::url::{self, shown};
use overseer_core::FetchError;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const SINGLE_SIGN_ON: HeaderName = HeaderName::from_static("x-github-sso");

/// The pause that GitHub asks for where it names none.
const PAUSE: Duration = Duration::from_secs(60);
const MESSAGE_CHARACTERS_MAX: usize = 200;

/// What was asked, for the text of an error.
pub(crate) struct Asked<'a> {
    pub(crate) url: &'a Url,
    /// The proxy of the settings, as it may be shown.
    pub(crate) proxy: Option<&'a str>,
    pub(crate) connect_timeout: Duration,
    /// This system has no root certificates; see [`Api`](crate::api::Api).
    pub(crate) rootless: bool,
}

impl Asked<'_> {
    /// There was no answer at all.
    pub(crate) fn without_answer(&self, error: &octocrab::Error) -> FetchError {
        let cause = first_cause(error);
        let client = |is: fn(&reqwest::Error) -> bool| any_cause(error, |cause| cause.downcast_ref::<reqwest::Error>().is_some_and(is));
        let connect = client(reqwest::Error::is_connect);
        let refused = any_cause(error, |cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        });
        let url = shown(self.url);
        let proxy = self.through();
        FetchError::passing(if client(reqwest::Error::is_dns) {
            format!("the host of {url} cannot be found{proxy}: {cause}")
        } else if connect && client(reqwest::Error::is_timeout) {
            format!("cannot connect to {url}{proxy} within {:?}", self.connect_timeout)
        } else if refused {
            format!("nothing listens at {url}{proxy}: {cause}")
        } else if connect && cause.contains("certificate") {
            let hint = if self.rootless { NO_ROOTS } else { "" };
            format!("the certificate of {url} is not trusted{proxy}: {cause}{hint}")
        } else if connect {
            format!("cannot connect to {url}{proxy}: {cause}")
        } else {
            format!("{url} gave no usable answer{proxy}: {cause}")
        })
    }

    /// Nothing came for `limit`.
    pub(crate) fn silent(&self, limit: Duration) -> FetchError {
        FetchError::passing(format!("{} was silent: no answer within {limit:?}{}", shown(self.url), self.through()))
    }

    fn through(&self) -> String {
        self.proxy.map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"))
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

/// An answer with a status that is of no use. `settings` tell what was asked for, and with whose token.
pub(crate) fn refusal(settings: &Settings, told: &Told) -> FetchError {
    let Told { asked, url, status, headers, .. } = told;
    let way = if url == asked { String::new() } else { format!(", redirected to {},", shown(url)) };
    let begin = format!("{}{way} answered {status}", shown(asked));
    let message = message(told, settings);
    let said = message.as_deref().map_or_else(String::new, |message| format!(" (\"{message}\")"));
    if *status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return FetchError::settings(format!("{begin}: the proxy wants credentials"));
    }
    if !url::is_below(url, &settings.api) {
        // A storage host, which knows no tokens and has words of its own.
        return pausing(FetchError::passing(format!("{begin}{}", wish(retry_after(headers)))), retry_after(headers));
    }
    if let Some(Limited { why, pause }) = limited(told, settings, message.as_deref()) {
        return FetchError::passing(format!("{begin}: {why}{}{said}", wish(Some(pause)))).retry_after(pause);
    }
    let is_agentless = message.as_deref().is_some_and(|message| message.to_ascii_lowercase().contains("user agent"));
    match *status {
        StatusCode::FORBIDDEN if is_agentless => {
            FetchError::passing(format!("{begin}: it misses the User-Agent, which something on the way may have taken out{said}"))
        }
        StatusCode::UNAUTHORIZED => FetchError::settings(format!("{begin}: {}{said}", refused_token(settings, "was refused"))),
        StatusCode::FORBIDDEN if headers.contains_key(SINGLE_SIGN_ON) => {
            let token = refused_token(settings, "is not authorised for the single sign-on of this organisation");
            FetchError::settings(format!("{begin}: {token}{said}"))
        }
        StatusCode::FORBIDDEN => {
            FetchError::settings(format!("{begin}: {}{said}", refused_token(settings, "does not have the right to read releases")))
        }
        // The release was told of a moment ago, so this is nobody's lack of rights.
        StatusCode::NOT_FOUND if url::is_of_a_file(asked) => {
            FetchError::passing(format!("{begin}: the file was replaced or taken away since its release was told of{said}"))
        }
        StatusCode::NOT_FOUND => FetchError::settings(format!("{begin}: {}{said}", not_found(settings))),
        _ => {
            let pause = retry_after(headers);
            pausing(FetchError::passing(format!("{begin}{}{said}", wish(pause))), pause)
        }
    }
}

fn pausing(error: FetchError, pause: Option<Duration>) -> FetchError {
    match pause {
        Some(pause) => error.retry_after(pause),
        None => error,
    }
}

fn wish(pause: Option<Duration>) -> String {
    pause.map_or_else(String::new, |pause| format!(", asks to come back in {pause:?}"))
}

fn refused_token(settings: &Settings, what: &str) -> String {
    match &settings.token {
        Some(token) => format!("the token of {} {what}", token.name),
        None => "no token is set".to_owned(),
    }
}

/// GitHub says the same of what is not there and of what somebody may not see.
fn not_found(settings: &Settings) -> String {
    let name = settings.name();
    let what = match &settings.which {
        Which::Latest => format!("{name} has no release that is neither a draft nor a pre-release"),
        Which::Newest => format!("there is no {name}"),
        Which::Tag(tag) => format!("{name} has no release with the tag {tag}"),
    };
    let private = match &settings.token {
        Some(token) => format!("is private and out of reach for the token of {}", token.name),
        None => "is private, which needs a token, and none is set".to_owned(),
    };
    let hint = if url::is_odd(&settings.api) { "; the base_url of an Enterprise server ends in /api/v3" } else { "" };
    format!("{what}, or it does not exist, or it {private}{hint}")
}

/// Too many requests.
struct Limited {
    why: String,
    pause: Duration,
}

fn limited(told: &Told, settings: &Settings, message: Option<&str>) -> Option<Limited> {
    let Told { status, headers, .. } = told;
    if !matches!(*status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        return None;
    }
    let asked = retry_after(headers);
    if text(headers, &REMAINING).as_deref() == Some("0") {
        let limit = text(headers, &LIMIT).map_or_else(String::new, |limit| format!(" of {limit} requests an hour"));
        let token = match &settings.token {
            Some(token) => format!(" for the token of {}", token.name),
            None => " for requests without a token from this address".to_owned(),
        };
        let often = if is_hasty(settings) {
            format!("; looking every {:?} without a token is more than it allows", settings.interval)
        } else {
            String::new()
        };
        let pause = until_reset(headers).max(asked).unwrap_or(PAUSE);
        return Some(Limited { why: format!("the rate limit{limit}{token} is used up{often}"), pause });
    }
    let says = |what: &str| message.is_some_and(|message| message.to_ascii_lowercase().contains(what));
    let is_secondary =
        asked.is_some() || says("secondary rate limit") || says("abuse detection") || *status == StatusCode::TOO_MANY_REQUESTS;
    is_secondary.then(|| Limited {
        why: "the secondary rate limit, against too many requests in a short time, holds".to_owned(),
        pause: asked.unwrap_or(PAUSE),
    })
}

/// Whether the settings ask more often than GitHub answers without a token.
pub(crate) fn is_hasty(settings: &Settings) -> bool {
    settings.token.is_none() && settings.interval < Duration::from_secs(60)
}

/// How long the rate limit still holds, by the clock of the server.
fn until_reset(headers: &HeaderMap) -> Option<Duration> {
    let reset: u64 = text(headers, &RESET)?.parse().ok()?;
    let now = crate::memo::seconds(now(headers).into());
    Some(Duration::from_secs(reset.saturating_sub(now).max(1)))
}

/// The time by the clock of the server, where it tells it.
pub(crate) fn now(headers: &HeaderMap) -> chrono::DateTime<chrono::Utc> {
    date(headers, &DATE).unwrap_or_else(|| chrono::DateTime::from(SystemTime::now()))
}

/// The value of a header that has a date.
pub(crate) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<chrono::DateTime<chrono::Utc>> {
    Some(chrono::DateTime::parse_from_rfc2822(&text(headers, name)?).ok()?.to_utc())
}

/// Seconds, or a date, which is taken against the server's own clock where it tells it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, &RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some((date(headers, &RETRY_AFTER)? - now(headers)).to_std().unwrap_or_default())
}

/// GitHub's own words. A server that sends our token back does not bring it into a log.
fn message(told: &Told, settings: &Settings) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        message: String,
    }
    let body: Body = serde_json::from_slice(&told.body).ok()?;
    let message = without_token(&body.message, settings);
    let line: String = message.lines().next()?.chars().filter(|letter| !letter.is_control()).take(MESSAGE_CHARACTERS_MAX).collect();
    let line = line.trim();
    // Most often it says no more than the status.
    let is_new = !line.is_empty() && told.status.canonical_reason() != Some(line);
    is_new.then(|| line.to_owned())
}

/// A text that a server made, without our token.
pub(crate) fn without_token(text: &str, settings: &Settings) -> String {
    settings.token.as_ref().map_or_else(|| text.to_owned(), |token| text.replace(&token.token, "..."))
}

/// The value of a header.
pub(crate) fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = String::from_utf8_lossy(headers.get(name)?.as_bytes()).trim().to_owned();
    (!value.is_empty()).then_some(value)
}

/// Whether a body ended before its announced length.
pub(crate) fn is_short(error: &octocrab::Error) -> bool {
    let cause = first_cause(error);
    // Hyper's words for a missing rest with a length, and for a missing last chunk.
    cause.contains("end of file before message length reached") || cause.contains("unexpected EOF")
}

/// The deepest cause, which tells most.
pub(crate) fn first_cause(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    // The only one that has the address in its text, with the signature in it.
    match deepest.downcast_ref::<reqwest::Error>() {
        Some(_) => "the client gave no reason".to_owned(),
        None => deepest.to_string(),
    }
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
