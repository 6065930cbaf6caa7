//! Any bytes, or a sound file with changes: a typed error, or a file whose every tensor can be read and verified.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muse_format::{File, MAGIC};

/// What is changed where the bytes are not a file themselves.
const FILE: &[u8] = include_bytes!("../../../runtime/format/tests/v2.muse");

/// Makes the root hash right, so that the checks behind it are reached; FORMAT.md, "First page".
fn reseal(bytes: &mut [u8]) -> Option<()> {
    let tail = u64::from_le_bytes(bytes.get(56..64)?.try_into().ok()?);
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytes.get(..24)?).update(&[0; 32]).update(bytes.get(56..4096)?);
    hasher.update(bytes.get(usize::try_from(tail).ok()?..)?);
    bytes[24..56].copy_from_slice(hasher.finalize().as_bytes());
    Some(())
}

/// [`FILE`] with changes of five bytes each: in the first page or the tail, where, what is done, with what.
fn changed(changes: &[u8]) -> Vec<u8> {
    let tail = u64::from_le_bytes(FILE[56..64].try_into().unwrap()) as usize;
    let mut file = FILE.to_vec();
    for change in changes.chunks_exact(5) {
        let [place, low, high, how, with] = *change else { unreachable!() };
        let at = usize::from(u16::from_le_bytes([low, high]));
        let at = if place & 1 == 0 { at % 4096 } else { (tail + at % (FILE.len() - tail)).min(file.len()) };
        match how % 8 {
            0 if at < file.len() => drop(file.remove(at)),
            1 => file.insert(at, with),
            // A number of the header or the table.
            2 => file[at..].iter_mut().take(8).for_each(|byte| *byte = with),
            3 => file[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << (with & 7)),
            4 => file.truncate(at),
            _ => file[at..].iter_mut().take(1).for_each(|byte| *byte = with),
        }
        if file.len() < 4096 {
            break;
        }
    }
    file
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = if bytes.starts_with(&MAGIC) { bytes.to_vec() } else { changed(bytes) };
    if bytes.len() >= 24 {
        let len = bytes.len() as u64;
        bytes[16..24].copy_from_slice(&len.to_le_bytes());
    }
    reseal(&mut bytes);
    if let Ok(file) = File::parse(&bytes) {
        assert!(file.tensors().iter().all(|t| t.offset as usize + t.bytes.len() <= bytes.len()));
        let _ = file.verify(|_| ());
    }
});
