//! A release is streamed: what it costs to read one does not grow with its size. A test program of its own, since the
//! kernel counts for a whole process.
#![cfg(target_os = "linux")]

mod server;

use overseer_core::{Fetcher, Known};
use overseer_fetcher_s3::S3Fetcher;
use server::{Answer, Server};
use std::io::Read;

const SIZE: u64 = 200 * 1024 * 1024;
const BEGINNING: u64 = 10 * 1024 * 1024;
const ZEROS_CRC32: &str = "U08IYQ==";
const GROWTH_KIB_MAX: u64 = 3 * 1024;
const LOOK_KIB_MAX: u64 = 30 * 1024;

/// The most memory that this process has ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn the_memory_to_read_200_mib_is_that_to_read_10_mib() {
    // With a checksum, so that what checks it is counted; it is that of so many zeros.
    let server = Server::start(|_| Answer::new("200 OK").header("ETag", "\"one\"").header("x-amz-checksum-crc32", ZEROS_CRC32).zeros(SIZE));
    let before = peak_kib();
    let mut fetcher =
        S3Fetcher::new("releases", "app").region("us-east-1").endpoint(server.url("")).credentials("AKIDEXAMPLE", "s3cret", None);
    let mut release = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let beginning = std::io::copy(&mut release.body().take(BEGINNING), &mut std::io::sink()).expect("10 MiB");
    let look = peak_kib() - before;
    let rest = std::io::copy(release.body(), &mut std::io::sink()).expect("the rest");
    // The kernel counts roughly: the peak may seem to sink by some pages.
    let growth = peak_kib().saturating_sub(before + look);
    println!("{look} KiB for the look and the first 10 MiB, {growth} KiB more for the rest");
    assert_eq!(beginning + rest, SIZE);
    assert!(growth < GROWTH_KIB_MAX, "{growth} KiB");
    assert!(look < LOOK_KIB_MAX, "{look} KiB");
}
