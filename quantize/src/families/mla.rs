//! Multi-head latent attention as DeepSeek's models write it down: which config keys say its sizes, and which rows of
//! their tensors are which of ours.

use muse_format::{LatentAttention, Layer, Mixer, Sparse};
use serde_json::Value;

use super::{Blocks, Common, Config, Draft, Pairs, Rows, Transform};
use crate::checkpoint::ImportError;

/// Rows of a tensor of theirs that are one of ours.
pub(super) struct Part {
    pub theirs: String,
    /// Rows and columns of theirs.
    pub shape: (usize, usize),
    pub rows: Rows,
    pub transform: Transform,
}

/// The sizes that the config says. Norms of latents have an epsilon that it does not say.
pub(super) fn read(config: &Config<'_>, common: &Common) -> Result<LatentAttention, ImportError> {
    let size = |key| config.size(key, 4096);
    let (key_dim, rope_dim) = (size("qk_nope_head_dim")?, size("qk_rope_head_dim")?);
    config.only("num_key_value_heads", &[common.heads.into()], "every head has keys of its own")?;
    // Both follow from others.
    config.only("head_dim", &[rope_dim.into()], "it must be qk_rope_head_dim")?;
    let sum = key_dim + rope_dim;
    config.only("qk_head_dim", &[sum.into()], "it must be qk_nope_head_dim + qk_rope_head_dim")?;
    let rank = size("kv_lora_rank")?;
    let direct = config.is_null("q_lora_rank");
    Ok(LatentAttention {
        heads: common.heads,
        query_rank: if direct { None } else { Some(config.size("q_lora_rank", 1 << 16)?) },
        rank,
        key_dim,
        rope_dim,
        value_dim: size("v_head_dim")?,
        scale: f64::from(sum).powf(-0.5) as f32,
        rope: 0,
        norm_eps: 1e-6,
        bias: config.bool("attention_bias", false)?,
        sparse: None,
    })
}

/// What says that experts are chosen as they are here.
pub(super) fn only_sigmoids_choose(config: &Config<'_>) -> Result<(), ImportError> {
    for (key, value) in [("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")] {
        config.only(key, &[Value::from(value)], "experts are chosen by sigmoids with a bias")?;
    }
    Ok(())
}

/// Says which parts of theirs the mixers of `draft` are made of; the first layer is theirs of number `first`; pairs are
/// side by side where `interleaved`.
pub(super) fn name_parts(draft: &mut Draft, first: usize, interleaved: bool) {
    let dim = draft.spec.dim as usize;
    let latents = |(i, layer): (usize, &Layer)| match &layer.mixer {
        Mixer::Latent(latent) => parts([i, first + i], dim, latent, interleaved),
        Mixer::Attention(_) | Mixer::DeltaNet(_) => Vec::new(),
    };
    let all: Vec<_> = draft.spec.layers.iter().enumerate().flat_map(latents).collect();
    draft.parts.extend(all);
}

fn parts(
    [ours, theirs]: [usize; 2],
    dim: usize,
    a: &LatentAttention,
    interleaved: bool,
) -> Vec<(String, Part)> {
    let [heads, rank, key, turned, value] =
        [a.heads, a.rank, a.key_dim, a.rope_dim, a.value_dim].map(|n| n as usize);
    let query = a.query_rank.map(|n| n as usize);
    let pairs = interleaved.then_some(Pairs { head_dim: turned, rotated: turned });
    let blocks = |first, len, every| Rows { first, blocks: Some(Blocks { len, every }), ..Rows::default() };
    let whole = Rows::default();
    let of_q = (heads * (key + turned), query.unwrap_or(dim));
    let of_kv = (heads * (key + value), rank);
    let q = if query.is_some() { "q_b_proj" } else { "q_proj" };
    let mut parts = vec![
        ("q", q, of_q, blocks(0, key, key + turned), Transform::AsIs),
        ("q_rope", q, of_q, Rows { pairs, ..blocks(key, turned, key + turned) }, Transform::AsIs),
        ("latent", "kv_a_proj_with_mqa", (rank + turned, dim), whole, Transform::AsIs),
        (
            "k_rope",
            "kv_a_proj_with_mqa",
            (rank + turned, dim),
            Rows { first: rank, pairs, ..whole },
            Transform::AsIs,
        ),
        ("key_up", "kv_b_proj", of_kv, blocks(0, key, key + value), Transform::TransposeBlocks),
        ("value_up", "kv_b_proj", of_kv, blocks(key, value, key + value), Transform::AsIs),
        ("out", "o_proj", (dim, heads * value), whole, Transform::AsIs),
        ("latent_norm", "kv_a_layernorm", (1, rank), whole, Transform::AsIs),
    ];
    let of_index = |n: usize| Rows { pairs: Some(Pairs { head_dim: n, rotated: turned }), ..whole };
    if let Some(Sparse::Own(indexer)) = &a.sparse {
        let [heads, width] = [indexer.heads, indexer.head_dim].map(|n| n as usize);
        let (of_q, turned) = ((heads * width, query.unwrap_or(dim)), of_index(width));
        parts.push(("index.q", "indexer.wq_b", of_q, turned, Transform::AsIs));
        parts.push(("index.k", "indexer.wk", (width, dim), turned, Transform::AsIs));
        parts.push(("index.k_norm", "indexer.k_norm", (1, width), turned, Transform::AsIs));
        parts.push(("index.weight", "indexer.weights_proj", (heads, dim), whole, Transform::AsIs));
    }
    if let Some(rank) = query {
        parts.push(("q_down", "q_a_proj", (rank, dim), whole, Transform::AsIs));
        parts.push(("q_down_norm", "q_a_layernorm", (1, rank), whole, Transform::AsIs));
    }
    let (i, number) = (ours, theirs);
    let name = |theirs: &str, kind: &str| format!("model.layers.{number}.self_attn.{theirs}.{kind}");
    let mut all = Vec::new();
    for (ours, theirs, shape, rows, transform) in parts {
        let part = |kind, shape| Part { theirs: name(theirs, kind), shape, rows, transform };
        all.push((format!("l{i}.attn.{ours}"), part("weight", shape)));
        if a.bias && ["q_down", "latent", "k_rope", "out"].contains(&ours) {
            all.push((format!("l{i}.attn.{ours}_bias"), part("bias", (1, shape.0))));
        }
        if ours == "index.k_norm" {
            all.push((format!("l{i}.attn.{ours}_bias"), part("bias", shape)));
        }
    }
    all
}
