//! Releases that are not published as they are: archives, and scripts.

use crate::app::{Scene, put, release};
use crate::load::{Load, ask};
use flate2::write::GzEncoder;
use nix::sys::signal::Signal;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::fs;
use std::io::{Cursor, Write};

/// A directory with the program and what belongs to it, as `tar` packs it.
fn tar(program: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, contents) in [("app-2/README", &b"read me"[..]), ("app-2/bin/app", program), ("app-2/completions/app", b"complete -c app")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        archive.append_data(&mut header, name, contents).expect("packed");
    }
    archive.into_inner().expect("packed")
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("packed");
    packer.finish().expect("packed")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// A program under another name than its own, with a text beside it.
fn zip(program: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (name, contents) in [("LICENSE", &b"MIT"[..]), ("app-linux-x86_64", program)] {
        archive.start_file(name, options).expect("packed");
        archive.write_all(contents).expect("packed");
    }
    archive.finish().expect("packed").into_inner()
}

#[test]
fn releases_in_archives_of_each_kind_are_installed() {
    let mut scene = Scene::new("");
    let place = |name: &str| scene.directory().join("source").join(name);
    let places = ["app.tar.gz", "app.zip", "app.tar.zst"].map(place);
    // Each version looks for the next one elsewhere.
    let version = |number: usize| release(&format!("version={number} fetch={}", places[(number - 1).min(2)].display()));
    put(&places[0], &gzip(&tar(&version(2))));
    put(&places[1], &zip(&version(3)));
    put(&places[2], &zstd(&tar(&version(4))));
    scene.add_words(&format!("fetch={}", places[0].display()));
    let mut app = scene.start();
    let load = Load::start(app.address());
    for number in 2..=4 {
        app.line_after("is installed at");
        app.line_after(&format!("generation {} is gone", number - 1));
    }
    assert_eq!(load.stop().failed(), 0);
    assert_eq!(ask(app.address()).version, "4");
    assert_eq!(fs::read(scene.program()).expect("read"), version(4), "byte by byte");
    assert_eq!(scene.names_beside(), ["app"]);
    assert!(app.terminate().success());
}

#[test]
fn an_archive_without_the_program_is_rejected_with_what_is_inside() {
    let mut scene = Scene::new("");
    let place = scene.directory().join("source/app.zip");
    put(&place, &zip(b"echo this is no program"));
    scene.add_words(&format!("fetch={}", place.display()));
    let mut app = scene.start();
    let rest = app.line_after("there is no \"app\" and no other executable in it: it holds ");
    assert!(rest.contains("\"LICENSE\", \"app-linux-x86_64\""), "{rest}");
    assert_eq!(ask(app.address()).version, "1");
}

#[test]
fn a_script_that_becomes_a_program_elsewhere_serves_where_scripts_are_allowed() {
    let scene = Scene::with_source("allow_scripts");
    let elsewhere = scene.directory().join("elsewhere");
    put(&elsewhere, &release("version=2"));
    let mut app = scene.start();
    let master = app.pid();
    scene.publish_bytes(format!("#!/bin/sh\nexec {} \"$@\"\n", scene.program().display()).as_bytes());
    app.line_after("which it would replace");
    assert_eq!(ask(app.address()).version, "1");
    let load = Load::start(app.address());
    scene.publish_bytes(format!("#!/bin/sh\nexec {} \"$@\"\n", elsewhere.display()).as_bytes());
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert!(fs::read(scene.program()).expect("read").starts_with(b"#!/bin/sh"));
    assert_eq!(ask(app.address()).version, "2");
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 2 is gone");
    assert_eq!(load.stop().failed(), 0);
    assert_eq!((ask(app.address()).version.as_str(), app.pid()), ("2", master));
    assert!(app.terminate().success());
}
