//! What most families share.

use muse_format::{Layer, Spec};

use super::{Config, Draft, Rope};
use crate::checkpoint::ImportError;

/// What every family here reads the same way.
pub(super) struct Common {
    pub dim: u32,
    pub vocab: u32,
    pub context: u32,
    pub layers: u32,
    pub heads: u32,
    pub ffn_dim: u32,
    pub norm_eps: f32,
}

impl Common {
    pub fn read(config: &Config<'_>) -> Result<Self, ImportError> {
        Self::with_ffn(config, "intermediate_size")
    }

    /// [`read`](Self::read), the width of the feed-forward under another key.
    pub fn with_ffn(config: &Config<'_>, ffn_dim: &str) -> Result<Self, ImportError> {
        let norm_eps = config.f64("rms_norm_eps")?;
        let norm_eps =
            norm_eps.ok_or_else(|| config.refuse("rms_norm_eps", "it must be a number above zero"))?;
        Ok(Self {
            dim: config.size("hidden_size", 1 << 20)?,
            vocab: config.size("vocab_size", 1 << 24)?,
            context: config.size("max_position_embeddings", 1 << 27)?,
            layers: config.size("num_hidden_layers", 1024)?,
            heads: config.size("num_attention_heads", 4096)?,
            ffn_dim: config.size(ffn_dim, 1 << 20)?,
            norm_eps: norm_eps as f32,
        })
    }

    /// `head_dim`, or what is left of the width for each head.
    pub fn head_dim(&self, config: &Config<'_>) -> Result<u32, ImportError> {
        config.size_or("head_dim", 4096, self.dim / self.heads)
    }

    /// A model around `layers` as Llama has it: plain embedding and logits, one rotation table.
    pub fn draft(&self, config: &Config<'_>, family: &str, layers: Vec<Layer>) -> Result<Draft, ImportError> {
        self.draft_with(config, family, layers, Rope::from_model(config, 10_000.0)?)
    }

    /// [`draft`](Self::draft) with a rotation table of the family's own.
    pub fn draft_with(
        &self,
        config: &Config<'_>,
        family: &str,
        layers: Vec<Layer>,
        rope: Rope,
    ) -> Result<Draft, ImportError> {
        let spec = Spec {
            family: family.into(),
            dim: self.dim,
            vocab: self.vocab,
            context: self.context,
            norm_eps: self.norm_eps,
            tied_head: config.bool("tie_word_embeddings", false)?,
            ropes: 1,
            layers,
            ..Spec::default()
        };
        Ok(Draft::new(spec, vec![rope]))
    }
}

/// The window of each layer: `layer_types` decides where it is there, else `slides`, by the layer's index.
pub(super) fn windows(
    config: &Config<'_>,
    layers: u32,
    window: Option<u32>,
    slides: impl Fn(u32) -> bool,
) -> Result<Vec<Option<u32>>, ImportError> {
    let rule = format!("it must hold {layers} times full_attention or sliding_attention");
    let sliding: Vec<bool> = match config.strings("layer_types")? {
        None => (0..layers).map(slides).collect(),
        Some(types) if types.len() == layers as usize => {
            let known = types.iter().map(|t| match *t {
                "sliding_attention" => Some(true),
                "full_attention" => Some(false),
                _ => None,
            });
            known.collect::<Option<_>>().ok_or_else(|| config.refuse("layer_types", rule))?
        }
        Some(_) => return Err(config.refuse("layer_types", rule)),
    };
    if sliding.contains(&true) && window.is_none() {
        return Err(config.refuse("sliding_window", "layers with sliding_attention need it"));
    }
    Ok(sliding.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

/// The names that Llama gave and most families kept.
pub(super) const LAYER: [(&str, &str); 15] = [
    ("attn.norm", "input_layernorm.weight"),
    ("attn.q", "self_attn.q_proj.weight"),
    ("attn.k", "self_attn.k_proj.weight"),
    ("attn.v", "self_attn.v_proj.weight"),
    ("attn.q_norm", "self_attn.q_norm.weight"),
    ("attn.k_norm", "self_attn.k_norm.weight"),
    ("attn.out", "self_attn.o_proj.weight"),
    ("ffn.norm", "post_attention_layernorm.weight"),
    ("ffn.gate", "mlp.gate_proj.weight"),
    ("ffn.up", "mlp.up_proj.weight"),
    ("ffn.down", "mlp.down_proj.weight"),
    ("experts.router", "mlp.gate.weight"),
    ("experts.*.gate", "mlp.experts.*.gate_proj.weight"),
    ("experts.*.up", "mlp.experts.*.up_proj.weight"),
    ("experts.*.down", "mlp.experts.*.down_proj.weight"),
];
