//! Tiny random models in temporary files, and what tests do with them.
#![allow(dead_code)] // every test file uses a part

pub mod naive;
mod naive_delta_net;
mod naive_latent;
pub mod perceived;
#[path = "../../../kernels/tests/sweep/mod.rs"]
pub mod sweep;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use half::f16;
use muse_format::{
    Activation, Attention, Audio, AudioStage, BlockDrafter, BlockMut, ChainDrafter, DeltaNet, Dense, Drafter,
    Embedding, Encoder, Expected, Experts, Ffn, Generation, Indexer, Join, Laid, LatentAttention, Layer,
    Layout, Meta, Mixer, PerLayer, Pixels, Pooling, Provenance, Role, Score, Sparse, Spec, TILE_ROWS,
    Temperature, Text as TextMeta, Vision, VisionLayer, Writer,
};
use muse_kernels::Span;
use muse_runtime::{ChatOptions, Engine, Message, Text, TextDecoder, TextError};
use tempfile::TempDir;

/// Deterministic, so that a failure names its case and nothing else is needed to replay it.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// Uniform in `-1..1`.
    pub fn signed(&mut self) -> f32 {
        self.next() as f32 / (1_u32 << 30) as f32 - 1.0
    }

    pub fn signed_numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.signed()).collect()
    }

    pub fn tokens(&mut self, count: usize, vocab: u32) -> Vec<u32> {
        (0..count).map(|_| self.next() % vocab).collect()
    }
}

pub fn attention(heads: u32, kv_heads: u32, head_dim: u32) -> Attention {
    Attention { rope: Some(0), ..Attention::new(heads, kv_heads, head_dim) }
}

/// A Llama of two layers whose widths are not multiples of a group or a tile.
pub fn plain() -> Spec {
    let ffn = Ffn { dim: 52, activation: Activation::Silu, bias: false };
    let layer = Layer { ffn: Some(ffn), ..Layer::new(attention(4, 2, 10)) };
    Spec {
        family: "tiny".into(),
        dim: 40,
        vocab: 70,
        context: 96,
        norm_eps: 1e-5,
        tied_head: true,
        ropes: 1,
        layers: vec![layer.clone(), layer],
        ..Spec::default()
    }
}

/// Every field of the spec at a value that matters, layers unlike each other.
pub fn everything() -> Spec {
    let mut spec = plain();
    spec.tied_head = false;
    spec.ropes = 2;
    spec.embed_scale = 6.3;
    spec.embed_norm = true;
    spec.logit_scale = 0.7;
    spec.logit_softcap = Some(2.5);
    let full = &mut spec.layers[0];
    full.post_norms = true;
    full.post_norm_eps = Some(0.3);
    full.attention_mut().unwrap().qk_norm = true;
    full.attention_mut().unwrap().softcap = Some(1.5);
    full.ffn = Some(Ffn { dim: 36, activation: Activation::GeluTanh, bias: true });
    let ring = &mut spec.layers[1];
    ring.mixer = Mixer::Attention(attention(6, 3, 8));
    ring.attention_mut().unwrap().window = Some(5);
    ring.attention_mut().unwrap().rope = Some(1);
    ring.attention_mut().unwrap().qkv_bias = true;
    ring.attention_mut().unwrap().out_bias = true;
    ring.attention_mut().unwrap().out_gate = true;
    let mut still = spec.layers[1].clone();
    still.attention_mut().unwrap().rope = None;
    still.attention_mut().unwrap().window = Some(13);
    still.attention_mut().unwrap().scale = 0.9;
    spec.layers.push(still);
    spec
}

/// Keys and values of earlier layers, full ones and a ring's, and a vector of each token for each layer.
pub fn shared() -> Spec {
    let mut spec = plain();
    spec.per_layer = Some(PerLayer {
        dim: 34,
        table_scale: 2.0,
        projection_scale: 0.4,
        scale: 0.7,
        activation: Activation::GeluTanh,
    });
    spec.layers[0].scaled = true;
    spec.layers[0].attention_mut().unwrap().v_norm = true;
    spec.layers[0].attention_mut().unwrap().qk_norm = true;
    spec.layers[1].mixer = Mixer::Attention(attention(6, 3, 8));
    spec.layers[1].attention_mut().unwrap().window = Some(5);
    for from in [1, 0] {
        let mut layer = spec.layers[from].clone();
        layer.attention_mut().unwrap().kv_from = Some(from as u32);
        layer.scaled = true;
        layer.attention_mut().unwrap().qkv_bias = from == 1;
        layer.ffn = Some(Ffn { dim: 72, activation: Activation::GeluTanh, bias: false });
        spec.layers.push(layer);
    }
    spec
}

