//! What is told when S3, its like or the way to it fails: one sentence for each, with the object and what the server said.

use crate::connect::{Connection, KeysFrom};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::client::result::ConnectorError;
use overseer_core::FetchError;
use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

/// S3 refuses requests that are signed with a time this far from its own.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);
/// The pause after "slow down", which comes without one.
const THROTTLE_PAUSE: Duration = Duration::from_secs(60);
/// What is shown of a server's own words.
const WORDS_MAX: usize = 200;

/// Why a request brought nothing of use.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is an answer, with a status that says no.
    Refused(Box<Refusal>),
    /// There is none.
    NoAnswer(FetchError),
}

impl Failure {
    /// The error for a GET of `object`.
    pub(crate) fn into_error(self, connection: &Connection, object: &str) -> FetchError {
        match self {
            Self::Refused(refusal) => refusal.into_error(connection, object, "GET"),
            Self::NoAnswer(error) => error,
        }
    }
}

/// What a server says when it says no.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// `NoSuchKey`; empty in the answer to a HEAD.
    pub(crate) code: String,
    message: String,
    region: Option<String>,
    location: Option<String>,
    is_deleted: bool,
    retry_after: Option<Duration>,
    /// The clocks of this machine and of the server, as they were told.
    clocks: Option<(String, String)>,
    skew: Duration,
}

impl Refusal {
    fn of(answer: &HttpResponse) -> Self {
        let header = |name| answer.headers().get(name).map(str::to_owned);
        let text = String::from_utf8_lossy(answer.body().bytes().unwrap_or_default()).into_owned();
        let element = |name| element(&text, name);
        let now = SystemTime::now();
        let told = header("date").and_then(|date| DateTime::from_str(&date, DateTimeFormat::HttpDate).ok());
        let told = told.and_then(|date| SystemTime::try_from(date).ok());
        let by_header = told.map(|told| (clock(now), clock(told)));
        Self {
            status: answer.status().as_u16(),
            // MinIO says in a header what it cannot say in the body of an answer to HEAD.
            code: element("Code").or_else(|| header("x-minio-error-code")).unwrap_or_default(),
            message: element("Message").or_else(|| header("x-minio-error-desc")).unwrap_or_default(),
            region: header("x-amz-bucket-region").or_else(|| element("Region")).or_else(|| expected(&element("Message")?)),
            location: header("location").and_then(|location| host_of(&location)),
            is_deleted: header("x-amz-delete-marker").is_some_and(|value| value == "true"),
            retry_after: header("retry-after").and_then(|value| value.trim().parse().ok()).map(Duration::from_secs),
            clocks: element("RequestTime").zip(element("ServerTime")).or(by_header),
            skew: told.map_or(Duration::ZERO, |told| now.duration_since(told).or_else(|_| told.duration_since(now)).unwrap_or_default()),
        }
    }

