//! What tells one transformer from another, and nothing else.
//!
//! The importer of a family fills a [`Spec`]; the runtime's one graph reads it and never asks for a model's name.
//! What can be folded exactly into weights (a `1 + w` norm, a norm without weights, a RoPE scaling rule) is folded there
//! and has no field.
//!
//! Fields are only ever added. A new one is absent from files before it and then has the value that changes nothing,
//! which is not written either: files that do not need the field stay what they were.

mod attention;
mod audio;
mod delta_net;
mod drafter;
mod embedding;
mod encoder;
mod feed_forward;
mod latent;
mod pixels;
mod sparse;
mod video;
mod vision;

use serde::{Deserialize, Serialize};

pub use self::attention::{Attention, Temperature};
pub use self::audio::{Audio, AudioStage};
pub use self::delta_net::{DELTA_KEY_DIM_MAX, DeltaNet};
pub use self::drafter::{BlockDrafter, ChainDrafter, Drafter};
pub use self::embedding::{Dense, Embedding, Pooling};
pub use self::encoder::Encoder;
pub use self::feed_forward::{Activation, Experts, Ffn, Score};
pub use self::latent::LatentAttention;
pub use self::pixels::{Fit, Given, Pixels, Resampling};
pub use self::sparse::{Indexer, Sparse};
pub use self::video::{Taken, Video};
pub use self::vision::{Join, Laid, Vision, VisionLayer};
use crate::FormatError;

/// One transformer: a decoder, or an encoder or a drafter where it says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// For people: shown by `inspect`, never compared.
    pub family: String,
    /// Width of the residual stream.
    pub dim: u32,
    /// Tokens; of a drafter, as many as its target must have at least.
    pub vocab: u32,
    /// Positions the model was trained for.
    pub context: u32,
    /// Multiplies a token's embedding.
    pub embed_scale: f32,
    /// RMS norm of a token's embedding, after `embed_scale`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub embed_norm: bool,
    /// Epsilon of every RMS norm but those of [`Layer::post_norm_eps`].
    pub norm_eps: f32,
    /// Multiplies the logits, before the soft cap.
    pub logit_scale: f32,
    /// `cap * tanh(logits / cap)`.
    pub logit_softcap: Option<f32>,
    /// True where the head is the embedding table and `head` is absent.
    pub tied_head: bool,
    /// A vector for each token and layer beside the residual stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_layer: Option<PerLayer>,
    /// Rotation tables, each a tensor `rope.{i}` of inverse frequencies (`head_dim / 2` at most).
    pub ropes: u32,
    /// What a text's vector is, of a model that embeds texts and writes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
    /// The layers are an encoder's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<Encoder>,
    /// The layers propose tokens of another model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafter: Option<Drafter>,
    pub layers: Vec<Layer>,
    /// What turns images into vectors in the place of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<Vision>,
    /// What turns sounds into vectors in the place of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<Audio>,
}

/// What each layer is given of a token besides the residual stream: a row of a table and a product of its embedding,
/// `e = scale * (table_scale * table[token] + norm(projection_scale * projection(embedding)))`, `dim` wide for each layer.
/// After its feed-forward a layer adds `norm(out(activation(gate(x)) * e))`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerLayer {
    pub dim: u32,
    pub table_scale: f32,
    pub projection_scale: f32,
    pub scale: f32,
    pub activation: Activation,
}

/// How a layer mixes a token with those before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixer {
    Attention(Attention),
    DeltaNet(DeltaNet),
    Latent(LatentAttention),
}

/// One block: `x += [post_norm] mixer(norm(x))`, then `x += [post_norm] ffn(norm(x))`, then what [`PerLayer`] adds, then
/// `x *= scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub mixer: Mixer,
    /// What every token gets; absent where there are only experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ffn: Option<Ffn>,
    /// What `ffn` gives is multiplied by `sigmoid(token_gate . x)`, one number a token, `x` what it was given.
    #[serde(default, skip_serializing_if = "is_false")]
    pub token_gate: bool,
    /// What each token gets of a few of many, added to `ffn` where both are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// RMS norms on the output of both halves, before the residual sum.
    pub post_norms: bool,
    /// Epsilon of the post norms where it is not [`Spec::norm_eps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_norm_eps: Option<f32>,
    /// A factor for each element of what the second half gives, before its post norm.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ffn_post_scale: bool,
    /// A factor for each element of the residual stream where a half is added to it: `x = keep * x + half(x)`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub residual_gates: bool,
    /// A factor on the residual stream after the layer: a tensor of one element.
    #[serde(default, skip_serializing_if = "is_false")]
    pub scaled: bool,
}

