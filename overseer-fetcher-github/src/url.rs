//! Addresses: of the API, of the pages that people know, and how an address is shown.
//!
//! Whatever leaves this crate as text names an address by [`shown`]. The query of a storage host's address is a signature that lets anybody in.

use overseer_core::FetchError;
use reqwest::Url;

pub(crate) const PUBLIC_API: &str = "https://api.github.com";

/// Reads `base_url`; the path has no slash at its end.
pub(crate) fn api(text: &str) -> Result<Url, FetchError> {
    let unusable = |why: String| FetchError::settings(format!("base_url \"{}\" {why}", without_secrets(text)));
    let mut url = Url::parse(text).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unusable(format!("has the scheme {}; it must be https or http", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(unusable("has a user, a query or a fragment; it is a host and a path, and a token is set by token".to_owned()));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// The address below `base` with these parts at its end; a slash within a part is no separator.
pub(crate) fn below(base: &Url, parts: &[&str]) -> Url {
    let mut url = base.clone();
    // Only an address that cannot have a path refuses; http and https can.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(parts);
    }
    url
}

/// Whether an address belongs to the API: same scheme, host and port, and a path below that of the settings. On an Enterprise server, storage
/// may be on the same host.
pub(crate) fn is_below(url: &Url, base: &Url) -> bool {
    let path = base.path().trim_end_matches('/');
    let rest = url.path().strip_prefix(path);
    url.origin() == base.origin() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether this is the address of a file of a release, and not of a release.
pub(crate) fn is_of_a_file(url: &Url) -> bool {
    url.path().contains("/releases/assets/")
}

/// Whether the API of this base is where no GitHub has one: in the cloud it is a host `api.`, else a path `/api/v3`.
pub(crate) fn is_odd(base: &Url) -> bool {
    !base.host_str().is_some_and(|host| host.starts_with("api.")) && !base.path().ends_with("/api/v3")
}

/// The repository's page: what people know it by.
pub(crate) fn page(base: &Url, owner: &str, repository: &str) -> Url {
    let mut page = base.clone();
    if let Some(host) = base.host_str().and_then(|host| host.strip_prefix("api.")) {
        // The rest of a host is one, too; else the page keeps the name of the API.
        let _ = page.set_host(Some(host));
    }
    let path = page.path().strip_suffix("/api/v3").map(str::to_owned);
    page.set_path(path.as_deref().unwrap_or(base.path()));
    below(&page, &[owner, repository])
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

/// What cannot be read as a URL, as it may be shown: without what stands before an `@` and after a `?`. Where a password may have
/// either in it, only the scheme is left.
pub(crate) fn without_secrets(text: &str) -> String {
    let (head, tail) = text.find(['?', '#']).map_or((text, ""), |at| text.split_at(at));
    let (scheme, rest) = head.split_once("://").map_or(("", head), |(scheme, rest)| (scheme, rest));
    let rest = if tail.contains('@') { "..." } else { rest.rsplit_once('@').map_or(rest, |(_, host)| host) };
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn an_address_of_the_api_is_one_below_its_base() {
        let base = api("https://ghe.example.org/api/v3/").expect("a base");
        assert_eq!(base.as_str(), "https://ghe.example.org/api/v3");
        assert_eq!(below(&base, &["repos", "o", "r", "tags", "a/b c"]).as_str(), "https://ghe.example.org/api/v3/repos/o/r/tags/a%2Fb%20c");
        assert!(is_below(&url("https://ghe.example.org/api/v3/repositories/1"), &base));
        for other in [
            "https://ghe.example.org/storage/1",
            "https://ghe.example.org/api/v30/x",
            "http://ghe.example.org/api/v3/x",
            "https://ghe.example.org:8443/api/v3/x",
            "https://ghe.example.org.evil.example/api/v3/x",
        ] {
            assert!(!is_below(&url(other), &base), "{other}");
        }
        let public = api(PUBLIC_API).expect("a base");
        assert!(is_below(&url("https://api.github.com/repositories/1/releases"), &public));
        assert_eq!(below(&public, &["repos", "o"]).as_str(), "https://api.github.com/repos/o");
    }

    #[test]
    fn the_page_is_the_one_that_people_know() {
        let page = |base: &str| page(&api(base).expect("a base"), "o", "r").to_string();
        assert_eq!(page(PUBLIC_API), "https://github.com/o/r");
        assert_eq!(page("https://api.example.ghe.com"), "https://example.ghe.com/o/r");
        assert_eq!(page("https://ghe.example.org/api/v3"), "https://ghe.example.org/o/r");
        assert_eq!(page("http://127.0.0.1:81"), "http://127.0.0.1:81/o/r");
    }

    #[test]
    fn a_base_without_an_api_is_odd() {
        let is_odd = |base: &str| is_odd(&api(base).expect("a base"));
        assert!(!is_odd(PUBLIC_API) && !is_odd("https://api.example.ghe.com") && !is_odd("https://ghe.example.org/api/v3"));
        assert!(is_odd("https://ghe.example.org") && is_odd("https://github.com"));
    }

    #[test]
    fn an_unusable_base_is_named_without_what_may_be_secret() {
        let error = |text: &str| api(text).expect_err("it is wrong").to_string();
        assert!(error("ftp://host").contains("has the scheme ftp"));
        assert!(error("host").contains("cannot be read"));
        let user = error("https://me:p4ssword@host/api/v3");
        assert!(user.contains("\"https://host/api/v3\" has a user") && !user.contains("p4ssword"), "{user}");
        assert!(!error("https://host/?key=p4ssword").contains("p4ssword"));
        assert_eq!(shown(&url("https://me:pw@host:8443/a?sig=1#f")), "https://host:8443/a");
        assert_eq!(without_secrets("https://me:p?w@host/a"), "https://...");
    }
}
