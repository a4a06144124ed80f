//! Packs builds as people publish them.

use super::build::Build;
use ruzstd::encoding::{CompressionLevel, FrameCompressor};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

/// How a build is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gz,
    TarGz,
    Zip,
    TarZst,
}

impl Packing {
    /// What the name of the published file ends in.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gz => ".gz",
            Self::TarGz => ".tar.gz",
            Self::Zip => ".zip",
            Self::TarZst => ".tar.zst",
        }
    }

    /// The build, packed at `path`; itself, if it is published plain.
    pub(crate) fn pack(self, build: &Build, path: PathBuf) -> Result<Build, String> {
        if self == Self::Plain {
            return Ok(build.clone());
        }
        let packed = File::open(&build.path).and_then(|program| self.write(program, &path));
        packed.map_err(|error| format!("cannot pack {} as {}: {error}", build.path.display(), path.display()))?;
        Build::of(build.name.clone(), path)
    }

    fn write(self, mut program: File, path: &PathBuf) -> io::Result<()> {
        let gzip = |to| flate2::write::GzEncoder::new(to, flate2::Compression::fast());
        let size_bytes = program.metadata()?.len();
        let mut to = BufWriter::new(File::create(path)?);
        match self {
            Self::Plain => drop(io::copy(&mut program, &mut to)?),
            Self::Gz => {
                let mut to = gzip(&mut to);
                io::copy(&mut program, &mut to)?;
                to.finish()?;
            }
            Self::TarGz => {
                let mut to = gzip(&mut to);
                io::copy(&mut tarred(program, size_bytes)?, &mut to)?;
                to.finish()?;
            }
            Self::Zip => {
                let mut archive = zip::ZipWriter::new(to);
                let options = zip::write::SimpleFileOptions::default().compression_level(Some(1)).unix_permissions(0o755);
                archive.start_file("app", options)?;
                io::copy(&mut program, &mut archive)?;
                return archive.finish()?.flush();
            }
            Self::TarZst => {
                let mut frame = FrameCompressor::new(CompressionLevel::Fastest);
                frame.set_source(tarred(program, size_bytes)?);
                frame.set_drain(&mut to);
                frame.compress();
            }
        }
        to.flush()
    }
}

/// A tar archive with the program in it.
fn tarred(program: File, size_bytes: u64) -> io::Result<impl Read> {
    const BLOCK_BYTES: u64 = 512;
    let mut header = tar::Header::new_gnu();
    header.set_path("app")?;
    header.set_mode(0o755);
    header.set_size(size_bytes);
    header.set_cksum();
    // Up to the end of its last block, and two empty blocks behind it.
    let padding = size_bytes.next_multiple_of(BLOCK_BYTES) - size_bytes + 2 * BLOCK_BYTES;
    Ok(io::Cursor::new(*header.as_bytes()).chain(program).chain(io::repeat(0).take(padding)))
}
