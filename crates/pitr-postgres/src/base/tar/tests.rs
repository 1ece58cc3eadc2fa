#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

/// A header as a server writes it.
fn header(path: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..108].copy_from_slice(b"0000600\0");
    if size < 1 << 33 {
        block[124..136].copy_from_slice(format!("{size:011o} ").as_bytes());
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    let sum = checksum(block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn file(path: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(path, b'0', content.len() as u64);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// Files and directories of an archive that arrives in pieces of `piece` bytes.
fn read(archive: &[u8], piece: usize) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::default();
    let mut found: Vec<(Entry, Vec<u8>)> = Vec::new();
    for bytes in archive.chunks(piece.max(1)) {
        reader.push(Bytes::copy_from_slice(bytes));
        while let Some(event) = reader.next()? {
            match event {
                TarEvent::Entry(entry) => found.push((entry, Vec::new())),
                TarEvent::Data(data) => found.last_mut().unwrap().1.extend_from_slice(&data),
                TarEvent::End => {
                    let (entry, content) = found.last().unwrap();
                    assert_eq!(entry.kind, EntryKind::File(content.len() as u64));
                }
            }
        }
    }
    reader.finish()?;
    Ok(found)
}

fn refused(archive: &[u8]) -> String {
    read(archive, usize::MAX).unwrap_err().what
}

#[test]
fn content_is_the_same_in_whatever_pieces_it_arrives() {
    let mut archive = file("backup_label", b"START");
    archive.extend(header("base/", b'5', 0));
    archive.extend(file("base/1", &[7; 1025]));
    archive.extend(file("empty", b""));
    let whole = read(&archive, usize::MAX).unwrap();
    assert_eq!(
        whole.iter().map(|(entry, _)| entry.path.as_str()).collect::<Vec<_>>(),
        ["backup_label", "base", "base/1", "empty"]
    );
    assert_eq!(whole[2].1, [7; 1025]);
    archive.extend([0; 2 * BLOCK]);
    for piece in [1, 3, 511, 512, 513, 4096] {
        assert_eq!(read(&archive, piece).unwrap(), whole, "pieces of {piece}");
    }
}

#[test]
fn sizes_from_8_gib_on_are_binary() {
    let block = header("large", b'0', 9 << 30);
    assert_eq!(parse_header(&block).unwrap().kind, EntryKind::File(9 << 30));
}

#[test]
fn a_path_that_leaves_the_directory_is_refused() {
    for path in ["../x", "/etc/passwd", "a/../b", "a//b", "././a", "a/.", "", "a/.."] {
        assert!(refused(&file(path, b"x")).contains("no relative path"), "{path}");
    }
    assert!(refused(&header("/", b'5', 0)).contains("no relative path"));
}

#[test]
fn links_devices_and_extensions_are_refused() {
    for kind in *b"123467xgLKS" {
        let what = refused(&header("a", kind, 0));
        assert!(what.contains("link") || what.contains("of type"), "{what}");
    }
}

#[test]
fn damage_is_an_error_at_its_place() {
    let mut archive = file("a", b"x");
    archive.extend(file("b", b"y"));
    archive[1024] ^= 1;
    let error = read(&archive, 100).unwrap_err();
    assert_eq!((error.at, error.what.contains("checksum")), (1024, true), "{error}");
    assert!(refused(&file("a", &[1; 600])[..1000]).contains("middle"));
    let mut trailing = vec![0; BLOCK];
    trailing.extend(file("a", b"x"));
    assert!(refused(&trailing).contains("follows the end"));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(mut block in proptest::collection::vec(proptest::num::u8::ANY, BLOCK..3 * BLOCK), piece in 1usize..700) {
        let _ = read(&block, piece);
        // The same with a header that passes its checksum.
        block[257..263].copy_from_slice(b"ustar\0");
        seal(&mut block[..BLOCK]);
        let _ = read(&block, piece);
    }

    #[test]
    fn what_comes_out_is_always_a_safe_path(name in "[./a\\\\]{1,20}") {
        for (entry, _) in read(&file(&name, b"x"), 512).into_iter().flatten() {
            assert!(is_safe_path(&entry.path) && !entry.path.starts_with('/'));
        }
    }
}
