//! GLM-5: GLM-4.7-Flash's layers, of which queries meet the positions that small heads choose.

use muse_format::{Indexer, LatentAttention, Mixer, Sparse};
use serde_json::Value;

use super::{Common, Config, Draft, Family, glm4_moe, glm4_moe_lite, mla};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "glm_moe_dsa",
    architecture: "GlmMoeDsaForCausalLM",
    read,
    harmless: glm4_moe::FAMILY.harmless,
    prefix: "model",
    layer: glm4_moe::FAMILY.layer,
    fused: |_| None,
    interleaved: false,
    centred: |_| false,
    left_out: &[("guesses of the token after the next", &["model.layers.78."])],
    spelled: &[],
};

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    let latent = mla::read(config, &common)?;
    if latent.query_rank.is_none() {
        return Err(config.refuse("q_lora_rank", "positions are chosen by what queries are made of"));
    }
    for key in ["rope_interleave", "indexer_rope_interleave"] {
        config.only(key, &[true.into()], "the reference implementation has pairs side by side")?;
    }
    config.only("mlp_bias", &[false.into()], "feed-forwards have no biases here")?;
    let every: Vec<Value> = vec!["indexed_attention".into(); common.layers as usize];
    config.only("layer_types", &[every.into()], "every layer must be indexed_attention")?;
    let indexer = Indexer {
        heads: config.size("index_n_heads", 4096)?,
        head_dim: config.size("index_head_dim", 4096)?,
        top: config.size("index_topk", 1 << 24)?,
        norm_eps: 1e-6,
    };
    let own = choosing_layers(config, common.layers)?;
    let dense = config.u32("first_k_dense_replace")?.unwrap_or(3);
    let mixer = Mixer::Latent(LatentAttention { sparse: Some(Sparse::Earlier), ..latent });
    let mut draft = glm4_moe_lite::draft(config, &common, mixer, dense, 2.5)?;
    for (layer, _) in draft.spec.layers.iter_mut().zip(&own).filter(|(_, own)| **own) {
        if let Mixer::Latent(latent) = &mut layer.mixer {
            latent.sparse = Some(Sparse::Own(indexer));
        }
    }
    mla::name_parts(&mut draft, 0, true);
    Ok(draft)
}

/// Whether each layer chooses positions by itself: by a list, a pattern, or every so many from one on.
fn choosing_layers(config: &Config<'_>, layers: u32) -> Result<Vec<bool>, ImportError> {
    let kinds = |key: &str, kinds: Option<Vec<&str>>, names: [&str; 2]| {
        let Some(kinds) = kinds else { return Ok::<_, ImportError>(None) };
        let own = |kind: &&str| names.iter().position(|name| name == kind).map(|index| index == 0);
        let own: Option<Vec<bool>> = kinds.iter().map(own).collect();
        let rule = format!("it must say {} or {} for each of {layers} layers", names[0], names[1]);
        let own = own.filter(|own| own.len() == layers as usize).ok_or_else(|| config.refuse(key, rule))?;
        Ok::<_, ImportError>(Some(own))
    };
    let by_list = kinds("indexer_types", config.strings("indexer_types")?, ["full", "shared"])?;
    let pattern = config.str("index_topk_pattern")?;
    let letters = pattern.map(|pattern| pattern.split("").filter(|letter| !letter.is_empty()).collect());
    let by_pattern = kinds("index_topk_pattern", letters, ["F", "S"])?;
    let every = config.u32("index_topk_freq")?.unwrap_or(1).max(1);
    let from = config.u32("index_skip_topk_offset")?.unwrap_or(2);
    let counted = |i: u32| (i + 1).saturating_sub(from) % every == 0;
    Ok(by_list.or(by_pattern).unwrap_or_else(|| (0..layers).map(counted).collect()))
}
