//! How wide a row is in the buffers that a layer's mixer uses, and what its cache keeps of a position.

use muse_format::{Indexer, LatentAttention, Layer, Mixer, Spec};
use muse_kernels::HeadsShape;

use super::sizes::Products;

/// Widths of rows; 0 for what a mixer does not use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Widths {
    pub q: u32,
    pub k: u32,
    pub v: u32,
    pub q_rope: u32,
    pub k_rope: u32,
    pub index_q: u32,
    pub index_k: u32,
    pub index_weight: u32,
    pub chosen: u32,
    pub mix: u32,
    pub gate: u32,
    pub up: u32,
    /// Of the widest input of a matrix product, or of attention.
    pub input: u32,
}

impl Widths {
    pub(super) fn of(layer: &Layer) -> Self {
        match &layer.mixer {
            Mixer::Attention(a) => {
                let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
                let gate = if a.out_gate { q } else { 0 };
                Self { q, k: kv, v: kv, mix: q, gate, input: q, ..Self::default() }
            }
            Mixer::DeltaNet(d) => {
                let (heads, values) = (d.value_heads, d.values());
                let input = values;
                Self {
                    q: d.channels(),
                    k: heads,
                    v: heads,
                    mix: values,
                    gate: values,
                    input,
                    ..Self::default()
                }
            }
            Mixer::Latent(a) => {
                let (q, values) = (a.heads * a.kept(), a.heads * a.value_dim);
                let rank = a.query_rank.unwrap_or(0);
                let indexer = layer.indexer();
                let of_index = |width: fn(&Indexer) -> u32| indexer.map_or(0, width);
                Self {
                    q,
                    k: a.kept(),
                    v: a.rank,
                    q_rope: a.heads * a.rope_dim,
                    k_rope: a.rope_dim,
                    index_q: of_index(|i| i.heads * i.head_dim),
                    index_k: of_index(|i| i.head_dim),
                    index_weight: of_index(|i| i.heads),
                    chosen: of_index(|i| i.top),
                    mix: q,
                    gate: values.max(rank),
                    up: a.heads * a.key_dim,
                    input: q.max(values).max(rank),
                }
            }
        }
    }

    /// The widest of all layers.
    pub(super) fn widest(spec: &Spec) -> Self {
        let wider = |a: Self, b: Self| Self {
            q: a.q.max(b.q),
            k: a.k.max(b.k),
            v: a.v.max(b.v),
            q_rope: a.q_rope.max(b.q_rope),
            k_rope: a.k_rope.max(b.k_rope),
            index_q: a.index_q.max(b.index_q),
            index_k: a.index_k.max(b.index_k),
            index_weight: a.index_weight.max(b.index_weight),
            chosen: a.chosen.max(b.chosen),
            mix: a.mix.max(b.mix),
            gate: a.gate.max(b.gate),
            up: a.up.max(b.up),
            input: a.input.max(b.input),
        };
        spec.layers.iter().map(Self::of).fold(Self::default(), wider)
    }
}

/// Heads and width of what a position keeps in a layer's cache; none where it has no cache of its own.
pub(super) fn kept(layer: &Layer) -> Option<(u32, u32)> {
    match &layer.mixer {
        Mixer::Attention(a) => a.kv_from.is_none().then_some((a.kv_heads, a.head_dim)),
        Mixer::Latent(a) => Some((1, a.kept())),
        Mixer::DeltaNet(_) => None,
    }
}

/// The most and widest heads with a product of their own, those of `others` among them; none where there are none.
pub(super) fn heads_shape(spec: &Spec, others: Products) -> Option<HeadsShape> {
    let of =
        |a: &LatentAttention| HeadsShape { heads: a.heads as usize, cols: a.key_dim.max(a.rank) as usize };
    let own = spec.layers.iter().filter_map(Layer::latent).map(of);
    own.chain(others.heads)
        .reduce(|a, b| HeadsShape { heads: a.heads.max(b.heads), cols: a.cols.max(b.cols) })
}
