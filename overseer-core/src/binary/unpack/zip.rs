//! The entries of a zip archive, by the directory at its end.
//!
//! The directory is read in pieces, an entry at a time, however long it is. It counts; of the header before an entry's contents only the
//! name and the method have to agree with it. Nothing may lie behind the archive, and its offsets count from the beginning of the file.

use super::choice::{BEGINNING_BYTES, Choice, Contents, ENTRIES_MAX};
use super::stream::{Part, Source, Stream};
use super::{PIECE_BYTES, Packing, Target, UnpackError, Wanted};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use std::io::{BufReader, Read};

const END: [u8; 4] = *b"PK\x05\x06";
const END_BYTES: usize = 22;
/// Before the end, in an archive whose numbers need 64 bits.
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_64_BYTES: usize = 20;
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
const NAME_BYTES_MAX: usize = 4096;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Encrypted, strongly encrypted, directory encrypted.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
/// The systems on which the upper half of an entry's attributes is a mode: Unix, macOS.
const SYSTEMS_WITH_MODE: [u8; 2] = [3, 19];

const ZIP64: &str = "it is in the zip64 format for more than 4 GiB or 65535 entries; publish it as .tar.gz";

/// Writes the contents of the program's entry to `target`, and compares its size and checksum.
pub(super) fn take(source: &Source<'_>, wanted: &Wanted<'_>, target: &mut Target<'_>) -> Result<(), UnpackError> {
    let archive = Archive { source, size_bytes_max: wanted.size_bytes_max };
    let directory = archive.directory()?;
    let mut entries = BufReader::new(source.part(directory.place, directory.size));
    let mut choice = Choice::new(wanted);
    // Entries that share bytes would have them read again for each, thousands of times.
    let mut room = directory.place;
    for _ in 0..directory.entries {
        let entry = archive.read_entry(&mut entries)?;
        if let Some(what) = entry.unusable() {
            choice.is_better(&entry.name, what);
            continue;
        }
        let mut contents = archive.contents(&entry, directory.place)?;
        room = room.checked_sub(entry.packed).ok_or_else(|| damaged("its entries overlap"))?;
        let mut beginning = [0; BEGINNING_BYTES];
        let begins = contents.fill(&mut beginning)?;
        if choice.is_better(&entry.name, Contents::File(&beginning[..begins])) {
            target.restart()?;
            archive.copy(&entry, &beginning[..begins], &mut contents, target)?;
        }
    }
    if entries.read(&mut [0]).map_err(|error| source.explain(Packing::Zip, &error))? != 0 {
        return Err(damaged("its directory is longer than its entries"));
    }
    choice.finish().map_err(UnpackError::Refused)
}

fn damaged(what: &str) -> UnpackError {
    UnpackError::refuse(format!("is a damaged .zip file: {what}"))
}

fn unsupported(what: &str) -> UnpackError {
    UnpackError::refuse(format!("is a .zip file that cannot be unpacked: {what}"))
}

fn u16_at(bytes: &[u8], place: usize) -> u16 {
    u16::from_le_bytes([bytes[place], bytes[place + 1]])
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes([bytes[place], bytes[place + 1], bytes[place + 2], bytes[place + 3]])
}

struct Directory {
    place: u64,
    size: u64,
    entries: usize,
}

/// What the directory says of an entry.
struct Entry {
    name: Vec<u8>,
    system: u8,
    mode: u32,
    flags: u16,
    method: u16,
    checksum: u32,
    packed: u64,
    unpacked: u64,
    place: u64,
}

impl Entry {
    /// What it is, if it cannot be the program.
    fn unusable(&self) -> Option<Contents<'static>> {
        let kind = if SYSTEMS_WITH_MODE.contains(&self.system) { self.mode & 0o170_000 } else { 0 };
        match kind {
            _ if self.name.ends_with(b"/") => Some(Contents::Directory),
            0o040_000 => Some(Contents::Directory),
            0o120_000 => Some(Contents::Other("a symbolic link")),
            0 | 0o100_000 if self.flags & ENCRYPTED != 0 => Some(Contents::Other("encrypted")),
            0 | 0o100_000 if ![STORED, DEFLATED].contains(&self.method) => Some(Contents::Other("packed in another way than deflate")),
            0 | 0o100_000 => None,
            _ => Some(Contents::Other("no regular file")),
        }
    }
}

struct Archive<'a> {
    source: &'a Source<'a>,
    size_bytes_max: u64,
}

impl<'a> Archive<'a> {
    fn read_exactly(&self, mut from: impl Read, buffer: &mut [u8]) -> Result<(), UnpackError> {
        from.read_exact(buffer).map_err(|error| self.source.explain(Packing::Zip, &error))
    }

