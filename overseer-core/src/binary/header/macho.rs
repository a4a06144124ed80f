//! Whether a Mach-O file is a whole program for a cpu: a thin one, or the part for it of a universal one.
//!
//! Judges for the cpu that it is given, so that it says the same on every system.

use super::{Loaders, cut_off, read_up_to};
use crate::binary::Refusal;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The cpu that this program is built for, as Mach-O numbers it.
pub(super) const CPU: u32 = if cfg!(target_arch = "x86_64") { X86_64 } else { ARM_64 };
const X86_64: u32 = 0x0100_0007;
const ARM_64: u32 = 0x0100_000c;
const CPUS: [(u32, &str); 6] =
    [(X86_64, "x86_64"), (ARM_64, "aarch64"), (7, "x86"), (12, "arm"), (18, "powerpc"), (0x0100_0012, "powerpc64")];

const THIN_64: [u8; 4] = [0xcf, 0xfa, 0xed, 0xfe];
const THIN_32: [u8; 4] = [0xce, 0xfa, 0xed, 0xfe];
/// Big endian, whatever the cpu.
const UNIVERSAL: [u8; 4] = [0xca, 0xfe, 0xba, 0xbe];
const UNIVERSAL_64: [u8; 4] = [0xca, 0xfe, 0xba, 0xbf];
/// A class file of Java begins like a universal binary, and has its version, 43 or more, where that has the number of its parts.
const PARTS_MAX: usize = 15;

const HEADER_BYTES: usize = 32;
const EXECUTE: u32 = 2;
const COMMANDS_BYTES_MAX: u32 = 1 << 20;
const LC_UNIX_THREAD: u32 = 0x5;
const LC_LOAD_DYLINKER: u32 = 0xe;
const LC_SEGMENT_64: u32 = 0x19;
const LC_MAIN: u32 = 0x8000_0028;

/// Whether a file that begins so is a Mach-O file.
pub(super) fn begins(start: &[u8]) -> bool {
    [THIN_64, THIN_32, UNIVERSAL, UNIVERSAL_64].iter().any(|magic| start.starts_with(magic))
}

/// What a file that begins so is; `None` if it is no Mach-O file.
pub(super) fn describe(start: &[u8]) -> Option<String> {
    if start.starts_with(&THIN_64) || start.starts_with(&THIN_32) {
        let cpu = start.get(4..8).map(|_| cpu_name(little(start, 4)));
        return Some(format!("a macOS program for {}", cpu.unwrap_or_else(|| "an unknown cpu".to_owned())));
    }
    let parts = parts(start)?;
    let cpus: Vec<String> = parts.iter().map(|part| cpu_name(part.cpu)).collect();
    Some(format!("a macOS program for {}", cpus.join(" and ")))
}

/// Looks whether the file is a whole program for `cpu`.
///
/// # Errors
/// It is not: rejected. It cannot be read: nobody is blamed.
pub(super) fn prove(file: &File, start: &[u8], size_bytes: u64, cpu: u32, loaders: &Loaders<'_>) -> Result<(), Refusal> {
    if start.starts_with(&THIN_64) || start.starts_with(&THIN_32) {
        return prove_thin(file, &Part { cpu: little_or_zero(start, 4), place: 0, size: size_bytes }, size_bytes, cpu, loaders);
    }
    let Some(parts) = parts(start) else {
        return Err(Refusal::reject("is no executable of any kind known here (it begins like a universal macOS program)"));
    };
    let Some(part) = parts.iter().find(|part| part.cpu == cpu) else {
        let there: Vec<String> = parts.iter().map(|part| cpu_name(part.cpu)).collect();
        return Err(Refusal::reject(format!("is for other machines ({}), and this is {}", there.join(" and "), cpu_name(cpu))));
    };
    if part.place.saturating_add(part.size) > size_bytes {
        return Err(cut_off(size_bytes, "the part for this machine"));
    }
    prove_thin(file, part, size_bytes, cpu, loaders)
}

