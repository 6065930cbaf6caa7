use muse_quantize::checkpoint::gguf;

use crate::builder::{Gguf, Tensor, Value, sentencepiece, tiny};
use crate::exercise::exercise;

enum Damage {
    Model(fn(&mut Gguf)),
    Bytes(fn(&mut Vec<u8>)),
}
use Damage::{Bytes, Model};

/// An array header: the type and count of the elements.
fn array(kind: u32, count: u64) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &count.to_le_bytes()].concat()
}

/// `depth` arrays inside each other, the innermost empty.
fn nested(depth: usize) -> Value {
    let inner = [array(9, 1).repeat(depth - 1), array(4, 0)].concat();
    Value::Raw(9, inner)
}

fn push(gguf: &mut Gguf, tensor: Tensor) {
    gguf.tensors.push(tensor);
}

/// What is done to [`tiny`] and words of the error that it must give.
const CASES: &[(&str, Damage, &str)] = &[
    ("empty", Bytes(Vec::clear), "not a GGUF file"),
    ("another format", Bytes(|b| b[0] = b'X'), "not a GGUF file"),
    ("version 1", Model(|g| g.version = 1), "version 1 is not supported"),
    ("future version", Model(|g| g.version = 9), "version 9 is not supported"),
    ("big-endian", Model(|g| g.version = 3 << 24), "big-endian"),
    ("cut in the header", Bytes(|b| b.truncate(20)), "the metadata count"),
    ("cut in the metadata", Bytes(|b| b.truncate(300)), "past the end of the file"),
    ("cut in the data", Bytes(|b| b.truncate(b.len() - 1)), "tensor blk.0.ffn_down.weight"),
    ("huge tensor count", Bytes(|b| b[8..16].fill(0xff)), "18446744073709551615 tensors"),
    ("huge metadata count", Bytes(|b| b[16..24].fill(0xff)), "18446744073709551615 metadata entries"),
    ("huge key", Bytes(|b| b[24..32].fill(0xff)), "metadata key 0"),
    (
        "key given twice",
        Model(|g| g.entries.push(("general.architecture".into(), "llama".into()))),
        "given twice",
    ),
    ("unknown value type", Model(|g| g.set("x", Value::Raw(13, vec![0; 8]))), "unknown value type 13"),
    ("boolean 2", Model(|g| g.set("x", Value::Raw(7, vec![2]))), "2 is not a boolean"),
    (
        "text that is not UTF-8",
        Model(|g| g.set("x", Value::Raw(8, [1u64.to_le_bytes().to_vec(), vec![0xff]].concat()))),
        "invalid utf-8",
    ),
    (
        "text longer than the file",
        Model(|g| g.set("x", Value::Raw(8, (1u64 << 40).to_le_bytes().into()))),
        "1099511627776 bytes",
    ),
    ("array of unknown type", Model(|g| g.set("x", Value::Raw(9, array(99, 0)))), "unknown value type 99"),
    (
        "array larger than the file",
        Model(|g| g.set("x", Value::Raw(9, array(4, 1 << 40)))),
        "claims 1099511627776 elements",
    ),
    (
        "array whose size overflows",
        Model(|g| g.set("x", Value::Raw(9, array(12, u64::MAX)))),
        "claims 18446744073709551615 elements",
    ),
    (
        "texts that are not there",
        Model(|g| g.set("x", Value::Raw(9, [array(8, 1), vec![0xff; 8]].concat()))),
        "past the end",
    ),
    ("deep nesting", Model(|g| g.set("x", nested(100))), "more than 4 deep"),
    ("alignment 0", Model(|g| g.set("general.alignment", Value::Integer(0))), "power of two"),
    ("alignment 48", Model(|g| g.set("general.alignment", Value::Integer(48))), "power of two"),
    ("alignment 2^31", Model(|g| g.set("general.alignment", Value::Integer(1 << 31))), "power of two"),
    ("a split file", Model(|g| g.set("split.count", Value::Integer(3))), "split into 3 files"),
    ("no dimensions", Model(|g| g.tensor("output_norm.weight").dims.clear()), "0 dimensions"),
    ("five dimensions", Model(|g| g.tensor("output_norm.weight").dims = vec![8, 1, 1, 1, 1]), "5 dimensions"),
    ("three dimensions", Model(|g| g.tensor("blk.0.attn_k.weight").dims = vec![8, 2, 2]), "holds 2 matrices"),
    (
        "four dimensions",
        Model(|g| g.tensor("blk.0.attn_k.weight").dims = vec![8, 2, 2, 2]),
        "only vectors and matrices",
    ),
    (
        "more matrices than a layer has experts",
        Model(|g| g.tensor("blk.0.attn_k.weight").dims = vec![8, 1, 5000]),
        "up to 4096 of one shape",
    ),
    ("an empty tensor", Model(|g| g.tensor("output_norm.weight").dims = vec![0]), "1 x 0"),
    ("no rows", Model(|g| g.tensor("blk.0.attn_k.weight").dims = vec![8, 0]), "0 x 8"),
    (
        "rows x cols overflows",
        Model(|g| g.tensor("blk.0.attn_k.weight").dims = vec![1 << 33, 1 << 33]),
        "the whole file is",
    ),
    (
        "cols overflows",
        Model(|g| g.tensor("blk.0.attn_k.weight").dims = vec![u64::MAX, 1]),
        "the whole file is",
    ),
    ("part of a block", Model(|g| g.tensor("blk.0.ffn_down.weight").dims = vec![31, 8]), "multiple of 32"),
    ("removed type", Model(|g| g.tensor("output_norm.weight").code = 4), "type number 4"),
    ("unknown type", Model(|g| g.tensor("output_norm.weight").code = 1000), "type number 1000"),
    ("type that is not read", Model(|g| g.tensor("output_norm.weight").code = 16), "IQ2_XXS"),
    ("offset outside", Model(|g| g.tensor("output_norm.weight").offset = Some(1 << 40)), "past the end"),
    (
        "offset overflows",
        Model(|g| g.tensor("output_norm.weight").offset = Some(u64::MAX - 31)),
        "past the end",
    ),
    ("offset not aligned", Model(|g| g.tensor("output_norm.weight").offset = Some(4)), "not aligned to 32"),
    ("tensors overlap", Model(|g| g.tensor("output_norm.weight").offset = Some(32)), "overlap"),
    (
        "tensor listed twice",
        Model(|g| push(g, Tensor::f32("output_norm.weight", None, &[1.0; 8]))),
        "listed twice",
    ),
    (
        "unknown tensor",
        Model(|g| push(g, Tensor::f32("blk.0.ffn_gate_inp.weight", None, &[1.0; 8]))),
        "blk.0.ffn_gate_inp.weight",
    ),
    ("no architecture", Model(|g| g.remove("general.architecture")), "general.architecture is missing"),
    ("unknown architecture", Model(|g| g.set("general.architecture", "mamba")), "architecture mamba"),
    (
        "architecture is a number",
        Model(|g| g.set("general.architecture", Value::Integer(1))),
        "must be a text",
    ),
    ("no block count", Model(|g| g.remove("llama.block_count")), "llama.block_count is missing"),
    (
        "negative block count",
        Model(|g| g.set("llama.block_count", Value::Raw(5, (-1i32).to_le_bytes().into()))),
        "llama.block_count is -1",
    ),
    ("no heads", Model(|g| g.set("llama.attention.head_count", Value::Integer(0))), "cannot be rotated"),
    (
        "heads a layer",
        Model(|g| g.set("llama.attention.head_count", Value::Integers(vec![2]))),
        "must be one integer",
    ),
    ("odd head", Model(|g| g.set("llama.attention.key_length", Value::Integer(5))), "cannot be rotated"),
    (
        "heads that do not divide q",
        Model(|g| g.set("llama.attention.key_length", Value::Integer(6))),
        "heads of 6 do not divide",
    ),
    (
        "values of another size",
        Model(|g| g.set("llama.attention.value_length", Value::Integer(2))),
        "value_length is 2",
    ),
    (
        "partial rotation",
        Model(|g| g.set("llama.rope.dimension_count", Value::Integer(2))),
        "dimension_count is 2",
    ),
    (
        "epsilon not a number",
        Model(|g| g.set("llama.attention.layer_norm_rms_epsilon", Value::Float(f32::NAN))),
        "must be a finite number",
    ),
    ("experts", Model(|g| g.set("llama.expert_count", Value::Integer(8))), "llama.expert_count is 8"),
    ("logit scale", Model(|g| g.set("llama.logit_scale", Value::Float(0.5))), "llama.logit_scale is 0.5"),
    ("yarn", Model(|g| g.set("llama.rope.scaling.type", "yarn")), "yarn"),
    ("linear without a factor", Model(|g| g.set("llama.rope.scaling.type", "linear")), "rope.scaling.factor"),
    (
        "rope factors of another model",
        Model(|g| push(g, Tensor::f32("rope_freqs.weight", Some(8), &[1.0; 64]))),
        "rope_freqs.weight",
    ),
    (
        "no embedding",
        Model(|g| g.tensors.retain(|t| t.name != "token_embd.weight")),
        "token_embd.weight is missing",
    ),
    ("no vocabulary", Model(|g| g.remove("tokenizer.ggml.tokens")), "tokenizer.ggml.tokens is missing"),
    ("more tokens than rows", Model(|g| g.set("tokenizer.ggml.tokens", ["a"; 7].as_slice())), "only 6 rows"),
    (
        "a token twice",
        Model(|g| g.set("tokenizer.ggml.tokens", ["a", "b", "ab", "a"].as_slice())),
        "4 tokens",
    ),
    (
        "equal tokens",
        Model(|g| g.set("tokenizer.ggml.tokens", ["a", "b", "ab", "x", "x", "y"].as_slice())),
        "the same text",
    ),
    (
        "token type 7",
        Model(|g| g.set("tokenizer.ggml.token_type", Value::Integers(vec![1, 1, 1, 1, 1, 7]))),
        "type of token 5",
    ),
    ("too few types", Model(|g| g.set("tokenizer.ggml.token_type", Value::Integers(vec![1]))), "1 types"),
    ("tokenizer of another kind", Model(|g| g.set("tokenizer.ggml.model", "bert")), "SentencePiece"),
    (
        "unknown pre-tokenizer",
        Model(|g| g.set("tokenizer.ggml.pre", "viking")),
        "tokenizer.ggml.pre is viking",
    ),
    (
        "merge of nothing",
        Model(|g| g.set("tokenizer.ggml.merges", ["b a"].as_slice())),
        "the whole must be tokens",
    ),
    ("merge of one", Model(|g| g.set("tokenizer.ggml.merges", ["ab"].as_slice())), "a space between"),
    ("no merges", Model(|g| g.remove("tokenizer.ggml.merges")), "tokenizer.ggml.merges is missing"),
    ("eos outside", Model(|g| g.set("tokenizer.ggml.eos_token_id", Value::Integer(6))), "there are 6 tokens"),
    ("no scores", Model(|g| g.set("tokenizer.ggml.model", "llama")), "tokenizer.ggml.scores is missing"),
    (
        "scores not finite",
        Model(|g| {
            g.set("tokenizer.ggml.model", "llama");
            g.set("tokenizer.ggml.scores", Value::Floats(vec![0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0]));
        }),
        "a finite score",
    ),
    (
        "a huge piece",
        Model(|g| {
            g.set("tokenizer.ggml.model", "llama");
            g.set("tokenizer.ggml.scores", Value::Floats(vec![0.0; 6]));
            g.set("tokenizer.ggml.tokens", ["a", "b", &"ab".repeat(300), "<s>", "</s>", "x"].as_slice());
        }),
        "600 bytes",
    ),
];

