//! Any header of safetensors, any list of modules and any index: an error that names the file, or tensors that can be read.
//! The first byte says which file it is.
#![no_main]

use muse_quantize::checkpoint::safetensors;

const HEADER: &str = r#"{"t":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;

fn weights(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [choice, bytes @ ..] = bytes else { return };
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("config.json", br#"{"model_type":"llama"}"#);
    write("model.safetensors", &weights(HEADER.as_bytes(), &[0; 16]));
    match choice % 8 {
        0 => write("model.safetensors", bytes),
        1 => write("model.safetensors", &weights(bytes, &[0; 64])),
        2 => write("model.safetensors.index.json", bytes),
        3 => write("modules.json", bytes),
        4 => write("config.json", bytes),
        5 => write("tokenizer_config.json", bytes),
        6 => write("processor_config.json", bytes),
        _ => write("README.md", bytes),
    }
    let Ok(checkpoint) = safetensors::open(dir.path()) else { return };
    for tensor in checkpoint.tensors.values() {
        let (rows, cols) = tensor.shape();
        let mut out = vec![0.0; cols];
        for row in 0..rows {
            let _ = tensor.read(row..row + 1, &mut out);
        }
    }
});
