//! The settings of a fetcher, read: every text can be used as it is, or is an error that names it.

use crate::fetcher::{Credentials, S3Fetcher};
use overseer_core::FetchError;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::env::consts::{ARCH, OS};
use std::time::Duration;
use url::Url;

const PLACEHOLDERS: &str = "{os}, {arch}, {target}";
/// The longest key that S3 knows.
const KEY_BYTES_MAX: usize = 1024;

pub(crate) struct Settings {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version_id: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<Url>,
    pub(crate) path_style: bool,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) head_timeout: Duration,
    pub(crate) get_timeout: Duration,
    pub(crate) sha256_file: bool,
    pub(crate) root_certificates: Vec<Vec<u8>>,
    /// What the fetcher calls its source, which errors begin with.
    pub(crate) source: String,
}

impl Settings {
    /// Reads all settings, and of the environment the endpoint. No input or output.
    pub(crate) fn read(fetcher: &S3Fetcher) -> Result<Self, FetchError> {
        for (name, time) in [("every", fetcher.interval), ("head_timeout", fetcher.head_timeout), ("get_timeout", fetcher.get_timeout)] {
            if time.is_zero() {
                return Err(FetchError::settings(format!("{name} is 0; it must be longer")));
            }
        }
        let endpoint = endpoint_text(fetcher).map(|(name, text)| endpoint(&name, &text)).transpose()?;
        let settings = Self {
            bucket: bucket(&fetcher.bucket)?,
            key: key(&fetcher.key)?,
            version_id: fetcher.version_id.clone(),
            region: fetcher.region.clone(),
            path_style: fetcher.path_style.unwrap_or(endpoint.is_some()),
            endpoint,
            credentials: fetcher.credentials.clone(),
            head_timeout: fetcher.head_timeout,
            get_timeout: fetcher.get_timeout,
            sha256_file: fetcher.sha256_file,
            root_certificates: fetcher.root_certificates.clone(),
            source: source(fetcher),
        };
        for (name, value) in [("version_id", &settings.version_id), ("region", &settings.region)] {
            if value.as_ref().is_some_and(|value| !is_word(value)) {
                return Err(FetchError::settings(format!(
                    "{name} \"{}\" is empty or has a space in it",
                    value.as_deref().unwrap_or_default()
                )));
            }
        }
        if let Some(Credentials { access_key, secret_key, session_token }) = &settings.credentials {
            let token = session_token.iter().map(|token| ("session token", token));
            for (name, value) in [("access key", access_key), ("secret key", secret_key)].into_iter().chain(token) {
                if !is_word(value) {
                    return Err(FetchError::settings(format!("credentials: the {name} is empty or has a character that none can have")));
                }
            }
        }
        settings.root_certificates.iter().try_for_each(|pem| check_certificate(pem))?;
        Ok(settings)
    }

    /// The last part of the key.
    pub(crate) fn file_name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// The object beside the release with this ending, for an error.
    pub(crate) fn beside(&self, ending: &str) -> String {
        let object = format!("s3://{}/{}{ending}", self.bucket, self.key);
        self.endpoint.as_ref().map_or_else(|| object.clone(), |url| format!("{object} at {}", host(url)))
    }

    /// Who answers, for an error: `s3.example.org:9000`, or `S3 in eu-west-1`.
    pub(crate) fn place(&self, region: &str) -> String {
        self.endpoint.as_ref().map_or_else(|| format!("S3 in {region}"), host)
    }
}