#[test]
fn the_undamaged_file_is_whole() {
    assert!(exercise(tiny().bytes()));
    assert!(exercise(sentencepiece().bytes()));
    let mut older = tiny();
    older.version = 2;
    assert!(exercise(older.bytes()), "version 2 is the same but for its number");
}

#[test]
fn every_damage_is_an_error_that_says_what_is_wrong() {
    let mut failures = Vec::new();
    for (name, damage, words) in CASES {
        let mut model = tiny();
        if let Model(change) = damage {
            change(&mut model);
        }
        let mut bytes = model.bytes();
        if let Bytes(change) = damage {
            change(&mut bytes);
        }
        match gguf::from_bytes("damaged.gguf", bytes) {
            Ok(_) => failures.push(format!("{name}: opened")),
            Err(error) if error.to_string().contains(words) => {}
            Err(error) => failures.push(format!("{name}: {error}, without {words:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn values_that_are_not_finite_are_refused_when_they_are_read() {
    let nan = f32::NAN.to_le_bytes();
    let cases: [(&str, &str, usize, &[u8]); 3] = [
        ("a float", "output_norm.weight", 4, &nan),
        ("a rotated row", "blk.0.attn_q.weight", 8 * 4 * 3, &nan),
        ("the scale of a block", "blk.0.ffn_down.weight", 18 * 5, &[0, 0x7c]),
    ];
    for (name, tensor, at, bytes) in cases {
        let mut model = tiny();
        model.tensor(tensor).data[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(!exercise(model.bytes()), "{name}");
    }
}

/// xorshift64*: a fixed sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// One to three changes: a byte, a bit, or a length that overflows or points elsewhere; now and then a cut.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => {
                let value = [0, 1, u64::MAX, 1 << 31, 1 << 62, bytes.len() as u64][random.below(6)];
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
    if random.below(50) == 0 {
        bytes.truncate(random.below(bytes.len()));
    }
}

/// The fuzz target's work without a fuzzer: none of the damaged files may panic.
#[test]
fn no_mutation_panics() {
    const FILES: usize = 2_000;
    for whole in [tiny().bytes(), sentencepiece().bytes()] {
        let mut random = Random(20_261_123);
        let mut opened = 0;
        for _ in 0..FILES {
            let mut bytes = whole.clone();
            mutate(&mut bytes, &mut random);
            opened += usize::from(exercise(bytes));
        }
        // Most mutations hit a weight or a token; a loop that opens nothing would test the first check only.
        assert!((FILES / 10..FILES * 9 / 10).contains(&opened), "{opened} of {FILES} opened");
    }
}
