//! Releases that are wrong in a hundred thousand ways, on their way through the proof.
//!
//! Each is made to be right up to one stage and wrong there, so that every stage is reached by many. None may be accepted, unless it is the good release
//! after all, which is judged here by other means than there. None may write anything but its staged file, panic, or take long or much memory.

use super::*;
use crate::binary::testing::{self, sign};
use crate::binary::{StateDir, marker};
use crate::fetcher::{Digest, DigestAlgorithm};
use fastrand::Rng;
use minisign::KeyPair;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Cursor, Read, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const SEED: u64 = 0x5eed_0003;
const COUNT: usize = 100_000;
const SEED_VARIABLE: &str = "OVERSEER_MUTANTS_SEED";
const COUNT_VARIABLE: &str = "OVERSEER_MUTANTS";
/// At least every so manieth reaches each stage.
const REACH_ONE_IN: usize = 20;
/// For one, on a busy machine. The median is far below a millisecond.
const TIME_MAX: Duration = Duration::from_secs(10);
/// The window of zstd (8 MiB, twice while it grows) and the buffers.
const MEMORY_KIB_MAX: u64 = 24 * 1024;

const SIZE_BYTES_MAX: u64 = 64 * 1024;
const SIGNED_UNIX_S: u64 = 1_790_000_000;
const PACKINGS: [(Packing, &str); 6] = [
    (Packing::Gzip, "app.gz"),
    (Packing::Zstd, "app.zst"),
    (Packing::Tar, "app.tar"),
    (Packing::TarGzip, "app.tar.gz"),
    (Packing::TarZstd, "app.tar.zst"),
    (Packing::Zip, "app.zip"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Size,
    Digest,
    Signature,
    Unpack(&'static str),
    Header,
    Marker,
    Accepted,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpack(name) => write!(f, "unpack {name}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What is offered, and what its maker knows of it.
#[derive(Clone)]
struct Mutant {
    aim: Stage,
    packing: Packing,
    file_name: &'static str,
    bytes: Vec<u8>,
    said_size: Option<u64>,
    digest: Option<Digest>,
    minisig: Option<String>,
    demands: Demands,
    installed: Option<u64>,
    /// The program in it was changed before it was packed, or nothing in this format would show that it was changed.
    is_program_changed: bool,
}

/// What all mutants are made of.
struct Nursery {
    program: Vec<u8>,
    /// The program, packed in each way.
    packed: Vec<(Packing, Vec<u8>)>,
    keys: KeyPair,
    other_keys: KeyPair,
}

fn random_bytes(random: &mut Rng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| random.u8(..)).collect()
}

/// Changes some bytes of a stretch, or what is there altogether. Answers whether anything is different.
fn damage(random: &mut Rng, bytes: &mut Vec<u8>, stretch: Range<usize>) -> bool {
    let before = bytes.clone();
    let stretch = stretch.start.min(bytes.len())..stretch.end.min(bytes.len());
    if stretch.is_empty() {
        return false;
    }
    for _ in 0..random.usize(1..4) {
        let place = random.usize(stretch.start..stretch.end.min(bytes.len()).max(stretch.start + 1));
        if place >= bytes.len() {
            continue;
        }
        match random.u8(0..10) {
            0..4 => bytes[place] ^= 1 << random.u8(0..8),
            4 => bytes[place] = random.u8(..),
            5 => bytes[place] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff]).expect("one"),
            6 => {
                let end = (place + random.usize(1..9)).min(bytes.len());
                let with = *random.choice(&[0, 0xff, b'0', b'7']).expect("one");
                bytes[place..end].fill(with);
            }
            7 => bytes.truncate(place),
            8 => {
                let inserted = random.usize(1..40);
                let inserted = random_bytes(random, inserted);
                bytes.splice(place..place, inserted);
            }
            _ => {
                let from = random.usize(..bytes.len());
                let copied = bytes[from..(from + random.usize(1..64)).min(bytes.len())].to_vec();
                let end = (place + copied.len()).min(bytes.len());
                bytes.splice(place..end, copied);
            }
        }
    }
    *bytes != before
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("packed");
    packer.finish().expect("packed")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

const README: &[u8] = b"What this program does, and how it is installed, in a few words";
const BLOCK: usize = 512;

fn tar_of(members: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, contents) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_size(contents.len() as u64);
        archive.append_data(&mut header, name, *contents).expect("packed");
    }
    archive.into_inner().expect("packed")
}

