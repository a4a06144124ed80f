//! Which file of a release is the one for this program.

use crate::asset::{Asset, Published};
use crate::system::{System, words};
use overseer_core::FetchError;
use std::sync::Arc;

/// Endings of files that are no binary and no archive with one inside: what proves or describes a release, and what a package manager or an
/// installer takes. Also the archives that core does not unpack.
const OTHER_FILES: [&str; 5] = [
    // Checksums, signatures and what else proves.
    "asc sig sign minisig gpg pem crt cer cert pub bundle sigstore intoto attestation provenance sha1 sha256 sha384 sha512 sha1sum sha256sum \
     sha512sum sha256sums sha512sums md5 md5sum b2 b3 blake3 sum sums digest digests hash",
    // Descriptions.
    "txt md html json jsonl yml yaml xml toml csv sbom spdx cdx pdf zsync blockmap torrent",
    // Installers and packages.
    "deb rpm apk msi dmg pkg appimage snap flatpak exe whl nupkg vsix jar sh ps1 rb run",
    // What a compiler leaves beside the binary.
    "debug dbg dwp pdb so dll dylib wasm",
    // Archives that core does not unpack.
    "xz txz bz2 tbz 7z lz4",
];

/// Words in the name of a file that is something else than the program.
const OTHER_WORDS: &str = "sha256sums sha512sums checksums checksum source sources src installer setup debuginfo symbols dsym sbom";

const PLACEHOLDERS: &str = "{os}, {arch}, {target}, {version}";

/// How the file is chosen.
#[derive(Clone)]
pub(crate) enum Choice {
    /// The one that names this system and processor.
    System,
    Name(String),
    Pattern(String),
    By(Arc<dyn Fn(&Asset) -> bool + Send + Sync>),
}

impl Choice {
    /// What distinguishes it from other choices of the same release. Two closures cannot be told apart.
    pub(crate) fn shown(&self) -> Option<&str> {
        match self {
            Self::System => None,
            Self::Name(text) | Self::Pattern(text) => Some(text),
            Self::By(_) => Some("asset_by"),
        }
    }

    /// Finds out what is wrong with the setting.
    pub(crate) fn check(&self) -> Result<(), FetchError> {
        match self {
            Self::Name(name) if name.is_empty() => Err(FetchError::settings("asset is empty; it must be the name of a file")),
            Self::Pattern(pattern) if pattern.is_empty() => Err(FetchError::settings("asset_pattern is empty")),
            Self::Pattern(pattern) => expand(pattern, &System::this(), "").map(drop),
            _ => Ok(()),
        }
    }

    /// The file of a release.
    ///
    /// # Errors
    /// None or several.
    pub(crate) fn of<'a>(&self, release: &'a Published, system: &System) -> Result<&'a Asset, Unclear> {
        let chosen: Vec<&Asset> = match self {
            Self::System => for_system(release, system),
            Self::Name(name) => release.assets.iter().filter(|asset| asset.name == *name).collect(),
            Self::Pattern(pattern) => {
                let names = expand(pattern, system, &release.tag_name).map_err(|error| Unclear::None(error.to_string()))?;
                release.assets.iter().filter(|asset| names.contains(&asset.name.to_lowercase())).collect()
            }
            Self::By(closure) => release.assets.iter().filter(|asset| closure(asset)).collect(),
        };
        match chosen.as_slice() {
            [asset] => Ok(asset),
            [] => Err(Unclear::None(self.missing(system))),
            several => Err(Unclear::Several(list(several.iter().copied()))),
        }
    }

    fn missing(&self, system: &System) -> String {
        match self {
            Self::System => {
                let or = |names: &[&str]| names.join("/");
                format!("no file that names this system ({}, {}, {})", or(system.systems), or(system.processors), system.target)
            }
            Self::Name(name) => format!("no file {name}"),
            Self::Pattern(pattern) => format!("no file {pattern} for {}", system.target),
            Self::By(_) => "no file that asset_by takes".to_owned(),
        }
    }
}

/// Why there is no file to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// What is not there.
    None(String),
    /// Their names.
    Several(String),
}

/// The names of files, for an error.
pub(crate) fn list<'a>(assets: impl IntoIterator<Item = &'a Asset>) -> String {
    const SHOWN_MAX: usize = 30;
    let mut names: Vec<_> = assets.into_iter().map(|asset| asset.name.as_str()).collect();
    names.sort_unstable();
    let left_out = names.len().saturating_sub(SHOWN_MAX);
    names.truncate(SHOWN_MAX);
    let more = if left_out == 0 { String::new() } else { format!(" and {left_out} more") };
    format!("{}{more}", names.join(", "))
}

