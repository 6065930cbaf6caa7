//! The spec of a tiny model of any family, changed: the format refuses it, or the runtime loads and answers or says why not.
#![no_main]

#[path = "shared/bytes.rs"]
mod bytes;
#[path = "shared/edit.rs"]
mod edit;
#[path = "shared/fixtures.rs"]
mod fixtures;
#[path = "shared/run.rs"]
mod run;

use std::io::Cursor;
use std::sync::LazyLock;

use muse_format::{Generation, Layout, Meta, Provenance, Role, Spec, Text, Writer};
use muse_quantize::families;
use muse_runtime::BackendChoice;
use serde_json::Value;

use bytes::Bytes;
use edit::edit;

/// Bytes of one tensor, and of all.
const WEIGHTS_MAX: u64 = 1 << 21;

static SPECS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    // What a checkpoint holds to draft for another is no model by itself.
    let import = |checkpoint: &_| families::import(checkpoint).or_else(|_| families::import_head(checkpoint));
    let imported = |(name, checkpoint)| import(&checkpoint).unwrap_or_else(|e| panic!("{name}: {e}")).spec;
    let mut specs: Vec<Value> =
        fixtures::all().into_iter().map(imported).map(|spec| serde_json::to_value(spec).unwrap()).collect();
    // A layer of each mixer is enough.
    for spec in &mut specs {
        spec["layers"].as_array_mut().unwrap().truncate(4);
    }
    specs
});

/// A file of `spec` with weights that are small and differ; `None` for one that the format refuses or that is large.
fn file(spec: Spec, layout: Layout) -> Option<Vec<u8>> {
    spec.validate().ok()?;
    let mut writer = Writer::new(Cursor::new(Vec::new())).ok()?;
    let mut left = WEIGHTS_MAX;
    for tensor in spec.tensors() {
        let (rows, cols) = (tensor.rows, tensor.cols);
        let layout = if tensor.role == Role::Matrix { layout } else { Layout::F32 };
        let len = layout.byte_len(rows, cols)?;
        left = left.checked_sub(len)?;
        writer.begin(&tensor.name, layout, rows, cols).ok()?;
        let bytes: Vec<u8> = match layout {
            // 0.25 and 0.5, so that no norm is of zeros.
            Layout::F32 => (0..len / 4).flat_map(|i| (0.25 * (1 + i % 2) as f32).to_le_bytes()).collect(),
            _ => (0..len).map(|i| if i % 2 == 0 { (i / 2 % 7) as u8 } else { 0x20 }).collect(),
        };
        writer.write(&bytes).ok()?;
        writer.end().ok()?;
    }
    let provenance = Provenance { target: "cpu".into(), ..Provenance::default() };
    let (text, generation) = (Text::default(), Generation::default());
    let meta =
        Meta { spec, text, generation, provenance, tokenizer: Vec::new(), chat_template: String::new() };
    Some(writer.finish(&meta).ok()?.into_inner())
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let mut spec = SPECS[usize::from(bytes.next()) % SPECS.len()].clone();
    let choice = bytes.next();
    let layout = [Layout::F32, Layout::F16, Layout::Q8 { group: 32 }, Layout::Q4 { group: 32 }]
        [usize::from(choice % 4)];
    for _ in 0..6 {
        if bytes.0.is_empty() {
            break;
        }
        edit(&mut spec, &mut bytes);
    }
    let Ok(spec) = serde_json::from_value(spec) else { return };
    let Some(bytes) = file(spec, layout) else { return };
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    run::run(file.path(), if choice & 4 == 0 { BackendChoice::Cpu } else { BackendChoice::Reference });
});
