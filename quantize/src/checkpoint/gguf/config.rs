//! GGUF metadata as the keys of `config.json` and `generation_config.json`.

use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use super::parse::Tensor;
use crate::checkpoint::ImportError;

/// An architecture that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
    /// With experts on every layer.
    Qwen3Moe,
    Gemma3,
}

const ARCHITECTURES: [(&str, Architecture, &str, &str); 5] = [
    ("llama", Architecture::Llama, "llama", "LlamaForCausalLM"),
    ("qwen2", Architecture::Qwen2, "qwen2", "Qwen2ForCausalLM"),
    ("qwen3", Architecture::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    ("qwen3moe", Architecture::Qwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM"),
    ("gemma3", Architecture::Gemma3, "gemma3_text", "Gemma3ForCausalLM"),
];

/// Keys that change what a model computes, which no supported model has, and the value that changes nothing; 0 is
/// written for "unset".
const NEUTRAL: [(&str, f64); 9] = [
    ("attention.scale", 0.0),
    ("logit_scale", 1.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("expert_shared_count", 0.0),
    ("expert_weights_scale", 1.0),
    ("leading_dense_block_count", 0.0),
    // 1 is the softmax.
    ("expert_gating_func", 1.0),
    ("rope.scaling.attn_factor", 1.0),
];

/// What a GGUF's metadata says of its model.
pub(super) struct Config {
    pub(super) architecture: Architecture,
    pub(super) head_dim: u32,
    pub(super) json: Map<String, Value>,
}

/// Gets keys below the architecture's prefix.
struct Keys<'a> {
    prefix: &'static str,
    metadata: &'a Metadata,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn integer(&self, key: &str) -> Result<Option<u32>, ImportError> {
        self.metadata.integer(&self.name(key))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ImportError> {
        self.metadata.float(&self.name(key))
    }

    fn required(&self, key: &str) -> Result<u32, ImportError> {
        let name = self.name(key);
        let value = self.metadata.integer(&name)?;
        self.metadata.required(&name, value)
    }

    fn refuse(&self, key: &str, value: impl ToString, rule: impl Into<String>) -> ImportError {
        ImportError::Config { key: self.name(key), value: value.to_string(), rule: rule.into() }
    }

    /// The size of a head: given, or the width shared out among the heads.
    fn head_dim(&self, hidden: u32, heads: u32) -> Result<u32, ImportError> {
        let head_dim = match self.integer("attention.key_length")? {
            Some(given) => given,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        if heads == 0 || head_dim < 2 || head_dim % 2 != 0 {
            let rule = format!("a head of {head_dim} elements, of {hidden} in all, cannot be rotated");
            return Err(self.refuse("attention.head_count", heads, rule));
        }
        let equal = format!("only the size of a key head, {head_dim}, is supported");
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = self.integer(key)?.filter(|other| *other != head_dim) {
                return Err(self.refuse(key, other, equal));
            }
        }
        Ok(head_dim)
    }

    /// `rope_scaling`, or nothing.
    fn rope_scaling(&self) -> Result<Option<Value>, ImportError> {
        let name = self.name("rope.scaling.type");
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("rope.scale_linear")?,
        };
        let kind = match (self.metadata.text(&name)?, factor) {
            (Some("none"), _) | (None, None) => return Ok(None),
            (None, Some(1.0)) => return Ok(None),
            (None, Some(_)) => "linear",
            (Some(kind), _) => kind,
        };
        if kind != "linear" {
            return Err(self.refuse("rope.scaling.type", kind, "none and linear are supported"));
        }
        match factor {
            Some(factor) if factor > 0.0 => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
            other => Err(self.refuse("rope.scaling.factor", format!("{other:?}"), "it must be above zero")),
        }
    }

    /// The numbers of experts, which an architecture without them must not have.
    fn experts(&self, json: &mut Map<String, Value>, architecture: Architecture) -> Result<(), ImportError> {
        if architecture != Architecture::Qwen3Moe {
            let count = self.integer("expert_count")?.filter(|count| *count != 0);
            let rule = format!("the {} models that are supported have none", self.prefix);
            return count.map_or(Ok(()), |count| Err(self.refuse("expert_count", count, rule)));
        }
        let dim = self.required("expert_feed_forward_length")?;
        // Whoever reads the architecture divides weights by their sum, and has experts on every layer; no key says so.
        for (key, value) in [
            ("num_experts", self.required("expert_count")?.into()),
            ("num_experts_per_tok", self.required("expert_used_count")?.into()),
            ("moe_intermediate_size", dim.into()),
            ("norm_topk_prob", true.into()),
            ("decoder_sparse_step", 1.into()),
            // Of no layer.
            ("intermediate_size", dim.into()),
        ] {
            json.insert(key.into(), value);
        }
        Ok(())
    }

    fn gemma3(
        &self,
        json: &mut Map<String, Value>,
        hidden: u32,
        heads: u32,
        head_dim: u32,
    ) -> Result<(), ImportError> {
        let layers = self.required("block_count")?;
        // The 27B model alone scales its queries by the width of the stream per head; no key says so.
        let query = if layers == 62 { f64::from(hidden) / f64::from(heads) } else { head_dim.into() };
        json.insert("hidden_activation".into(), "gelu_pytorch_tanh".into());
        json.insert("query_pre_attn_scalar".into(), query.into());
        json.insert("sliding_window".into(), self.required("attention.sliding_window")?.into());
        let pattern = self.integer("attention.sliding_window_pattern")?.unwrap_or(6);
        json.insert("sliding_window_pattern".into(), pattern.into());
        let local = self.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
        json.insert("rope_local_base_freq".into(), local.into());
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            json.insert(
                key.into(),
                self.float(key)?.filter(|cap| *cap != 0.0).map_or(Value::Null, Value::from),
            );
        }
        Ok(())
    }
}

