//! The address of a release: placeholders, and how an address is shown.
//!
//! Whatever leaves this crate as text names an address by [`shown`]: scheme, host, port and path. User, password, query and
//! fragment may be secrets and are never part of it.

use overseer_core::FetchError;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use std::env::consts::{ARCH, OS};

/// Endings of files that are not the binary itself.
const PACKED: [&str; 4] = [".gz", ".tgz", ".zip", ".zst"];
const PLACEHOLDERS: &str = "{os}, {arch}, {target}, {goos}, {goarch}";

/// Where a release is, and the credentials that were written into its address.
pub(crate) struct Address {
    /// Without user, password and fragment.
    pub(crate) url: Url,
    pub(crate) credentials: Option<(String, String)>,
}

/// Reads the URL of the settings.
pub(crate) fn parse(template: &str) -> Result<Address, FetchError> {
    let text = expand(template, || format!("the URL \"{}\"", without_secrets(template)))?;
    let unreadable = |why: String| FetchError::settings(format!("the URL \"{}\" {why}", without_secrets(&text)));
    let mut url = Url::parse(&text).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unreadable(format!("has the scheme {}; it must be http or https", url.scheme())));
    }
    let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let has_credentials = !url.username().is_empty() || url.password().is_some();
    let credentials = has_credentials.then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
    strip(&mut url);
    Ok(Address { url, credentials })
}

/// Removes what is not sent in a request line: user, password and fragment.
pub(crate) fn strip(url: &mut Url) {
    // These fail only for addresses without a host, of which http and https have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
}

/// The address as it may be logged: `https://host:port/path`.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    strip(&mut url);
    url.set_query(None);
    url.into()
}

/// The last part of the path, as it was before it was put into an address.
pub(crate) fn file_name(url: &Url) -> String {
    let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
    let decoded = percent_decode_str(last).decode_utf8_lossy();
    if decoded.contains('/') { last.to_owned() } else { decoded.into_owned() }
}

/// Whether the ending of a name says how to unpack the file.
pub(crate) fn tells_packing(name: &str) -> bool {
    PACKED.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending))
}

/// The file of the same name with `ending` after it, in the same directory.
pub(crate) fn with_ending(url: &Url, ending: &str) -> Url {
    let mut url = url.clone();
    let path = format!("{}{ending}", url.path());
    url.set_path(&path);
    url
}

/// The file called `name` in the same directory. The query stays, as it may hold what opens the door.
pub(crate) fn sibling(url: &Url, name: &str) -> Url {
    let mut url = url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop().push(name);
    }
    url
}

pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// What cannot be read as a URL, as it may be shown: without what stands before an `@` and after a `?`. Where a password may have
/// either in it, only the scheme is left.
pub(crate) fn without_secrets(text: &str) -> String {
    let (head, tail) = text.find(['?', '#']).map_or((text, ""), |at| text.split_at(at));
    let (scheme, rest) = head.split_once("://").map_or(("", head), |(scheme, rest)| (scheme, rest));
    let rest = if tail.contains('@') { "..." } else { rest.rsplit_once('@').map_or(rest, |(_, host)| host) };
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}

/// Puts the names of this system in place of the placeholders. `shown` names the setting and its value, without secrets.
pub(crate) fn expand(template: &str, shown: impl Fn() -> String) -> Result<String, FetchError> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let name = rest[at..].strip_prefix('{').and_then(|inner| inner.split_once('}')).map(|(name, _)| name);
        text.push_str(match name {
            Some("os") => OS,
            Some("arch") => ARCH,
            Some("target") => env!("OVERSEER_TARGET"),
            Some("goos") => goos(),
            Some("goarch") => goarch(),
            Some(name) => {
                let setting = shown();
                // One in a password or a query may be a part of a secret.
                let placeholder = format!(" {{{name}}}");
                let placeholder = if setting.contains(placeholder.trim_start()) { placeholder.as_str() } else { "" };
                return Err(FetchError::settings(format!("{setting} has an unknown placeholder{placeholder}; there are {PLACEHOLDERS}")));
            }
            None => {
                return Err(FetchError::settings(format!("{} has a brace without its partner; there are {PLACEHOLDERS}", shown())));
            }
        });
        rest = rest[at..].split_once('}').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    Ok(text)
}

/// What Go calls this system.
fn goos() -> &'static str {
    match OS {
        "macos" => "darwin",
        same => same,
    }
}

/// What Go calls this processor.
fn goarch() -> &'static str {
    let little = cfg!(target_endian = "little");
    match ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "loongarch64" => "loong64",
        "powerpc64" if little => "ppc64le",
        "powerpc64" => "ppc64",
        "mips" if little => "mipsle",
        "mips64" if little => "mips64le",
        same => same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn each_placeholder_becomes_the_name_of_this_system() {
        let address = parse("https://host/{os}-{arch}/{target}/{goos}-{goarch}.gz").expect("known placeholders");
        let target = env!("OVERSEER_TARGET");
        assert!(target.contains('-'), "{target} is no triple");
        assert_eq!(shown(&address.url), format!("https://host/{OS}-{ARCH}/{target}/{}-{}.gz", goos(), goarch()));
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        assert_eq!(parse("https://host/{goos}-{goarch}").expect("known").url.path(), "/linux-amd64");
    }

    #[test]
    fn an_unknown_placeholder_and_a_lone_brace_are_named() {
        let error = |template: &str| parse(template).err().expect("it is wrong").to_string();
        assert!(error("https://host/{version}?token=t0p").contains("unknown placeholder {version}"));
        assert!(!error("https://host/{version}?token=t0p").contains("t0p"));
        assert!(error("https://host/{os").contains("brace without its partner"));
        assert!(error("https://host/os}").contains("brace without its partner"));
    }

    #[test]
    fn a_shown_address_has_no_user_password_query_or_fragment() {
        assert_eq!(shown(&url("https://me:pw@host:8443/a/b?sig=1#f")), "https://host:8443/a/b");
        assert_eq!(without_secrets("ht!tp://me:p@w@host/a?sig=1"), "ht!tp://host/a");
        assert_eq!(without_secrets("me:pw@host/a"), "host/a");
        assert_eq!(without_secrets("https://me:p?w@host/a"), "https://...");
        assert_eq!(without_secrets("https://me:pw@host/a?mail=me@here"), "https://...");
    }

    #[test]
    fn credentials_in_the_address_are_decoded_and_taken_out() {
        let address = parse("https://me:p%40w@host/app#x").expect("an address");
        assert_eq!(address.credentials, Some(("me".to_owned(), "p@w".to_owned())));
        assert_eq!(address.url.as_str(), "https://host/app");
    }

    #[test]
    fn what_lies_beside_a_release_keeps_the_query() {
        let release = url("https://host/a/app%201.gz?key=1");
        assert_eq!(with_ending(&release, ".sha256").as_str(), "https://host/a/app%201.gz.sha256?key=1");
        assert_eq!(sibling(&release, "SHA256SUMS").as_str(), "https://host/a/SHA256SUMS?key=1");
        assert_eq!(sibling(&url("https://host/app"), "SHA256SUMS").as_str(), "https://host/SHA256SUMS");
    }

    #[test]
    fn the_name_of_a_file_is_the_last_part_of_the_path_decoded() {
        let name = |text: &str| file_name(&url(text));
        assert_eq!(name("https://host/a/app.gz?key=1"), "app.gz");
        assert_eq!(name("https://host/a/my%20app.gz"), "my app.gz");
        assert_eq!(name("https://host/a/b%2Fapp"), "b%2Fapp");
        assert_eq!(name("https://host"), "");
    }
}
