//! What the texts of the repository name must be there: files, tests, headings, settings, names of the Go original.
//!
//! In a published package there is no repository around this crate, and nothing to check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TEXTS: [&str; 15] = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/ARCHITECTURE.md",
    "docs/BENCHMARKS.md",
    "docs/DEPLOY.md",
    "docs/FETCHERS.md",
    "docs/FROM_GO.md",
    "docs/MESSAGES.md",
    "docs/OPERATING.md",
    "docs/RELEASING.md",
    "overseer-core/README.md",
    "overseer-fetcher-http/README.md",
    "overseer-fetcher-s3/README.md",
    "overseer-fetcher-github/README.md",
];

/// The root of the repository, if this crate lies in one.
fn root() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.to_owned();
    root.join("docs").is_dir().then_some(root)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Each `[text](target)` of a text.
fn links(text: &str) -> Vec<(&str, &str)> {
    let ends = text.match_indices("](");
    ends.filter_map(|(at, _)| {
        let start = text[..at].rfind('[')?;
        let target = &text[at + 2..];
        Some((&text[start + 1..at], &target[..target.find(')')?]))
    })
    .collect()
}

/// What is wrong with a link of the text at `path`; links to other hosts are taken as they are.
fn check(path: &Path, shown: &str, target: &str) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    if file.contains("://") {
        return None;
    }
    let file = if file.is_empty() { path.to_owned() } else { path.with_file_name(file) };
    if !file.exists() {
        return Some(format!("there is no {target}"));
    }
    let has_ending = |wanted| file.extension().is_some_and(|ending| ending == wanted);
    let test = shown.strip_prefix('`').and_then(|shown| shown.strip_suffix('`'));
    if let Some(test) = test.filter(|_| has_ending("rs"))
        && !read(&file).contains(&format!("fn {test}("))
    {
        return Some(format!("there is no {test} in {target}"));
    }
    let is_heading = |line: &str| line.starts_with('#') && line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-") == anchor;
    let has_anchor = anchor.is_empty() || !has_ending("md") || read(&file).lines().any(is_heading);
    (!has_anchor).then(|| format!("there is no heading for {target}"))
}

#[test]
fn every_file_heading_and_test_that_a_text_links_to_is_there() {
    let Some(root) = root() else { return };
    let mut wrong = Vec::new();
    for name in TEXTS {
        let path = root.join(name);
        let text = read(&path);
        wrong
            .extend(links(&text).into_iter().filter_map(|(shown, target)| check(&path, shown, target)).map(|why| format!("{name}: {why}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_dependencies_of_core_are_those_that_are_listed_with_a_reason() {
    let Some(root) = root() else { return };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(&root).args(["tree", "--offline", "--package", "overseer-core", "--edges", "normal", "--prefix", "none"]);
    let tree = cargo.args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}"]).output().expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).expect("text");
    let used: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != "overseer-core").collect();

    let text = read(&root.join("docs/ARCHITECTURE.md"));
    let table = text.split("\n## What core depends on\n").nth(1).expect("a section What core depends on");
    let rows = || table.lines().filter_map(|line| line.strip_prefix("| ")).skip(2).map(|row| row.split(" | ").collect::<Vec<_>>());
    let words = |cell: &str| cell.split([' ', ',', '(', ')', ':']).map(str::to_owned).collect::<Vec<_>>();
    let listed: BTreeSet<String> = rows().flat_map(|row| [words(row[0]), words(row.last().expect("cells"))].concat()).collect();
    let missing: Vec<&&str> = used.iter().filter(|name| !listed.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md has no reason for {missing:?}");
    let first = rows().flat_map(|row| row[0].split(" (").next().unwrap_or_default().split(", ").map(str::to_owned).collect::<Vec<_>>());
    let gone: Vec<String> = first.filter(|name| !used.contains(name.as_str())).collect();
    assert!(gone.is_empty(), "docs/ARCHITECTURE.md has a reason for {gone:?}, which nothing uses");
}

#[test]
fn every_setting_is_in_the_table_of_the_readme() {
    let Some(root) = root() else { return };
    let readme = read(&root.join("README.md"));
    let table = readme.split("\n## Settings\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section Settings");
    let first_cells: String = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let config = read(&root.join("overseer-core/src/config.rs"));
    let methods = config.lines().filter_map(|line| line.strip_prefix("    pub fn ")?.split(['(', '<']).next());
    let missing: Vec<&str> = methods.filter(|name| *name != "new" && !first_cells.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "the settings table of README.md does not have: {}", missing.join(", "));
}

#[test]
fn every_name_of_the_go_original_that_the_code_knows_is_in_its_table() {
    fn find_aliases(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                find_aliases(&path, found);
            } else {
                let text = read(&path);
                let parts = text.split("#[doc(alias = \"").skip(1);
                found.extend(parts.filter_map(|part| part.split('"').next()).map(str::to_owned));
            }
        }
    }
    let Some(root) = root() else { return };
    let mut found = Vec::new();
    for package in ["overseer-core", "overseer-fetcher-http", "overseer-fetcher-s3", "overseer-fetcher-github"] {
        find_aliases(&root.join(package).join("src"), &mut found);
    }
    assert!(!found.is_empty());
    let table = read(&root.join("docs/FROM_GO.md"));
    let missing: Vec<String> = found.into_iter().filter(|name| !table.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/FROM_GO.md does not have: {}", missing.join(", "));
}

#[test]
fn the_text_about_fetchers_has_the_example_word_for_word() {
    let Some(root) = root() else { return };
    let text = read(&root.join("docs/FETCHERS.md"));
    let blocks: Vec<&str> = text.split("```rust\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    let example = root.join("examples/src/bin/custom_fetcher");
    // In the text, the fetcher is a crate of its own.
    let file = |name: &str| read(&example.join(name)).replace("crate::versions", "overseer_fetcher_versions");
    let [fetcher, conformance, program] = ["versions.rs", "conformance.rs", "main.rs"].map(file);
    for block in &blocks {
        assert!([&fetcher, &conformance, &program].iter().any(|file| file.contains(block)), "the example does not have:\n{block}");
    }
    for whole in [fetcher, conformance] {
        let parts: Vec<&str> = blocks.iter().copied().filter(|block| whole.contains(block)).collect();
        let lines = |text: &str| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<String>>();
        assert_eq!(lines(&parts.join("\n")), lines(&whole), "the text leaves something out, or says it twice");
    }
}
