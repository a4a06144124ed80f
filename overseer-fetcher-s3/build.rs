//! Hands the target triple to the crate, for `{target}` in a key. Nothing else knows it at run time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").expect("cargo sets TARGET for build scripts");
    println!("cargo::rustc-env=OVERSEER_TARGET={target}");
}