fn zip_of(members: &[(&str, &[u8])], is_packed: bool) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let method = if is_packed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, contents) in members {
        archive.start_file(*name, options).expect("packed");
        archive.write_all(contents).expect("packed");
    }
    archive.finish().expect("packed").into_inner()
}

/// Puts the right checksum into the header at this place.
fn mend_checksum(archive: &mut [u8], place: usize) {
    let Some(header) = archive.get_mut(place..place + BLOCK) else { return };
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

impl Nursery {
    fn new() -> Self {
        let keys = || KeyPair::generate_unencrypted_keypair().expect("a key pair");
        let program = program();
        let packings = PACKINGS.iter().map(|(packing, _)| *packing).chain([Packing::Plain]);
        let packed = packings.map(|packing| (packing, pack(packing, &program))).collect();
        Self { program, packed, keys: keys(), other_keys: keys() }
    }

    fn packed(&self, packing: Packing) -> Vec<u8> {
        self.packed.iter().find(|(known, _)| *known == packing).map(|(_, bytes)| bytes.clone()).expect("it is packed in each way")
    }

    /// A good release, packed so, before anything is wrong with it.
    fn good(&self, packing: Packing, bytes: Vec<u8>, aim: Stage) -> Mutant {
        let file_name = PACKINGS.iter().find(|(known, _)| *known == packing).map_or("app", |(_, name)| name);
        let demands = Demands { size_bytes_max: SIZE_BYTES_MAX, ..Demands::default() };
        Mutant {
            aim,
            packing,
            file_name,
            bytes,
            said_size: None,
            digest: None,
            minisig: None,
            demands,
            installed: None,
            is_program_changed: false,
        }
    }

    fn any_packing(random: &mut Rng) -> Packing {
        random.choice(&PACKINGS).map_or(Packing::Plain, |(packing, _)| *packing)
    }

    fn sign(&self, mutant: &mut Mutant, pair: &KeyPair, comment: &str) {
        mutant.minisig = Some(sign(pair, &mutant.bytes, comment));
        mutant.demands.trusted_keys = vec![self.keys.pk.to_base64()];
    }

    fn make(&self, random: &mut Rng) -> Mutant {
        let mut mutant = match random.u8(0..100) {
            0..8 => return self.wrong_size(random),
            8..16 => return self.wrong_digest(random),
            16..24 => return self.wrong_signature(random),
            24..74 => self.wrong_archive(random),
            74..88 => self.wrong_header(random),
            _ => self.wrong_marker(random),
        };
        // What came before is right.
        if random.u8(0..4) > 0 {
            mutant.said_size = Some(mutant.bytes.len() as u64);
        }
        if random.bool() {
            mutant.digest = Digest::new(DigestAlgorithm::Sha256, sha2::Sha256::digest(&mutant.bytes).to_vec());
        }
        if random.u8(0..16) == 0 {
            let comment = format!("timestamp:{SIGNED_UNIX_S}\tfile:{}", mutant.file_name);
            self.sign(&mut mutant, &self.keys, &comment);
        }
        mutant
    }

    fn any_good(&self, random: &mut Rng, aim: Stage) -> Mutant {
        let packing = if random.bool() { Packing::Plain } else { Self::any_packing(random) };
        self.good(packing, self.packed(packing), aim)
    }

    fn wrong_size(&self, random: &mut Rng) -> Mutant {
        let mut mutant = self.any_good(random, Stage::Size);
        let size = mutant.bytes.len() as u64;
        match random.u8(0..4) {
            0 => mutant.said_size = Some(SIZE_BYTES_MAX + random.u64(1..1 << 40)),
            1 => mutant.said_size = Some(random.u64(0..size)),
            2 => mutant.said_size = Some(size + random.u64(1..1000)),
            _ => mutant.demands.size_bytes_max = random.u64(1..size),
        }
        mutant
    }

    fn wrong_digest(&self, random: &mut Rng) -> Mutant {
        let mut mutant = self.any_good(random, Stage::Digest);
        let (algorithm, mut digest) = if random.bool() {
            (DigestAlgorithm::Sha256, sha2::Sha256::digest(&mutant.bytes).to_vec())
        } else {
            (DigestAlgorithm::Sha512, sha2::Sha512::digest(&mutant.bytes).to_vec())
        };
        if random.bool() {
            let place = random.usize(..digest.len());
            digest[place] ^= 1 << random.u8(0..8);
        } else {
            let end = mutant.bytes.len();
            while !damage(random, &mut mutant.bytes, 0..end) {}
        }
        mutant.digest = Digest::new(algorithm, digest);
        mutant
    }

    fn wrong_signature(&self, random: &mut Rng) -> Mutant {
        let mut mutant = self.any_good(random, Stage::Signature);
        let comment = format!("timestamp:{SIGNED_UNIX_S}\tfile:{}\thashed", mutant.file_name);
        match random.u8(0..12) {
            0 => self.sign(&mut mutant, &self.other_keys, &comment),
            1 => self.sign(&mut mutant, &self.keys, &format!("timestamp:{SIGNED_UNIX_S}\tfile:other")),
            2 => {
                self.sign(&mut mutant, &self.keys, &comment);
                mutant.installed = Some(SIGNED_UNIX_S + random.u64(1..1000));
            }
            3 => {
                let ahead = format!("timestamp:{}	file:{}", 1_u64 << random.u8(40..64), mutant.file_name);
                self.sign(&mut mutant, &self.keys, &ahead);
            }
            4 => {
                self.sign(&mut mutant, &self.keys, "no timestamp");
                mutant.installed = Some(SIGNED_UNIX_S);
            }
            5 => {
                self.sign(&mut mutant, &self.keys, &comment);
                mutant.minisig = None;
            }
            6 | 7 => {
                self.sign(&mut mutant, &self.keys, &comment);
                let end = mutant.bytes.len();
                while !damage(random, &mut mutant.bytes, 0..end) {}
            }
            _ => {
                self.sign(&mut mutant, &self.keys, &comment);
                mutant.minisig = mutant.minisig.map(|text| wrong_text(random, &text));
            }
        }
        mutant
    }

    fn wrong_archive(&self, random: &mut Rng) -> Mutant {
        let (packing, name) = *random.choice(&PACKINGS).expect("one");
        let aim = Stage::Unpack(name);
        let mut mutant = self.good(packing, self.packed(packing), aim);
        match (packing, random.u8(0..10)) {
            (Packing::Zip, 0..=4) => self.wrong_zip(random, &mut mutant),
            (Packing::Tar | Packing::TarGzip | Packing::TarZstd, 0..=4) => {
                let tar = self.wrong_tar(random, &mut mutant);
                mutant.bytes = repack(packing, &tar);
            }
            (Packing::Gzip | Packing::Zstd, 0) => {
                let bomb = vec![random.u8(..); random.usize(65 * 1024..100 * 1024)];
                mutant.bytes = repack(packing, &bomb);
            }
            (Packing::Zstd | Packing::TarZstd, 5) => {
                // Frames that are skipped, windows of all sizes, dictionaries, one raw block.
                let window = random.u8(..);
                let frame = [&b"\x28\xb5\x2f\xfd"[..], &[random.u8(0..8)], &[window], &[0x19, 0, 0], b"abc"].concat();
                let skipped = [&[0x50 + random.u8(0..16)], &b"\x2a\x4d\x18"[..], &random.u32(0..20).to_le_bytes(), &[0; 10]].concat();
                mutant.bytes = [if random.bool() { frame } else { skipped }, mutant.bytes].concat();
            }
            (_, 6) => mutant.bytes.extend(random_bytes(random, 20)),
            (_, 7) => {
                mutant.bytes = [&mutant.bytes[..], &mutant.bytes].concat();
                // Two files packed one after the other are one, with the program in it and as much again behind it.
                mutant.is_program_changed = matches!(packing, Packing::Gzip | Packing::Zstd);
            }
            _ => {
                let end = mutant.bytes.len();
                // Most of the headers lie at the ends.
                let stretch = match random.u8(0..3) {
                    0 => 0..24,
                    1 => end.saturating_sub(180)..end,
                    _ => 0..end,
                };
                while !damage(random, &mut mutant.bytes, stretch.clone()) {}
                mutant.is_program_changed = packing == Packing::Tar;
            }
        }
        mutant
    }

    /// Entries that are none, too many, of another kind or elsewhere, and headers with changed fields and the right checksum.
    fn wrong_tar(&self, random: &mut Rng, mutant: &mut Mutant) -> Vec<u8> {
        let program = &self.program[..];
        let other = [program, b"another one"].concat();
        let pax = |text: &str| tar_of(&[("pax", b'x', text.as_bytes()), ("x", b'0', program)]);
        match random.u8(0..10) {
            0 => tar_of(&[("a/app", b'0', program), ("b/app", b'0', &other)]),
            1 => tar_of(&[("a/one", b'0', program), ("b/two", b'0', &other)]),
            2 => tar_of(&[("README", b'0', README)]),
            3 => tar_of(&[("app", *random.choice(b"123456SVM").expect("one"), b""), ("one", b'0', program)]),
            4 => tar_of(&[("big", b'0', &vec![0; 65 * 1024]), ("app", b'0', program)]),
            5 => pax(&format!("{} path=../../app\n{}", random.u8(..), "x".repeat(random.usize(0..20)))),
            6 => pax(&format!("{} size={}\n", random.u8(10..40), random.u64(..))),
            _ => {
                let mut tar = self.packed(Packing::Tar);
                let header = *random.choice(&[0, 2 * BLOCK]).expect("one");
                let field = *random.choice(&[0..100, 100..108, 124..136, 156..157, 157..200, 257..265, 345..500]).as_ref().expect("one");
                while !damage_in_place(random, &mut tar, header + field.start..header + field.end) {}
                mend_checksum(&mut tar, header);
                // Another size shows another part of the archive as the program.
                mutant.is_program_changed = true;
                tar
            }
        }
    }

    fn wrong_zip(&self, random: &mut Rng, mutant: &mut Mutant) {
        let program = &self.program[..];
        let other = [program, b"another one"].concat();
        let is_packed = random.bool();
        let kind = random.u8(0..8);
        // With two whole programs in it, damage to one leaves the other.
        mutant.is_program_changed = kind < 2;
        mutant.bytes = match kind {
            0 => zip_of(&[("a/app", program), ("b/app", &other)], is_packed),
            1 => zip_of(&[("a/one", program), ("b/two", &other)], is_packed),
            2 => zip_of(&[("README", README)], is_packed),
            3 => zip_of(&[("app", &vec![0; 65 * 1024])], true),
            _ => zip_of(&[("README", README), ("app", program)], is_packed),
        };
        if let Some(place) = mutant.bytes.windows(4).position(|bytes| bytes == b"PK\x01\x02") {
            let end = mutant.bytes.len();
            let stretch = if random.bool() { place..end } else { end - 22..end };
            damage_in_place(random, &mut mutant.bytes, stretch);
        }
    }

    /// A program whose header does not fit, packed in any way.
    fn wrong_header(&self, random: &mut Rng) -> Mutant {
        let mut program = self.program.clone();
        match random.u8(0..8) {
            // Each of these is fatal.
            0 => program[random.usize(0..4)] ^= 1 << random.u8(0..8),
            1 => program[4] ^= 3,
            2 => program[5] ^= 3,
            3 => program[18] = program[18].wrapping_add(random.u8(1..)),
            4 => program[16] = *random.choice(&[0, 1, 4, 5, 0xff]).expect("one"),
            5 => program.truncate(random.usize(0..program.len())),
            6 => {
                program = random
                    .choice(&[&b"#!/bin/sh\n"[..], b"MZ\x90", b"<html>", b"\xcf\xfa\xed\xfe\x0c\0\0\x01", b"", b"BZh"])
                    .expect("one")
                    .to_vec()
            }
            _ => {
                damage(random, &mut program, 0..TABLES_END);
            }
        }
        self.with_program(random, &program, Stage::Header)
    }

    fn wrong_marker(&self, random: &mut Rng) -> Mutant {
        let mut program = self.program.clone();
        let marker = MARKER_AT..MARKER_AT + marker::bytes().len();
        while !damage_in_place(random, &mut program, marker.clone()) {}
        self.with_program(random, &program, Stage::Marker)
    }

    fn with_program(&self, random: &mut Rng, program: &[u8], aim: Stage) -> Mutant {
        let packing = if random.u8(0..3) == 0 { Self::any_packing(random) } else { Packing::Plain };
        let mut mutant = self.good(packing, pack(packing, program), aim);
        mutant.is_program_changed = true;
        mutant
    }
}

fn pack(packing: Packing, program: &[u8]) -> Vec<u8> {
    let tar = || tar_of(&[("app-1/README", b'0', README), ("app-1/app", b'0', program), ("app-1/link", b'2', b"")]);
    match packing {
        Packing::Plain => program.to_vec(),
        Packing::Gzip => gzip(program),
        Packing::Zstd => zstd(program),
        Packing::Tar => tar(),
        Packing::TarGzip => gzip(&tar()),
        Packing::TarZstd => zstd(&tar()),
        Packing::Zip => zip_of(&[("app-1/README", README), ("app-1/app", program)], true),
    }
}

fn repack(packing: Packing, contents: &[u8]) -> Vec<u8> {
    match packing {
        Packing::Gzip | Packing::TarGzip => gzip(contents),
        Packing::Zstd | Packing::TarZstd => zstd(contents),
        _ => contents.to_vec(),
    }
}

/// Changes bytes without moving any.
fn damage_in_place(random: &mut Rng, bytes: &mut [u8], stretch: Range<usize>) -> bool {
    let before = bytes[stretch.clone()].to_vec();
    for _ in 0..random.usize(1..4) {
        let place = random.usize(stretch.clone());
        match random.u8(0..4) {
            0 => bytes[place] ^= 1 << random.u8(0..8),
            1 => bytes[place] = random.u8(..),
            2 => bytes[place] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff, b'0', b'7', b'9']).expect("one"),
            _ => bytes[place..(place + random.usize(1..9)).min(stretch.end)].fill(*random.choice(&[0, 0xff, b'7']).expect("one")),
        }
    }
    bytes[stretch] != before
}

