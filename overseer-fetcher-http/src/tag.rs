//! What an answer's headers say about which version of a release it is.

use overseer_core::MEMO_BYTES_MAX;
use reqwest::header::{CONTENT_LENGTH, DATE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED};
use std::fmt;
use std::time::Duration;

/// A date of change may stand for the bytes only if it was this old when it was sent: a second change within the same
/// second would carry the same date, and two clocks may differ.
const LAST_MODIFIED_AGE_MIN: Duration = Duration::from_secs(60);

/// The checked headers that an answer had, in the order of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(Vec<(HeaderName, String)>);

impl Tag {
    /// Takes the `checked` headers out of an answer to HEAD, or to a GET of the whole file. A length of 0 is left out: no
    /// release is empty, but many a server answers HEAD so.
    pub(crate) fn of(headers: &HeaderMap, checked: &[HeaderName]) -> Self {
        let told = checked.iter().filter_map(|name| Some((name.clone(), text(headers, name)?)));
        Self(told.filter(|(name, value)| *name != CONTENT_LENGTH || value != "0").collect())
    }

    /// The server told none of the checked headers.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the bytes that a GET brings, after this one was told by HEAD. If the file changed in between, the
    /// GET is right; for a header that the GET does not have, HEAD is, which is asked again at the next look. So is it for a
    /// length that differs while another header agrees: such a server counts differently for HEAD.
    pub(crate) fn corrected_by(&self, got: &Self) -> Self {
        let found = |name: &HeaderName| got.0.iter().find(|(other, _)| other == name).map(|(_, value)| value);
        let mut shared = self.0.iter().filter(|(name, _)| *name != CONTENT_LENGTH && found(name).is_some()).peekable();
        let same = shared.peek().is_some() && shared.all(|(name, value)| found(name) == Some(value));
        if same {
            return self.clone();
        }
        Self(self.0.iter().map(|(name, value)| (name.clone(), found(name).unwrap_or(value).clone())).collect())
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, value)) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{name}: {value}")?;
        }
        Ok(())
    }
}

/// What stands for exactly these bytes, for `If-Range`: an ETag that is not weak, or a date of change that is old enough.
/// Without it a transfer cannot be resumed, since nothing would tell that the rest belongs to the same file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Validator {
    ETag(String),
    LastModified(String),
}

impl Validator {
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        if let Some(etag) = text(headers, &ETAG) {
            return etag.starts_with('"').then_some(Self::ETag(etag));
        }
        let changed = text(headers, &LAST_MODIFIED)?;
        let sent = httpdate::parse_http_date(&text(headers, &DATE)?).ok()?;
        let age = sent.duration_since(httpdate::parse_http_date(&changed).ok()?).ok()?;
        (age >= LAST_MODIFIED_AGE_MIN).then_some(Self::LastModified(changed))
    }

    /// The ETag that an earlier look wrote into a tag.
    pub(crate) fn within(tag: &str) -> Option<Self> {
        let (before, etag) = tag.split_once("etag: \"")?;
        let starts_a_header = before.is_empty() || before.ends_with(", ");
        let (opaque, _) = etag.split_once('"')?;
        starts_a_header.then(|| Self::ETag(format!("\"{opaque}\"")))
    }

    pub(crate) fn value(&self) -> &str {
        match self {
            Self::ETag(value) | Self::LastModified(value) => value,
        }
    }

    /// Whether an answer is about other bytes. One that tells nothing is not.
    pub(crate) fn contradicted_by(&self, headers: &HeaderMap) -> Option<String> {
        let name = match self {
            Self::ETag(_) => ETAG,
            Self::LastModified(_) => LAST_MODIFIED,
        };
        text(headers, &name).filter(|value| value != self.value())
    }
}

/// What is remembered for the next look: the tag of the release, and the validators of a conditional GET, which is asked
/// where HEAD is refused. Three lines; a header has no line break.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Memo {
    pub(crate) tag: String,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
}

impl Memo {
    pub(crate) fn of(tag: &str, headers: &HeaderMap) -> Self {
        Self { tag: tag.to_owned(), etag: text(headers, &ETAG), last_modified: text(headers, &LAST_MODIFIED) }
    }

