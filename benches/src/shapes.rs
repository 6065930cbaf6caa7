//! The shapes of published models, for measuring without their weights.

use muse_format::{
    Activation, Attention, DeltaNet, Experts, Ffn, LatentAttention, Layer, Mixer, Score, Spec,
};

/// A published model's dimensions, from its `config.json`.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    dim: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    ffn: u32,
    vocab: u32,
    context: u32,
    tied: bool,
    kind: Kind,
}

/// What the families differ in beyond numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Llama,
    Qwen2,
    Qwen3,
    /// Experts in place of the feed-forward; `ffn` is the width of one.
    Qwen3Moe {
        count: u32,
        used: u32,
    },
    /// Attention with a gated output on each fourth layer, gated DeltaNet on the others, with so many heads of values.
    Qwen35 {
        value_heads: u32,
    },
    /// [`Qwen35`](Self::Qwen35) with experts of width `ffn` beside a shared one on every layer.
    Qwen35Moe {
        value_heads: u32,
        count: u32,
        used: u32,
    },
    /// Muse Glimmer's windows; experts of hidden width `ffn` that run at a width of their own, and gates.
    MuseSpark {
        count: u32,
        used: u32,
        latent: u32,
    },
    /// Latent attention whose heads' values are `head_dim` wide; experts of width `ffn` beside a shared one on every layer
    /// but the first, whose feed-forward is `dense` wide.
    Glm4MoeLite {
        count: u32,
        used: u32,
        dense: u32,
    },
    /// A window of 512 on five of six layers.
    Gemma3,
    /// A window of 2048 on three of four layers, counted from the last; the fourth sees all and does not rotate.
    MuseGlimmer,
}

impl Kind {
    /// The window of layer `i` of `layers`; `None` where it sees all.
    fn window(self, i: u32, layers: u32) -> Option<u32> {
        match self {
            Self::Llama | Self::Qwen2 | Self::Qwen3 | Self::Qwen3Moe { .. } => None,
            Self::Qwen35 { .. } | Self::Qwen35Moe { .. } | Self::Glm4MoeLite { .. } => None,
            Self::Gemma3 => (!(i + 1).is_multiple_of(6)).then_some(512),
            Self::MuseGlimmer | Self::MuseSpark { .. } => {
                (!(layers - 1 - i).is_multiple_of(4)).then_some(2048)
            }
        }
    }

    /// The rotation table of a layer with this window.
    fn rope(self, window: Option<u32>) -> Option<u32> {
        match self {
            Self::Llama | Self::Qwen2 | Self::Qwen3 | Self::Qwen3Moe { .. } => Some(0),
            Self::Qwen35 { .. } | Self::Qwen35Moe { .. } | Self::Glm4MoeLite { .. } => Some(0),
            Self::Gemma3 => Some(u32::from(window.is_some())),
            Self::MuseGlimmer | Self::MuseSpark { .. } => window.map(|_| 0),
        }
    }
}

impl Kind {
    /// Heads of values of a gated DeltaNet, where layers have one.
    fn value_heads(self) -> Option<u32> {
        match self {
            Self::Qwen35 { value_heads } | Self::Qwen35Moe { value_heads, .. } => Some(value_heads),
            _ => None,
        }
    }

    /// What layer `i` mixes by in place of attention.
    fn delta_net(self, i: u32) -> Option<DeltaNet> {
        let value_heads = self.value_heads().filter(|_| !(i + 1).is_multiple_of(4))?;
        Some(DeltaNet { key_heads: 16, value_heads, key_dim: 128, value_dim: 128, taps: 4 })
    }
}

