//! From the published file to the executable.
//!
//! Everything is streamed and bounded: what comes out of a decompressor by `size_bytes_max`, which for a tar archive is all that is in it and for a
//! zip archive each entry that is read, and names and headers by limits of their own. Of an archive, the bytes of one entry are used and nothing else: its paths and links name no file here, its modes
//! and owners are not looked at. Nothing is written but the one file that the caller has opened.

#[cfg(feature = "unpack")]
mod choice;
#[cfg_attr(not(feature = "unpack"), expect(dead_code, reason = "a plain file needs less of it"))]
mod stream;
#[cfg(feature = "unpack")]
mod tar;
#[cfg(feature = "unpack")]
mod zip;
#[cfg(feature = "unpack")]
mod zst;

use super::Refusal;
use std::fs::File;
use std::io::{self, Write};
use stream::{Source, Stream};

/// How a release is packed, by the ending of its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Tar,
    TarGzip,
    TarZstd,
    Zip,
}

/// Endings of what can be unpacked, in lower case.
const ENDINGS: [(&str, Packing); 8] = [
    (".tar.gz", Packing::TarGzip),
    (".tgz", Packing::TarGzip),
    (".tar.zst", Packing::TarZstd),
    (".tzst", Packing::TarZstd),
    (".tar", Packing::Tar),
    (".zip", Packing::Zip),
    (".zst", Packing::Zstd),
    (".gz", Packing::Gzip),
];

/// Endings that say of a file that it is no executable as it is.
const NOT_SUPPORTED: [&str; 17] = [
    ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".xz", ".bz2", ".lz4", ".lzma", ".7z", ".rar", ".deb", ".rpm", ".apk", ".br", ".dmg", ".msi",
    ".jar",
];

impl Packing {
    /// # Errors
    /// Core cannot unpack such a file.
    pub(crate) fn of(file_name: &str) -> Result<Self, Refusal> {
        let name = file_name.to_ascii_lowercase();
        if let Some(ending) = NOT_SUPPORTED.iter().find(|ending| name.ends_with(*ending)) {
            let why = format!(
                "is called {file_name:?}, and {ending} cannot be unpacked: publish it plain or as .gz, .zst, .tar.gz, .tar.zst or .zip"
            );
            return Err(Refusal::reject(why));
        }
        match ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)) {
            None => Ok(Self::Plain),
            Some((_, packing)) if cfg!(feature = "unpack") => Ok(*packing),
            Some(_) => Err(Refusal::reject(format!("is called {file_name:?}, and this program was built without the feature unpack"))),
        }
    }

    /// What such files are called.
    fn ending(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            _ => ENDINGS.iter().find(|(_, packing)| *packing == self).map_or("packed", |(ending, _)| *ending),
        }
    }
}

/// What is wanted of a packed file.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "unpack"), expect(dead_code, reason = "of a plain file only the size matters"))]
pub(crate) struct Wanted<'a> {
    /// The name of the program's file, which its entry in an archive is expected to have.
    pub(crate) program: &'a str,
    /// The entry of an archive, by the last components of its path; instead of the one named like the program.
    pub(crate) entry: Option<&'a str>,
    /// Whether a script can be the executable of an archive.
    pub(crate) scripts: bool,
    pub(crate) size_bytes_max: u64,
}

/// Why a file was not unpacked.
#[derive(Debug)]
pub(crate) enum UnpackError {
    /// The packed file is damaged, too large, or does not hold one executable.
    Refused(Refusal),
    /// The packed file could not be read.
    Read(io::Error),
    /// The unpacked file could not be written; how many bytes had been.
    Write(io::Error, u64),
}

/// The file that gets the executable.
struct Target<'a> {
    file: &'a mut File,
    written: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Target<'_> {
    /// Takes back what was written: a better entry has been found.
    #[cfg(feature = "unpack")]
    fn restart(&mut self) -> Result<(), UnpackError> {
        if self.written > 0 {
            let emptied = self.file.set_len(0).and_then(|()| io::Seek::rewind(self.file));
            emptied.map_err(|error| UnpackError::Write(error, self.written))?;
            self.written = 0;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.file.write_all(bytes).map_err(|error| UnpackError::Write(error, self.written))?;
        self.written += bytes.len() as u64;
        (self.progress)(self.written);
        Ok(())
    }
}

/// Copies the executable in `from` to `to`, unpacked, in pieces. `to` is empty. `progress` hears after each how many bytes were written.
///
/// # Errors
/// See [`UnpackError`]. What was written is left.
pub(crate) fn unpack(
    packing: Packing,
    from: &File,
    to: &mut File,
    wanted: &Wanted<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), UnpackError> {
    let mut target = Target { file: to, written: 0, progress };
    let source = &Source::new(from);
    let max = wanted.size_bytes_max;
    #[cfg(feature = "unpack")]
    match packing {
        Packing::Plain => copy(&mut Stream::new(packing, source, source.whole(), max), &mut target),
        Packing::Gzip => copy(&mut Stream::new(packing, source, gunzip(source), max), &mut target),
        Packing::Zstd => copy(&mut Stream::new(packing, source, zst::Frames::new(source.whole()), max), &mut target),
        Packing::Tar => tar::take(&mut Stream::new(packing, source, source.whole(), max), wanted, &mut target),
        Packing::TarGzip => tar::take(&mut Stream::new(packing, source, gunzip(source), max), wanted, &mut target),
        Packing::TarZstd => tar::take(&mut Stream::new(packing, source, zst::Frames::new(source.whole()), max), wanted, &mut target),
        Packing::Zip => zip::take(source, wanted, &mut target),
    }
    #[cfg(not(feature = "unpack"))]
    match packing {
        Packing::Plain => copy(&mut Stream::new(packing, source, source.whole(), max), &mut target),
        _ => Err(UnpackError::refuse("is packed, and this program was built without the feature unpack")),
    }
}

/// Several members one after the other are one file, as for `gzip` itself.
#[cfg(feature = "unpack")]
fn gunzip<'a>(source: &'a Source<'a>) -> impl io::Read + 'a {
    flate2::read::MultiGzDecoder::new(source.whole())
}

fn copy(from: &mut Stream<'_>, to: &mut Target<'_>) -> Result<(), UnpackError> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            bytes => to.write(&buffer[..bytes])?,
        }
    }
}

const PIECE_BYTES: usize = 128 * 1024;

#[cfg(test)]
mod tests;