/// An encoder of two layers, with a product after pooling that is wider than anything else.
pub fn encoder() -> Spec {
    let ffn = Ffn { dim: 52, activation: Activation::Gelu, bias: true };
    let attention =
        Attention { qkv_bias: true, out_bias: true, bidirectional: true, ..Attention::new(4, 4, 10) };
    let layer = Layer { ffn: Some(ffn), ..Layer::new(attention) };
    Spec {
        ropes: 0,
        embedding: Some(Embedding {
            pooling: Pooling::Mean,
            dense: vec![Dense { dim: 90, bias: true, tanh: true }],
            normalise: true,
            prompts: [("query".into(), "q: ".into())].into(),
            default_prompt: None,
        }),
        encoder: Some(Encoder { positions: 100, types: 2 }),
        layers: vec![layer.clone(), layer],
        ..plain()
    }
}

/// [`plain`] with a window, to both sides, and the vectors of texts in place of a head.
pub fn embedding_decoder() -> Spec {
    let mut spec = plain();
    for layer in &mut spec.layers {
        layer.attention_mut().unwrap().bidirectional = true;
    }
    spec.layers[1].attention_mut().unwrap().window = Some(4);
    spec.embedding = encoder().embedding;
    spec
}

/// Two layers of experts: alone and chosen by softmax, and beside a dense feed-forward by biased sigmoids.
pub fn mixture() -> Spec {
    let mut spec = plain();
    let experts = Experts { normalise: true, ..Experts::new(7, 3, 20) };
    spec.layers[0].ffn = None;
    spec.layers[0].experts = Some(experts.clone());
    spec.layers[1].experts = Some(Experts {
        activation: Activation::GeluTanh,
        score: Score::Sigmoid,
        choice_bias: true,
        scale: 1.7,
        ..Experts::new(5, 2, 36)
    });
    spec
}

/// Two layers of experts that run at widths of their own, alone and beside a dense feed-forward, with norms of what they
/// give; gates on the residual stream, and a norm of what attention reads.
pub fn gated() -> Spec {
    let mut spec = plain();
    let latent = |width: u32, experts: Experts| Experts {
        latent: Some(width),
        logit_scale: 1.3,
        each_norm_eps: Some(0.1),
        ..experts
    };
    let [first, second] = &mut spec.layers[..] else { panic!("plain has two layers") };
    first.ffn = None;
    first.experts = Some(latent(24, Experts { choice_bias: true, ..Experts::new(6, 2, 20) }));
    second.experts = Some(latent(36, Experts { score: Score::Sigmoid, ..Experts::new(4, 3, 12) }));
    second.ffn_post_scale = true;
    for layer in [first, second] {
        layer.post_norms = true;
        layer.post_norm_eps = Some(0.2);
        layer.residual_gates = true;
        let attention = layer.attention_mut().expect("plain attends");
        (attention.mix_norm, attention.out_gate) = (true, true);
    }
    spec
}

/// Experts that read the residual stream by norms of their own, one layer's with a factor for each, beside dense
/// feed-forwards.
pub fn beside() -> Spec {
    let mut spec = plain();
    let experts = Experts { own_norms: true, normalise: true, ..Experts::new(5, 2, 20) };
    spec.layers[1].experts = Some(Experts { expert_scale: true, latent: Some(24), ..experts.clone() });
    spec.layers[0].experts = Some(experts);
    spec.layers[0].post_norms = true;
    spec
}

/// A layer that attends by chunks and one whose queries grow with their positions, with one expert for each token, which
/// reads as much of it as its score says, beside dense feed-forwards.
pub fn chunked() -> Spec {
    let mut spec = plain();
    let experts = Experts { score: Score::Sigmoid, weigh_input: true, ..Experts::new(5, 1, 20) };
    spec.layers[0].experts = Some(Experts { used: 2, ..experts.clone() });
    spec.layers[1].experts = Some(experts);
    spec.layers[0].attention_mut().unwrap().chunk = Some(6);
    let second = spec.layers[1].attention_mut().unwrap();
    (second.rope, second.temperature) = (None, Some(Temperature { every: 3, strength: 0.4 }));
    spec
}

