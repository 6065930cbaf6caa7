//! Files that something befell.

use proptest::prelude::{any, prop_assert, proptest};

use super::{meta, small, write_tensors};
use crate::file::{Entry, Header, root_hash};
use crate::*;

/// Makes the metadata hash right again, so that a check behind it is reached.
fn reseal(bytes: &mut [u8]) {
    let tail = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize;
    if let (Some(page), Some(tail)) = (bytes.get(..4096), bytes.get(tail..)) {
        let hash = root_hash(page, tail);
        bytes[24..56].copy_from_slice(&hash);
    }
}

/// Where the tensor table starts.
fn table(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[64..72].try_into().unwrap()) as usize
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Rewrites a JSON section in place; the replacement has the same length.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("the text is in the file");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn rejects_each_kind_of_damage() {
    const ENTRY: usize = size_of::<Entry>();
    type Damage = fn(&mut Vec<u8>);
    #[rustfmt::skip]
    let cases: &[(&str, bool, Damage, &str)] = &[
        ("empty", false, |b| b.clear(), "not a .muse file"),
        ("shorter than a header", false, |b| b.truncate(255), "not a .muse file"),
        ("another format", false, |b| b[..4].copy_from_slice(b"GGUF"), "not a .muse file"),
        ("text-mode copy", false, |b| b[5] = b'\n', "not a .muse file"),
        ("a future version", false, |b| b[8] = 3, "version 3 is not supported"),
        ("header only", false, |b| b.truncate(256), "its header says"),
        ("last byte gone", false, |b| { b.pop(); }, "its header says"),
        ("one byte more", false, |b| b.push(0), "its header says"),
        ("a flipped bit in the header", false, |b| b[70] ^= 1, "does not match its BLAKE3"),
        ("a flipped bit in the table", false, |b| { let t = table(b); b[t + 90] ^= 4; }, "does not match its BLAKE3"),
        ("a flipped bit in the last byte", false, |b| *b.last_mut().unwrap() ^= 1, "does not match its BLAKE3"),
        ("tail past the end", false, |b| put(b, 56, u64::MAX), "the tail at offset"),
        ("tail in the header", false, |b| put(b, 56, 8), "the tail at offset 8"),
        ("reserved flags", true, |b| b[12] = 1, "reserved bytes at offset 12"),
        ("reserved header bytes", true, |b| b[200] = 1, "reserved bytes at offset 200"),
        ("reserved page bytes", true, |b| b[4000] = 1, "reserved bytes at offset 4000"),
        ("table past the end", true, |b| put(b, 64, u64::MAX - 3), "tensor table at offset"),
        ("table of half an entry", true, |b| put(b, 72, 80), "not a whole number of entries"),
        ("huge table", true, |b| put(b, 72, 1 << 40), "at most 167772160 are allowed"),
        ("table among the tensors", true, |b| put(b, 64, 4096), "tensor table at offset 4096"),
        ("huge section", true, |b| put(b, 88, 1 << 40), "spec is 1099511627776 bytes"),
        ("section past the end", true, |b| { let n = b.len() as u64; put(b, 160, n - 1); }, "chat template at offset"),
        ("sections overlap", true, |b| { let spec = u64::from_le_bytes(b[80..88].try_into().unwrap()); put(b, 144, spec); }, "overlap"),
        ("section on the table", true, |b| { let t = table(b) as u64; put(b, 144, t); }, "overlap"),
        ("template not UTF-8", true, |b| { let at = u64::from_le_bytes(b[160..168].try_into().unwrap()); b[at as usize] = 0xff; }, "chat template is not valid"),
        ("spec not JSON", true, |b| replace(b, "{\"family\"", "[\"family\""), "spec is not valid"),
        ("unknown spec key", true, |b| replace(b, "\"norm_eps\"", "\"norm_epz\""), "spec is not valid"),
        ("unknown text key", true, |b| replace(b, "\"add_bos\"", "\"add_boz\""), "text is not valid"),
        ("spec out of bounds", true, |b| replace(b, "\"vocab\":40", "\"vocab\":00"), "spec is not valid"),
        ("zero vocab", true, |b| replace(b, "\"vocab\":40", "\"vocab\": 0"), "vocab is 0"),
        ("heads not a multiple", true, |b| replace(b, "\"kv_heads\":1", "\"kv_heads\":3"), "multiple of kv_heads"),
        ("rope out of range", true, |b| replace(b, "\"rope\":0", "\"rope\":9"), "rotation table"),
        ("negative epsilon", true, |b| replace(b, "\"embed_scale\":1.0", "\"embed_scale\":-1."), "spec is not valid"),
        ("zero scale", true, |b| replace(b, "\"embed_scale\":1.0", "\"embed_scale\":0.0"), "embed_scale is 0"),
        ("shape not the spec's", true, |b| replace(b, "\"dim\":20", "\"dim\":24"), "the spec asks for 24 x 16"),
        ("name without end", true, |b| { let t = table(b); b[t..t + 64].fill(b'x'); }, "its name has no end"),
        ("empty name", true, |b| { let t = table(b); b[t] = 0; }, "its name is not ASCII"),
        ("name with a control byte", true, |b| { let t = table(b); b[t] = 7; }, "its name is not ASCII"),
        ("bytes after the name", true, |b| { let t = table(b); b[t + 63] = 1; b[t + 62] = 0; }, "reserved bytes are not zero"),
        ("reserved entry bytes", true, |b| { let t = table(b); b[t + 159] = 1; }, "reserved bytes are not zero"),
        ("unknown layout", true, |b| { let t = table(b); b[t + 64] = 99; }, "unknown layout 99"),
        ("unknown group", true, |b| { let t = table(b); b[t + 66] = 33; }, "unknown layout 5 with group 33"),
        ("no rows", true, |b| { let t = table(b); put(b, t + 72, 0); }, "is empty: 0 x 16"),
        ("rows overflow", true, |b| { let t = table(b); put(b, t + 72, u64::MAX); }, "18446744073709551615 x 16"),
        ("length not the shape's", true, |b| { let t = table(b); put(b, t + 96, 287); }, "takes 864"),
        ("offset not aligned", true, |b| { let t = table(b); put(b, t + 88, 4097); }, "not a multiple of 4096"),
        ("offset in the header", true, |b| { let t = table(b); put(b, t + 88, 0); }, "embed at offset 0"),
        ("offset past the data", true, |b| { let t = table(b); put(b, t + 88, 1 << 60); }, "embed at offset"),
        ("tensors overlap", true, |b| { let t = table(b); put(b, t + ENTRY + 88, 4096); }, "overlap"),
        ("tensor named twice", true, |b| { let t = table(b); let (a, z) = b.split_at_mut(t + ENTRY); z[..64].copy_from_slice(&a[t..t + 64]); }, "named twice"),
        ("vector not f32", true, |b| { let t = table(b) + ENTRY; b[t + 64] = 2; put(b, t + 96, 8); }, "vectors are f32"),
    ];
    let good = small();
    let mut failures = Vec::new();
    for (name, resealed, damage, expected) in cases {
        let mut bytes = good.clone();
        damage(&mut bytes);
        if *resealed {
            reseal(&mut bytes);
        }
        match File::parse(&bytes).err().map(|e| e.to_string()) {
            Some(message) if message.contains(expected) => {}
            other => failures.push(format!("{name}: expected {expected:?}, got {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn missing_and_surplus_tensors_are_named() {
    let without = meta().spec.tensors().into_iter().filter(|e| e.name != "l0.attn.k");
    let missing = write_tensors(&meta(), without.collect(), Layout::F32);
    assert_eq!(File::parse(&missing).err(), Some(FormatError::Missing("l0.attn.k".into())));
    let more = Expected { name: "l1.attn.norm".into(), rows: 1, cols: 3, role: Role::Vector };
    let with = meta().spec.tensors().into_iter().chain([more]);
    let surplus = write_tensors(&meta(), with.collect(), Layout::F32);
    assert_eq!(File::parse(&surplus).err(), Some(FormatError::Unused("l1.attn.norm".into())));
}

#[test]
fn verify_finds_any_flipped_data_bit_and_dirty_padding() {
    let good = small();
    let offsets: Vec<_> = {
        let file = File::parse(&good).unwrap();
        file.tensors().iter().map(|t| (t.name.to_owned(), t.offset as usize, t.bytes.len())).collect()
    };
    for (name, offset, len) in offsets {
        for at in [offset, offset + len / 2, offset + len - 1] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            let error = File::parse(&bytes).unwrap().verify(|_| ()).unwrap_err();
            assert_eq!(error, FormatError::Hash(format!("tensor {name}")));
        }
        if !(offset + len).is_multiple_of(4096) {
            let mut bytes = good.clone();
            bytes[offset + len] = 1;
            let error = File::parse(&bytes).unwrap().verify(|_| ()).unwrap_err();
            assert_eq!(error, FormatError::Reserved((offset + len) as u64));
        }
    }
}

#[test]
fn no_flipped_metadata_byte_is_accepted() {
    let good = small();
    let tail = table(&good);
    for at in (0..size_of::<Header>()).chain(tail..good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        assert!(File::parse(&bytes).is_err(), "byte {at}");
    }
}

proptest! {
    /// Damage behind a right hash: an error or a file whose every view is inside its bytes, never a panic.
    #[test]
    fn resealed_damage_never_panics(at in any::<proptest::sample::Index>(), value in any::<u8>(), word in any::<u64>(), wide in any::<bool>()) {
        let mut bytes = small();
        let tail = table(&bytes);
        let places: Vec<usize> = (8..256).chain(tail..bytes.len()).collect();
        let place = places[at.index(places.len())];
        if wide && place + 8 <= bytes.len() {
            put(&mut bytes, place, word);
        } else {
            bytes[place] = value;
        }
        reseal(&mut bytes);
        if let Ok(file) = File::parse(&bytes) {
            for t in file.tensors() {
                prop_assert!(t.offset as usize + t.bytes.len() <= bytes.len());
            }
        }
    }
}