const DIM_MAX: u32 = 1 << 20;
const LAYERS_MAX: usize = 1024;
/// Tensors of all experts; the format's table has room for a few more.
const EXPERT_TENSORS_MAX: u64 = 1_000_000;

/// Whether a choice is left out of the file.
fn is_default<T: Default + PartialEq>(choice: &T) -> bool {
    *choice == T::default()
}

/// Whether a flag is left out of the file.
pub(crate) fn is_false(flag: &bool) -> bool {
    !flag
}

fn yes() -> bool {
    true
}

/// Whether a flag that is set where nothing is said is left out of the file.
fn is_yes(flag: &bool) -> bool {
    *flag
}

fn one() -> f32 {
    1.0
}

/// Whether a factor is left out of the file.
fn is_one(factor: &f32) -> bool {
    *factor == 1.0
}

fn bounded(field: impl Into<String>, value: u32, max: u32) -> Result<(), FormatError> {
    if value == 0 || value > max {
        let rule = "it must be at least 1 and within the format's bound";
        return Err(FormatError::Spec { field: field.into(), value: value.to_string(), rule });
    }
    Ok(())
}

fn finite_positive(field: impl Into<String>, value: f32) -> Result<(), FormatError> {
    if !(value.is_finite() && value > 0.0) {
        let rule = "it must be finite and above zero";
        return Err(FormatError::Spec { field: field.into(), value: value.to_string(), rule });
    }
    Ok(())
}

impl Spec {
    /// Checks every bound that the runtime's arithmetic relies on.
    ///
    /// # Errors
    /// [`FormatError::Spec`] with the field, its value and the rule.
    pub fn validate(&self) -> Result<(), FormatError> {
        bounded("dim", self.dim, DIM_MAX)?;
        bounded("vocab", self.vocab, 1 << 24)?;
        bounded("context", self.context, 1 << 27)?;
        finite_positive("embed_scale", self.embed_scale)?;
        finite_positive("norm_eps", self.norm_eps)?;
        finite_positive("logit_scale", self.logit_scale)?;
        if let Some(e) = &self.per_layer {
            bounded("per_layer.dim", e.dim, 1 << 16)?;
            finite_positive("per_layer.table_scale", e.table_scale)?;
            finite_positive("per_layer.projection_scale", e.projection_scale)?;
            finite_positive("per_layer.scale", e.scale)?;
        }
        if let Some(cap) = self.logit_softcap {
            finite_positive("logit_softcap", cap)?;
        }
        let layers = self.layers.len();
        if layers == 0 || layers > LAYERS_MAX {
            let rule = "a model has 1 to 1024 layers";
            return Err(FormatError::Spec { field: "layers".into(), value: layers.to_string(), rule });
        }
        if self.ropes > 64 {
            let rule = "a model has at most 64 rotation tables";
            return Err(FormatError::Spec { field: "ropes".into(), value: self.ropes.to_string(), rule });
        }
        if let Some(vision) = &self.vision {
            vision.validate(self.vocab)?;
        }
        if let Some(audio) = &self.audio {
            audio.validate(self)?;
        }
        let experts = |layer: &Layer| layer.experts.as_ref().map_or(0, |e| u64::from(e.count));
        let expert_tensors = 3 * self.layers.iter().map(experts).sum::<u64>();
        if expert_tensors > EXPERT_TENSORS_MAX {
            let (field, value) =
                ("layers[].experts.count".into(), format!("{expert_tensors} tensors in all"));
            return Err(FormatError::Spec { field, value, rule: "a model has at most 1000000 of them" });
        }
        self.layers.iter().enumerate().try_for_each(|(i, layer)| self.validate_layer(i, layer))?;
        if let Some(embedding) = &self.embedding {
            embedding.validate(self)?;
        }
        if let Some(drafter) = &self.drafter {
            drafter.validate(self)?;
        }
        self.encoder.as_ref().map_or(Ok(()), |encoder| encoder.validate(self))
    }

    /// What a token is embedded as where nothing takes its place: itself, or the blank of a tower that has it among its own.
    pub fn embedded_as(&self, token: u32) -> u32 {
        let vision = self.vision.iter().map(|vision| (&vision.blank_tokens, vision.blank));
        let audio = self.audio.iter().map(|audio| (&audio.blank_tokens, 0));
        let mut towers = vision.chain(audio);
        towers.find(|(blanks, _)| blanks.contains(&token)).map_or(token, |(_, blank)| blank)
    }

