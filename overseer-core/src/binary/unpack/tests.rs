use super::super::testing;
use super::*;
use std::fs;
#[cfg(feature = "unpack")]
use std::io::Read;

const WANTED: Wanted<'static> = Wanted { program: "app", entry: None, scripts: false, size_bytes_max: 1_000_000 };

fn unpacked(packing: Packing, packed: &[u8], wanted: &Wanted<'_>) -> Result<Vec<u8>, UnpackError> {
    let directory = testing::directory();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    fs::write(&from, packed).expect("written");
    let mut file = File::create(&to).expect("created");
    let mut heard = 0;
    let outcome = unpack(packing, &File::open(&from).expect("opened"), &mut file, wanted, &mut |bytes| heard = bytes);
    let names = fs::read_dir(directory.path()).expect("a directory").count();
    assert_eq!(names, 2, "something else was written");
    outcome?;
    let bytes = fs::read(&to).expect("read");
    assert_eq!(heard, bytes.len() as u64);
    Ok(bytes)
}

fn limited(size_bytes_max: u64) -> Wanted<'static> {
    Wanted { size_bytes_max, ..WANTED }
}

#[test]
fn the_name_says_how_it_is_packed() {
    for plain in ["app", "app-1.2", "app_linux", "gz", "app.gz.sig", ""] {
        assert_eq!(Packing::of(plain), Ok(Packing::Plain), "{plain}");
    }
    for (name, packing) in [
        ("app.gz", Packing::Gzip),
        ("app.ZST", Packing::Zstd),
        ("app.tar", Packing::Tar),
        ("app-1.2.tar.gz", Packing::TarGzip),
        ("APP.TGZ", Packing::TarGzip),
        ("app.tar.zst", Packing::TarZstd),
        ("app.zip", Packing::Zip),
    ] {
        let expected = if cfg!(feature = "unpack") { Some(packing) } else { None };
        assert_eq!(Packing::of(name).ok(), expected, "{name}");
    }
    for name in ["app.tar.xz", "app.XZ", "app.7z", "app.deb"] {
        let refusal = Packing::of(name).expect_err("it cannot be unpacked");
        assert!(refusal.why.contains("cannot be unpacked"), "{}", refusal.why);
    }
}

#[test]
fn a_plain_file_is_copied_up_to_its_limit() {
    let bytes = vec![7; 300_000];
    assert_eq!(unpacked(Packing::Plain, &bytes, &limited(300_000)).expect("copied"), bytes);
    assert!(matches!(unpacked(Packing::Plain, &bytes, &limited(299_999)), Err(UnpackError::Refused(_))));
}

