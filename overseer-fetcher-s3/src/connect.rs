//! The client of one look: region, credentials, roots, proxies, and the requests.
//!
//! One request of the SDK is one request here: its retries, its time-outs, its correction of clocks and its checks of bodies are off, since core
//! looks again, and [`look`](crate::look) and [`body`](crate::body) know more of what they wait for.

use crate::error::{self, Failure};
use crate::fetcher::Credentials;
use crate::settings::{Settings, environment};
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials as Keys, ProvideCredentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::SdkBody;
use aws_sdk_s3::types::ChecksumMode;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use http_body_util::Limited;
use overseer_core::FetchError;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// For servers with one region, which take any name for it.
const REGION_OF_ENDPOINTS: &str = "us-east-1";
/// Outside Amazon's cloud nobody answers for the instance.
const INSTANCE_TIMEOUT: Duration = Duration::from_secs(3);
/// A process or a service that hands out credentials may have to ask others.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(30);
/// The text of an error has some hundred bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A client that knows its settings. Lives for one look.
pub(crate) struct Connection {
    pub(crate) settings: Settings,
    pub(crate) region: String,
    pub(crate) keys: KeysFrom,
    /// What no text may have in it, however it came there.
    pub(crate) secrets: Vec<String>,
    client: Client,
}

/// Where the credentials come from, for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeysFrom {
    Settings,
    Environment,
    Elsewhere,
}

impl Connection {
    /// Finds region and credentials. Reads files and may ask the container's or the instance's services, but not S3.
    pub(crate) async fn open(settings: Settings) -> Result<Self, FetchError> {
        let http = http_client(&settings)?;
        let region = region(&settings, &http).await?;
        let (keys, from) = keys(&settings, &region, &http).await?;
        let secrets = [Some(keys.secret_access_key()), keys.session_token()].into_iter().flatten().map(str::to_owned).collect();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(keys))
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .disable_clock_skew_correction(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(settings.path_style);
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint.as_str().trim_end_matches('/'));
        }
        let client = Client::from_conf(config.build());
        Ok(Self { settings, region, keys: from, secrets, client })
    }

    /// Asks for what is told of the object.
    pub(crate) async fn head(&self) -> Result<HeadObjectOutput, Failure> {
        let Settings { bucket, key, version_id, head_timeout, .. } = &self.settings;
        let request = self.client.head_object().bucket(bucket).key(key).set_version_id(version_id.clone());
        let answer = timeout(*head_timeout, request.checksum_mode(ChecksumMode::Enabled).send()).await;
        answer.map_err(|_| error::silent(self, "HEAD", *head_timeout))?.map_err(|error| error::failure(self, "HEAD", error))
    }

    /// Asks for the object's bytes from `from` on, if it is still the one with this ETag.
    pub(crate) async fn get(&self, from: u64, etag: Option<&str>, patience: Duration) -> Result<GetObjectOutput, Failure> {
        let Settings { bucket, key, version_id, .. } = &self.settings;
        let request = self.client.get_object().bucket(bucket).key(key).set_version_id(version_id.clone());
        let request = request.set_if_match(etag.map(str::to_owned));
        self.send(request.set_range((from > 0).then(|| format!("bytes={from}-"))), patience).await
    }

    /// Asks for the object called `key`.
    pub(crate) async fn get_beside(&self, key: &str, patience: Duration) -> Result<GetObjectOutput, Failure> {
        self.send(self.client.get_object().bucket(&self.settings.bucket).key(key), patience).await
    }

    /// Asks for the first byte, to hear why HEAD was refused: its answers have no text.
    pub(crate) async fn ask_why(&self) -> Result<GetObjectOutput, Failure> {
        let Settings { bucket, key, version_id, head_timeout, .. } = &self.settings;
        let request = self.client.get_object().bucket(bucket).key(key).set_version_id(version_id.clone());
        self.send(request.range("bytes=0-0"), *head_timeout).await
    }

    async fn send(
        &self,
        request: aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder,
        patience: Duration,
    ) -> Result<GetObjectOutput, Failure> {
        let answer = timeout(patience, request.send()).await;
        answer.map_err(|_| error::silent(self, "GET", patience))?.map_err(|error| error::failure(self, "GET", error))
    }
}

