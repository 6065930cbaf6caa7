//! Models that propose what another one says next.

use serde::{Deserialize, Serialize};

use super::{DIM_MAX, Layer, Spec, bounded};
use crate::{FormatError, Role};

/// Most rows of a block.
const BLOCK_MAX: u32 = 64;
/// Most layers of the target that are read.
const READS_MAX: usize = 64;

/// A block-diffusion drafter (DFlash, Chen et al. 2026, <https://arxiv.org/abs/2602.06036>): it proposes tokens of another
/// model, its target, of whose layers it reads the outputs. It has neither a table nor a head: it takes the target's.
///
/// Each position's keys and values of a layer are made of `norm(into * outputs)`, the target's layers one behind the other,
/// and of no row of its own. To propose, the last token and `block - 1` times `mask` are run through the layers behind
/// those positions, every row seeing all of the block; what a row of a mask gives to the target's head is the token there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drafter {
    /// Layers of the target, in the order in which `into` reads their outputs.
    pub reads: Vec<u32>,
    /// Rows of a block: the last token and one for each token that is proposed.
    pub block: u32,
    /// The token that stands for one that is not known yet.
    pub mask: u32,
}

impl Drafter {
    /// Numbers of a position that it reads, of a target that is `dim` wide.
    pub fn width(&self, dim: u32) -> u32 {
        self.reads.iter().map(|_| dim).sum()
    }

    /// Most tokens that it proposes at once.
    pub fn length_max(&self) -> u32 {
        self.block - 1
    }

    /// Shows `add` the role, name, rows and columns of one tensor after another until it fails.
    pub(crate) fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, String, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        add(Role::Matrix, "drafter.into".into(), dim, self.width(dim))?;
        add(Role::Vector, "drafter.norm".into(), 1, dim)
    }

    pub(super) fn validate(&self, spec: &Spec) -> Result<(), FormatError> {
        let refuse = |field: &str, value: String, rule| {
            Err(FormatError::Spec { field: field.to_owned(), value, rule })
        };
        if !(1..=READS_MAX).contains(&self.reads.len()) {
            return refuse("drafter.reads", self.reads.len().to_string(), "it reads 1 to 64 layers");
        }
        // No product is wider than this, and so is none of a target.
        let width = u64::from(spec.dim) * self.reads.len() as u64;
        if width > u64::from(DIM_MAX) {
            let rule = "layers times dim must be 1048576 at most";
            return refuse("drafter.reads", format!("{} of {}", self.reads.len(), spec.dim), rule);
        }
        bounded("drafter.block", self.block, BLOCK_MAX)?;
        if self.block < 2 {
            return refuse("drafter.block", self.block.to_string(), "a block has at least one mask");
        }
        if self.mask >= spec.vocab {
            let value = format!("{} of {} tokens", self.mask, spec.vocab);
            return refuse("drafter.mask", value, "it must be a token");
        }
        let plain = |layer: &Layer| {
            let known = Layer { ffn: layer.ffn.clone(), ..Layer::of(layer.mixer.clone()) };
            let own = |a: &super::Attention| {
                a.bidirectional && a.kv_from.is_none() && a.chunk.is_none() && a.temperature.is_none()
            };
            *layer == known && layer.attention().is_some_and(own)
        };
        if !spec.layers.iter().all(plain) {
            let rule = "a drafter's layers are of attention to both sides, with keys and values of their own, and a \
                        feed-forward";
            return refuse("layers", "of another kind".into(), rule);
        }
        let others = spec.embed_norm
            || !spec.tied_head
            || spec.per_layer.is_some()
            || spec.embedding.is_some()
            || spec.encoder.is_some()
            || spec.vision.is_some();
        if others {
            return refuse("drafter", "with parts of a model".into(), "a drafter has layers alone");
        }
        Ok(())
    }
}
