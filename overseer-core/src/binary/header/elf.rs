//! Whether an ELF file is a whole program for this machine. Reads its tables and nothing else.

use super::{Loaders, cut_off};
use crate::binary::Refusal;
use object::Endianness;
use object::elf::{self, DataEncoding, FileClass, FileHeader32, FileHeader64, Machine};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The machine as ELF numbers it, and its name; `None` where this crate does not know it, and the kernel's word has to do.
const MACHINE: Option<(Machine, &str)> = if cfg!(target_arch = "x86_64") {
    Some((elf::EM_X86_64, "x86_64"))
} else if cfg!(target_arch = "aarch64") {
    Some((elf::EM_AARCH64, "aarch64"))
} else if cfg!(target_arch = "x86") {
    Some((elf::EM_386, "x86"))
} else if cfg!(target_arch = "arm") {
    Some((elf::EM_ARM, "arm"))
} else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
    Some((elf::EM_RISCV, "riscv"))
} else if cfg!(target_arch = "powerpc64") {
    Some((elf::EM_PPC64, "powerpc64"))
} else if cfg!(target_arch = "s390x") {
    Some((elf::EM_S390, "s390x"))
} else if cfg!(target_arch = "loongarch64") {
    Some((elf::EM_LOONGARCH, "loongarch64"))
} else {
    None
};

const BITS: u8 = if cfg!(target_pointer_width = "32") { 32 } else { 64 };
const ORDER: DataEncoding = if cfg!(target_endian = "big") { elf::ELFDATA2MSB } else { elf::ELFDATA2LSB };

/// The longest table of segments that Linux takes, and the longest path (PATH_MAX). Nothing longer is read into memory.
const SEGMENTS_BYTES_MAX: u64 = 64 * 1024;
const PATH_BYTES_MAX: u64 = 4096;

pub(super) fn prove(file: &File, start: &[u8], size_bytes: u64, loaders: &Loaders<'_>) -> Result<(), Refusal> {
    match start.get(elf::ELFMAG.len()).copied().map(FileClass) {
        Some(elf::ELFCLASS64) if BITS == 64 => prove_class::<FileHeader64<Endianness>>(file, start, size_bytes, loaders),
        Some(elf::ELFCLASS32) if BITS == 32 => prove_class::<FileHeader32<Endianness>>(file, start, size_bytes, loaders),
        Some(elf::ELFCLASS32 | elf::ELFCLASS64) => Err(Refusal::reject(format!("is not for a {BITS}-bit system as this program is"))),
        Some(class) => Err(Refusal::reject(format!("has a damaged header (class {})", class.0))),
        None => Err(cut_off(size_bytes, "its header")),
    }
}

fn prove_class<H: FileHeader<Endian = Endianness>>(
    file: &File,
    start: &[u8],
    size_bytes: u64,
    loaders: &Loaders<'_>,
) -> Result<(), Refusal> {
    if start.len() < size_of::<H>() {
        return Err(cut_off(size_bytes, "its header"));
    }
    let damaged = |error: object::read::Error| Refusal::reject(format!("has a damaged header ({error})"));
    let cache = ReadCache::new(file);
    let header = H::parse(&cache).map_err(damaged)?;
    if header.e_ident().data != ORDER {
        return Err(Refusal::reject("is for a machine with another byte order"));
    }
    let endian = header.endian().map_err(damaged)?;
    let machine = header.e_machine(endian);
    if let Some((expected, name)) = MACHINE
        && machine != expected
    {
        return Err(Refusal::reject(format!("is for another machine ({}), and this is {name}", machine_name(machine))));
    }
    match header.e_type(endian) {
        elf::ET_EXEC | elf::ET_DYN => {}
        elf::ET_REL => return Err(Refusal::reject("is an object file, not an executable")),
        elf::ET_CORE => return Err(Refusal::reject("is a core dump, not an executable")),
        other => return Err(Refusal::reject(format!("has a damaged header (type {})", other.0))),
    }
    let end = u64::saturating_add;
    let entry_size = |size: u16, count: u64| u64::from(size).saturating_mul(count);
    let (segments_at, sections_at): (u64, u64) = (header.e_phoff(endian).into(), header.e_shoff(endian).into());
    let segments = entry_size(header.e_phentsize(endian), u64::from(header.e_phnum(endian)));
    let sections = entry_size(header.e_shentsize(endian), u64::from(header.e_shnum(endian)));
    if end(segments_at, segments) > size_bytes {
        return Err(cut_off(size_bytes, "its program header table"));
    }
    if end(sections_at, sections) > size_bytes {
        return Err(cut_off(size_bytes, "its section table"));
    }
    // A table of sections without a number has it in its first entry: no program has as many.
    if segments > SEGMENTS_BYTES_MAX || (header.e_shnum(endian) == 0 && sections_at != 0) {
        return Err(Refusal::reject("has a damaged header (more segments or sections than a program has)"));
    }
    let segments = header.program_headers(endian, &cache).map_err(damaged)?;
    if !segments.iter().any(|segment| segment.p_type(endian) == elf::PT_LOAD) || header.e_entry(endian).into() == 0 {
        return Err(Refusal::reject("is a library or has nothing to execute"));
    }
    for segment in segments {
        if end(segment.p_offset(endian).into(), segment.p_filesz(endian).into()) > size_bytes {
            return Err(cut_off(size_bytes, "a segment"));
        }
    }
    for section in header.section_headers(endian, &cache).map_err(damaged)?.iter() {
        if let Some((offset, size)) = section.file_range(endian)
            && end(offset, size) > size_bytes
        {
            return Err(cut_off(size_bytes, "a section"));
        }
    }
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_INTERP) {
        if segment.p_filesz(endian).into() > PATH_BYTES_MAX {
            return Err(Refusal::reject("has a damaged header (its dynamic loader has too long a name)"));
        }
        if let Some(loader) = segment.interpreter(endian, &cache).map_err(damaged)? {
            loaders.prove(Path::new(OsStr::from_bytes(loader)))?;
        }
    }
    Ok(())
}