fn for_system<'a>(release: &'a Published, system: &System) -> Vec<&'a Asset> {
    let fitting = release.assets.iter().filter(|asset| may_be_program(&asset.name));
    let fitting: Vec<_> = fitting.filter_map(|asset| Some((system.fits(&asset.name)?, asset))).collect();
    let best = fitting.iter().map(|(fit, _)| *fit).max();
    fitting.into_iter().filter(|(fit, _)| Some(*fit) == best).map(|(_, asset)| asset).collect()
}

fn may_be_program(name: &str) -> bool {
    let words = words(name);
    let is_other = |word: &String| OTHER_WORDS.split(' ').any(|other| other == word);
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_lowercase());
    let ends_as_other = ending.is_some_and(|ending| OTHER_FILES.iter().flat_map(|row| row.split(' ')).any(|other| other == ending));
    !ends_as_other && !words.iter().any(is_other)
}

/// The file names, in lower case, that a pattern stands for: each usual spelling of the system in each place.
fn expand(pattern: &str, system: &System, tag_name: &str) -> Result<Vec<String>, FetchError> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    let target = [system.target];
    let versions = versions(tag_name);
    while let Some(at) = rest.find(['{', '}']) {
        let inner = rest[at..].strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let spellings: &[&str] = match inner {
            Some(("os", _)) => system.systems,
            Some(("arch", _)) => system.processors,
            Some(("target", _)) => &target,
            Some(("version", _)) => &versions,
            Some((name, _)) => {
                let text = format!("asset_pattern \"{pattern}\" has an unknown placeholder {{{name}}}; there are {PLACEHOLDERS}");
                return Err(FetchError::settings(text));
            }
            None => {
                let text = format!("asset_pattern \"{pattern}\" has a brace without its partner; there are {PLACEHOLDERS}");
                return Err(FetchError::settings(text));
            }
        };
        let before = rest[..at].to_lowercase();
        let spelled =
            |name: &String| spellings.iter().map(|spelling| format!("{name}{before}{}", spelling.to_lowercase())).collect::<Vec<_>>();
        names = names.iter().flat_map(spelled).collect();
        rest = inner.map_or("", |(_, rest)| rest);
    }
    let rest = rest.to_lowercase();
    names.iter_mut().for_each(|name| name.push_str(&rest));
    Ok(names)
}