    /// Whether only the text of another answer can tell what this one means.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.code.is_empty() && self.region.is_none() && !self.is_deleted && self.skew < SKEW_MAX && matches!(self.status, 400 | 403 | 404)
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.status == 404 && self.code != "NoSuchBucket"
    }

    /// The error for a refused `method` on `object`.
    pub(crate) fn into_error(self, connection: &Connection, object: &str, method: &str) -> FetchError {
        let Connection { settings, region, keys, .. } = connection;
        let bucket = &settings.bucket;
        let place = settings.place(region);
        let status = self.status;
        let answered = match self.code.as_str() {
            "" => format!("{object} answered {status} to {method}"),
            code => format!("{object} answered {status} to {method} ({})", connection.words(code)),
        };
        let from = match keys {
            KeysFrom::Settings => "given with credentials",
            KeysFrom::Environment => "of the environment",
            KeysFrom::Elsewhere => "of the profile, container or instance",
        };
        let settings_error = |why: String| FetchError::settings(format!("{answered}: {why}"));
        let passing = |why: String| FetchError::passing(format!("{answered}: {why}"));
        let told = self.region.as_deref().map(|region| connection.words(region)).filter(|told| told != region);
        match (self.code.as_str(), status) {
            ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IncorrectEndpoint" | "", 301 | 400) if told.is_some() => {
                let told = told.unwrap_or_default();
                settings_error(format!("the bucket {bucket} is in the region {told}, and {region} was asked; set region to {told}"))
            }
            ("RequestTimeTooSkewed", _) => self.skewed(connection, &answered),
            ("", 403) if self.skew >= SKEW_MAX => self.skewed(connection, &answered),
            ("InvalidAccessKeyId", _) => settings_error(format!("{place} does not know the access key {from}")),
            ("SignatureDoesNotMatch", _) => settings_error(format!("the secret key {from} does not belong to its access key")),
            ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => {
                settings_error(format!("the session token {from} has expired"))
            }
            ("InvalidToken", _) => settings_error(format!("the session token {from} is not one of {place}")),
            ("NoSuchBucket", _) => settings_error(format!("there is no bucket {bucket} at {place}")),
            ("NoSuchVersion", _) => {
                let version = settings.version_id.as_deref().unwrap_or_default();
                settings_error(format!("there is no version {version} of it"))
            }
            ("InvalidObjectState", _) => settings_error("it is archived and must be restored before it can be read".to_owned()),
            ("SlowDown" | "ServiceUnavailable" | "Throttling" | "ThrottlingException" | "TooManyRequests" | "RequestLimitExceeded", _)
            | (_, 429 | 503) => {
                let pause = self.retry_after.unwrap_or(THROTTLE_PAUSE);
                passing(format!("{place} asks for fewer requests; looked at again in {pause:?} at the earliest")).retry_after(pause)
            }
            ("PreconditionFailed", _) | (_, 412) => passing("it was replaced since HEAD told of it".to_owned()),
            (_, 301 | 302 | 303 | 307 | 308) => {
                let host = self.location.map_or_else(|| "another host".to_owned(), |host| connection.words(&host));
                let why = format!("it redirects to {host}, and no signed request follows a redirect");
                if status == 307 { passing(why) } else { settings_error(why) }
            }
            (_, 404 | 405) if self.is_deleted => passing("it was deleted: its newest version is a delete marker".to_owned()),
            (_, 404) => passing("there is no such key in the bucket".to_owned()),
            ("" | "AccessDenied", 401 | 403) => settings_error(format!(
                "the credentials {from} may not read it (s3:GetObject), or it is missing, which is told only to those who may list the bucket (s3:ListBucket)"
            )),
            (_, 401 | 403) => settings_error(connection.words(&self.message)),
            (_, _) if !self.message.is_empty() => passing(connection.words(&self.message)),
            (_, _) => FetchError::passing(answered),
        }
    }

    fn skewed(&self, connection: &Connection, answered: &str) -> FetchError {
        let clocks = self.clocks.as_ref().map_or_else(String::new, |(here, there)| {
            format!(": here it is {}, there {}", connection.words(here), connection.words(there))
        });
        FetchError::settings(format!(
            "{answered}: the clocks differ by more than the allowed 15 min{clocks}; set the clock of this machine"
        ))
    }
}

impl Connection {
    /// A server's own words, as they may be logged: short, printable, and left out if they repeat a secret.
    pub(crate) fn words(&self, said: &str) -> String {
        if self.secrets.iter().any(|secret| said.contains(secret)) || said.contains("Signature=") {
            return "...".to_owned();
        }
        let said: String = said.chars().filter(|letter| !letter.is_control()).take(WORDS_MAX).collect();
        said.trim().trim_end_matches('.').to_owned()
    }
}

/// Nothing came in time.
pub(crate) fn silent(connection: &Connection, method: &str, patience: Duration) -> Failure {
    let place = connection.settings.place(&connection.region);
    Failure::NoAnswer(FetchError::passing(format!(
        "{}: {place} was silent: no answer to {method} within {patience:?}",
        connection.settings.source
    )))
}

