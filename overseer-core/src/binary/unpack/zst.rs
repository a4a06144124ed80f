//! Zstandard: all frames of a file, as one stream.

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, BufReader, Read};

/// How much of what came before a decoder has to remember. RFC 8878 recommends this limit; `zstd` stays below it unless it is told `--ultra` or `--long`.
const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// The contents of all frames, one after the other. Their checksums and sizes are compared; skippable frames are skipped.
pub(super) struct Frames<R> {
    packed: BufReader<R>,
    decoder: FrameDecoder,
    /// How many bytes have come of the frame that is being read.
    frame: Option<u64>,
    is_empty: bool,
}

impl<R: Read> Frames<R> {
    pub(super) fn new(packed: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self { packed: BufReader::with_capacity(64 * 1024, packed), decoder, frame: None, is_empty: true }
    }

    /// `false` at the end of the file.
    fn begin_frame(&mut self) -> io::Result<bool> {
        if self.packed.fill_buf()?.is_empty() {
            return if self.is_empty { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(false) };
        }
        self.is_empty = false;
        match self.decoder.reset(&mut self.packed) {
            Ok(()) => self.frame = Some(0),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = u64::from(length);
                if io::copy(&mut self.packed.by_ref().take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(explain(error)),
        }
        Ok(true)
    }

    fn end_frame(&mut self, came: u64) -> io::Result<()> {
        let said = self.decoder.content_size();
        if said != 0 && said != came {
            return Err(damaged(format!("a frame of {said} bytes has {came}")));
        }
        let checksum = self.decoder.get_checksum_from_data();
        if checksum.is_some() && checksum != self.decoder.get_calculated_checksum() {
            return Err(damaged("the checksum of a frame differs".to_owned()));
        }
        self.frame = None;
        Ok(())
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(came) = self.frame else {
                if self.begin_frame()? {
                    continue;
                }
                return Ok(0);
            };
            let bytes = self.decoder.read(buffer)?;
            if bytes > 0 {
                self.frame = Some(came + bytes as u64);
                return Ok(bytes);
            }
            if self.decoder.is_finished() {
                self.end_frame(came)?;
            } else {
                // One at a time, so that no more than the window and a block are in memory.
                self.decoder.decode_blocks(&mut self.packed, BlockDecodingStrategy::UptoBlocks(1)).map_err(explain)?;
            }
        }
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn explain(error: FrameDecoderError) -> io::Error {
    let unsupported = |what: String| io::Error::new(io::ErrorKind::Unsupported, what);
    match error {
        FrameDecoderError::WindowSizeTooBig { requested, .. } => unsupported(format!(
            "it needs {requested} bytes of memory, more than {WINDOW_BYTES_MAX}; compress it without --ultra and --long"
        )),
        FrameDecoderError::DictNotProvided { .. } => unsupported("it needs a dictionary".to_owned()),
        other => io::Error::other(other),
    }
}