#[rustfmt::skip]
pub const SHAPES: &[Shape] = &[
    Shape { name: "smollm2-135m", dim: 576,  layers: 30, heads: 9,  kv_heads: 3, head_dim: 64,  ffn: 1536,  vocab: 49152,  context: 8192,   tied: true,  kind: Kind::Llama },
    Shape { name: "llama3.2-1b",  dim: 2048, layers: 16, heads: 32, kv_heads: 8, head_dim: 64,  ffn: 8192,  vocab: 128256, context: 131072, tied: true,  kind: Kind::Llama },
    Shape { name: "llama3.1-8b",  dim: 4096, layers: 32, heads: 32, kv_heads: 8, head_dim: 128, ffn: 14336, vocab: 128256, context: 131072, tied: false, kind: Kind::Llama },
    Shape { name: "qwen2.5-0.5b", dim: 896,  layers: 24, heads: 14, kv_heads: 2, head_dim: 64,  ffn: 4864,  vocab: 151936, context: 32768,  tied: true,  kind: Kind::Qwen2 },
    Shape { name: "qwen3-0.6b",   dim: 1024, layers: 28, heads: 16, kv_heads: 8, head_dim: 128, ffn: 3072,  vocab: 151936, context: 40960,  tied: true,  kind: Kind::Qwen3 },
    Shape { name: "qwen3-1.7b",   dim: 2048, layers: 28, heads: 16, kv_heads: 8, head_dim: 128, ffn: 6144,  vocab: 151936, context: 40960,  tied: true,  kind: Kind::Qwen3 },
    Shape { name: "qwen3-4b",     dim: 2560, layers: 36, heads: 32, kv_heads: 8, head_dim: 128, ffn: 9728,  vocab: 151936, context: 40960,  tied: true,  kind: Kind::Qwen3 },
    Shape { name: "qwen3-8b",     dim: 4096, layers: 36, heads: 32, kv_heads: 8, head_dim: 128, ffn: 12288, vocab: 151936, context: 40960,  tied: false, kind: Kind::Qwen3 },
    Shape { name: "qwen3-30b",    dim: 2048, layers: 48, heads: 32, kv_heads: 4, head_dim: 128, ffn: 768,   vocab: 151936, context: 40960,  tied: false, kind: Kind::Qwen3Moe { count: 128, used: 8 } },
    Shape { name: "qwen3.5-0.8b", dim: 1024, layers: 24, heads: 8,  kv_heads: 2, head_dim: 256, ffn: 3584,  vocab: 248320, context: 262144, tied: true,  kind: Kind::Qwen35 { value_heads: 16 } },
    Shape { name: "qwen3.5-4b",   dim: 2560, layers: 32, heads: 16, kv_heads: 4, head_dim: 256, ffn: 9216,  vocab: 248320, context: 262144, tied: true,  kind: Kind::Qwen35 { value_heads: 32 } },
    Shape { name: "qwen3.5-9b",   dim: 4096, layers: 32, heads: 16, kv_heads: 4, head_dim: 256, ffn: 12288, vocab: 248320, context: 262144, tied: false, kind: Kind::Qwen35 { value_heads: 32 } },
    Shape { name: "qwen3.5-27b",  dim: 5120, layers: 64, heads: 24, kv_heads: 4, head_dim: 256, ffn: 17408, vocab: 248320, context: 262144, tied: false, kind: Kind::Qwen35 { value_heads: 48 } },
    Shape { name: "qwen3.5-35b",  dim: 2048, layers: 40, heads: 16, kv_heads: 2, head_dim: 256, ffn: 512,   vocab: 248320, context: 262144, tied: false, kind: Kind::Qwen35Moe { value_heads: 32, count: 256, used: 8 } },
    Shape { name: "glm-4.7-flash-30b", dim: 2048, layers: 47, heads: 20, kv_heads: 20, head_dim: 256, ffn: 1536, vocab: 154880, context: 202752, tied: false, kind: Kind::Glm4MoeLite { count: 64, used: 4, dense: 10240 } },
    Shape { name: "gemma3-270m",  dim: 640,  layers: 18, heads: 4,  kv_heads: 1, head_dim: 256, ffn: 2048,  vocab: 262144, context: 32768,  tied: true,  kind: Kind::Gemma3 },
    Shape { name: "gemma3-1b",    dim: 1152, layers: 26, heads: 4,  kv_heads: 1, head_dim: 256, ffn: 6912,  vocab: 262144, context: 32768,  tied: true,  kind: Kind::Gemma3 },
    Shape { name: "muse-glimmer-30b", dim: 6656, layers: 52, heads: 32, kv_heads: 2, head_dim: 128, ffn: 19968, vocab: 202048, context: 131072, tied: false, kind: Kind::MuseGlimmer },
    Shape { name: "muse-spark-816b",  dim: 8192, layers: 62, heads: 128, kv_heads: 16, head_dim: 64, ffn: 4096, vocab: 202048, context: 1048576, tied: false, kind: Kind::MuseSpark { count: 256, used: 8, latent: 4096 } },
];

/// The shape of that name.
pub fn find(name: &str) -> Option<Shape> {
    SHAPES.iter().copied().find(|shape| shape.name == name)
}

