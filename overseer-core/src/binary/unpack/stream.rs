//! The bytes of a packed file as they come out of their decompressor, never more of them than are allowed.

use super::{Packing, UnpackError};
use crate::binary::Refusal;
use std::cell::RefCell;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// The published file. It keeps what the system says when it cannot be read, since a decompressor wraps that in words of its own.
#[derive(Debug)]
pub(super) struct Source<'a> {
    file: &'a File,
    failed: RefCell<Option<io::Error>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, failed: RefCell::new(None) }
    }

    pub(super) fn size_bytes(&self) -> Result<u64, UnpackError> {
        Ok(self.file.metadata().map_err(UnpackError::Read)?.len())
    }

    /// At most so many bytes from this place on.
    pub(super) fn part(&'a self, place: u64, bytes_max: u64) -> Part<'a> {
        Part { source: self, place, left: bytes_max }
    }

    pub(super) fn whole(&'a self) -> Part<'a> {
        self.part(0, u64::MAX)
    }

    /// Tells an error of the system from one in the data, and a file that ends too early from one that is damaged.
    pub(super) fn explain(&self, packing: Packing, error: &io::Error) -> UnpackError {
        if let Some(error) = self.failed.take() {
            return UnpackError::Read(error);
        }
        let kind = packing.ending();
        UnpackError::refuse(match error.kind() {
            _ if ends_too_early(error) => format!("is a {kind} file that is cut off"),
            io::ErrorKind::Unsupported => format!("is a {kind} file that cannot be unpacked: {error}"),
            _ => format!("is a damaged {kind} file: {error}"),
        })
    }
}

fn ends_too_early(error: &(dyn Error + 'static)) -> bool {
    let error_of_io = error.downcast_ref::<io::Error>();
    if error_of_io.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
        return true;
    }
    // The source of an error that was made with `io::Error::other` is the source of what is in it.
    let inner = error_of_io.and_then(|error| error.get_ref()).map(|inner| inner as &(dyn Error + 'static));
    inner.or_else(|| error.source()).is_some_and(ends_too_early)
}

/// A stretch of the published file.
pub(super) struct Part<'a> {
    source: &'a Source<'a>,
    place: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        loop {
            match self.source.file.read_at(&mut buffer[..wanted], self.place) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    *self.source.failed.borrow_mut() = Some(error);
                    return Err(kind.into());
                }
                Ok(bytes) => {
                    self.place += bytes as u64;
                    self.left -= bytes as u64;
                    return Ok(bytes);
                }
            }
        }
    }
}

/// What comes out of a decompressor.
pub(super) struct Stream<'a> {
    packing: Packing,
    source: &'a Source<'a>,
    decompressed: Box<dyn Read + 'a>,
    came: u64,
    size_bytes_max: u64,
}

impl<'a> Stream<'a> {
    pub(super) fn new(packing: Packing, source: &'a Source<'a>, decompressed: impl Read + 'a, size_bytes_max: u64) -> Self {
        Self { packing, source, decompressed: Box::new(decompressed), came: 0, size_bytes_max }
    }

    /// Reads a piece; 0 bytes are the end.
    ///
    /// # Errors
    /// More came than the limit allows, or the file is damaged or cannot be read.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let bytes = match self.decompressed.read(buffer) {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.source.explain(self.packing, &error)),
        };
        self.came += bytes as u64;
        if self.came > self.size_bytes_max {
            return Err(self.too_large());
        }
        Ok(bytes)
    }

    /// Reads until the buffer is full or the stream ends, and answers how much of it is.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => break,
                bytes => filled += bytes,
            }
        }
        Ok(filled)
    }

    pub(super) fn too_large(&self) -> UnpackError {
        let max = self.size_bytes_max;
        UnpackError::refuse(match self.packing {
            Packing::Plain => format!("is larger than {max} bytes (size_bytes_max)"),
            _ => format!("is larger than {max} bytes when unpacked (size_bytes_max)"),
        })
    }

    pub(super) fn cut_off(&self) -> UnpackError {
        UnpackError::refuse(format!("is a {} file that is cut off", self.packing.ending()))
    }

    pub(super) fn damaged(&self, what: &str) -> UnpackError {
        UnpackError::refuse(format!("is a damaged {} file: {what}", self.packing.ending()))
    }

    pub(super) fn unsupported(&self, what: &str) -> UnpackError {
        UnpackError::refuse(format!("is a {} file that cannot be unpacked: {what}", self.packing.ending()))
    }
}

impl UnpackError {
    pub(super) fn refuse(why: impl Into<String>) -> Self {
        Self::Refused(Refusal::reject(why))
    }
}