/// A signature file with a changed letter, line, or key.
fn wrong_text(random: &mut Rng, text: &str) -> String {
    let mut lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    let line = random.usize(..lines.len());
    match random.u8(0..6) {
        0 => drop(lines.remove(line)),
        1 => {
            let copy = lines[line].clone();
            lines.insert(line, copy);
        }
        2 => {
            // In the key's ID or the algorithm, at the beginning of the second line.
            let place = random.usize(..14);
            lines[1][place] = random.alphanumeric();
        }
        3 if !lines[line].is_empty() => {
            let end = random.usize(..lines[line].len());
            lines[line].truncate(end);
        }
        _ if !lines[line].is_empty() => {
            let place = random.usize(..lines[line].len());
            lines[line][place] = *random.choice(&['A', '/', '=', ' ', '\t', 'é', '\u{0}']).expect("one");
        }
        _ => {}
    }
    lines.iter().map(|line| line.iter().chain(['\n'].iter()).collect::<String>()).collect()
}

const SEGMENTS_AT: usize = 64;
const LOADER_AT: usize = SEGMENTS_AT + 2 * 56;
const LOADER: &[u8] = b"/dev/null\0";
const SECTIONS_AT: usize = 192;
const TABLES_END: usize = SECTIONS_AT + 2 * 64;
const MARKER_AT: usize = TABLES_END + 100;

