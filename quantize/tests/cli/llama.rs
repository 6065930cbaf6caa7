//! The llama fixture, made anew with other weights.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{fixture, names};

/// The f32 tensors of the llama fixture in a safetensors file of its own: names, shapes, values.
pub type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

pub fn tensors() -> Tensors {
    let bytes = fs::read(format!("{}/model.safetensors", fixture("llama"))).expect("the fixture");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("the fixture is sound");
    let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut list: Tensors =
        file.tensors().into_iter().map(|(n, t)| (n, t.shape().to_vec(), values(t.data()))).collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

pub fn write_safetensors(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        header.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(path, bytes).expect("the weights");
}

/// A copy of the llama fixture's small files in `dir/checkpoint`, without weights.
pub fn small_files(dir: &Path) -> PathBuf {
    let copy = dir.join("checkpoint");
    fs::create_dir(&copy).expect("a new folder");
    for name in names(Path::new(&fixture("llama"))) {
        if name != "model.safetensors" {
            fs::copy(format!("{}/{name}", fixture("llama")), copy.join(&name)).expect("a copy");
        }
    }
    copy
}
