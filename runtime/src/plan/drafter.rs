//! What a drafter takes beside its target.

use muse_format::Spec;
use muse_kernels::CacheShape;

use super::sizes::{BufferLens, Dims, Products, buffer_lens, cache_bytes, cache_shapes, widest_input};
use super::{Item, cache_items};

/// What is known of a drafter's file before it is loaded.
#[derive(Debug, Clone, Copy)]
pub struct DrafterFile<'a> {
    pub spec: &'a Spec,
    /// Bytes of its tensors.
    pub weight_bytes: u64,
}

/// A drafter of `spec` beside a target of `d`: rows for whole blocks, and no logits, as it borrows the target's head.
pub(super) fn beside(spec: &Spec, d: Dims) -> Dims {
    let block = spec.drafter.as_ref().map_or(0, |drafter| drafter.block);
    let batch_tokens = d.batch_tokens.max(block);
    Dims { batch_tokens, logit_rows: 0, products: Products::default(), ..d }
}

/// Rows and width of its widest product.
pub(super) fn products(spec: &Spec, d: Dims) -> Products {
    let d = beside(spec, d);
    Products { rows: d.batch_tokens, width: widest_input(spec, d) }
}

/// Numbers of the target's layers that it reads, of one step.
fn hidden_len(spec: &Spec, d: Dims) -> u64 {
    let width = spec.drafter.as_ref().map_or(0, |drafter| drafter.width(spec.dim));
    u64::from(d.batch_tokens) * u64::from(width)
}

/// Bytes beside its weights.
pub(super) fn working_bytes(spec: &Spec, d: Dims) -> u128 {
    let own = beside(spec, d);
    u128::from(buffer_lens(spec, own).byte_len() + 4 * hidden_len(spec, d)) + cache_bytes(spec, own)
}

/// What of a plan is a drafter's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DrafterPlan {
    /// Most rows of its blocks in one pass, and of a step that it takes in.
    pub rows: u32,
    pub buffers: BufferLens,
    /// One a layer.
    pub caches: Vec<CacheShape>,
    /// Numbers of the target's layers that it reads, of one step.
    pub hidden: u64,
}

impl DrafterPlan {
    pub(super) fn new(spec: &Spec, d: Dims) -> Self {
        let own = beside(spec, d);
        Self {
            rows: own.batch_tokens,
            buffers: buffer_lens(spec, own),
            caches: cache_shapes(spec, own).collect(),
            hidden: hidden_len(spec, d),
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
        let read = line("what it reads", d.batch_tokens, self.hidden);
        own.chain([read]).chain(cache_items(&self.caches, d.context).into_iter().map(of_drafter)).collect()
    }
}
