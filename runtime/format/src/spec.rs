//! What tells one decoder-only transformer from another, and nothing else.
//!
//! The importer of a family fills a [`Spec`]; the runtime's one graph reads it and never asks for a model's name.
//! What can be folded exactly into weights (a `1 + w` norm, a norm without weights, a RoPE scaling rule) is folded there
//! and has no field.
//!
//! Fields are only ever added. A new one is absent from files before it and then has the value that changes nothing,
//! which is not written either: files that do not need the field stay what they were.

use serde::{Deserialize, Serialize};

use crate::FormatError;

/// One decoder-only transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// For people: shown by `inspect`, never compared.
    pub family: String,
    /// Width of the residual stream.
    pub dim: u32,
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
    pub layers: Vec<Layer>,
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

/// One block: `x += [post_norm] attn(norm(x))`, then `x += [post_norm] ffn(norm(x))`, then what [`PerLayer`] adds, then
/// `x *= scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub attention: Attention,
    /// What every token gets; absent where there are only experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ffn: Option<Ffn>,
    /// What each token gets of a few of many, added to `ffn` where both are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// RMS norms on the output of both halves, before the residual sum.
    pub post_norms: bool,
    /// Epsilon of the post norms where it is not [`Spec::norm_eps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_norm_eps: Option<f32>,
    /// A factor on the residual stream after the layer: a tensor of one element.
    #[serde(default, skip_serializing_if = "is_false")]
    pub scaled: bool,
}

/// Grouped-query attention. Rotation is in the half-split order (element `i` pairs with `i + n/2`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Multiplies `q . k`.
    pub scale: f32,
    /// A query sees itself and the `window - 1` positions before it; `None` sees all.
    pub window: Option<u32>,
    /// Index of the rotation table; `None` for no position encoding.
    pub rope: Option<u32>,
    /// Weighted RMS norm of each query and key head before rotation.
    pub qk_norm: bool,
    /// RMS norm of each value head, with weights.
    #[serde(default, skip_serializing_if = "is_false")]
    pub v_norm: bool,
    /// An earlier layer whose keys and values are read in place of own ones; it has none then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_from: Option<u32>,
    /// Biases on the q, k and v projections.
    pub qkv_bias: bool,
    /// Gate on what attention reads, from the block's input: `out(mix * sigmoid(gate(x)))`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub out_gate: bool,
    /// Bias on the output projection.
    pub out_bias: bool,
    /// `cap * tanh(scores / cap)` before the softmax.
    pub softcap: Option<f32>,
}

/// Gated feed-forward: `down(act(gate(x)) * up(x))`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ffn {
    pub dim: u32,
    pub activation: Activation,
    /// Biases on gate, up and down.
    pub bias: bool,
}

/// Mixture of experts, each a gated feed-forward without biases. A router scores them for each token; those with the
/// highest score run, and their outputs are weighted with their scores and summed. Shazeer et al. 2017,
/// <https://arxiv.org/abs/1701.06538>.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    pub count: u32,
    /// Experts that a token runs through.
    pub used: u32,
    /// Hidden width of one expert.
    pub dim: u32,
    pub activation: Activation,
    pub score: Score,
    /// A vector that is added to scores to choose by, not to weight with.
    pub choice_bias: bool,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Multiplies the weights, after that.
    pub scale: f32,
}

/// What the products of a router become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// The softmax over all experts.
    Softmax,
    /// `1 / (1 + exp(-x))` of each.
    Sigmoid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// GELU, `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
}

const DIM_MAX: u32 = 1 << 20;
const LAYERS_MAX: usize = 1024;
const EXPERTS_MAX: u32 = 4096;
/// Tensors of all experts; the format's table has room for a few more.
const EXPERT_TENSORS_MAX: u64 = 1_000_000;

