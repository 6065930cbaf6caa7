//! GGUF's tensor names in Hugging Face's terms.

use super::config::Architecture;

/// Hugging Face's name of GGUF's tensor `name`, with `*` for the number of an expert where it holds all of a layer's;
/// `None` for one that we do not know.
pub(super) fn hugging_face(architecture: Architecture, name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // The number is written again so that `007` and `7` cannot both become layer 7.
    let layer: u32 = layer.parse().ok().filter(|n: &u32| n.to_string() == layer)?;
    let (stem, part) = rest.rsplit_once('.')?;
    let gemma = architecture == Architecture::Gemma3;
    let moe = architecture == Architecture::Qwen3Moe;
    let stem = match stem {
        "ffn_gate_inp" if moe => "mlp.gate",
        "ffn_gate_exps" if moe => "mlp.experts.*.gate_proj",
        "ffn_up_exps" if moe => "mlp.experts.*.up_proj",
        "ffn_down_exps" if moe => "mlp.experts.*.down_proj",
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "post_attention_norm" if gemma => "post_attention_layernorm",
        "ffn_norm" if gemma => "pre_feedforward_layernorm",
        "post_ffw_norm" if gemma => "post_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    matches!(part, "weight" | "bias").then(|| format!("model.layers.{layer}.{stem}.{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_hugging_face_names_or_nothing() {
        let cases = [
            (Architecture::Llama, "output.weight", Some("lm_head.weight")),
            (
                Architecture::Llama,
                "blk.3.ffn_norm.weight",
                Some("model.layers.3.post_attention_layernorm.weight"),
            ),
            (
                Architecture::Gemma3,
                "blk.3.ffn_norm.weight",
                Some("model.layers.3.pre_feedforward_layernorm.weight"),
            ),
            (
                Architecture::Gemma3,
                "blk.17.post_ffw_norm.weight",
                Some("model.layers.17.post_feedforward_layernorm.weight"),
            ),
            (Architecture::Qwen2, "blk.0.attn_q.bias", Some("model.layers.0.self_attn.q_proj.bias")),
            (Architecture::Llama, "blk.0.post_ffw_norm.weight", None),
            (Architecture::Llama, "blk.007.attn_q.weight", None),
            (Architecture::Llama, "blk.0.ffn_gate_inp.weight", None),
            (Architecture::Qwen3Moe, "blk.4.ffn_gate_inp.weight", Some("model.layers.4.mlp.gate.weight")),
            (
                Architecture::Qwen3Moe,
                "blk.4.ffn_down_exps.weight",
                Some("model.layers.4.mlp.experts.*.down_proj.weight"),
            ),
            (Architecture::Qwen3, "blk.4.ffn_down_exps.weight", None),
            (Architecture::Llama, "blk.0.attn_q.scale", None),
            (Architecture::Llama, "blk.x.attn_q.weight", None),
        ];
        for (architecture, name, expected) in cases {
            assert_eq!(hugging_face(architecture, name).as_deref(), expected, "{architecture:?} {name}");
        }
    }
}