#[cfg(feature = "unpack")]
mod packed {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn refused(packing: Packing, packed: &[u8], wanted: &Wanted<'_>) -> String {
        match unpacked(packing, packed, wanted) {
            Err(UnpackError::Refused(refusal)) => refusal.why,
            other => panic!("not refused: {:?}", other.map(|bytes| bytes.len())),
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(bytes).expect("packed");
        packer.finish().expect("packed")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn random(bytes: u32) -> Vec<u8> {
        (0..bytes).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn program(name: &str) -> Vec<u8> {
        [b"\x7fELF, the program ", name.as_bytes()].concat()
    }

    #[test]
    fn gzip_and_zstd_are_unpacked_and_damage_is_told_from_a_cut() {
        let bytes = random(300_000);
        for (packing, pack, kind) in [(Packing::Gzip, gzip as fn(&[u8]) -> Vec<u8>, ".gz"), (Packing::Zstd, zstd, ".zst")] {
            let whole = pack(&bytes);
            assert_eq!(unpacked(packing, &whole, &limited(300_000)).expect("unpacked"), bytes);
            assert!(refused(packing, &whole, &limited(299_999)).contains("larger than 299999 bytes when unpacked"), "{kind}");
            let two = [whole.clone(), pack(b"and more")].concat();
            assert_eq!(unpacked(packing, &two, &limited(400_000)).expect("unpacked").len(), 300_008);

            for cut in [0, 3, whole.len() / 2, whole.len() - 1] {
                assert_eq!(refused(packing, &whole[..cut], &WANTED), format!("is a {kind} file that is cut off"), "{cut}");
            }
            let damaged = format!("is a damaged {kind} file: ");
            let mut checksum = whole.clone();
            let place = checksum.len() - if packing == Packing::Gzip { 8 } else { 4 };
            checksum[place] ^= 1;
            assert!(refused(packing, &checksum, &WANTED).starts_with(&damaged));
            assert!(refused(packing, b"not packed at all", &WANTED).starts_with(&damaged));
            assert!(refused(packing, &[&whole[..], b"rubbish behind it"].concat(), &WANTED).starts_with(&damaged));
        }
        let bomb = gzip(&vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000 && refused(Packing::Gzip, &bomb, &WANTED).contains("1000000 bytes"));
    }

    #[test]
    fn zstd_frames_that_are_skipped_or_need_too_much_memory() {
        let skipped = [&b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..], &zstd(b"contents"), b"\x5f\x2a\x4d\x18\0\0\0\0"].concat();
        assert_eq!(unpacked(Packing::Zstd, &skipped, &WANTED).expect("unpacked"), b"contents");
        assert!(refused(Packing::Zstd, &skipped[..9], &WANTED).contains("cut off"));
        // A frame without a checksum, of unknown size, with a window of 8 MiB, of 8 MiB and the next larger one: one raw block, the last.
        let frame = |window: u8| [&b"\x28\xb5\x2f\xfd\0"[..], &[window], &[0x19, 0, 0], b"abc"].concat();
        assert_eq!(unpacked(Packing::Zstd, &frame(13 << 3), &WANTED).expect("unpacked"), b"abc");
        for window in [13 << 3 | 1, 14 << 3, 31 << 3] {
            let why = refused(Packing::Zstd, &frame(window), &WANTED);
            assert!(why.contains("cannot be unpacked: it needs") && why.contains("--ultra"), "{why}");
        }
        let dictionary = [&b"\x28\xb5\x2f\xfd\x01"[..], &[13 << 3, 7], &[0x19, 0, 0], b"abc"].concat();
        assert!(refused(Packing::Zstd, &dictionary, &WANTED).contains("dictionary"));
        let lies = [&b"\x28\xb5\x2f\xfd\x20\x04"[..], &[0x19, 0, 0], b"abc"].concat();
        assert!(refused(Packing::Zstd, &lies, &WANTED).contains("a frame of 4 bytes has 3"));
        // 100 blocks of 128 KiB from one byte each.
        let mut bomb = b"\x28\xb5\x2f\xfd\0\x38".to_vec();
        (0..100).for_each(|_| bomb.extend_from_slice(&[0x02, 0, 0x10, 0]));
        assert!(refused(Packing::Zstd, &bomb, &WANTED).contains("1000000 bytes"));
    }

    enum Member<'a> {
        File(&'a str, Vec<u8>),
        Link(&'a str, &'a str),
        HardLink(&'a str, &'a str),
        Directory(&'a str),
    }
    use Member::{Directory, File as Regular, HardLink, Link};

    fn tar(members: &[Member<'_>]) -> Vec<u8> {
        let mut archive = ::tar::Builder::new(Vec::new());
        for member in members {
            let mut header = ::tar::Header::new_gnu();
            let (name, contents) = match member {
                Regular(name, contents) => (name, &contents[..]),
                Link(name, to) | HardLink(name, to) => {
                    let is_hard = matches!(member, HardLink(..));
                    header.set_entry_type(if is_hard { ::tar::EntryType::Link } else { ::tar::EntryType::Symlink });
                    header.set_link_name(to).expect("a link");
                    (name, &[][..])
                }
                Directory(name) => {
                    header.set_entry_type(::tar::EntryType::Directory);
                    (name, &[][..])
                }
            };
            header.set_size(contents.len() as u64);
            archive.append_data(&mut header, name, contents).expect("packed");
        }
        archive.into_inner().expect("packed")
    }

    fn zip(members: &[Member<'_>]) -> Vec<u8> {
        let mut archive = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = ::zip::write::SimpleFileOptions::default();
        for member in members {
            match member {
                Regular(name, contents) => {
                    archive.start_file(*name, options).expect("packed");
                    archive.write_all(contents).expect("packed");
                }
                Link(name, to) | HardLink(name, to) => archive.add_symlink(*name, *to, options).expect("packed"),
                Directory(name) => archive.add_directory(*name, options).expect("packed"),
            }
        }
        archive.finish().expect("packed").into_inner()
    }

    /// The same members as each kind of archive.
    fn archives(members: &[Member<'_>]) -> [(Packing, Vec<u8>); 4] {
        let tar = tar(members);
        [(Packing::TarGzip, gzip(&tar)), (Packing::TarZstd, zstd(&tar)), (Packing::Tar, tar), (Packing::Zip, zip(members))]
    }

    #[track_caller]
    fn takes(members: &[Member<'_>], wanted: &Wanted<'_>, expected: &[u8]) {
        for (packing, archive) in archives(members) {
            assert_eq!(unpacked(packing, &archive, wanted).expect("unpacked"), expected, "{packing:?}");
        }
    }

    #[track_caller]
    fn refuses(members: &[Member<'_>], wanted: &Wanted<'_>, words: &[&str]) {
        for (packing, archive) in archives(members) {
            let why = refused(packing, &archive, wanted);
            assert!(words.iter().all(|word| why.contains(word)), "{packing:?}: {why}\nlacks one of {words:?}");
        }
    }

    #[test]
    fn the_entry_named_like_the_program_is_taken_wherever_it_lies() {
        let readme = || Regular("app-1.2/README", b"read me".to_vec());
        takes(&[Regular("app", program("1"))], &WANTED, &program("1"));
        let named = || Regular("app-1.2/bin/app", program("1"));
        takes(&[Directory("app/"), readme(), named(), Regular("app-1.2/bin/tool", program("2"))], &WANTED, &program("1"));
        takes(&[Regular("app-1.2/bin/tool", program("2")), named(), readme()], &WANTED, &program("1"));
        // A completion for a shell has the name of the program too.
        let completion = || Regular("completions/app", b"complete -c app".to_vec());
        takes(&[completion(), named()], &WANTED, &program("1"));
        takes(&[named(), completion()], &WANTED, &program("1"));
        takes(&[Regular("tool", program("2")), completion(), named(), Link("tool2", "tool")], &WANTED, &program("1"));
        // Its header says then what is wrong with it.
        takes(&[Regular("app", b"no executable".to_vec())], &WANTED, b"no executable");
        takes(&[Regular("app", Vec::new())], &WANTED, b"");
    }

    #[test]
    fn else_the_only_executable_is_taken() {
        takes(&[Regular("LICENSE", b"MIT".to_vec()), Regular("app-x86_64", program("1"))], &WANTED, &program("1"));
        takes(&[Directory("d/"), Regular("d/x", b"\xcf\xfa\xed\xfe for a Mac".to_vec())], &WANTED, b"\xcf\xfa\xed\xfe for a Mac");
        let script = || Regular("run", b"#!/bin/sh\n".to_vec());
        takes(&[script(), Regular("app-x86_64", program("1"))], &WANTED, &program("1"));
        takes(&[script(), Regular("notes", b"#".to_vec())], &Wanted { scripts: true, ..WANTED }, b"#!/bin/sh\n");
    }

    #[test]
    fn the_entry_that_is_set_is_taken_and_no_other() {
        let members = || [Regular("v1/bin/server", program("1")), Regular("v1/sbin/server", program("2")), Regular("v1/app", program("3"))];
        for (entry, expected) in [("bin/server", "1"), ("./sbin/server", "2"), ("v1/bin/server", "1"), ("app", "3")] {
            takes(&members(), &Wanted { entry: Some(entry), ..WANTED }, &program(expected));
        }
        refuses(&members(), &Wanted { entry: Some("server"), ..WANTED }, &["there are 2 entries \"server\""]);
        refuses(&members(), &Wanted { entry: Some("erver"), ..WANTED }, &["no \"erver\" in it (archive_entry)", "\"v1/bin/server\""]);
    }

    #[test]
    fn what_holds_none_or_several_is_refused_with_what_is_inside() {
        refuses(&[], &WANTED, &["no \"app\" and no other executable", "it holds nothing"]);
        refuses(
            &[Directory("d/"), Regular("d/README", b"read me".to_vec()), Regular("d/\x1b[2J\n", b"".to_vec())],
            &WANTED,
            &["no \"app\" and no other executable in it", r#""d/README", "d/\u{1b}[2J\n" and 1 directories"#],
        );
        let two = [Regular("one", program("1")), Regular("two", program("2"))];
        refuses(&two, &WANTED, &["there are 2 executables and no \"app\"", "archive_entry", "\"one\", \"two\""]);
        refuses(&[Regular("a/app", program("1")), Regular("b/app", program("2"))], &WANTED, &["there are 2 entries \"app\""]);
        let many: Vec<String> = (0..30).map(|number| format!("file{number}{}", "x".repeat(90))).collect();
        let many: Vec<Member<'_>> = many.iter().map(|name| Regular(name, Vec::new())).collect();
        refuses(&many, &WANTED, &["\"file19", "and 10 more"]);
    }

    #[test]
    fn a_link_is_not_followed() {
        refuses(
            &[Link("app", "app-1.2"), Regular("app-1.2", program("1"))],
            &WANTED,
            &["\"app\" is a symbolic link and cannot be the program"],
        );
        refuses(&[Link("bin/app", "/bin/sh")], &WANTED, &["is a symbolic link"]);
        let hard = tar(&[Regular("app-1.2", program("1")), HardLink("app", "app-1.2")]);
        assert!(refused(Packing::Tar, &hard, &WANTED).contains("\"app\" is a hard link"));
        takes(&[Link("elsewhere/app", "../app"), Regular("app", program("1"))], &WANTED, &program("1"));
    }

    #[test]
    fn paths_that_lead_elsewhere_lead_nowhere() {
        let mut archive = ::tar::Builder::new(Vec::new());
        for name in ["../../outside", "/tmp/absolute", "../app"] {
            let mut header = ::tar::Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(9);
            header.set_cksum();
            archive.append(&header, &b"\x7fELF there"[..9]).expect("packed");
        }
        let archive = archive.into_inner().expect("packed");
        assert_eq!(unpacked(Packing::Tar, &archive, &WANTED).expect("unpacked"), b"\x7fELF ther");
    }

    #[test]
    fn everything_in_an_archive_counts_for_the_limit() {
        let members = |bytes: usize| [Regular("docs", vec![0; bytes]), Regular("app", program("1"))];
        let tar = tar(&members(2_000_000));
        for (packing, archive) in [(Packing::TarGzip, gzip(&tar)), (Packing::TarZstd, zstd(&tar)), (Packing::Tar, tar)] {
            assert!(refused(packing, &archive, &WANTED).contains("larger than 1000000 bytes when unpacked"), "{packing:?}");
        }
        // Of a zip archive, other entries are not unpacked.
        assert_eq!(unpacked(Packing::Zip, &zip(&members(2_000_000)), &WANTED).expect("unpacked"), program("1"));
        let bomb = zip(&[Regular("app", vec![0; 2_000_000])]);
        assert!(refused(Packing::Zip, &bomb, &WANTED).contains("larger than 1000000 bytes"));
        let mut lies = bomb.clone();
        let entry = lies.windows(4).position(|bytes| bytes == b"PK\x01\x02").expect("a directory");
        lies[entry + 24..entry + 28].copy_from_slice(&1000_u32.to_le_bytes());
        assert!(refused(Packing::Zip, &lies, &WANTED).contains("size or checksum"));
    }

    #[test]
    fn tar_long_names_and_sizes_in_extended_headers_are_read_and_bounded() {
        let long = format!("{}/app", "d".repeat(300));
        takes(&[Regular(&long, program("1")), Regular("other", program("2"))], &WANTED, &program("1"));

        let member = |kind: u8, name: &str, contents: &[u8], size: u64| {
            let mut header = ::tar::Header::new_ustar();
            header.set_path(name).expect("a name");
            header.set_entry_type(::tar::EntryType::new(kind));
            header.set_size(size);
            header.set_cksum();
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend_from_slice(contents);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes
        };
        let end = [0; 1024];
        let archive = |members: &[Vec<u8>]| [members.concat(), end.to_vec()].concat();
        let pax = |text: &[u8]| member(b'x', "pax", text, text.len() as u64);
        let app = |size| member(b'0', "other-name", &program("1"), size);
        let size = program("1").len() as u64;
        // With two digits for its length, a space and a line feed.
        let record = |text: &str| format!("{} {text}\n", text.len() + 4);
        let records = [record("comment=a=b\nc=d\n"), record("path=./app"), record(&format!("size={size:010}"))].concat();
        assert_eq!(unpacked(Packing::Tar, &archive(&[pax(records.as_bytes()), app(0)]), &WANTED).expect("unpacked"), program("1"));
        for (text, word) in [
            (&b"14 path=./app"[..], "an extended header is none"),
            (b"99 path=./app\n", "an extended header is none"),
            (b"+14 path=./app\n", "an extended header is none"),
            (b"0 path=./app\n", "an extended header is none"),
            (b"11 size=-\n", "an extended header is none"),
            (b"10 size=-\n", "is no number"),
            (b"22 GNU.sparse.major=1\n", "sparse"),
        ] {
            let why = refused(Packing::Tar, &archive(&[pax(text), app(size)]), &WANTED);
            assert!(why.contains(word), "{}: {why}", String::from_utf8_lossy(text));
        }
        let huge = member(b'x', "pax", b"", 1 << 20);
        assert!(refused(Packing::Tar, &archive(&[huge]), &WANTED).contains("an extended header in it has 1048576 bytes"));
        let huge = member(b'L', "name", b"", 4097);
        assert!(refused(Packing::Tar, &archive(&[huge]), &WANTED).contains("a name in it has 4097 bytes"));
        assert!(refused(Packing::Tar, &archive(&[member(b'S', "app", b"", 0)]), &WANTED).contains("sparse"));
        // What is said of links and of all entries is skipped, whatever its size.
        let skipped = [member(b'g', "global", &[b'x'; 600], 600), member(b'K', "link", &[b'y'; 5000], 5000), app(size)];
        assert_eq!(unpacked(Packing::Tar, &archive(&skipped), &WANTED).expect("unpacked"), program("1"));
    }

    #[test]
    fn a_damaged_tar_is_refused() {
        let whole = tar(&[Regular("app", program("1")), Regular("docs", vec![b'x'; 2000])]);
        for cut in [0, 100, 512, 700, 1024, 2000, whole.len() - 1024] {
            assert_eq!(refused(Packing::Tar, &whole[..cut], &WANTED), "is a .tar file that is cut off", "{cut}");
        }
        let behind = [&whole[..], b"rubbish"].concat();
        assert!(refused(Packing::Tar, &behind, &WANTED).contains("something lies behind its end"));
        assert!(refused(Packing::TarGzip, &gzip(&behind), &WANTED).contains("something lies behind its end"));
        assert_eq!(unpacked(Packing::Tar, &[&whole[..], &[0; 9000]].concat(), &WANTED).expect("padding"), program("1"));
        for place in [0, 100, 124, 148, 156, 500] {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x40;
            assert!(refused(Packing::Tar, &damaged, &WANTED).contains("checksum of a header"), "{place}");
        }
        let mut packed = gzip(&whole);
        let place = packed.len() - 8;
        packed[place] ^= 1;
        assert!(refused(Packing::TarGzip, &packed, &WANTED).starts_with("is a damaged .tar.gz file: "), "its end is read, too");
        let empty: Vec<u8> = tar(&[Directory("d/")])[..512].repeat(choice::ENTRIES_MAX + 1);
        assert!(refused(Packing::Tar, &empty, &limited(100_000_000)).contains("more than 10000 entries"));
    }

    #[test]
    fn a_damaged_zip_is_refused() {
        let whole = zip(&[Regular("app", random(3000)), Regular("docs", b"text".to_vec())]);
        for cut in 0..whole.len() {
            let why = refused(Packing::Zip, &whole[..cut], &WANTED);
            assert!(why.starts_with("is a damaged .zip file: it is cut off"), "{cut}: {why}");
        }
        assert!(refused(Packing::Zip, &[&whole[..], b"rubbish"].concat(), &WANTED).contains("behind its end"));
        assert!(refused(Packing::Zip, &[b"rubbish", &whole[..]].concat(), &WANTED).contains("not where its end says"));
        let end = whole.len() - 22;
        let entry = whole.windows(4).position(|bytes| bytes == b"PK\x01\x02").expect("a directory");
        for (place, value, word) in [
            (0, b'Q', "do not agree"),
            (8, 0, "do not agree"),
            (30, b'A', "do not agree"),
            (40, 0xff, ""),
            (entry, b'Q', "is none"),
            (entry + 8, 1, "\"app\" is encrypted"),
            (entry + 10, 93, "\"app\" is packed in another way than deflate"),
            (entry + 16, 1, "checksum"),
            (entry + 21, 0x7f, "lies in its directory"),
            (entry + 25, 0, "checksum"),
            (entry + 29, 0x7f, "too long"),
            (entry + 41, 0xa1, "\"app\" is a symbolic link"),
            (entry + 41, 0x61, "\"app\" is no regular file"),
            (entry + 43, 0x7f, "cut off"),
            (entry + 46, b'A', "do not agree"),
            (end + 4, 1, "several parts"),
            (end + 8, 1, "several parts"),
            (end + 12, 1, "not where"),
            (end + 16, 1, "not where"),
        ] {
            let mut damaged = whole.clone();
            damaged[place] = value;
            if place > entry && place < end {
                // Made on Unix, so that the mode counts.
                damaged[entry + 5] = 3;
            }
            let why = refused(Packing::Zip, &damaged, &WANTED);
            assert!(why.contains(word), "{place}: {why}");
        }
        let mut fewer = whole.clone();
        (fewer[end + 8], fewer[end + 10]) = (1, 1);
        assert!(refused(Packing::Zip, &fewer, &WANTED).contains("longer than its entries"));
        let mut more = whole.clone();
        (more[end + 8], more[end + 10]) = (3, 3);
        assert!(refused(Packing::Zip, &more, &WANTED).contains("cut off"));
        for place in [entry + 20, entry + 24, entry + 42, end + 12, end + 16] {
            let mut large = whole.clone();
            large[place..place + 4].fill(0xff);
            assert!(refused(Packing::Zip, &large, &WANTED).contains("zip64"), "{place}");
        }
        let mut many = whole.clone();
        many[end + 8..end + 12].fill(0x30);
        assert!(refused(Packing::Zip, &many, &WANTED).contains("more than 10000 entries"));
    }

    #[test]
    fn two_entries_of_the_same_path_are_refused() {
        let mut twice = zip(&[Regular("app", program("1")), Regular("apq", program("2"))]);
        for place in 0..twice.len() - 3 {
            if &twice[place..place + 3] == b"apq" {
                twice[place + 2] = b'p';
            }
        }
        assert!(refused(Packing::Zip, &twice, &WANTED).contains("2 entries \"app\""));
        let twice = tar(&[Regular("app", program("1")), Regular("app", program("2"))]);
        assert!(refused(Packing::Tar, &twice, &WANTED).contains("2 entries \"app\""));
    }

    /// Deflate has blocks of nothing, five bytes each: an entry of them is read to its end in search of its first byte.
    #[test]
    fn entries_of_a_zip_that_share_their_bytes_are_refused_before_each_is_read() {
        const BLOCKS: usize = 1_000_000;
        let contents = [[0, 0, 0, 0xff, 0xff].repeat(BLOCKS), vec![1, 0, 0, 0xff, 0xff]].concat();
        let size = u32::try_from(contents.len()).expect("it is small");
        let common = |size: u32| [&[20, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0], &size.to_le_bytes()[..], &[0; 4], &[1, 0, 0, 0]].concat();
        let entry = [&b"PK\x01\x02\x14\x03"[..], &common(size), &[0; 14], b"x"].concat();
        let zip = |entries: usize| {
            let directory = entry.repeat(entries);
            let place = 31 + contents.len();
            let number = |number: usize| u32::try_from(number).expect("it is small").to_le_bytes();
            let count = u16::try_from(entries).expect("they are few").to_le_bytes();
            let end = [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &number(directory.len()), &number(place), &[0; 2]].concat();
            [&b"PK\x03\x04"[..], &common(size), b"x", &contents, &directory, &end].concat()
        };
        let why = refused(Packing::Zip, &zip(1), &limited(10_000_000));
        assert!(why.contains("no other executable in it"), "{why}");
        let why = refused(Packing::Zip, &zip(10_000), &limited(10_000_000));
        assert!(why.contains("its entries overlap"), "{why}");
    }

    /// Writes a file that unpacks to a program of so many bytes, which needs hardly any itself.
    fn pack_large(packing: Packing, path: &std::path::Path, size: u64) {
        let contents = || b"\x7fELF"[..].chain(std::io::repeat(0)).take(size);
        let file = File::create(path).expect("created");
        let tar = |to: &mut dyn Write| {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(size);
            let mut archive = ::tar::Builder::new(to);
            archive.append_data(&mut header, "app", contents()).expect("packed");
            archive.finish().expect("packed");
        };
        match packing {
            Packing::Gzip | Packing::TarGzip => {
                let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
                match packing {
                    Packing::TarGzip => tar(&mut packer),
                    _ => assert_eq!(io::copy(&mut contents(), &mut packer).expect("packed"), size),
                }
                packer.finish().expect("packed");
            }
            Packing::Zip => {
                let mut archive = ::zip::ZipWriter::new(file);
                archive.start_file("app", ::zip::write::SimpleFileOptions::default()).expect("packed");
                io::copy(&mut contents(), &mut archive).expect("packed");
                archive.finish().expect("packed");
            }
            // Blocks of 128 KiB from one byte each, with the largest window, and an empty last one.
            _ => {
                let mut packed = b"\x28\xb5\x2f\xfd\0\x68".to_vec();
                packed.extend([&(b"\x7fELF".len() << 3).to_le_bytes()[..3], b"\x7fELF"].concat());
                (0..size >> 17).for_each(|_| packed.extend_from_slice(&[0x02, 0, 0x10, 0]));
                packed.extend_from_slice(&[1, 0, 0]);
                io::copy(&mut &packed[..], &mut &file).expect("written");
            }
        }
    }

    #[test]
    fn the_memory_to_unpack_does_not_grow_with_the_release() {
        const NAME: &str = "binary::unpack::tests::packed::the_memory_to_unpack_does_not_grow_with_the_release";
        const VARIABLE: &str = "OVERSEER_TEST_UNPACK";
        const MIB: u64 = 1 << 20;
        if let Some(path) = std::env::var_os(VARIABLE) {
            let name = path.to_str().expect("text");
            let mut nowhere = File::options().write(true).open("/dev/null").expect("opened");
            let file = File::open(&path).expect("opened");
            unpack(Packing::of(name).expect("supported"), &file, &mut nowhere, &limited(1 << 30), &mut |_| ()).expect("unpacked");
            println!("peak {}", testing::peak_kib());
            return;
        }
        let directory = testing::directory();
        for (name, packing) in
            [("app.gz", Packing::Gzip), ("app.tar.gz", Packing::TarGzip), ("app.zip", Packing::Zip), ("app.zst", Packing::Zstd)]
        {
            let path = directory.path().join(name);
            let [small, large] = [20, 120].map(|size| {
                pack_large(packing, &path, size * MIB);
                let mut test = std::process::Command::new(std::env::current_exe().expect("the test program"));
                let output = test.args(["--exact", NAME, "--nocapture"]).env(VARIABLE, &path).output().expect("started");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let peak = text.split("peak ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
                peak.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
            });
            println!("{name}: {small} KiB for 20 MiB, {large} KiB for 120 MiB");
            assert!(large < small + 10 * 1024, "{name}: {small} KiB for 20 MiB, {large} KiB for 120 MiB");
        }
    }

    /// What the tools of the system make, where they are there.
    #[test]
    fn archives_of_other_programs_are_unpacked() {
        let directory = testing::directory();
        let place = directory.path().join("app-1.2");
        fs::create_dir(&place).expect("a directory");
        let bytes = [&program("1")[..], &random(200_000)].concat();
        fs::write(place.join("app"), &bytes).expect("written");
        fs::write(place.join("README"), "read me").expect("written");
        for (name, command) in [
            ("app.tar", "tar -cf app.tar app-1.2"),
            ("app.tar.gz", "tar --format=posix -czf app.tar.gz app-1.2"),
            ("app.tgz", "tar --format=v7 -czf app.tgz app-1.2"),
            ("app.tar.zst", "tar --format=ustar -cf - app-1.2 | zstd -q -19 -o app.tar.zst"),
            ("app.zip", "zip -qr app.zip app-1.2"),
            ("stored.zip", "zip -q -0 -r stored.zip app-1.2"),
            ("python.zip", "python3 -m zipfile -c python.zip app-1.2"),
            ("app.gz", "gzip -kc app-1.2/app > app.gz"),
            ("app.zst", "zstd -q app-1.2/app -o app.zst"),
            ("piped.zst", "cat app-1.2/app | zstd -q --no-check > piped.zst"),
        ] {
            let shell = std::process::Command::new("sh").args(["-c", command]).current_dir(directory.path()).output().expect("a shell");
            if !shell.status.success() {
                testing::not_shown(&format!("for want of a tool: unpacking what is made by {command}"));
                continue;
            }
            let mut archive = Vec::new();
            File::open(directory.path().join(name)).and_then(|mut file| file.read_to_end(&mut archive)).expect("read");
            assert_eq!(unpacked(Packing::of(name).expect("supported"), &archive, &WANTED).expect("unpacked"), bytes, "{command}");
        }
    }
}