    /// Width of the vectors of a token for all layers together; 0 where there are none.
    pub fn per_layer_width(&self) -> u32 {
        self.per_layer.as_ref().map_or(0, |e| self.layers.iter().map(|_| e.dim).sum())
    }

    fn validate_layer(&self, i: usize, layer: &Layer) -> Result<(), FormatError> {
        if let Some(ffn) = &layer.ffn {
            bounded(format!("layers[{i}].ffn.dim"), ffn.dim, DIM_MAX)?;
        }
        if layer.token_gate && layer.ffn.is_none() {
            let (field, rule) = (format!("layers[{i}].token_gate"), "it gates a feed-forward");
            return Err(FormatError::Spec { field, value: "true".into(), rule });
        }
        if let Some(experts) = &layer.experts {
            experts.validate(i)?;
            if experts.own_norms && layer.ffn.is_none() {
                let (field, rule) =
                    (format!("layers[{i}].experts.own_norms"), "they are of experts beside a feed-forward");
                return Err(FormatError::Spec { field, value: "true".into(), rule });
            }
        } else if layer.ffn.is_none() {
            let (field, rule) = (format!("layers[{i}].ffn"), "a layer has it, or experts, or both");
            return Err(FormatError::Spec { field, value: "absent".into(), rule });
        }
        if let Some(eps) = layer.post_norm_eps {
            finite_positive(format!("layers[{i}].post_norm_eps"), eps)?;
        }
        match &layer.mixer {
            Mixer::Attention(attention) => attention.validate(i, self),
            Mixer::DeltaNet(delta_net) => delta_net.validate(i),
            Mixer::Latent(latent) => latent.validate(i, self),
        }
    }
}

impl Default for Spec {
    /// What every field is where a model does not say; sizes are 0, which [`validate`](Self::validate) refuses.
    fn default() -> Self {
        Self {
            family: String::new(),
            dim: 0,
            vocab: 0,
            context: 0,
            embed_scale: 1.0,
            embed_norm: false,
            norm_eps: 0.0,
            logit_scale: 1.0,
            logit_softcap: None,
            tied_head: false,
            per_layer: None,
            ropes: 0,
            embedding: None,
            encoder: None,
            drafter: None,
            layers: Vec::new(),
            vision: None,
            audio: None,
        }
    }
}

impl Layer {
    /// A layer of `attention` alone: every valid one has a feed-forward or experts besides.
    pub fn new(attention: Attention) -> Self {
        Self::of(Mixer::Attention(attention))
    }

    /// [`new`](Self::new) with any mixer.
    pub fn of(mixer: Mixer) -> Self {
        Self {
            mixer,
            ffn: None,
            token_gate: false,
            experts: None,
            post_norms: false,
            post_norm_eps: None,
            ffn_post_scale: false,
            residual_gates: false,
            scaled: false,
        }
    }

    /// Its attention, where that is what it mixes by.
    pub fn attention(&self) -> Option<&Attention> {
        match &self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::DeltaNet(_) | Mixer::Latent(_) => None,
        }
    }

    /// As [`attention`](Self::attention), to be changed.
    pub fn attention_mut(&mut self) -> Option<&mut Attention> {
        match &mut self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::DeltaNet(_) | Mixer::Latent(_) => None,
        }
    }

    /// Its gated DeltaNet, where that is what it mixes by.
    pub fn delta_net(&self) -> Option<&DeltaNet> {
        match &self.mixer {
            Mixer::DeltaNet(delta_net) => Some(delta_net),
            Mixer::Attention(_) | Mixer::Latent(_) => None,
        }
    }

    /// Its latent attention, where that is what it mixes by.
    pub fn latent(&self) -> Option<&LatentAttention> {
        match &self.mixer {
            Mixer::Latent(latent) => Some(latent),
            Mixer::Attention(_) | Mixer::DeltaNet(_) => None,
        }
    }

    /// Its rotation table, and the width of what that rotates, at most.
    pub fn rotation(&self) -> Option<(u32, u32)> {
        match &self.mixer {
            Mixer::Attention(attention) => Some((attention.rope?, attention.head_dim)),
            Mixer::Latent(latent) => Some((latent.rope, latent.rope_dim)),
            Mixer::DeltaNet(_) => None,
        }
    }
}
