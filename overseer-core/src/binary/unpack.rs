//! From the published file to the executable.

use super::Refusal;
use std::fs::File;
use std::io::{self, Read, Write};

/// How a release is packed, by the ending of its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
}

/// Endings that say of a file that it is no executable as it is.
const NOT_SUPPORTED: [&str; 14] =
    [".tar.gz", ".tgz", ".tar", ".tar.zst", ".tar.xz", ".zip", ".zst", ".xz", ".bz2", ".7z", ".deb", ".rpm", ".apk", ".br"];

impl Packing {
    /// # Errors
    /// Core cannot unpack such a file.
    pub(crate) fn of(file_name: &str) -> Result<Self, Refusal> {
        let name = file_name.to_ascii_lowercase();
        if let Some(ending) = NOT_SUPPORTED.iter().find(|ending| name.ends_with(*ending)) {
            return Err(Refusal::reject(format!("is called {file_name:?}, and {ending} cannot be unpacked: publish it plain or as .gz")));
        }
        if !name.ends_with(".gz") {
            return Ok(Self::Plain);
        }
        if cfg!(feature = "unpack") {
            return Ok(Self::Gzip);
        }
        Err(Refusal::reject(format!("is called {file_name:?}, and this program was built without the feature unpack")))
    }
}

/// Why a file was not unpacked.
#[derive(Debug)]
pub(crate) enum UnpackError {
    /// The packed file is damaged or too large.
    Refused(Refusal),
    /// The packed file could not be read.
    Read(io::Error),
    /// The unpacked file could not be written; how many bytes had been.
    Write(io::Error, u64),
}

/// Copies `from` to `to`, unpacked, in pieces. `progress` hears after each how many bytes were written.
///
/// # Errors
/// See [`UnpackError`]. What was written is left.
pub(crate) fn unpack(
    packing: Packing,
    from: &File,
    to: &mut File,
    size_bytes_max: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), UnpackError> {
    match packing {
        Packing::Plain => copy(from, to, size_bytes_max, progress, UnpackError::Read),
        #[cfg(feature = "unpack")]
        Packing::Gzip => gunzip(from, to, size_bytes_max, progress),
        #[cfg(not(feature = "unpack"))]
        Packing::Gzip => Err(UnpackError::Refused(Refusal::reject("is packed, and this program was built without the feature unpack"))),
    }
}

#[cfg(feature = "unpack")]
fn gunzip(from: &File, to: &mut File, size_bytes_max: u64, progress: &mut dyn FnMut(u64)) -> Result<(), UnpackError> {
    let unpacked = flate2::read::MultiGzDecoder::new(from);
    copy(unpacked, to, size_bytes_max, progress, |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => UnpackError::Refused(Refusal::reject("is a .gz file that is cut off")),
        // What flate2 says of the data; errors of the system have a number.
        _ if error.raw_os_error().is_none() => UnpackError::Refused(Refusal::reject(format!("is a damaged .gz file: {error}"))),
        _ => UnpackError::Read(error),
    })
}

fn copy(
    mut from: impl Read,
    to: &mut File,
    size_bytes_max: u64,
    progress: &mut dyn FnMut(u64),
    read_error: impl Fn(io::Error) -> UnpackError,
) -> Result<(), UnpackError> {
    let mut buffer = vec![0; 128 * 1024];
    let mut written = 0;
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read_error(error)),
        };
        if written + bytes as u64 > size_bytes_max {
            return Err(UnpackError::Refused(Refusal::reject(format!(
                "is larger than {size_bytes_max} bytes when unpacked (size_bytes_max)"
            ))));
        }
        to.write_all(&buffer[..bytes]).map_err(|error| UnpackError::Write(error, written))?;
        written += bytes as u64;
        progress(written);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use std::fs;

    fn unpacked(packing: Packing, packed: &[u8], size_bytes_max: u64) -> Result<Vec<u8>, UnpackError> {
        let directory = testing::directory();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, packed).expect("written");
        let mut file = File::create(&to).expect("created");
        let mut heard = 0;
        unpack(packing, &File::open(&from).expect("opened"), &mut file, size_bytes_max, &mut |bytes| heard = bytes)?;
        let bytes = fs::read(&to).expect("read");
        assert_eq!(heard, bytes.len() as u64);
        Ok(bytes)
    }

    #[test]
    fn the_name_says_how_it_is_packed() {
        for plain in ["app", "app-1.2", "app_linux", "gz", "app.gz.sig", ""] {
            assert_eq!(Packing::of(plain), Ok(Packing::Plain), "{plain}");
        }
        for archive in ["app.tar.gz", "APP.TGZ", "app.zip", "app.zst"] {
            let refusal = Packing::of(archive).expect_err("it cannot be unpacked");
            assert!(refusal.why.contains("cannot be unpacked"), "{}", refusal.why);
        }
        assert_eq!(Packing::of("app.gz").is_ok(), cfg!(feature = "unpack"));
    }

    #[test]
    fn a_plain_file_is_copied_up_to_its_limit() {
        let bytes = vec![7; 300_000];
        assert_eq!(unpacked(Packing::Plain, &bytes, 300_000).expect("copied"), bytes);
        assert!(matches!(unpacked(Packing::Plain, &bytes, 299_999), Err(UnpackError::Refused(_))));
    }

    #[cfg(feature = "unpack")]
    #[test]
    fn a_packed_file_is_unpacked_and_a_damaged_one_is_refused() {
        let packed = |bytes: &[u8]| {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packer.write_all(bytes).expect("packed");
            packer.finish().expect("packed")
        };
        let bytes: Vec<u8> = (0..300_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let whole = packed(&bytes);
        assert_eq!(unpacked(Packing::Gzip, &whole, 300_000).expect("unpacked"), bytes);
        let two = [whole.clone(), packed(b"and more")].concat();
        assert_eq!(unpacked(Packing::Gzip, &two, 400_000).expect("unpacked").len(), 300_008);

        let refused = |packed: &[u8], size_bytes_max| match unpacked(Packing::Gzip, packed, size_bytes_max) {
            Err(UnpackError::Refused(refusal)) => refusal.why,
            other => panic!("not refused: {:?}", other.map(|bytes| bytes.len())),
        };
        assert!(refused(&whole[..whole.len() - 9], 300_000).contains("cut off"));
        assert!(refused(&whole[..whole.len() / 2], 300_000).contains("cut off"));
        let mut damaged = whole.clone();
        let place = damaged.len() - 8;
        damaged[place] ^= 1;
        assert!(refused(&damaged, 300_000).contains("damaged"));
        assert!(refused(b"not packed at all", 300_000).contains("damaged"));
        assert!(refused(&[&whole[..], b"rubbish behind it"].concat(), 300_000).contains("damaged"));
        let bomb = packed(&vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000 && refused(&bomb, 1_000_000).contains("1000000 bytes"));
    }
}