/// A client that trusts the roots of the settings and asks through the proxies of the environment.
fn http_client(settings: &Settings) -> Result<SharedHttpClient, FetchError> {
    let has_system_roots = !rustls_native_certs::load_native_certs().certs.is_empty();
    let has_own_roots = !settings.root_certificates.is_empty();
    let is_plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
    if !has_system_roots && !has_own_roots && !is_plain {
        return Err(FetchError::settings(format!(
            "cannot check the certificate for {}; this system has no root certificates: \
             install ca-certificates, set SSL_CERT_FILE, or give root_certificate",
            settings.source
        )));
    }
    let mut roots = TrustStore::empty().with_native_roots(has_system_roots);
    for pem in &settings.root_certificates {
        roots.add_pem_certificate(pem.clone());
    }
    let tls = TlsContext::builder().with_trust_store(roots).build();
    let tls = tls.map_err(|error| FetchError::settings(format!("TLS cannot be prepared: {}", FetchError::chain(&error))))?;
    let made = Mutex::new(HashMap::new());
    Ok(http_client_fn(move |times, components| {
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        let connector = made.entry((times.connect_timeout(), times.read_timeout())).or_insert_with(|| {
            let mut connector = Connector::builder().connector_settings(times.clone()).proxy_config(ProxyConfig::from_env());
            connector.set_sleep_impl(components.sleep_impl());
            let connector = connector.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(tls.clone()).build();
            SharedHttpConnector::new(ShortErrors(connector))
        });
        connector.clone()
    }))
}

/// Cuts the text of an error, which the SDK reads to its end, however far that is.
#[derive(Debug)]
struct ShortErrors(Connector);

impl HttpConnector for ShortErrors {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            Ok(answer.map(|body| SdkBody::from_body_1_x(Limited::new(body, ERROR_BYTES_MAX))))
        })
    }
}

/// See [`S3Fetcher::region`](crate::S3Fetcher::region).
async fn region(settings: &Settings, http: &SharedHttpClient) -> Result<String, FetchError> {
    let set = settings.region.clone().or_else(|| environment("AWS_REGION")).or_else(|| environment("AWS_DEFAULT_REGION"));
    if let Some(region) = set {
        return Ok(region);
    }
    let config = ProviderConfig::without_region().with_http_client(http.clone());
    if let Some(region) = ProfileFileRegionProvider::builder().configure(&config).build().region().await {
        return Ok(region.to_string());
    }
    if settings.endpoint.is_some() {
        return Ok(REGION_OF_ENDPOINTS.to_owned());
    }
    let instance = ImdsRegionProvider::builder().configure(&config).build();
    if let Ok(Some(region)) = timeout(INSTANCE_TIMEOUT, instance.region()).await {
        return Ok(region.to_string());
    }
    Err(FetchError::settings(format!(
        "no region for {}: none is set by region, AWS_REGION, AWS_DEFAULT_REGION or the profile, and there is no instance to ask",
        settings.source
    )))
}

/// See [Credentials](crate#credentials).
async fn keys(settings: &Settings, region: &str, http: &SharedHttpClient) -> Result<(Keys, KeysFrom), FetchError> {
    if let Some(Credentials { access_key, secret_key, session_token }) = &settings.credentials {
        return Ok((Keys::new(access_key, secret_key, session_token.clone(), None, "settings"), KeysFrom::Settings));
    }
    if let Some(keys) = keys_of_environment()? {
        return Ok((keys, KeysFrom::Environment));
    }
    let region = Region::new(region.to_owned());
    let config = ProviderConfig::default().with_region(Some(region.clone())).with_http_client(http.clone());
    let ask = async {
        let chain = DefaultCredentialsChain::builder().configure(config).region(region).build().await;
        chain.provide_credentials().await
    };
    let source = &settings.source;
    match timeout(CREDENTIALS_TIMEOUT, ask).await {
        Ok(Ok(keys)) => Ok((keys, KeysFrom::Elsewhere)),
        Ok(Err(error)) => Err(error::without_credentials(source, &error)),
        Err(_) => Err(FetchError::passing(format!(
            "no credentials for {source}: what hands them out did not answer within {CREDENTIALS_TIMEOUT:?}"
        ))),
    }
}

/// In the spelling of the AWS tools, else in that of the Go original.
fn keys_of_environment() -> Result<Option<Keys>, FetchError> {
    let [access, secret] = [["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"], ["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"]];
    let first = |names: [&str; 2]| names.into_iter().find_map(environment);
    match (first(access), first(secret)) {
        (Some(access), Some(secret)) => Ok(Some(Keys::new(access, secret, environment("AWS_SESSION_TOKEN"), None, "environment"))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(access, secret)),
        (None, Some(_)) => Err(half(secret, access)),
    }
}

fn half(there: [&str; 2], missing: [&str; 2]) -> FetchError {
    let [there, missing] = [there, missing].map(|names| names.join(" or "));
    FetchError::settings(format!("the environment has {there} and not {missing}"))
}