/// A tiny program for this machine: a header, two segments, two sections, and the marker. It is not run.
fn program() -> Vec<u8> {
    let mut machine = [0; 20];
    File::open("/proc/self/exe").and_then(|mut file| file.read_exact(&mut machine)).expect("the test program");
    let short = |value: usize| u16::try_from(value).expect("short").to_le_bytes();
    let long = |value: usize| (value as u64).to_le_bytes();
    let size = MARKER_AT + marker::bytes().len() + 200;
    let mut bytes = [b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".as_slice(), &short(3), &machine[18..20], &1_u32.to_le_bytes()].concat();
    bytes.extend([long(0x1000), long(SEGMENTS_AT), long(SECTIONS_AT)].concat());
    bytes.extend([&[0; 4][..], &short(64), &short(56), &short(2), &short(64), &short(2), &short(0)].concat());
    let segment = |kind: u32, place: usize, bytes: usize| {
        [&kind.to_le_bytes()[..], &5_u32.to_le_bytes(), &long(place), &long(place), &long(place), &long(bytes), &long(bytes), &long(8)]
            .concat()
    };
    bytes.extend(segment(1, 0, size));
    bytes.extend(segment(3, LOADER_AT, LOADER.len()));
    bytes.extend(LOADER);
    bytes.resize(SECTIONS_AT + 64, 0);
    bytes.extend([&[0; 4][..], &1_u32.to_le_bytes(), &long(0), &long(0), &long(MARKER_AT), &long(48), &[0; 24]].concat());
    bytes.resize(MARKER_AT, b'.');
    bytes.extend(marker::bytes());
    bytes.resize(size, b'.');
    bytes
}

/// Whether these bytes are a whole program for this machine with the marker: what the proof should say, found in the simplest way.
fn is_whole_program(good: &[u8], bytes: &[u8]) -> bool {
    let number = |place: usize, length: usize| {
        let bytes = bytes.get(place..place.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let is_inside = |place: Option<u64>, length: Option<u64>| {
        place.zip(length).and_then(|(place, length)| place.checked_add(length)).is_some_and(|end| end <= bytes.len() as u64)
    };
    // Magic, class, byte order and machine; a kind that can be executed; somewhere to begin.
    if bytes.get(..6) != good.get(..6) || bytes.get(18..20) != good.get(18..20) || number(24, 8).unwrap_or(0) == 0 {
        return false;
    }
    if !matches!(number(16, 2), Some(2 | 3)) {
        return false;
    }
    let Some((segments, count)) = number(32, 8).zip(number(56, 2)) else { return false };
    let mut is_loaded = false;
    for index in 0..count {
        let Some(place) = segments.checked_add(index * 56).and_then(|place| usize::try_from(place).ok()) else { return false };
        let (kind, begin, length) = (number(place, 4), number(place.saturating_add(8), 8), number(place.saturating_add(32), 8));
        if !is_inside(begin, length) {
            return false;
        }
        is_loaded |= kind == Some(1);
        if kind == Some(3) {
            let Some((begin, length)) = begin.zip(length) else { return false };
            let name = &bytes[begin as usize..(begin + length) as usize];
            let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
            use std::os::unix::ffi::OsStrExt;
            if !Path::new("/").join(OsStr::from_bytes(name)).exists() {
                return false;
            }
        }
    }
    let Some((sections, count)) = number(40, 8).zip(number(60, 2)) else { return false };
    // At 0 there is no table of sections, and nobody needs one to run the program.
    for index in 0..if sections == 0 { 0 } else { count } {
        let Some(place) = sections.checked_add(index * 64).and_then(|place| usize::try_from(place).ok()) else { return false };
        // A section without bytes in the file (SHT_NOBITS) may be of any size.
        if number(place.saturating_add(4), 4) != Some(8)
            && !is_inside(number(place.saturating_add(24), 8), number(place.saturating_add(32), 8))
        {
            return false;
        }
    }
    is_loaded && bytes.windows(marker::bytes().len()).any(|window| window == marker::bytes())
}

/// Where a refusal comes from, by its words.
fn stage_of(stop: &Stop, mutant: &Mutant) -> Stage {
    let why = match stop {
        Stop::Refused(refusal) => refusal.why.as_str(),
        Stop::Failed(error) if error.text.starts_with("the body of ") => return Stage::Size,
        other => panic!("no refusal: {other:?}"),
    };
    let begins = |words: &[&str]| words.iter().any(|word| why.starts_with(word));
    let holds = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if holds(&["that are allowed (size_bytes_max)"]) {
        Stage::Size
    } else if holds(&["and its source says"]) {
        Stage::Digest
    } else if holds(&["signature", "is not signed", "was signed", "is signed"]) {
        Stage::Signature
    } else if begins(&["is a .", "is a damaged .", "is an archive, and"]) || holds(&["when unpacked (size_bytes_max)"]) {
        Stage::Unpack(mutant.file_name)
    } else if holds(&["not an overseer program"]) {
        Stage::Marker
    } else if begins(&[
        "is cut off: ",
        "has a damaged header",
        "is for another machine",
        "is not for a ",
        "is for a machine with another byte order",
        "is an object file",
        "is a core dump",
        "is a library",
        "needs the dynamic loader ",
        "is a script",
        "is text",
        "is empty",
        "is an HTML page",
        "is no executable of any kind",
        "is compressed with ",
        "is a zip archive",
        "is a Windows program",
        "is a macOS program",
    ]) {
        Stage::Header
    } else {
        panic!("a refusal in words that nobody knows: {why}")
    }
}

struct Scene {
    root: tempfile::TempDir,
    path: PathBuf,
    state_dir: PathBuf,
    elsewhere: PathBuf,
    known: Known,
    original: Original,
}

impl Scene {
    fn new() -> Self {
        // In memory where that is possible: a hundred thousand files are made.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let service = root.path().join("deep/service");
        let elsewhere = root.path().join("deep/elsewhere");
        fs::create_dir_all(&service).expect("a directory");
        fs::create_dir_all(&elsewhere).expect("a directory");
        let path = service.join("app");
        fs::write(&path, "the running program").expect("written");
        let place = crate::binary::Place::at(&path, None).expect("a place");
        let state_dir = StateDir::open(&place).expect("a state directory").path().to_owned();
        Self { root, path, state_dir, elsewhere, known: Known::nothing(), original: Original::capture().expect("signals") }
    }

    /// The way of a release up to the self-check.
    fn prove(&self, mutant: &Mutant) -> Result<Staging, Stop> {
        let started_from = Identity::of(&fs::metadata(&self.path).expect("metadata"));
        let upgrade = Upgrade {
            known: &self.known,
            path: &self.path,
            target: &self.path,
            is_stored: false,
            state_dir: &self.state_dir,
            started_from,
            judged: &[],
            installed_signed_unix_s: mutant.installed,
            original: &self.original,
        };
        let mut release = Release::new("tag", mutant.file_name, Cursor::new(mutant.bytes.clone()));
        release.size_bytes = mutant.said_size;
        release.digests.extend(mutant.digest.clone());
        let demands = &mutant.demands;
        let packing = Packing::of(mutant.file_name)?;
        let signed = demands.examine(mutant.minisig.as_deref(), mutant.file_name, mutant.installed, SIGNED_UNIX_S + 1000)?;
        let download = self.download(demands);
        let mut name = ReleaseName::default();
        upgrade.prove(packing, signed, demands, &download, release, &mut name, &mut |_| ()).map(|(staging, _)| staging)
    }

    fn download(&self, demands: &Demands) -> Download<'_> {
        Download { state_dir: &self.state_dir, source: "here", size_bytes_max: demands.size_bytes_max }
    }

    /// All files and directories below the root, and what makes each the one that it is.
    fn listing(&self) -> Vec<(PathBuf, u64, u64, i64, u32)> {
        let mut listing = Vec::new();
        let mut directories = vec![self.root.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                let metadata = fs::symlink_metadata(&path).expect("metadata");
                if metadata.is_dir() {
                    listing.push((path.clone(), metadata.ino(), 0, 0, metadata.mode()));
                    directories.push(path);
                } else {
                    listing.push((path, metadata.ino(), metadata.len(), metadata.mtime_nsec(), metadata.mode()));
                }
            }
        }
        listing.sort();
        listing
    }
}

fn from_environment(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// In a process of its own, so that nobody else's memory is counted and its directory is its own.
#[test]
fn no_mutant_is_accepted_panics_writes_elsewhere_or_takes_long() {
    const NAME: &str = "fetcher::poll::mutants::no_mutant_is_accepted_panics_writes_elsewhere_or_takes_long";
    const VARIABLE: &str = "OVERSEER_TEST_MUTANTS";
    if cfg!(not(all(target_pointer_width = "64", target_endian = "little"))) {
        testing::not_shown("for want of a 64-bit little-endian machine: mutants");
        return;
    }
    if std::env::var_os(VARIABLE).is_none() {
        let test = std::env::current_exe().expect("the test program");
        let output = std::process::Command::new(test).args(["--exact", NAME, "--nocapture"]).env(VARIABLE, "1").output().expect("started");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "no test has the name {NAME}: {text}");
        print!("{text}");
        return;
    }
    let seed = from_environment(SEED_VARIABLE).unwrap_or(SEED);
    let count = from_environment(COUNT_VARIABLE).and_then(|count| usize::try_from(count).ok()).unwrap_or(COUNT);
    println!("{count} mutants from seed {seed} ({SEED_VARIABLE}, {COUNT_VARIABLE})");
    let (scene, nursery) = (Scene::new(), Nursery::new());
    std::env::set_current_dir(&scene.elsewhere).expect("a directory");
    assert!(is_whole_program(&nursery.program, &nursery.program));
    for packing in PACKINGS.map(|(packing, _)| packing).into_iter().chain([Packing::Plain]) {
        let good = nursery.good(packing, nursery.packed(packing), Stage::Accepted);
        let staged = scene.prove(&good).unwrap_or_else(|stop| panic!("{packing:?}: {stop:?}"));
        assert_eq!(fs::read(staged.path()).expect("read"), nursery.program);
    }
    let mut random = Rng::with_seed(seed);
    let untouched = scene.listing();
    let before_kib = testing::peak_kib();
    let (mut reach, mut ends) = (BTreeMap::<Stage, usize>::new(), BTreeMap::<Stage, usize>::new());
    let (mut slowest, mut identical, mut others) = (Duration::ZERO, 0, 0);
    let started = Instant::now();
    for number in 0..count {
        let mutant = nursery.make(&mut random);
        let told = || format!("mutant {number} of seed {seed}, aimed at {}, {}", mutant.aim, mutant.file_name);
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| scene.prove(&mutant))).unwrap_or_else(|_| panic!("{}", told()));
        let took = began.elapsed();
        slowest = slowest.max(took);
        assert!(took < TIME_MAX, "{} took {took:?}", told());
        let stage = match outcome {
            Err(stop) => {
                if mutant.said_size.is_some_and(|said| said > mutant.bytes.len() as u64) {
                    // The beginning of a file stays for a later look.
                    scene.download(&mutant.demands).forget();
                }
                stage_of(&stop, &mutant)
            }
            Ok(staging) => {
                let staged = fs::read(staging.path()).expect("read");
                let signed = mutant.minisig.as_deref().filter(|_| !mutant.demands.trusted_keys.is_empty());
                assert_eq!(signed.is_some(), !mutant.demands.trusted_keys.is_empty(), "{} is not signed", told());
                if staged == nursery.program {
                    identical += 1;
                } else {
                    assert!(mutant.is_program_changed, "{} was damaged and accepted", told());
                    assert!(
                        is_whole_program(&nursery.program, &staged),
                        "{} is no whole program and accepted; it has {}",
                        told(),
                        differences(&nursery.program, &staged)
                    );
                    others += 1;
                }
                assert!(is_right_to_accept(&mutant), "{} was accepted: {:?}", told(), mutant.minisig);
                Stage::Accepted
            }
        };
        *ends.entry(stage).or_default() += 1;
        // Where there is nothing to look at, it passes a stage without having reached it.
        for (looked_at, there) in [
            (Stage::Size, true),
            (Stage::Digest, mutant.digest.is_some()),
            (Stage::Signature, !mutant.demands.trusted_keys.is_empty()),
            (Stage::Unpack(mutant.file_name), mutant.packing != Packing::Plain),
            (Stage::Header, true),
            (Stage::Marker, true),
        ] {
            *reach.entry(looked_at).or_default() += usize::from(there && stage >= looked_at);
        }
        assert_eq!(scene.listing(), untouched, "{} wrote something", told());
    }
    let grown_kib = testing::peak_kib() - before_kib;
    println!("{:?} in all, {slowest:?} for the slowest, {grown_kib} KiB of memory", started.elapsed());
    println!("accepted: {identical} with the very program, {others} with another whole program");
    reach.remove(&Stage::Unpack("app"));
    reach.iter().for_each(|(stage, count)| println!("{stage}: {count} reached it"));
    ends.iter().for_each(|(stage, count)| println!("{stage}: {count} ended there"));
    assert_eq!(reach.len(), 5 + PACKINGS.len());
    for (stage, reached) in reach {
        assert!(reached * REACH_ONE_IN >= count, "only {reached} of {count} reached {stage}");
    }
    assert!(grown_kib < MEMORY_KIB_MAX, "{grown_kib} KiB");
}