/// Translates the metadata of the model whose tensors are `tensors`.
pub(super) fn config(metadata: &Metadata, tensors: &[Tensor]) -> Result<Config, ImportError> {
    let name = metadata.required("general.architecture", metadata.text("general.architecture")?)?;
    let Some(&(prefix, architecture, model_type, class)) = ARCHITECTURES.iter().find(|(n, ..)| *n == name)
    else {
        let known = ARCHITECTURES.map(|(name, ..)| name).join(", ");
        return Err(ImportError::Architecture(name.into(), known));
    };
    let keys = Keys { prefix, metadata };
    for (key, neutral) in NEUTRAL {
        if let Some(value) = metadata.number(&keys.name(key))?.filter(|v| *v != 0.0 && *v != neutral) {
            return Err(keys.refuse(key, value, format!("the {prefix} models that are supported have none")));
        }
    }
    let hidden = keys.required("embedding_length")?;
    let heads = keys.required("attention.head_count")?;
    let head_dim = keys.head_dim(hidden, heads)?;
    let epsilon = keys.float("attention.layer_norm_rms_epsilon")?;
    let find = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
    let embed =
        find("token_embd.weight").ok_or_else(|| ImportError::MissingTensor("token_embd.weight".into()))?;
    let default_theta = if architecture == Architecture::Gemma3 { 1_000_000.0 } else { 10_000.0 };

    let mut json = Map::new();
    let mut set = |key: &str, value: Value| {
        json.insert(key.into(), value);
    };
    set("architectures", json!([class]));
    set("model_type", model_type.into());
    set("hidden_size", hidden.into());
    if architecture != Architecture::Qwen3Moe {
        set("intermediate_size", keys.required("feed_forward_length")?.into());
    }
    set("num_hidden_layers", keys.required("block_count")?.into());
    set("num_attention_heads", heads.into());
    set("num_key_value_heads", keys.integer("attention.head_count_kv")?.unwrap_or(heads).into());
    set("head_dim", head_dim.into());
    set("rms_norm_eps", metadata.required(&keys.name("attention.layer_norm_rms_epsilon"), epsilon)?.into());
    set("rope_theta", keys.float("rope.freq_base")?.unwrap_or(default_theta).into());
    set("rope_scaling", keys.rope_scaling()?.unwrap_or(Value::Null));
    set("max_position_embeddings", keys.required("context_length")?.into());
    set("vocab_size", embed.shape.0.into());
    set("tie_word_embeddings", find("output.weight").is_none().into());
    keys.experts(&mut json, architecture)?;
    let mut set = |key: &str, value: Value| {
        json.insert(key.into(), value);
    };
    match architecture {
        Architecture::Gemma3 => keys.gemma3(&mut json, hidden, heads, head_dim)?,
        Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => {
            set("hidden_act", "silu".into());
            if architecture == Architecture::Llama {
                set("attention_bias", find("blk.0.attn_q.bias").is_some().into());
                set("mlp_bias", find("blk.0.ffn_gate.bias").is_some().into());
            }
        }
    }
    Ok(Config { architecture, head_dim, json })
}