/// Whether a flag is left out of the file.
fn is_false(flag: &bool) -> bool {
    !flag
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
        let experts = |layer: &Layer| layer.experts.as_ref().map_or(0, |e| u64::from(e.count));
        let expert_tensors = 3 * self.layers.iter().map(experts).sum::<u64>();
        if expert_tensors > EXPERT_TENSORS_MAX {
            let (field, value) =
                ("layers[].experts.count".into(), format!("{expert_tensors} tensors in all"));
            return Err(FormatError::Spec { field, value, rule: "a model has at most 1000000 of them" });
        }
        self.layers.iter().enumerate().try_for_each(|(i, layer)| self.validate_layer(i, layer))
    }

    /// Width of the vectors of a token for all layers together; 0 where there are none.
    pub fn per_layer_width(&self) -> u32 {
        self.per_layer.as_ref().map_or(0, |e| self.layers.iter().map(|_| e.dim).sum())
    }

    fn validate_layer(&self, i: usize, layer: &Layer) -> Result<(), FormatError> {
        let a = &layer.attention;
        if let Some(ffn) = &layer.ffn {
            bounded(format!("layers[{i}].ffn.dim"), ffn.dim, DIM_MAX)?;
        }
        if let Some(experts) = &layer.experts {
            experts.validate(i)?;
        } else if layer.ffn.is_none() {
            let (field, rule) = (format!("layers[{i}].ffn"), "a layer has it, or experts, or both");
            return Err(FormatError::Spec { field, value: "absent".into(), rule });
        }
        bounded(format!("layers[{i}].heads"), a.heads, 4096)?;
        bounded(format!("layers[{i}].kv_heads"), a.kv_heads, 4096)?;
        bounded(format!("layers[{i}].head_dim"), a.head_dim, 4096)?;
        finite_positive(format!("layers[{i}].scale"), a.scale)?;
        if let Some(eps) = layer.post_norm_eps {
            finite_positive(format!("layers[{i}].post_norm_eps"), eps)?;
        }
        if let Some(window) = a.window {
            bounded(format!("layers[{i}].window"), window, 1 << 27)?;
        }
        if let Some(cap) = a.softcap {
            finite_positive(format!("layers[{i}].softcap"), cap)?;
        }
        let source = a.kv_from.map(|from| self.layers.get(from as usize).filter(|_| (from as usize) < i));
        let shares = |source: Option<&Layer>| {
            let b = source.map(|layer| &layer.attention);
            let shape = |a: &Attention| (a.kv_heads, a.head_dim, a.window);
            b.is_some_and(|b| b.kv_from.is_none() && shape(b) == shape(a))
        };
        let rule = match () {
            () if source.is_some_and(|source| !shares(source)) => {
                "kv_from must name an earlier layer of the same shape and window that has its own"
            }
            () if !a.heads.is_multiple_of(a.kv_heads) => "heads must be a multiple of kv_heads",
            () if !a.head_dim.is_multiple_of(2) => "head_dim must be even",
            () if a.rope.is_some_and(|r| r >= self.ropes) => "rope must name a rotation table",
            () => return Ok(()),
        };
        let value = format!(
            "{} heads, {} kv_heads, {} head_dim, rope {:?}, kv_from {:?}",
            a.heads, a.kv_heads, a.head_dim, a.rope, a.kv_from
        );
        Err(FormatError::Spec { field: format!("layers[{i}].attention"), value, rule })
    }
}

impl Experts {
    fn validate(&self, layer: usize) -> Result<(), FormatError> {
        let field = |name: &str| format!("layers[{layer}].experts.{name}");
        bounded(field("count"), self.count, EXPERTS_MAX)?;
        bounded(field("dim"), self.dim, DIM_MAX)?;
        finite_positive(field("scale"), self.scale)?;
        if !(1..=self.count).contains(&self.used) {
            let rule = "a token runs through at least one expert and at most all";
            return Err(FormatError::Spec { field: field("used"), value: self.used.to_string(), rule });
        }
        Ok(())
    }
}