/// `v1.2.3` is also 1.2.3, and so is `app-v1.2.3`.
fn versions(tag_name: &str) -> Vec<&str> {
    let mut versions = vec![tag_name];
    let number = tag_name.find(|letter: char| letter.is_ascii_digit()).map(|at| &tag_name[at..]);
    let last = tag_name.rsplit('/').next();
    for version in number.into_iter().chain(last) {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(names: &[&str]) -> Published {
        let assets = names.iter().enumerate().map(|(id, name)| format!(r#"{{"id":{id},"name":"{name}","size":1}}"#));
        let assets = assets.collect::<Vec<_>>().join(",");
        serde_json::from_str(&format!(r#"{{"id":1,"tag_name":"v1.2.3","assets":[{assets}]}}"#)).expect("a release")
    }

    const LINUX: &str = "x86_64-unknown-linux-gnu";

    fn chosen(choice: &Choice, names: &[&str]) -> Result<String, Unclear> {
        choice.of(&release(names), &System::of(LINUX)).map(|asset| asset.name.clone())
    }

    #[test]
    fn by_default_the_one_program_for_this_system_is_taken_out_of_all_that_a_release_has() {
        let others = [
            "app_1.2.3_linux_amd64.deb",
            "app-linux-amd64.rpm",
            "app-linux-amd64.apk",
            "app-windows-amd64.msi",
            "app-darwin-arm64.dmg",
            "app-linux-amd64.tar.gz.sha256",
            "app-linux-amd64.tar.gz.sig",
            "app-linux-amd64.tar.gz.asc",
            "app-linux-amd64.tar.gz.minisig",
            "app-linux-amd64.tar.gz.pem",
            "app-linux-amd64.sbom.json",
            "app-linux-amd64.spdx",
            "SHA256SUMS",
            "checksums.txt",
            "app_1.2.3_linux_amd64_checksums.txt",
            "app-1.2.3-src.tar.gz",
            "app-linux-amd64-source.tar.gz",
            "app-installer.sh",
            "app-darwin-amd64.pkg",
            "app-linux-amd64.debug",
            "app-linux-amd64-debuginfo.tar.gz",
            "app-linux-amd64.tar.xz",
            "app-linux-amd64.AppImage",
            "app-linux-arm64.tar.gz",
            "app-darwin-amd64.tar.gz",
            "app-windows-amd64.zip",
            "app-linux-386.tar.gz",
            "app-linux-armv7.tar.gz",
            "app-setup-linux-amd64",
            "app-x86_64-unknown-linux-musl.tar.gz",
            "app-linux-amd64.intoto.jsonl",
        ];
        let mut names = others.to_vec();
        names.push("app-linux-amd64.tar.gz");
        assert_eq!(chosen(&Choice::System, &names).as_deref(), Ok("app-linux-amd64.tar.gz"));
        assert!(matches!(chosen(&Choice::System, &others), Err(Unclear::None(_))));
    }

    #[test]
    fn a_file_that_names_the_c_library_goes_before_one_that_does_not() {
        let names = ["app-linux-amd64.gz", "app-x86_64-unknown-linux-gnu.gz", "app-x86_64-unknown-linux-musl.gz"];
        assert_eq!(chosen(&Choice::System, &names).as_deref(), Ok("app-x86_64-unknown-linux-gnu.gz"));
    }

    #[test]
    fn an_ambiguity_names_the_candidates() {
        let names = ["app-linux-amd64.zip", "app-linux-x86_64.gz", "app-darwin-arm64.gz"];
        assert_eq!(chosen(&Choice::System, &names), Err(Unclear::Several("app-linux-amd64.zip, app-linux-x86_64.gz".to_owned())));
        let any = Choice::By(Arc::new(|_| true));
        assert_eq!(chosen(&any, &["b", "a"]), Err(Unclear::Several("a, b".to_owned())));
    }

    #[test]
    fn what_is_missing_is_named() {
        let Err(Unclear::None(why)) = chosen(&Choice::System, &["app"]) else { panic!("it names no system") };
        assert_eq!(why, "no file that names this system (linux, x86_64/amd64/x64, x86_64-unknown-linux-gnu)");
        let none = |choice: Choice| chosen(&choice, &["app"]).expect_err("there is none");
        assert_eq!(none(Choice::Name("other".to_owned())), Unclear::None("no file other".to_owned()));
        assert_eq!(none(Choice::Pattern("a-{os}".to_owned())), Unclear::None(format!("no file a-{{os}} for {LINUX}")));
        assert_eq!(none(Choice::By(Arc::new(|_| false))), Unclear::None("no file that asset_by takes".to_owned()));
    }

    #[test]
    fn a_pattern_stands_for_each_usual_spelling() {
        let pattern = |pattern: &str| Choice::Pattern(pattern.to_owned());
        let all = pattern("app-{version}-{os}-{arch}.tar.gz");
        for name in ["app-v1.2.3-linux-x86_64.tar.gz", "app-1.2.3-Linux-amd64.tar.gz", "app-1.2.3-linux-x64.tar.gz"] {
            assert_eq!(chosen(&all, &[name, "app-1.2.3-darwin-arm64.tar.gz"]).as_deref(), Ok(name));
        }
        assert_eq!(chosen(&pattern("{target}/app"), &["x86_64-unknown-linux-gnu/app"]).as_deref(), Ok("x86_64-unknown-linux-gnu/app"));
        assert!(chosen(&pattern("{os}"), &["linux-amd64"]).is_err(), "a pattern stands for the whole name");
        assert_eq!(versions("app/v1.2"), ["app/v1.2", "1.2", "v1.2"]);
    }

    #[test]
    fn an_unknown_placeholder_and_a_lone_brace_are_named() {
        let error = |pattern: &str| Choice::Pattern(pattern.to_owned()).check().expect_err("it is wrong").to_string();
        assert!(error("app-{goos}").contains("unknown placeholder {goos}; there are {os}, {arch}, {target}, {version}"));
        assert!(error("app-{os").contains("brace without its partner"));
        assert!(error("app-os}").contains("brace without its partner"));
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<_> = (10..60).map(|number| format!("app-{number}")).collect();
        let release = release(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(list(&release.assets).ends_with("app-39 and 20 more"));
    }
}
