//! How a token reads those before it.

use serde::{Deserialize, Serialize};

use super::{Layer, Spec, bounded, finite_positive, is_false};
use crate::FormatError;

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
    /// A query sees what lies before it in its own chunk: positions are cut into chunks of so many, from the first on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// A query sees as many positions after it as before it: texts are read whole and cannot be continued, and a block of a
    /// drafter is.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bidirectional: bool,
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
    /// RMS norm of what each head reads, with weights, before `out_gate`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mix_norm: bool,
    /// Gate on what attention reads, from the block's input: `out(mix * sigmoid(gate(x)))`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub out_gate: bool,
    /// Bias on the output projection.
    pub out_bias: bool,
    /// `cap * tanh(scores / cap)` before the softmax.
    pub softcap: Option<f32>,
    /// Queries grow with their position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Temperature>,
}

/// A query at `position` is multiplied by `1 + strength * ln(1 + floor((position + 1) / every))`, so that attention stays
/// sharp over long texts. Nakanishi 2025, <https://arxiv.org/abs/2501.19399>.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperature {
    /// Positions.
    pub every: u32,
    pub strength: f32,
}

impl Attention {
    /// Heads of `head_dim` with `scale = head_dim^-1/2`, and nothing of what is optional.
    #[allow(clippy::cast_possible_truncation)] // rounds
    pub fn new(heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        Self {
            heads,
            kv_heads,
            head_dim,
            scale: f64::from(head_dim).powf(-0.5) as f32,
            window: None,
            chunk: None,
            bidirectional: false,
            rope: None,
            qk_norm: false,
            v_norm: false,
            kv_from: None,
            qkv_bias: false,
            mix_norm: false,
            out_gate: false,
            out_bias: false,
            softcap: None,
            temperature: None,
        }
    }

    /// The most positions that a query sees, itself included; `None` for all.
    pub fn reach(&self) -> Option<u32> {
        self.window.or(self.chunk)
    }

    /// Checks what layer `i` of `spec` says of itself.
    pub(super) fn validate(&self, i: usize, spec: &Spec) -> Result<(), FormatError> {
        let field = |name: &str| format!("layers[{i}].{name}");
        bounded(field("heads"), self.heads, 4096)?;
        bounded(field("kv_heads"), self.kv_heads, 4096)?;
        bounded(field("head_dim"), self.head_dim, 4096)?;
        finite_positive(field("scale"), self.scale)?;
        if let Some(window) = self.window {
            bounded(field("window"), window, 1 << 27)?;
        }
        if let Some(chunk) = self.chunk {
            bounded(field("chunk"), chunk, 1 << 27)?;
        }
        if let Some(temperature) = self.temperature {
            bounded(field("temperature.every"), temperature.every, 1 << 27)?;
            finite_positive(field("temperature.strength"), temperature.strength)?;
        }
        if let Some(cap) = self.softcap {
            finite_positive(field("softcap"), cap)?;
        }
        let source = self.kv_from.map(|from| spec.layers.get(from as usize).filter(|_| (from as usize) < i));
        let shares = |source: Option<&Layer>| {
            let shape = |a: &Attention| (a.kv_heads, a.head_dim, a.window, a.chunk);
            let b = source.and_then(Layer::attention);
            b.is_some_and(|b| b.kv_from.is_none() && shape(b) == shape(self))
        };
        let rule = match () {
            () if source.is_some_and(|source| !shares(source)) => {
                "kv_from must name an earlier layer of the same shape and window that has its own"
            }
            () if self.bidirectional && spec.embedding.is_none() && spec.drafter.is_none() => {
                "only a model that embeds texts and a drafter may see what follows"
            }
            () if self.chunk.is_some() && (self.window.is_some() || self.bidirectional) => {
                "chunks are of attention to all that lies before, in place of a window"
            }
            () if !self.heads.is_multiple_of(self.kv_heads) => "heads must be a multiple of kv_heads",
            () if !self.head_dim.is_multiple_of(2) => "head_dim must be even",
            () if self.rope.is_some_and(|r| r >= spec.ropes) => "rope must name a rotation table",
            () => return Ok(()),
        };
        let value = format!(
            "{} heads, {} kv_heads, {} head_dim, rope {:?}, kv_from {:?}",
            self.heads, self.kv_heads, self.head_dim, self.rope, self.kv_from
        );
        Err(FormatError::Spec { field: field("attention"), value, rule })
    }
}