/// What became of a request that failed. Errors of the SDK are taken apart and never printed whole: some show requests.
pub(crate) fn failure<E>(connection: &Connection, method: &str, error: SdkError<E, HttpResponse>) -> Failure
where
    E: Error + 'static,
{
    let source = &connection.settings.source;
    let place = connection.settings.place(&connection.region);
    if let Some(answer) = error.raw_response()
        && !answer.status().is_success()
    {
        return Failure::Refused(Box::new(Refusal::of(answer)));
    }
    Failure::NoAnswer(match &error {
        SdkError::ConstructionFailure(_) => {
            FetchError::settings(format!("{source} cannot be asked for: {}", connection.words(&first_cause(&error))))
        }
        SdkError::DispatchFailure(failure) => {
            let text = failure.as_connector_error().map_or_else(|| "no connection".to_owned(), |error| unreachable(error, &place));
            FetchError::passing(format!("{source}: {text}"))
        }
        _ => {
            FetchError::passing(format!("{source}: {place} gave no usable answer to {method}: {}", connection.words(&first_cause(&error))))
        }
    })
}

fn unreachable(error: &ConnectorError, place: &str) -> String {
    let cause = first_cause(error);
    let refused =
        any_cause(error, |cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused));
    if any_cause(error, |cause| cause.to_string().contains("dns error")) {
        format!("the host of {place} cannot be found: {cause}")
    } else if refused {
        format!("nothing listens at {place}: {cause}")
    } else if cause.contains("certificate") {
        format!("the certificate of {place} is not trusted: {cause}")
    } else if any_cause(error, |cause| cause.to_string().contains("(Connect)")) {
        format!("cannot connect to {place}: {cause}")
    } else {
        format!("{place} gave no usable answer: {cause}")
    }
}

/// The chain of places where credentials may be has none.
pub(crate) fn without_credentials(source: &str, error: &CredentialsError) -> FetchError {
    let cause = FetchError::chain(error);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => FetchError::settings(format!(
            "no credentials for {source}: none in credentials, in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the profile, \
             from a web identity, a container or an instance"
        )),
        CredentialsError::InvalidConfiguration(_) => FetchError::settings(format!("no credentials for {source}: {cause}")),
        _ => FetchError::passing(format!("no credentials for {source}: {cause}")),
    }
}

/// Why reading a body failed, in a few words: the deepest cause, which tells most.
pub(crate) fn first_cause(error: &(dyn Error + 'static)) -> String {
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

/// The text of the first element of this name. The errors of S3 are flat, and what it says is only shown or compared.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&");
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The region in `the region 'us-east-1' is wrong; expecting 'eu-west-1'`.
fn expected(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("expecting '")?;
    rest.split_once('\'').map(|(region, _)| region.to_owned())
}

fn host_of(location: &str) -> Option<String> {
    url::Url::parse(location).ok()?.host_str().map(str::to_owned)
}

fn clock(time: SystemTime) -> String {
    DateTime::from(time).fmt(DateTimeFormat::HttpDate).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_found_and_decoded_and_an_empty_one_is_none() {
        let xml = "<Error><Code>AccessDenied</Code><Message>&lt;a&gt; &amp;amp;</Message><Region></Region></Error>";
        assert_eq!(element(xml, "Code").as_deref(), Some("AccessDenied"));
        assert_eq!(element(xml, "Message").as_deref(), Some("<a> &amp;"));
        assert_eq!(element(xml, "Region"), None);
        assert_eq!(element("<Code>AccessDenied", "Code"), None);
    }

    #[test]
    fn the_expected_region_is_found_in_the_words_of_s3() {
        let said = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
        assert_eq!(expected(said).as_deref(), Some("eu-west-1"));
    }
}
