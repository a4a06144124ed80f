//! What systems and processors are called in the names of published files.

/// Names of one operating system each.
const SYSTEMS: [&[&str]; 12] = [
    &["linux"],
    &["macos", "darwin", "apple", "osx", "mac"],
    &["windows", "win", "msvc", "mingw", "cygwin"],
    &["freebsd"],
    &["netbsd"],
    &["openbsd"],
    &["dragonfly", "dragonflybsd"],
    &["android", "androideabi"],
    &["ios"],
    &["illumos", "solaris", "sunos"],
    &["wasi", "wasip1", "wasip2", "wasm", "wasm32", "emscripten"],
    &["fuchsia", "ohos", "aix", "haiku", "plan9"],
];

/// Names of one processor each. The two kinds of 32-bit ARM share the names that leave open which of them is meant.
const PROCESSORS: [&[&str]; 17] = [
    &["x86_64", "amd64", "x64"],
    &["aarch64", "arm64", "armv8", "arm64v8"],
    &["x86", "i386", "i486", "i586", "i686", "386", "ia32"],
    &["armv7", "armv7l", "armv7hf", "armv7a", "armhf", "arm"],
    &["arm", "armv6", "armv6l", "armv6hf", "armhf", "armv5", "armv5te", "armel"],
    &["riscv64", "riscv64gc"],
    &["powerpc64le", "ppc64le", "ppc64el"],
    &["powerpc64", "ppc64"],
    &["s390x"],
    &["loongarch64", "loong64"],
    &["mips"],
    &["mipsel", "mipsle"],
    &["mips64"],
    &["mips64el", "mips64le"],
    &["powerpc", "ppc"],
    &["sparc64", "sparcv9"],
    &["ia64", "arm64ec"],
];

/// Files for both processors of macOS.
const UNIVERSAL: [&str; 3] = ["universal", "universal2", "all"];
const GNU: [&str; 5] = ["gnu", "glibc", "gnueabihf", "gnueabi", "gnuabi64"];
const MUSL: [&str; 4] = ["musl", "musleabihf", "musleabi", "muslabi64"];

/// The C library that a binary is linked with, as far as file names tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Library {
    Gnu,
    Musl,
    Other,
}

/// What a binary runs on.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) target: &'static str,
    /// What its operating system is called; the first name is Rust's.
    pub(crate) systems: &'static [&'static str],
    /// What its processor is called; the first name is Rust's.
    pub(crate) processors: &'static [&'static str],
    library: Library,
}

/// How well the name of a file fits to a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// Names system and processor.
    Named,
    /// Names the C library, too.
    NamedWithLibrary,
}

impl System {
    /// That of the running program.
    pub(crate) fn this() -> Self {
        Self::of(env!("OVERSEER_TARGET"))
    }

    /// Takes a target triple apart: `x86_64-unknown-linux-gnu`.
    pub(crate) fn of(target: &'static str) -> Self {
        let (processor, rest) = target.split_once('-').unwrap_or((target, ""));
        let parts = || rest.split('-');
        let named = |row: &&&'static [&'static str]| parts().any(|part| row.iter().any(|name| part.starts_with(name)));
        // `linux-android` is Android.
        let systems = SYSTEMS.iter().rev().find(named).copied().unwrap_or(&[]);
        let processors = match processor {
            "i386" | "i486" | "i586" | "i686" => PROCESSORS[2],
            "armv7" | "armv7a" | "armv7s" | "thumbv7neon" => PROCESSORS[3],
            other if other.starts_with("armv") || other == "armeb" => PROCESSORS[4],
            other => PROCESSORS.iter().find(|row| row.contains(&other)).copied().unwrap_or(&[]),
        };
        // `arm` alone is found in the row of ARMv7 first.
        let processors = if processor == "arm" { PROCESSORS[4] } else { processors };
        let library = match parts().next_back() {
            Some(last) if last.starts_with("gnu") => Library::Gnu,
            Some(last) if last.starts_with("musl") => Library::Musl,
            _ => Library::Other,
        };
        Self { target, systems, processors, library }
    }

    /// Whether the name of a file names this system and this processor, and no others. Goes by whole words: `charm64` is no `arm64`, and `x86_64`
    /// no `x86`.
    pub(crate) fn fits(&self, file_name: &str) -> Option<Fit> {
        let words = words(file_name);
        let says = |names: &[&str]| words.iter().any(|word| names.contains(&word.as_str()));
        let says_other = |rows: &[&[&str]], own: &[&str]| {
            let is_other = |word: &String| !own.contains(&word.as_str()) && rows.iter().any(|row| row.contains(&word.as_str()));
            words.iter().any(is_other)
        };
        let is_macos = self.systems.contains(&"macos");
        let processor = match (says(self.processors), says_other(&PROCESSORS, self.processors)) {
            (true, false) => true,
            // There a file may be for both.
            (true, true) => is_macos,
            (false, false) => is_macos && says(&UNIVERSAL),
            (false, true) => false,
        };
        if !processor || !says(self.systems) || says_other(&SYSTEMS, self.systems) {
            return None;
        }
        match (self.library, says(&GNU), says(&MUSL)) {
            (_, false, false) => Some(Fit::Named),
            (Library::Gnu, true, false) | (Library::Musl, false, true) => Some(Fit::NamedWithLibrary),
            _ => None,
        }
    }
}

