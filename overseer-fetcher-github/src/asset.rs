//! What GitHub tells of a release, as far as it is read here. Everything else in its answers may change without hurting an upgrade, which is
//! why octocrab's own models, which have every field, are not used.

use chrono::{DateTime, TimeDelta, Utc};
use overseer_core::{Digest, DigestAlgorithm};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// For so long after it was published, a release may still be getting its files, and a file its digest.
pub(crate) const SETTLING_MINUTES: i64 = 15;

/// A release.
#[derive(Debug, Deserialize)]
pub(crate) struct Published {
    pub(crate) id: u64,
    #[serde(deserialize_with = "line")]
    pub(crate) tag_name: String,
    #[serde(default)]
    pub(crate) draft: bool,
    /// That of the commit; GitHub's `latest` is the newest by this.
    created_at: Option<String>,
    published_at: Option<String>,
    updated_at: Option<String>,
    #[serde(default, deserialize_with = "optional_line")]
    pub(crate) html_url: Option<String>,
    #[serde(default)]
    pub(crate) assets: Vec<Asset>,
}

impl Published {
    /// Whether it was published less than 15 minutes before `now`.
    pub(crate) fn is_young(&self, now: DateTime<Utc>) -> bool {
        is_young(self.published_at.as_ref().or(self.created_at.as_ref()), now)
    }

    /// The date of its commit.
    pub(crate) fn created_at(&self) -> Option<DateTime<Utc>> {
        self.created_at.as_deref().and_then(time)
    }

    /// When it was last published or edited.
    pub(crate) fn changed_at(&self) -> Option<DateTime<Utc>> {
        self.updated_at.as_deref().or(self.published_at.as_deref()).and_then(time)
    }

    /// What orders releases: the newest has the greatest.
    pub(crate) fn place(&self) -> impl Ord + use<> {
        (self.created_at(), self.published_at.as_deref().and_then(time), self.id)
    }

    pub(crate) fn asset(&self, name: &str) -> Option<&Asset> {
        self.assets.iter().find(|asset| asset.name == name)
    }
}

/// A file of a release, as [`GitHubFetcher::asset_by`](crate::GitHubFetcher::asset_by) sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Asset {
    pub(crate) id: u64,
    #[serde(deserialize_with = "line")]
    pub(crate) name: String,
    label: Option<String>,
    content_type: Option<String>,
    #[serde(default = "uploaded", deserialize_with = "line")]
    pub(crate) state: String,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) digest: ToldDigest,
    #[serde(default, deserialize_with = "optional_line")]
    updated_at: Option<String>,
}

impl Asset {
    /// The name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is shown in place of the name, if its publisher has set that.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref().filter(|label| !label.is_empty())
    }

    /// The media type that it was uploaded with.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Whether it was put into its release, which may be an old one, less than 15 minutes before `now`.
    pub(crate) fn is_young(&self, now: DateTime<Utc>) -> bool {
        is_young(self.updated_at.as_ref(), now)
    }

    pub(crate) fn is_uploaded(&self) -> bool {
        self.state == UPLOADED
    }

    /// What tells this file from every other one: a file that takes the place of another under the same name has an ID of its own.
    pub(crate) fn tag(&self) -> String {
        match &self.digest {
            ToldDigest::Is(digest) => format!("asset {} {digest}", self.id),
            ToldDigest::Never | ToldDigest::NotYet => {
                format!("asset {} of {}, {} bytes", self.id, self.updated_at.as_deref().unwrap_or("an unknown date"), self.size)
            }
        }
    }

    /// The digest that core is to check. An algorithm that nobody knows yet is passed over.
    ///
    /// # Errors
    /// The text that should be a SHA-256 and is none.
    pub(crate) fn digest(&self) -> Result<Option<Digest>, &str> {
        let ToldDigest::Is(text) = &self.digest else { return Ok(None) };
        let Some((algorithm, hex)) = text.split_once(':') else { return Err(text) };
        let algorithm = match algorithm.to_ascii_lowercase().as_str() {
            "sha256" => DigestAlgorithm::Sha256,
            "sha512" => DigestAlgorithm::Sha512,
            _ => return Ok(None),
        };
        Digest::from_hex(algorithm, hex).map(Some).ok_or(text)
    }
}