    /// Finds the directory by the record at the very end, behind which there is only the comment that it announces.
    fn directory(&self) -> Result<Directory, UnpackError> {
        let size = self.source.size_bytes()?;
        let last = size.min((END_BYTES + LOCATOR_64_BYTES) as u64 + u64::from(u16::MAX));
        let mut tail = vec![0; usize::try_from(last).unwrap_or_default()];
        self.read_exactly(self.source.part(size - last, last), &mut tail)?;
        let is_end = |place: &usize| {
            let record = &tail[*place..];
            record.starts_with(&END) && END_BYTES + usize::from(u16_at(record, 20)) == record.len()
        };
        let Some(place) = (0..(tail.len() + 1).saturating_sub(END_BYTES)).rev().find(is_end) else {
            return Err(damaged("it is cut off, or something lies behind its end"));
        };
        let (before, record) = tail.split_at(place);
        let entries = u16_at(record, 10);
        let (bytes, begin) = (u32_at(record, 12), u32_at(record, 16));
        let locator = before.len().checked_sub(LOCATOR_64_BYTES).map(|place| &before[place..]);
        if entries == u16::MAX || bytes == u32::MAX || begin == u32::MAX || locator.is_some_and(|bytes| bytes.starts_with(&LOCATOR_64)) {
            return Err(unsupported(ZIP64));
        }
        if [u16_at(record, 4), u16_at(record, 6)] != [0, 0] || u16_at(record, 8) != entries {
            return Err(unsupported("it is one of several parts"));
        }
        if usize::from(entries) > ENTRIES_MAX {
            return Err(unsupported(&format!("it has more than {ENTRIES_MAX} entries")));
        }
        if u64::from(begin) + u64::from(bytes) != size - last + place as u64 {
            return Err(damaged("its directory is not where its end says"));
        }
        Ok(Directory { place: begin.into(), size: bytes.into(), entries: entries.into() })
    }

    fn read_entry(&self, entries: &mut BufReader<Part<'_>>) -> Result<Entry, UnpackError> {
        let mut record = [0; ENTRY_BYTES];
        self.read_exactly(&mut *entries, &mut record)?;
        if !record.starts_with(&ENTRY) {
            return Err(damaged("an entry of its directory is none"));
        }
        let numbers = [u32_at(&record, 20), u32_at(&record, 24), u32_at(&record, 42)];
        if numbers.contains(&u32::MAX) {
            return Err(unsupported(ZIP64));
        }
        let [packed, unpacked, place] = numbers.map(u64::from);
        let name = self.read_name(&mut *entries, u16_at(&record, 28).into())?;
        for bytes in [u16_at(&record, 30), u16_at(&record, 32)] {
            // What is of no use here, at most 64 KiB.
            self.read_exactly(&mut *entries, &mut vec![0; bytes.into()])?;
        }
        Ok(Entry {
            name,
            system: record[5],
            mode: u32_at(&record, 38) >> 16,
            flags: u16_at(&record, 8),
            method: u16_at(&record, 10),
            checksum: u32_at(&record, 16),
            packed,
            unpacked,
            place,
        })
    }

    fn read_name(&self, from: impl Read, bytes: usize) -> Result<Vec<u8>, UnpackError> {
        if bytes > NAME_BYTES_MAX {
            return Err(unsupported("a name in it is too long"));
        }
        let mut name = vec![0; bytes];
        self.read_exactly(from, &mut name)?;
        Ok(name)
    }

    /// The unpacked contents of an entry, which lie before the directory.
    fn contents(&self, entry: &Entry, directory: u64) -> Result<Stream<'a>, UnpackError> {
        let mut header = [0; LOCAL_BYTES];
        self.read_exactly(self.source.part(entry.place, LOCAL_BYTES as u64), &mut header)?;
        let name_bytes = u16_at(&header, 26);
        let name_at = entry.place + LOCAL_BYTES as u64;
        let name = self.read_name(self.source.part(name_at, name_bytes.into()), name_bytes.into())?;
        if !header.starts_with(&LOCAL) || u16_at(&header, 8) != entry.method || name != entry.name {
            return Err(damaged("its directory and its entries do not agree"));
        }
        let begin = name_at + u64::from(name_bytes) + u64::from(u16_at(&header, 28));
        if begin + entry.packed > directory {
            return Err(damaged("an entry lies in its directory"));
        }
        let part = self.source.part(begin, entry.packed);
        let stream = |contents: Box<dyn Read + 'a>| Stream::new(Packing::Zip, self.source, contents, self.size_bytes_max);
        Ok(if entry.method == STORED { stream(Box::new(part)) } else { stream(Box::new(DeflateDecoder::new(part))) })
    }

    fn copy(&self, entry: &Entry, beginning: &[u8], contents: &mut Stream<'_>, target: &mut Target<'_>) -> Result<(), UnpackError> {
        if entry.unpacked > self.size_bytes_max {
            return Err(contents.too_large());
        }
        let mut checksum = Crc::new();
        let mut buffer = vec![0; PIECE_BYTES];
        let mut piece = beginning;
        while !piece.is_empty() {
            checksum.update(piece);
            target.write(piece)?;
            if target.written > entry.unpacked {
                break;
            }
            let bytes = contents.read(&mut buffer)?;
            piece = &buffer[..bytes];
        }
        if target.written != entry.unpacked || checksum.sum() != entry.checksum {
            return Err(damaged("size or checksum of an entry differ"));
        }
        Ok(())
    }
}