/// The words of a file name in lower case: `App_linux-x86_64.tar.gz` has `app`, `linux`, `x86_64`, `tar`, `gz`.
pub(crate) fn words(file_name: &str) -> Vec<String> {
    const MARK: &str = "\u{1}";
    let name = file_name.to_lowercase();
    // The one name of a processor with a separator in it.
    let name = name.replace("x86_64", MARK).replace("x86-64", MARK);
    let separators = |letter: char| !letter.is_alphanumeric() && letter != '\u{1}';
    let mut words = Vec::new();
    for word in name.split(separators).flat_map(|word| word.split_inclusive(MARK)).filter(|word| !word.is_empty()) {
        match word.strip_suffix(MARK) {
            Some(before) => {
                words.extend((!before.is_empty()).then(|| before.to_owned()));
                words.push("x86_64".to_owned());
            }
            None => split_number(word, &mut words),
        }
    }
    words
}

/// What else stands beside the name of a program in that of its file: vendors, kinds of builds and archives.
const DECORATION: &str = "unknown pc static release bin exe tar gz tgz zst tzst zip";
/// What versions have beside numbers.
const STAGES: [&str; 8] = ["rc", "alpha", "beta", "pre", "dev", "nightly", "latest", "stable"];

/// Whether a file is named after a program: both names are the same without what they say of systems, processors, versions and packing.
pub(crate) fn is_named_after(file_name: &str, program: &str) -> bool {
    let name = name_alone(file_name);
    !name.is_empty() && name == name_alone(program)
}

fn name_alone(file_name: &str) -> Vec<String> {
    let mut words = words(file_name);
    words.retain(|word| {
        let in_rows = |rows: &[&[&str]]| rows.iter().any(|row| row.contains(&word.as_str()));
        let is_version = word.strip_prefix('v').unwrap_or(word).starts_with(|letter: char| letter.is_ascii_digit())
            || STAGES.iter().any(|stage| word.strip_prefix(stage).is_some_and(|rest| rest.chars().all(|letter| letter.is_ascii_digit())));
        let is_decoration = DECORATION.split(' ').any(|other| other == word);
        !(is_version || is_decoration || in_rows(&SYSTEMS) || in_rows(&PROCESSORS) || in_rows(&[&UNIVERSAL, &GNU, &MUSL]))
    });
    words
}

