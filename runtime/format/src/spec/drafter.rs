//! Models that propose what another one says next.

use serde::{Deserialize, Serialize};

use super::{Attention, DIM_MAX, Layer, Mixer, Spec, bounded};
use crate::{FormatError, Role};

/// Most rows of a block.
const BLOCK_MAX: u32 = 64;
/// Most layers of the target that are read.
const READS_MAX: usize = 64;
/// Most tokens of a chain.
const CHAIN_MAX: u32 = 16;

/// A drafter: it proposes tokens of another model, its target, and has neither a table nor a head: it takes the target's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Drafter {
    Block(BlockDrafter),
    Chain(ChainDrafter),
}

/// Block diffusion (DFlash, Chen et al. 2026, <https://arxiv.org/abs/2602.06036>): all tokens of a proposal in one pass.
///
/// Each position's keys and values of a layer are made of `norm(into * outputs)`, the target's layers one behind the other,
/// and of no row of its own. To propose, the last token and `block - 1` times `mask` are run through the layers behind
/// those positions, every row seeing all of the block; what a row of a mask gives to the target's head is the token there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockDrafter {
    /// Layers of the target, in the order in which `into` reads their outputs.
    pub reads: Vec<u32>,
    /// Rows of a block: the last token and one for each token that is proposed.
    pub block: u32,
    /// The token that stands for one that is not known yet.
    pub mask: u32,
}

/// Prediction of the token after the next (Gloeckle et al. 2024, <https://arxiv.org/abs/2404.19737>; one token after another
/// as DeepSeek-AI 2024, <https://arxiv.org/abs/2412.19437>): each token of a proposal in a pass of its own.
///
/// The row of a position reads what the target gave there, behind its last norm, and the token of the next position:
/// `into * [embed_norm(embedding), norm(given)]` goes through the layers, whose caches have a place for each position of the
/// target. What they give, normed, is for the target's head, and is what the next row reads in the place of the target's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainDrafter {
    /// Most tokens that it proposes at once.
    pub chain: u32,
}

impl Drafter {
    /// Layers of the target of which it reads the outputs, beside what the last norm gives.
    pub fn reads(&self) -> &[u32] {
        match self {
            Self::Block(block) => &block.reads,
            Self::Chain(_) => &[],
        }
    }

    /// Numbers of a position that `into` reads, of a target that is `dim` wide.
    pub fn width(&self, dim: u32) -> u32 {
        match self {
            Self::Block(block) => block.reads.iter().map(|_| dim).sum(),
            Self::Chain(_) => 2 * dim,
        }
    }

    /// Positions of a proposal, the last token's included.
    pub fn block(&self) -> u32 {
        match self {
            Self::Block(block) => block.block,
            Self::Chain(chain) => 1 + chain.chain,
        }
    }

    /// Most tokens that it proposes at once.
    pub fn length_max(&self) -> u32 {
        self.block() - 1
    }

    /// Shows `add` the role, name, rows and columns of one tensor after another until it fails.
    pub(crate) fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, String, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        add(Role::Matrix, "drafter.into".into(), dim, self.width(dim))?;
        add(Role::Vector, "drafter.norm".into(), 1, dim)?;
        match self {
            Self::Block(_) => Ok(()),
            Self::Chain(_) => add(Role::Vector, "drafter.embed_norm".into(), 1, dim),
        }
    }

    pub(super) fn validate(&self, spec: &Spec) -> Result<(), FormatError> {
        match self {
            Self::Block(block) => block.validate(spec)?,
            Self::Chain(chain) => chain.validate(spec)?,
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

fn refuse(field: &str, value: String, rule: &'static str) -> Result<(), FormatError> {
    Err(FormatError::Spec { field: field.to_owned(), value, rule })
}

impl BlockDrafter {
    fn validate(&self, spec: &Spec) -> Result<(), FormatError> {
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
            let own = |a: &Attention| {
                a.bidirectional && a.kv_from.is_none() && a.chunk.is_none() && a.temperature.is_none()
            };
            *layer == known && layer.attention().is_some_and(own)
        };
        if !spec.layers.iter().all(plain) {
            let rule = "a drafter's layers are of attention to both sides, with keys and values of their own, and a \
                        feed-forward";
            return refuse("layers", "of another kind".into(), rule);
        }
        Ok(())
    }
}

impl ChainDrafter {
    fn validate(&self, spec: &Spec) -> Result<(), FormatError> {
        bounded("drafter.chain", self.chain, CHAIN_MAX)?;
        if spec.dim > DIM_MAX / 2 {
            return refuse("drafter.chain", format!("{} wide", spec.dim), "dim must be 524288 at most");
        }
        let [layer] = spec.layers.as_slice() else {
            let rule = "a chain's tokens go through one layer each";
            return refuse("layers", spec.layers.len().to_string(), rule);
        };
        let plain = Layer {
            ffn: layer.ffn.clone(),
            token_gate: layer.token_gate,
            experts: layer.experts.clone(),
            ..Layer::of(layer.mixer.clone())
        };
        // Positions that went through a pass in vain are written again, which a ring would not outlive.
        let whole = |a: &Attention| {
            !a.bidirectional && a.window.is_none() && a.chunk.is_none() && a.temperature.is_none()
        };
        let whole = match &layer.mixer {
            Mixer::Attention(attention) => whole(attention),
            Mixer::Latent(latent) => latent.sparse.is_none(),
            Mixer::DeltaNet(_) => false,
        };
        if *layer != plain || !whole {
            let rule = "a chain's layer is of attention to all that lies before, a feed-forward and experts";
            return refuse("layers", "of another kind".into(), rule);
        }
        Ok(())
    }
}