    /// `None` if it is of no use or too long to be kept.
    pub(crate) fn write(&self) -> Option<String> {
        let line = |value: &Option<String>| value.clone().unwrap_or_default();
        let memo = format!("{}\n{}\n{}", self.tag, line(&self.etag), line(&self.last_modified));
        let useful = self.etag.is_some() || self.last_modified.is_some();
        (useful && memo.len() <= MEMO_BYTES_MAX).then_some(memo)
    }

    pub(crate) fn read(memo: &str) -> Option<Self> {
        let mut lines = memo.split('\n');
        let tag = lines.next()?.to_owned();
        let mut value = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
        Some(Self { tag, etag: value(), last_modified: value() })
    }
}

/// The value of a header; several of one name are joined as HTTP says.
pub(crate) fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).collect();
    let value = values.join(", ");
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect()
    }

    const CHECKED: [HeaderName; 3] = [ETAG, LAST_MODIFIED, CONTENT_LENGTH];
    const NOON: &str = "Sun, 06 Nov 1994 12:00:00 GMT";
    const A_SECOND_PAST_NOON: &str = "Sun, 06 Nov 1994 12:00:01 GMT";
    const ONE_O_CLOCK: &str = "Sun, 06 Nov 1994 13:00:00 GMT";

    #[test]
    fn a_tag_names_the_checked_headers_that_are_there_and_leaves_a_length_of_nothing_out() {
        let told = headers(&[(ETAG, "\"a\""), (CONTENT_LENGTH, "5"), (DATE, NOON)]);
        assert_eq!(Tag::of(&told, &CHECKED).to_string(), "etag: \"a\", content-length: 5");
        assert!(Tag::of(&headers(&[(CONTENT_LENGTH, "0")]), &CHECKED).is_empty());
    }

    #[test]
    fn a_get_corrects_what_head_told_unless_only_the_length_differs() {
        let tag = |list: &[(HeaderName, &str)]| Tag::of(&headers(list), &CHECKED);
        let told = tag(&[(ETAG, "\"a\""), (CONTENT_LENGTH, "5")]);
        assert_eq!(told.corrected_by(&tag(&[(ETAG, "\"b\""), (CONTENT_LENGTH, "6")])).to_string(), "etag: \"b\", content-length: 6");
        assert_eq!(told.corrected_by(&tag(&[(ETAG, "\"a\""), (CONTENT_LENGTH, "6")])), told);
        assert_eq!(told.corrected_by(&tag(&[(LAST_MODIFIED, NOON)])), told);
        let length_only = tag(&[(CONTENT_LENGTH, "5")]);
        assert_eq!(length_only.corrected_by(&tag(&[(CONTENT_LENGTH, "6")])).to_string(), "content-length: 6");
    }

    #[test]
    fn only_a_strong_etag_or_an_old_date_stands_for_exactly_these_bytes() {
        let of = |list: &[(HeaderName, &str)]| Validator::of(&headers(list));
        assert_eq!(of(&[(ETAG, "\"a\"")]), Some(Validator::ETag("\"a\"".to_owned())));
        assert_eq!(of(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, NOON), (DATE, ONE_O_CLOCK)]), None);
        assert_eq!(of(&[(LAST_MODIFIED, NOON), (DATE, ONE_O_CLOCK)]), Some(Validator::LastModified(NOON.to_owned())));
        assert_eq!(of(&[(LAST_MODIFIED, NOON), (DATE, A_SECOND_PAST_NOON)]), None);
        assert_eq!(of(&[(LAST_MODIFIED, NOON)]), None);
    }

    #[test]
    fn the_etag_is_found_again_in_a_tag_and_nothing_else_is_taken_for_it() {
        assert_eq!(Validator::within("etag: \"a, b\", content-length: 5"), Some(Validator::ETag("\"a, b\"".to_owned())));
        assert_eq!(Validator::within("content-length: 5, etag: \"a\""), Some(Validator::ETag("\"a\"".to_owned())));
        assert_eq!(Validator::within("etag: W/\"a\", content-length: 5"), None);
        assert_eq!(Validator::within("x-etag: \"a\""), None);
    }

    #[test]
    fn a_memo_reads_as_it_was_written() {
        let memo = Memo { tag: "etag: \"a\"".to_owned(), etag: None, last_modified: Some(NOON.to_owned()) };
        assert_eq!(Memo::read(&memo.write().expect("short enough")), Some(memo));
        let long = Memo { tag: "x".repeat(MEMO_BYTES_MAX), etag: Some("\"a\"".to_owned()), last_modified: None };
        assert_eq!(long.write(), None);
    }
}