/// `macos14` names macOS, `linux64` and `win32` a processor, too.
fn split_number(word: &str, words: &mut Vec<String>) {
    let letters = word.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let number = &word[letters.len()..];
    if number.is_empty() || !SYSTEMS.iter().any(|row| row.contains(&letters)) {
        words.push(word.to_owned());
        return;
    }
    words.push(letters.to_owned());
    match number {
        "64" => words.push("x86_64".to_owned()),
        "32" => words.push("x86".to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: &str = "x86_64-unknown-linux-gnu";

    fn fits(target: &'static str, name: &str) -> bool {
        System::of(target).fits(name).is_some()
    }

    #[test]
    fn each_usual_spelling_of_system_and_processor_fits() {
        for system in ["linux", "Linux", "unknown-linux", "unknown-linux-gnu"] {
            for processor in ["x86_64", "x86-64", "amd64", "AMD64", "x64"] {
                for name in [
                    format!("app-{system}-{processor}.tar.gz"),
                    format!("app_1.2.3_{processor}_{system}"),
                    format!("{processor}.{system}.zip"),
                ] {
                    assert!(fits(LINUX, &name), "{name}");
                    assert!(!fits("aarch64-unknown-linux-gnu", &name), "{name}");
                    assert!(!fits("x86_64-apple-darwin", &name), "{name}");
                }
            }
        }
        for system in ["darwin", "macos", "macOS", "apple-darwin", "osx", "macos14"] {
            for processor in ["aarch64", "arm64", "ARM64", "universal"] {
                let name = format!("app-{processor}-{system}.zip");
                assert!(fits("aarch64-apple-darwin", &name), "{name}");
                assert!(!fits("aarch64-unknown-linux-gnu", &name), "{name}");
            }
        }
        for name in ["app-darwin-x86_64-arm64", "app-macos-universal2", "app_darwin_all.tar.gz"] {
            assert!(fits("aarch64-apple-darwin", name) && fits("x86_64-apple-darwin", name), "{name}");
        }
        assert!(
            !fits("aarch64-apple-darwin", "all-darwin-x86_64") && !fits(LINUX, "app-linux-all") && !fits(LINUX, "app-linux-amd64-arm64")
        );
        assert!(fits("mipsel-unknown-linux-gnu", "app-linux-mipsle") && !fits("mips-unknown-linux-gnu", "app-linux-mipsle"));
        assert!(fits(LINUX, "app-linux64.gz"));
        assert!(fits("x86_64-unknown-freebsd", "app-freebsd-amd64"));
    }

    #[test]
    fn names_are_compared_word_by_word() {
        assert!(!fits("aarch64-unknown-linux-gnu", "charm64-linux.gz"));
        assert!(fits(LINUX, "charm64-linux-amd64"), "the name of the program is no processor");
        assert!(fits(LINUX, "winch-linux-amd64") && fits(LINUX, "darwinia-linux-amd64"));
        assert!(!fits("i686-unknown-linux-gnu", "app-linux-x86_64"));
        assert!(!fits(LINUX, "app-linux-x86"));
        assert!(fits("i686-unknown-linux-gnu", "app-linux-x86") && fits("i686-unknown-linux-gnu", "app-linux-i386"));
        assert!(!fits("aarch64-unknown-linux-gnu", "app-linux-armv7"));
        assert!(!fits("armv7-unknown-linux-gnueabihf", "app-linux-arm64"));
        assert!(fits("armv7-unknown-linux-gnueabihf", "app-linux-armv7") && fits("armv7-unknown-linux-gnueabihf", "app-linux-armhf"));
        assert!(!fits("arm-unknown-linux-gnueabihf", "app-linux-armv7") && fits("arm-unknown-linux-gnueabihf", "app-linux-armv6"));
        assert!(!fits("aarch64-unknown-linux-gnu", "app-aarch64-linux-android"));
    }

    #[test]
    fn a_name_without_system_or_processor_does_not_fit() {
        for name in ["app", "app.gz", "app-linux", "app-amd64", "app-v1.2.3.tar.gz", "app-windows-amd64.zip", "app-win64.zip"] {
            assert!(!fits(LINUX, name), "{name}");
        }
    }

    #[test]
    fn a_named_c_library_is_that_of_the_binary() {
        let gnu = System::of(LINUX);
        let musl = System::of("x86_64-unknown-linux-musl");
        assert_eq!(gnu.fits("app-x86_64-unknown-linux-gnu"), Some(Fit::NamedWithLibrary));
        assert_eq!(gnu.fits("app-x86_64-unknown-linux-musl"), None);
        assert_eq!(musl.fits("app-x86_64-unknown-linux-musl"), Some(Fit::NamedWithLibrary));
        assert_eq!(musl.fits("app-x86_64-unknown-linux-gnu"), None);
        assert_eq!(musl.fits("app-linux-amd64"), Some(Fit::Named));
        assert!(Fit::NamedWithLibrary > Fit::Named);
    }

    #[test]
    fn a_file_is_named_after_its_program_and_no_other() {
        for name in [
            "app-linux-amd64",
            "app",
            "App_1.2.3-rc1_Linux_x86_64.tar.gz",
            "app-v2-x86_64-unknown-linux-musl.zst",
            "app-nightly-linux64.zip",
            "app.x86-64.static.gz",
        ] {
            assert!(is_named_after(name, "app"), "{name}");
        }
        for name in
            ["other-linux-amd64", "app-admin-linux-amd64", "my-app-linux-amd64", "apps-linux-amd64", "linux-amd64", "appliance-linux"]
        {
            assert!(!is_named_after(name, "app"), "{name}");
        }
        assert!(is_named_after("my_app-linux-amd64.gz", "my-app") && is_named_after("app-linux-arm64", "app-linux-amd64"));
        assert!(!is_named_after("linux-amd64", "linux"), "nothing is left of it");
    }

    #[test]
    fn the_system_of_this_program_has_names() {
        let this = System::this();
        assert_eq!(
            (this.systems.first(), this.processors.first()),
            (Some(&std::env::consts::OS), Some(&std::env::consts::ARCH)),
            "{this:?}"
        );
    }
}
