//! A fixture's checkpoint as a file, made as the command makes it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use muse_format::{Meta, Provenance, Text};
use muse_quantize::convert::{self, Watch};
use muse_quantize::policy::{Bits, Policy, Scheme};
use muse_quantize::{checkpoint, families, text};

/// What is in `tests/fixtures` under this name.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A `.muse` file of the fixture, gone with the value.
pub fn converted(name: &str, bits: Bits) -> tempfile::NamedTempFile {
    written(name, bits, families::import)
}

/// The layer of that checkpoint that guesses the token after the next.
#[allow(dead_code)] // not every test has one
pub fn converted_head(name: &str, bits: Bits) -> tempfile::NamedTempFile {
    written(name, bits, families::import_head)
}

fn written(
    name: &str,
    bits: Bits,
    import: fn(&checkpoint::Checkpoint) -> Result<families::Import, checkpoint::ImportError>,
) -> tempfile::NamedTempFile {
    let checkpoint = checkpoint::open(&fixture(name).join("checkpoint")).unwrap();
    let import = import(&checkpoint).unwrap();
    let policy = Policy { bits: Some(bits), embed_bits: None, group: 32, scheme: Scheme::Symmetric };
    let watch = Watch { progress: &|_| (), interrupted: &AtomicBool::new(false) };
    let jobs = convert::plan(&import, &checkpoint, &policy, &watch).unwrap();
    let (text, generation) = text::import(&checkpoint, &import.spec).unwrap();
    let image = text::image(&checkpoint, &import).unwrap();
    let (video, audio) = (text::video(&checkpoint, &import), text::audio(&checkpoint, &import));
    let text = Text { image, video: video.unwrap(), audio: audio.unwrap(), ..text };
    let meta = Meta {
        spec: import.spec.clone(),
        text,
        generation,
        provenance: Provenance { target: "cpu".into(), ..Provenance::default() },
        tokenizer: checkpoint.tokenizer.clone(),
        chat_template: checkpoint.chat_template.clone().unwrap_or_default(),
    };
    let file = tempfile::NamedTempFile::with_suffix(".muse").unwrap();
    convert::write(file.reopen().unwrap(), name, &checkpoint, &jobs, &meta, &watch).unwrap();
    file
}