/// Where in the file a program for one cpu lies.
struct Part {
    cpu: u32,
    place: u64,
    size: u64,
}

fn parts(start: &[u8]) -> Option<Vec<Part>> {
    let is_64 = start.starts_with(&UNIVERSAL_64);
    if !is_64 && !start.starts_with(&UNIVERSAL) {
        return None;
    }
    let big =
        |place: usize| start.get(place..place + 4).map(|bytes| u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
    let number = usize::try_from(big(4)?).ok().filter(|number| (1..=PARTS_MAX).contains(number))?;
    let part = |index: usize| {
        let place = 8 + index * if is_64 { 32 } else { 20 };
        let long = |place: usize| Some(big(place)? << 32 | big(place + 4)?);
        let (begin, size) = if is_64 { (long(place + 8)?, long(place + 16)?) } else { (big(place + 8)?, big(place + 12)?) };
        Some(Part { cpu: u32::try_from(big(place)?).ok()?, place: begin, size })
    };
    (0..number).map(part).collect()
}

fn prove_thin(file: &File, part: &Part, size_bytes: u64, cpu: u32, loaders: &Loaders<'_>) -> Result<(), Refusal> {
    let unreadable = |error| Refusal::blameless(format!("the staged file cannot be read: {error}"));
    let mut header = [0; HEADER_BYTES];
    if part.size < HEADER_BYTES as u64 || read_up_to(file, &mut header, part.place).map_err(unreadable)? < HEADER_BYTES {
        return Err(cut_off(size_bytes, "its header"));
    }
    let damaged = |what: &str| Refusal::reject(format!("has a damaged header ({what})"));
    if header.starts_with(&THIN_32) {
        return Err(Refusal::reject("is not for a 64-bit system as this program is"));
    }
    if !header.starts_with(&THIN_64) {
        return Err(damaged("the part for this machine is no program"));
    }
    let [its_cpu, kind, commands, commands_bytes] = [4, 12, 16, 20].map(|place| little(&header, place));
    if its_cpu != cpu {
        return Err(Refusal::reject(format!("is for another machine ({}), and this is {}", cpu_name(its_cpu), cpu_name(cpu))));
    }
    if kind != EXECUTE {
        return Err(Refusal::reject(format!("is a library or an object file, not an executable (type {kind})")));
    }
    if commands_bytes > COMMANDS_BYTES_MAX {
        return Err(damaged("its load commands are too long"));
    }
    if HEADER_BYTES as u64 + u64::from(commands_bytes) > part.size {
        return Err(cut_off(size_bytes, "its load commands"));
    }
    let mut buffer = vec![0; commands_bytes as usize];
    if read_up_to(file, &mut buffer, part.place + HEADER_BYTES as u64).map_err(unreadable)? < buffer.len() {
        return Err(cut_off(size_bytes, "its load commands"));
    }
    let (mut rest, mut loads, mut begins) = (&buffer[..], false, false);
    for _ in 0..commands {
        let length = if rest.len() < 8 { 0 } else { little(rest, 4) as usize };
        if length < 8 || length > rest.len() {
            return Err(damaged("a load command is none"));
        }
        let (command, after) = rest.split_at(length);
        rest = after;
        match little(command, 0) {
            LC_SEGMENT_64 if length >= 56 => {
                loads = true;
                let [place, size] = [40, 48].map(|place| u64::from(little(command, place + 4)) << 32 | u64::from(little(command, place)));
                if place.saturating_add(size) > part.size {
                    return Err(cut_off(size_bytes, "a segment"));
                }
            }
            LC_MAIN | LC_UNIX_THREAD => begins = true,
            LC_LOAD_DYLINKER if length >= 12 => {
                let name = command.get(little(command, 8) as usize..).ok_or_else(|| damaged("its dynamic loader has no name"))?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
                loaders.prove(Path::new(OsStr::from_bytes(name)))?;
            }
            LC_SEGMENT_64 | LC_LOAD_DYLINKER => return Err(damaged("a load command is cut off")),
            _ => {}
        }
    }
    if !loads || !begins {
        return Err(Refusal::reject("is a library or has nothing to execute"));
    }
    Ok(())
}

fn little(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes([bytes[place], bytes[place + 1], bytes[place + 2], bytes[place + 3]])
}

fn little_or_zero(bytes: &[u8], place: usize) -> u32 {
    if bytes.len() < place + 4 { 0 } else { little(bytes, place) }
}

fn cpu_name(cpu: u32) -> String {
    CPUS.iter().find(|(number, _)| *number == cpu).map_or_else(|| format!("cpu {cpu:#x}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::testing;
    use std::fs;

    const DYLD: &str = "/usr/lib/dyld";

    fn command(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = (8 + body.len()).next_multiple_of(8);
        let mut bytes = [kind.to_le_bytes(), u32::try_from(length).expect("it is short").to_le_bytes()].concat();
        bytes.extend_from_slice(body);
        bytes.resize(length, 0);
        bytes
    }

    fn segment(place: u64, size: u64) -> Vec<u8> {
        command(LC_SEGMENT_64, &[&[0; 32][..], &place.to_le_bytes(), &size.to_le_bytes(), &[0; 16]].concat())
    }

    fn loader(path: &str) -> Vec<u8> {
        command(LC_LOAD_DYLINKER, &[&12_u32.to_le_bytes()[..], path.as_bytes(), &[0]].concat())
    }

    fn thin(cpu: u32, kind: u32, commands: &[Vec<u8>]) -> Vec<u8> {
        let body = commands.concat();
        let numbers = [cpu, 0, kind, u32::try_from(commands.len()).expect("few"), u32::try_from(body.len()).expect("short"), 0, 0];
        let mut bytes = THIN_64.to_vec();
        numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(&body);
        bytes
    }

    fn program(cpu: u32) -> Vec<u8> {
        let mut bytes = thin(cpu, EXECUTE, &[segment(0, 4096), segment(4096, 904), loader(DYLD), command(LC_MAIN, &[0; 16])]);
        bytes.resize(5000, 7);
        bytes
    }

    fn universal(parts: &[(u32, Vec<u8>)], is_64: bool) -> Vec<u8> {
        let mut bytes = if is_64 { UNIVERSAL_64 } else { UNIVERSAL }.to_vec();
        bytes.extend_from_slice(&u32::try_from(parts.len()).expect("few").to_be_bytes());
        let mut place = 8192_u64;
        for (cpu, part) in parts {
            bytes.extend_from_slice(&cpu.to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            for number in [place, part.len() as u64] {
                let number = number.to_be_bytes();
                bytes.extend_from_slice(if is_64 { &number } else { &number[4..] });
            }
            bytes.extend_from_slice(&[0; 8][..if is_64 { 8 } else { 4 }]);
            place += 8192;
        }
        for (index, (_, part)) in parts.iter().enumerate() {
            bytes.resize(8192 * (index + 1), 0);
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// What is said of it on a machine with this cpu, that has macOS's dynamic loader.
    fn judged(bytes: &[u8], cpu: u32) -> Result<(), String> {
        let root = testing::directory();
        let there = root.path().join(&DYLD[1..]);
        fs::create_dir_all(there.parent().expect("a parent")).expect("a directory");
        fs::write(there, "").expect("written");
        let path = root.path().join("release");
        fs::write(&path, bytes).expect("written");
        let start = &bytes[..bytes.len().min(512)];
        let file = File::open(&path).expect("opened");
        prove(&file, start, bytes.len() as u64, cpu, &Loaders { root: root.path() }).map_err(|refusal| refusal.why)
    }

    #[test]
    fn a_program_for_the_cpu_passes_alone_and_in_a_universal_binary() {
        for cpu in [X86_64, ARM_64] {
            assert_eq!(judged(&program(cpu), cpu), Ok(()));
            for is_64 in [false, true] {
                let both = universal(&[(X86_64, program(X86_64)), (ARM_64, program(ARM_64))], is_64);
                assert_eq!(judged(&both, cpu), Ok(()));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let other = universal(&[(X86_64, program(X86_64)), (7, program(7))], false);
        let swapped = universal(&[(ARM_64, program(X86_64))], false);
        let no_program = universal(&[(ARM_64, vec![0; 100])], true);
        let changed = |commands: &[Vec<u8>]| thin(ARM_64, EXECUTE, commands);
        let main = || command(LC_MAIN, &[0; 16]);
        let mut class = UNIVERSAL.to_vec();
        class.extend_from_slice(&[0, 0, 0, 52, 0, 1]);
        let mut old = program(ARM_64);
        old[0] = THIN_32[0];
        for (bytes, word) in [
            (program(X86_64), "is for another machine (x86_64), and this is aarch64"),
            (other, "is for other machines (x86_64 and x86), and this is aarch64"),
            (swapped, "is for another machine (x86_64)"),
            (no_program, "the part for this machine is no program"),
            (old, "is not for a 64-bit system"),
            (thin(ARM_64, 6, &[segment(0, 10), main()]), "is a library or an object file"),
            (changed(&[main()]), "nothing to execute"),
            (changed(&[segment(0, 10)]), "nothing to execute"),
            (changed(&[segment(0, 10_000), main()]), "is cut off: a segment"),
            (changed(&[segment(u64::MAX, 2), main()]), "is cut off: a segment"),
            (changed(&[segment(0, 10), main(), loader("/usr/lib/other")]), "needs the dynamic loader /usr/lib/other, which is not here"),
            (changed(&[command(LC_LOAD_DYLINKER, &[0xff; 8])]), "has no name"),
            (changed(&[command(LC_SEGMENT_64, &[0; 8])]), "a load command is cut off"),
            (changed(&[vec![0; 8]]), "a load command is none"),
            (class, "is no executable of any kind"),
        ] {
            let why = judged(&bytes, ARM_64).expect_err("it does not fit");
            assert!(why.contains(word), "{why}\nlacks {word}");
        }
    }

    #[test]
    fn one_that_is_cut_anywhere_is_cut_off() {
        let (alone, both) = (program(ARM_64), universal(&[(X86_64, program(X86_64)), (ARM_64, program(ARM_64))], false));
        for (whole, cuts) in [(&alone, &[4, 8, 31, 32, 100, 300, 4999][..]), (&both, &[8192, 16_384, 16_400, 21_000])] {
            for cut in cuts {
                let why = judged(&whole[..*cut], ARM_64).expect_err("it is cut off");
                assert!(why.contains("is cut off") && why.contains(&format!("{cut} bytes")), "{cut}: {why}");
            }
        }
    }

    #[test]
    fn another_system_says_for_which_cpus_it_is() {
        assert_eq!(describe(&program(ARM_64)).as_deref(), Some("a macOS program for aarch64"));
        let both = universal(&[(X86_64, Vec::new()), (ARM_64, Vec::new())], true);
        assert_eq!(describe(&both[..512]).as_deref(), Some("a macOS program for x86_64 and aarch64"));
        assert_eq!(describe(&THIN_64).as_deref(), Some("a macOS program for an unknown cpu"));
        assert_eq!(describe(b"\xca\xfe\xba\xbe\0\0\0\x34"), None, "a class file of Java");
        assert_eq!(describe(b"\x7fELF"), None);
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let whole = universal(&[(X86_64, program(X86_64)), (ARM_64, program(ARM_64))], true);
        let alone = program(ARM_64);
        let mut random = fastrand::Rng::with_seed(4711);
        for round in 0..2000 {
            let mut other = if round % 2 == 0 { whole.clone() } else { alone.clone() };
            let headers = if round % 2 == 0 { [0..80, 16_384..16_700] } else { [0..300, 0..32] };
            for _ in 0..random.usize(1..6) {
                let header = headers[random.usize(0..2)].clone();
                let place = random.usize(header);
                other[place] = random.u8(..);
            }
            let _ = judged(&other, ARM_64);
        }
    }
}
