//! What a drafter takes beside its target.

use muse_format::{Drafter, Spec};
use muse_kernels::CacheShape;

use super::mixers::heads_shape;
use super::sizes::{
    BufferLens, Dims, Products, buffer_lens, cache_bytes, cache_shapes, experts_shape, widest_input,
};
use super::table::cache_items;
use super::{Item, PROPOSED_MAX};

/// Rows of a slot of which a chain's drafter keeps what its target gave: those of a step of as many as are proposed at most,
/// and the one in front of them, so that such a step may be made again.
pub(crate) const CHAIN_KEPT: u32 = PROPOSED_MAX + 2;

/// What is known of a drafter's file before it is loaded.
#[derive(Debug, Clone, Copy)]
pub struct DrafterFile<'a> {
    pub spec: &'a Spec,
    /// Bytes of its tensors.
    pub weight_bytes: u64,
}

/// A drafter of `spec` beside a target of `d`: rows for whole blocks, and no logits, as it borrows the target's head.
pub(super) fn beside(spec: &Spec, d: Dims) -> Dims {
    let block = match &spec.drafter {
        Some(Drafter::Block(block)) => block.block,
        Some(Drafter::Chain(_)) | None => 0,
    };
    let batch_tokens = d.batch_tokens.max(block);
    Dims { batch_tokens, logit_rows: 0, products: Products::default(), ..d }
}

/// Rows and width of its widest product, its experts, and its heads with products of their own.
pub(super) fn products(spec: &Spec, d: Dims) -> Products {
    let d = beside(spec, d);
    Products {
        rows: d.batch_tokens,
        width: widest_input(spec, d),
        experts: experts_shape(spec),
        heads: heads_shape(spec, Products::default()),
    }
}

/// Numbers of what it reads of its target and of what it makes of that before its layers.
#[derive(Debug, Clone, Copy)]
struct Read {
    hidden: u64,
    pairs: u64,
    pass: u64,
    /// Bytes of lists that say which rows meet which, and what they turn by.
    lists: u64,
}

impl Read {
    fn new(spec: &Spec, target: &Spec, d: Dims) -> Self {
        let [rows, slots, vocab] = [d.batch_tokens, d.slots, target.vocab].map(u64::from);
        let turns = target.vision.as_ref().is_some_and(|vision| vision.axes.is_some());
        let turned = if turns { rows } else { 0 };
        let width = |drafter: &Drafter| u64::from(drafter.width(spec.dim));
        match &spec.drafter {
            None => Self { hidden: 0, pairs: 0, pass: 0, lists: 0 },
            Some(drafter @ Drafter::Block(_)) => {
                Self { hidden: rows * width(drafter), pairs: 0, pass: 0, lists: 0 }
            }
            Some(drafter @ Drafter::Chain(_)) => Self {
                hidden: (rows + slots * u64::from(CHAIN_KEPT)) * u64::from(spec.dim),
                pairs: rows * width(drafter),
                pass: slots * vocab,
                // Four lists of rows and a span and a token of each slot, what is kept of it, and three numbers of what turns.
                lists: 16 * rows + (12 + 4 + 8) * slots + 12 * (turned + slots * u64::from(CHAIN_KEPT)),
            },
        }
    }
}

/// Bytes beside its weights, `target`'s rows read.
pub(super) fn working_bytes(spec: &Spec, target: &Spec, d: Dims) -> u128 {
    let (own, Read { hidden, pairs, pass, lists }) = (beside(spec, d), Read::new(spec, target, d));
    u128::from(buffer_lens(spec, own).byte_len() + 4 * (hidden + pairs + pass) + lists)
        + cache_bytes(spec, own)
}

/// What of a plan is a drafter's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DrafterPlan {
    /// Most rows of its blocks in one pass, and of a step that it takes in.
    pub rows: u32,
    pub buffers: BufferLens,
    /// One a layer.
    pub caches: Vec<CacheShape>,
    /// Numbers of what it reads of its target, of one step and what is kept of steps before.
    pub hidden: u64,
    /// Numbers of embeddings beside that, where it reads both.
    pub pairs: u64,
    /// Logits of one pass of a chain.
    pub pass: u64,
    lists: u64,
}

impl DrafterPlan {
    pub(super) fn new(spec: &Spec, target: &Spec, d: Dims) -> Self {
        let (own, Read { hidden, pairs, pass, lists }) = (beside(spec, d), Read::new(spec, target, d));
        Self {
            rows: own.batch_tokens,
            buffers: buffer_lens(spec, own),
            caches: cache_shapes(spec, own).collect(),
            hidden,
            pairs,
            pass,
            lists,
        }
    }

    /// Its lines of the table, weights aside.
    pub(super) fn items(&self, d: Dims) -> Vec<Item> {
        let of_drafter = |item: Item| Item { shape: format!("drafter, {}", item.shape), ..item };
        let line = |name: &str, rows: u32, len: u64| {
            let shape = format!("{name}: {rows} tokens x {} f32", len / u64::from(rows));
            of_drafter(Item { what: "activations", shape, bytes: 4 * len })
        };
        let own = self.buffers.rows().into_iter().filter(|(_, len)| *len > 0);
        let own = own.map(|(name, len)| line(name, self.rows, len));
        let kept = if self.pass > 0 { d.slots * CHAIN_KEPT } else { 0 };
        let read = line("what it reads", d.batch_tokens + kept, self.hidden);
        let chain = (self.pass > 0).then(|| {
            let shape = format!("{} rows x {} f32", d.slots, self.pass / u64::from(d.slots));
            let logits = of_drafter(Item { what: "logits", shape, bytes: 4 * self.pass });
            let shape = format!("lists of {} rows", d.batch_tokens);
            let lists = of_drafter(Item { what: "activations", shape, bytes: self.lists });
            [line("embeddings and what it reads", d.batch_tokens, self.pairs), logits, lists]
        });
        own.chain([read])
            .chain(chain.into_iter().flatten())
            .chain(cache_items(&self.caches, d.context).into_iter().map(of_drafter))
            .collect()
    }
}