/// Recurrent layers around one of attention: heads that share keys, one without a convolution, and a feed-forward with a
/// gate for each token beside experts.
pub fn recurrent() -> Spec {
    let mut spec = mixture();
    let delta_net = DeltaNet { key_heads: 2, value_heads: 6, key_dim: 9, value_dim: 7, taps: 4 };
    let experts = spec.layers[0].clone();
    spec.layers[0].mixer = Mixer::DeltaNet(delta_net.clone());
    spec.layers[1].attention_mut().unwrap().out_gate = true;
    spec.layers[1].token_gate = true;
    let still = DeltaNet { key_heads: 1, value_heads: 1, key_dim: 33, value_dim: 40, taps: 1 };
    spec.layers.push(Layer { mixer: Mixer::DeltaNet(still), ..spec.layers[1].clone() });
    spec.layers.push(Layer { mixer: Mixer::DeltaNet(DeltaNet { taps: 2, ..delta_net }), ..experts });
    spec
}

/// Two layers over latents, with and without a width that queries are made of, around one of attention.
pub fn latent() -> Spec {
    let mut spec = plain();
    let compressed = LatentAttention {
        heads: 3,
        query_rank: Some(22),
        rank: 37,
        key_dim: 18,
        rope_dim: 10,
        value_dim: 13,
        scale: 0.3,
        rope: 0,
        norm_eps: 0.1,
        bias: true,
        sparse: None,
    };
    let direct =
        LatentAttention { heads: 5, query_rank: None, rank: 16, value_dim: 70, bias: false, ..compressed };
    let last = Layer { mixer: Mixer::Latent(direct), ..spec.layers[0].clone() };
    spec.layers[0].mixer = Mixer::Latent(compressed);
    spec.layers.push(last);
    spec
}

/// Latents of which layers meet some positions: those that they choose, those that the layer before chose, and others.
pub fn sparse() -> Spec {
    let mut spec = latent();
    spec.layers[1] = spec.layers[0].clone();
    spec.layers[2] = spec.layers[0].clone();
    let own = |heads, head_dim, top| Sparse::Own(Indexer { heads, head_dim, top, norm_eps: 0.1 });
    for (layer, sparse) in spec.layers.iter_mut().zip([own(3, 12, 7), Sparse::Earlier, own(2, 33, 12)]) {
        let Mixer::Latent(latent) = &mut layer.mixer else { panic!("latent has a layer over latents first") };
        latent.sparse = Some(sparse);
    }
    spec
}

/// [`plain`] with a tower of two blocks, one with windows of 3 patches, over images of at most 12 tokens of 4 patches.
pub fn seeing() -> Spec {
    let pixels = Pixels {
        patch: 2,
        frames: 2,
        tokens_max: 12,
        mean: [0.5, 0.4, 0.6],
        deviation: [0.5, 0.3, 0.25],
        ..Pixels::default()
    };
    let vision = Vision {
        token: 9,
        blank_tokens: vec![9, 11],
        pixels,
        dim: 36,
        heads: 3,
        ffn_dim: 50,
        norm_eps: 1e-4,
        positions: 3,
        frequencies: 3,
        merge: 2,
        adapter_dim: 44,
        layers: vec![VisionLayer { window: Some(3) }, VisionLayer { window: None }],
        ..Vision::default()
    };
    Spec { vision: Some(vision), ..plain() }
}

/// [`shared`] with a tower of other blocks, in which the tokens of an image see each other: in the layers with a window, of
/// 5.
pub fn seeing_jointly() -> Spec {
    let vision = Vision {
        blank: 3,
        joint: true,
        rms: true,
        post_norms: true,
        head_norms: true,
        gated: true,
        bias: false,
        clipped: true,
        scale: Some(0.9),
        pre_norm: false,
        post_norm: false,
        positions: 8,
        laid: Laid::Axes,
        join: Join::Mean { standardized: true, rooted: true },
        adapter_dim: 36,
        adapter_down: false,
        vector_norm: false,
        ..seeing().vision.unwrap()
    };
    Spec { vision: Some(vision), ..shared() }
}

/// [`shared`] with a tower that does not turn, in which patches become their plain mean and the tokens of an image see each
/// other in every layer.
pub fn seeing_jointly_everywhere() -> Spec {
    let vision = Vision {
        joint: true,
        joint_everywhere: true,
        patch_bias: true,
        pre_norm: false,
        frequencies: 0,
        join: Join::Mean { standardized: false, rooted: false },
        adapter_dim: 36,
        adapter_down: false,
        vector_norm: false,
        ..seeing().vision.unwrap()
    };
    Spec { vision: Some(vision), ..shared() }
}