/// `s3://bucket/key`, and the host of an endpoint that is not Amazon's own.
pub(crate) fn source(fetcher: &S3Fetcher) -> String {
    let key = expand(&fetcher.key).unwrap_or_else(|_| fetcher.key.clone());
    let object = format!("s3://{}/{key}", fetcher.bucket);
    match endpoint_text(fetcher).and_then(|(name, text)| endpoint(&name, &text).ok()) {
        Some(url) => format!("{object} at {}", host(&url)),
        None => object,
    }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The endpoint and what set it.
fn endpoint_text(fetcher: &S3Fetcher) -> Option<(String, String)> {
    let set = fetcher.endpoint.clone().map(|text| ("endpoint".to_owned(), text));
    let variable = |name: &str| Some((name.to_owned(), environment(name)?));
    set.or_else(|| variable("AWS_ENDPOINT_URL_S3")).or_else(|| variable("AWS_ENDPOINT_URL"))
}

/// A variable of the environment that is set to something.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn bucket(bucket: &str) -> Result<String, FetchError> {
    let unusable = |why: &str| Err(FetchError::settings(format!("the bucket \"{bucket}\" {why}")));
    if bucket.contains("://") {
        return unusable("is a URL; it must be the name alone");
    }
    // An access point is given by its ARN, which has slashes.
    if !is_word(bucket) || bucket.contains('/') && !bucket.starts_with("arn:") {
        return unusable("cannot be the name of one");
    }
    Ok(bucket.to_owned())
}

fn key(template: &str) -> Result<String, FetchError> {
    let key = expand(template)?;
    let unusable = |why: &str| Err(FetchError::settings(format!("the key \"{key}\" {why}")));
    if key.is_empty() || key.ends_with('/') {
        return unusable("names no object");
    }
    if key.starts_with('/') {
        return unusable("begins with a slash; a key is no path");
    }
    if key.len() > KEY_BYTES_MAX {
        return unusable("is longer than any of S3");
    }
    Ok(key)
}

fn endpoint(name: &str, text: &str) -> Result<Url, FetchError> {
    // What cannot be read is not shown: it may hold a password.
    let url = Url::parse(text).map_err(|error| FetchError::settings(format!("{name} cannot be read as a URL: {error}")))?;
    let unusable = |why: &str| Err(FetchError::settings(format!("{name} {}://{} {why}", url.scheme(), host(&url))));
    if !matches!(url.scheme(), "http" | "https") {
        return unusable("must be http or https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return unusable("has a user or password in it; credentials are set with credentials");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return unusable("has something after its path");
    }
    Ok(url)
}

/// What fits into a header and is no typing error.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn check_certificate(pem: &[u8]) -> Result<(), FetchError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| FetchError::settings(format!("root_certificate cannot be read: {error}")))?;
        roots.add(certificate).map_err(|error| FetchError::settings(format!("root_certificate cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(FetchError::settings(format!("root_certificate: no certificate in {} bytes of PEM", pem.len())));
    }
    Ok(())
}

/// Puts the names of this system in place of the placeholders.
fn expand(template: &str) -> Result<String, FetchError> {
    let wrong = |what: &str| FetchError::settings(format!("the key \"{template}\" has {what}; there are {PLACEHOLDERS}"));
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let (name, after) =
            rest[at..].strip_prefix('{').and_then(|inner| inner.split_once('}')).ok_or_else(|| wrong("a brace without its partner"))?;
        text.push_str(match name {
            "os" => OS,
            "arch" => ARCH,
            "target" => env!("OVERSEER_TARGET"),
            _ => return Err(wrong(&format!("an unknown placeholder {{{name}}}"))),
        });
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_placeholder_becomes_the_name_of_this_system() {
        let target = env!("OVERSEER_TARGET");
        assert_eq!(key("a/{os}-{arch}/{target}.gz").expect("known placeholders"), format!("a/{OS}-{ARCH}/{target}.gz"));
        let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
        assert!(target.starts_with(ARCH) && (cfg!(not(target_os = "linux")) || target.contains(libc)), "{target}");
    }

    #[test]
    fn the_source_names_the_host_of_an_endpoint_and_nothing_else_of_it() {
        let fetcher = S3Fetcher::new("releases", "app-{os}").endpoint("https://minio.example.org:9000/path");
        assert_eq!(source(&fetcher), format!("s3://releases/app-{OS} at minio.example.org:9000"));
        assert_eq!(Settings::read(&fetcher).expect("good settings").place("x"), "minio.example.org:9000");
    }
}