impl Shape {
    /// The spec that an importer would make of it.
    pub fn spec(&self) -> Spec {
        let (gemma, spark) = (self.kind == Kind::Gemma3, matches!(self.kind, Kind::MuseSpark { .. }));
        let muse = spark || self.kind == Kind::MuseGlimmer;
        let logit_scale = if spark { 0.176_776_7 } else { 0.196_116_13 };
        let activation = if gemma { Activation::GeluTanh } else { Activation::Silu };
        let experts = match self.kind {
            Kind::Qwen3Moe { count, used } | Kind::Qwen35Moe { count, used, .. } => {
                Some(Experts { normalise: true, ..Experts::new(count, used, self.ffn) })
            }
            Kind::MuseSpark { count, used, latent } => Some(Experts {
                latent: Some(latent),
                logit_scale,
                score: Score::Sigmoid,
                choice_bias: true,
                normalise: true,
                each_norm_eps: Some(1e-8),
                ..Experts::new(count, used, self.ffn)
            }),
            Kind::Glm4MoeLite { count, used, .. } => Some(Experts {
                score: Score::Sigmoid,
                choice_bias: true,
                normalise: true,
                scale: 1.8,
                ..Experts::new(count, used, self.ffn)
            }),
            _ => None,
        };
        let (recurrent, gated) =
            (self.kind.value_heads().is_some(), matches!(self.kind, Kind::Qwen35Moe { .. }));
        let dense = match self.kind {
            Kind::Glm4MoeLite { dense, .. } => Some(dense),
            _ => None,
        };
        let shared = gated || dense.is_some();
        let layer = |i: u32| {
            let window = self.kind.window(i, self.layers);
            let attention = Attention {
                window,
                rope: self.kind.rope(window),
                qk_norm: gemma
                    || muse
                    || recurrent
                    || matches!(self.kind, Kind::Qwen3 | Kind::Qwen3Moe { .. }),
                qkv_bias: self.kind == Kind::Qwen2,
                mix_norm: spark,
                out_gate: muse || recurrent,
                ..Attention::new(self.heads, self.kv_heads, self.head_dim)
            };
            let mixer = match dense {
                Some(_) => Mixer::Latent(self.latent()),
                None => self.kind.delta_net(i).map_or(Mixer::Attention(attention), Mixer::DeltaNet),
            };
            let dense = dense.filter(|_| i == 0);
            Layer {
                ffn: (shared || experts.is_none()).then_some(Ffn {
                    dim: dense.unwrap_or(self.ffn),
                    activation,
                    bias: false,
                }),
                token_gate: gated,
                experts: experts.clone().filter(|_| dense.is_none()),
                post_norms: gemma || muse,
                post_norm_eps: muse.then_some(1e-8),
                ffn_post_scale: spark,
                residual_gates: spark,
                ..Layer::of(mixer)
            }
        };
        Spec {
            family: self.name.into(),
            dim: self.dim,
            vocab: self.vocab,
            context: self.context,
            embed_scale: if gemma { (self.dim as f32).sqrt() } else { 1.0 },
            embed_norm: muse,
            norm_eps: if muse { 1e-5 } else { 1e-6 },
            logit_scale: if muse { logit_scale } else { 1.0 },
            logit_softcap: muse.then_some(20.0),
            tied_head: self.tied,
            ropes: if gemma { 2 } else { 1 },
            layers: (0..self.layers).map(layer).collect(),
            ..Spec::default()
        }
    }
}

impl Shape {
    /// Of GLM-4.7-Flash: a quarter of a head is rotated.
    fn latent(&self) -> LatentAttention {
        LatentAttention {
            heads: self.heads,
            query_rank: Some(768),
            rank: 512,
            key_dim: self.head_dim * 3 / 4,
            rope_dim: self.head_dim / 4,
            value_dim: self.head_dim,
            scale: (self.head_dim as f32).sqrt().recip(),
            rope: 0,
            norm_eps: 1e-6,
            bias: false,
            sparse: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_a_valid_spec_of_the_size_in_its_name() {
        for shape in SHAPES {
            let spec = shape.spec();
            spec.validate().unwrap();
            let weights: u64 = spec.tensors().iter().map(|t| t.rows * t.cols).sum();
            let (_, size) = shape.name.rsplit_once('-').unwrap();
            let unit = if size.ends_with('m') { 1e6 } else { 1e9 };
            let named = unit * size[..size.len() - 1].parse::<f64>().unwrap();
            // Names round, and Llama's leave a fifth of the embedding out.
            let ratio = weights as f64 / named;
            assert!((0.85..=1.26).contains(&ratio), "{}: {weights} weights", shape.name);
        }
    }
}
