//! Under which name a release counts as published, and where: its `.minisig` and `.sha256` files lie beside it there.
//!
//! A signature names the file that it is for, so that nobody can put another program of the same publisher in its place. Were
//! that name taken from a redirect, whoever owns the server would choose it. So the name of a signed release comes
//! from the settings.

use crate::settings::Settings;
use crate::url::{file_name, shown, tells_packing};
use overseer_core::FetchError;
use reqwest::Url;

/// Where the published file is, under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) url: Url,
    pub(crate) name: String,
}

impl Place {
    /// The place of what the URL of the settings has led to. `answered` is where the last redirect ended.
    ///
    /// # Errors
    /// The settings name another file, or leave it to the server to name a file that must be signed.
    pub(crate) fn of(settings: &Settings, answered: &Url, must_be_signed: bool) -> Result<Self, FetchError> {
        let asked = &settings.url;
        let [at_asked, at_answered] = [asked, answered].map(|url| Self { url: url.clone(), name: file_name(url) });
        if let Some(pattern) = &settings.file_name {
            let found = [at_asked, at_answered].into_iter().find(|place| pattern.fits(&place.name));
            return match (found, pattern) {
                (Some(place), _) => Ok(place),
                (None, NamePattern::Whole(name)) => Ok(Self { url: asked.clone(), name: name.clone() }),
                (None, NamePattern::Parts(..)) => {
                    let led = if asked == answered { String::new() } else { format!(" led to {}, which", shown(answered)) };
                    Err(FetchError::settings(format!("{}{led} is not named {pattern}, as file_name says", shown(asked))))
                }
            };
        }
        if !tells_packing(&at_answered.name) || tells_packing(&at_asked.name) {
            return Ok(at_asked);
        }
        if must_be_signed {
            return Err(FetchError::settings(format!(
                "{} redirects to {}: which file must be signed is not for the server to say; set file_name",
                shown(asked),
                shown(answered)
            )));
        }
        Ok(at_answered)
    }
}

/// The setting `file_name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamePattern {
    Whole(String),
    /// What stands before and after the `*`.
    Parts(String, String),
}

impl NamePattern {
    pub(crate) fn parse(text: &str) -> Result<Self, FetchError> {
        let wrong = |why: &str| Err(FetchError::settings(format!("file_name \"{text}\" {why}")));
        if text.is_empty() || text.contains(['/', '?', '#', '\n', '\r']) {
            return wrong("is no name of a file");
        }
        match text.split_once('*') {
            None => Ok(Self::Whole(text.to_owned())),
            Some((_, after)) if after.contains('*') => wrong("has more than one *"),
            Some((before, after)) => Ok(Self::Parts(before.to_owned(), after.to_owned())),
        }
    }

    /// A `*` stands for one character or more.
    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Whole(whole) => name == whole,
            Self::Parts(before, after) => {
                name.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str())).is_some_and(|part| !part.is_empty())
            }
        }
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(name) => f.write_str(name),
            Self::Parts(before, after) => write!(f, "{before}*{after}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HttpFetcher;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    fn place(fetcher: HttpFetcher, answered: &str, must_be_signed: bool) -> Result<(String, String), String> {
        let settings = Settings::read(&fetcher).expect("settings");
        let place = Place::of(&settings, &url(answered), must_be_signed).map_err(|error| error.to_string())?;
        Ok((place.name, place.url.into()))
    }

    fn found(name: &str, url: &str) -> Result<(String, String), String> {
        Ok((name.to_owned(), url.to_owned()))
    }

    #[test]
    fn a_redirect_names_the_file_only_if_it_alone_tells_how_to_unpack_it() {
        let of = |asked: &str, answered: &str| place(HttpFetcher::new(asked), answered, false);
        assert_eq!(of("https://host/latest", "https://host/app-1.2.gz"), found("app-1.2.gz", "https://host/app-1.2.gz"));
        assert_eq!(of("https://host/app.gz", "https://store/0a1b2c"), found("app.gz", "https://host/app.gz"));
        assert_eq!(of("https://host/app", "https://store/0a1b2c"), found("app", "https://host/app"));
    }

    #[test]
    fn a_signed_release_has_the_name_that_the_settings_say() {
        let of = |asked: &str, answered: &str| place(HttpFetcher::new(asked), answered, true);
        assert_eq!(of("https://host/app.gz", "https://store/0a1b2c"), found("app.gz", "https://host/app.gz"));
        assert_eq!(of("https://host/app", "https://host/other"), found("app", "https://host/app"));
        assert_eq!(
            of("https://host/app?key=1", "https://host/other.gz?sig=2"),
            Err("https://host/app redirects to https://host/other.gz: which file must be signed is not for the server to say; set file_name"
                .to_owned())
        );
    }

    #[test]
    fn file_name_says_what_an_address_does_not_and_which_names_a_redirect_may_lead_to() {
        let of = |pattern: &str, answered: &str| place(HttpFetcher::new("https://host/latest").file_name(pattern), answered, true);
        assert_eq!(of("app.zip", "https://store/0a1b2c"), found("app.zip", "https://host/latest"));
        assert_eq!(of("app.zip", "https://host/1.2/app.zip"), found("app.zip", "https://host/1.2/app.zip"));
        assert_eq!(of("app-*.gz", "https://host/app-1.2.gz"), found("app-1.2.gz", "https://host/app-1.2.gz"));
        for other in ["https://host/other-1.2.gz", "https://host/app-.gz", "https://host/app-1.2.zip"] {
            let error = of("app-*.gz", other).expect_err("another name");
            assert_eq!(error, format!("https://host/latest led to {other}, which is not named app-*.gz, as file_name says"));
        }
        let error = of("app-*.gz", "https://host/latest").expect_err("no redirect");
        assert_eq!(error, "https://host/latest is not named app-*.gz, as file_name says");
    }

    #[test]
    fn a_name_that_no_file_can_have_and_two_stars_are_refused() {
        for (text, why) in [("", "is no name"), ("a/b", "is no name"), ("a*b*c", "more than one *")] {
            let error = NamePattern::parse(text).expect_err("it is wrong").to_string();
            assert!(error.starts_with(&format!("file_name \"{text}\"")) && error.contains(why), "{error}");
        }
    }
}
