//! Writes GGUF, right or wrong. Facts: the GGUF specification (ggml, `docs/gguf.md`).

pub const ALIGNMENT: u64 = 32;

#[derive(Clone)]
pub enum Value {
    Integer(u32),
    Float(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i32>),
    Floats(Vec<f32>),
    /// A type's number and the bytes that follow it.
    Raw(u32, Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<&[&str]> for Value {
    fn from(texts: &[&str]) -> Self {
        Self::Texts(texts.iter().map(|t| (*t).into()).collect())
    }
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// The innermost dimension first.
    pub dims: Vec<u64>,
    pub code: u32,
    pub data: Vec<u8>,
    /// Where it says that it starts, when that is not where it is.
    pub offset: Option<u64>,
}

impl Tensor {
    /// A matrix, or a vector where `rows` is `None`.
    pub fn f32(name: &str, rows: Option<usize>, values: &[f32]) -> Self {
        let cols = values.len() / rows.unwrap_or(1);
        let dims = [cols as u64].into_iter().chain(rows.map(|rows| rows as u64)).collect();
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), dims, code: 0, data, offset: None }
    }
}

#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

impl Gguf {
    pub fn new() -> Self {
        Self { version: 3, entries: Vec::new(), tensors: Vec::new() }
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key.into(), value)),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|(k, _)| k != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).expect("the tensor is there")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut at = 0;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(tensor.code.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(at).to_le_bytes());
            at = (at + tensor.data.len() as u64).next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
            out.extend(&tensor.data);
        }
        out
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, kind: u32, count: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::Integer(v) => out.extend([4u32.to_le_bytes(), v.to_le_bytes()].concat()),
            Self::Float(v) => out.extend([6u32.to_le_bytes(), v.to_le_bytes()].concat()),
            Self::Bool(v) => {
                out.extend(7u32.to_le_bytes());
                out.push((*v).into());
            }
            Self::Text(v) => {
                out.extend(8u32.to_le_bytes());
                text(out, v);
            }
            Self::Texts(list) => {
                array(out, 8, list.len());
                list.iter().for_each(|v| text(out, v));
            }
            Self::Integers(list) => {
                array(out, 5, list.len());
                out.extend(list.iter().flat_map(|v| v.to_le_bytes()));
            }
            Self::Floats(list) => {
                array(out, 6, list.len());
                out.extend(list.iter().flat_map(|v| v.to_le_bytes()));
            }
            Self::Raw(kind, bytes) => {
                out.extend(kind.to_le_bytes());
                out.extend(bytes);
            }
        }
    }
}

/// A complete Llama of one layer: 2 heads of 4, width 8.
pub fn tiny() -> Gguf {
    let mut gguf = Gguf::new();
    gguf.set("general.architecture", "llama");
    for (key, value) in [
        ("llama.block_count", 1),
        ("llama.context_length", 64),
        ("llama.embedding_length", 8),
        ("llama.feed_forward_length", 32),
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("tokenizer.ggml.bos_token_id", 3),
        ("tokenizer.ggml.eos_token_id", 4),
    ] {
        gguf.set(key, Value::Integer(value));
    }
    gguf.set("llama.attention.layer_norm_rms_epsilon", Value::Float(1e-5));
    gguf.set("tokenizer.ggml.model", "gpt2");
    gguf.set("tokenizer.ggml.pre", "gpt-2");
    gguf.set("tokenizer.ggml.tokens", ["a", "b", "ab", "<s>", "<|im_end|>", "<tool>"].as_slice());
    gguf.set("tokenizer.ggml.token_type", Value::Integers(vec![1, 1, 1, 3, 3, 4]));
    gguf.set("tokenizer.ggml.merges", ["a b"].as_slice());
    let values = |n: usize| -> Vec<f32> { (0..n).map(|i| i as f32 / 8.0 - 1.0).collect() };
    for (name, rows, cols) in [
        ("token_embd.weight", Some(6), 8),
        ("blk.0.attn_norm.weight", None, 8),
        ("blk.0.attn_q.weight", Some(8), 8),
        ("blk.0.attn_k.weight", Some(4), 8),
        ("blk.0.attn_v.weight", Some(4), 8),
        ("blk.0.attn_output.weight", Some(8), 8),
        ("blk.0.ffn_norm.weight", None, 8),
        ("blk.0.ffn_gate.weight", Some(32), 8),
        ("blk.0.ffn_up.weight", Some(32), 8),
        ("output_norm.weight", None, 8),
    ] {
        gguf.tensors.push(Tensor::f32(name, rows, &values(rows.unwrap_or(1) * cols)));
    }
    let block = [
        0, 0x3c, 0x88, 0x79, 0x6a, 0x5b, 0x4c, 0x3d, 0x2e, 0x1f, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
    ];
    gguf.tensors.push(Tensor {
        name: "blk.0.ffn_down.weight".into(),
        dims: vec![32, 8],
        code: 2,
        data: block.repeat(8),
        offset: None,
    });
    gguf
}

/// The same with a SentencePiece vocabulary: specials, the bytes, pieces with scores, and user-defined runs of spaces.
pub fn sentencepiece() -> Gguf {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let mut scores = vec![0.0; tokens.len()];
    let mut types = [vec![2, 3, 3], vec![6; 256]].concat();
    for (piece, score) in [
        ("▁", -9.0),
        ("a", -9.0),
        ("b", -9.0),
        ("c", -9.0),
        ("ab", -1.0),
        ("bc", -2.0),
        ("▁a", -0.5),
        ("abc", -3.0),
    ] {
        tokens.push(piece.into());
        scores.push(score);
        types.push(1);
    }
    tokens.push("  ".into());
    scores.push(-1000.0);
    types.push(4);
    let mut gguf = tiny();
    gguf.tensors[0] = Tensor::f32("token_embd.weight", Some(tokens.len()), &vec![0.5; tokens.len() * 8]);
    gguf.set("tokenizer.ggml.model", "llama");
    gguf.set("tokenizer.ggml.tokens", Value::Texts(tokens));
    gguf.set("tokenizer.ggml.scores", Value::Floats(scores));
    gguf.set("tokenizer.ggml.token_type", Value::Integers(types));
    gguf.set("tokenizer.ggml.unknown_token_id", Value::Integer(0));
    gguf
}
