//! `cargo xtask ci`: all that CI runs, in the order in which a mistake is found soonest.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A program that the checks need, the arguments that show it is there, and what to say if it is not.
const TOOLS: [(&str, &[&str], &str); 3] = [
    ("cargo fmt", &["fmt", "--version"], "rustup component add rustfmt"),
    ("cargo clippy", &["clippy", "--version"], "rustup component add clippy"),
    ("cargo doc", &["doc", "--help"], "install Rust from https://rustup.rs"),
];

struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// What the example `app`, the demo and the S3 fetcher can do only when asked to.
const ALL_FETCHERS: &str = "overseer-examples/github,overseer-examples/s3,overseer-fetcher-s3/sso,xtask/http2,xtask/s3";

const STEPS: [Step; 11] = [
    Step { name: "formatting", arguments: &["fmt", "--all", "--check"], environment: &[] },
    Step {
        name: "clippy",
        arguments: &["clippy", "--workspace", "--all-targets", "--features", ALL_FETCHERS, "--", "-D", "warnings"],
        environment: &[],
    },
    Step {
        name: "clippy of core without its features",
        arguments: &["clippy", "--package", "overseer-core", "--all-targets", "--no-default-features", "--", "-D", "warnings"],
        environment: &[],
    },
    Step { name: "documentation", arguments: &["doc", "--workspace", "--no-deps"], environment: &[("RUSTDOCFLAGS", "-D warnings")] },
    Step {
        name: "documentation of all features of core",
        arguments: &["doc", "--package", "overseer-core", "--all-features", "--no-deps"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
    },
    // With all features of core, since the tests of other packages want them; so has clippy.
    Step { name: "tests", arguments: &["test", "--workspace"], environment: &[] },
    Step { name: "demo", arguments: &["run", "--quiet", "--package", "xtask", "--", "demo"], environment: &[] },
    Step {
        name: "demo from a file",
        arguments: &["run", "--quiet", "--package", "xtask", "--", "demo", "--fetcher", "file"],
        environment: &[],
    },
    Step { name: "demo from S3", arguments: &["run", "--quiet", "--package", "xtask", "--", "demo", "--fetcher", "s3"], environment: &[] },
    Step {
        name: "demo from GitHub",
        arguments: &["run", "--quiet", "--package", "xtask", "--", "demo", "--fetcher", "github"],
        environment: &[],
    },
    Step {
        name: "demo with broken releases",
        arguments: &["run", "--quiet", "--package", "xtask", "--", "demo", "--broken"],
        environment: &[],
    },
];

/// Runs every check, and stops at the first that fails.
pub(crate) fn run() -> Result<(), String> {
    for (name, arguments, remedy) in TOOLS {
        let there = cargo(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            return Err(format!("{name} is missing; get it with: {remedy}"));
        }
    }
    let begun = Instant::now();
    for (index, step) in STEPS.iter().enumerate() {
        println!("\n=== {} of {}: {} (cargo {})", index + 1, STEPS.len(), step.name, step.arguments.join(" "));
        let step_begun = Instant::now();
        let mut command = cargo(step.arguments);
        command.envs(step.environment.iter().copied());
        let status = command.status().map_err(|error| format!("{}: cannot start cargo: {error}", step.name))?;
        if !status.success() {
            return Err(format!("{} failed ({status})", step.name));
        }
        println!("=== {}: good after {:.0?}", step.name, step_begun.elapsed());
    }
    println!("\n=== all {} checks are good after {:.0?}", STEPS.len(), begun.elapsed());
    Ok(())
}

/// Cargo in the root of the workspace, with the environment that a user's cargo has.
///
/// What `cargo run` says of this package is taken away: build scripts that watch such variables would run again each time.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.args(arguments).current_dir(root());
    for (name, _) in env::vars_os() {
        let of_this_package = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"].iter().any(|prefix| name.starts_with(prefix))
        });
        if of_this_package {
            command.env_remove(name);
        }
    }
    command
}

/// The root of the workspace: of the one that runs now, where cargo says it, else of the one that this was built in.
pub(crate) fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map(Path::to_path_buf).unwrap_or_default()
}