/// [`seeing`] with a tower in which every patch sees all others and a class.
pub fn seeing_with_a_class() -> Spec {
    let layers = vec![VisionLayer { window: None }; 2];
    let vision = Vision { class: true, layers, ..seeing().vision.unwrap() };
    Spec { vision: Some(vision), ..plain() }
}

/// [`seeing`] with a tower of two stages over sounds, of 6 samples a vector.
pub fn hearing() -> Spec {
    let stages = vec![
        AudioStage { patch: 3, dim: 20, ffn_dim: 34, blocks: 2 },
        AudioStage { patch: 2, dim: 36, ffn_dim: 50, blocks: 1 },
    ];
    let audio = Audio {
        token: 13,
        blank_tokens: vec![9, 13],
        rate: 100,
        taps: 5,
        activation: Activation::Gelu,
        norm_eps: 1e-4,
        vector_norm: true,
        stages,
    };
    Spec { audio: Some(audio), ..seeing() }
}

/// Random bytes of a tensor whose values have about the standard deviation `1 / sqrt(cols)`; vectors are near 1.
fn random_tensor(rng: &mut Rng, e: &Expected, layout: Layout, cols: usize) -> Vec<u8> {
    let rows = e.rows as usize;
    if e.role == Role::Vector {
        // Frequencies from 1 down; norms and biases around 0.8.
        let value = |i: usize, rng: &mut Rng| match e.name.contains("rope") {
            true => 0.3_f32.powf(i as f32 + if e.name == "rope.1" { 0.5 } else { 0.0 }),
            false if e.name.ends_with("bias") => 0.2 * rng.signed(),
            false if e.name.ends_with("_min") => -0.9 + 0.3 * rng.signed(),
            false => 0.8 + 0.3 * rng.signed(),
        };
        return (0..rows * cols).flat_map(|i| value(i, rng).to_le_bytes()).collect();
    }
    let spread = if e.role == Role::Table { 1.0 } else { 1.7 / (cols as f32).sqrt() };
    if !layout.is_quantized() {
        let values = (0..rows * cols).map(|_| spread * rng.signed());
        return match layout {
            Layout::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Layout::F16 => values.flat_map(|x| f16::from_f32(x).to_bits().to_le_bytes()).collect(),
            _ => values.flat_map(|x| half::bf16::from_f32(x).to_bits().to_le_bytes()).collect(),
        };
    }
    let (group, per_row) = (layout.group(), cols.div_ceil(layout.group()));
    let mut bytes = vec![0; layout.byte_len(rows as u64, cols as u64).unwrap() as usize];
    for (i, block) in bytes.chunks_exact_mut(layout.block_bytes()).enumerate() {
        let (first_row, first_col) = (i / per_row * TILE_ROWS, i % per_row * group);
        let mut block = BlockMut::new(layout, block);
        for r in 0..TILE_ROWS.min(rows - first_row) {
            let levels = layout.levels();
            let span = f32::from(levels[levels.len() - 1]) - f32::from(levels[0]) + 1.0;
            let scale = spread * (1.0 + 0.2 * rng.signed()) * 2.0 / span;
            block.set_scale(r, f16::from_f32(scale).to_bits());
            if matches!(layout, Layout::Q4Asym { .. }) {
                block.set_offset(r, f16::from_f32(-spread * (1.0 + 0.1 * rng.signed())).to_bits());
            }
            for c in 0..group.min(cols - first_col) {
                block.set_quant(r, c, i32::from(levels[rng.next() as usize % levels.len()]));
            }
        }
    }
    bytes
}

/// What drafts for [`plain`] and others of its width and vocabulary, of the first layer's outputs: windows of 5 and 9 to
/// either side and a layer without, blocks of 7.
pub fn drafter() -> Spec {
    let attention = |window| Attention { window, bidirectional: true, qk_norm: true, ..attention(4, 2, 10) };
    let ffn = Ffn { dim: 36, activation: Activation::Silu, bias: false };
    let layer = |window| Layer { ffn: Some(ffn.clone()), ..Layer::new(attention(window)) };
    Spec {
        family: "drafter".into(),
        drafter: Some(Drafter::Block(BlockDrafter { reads: vec![0, 0], block: 7, mask: 69 })),
        layers: [Some(5), None, Some(9)].map(layer).to_vec(),
        ..plain()
    }
}

/// A drafter of one token after another, of any of the models here that are as wide as [`plain`].
pub fn chain() -> Spec {
    let attention = Attention { qk_norm: true, out_gate: true, ..attention(4, 2, 10) };
    let ffn = Ffn { dim: 36, activation: Activation::Silu, bias: false };
    Spec {
        family: "chain".into(),
        drafter: Some(Drafter::Chain(ChainDrafter { chain: 4 })),
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }],
        ..plain()
    }
}