const UPLOADED: &str = "uploaded";

/// A server that does not tell the state has only whole files.
fn uploaded() -> String {
    UPLOADED.to_owned()
}

/// The field `digest`: older Enterprise servers do not have it, and for files from before 2025 and those that came a moment ago it is `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ToldDigest {
    #[default]
    Never,
    NotYet,
    Is(String),
}

impl<'de> Deserialize<'de> for ToldDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(optional_line(deserializer)?.map_or(Self::NotYet, Self::Is))
    }
}

/// What GitHub takes for a name has a few hundred bytes at most.
const LINE_BYTES_MAX: usize = 1024;

/// A text that may be shown. Nobody's release has a name that moves a cursor or writes a second line into a log.
fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > LINE_BYTES_MAX {
        return Err(D::Error::custom(format!("a name in it has {} bytes, more than {LINE_BYTES_MAX}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(D::Error::custom("a name in it has a control character"));
    }
    Ok(text)
}

fn optional_line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Line(#[serde(deserialize_with = "line")] String);
    Ok(Option::<Line>::deserialize(deserializer)?.map(|Line(text)| text))
}

/// What is from the future is young.
fn is_young(date: Option<&String>, now: DateTime<Utc>) -> bool {
    date.and_then(|date| time(date)).is_some_and(|date| now - date < TimeDelta::minutes(SETTLING_MINUTES))
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asset(json: &str) -> Asset {
        serde_json::from_str(json).expect("an asset")
    }

    #[test]
    fn the_tag_is_id_and_digest_and_without_a_digest_date_and_size() {
        let with = asset(r#"{"id":7,"name":"app","size":3,"digest":"sha256:ab","updated_at":"2025-01-30T11:12:00Z"}"#);
        assert_eq!(with.tag(), "asset 7 sha256:ab");
        let null = asset(r#"{"id":7,"name":"app","size":3,"digest":null,"updated_at":"2025-01-30T11:12:00Z"}"#);
        assert_eq!((null.tag().as_str(), &null.digest), ("asset 7 of 2025-01-30T11:12:00Z, 3 bytes", &ToldDigest::NotYet));
        let never = asset(r#"{"id":7,"name":"app","size":3,"label":""}"#);
        assert_eq!((&never.digest, never.label(), never.is_uploaded()), (&ToldDigest::Never, None, true));
    }

    #[test]
    fn a_digest_is_a_whole_sha256_or_an_error_and_an_unknown_algorithm_is_passed_over() {
        let digest = |digest: &str| {
            let asset = asset(&format!(r#"{{"id":7,"name":"app","size":3,"digest":"{digest}"}}"#));
            asset.digest().map(|found| found.is_some()).map_err(str::to_owned)
        };
        assert_eq!(digest(&format!("sha256:{}", "0a".repeat(32))), Ok(true));
        assert_eq!(digest("sha256:abc123"), Err("sha256:abc123".to_owned()));
        assert_eq!(digest("abc123"), Err("abc123".to_owned()));
        assert_eq!(digest("blake9:abc123"), Ok(false));
    }

    #[test]
    fn a_release_is_young_for_a_quarter_of_an_hour_by_the_clock_of_the_server() {
        let release: Published =
            serde_json::from_str(r#"{"id":1,"tag_name":"v1","published_at":"2025-01-30T11:12:00Z"}"#).expect("a release");
        let at = |text: &str| time(text).expect("a time");
        assert!(release.is_young(at("2025-01-30T11:26:59Z")));
        assert!(release.is_young(at("2025-01-30T11:00:00Z")));
        assert!(!release.is_young(at("2025-01-30T11:27:00Z")));
    }
}
