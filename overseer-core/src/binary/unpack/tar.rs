//! The entries of a tar archive, in the order in which they come.

use super::choice::{BEGINNING_BYTES, Choice, Contents, ENTRIES_MAX};
use super::stream::Stream;
use super::{PIECE_BYTES, Target, UnpackError, Wanted};
use ::tar::Header;

const BLOCK_BYTES: usize = 512;
/// The longest name of an entry (PATH_MAX), and the longest of the extended headers, which hold it and attributes that are of no use here.
const NAME_BYTES_MAX: u64 = 4096;
const EXTENDED_BYTES_MAX: u64 = 256 * 1024;

/// Writes the contents of the program's entry to `target`. Reads to the end of the archive, so that its checksums count, and only padding may lie behind that.
pub(super) fn take(stream: &mut Stream<'_>, wanted: &Wanted<'_>, target: &mut Target<'_>) -> Result<(), UnpackError> {
    let mut choice = Choice::new(wanted);
    let mut buffer = vec![0; PIECE_BYTES];
    let mut said_before = Extended::default();
    for _ in 0..=ENTRIES_MAX {
        let Some(header) = read_header(stream)? else {
            read_padding(stream, &mut buffer)?;
            return choice.finish().map_err(UnpackError::Refused);
        };
        let in_header = header.entry_size().map_err(|_| stream.damaged("the size of an entry is no number"))?;
        // What follows an extended header is said of the next entry, not of another extended header.
        let kind = header.entry_type().as_byte();
        match kind {
            b'L' => said_before.path = Some(read_name(stream, in_header)?),
            b'x' => said_before.read_pax(stream, in_header)?,
            b'g' | b'K' => skip(stream, padded(in_header), &mut buffer)?,
            b'S' => return Err(stream.unsupported(SPARSE)),
            _ => {
                let said = std::mem::take(&mut said_before);
                let size = said.size.unwrap_or(in_header);
                let path = said.path.unwrap_or_else(|| header.path_bytes().into_owned());
                take_entry(stream, kind, &path, size, &mut choice, target, &mut buffer)?;
            }
        }
    }
    Err(stream.unsupported(&format!("it has more than {ENTRIES_MAX} entries")))
}

const SPARSE: &str = "it holds a sparse file; pack it without --sparse";

/// The next header; `None` if there is the mark of the end instead.
fn read_header(stream: &mut Stream<'_>) -> Result<Option<Header>, UnpackError> {
    let mut header = Header::new_old();
    if stream.fill(header.as_mut_bytes())? < BLOCK_BYTES {
        return Err(stream.cut_off());
    }
    if header.as_bytes().iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let bytes = header.as_bytes();
    // The field of the sum counts as eight spaces.
    let sum: u32 = bytes[..148].iter().chain(&[b' '; 8]).chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum();
    if header.cksum().ok() != Some(sum) {
        return Err(stream.damaged("the checksum of a header differs"));
    }
    Ok(Some(header))
}

fn take_entry(
    stream: &mut Stream<'_>,
    kind: u8,
    path: &[u8],
    size: u64,
    choice: &mut Choice<'_>,
    target: &mut Target<'_>,
    buffer: &mut [u8],
) -> Result<(), UnpackError> {
    let is_file = matches!(kind, b'0' | b'\0' | b'7') && !path.ends_with(b"/");
    let mut beginning = [0; BEGINNING_BYTES];
    let begins = if is_file { beginning.len().min(usize::try_from(size).unwrap_or(usize::MAX)) } else { 0 };
    let beginning = &mut beginning[..begins];
    if stream.fill(beginning)? < begins {
        return Err(stream.cut_off());
    }
    let contents = match kind {
        _ if is_file => Contents::File(beginning),
        b'0' | b'\0' | b'5' => Contents::Directory,
        b'1' => Contents::Other("a hard link"),
        b'2' => Contents::Other("a symbolic link"),
        _ => Contents::Other("no regular file"),
    };
    if !choice.is_better(path, contents) {
        return skip(stream, padded(size).saturating_sub(begins as u64), buffer);
    }
    target.restart()?;
    target.write(beginning)?;
    each_piece(stream, size - begins as u64, buffer, |piece| target.write(piece))?;
    skip(stream, padded(size).saturating_sub(size), buffer)
}

/// The bytes of whole blocks.
fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK_BYTES as u64).unwrap_or(u64::MAX)
}

fn skip(stream: &mut Stream<'_>, bytes: u64, buffer: &mut [u8]) -> Result<(), UnpackError> {
    each_piece(stream, bytes, buffer, |_| Ok(()))
}

fn each_piece(
    stream: &mut Stream<'_>,
    bytes: u64,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let mut left = bytes;
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match stream.read(&mut buffer[..wanted])? {
            0 => return Err(stream.cut_off()),
            bytes => {
                take(&buffer[..bytes])?;
                left -= bytes as u64;
            }
        }
    }
    Ok(())
}

/// Reads what lies behind the mark of the end: zeros up to a whole record.
fn read_padding(stream: &mut Stream<'_>, buffer: &mut [u8]) -> Result<(), UnpackError> {
    loop {
        match stream.read(buffer)? {
            0 => return Ok(()),
            bytes if buffer[..bytes].iter().all(|byte| *byte == 0) => {}
            _ => return Err(stream.damaged("something lies behind its end")),
        }
    }
}

fn read_small(stream: &mut Stream<'_>, size: u64, max: u64, what: &str) -> Result<Vec<u8>, UnpackError> {
    if size > max {
        return Err(stream.unsupported(&format!("{what} has {size} bytes, more than {max}")));
    }
    let size = usize::try_from(size).unwrap_or_default();
    let mut bytes = vec![0; size.next_multiple_of(BLOCK_BYTES)];
    if stream.fill(&mut bytes)? < bytes.len() {
        return Err(stream.cut_off());
    }
    bytes.truncate(size);
    Ok(bytes)
}

fn read_name(stream: &mut Stream<'_>, size: u64) -> Result<Vec<u8>, UnpackError> {
    let mut name = read_small(stream, size, NAME_BYTES_MAX, "a name in it")?;
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    Ok(name)
}

/// What is said of the next entry, in headers of its own.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    /// Reads the records of a POSIX extended header: `LENGTH KEY=VALUE\n`, where the length is that of the whole record.
    fn read_pax(&mut self, stream: &mut Stream<'_>, size: u64) -> Result<(), UnpackError> {
        let bytes = read_small(stream, size, EXTENDED_BYTES_MAX, "an extended header in it")?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Some((key, value, after)) = pax_record(rest) else { return Err(stream.damaged("an extended header is none")) };
            rest = after;
            match key {
                b"path" if value.len() as u64 <= NAME_BYTES_MAX => self.path = Some(value.to_owned()),
                b"path" => return Err(stream.unsupported("a name in it is too long")),
                b"size" => self.size = Some(number(value).ok_or_else(|| stream.damaged("the size of an entry is no number"))?),
                _ if key.starts_with(b"GNU.sparse.") => return Err(stream.unsupported(SPARSE)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` would take a sign too.
    digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}