/// [`chain`] of latent attention, of more heads than any layer of [`latent`] has.
pub fn latent_chain() -> Spec {
    let mut spec = chain();
    let Mixer::Latent(first) = &latent().layers[0].mixer else {
        panic!("latent has a layer over latents first")
    };
    spec.layers[0].mixer = Mixer::Latent(LatentAttention { heads: 6, ..first.clone() });
    spec
}

/// A random model in a file that lives as long as this.
pub struct TinyFile {
    pub path: PathBuf,
    _dir: TempDir,
}

/// Writes a random model of `spec`, its matrices stored as `layout`.
pub fn write(spec: &Spec, layout: Layout, seed: u64) -> TinyFile {
    write_for(spec, layout, seed, "cpu")
}

/// [`write`], packed for `target`.
pub fn write_for(spec: &Spec, layout: Layout, seed: u64, target: &str) -> TinyFile {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tiny.muse");
    let mut writer = Writer::new(File::create(&path).unwrap()).unwrap();
    let mut rng = Rng(seed);
    for e in spec.tensors() {
        let half = spec.layers.iter().filter_map(|l| Some(l.rotation()?.1 / 2)).min().unwrap_or(0);
        let cols = if e.cols == 0 { u64::from(half) } else { e.cols };
        let layout = match e.role {
            Role::Vector => Layout::F32,
            Role::Router if layout.is_quantized() => Layout::F16,
            _ => layout,
        };
        writer.begin(&e.name, layout, e.rows, cols).unwrap();
        writer.write(&random_tensor(&mut rng, &e, layout, cols as usize)).unwrap();
        writer.end().unwrap();
    }
    let provenance = Provenance { target: target.into(), board: "test".into(), ..Provenance::default() };
    let meta = Meta {
        spec: spec.clone(),
        text: TextMeta::default(),
        generation: Generation { stop_ids: vec![1], ..Generation::default() },
        provenance,
        tokenizer: b"{}".to_vec(),
        chat_template: String::new(),
    };
    writer.finish(&meta).unwrap();
    TinyFile { path, _dir: dir }
}

/// Bytes as ids, modulo the vocabulary: these models have no words.
pub struct ByteText {
    pub vocab: u32,
    pub bos: Option<u32>,
}

pub fn byte_text(vocab: u32) -> Arc<dyn Text> {
    Arc::new(ByteText { vocab, bos: None })
}

impl Text for ByteText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        Ok(self.bos.into_iter().chain(text.bytes().map(|b| u32::from(b) % self.vocab)).collect())
    }

    fn encode_chat(&self, _: &[Message], _: &ChatOptions) -> Result<Vec<u32>, TextError> {
        Err(TextError::NoTemplate)
    }

    fn decoder(&self, _: bool) -> Box<dyn TextDecoder> {
        Box::new(IdsAsChars)
    }
}

/// Each id as a character of its own.
struct IdsAsChars;

impl TextDecoder for IdsAsChars {
    fn push(&mut self, id: u32) -> String {
        char::from_u32(0x4e00 + id).expect("small vocabularies").into()
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}

/// The logits of every row of one span, `(tokens, vocab)`.
pub fn step(engine: &mut dyn Engine, slot: u32, start: u32, tokens: &[u32]) -> Vec<f32> {
    let len = tokens.len() as u32;
    let mut logits = vec![f32::NAN; tokens.len() * engine.info().vocab as usize];
    let wanted: Vec<u32> = (0..len).collect();
    engine.step(&[Span { slot, start, len }], tokens, &wanted, &mut logits).unwrap();
    logits
}

/// [`step`] of all of `tokens` from position 0, `chunk` at a time.
pub fn steps(engine: &mut dyn Engine, slot: u32, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let chunks = tokens.chunks(chunk).enumerate();
    chunks.flat_map(|(i, chunk_of)| step(engine, slot, (i * chunk) as u32, chunk_of)).collect()
}

/// Largest difference, and the standard deviation of `expected`. NaN anywhere gives NaN.
pub fn difference(actual: &[f32], expected: &[f32]) -> (f64, f64) {
    assert_eq!(actual.len(), expected.len());
    let n = expected.len() as f64;
    let mean = expected.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let variance = expected.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let gaps = actual.iter().zip(expected).map(|(a, e)| f64::from(a - e).abs());
    (gaps.fold(0.0, |max, gap| if gap > max || gap.is_nan() { gap } else { max }), variance.sqrt())
}