/// At which places the bytes are others, and which.
fn differences(good: &[u8], bytes: &[u8]) -> String {
    let different = bytes.iter().zip(good).enumerate().filter(|(_, (byte, good))| byte != good).take(20);
    let different: Vec<String> = different.map(|(place, (byte, _))| format!("{byte:#04x} at {place}")).collect();
    format!("{} bytes, {}", bytes.len(), different.join(", "))
}

/// Size, digest and signature of what is accepted, looked at once more.
fn is_right_to_accept(mutant: &Mutant) -> bool {
    let size = mutant.bytes.len() as u64;
    let digest = mutant.digest.as_ref().is_none_or(|digest| match digest.algorithm {
        DigestAlgorithm::Sha256 => digest.bytes == sha2::Sha256::digest(&mutant.bytes).to_vec(),
        DigestAlgorithm::Sha512 => digest.bytes == sha2::Sha512::digest(&mutant.bytes).to_vec(),
        DigestAlgorithm::Sha1 => false,
    });
    let signature = match (mutant.demands.trusted_keys.first(), &mutant.minisig) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(key), Some(minisig)) => {
            // By the other of minisign's libraries, which wants its own words in the first line; that and what follows the fourth is signed by nobody and
            // means nothing.
            let signed: Vec<&str> = minisig.lines().skip(1).take(3).collect();
            let minisig = format!("untrusted comment: none\n{}\n", signed.join("\n"));
            let key = minisign::PublicKey::from_base64(key).expect("a key");
            let verified = minisign::SignatureBox::from_string(&minisig)
                .and_then(|signature| minisign::verify(&key, &signature, Cursor::new(&mutant.bytes), true, false, false));
            verified.is_ok()
        }
    };
    size <= mutant.demands.size_bytes_max && mutant.said_size.is_none_or(|said| said == size) && digest && signature
}