fn machine_name(machine: Machine) -> String {
    let name = match machine {
        elf::EM_X86_64 => "x86_64",
        elf::EM_AARCH64 => "aarch64",
        elf::EM_386 => "x86",
        elf::EM_ARM => "arm",
        elf::EM_RISCV => "riscv",
        elf::EM_PPC64 => "powerpc64",
        elf::EM_S390 => "s390x",
        elf::EM_LOONGARCH => "loongarch64",
        other => return format!("number {}", other.0),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::prove;
    use super::*;
    use crate::binary::testing;
    use crate::protocol::Verdict;
    use std::fs;

    fn refused(bytes: &[u8]) -> Refusal {
        let directory = testing::directory();
        let path = directory.path().join("release");
        fs::write(&path, bytes).expect("written");
        prove(&File::open(&path).expect("opened"), false).expect_err("it does not fit")
    }

    #[test]
    fn a_build_that_is_cut_anywhere_is_cut_off() {
        let whole = fs::read("/bin/true").expect("read");
        for size in [5, 40, 63, 64, 100, 1000, whole.len() / 2, whole.len() - 1] {
            let refusal = refused(&whole[..size]);
            assert_eq!(refusal.verdict, Verdict::Reject);
            assert!(refusal.why.contains("is cut off") && refusal.why.contains(&format!("{size} bytes")), "{size}: {}", refusal.why);
        }
    }

    #[test]
    fn another_machine_class_byte_order_or_type_is_named() {
        let whole = fs::read("/bin/true").expect("read");
        for (place, value, word) in [
            (4, if BITS == 64 { elf::ELFCLASS32.0 } else { elf::ELFCLASS64.0 }, "-bit system"),
            (5, if ORDER == elf::ELFDATA2LSB { elf::ELFDATA2MSB.0 } else { elf::ELFDATA2LSB.0 }, "byte order"),
            (16, 1, "object file"),
            (16, 4, "core dump"),
            (18, 43, "another machine"),
        ] {
            let mut other = whole.clone();
            other[place] = value;
            let refusal = refused(&other);
            assert!(refusal.why.contains(word), "{word}: {}", refusal.why);
        }
    }

    #[test]
    fn a_missing_dynamic_loader_is_named() {
        let mut other = fs::read("/bin/true").expect("read");
        let place = other.windows(7).position(|bytes| bytes == b"/lib64/" || bytes == b"/lib/ld").expect("it has a dynamic loader");
        other[place + 1..place + 4].copy_from_slice(b"xyz");
        let refusal = refused(&other);
        assert!(refusal.why.contains("needs the dynamic loader /xyz"), "{}", refusal.why);
        assert!(refusal.why.ends_with("which is not here"), "{}", refusal.why);
    }

    #[test]
    fn no_damaged_header_makes_it_panic() {
        let whole = fs::read("/bin/true").expect("read");
        let directory = testing::directory();
        let path = directory.path().join("release");
        let mut random = fastrand::Rng::with_seed(4711);
        for _ in 0..2000 {
            let mut other = whole[..1024].to_vec();
            for _ in 0..random.usize(1..6) {
                let place = random.usize(4..other.len());
                other[place] = random.u8(..);
            }
            fs::write(&path, &other).expect("written");
            prove(&File::open(&path).expect("opened"), false).expect_err("it is cut off at least");
        }
    }
}
