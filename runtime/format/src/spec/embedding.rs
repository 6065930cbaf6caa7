//! Models that turn a text into one vector.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DIM_MAX, Layer, Spec, bounded};
use crate::{FormatError, Role};

/// Products after pooling.
const DENSE_MAX: usize = 16;
/// Texts to put in front, and bytes of one and of its name.
const PROMPTS_MAX: usize = 256;
const PROMPT_BYTES_MAX: usize = 4096;

/// What becomes of the vectors of a text's tokens: one vector, by which texts are compared. A model that has this writes
/// no text: it has no head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedding {
    pub pooling: Pooling,
    /// Products of the pooled vector, in order: tensors `dense.{i}`, and `dense.{i}_bias` where it has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dense: Vec<Dense>,
    /// The vector is divided by its length.
    pub normalise: bool,
    /// Texts that the model was trained to find in front of others, by name: `query`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, String>,
    /// The name of the one that is put in front where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_prompt: Option<String>,
}

/// Which tokens' vectors speak for the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean of all, those among them that the tokenizer puts around a text.
    Mean,
    First,
    Last,
}

/// `[tanh] (weight * x + [bias])`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    /// Outputs.
    pub dim: u32,
    pub bias: bool,
    pub tanh: bool,
}

impl Embedding {
    /// Numbers of the vector, of a model that is `dim` wide.
    pub fn width(&self, dim: u32) -> u32 {
        self.dense.last().map_or(dim, |dense| dense.dim)
    }

    /// Shows `add` the role, name, rows and columns of one tensor after another until it fails.
    pub(crate) fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, String, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut width = dim;
        for (i, dense) in self.dense.iter().enumerate() {
            add(Role::Matrix, format!("dense.{i}"), dense.dim, width)?;
            if dense.bias {
                add(Role::Vector, format!("dense.{i}_bias"), 1, dense.dim)?;
            }
            width = dense.dim;
        }
        Ok(())
    }

    pub(super) fn validate(&self, spec: &Spec) -> Result<(), FormatError> {
        let refuse = |field: &str, value: String, rule| {
            Err(FormatError::Spec { field: format!("embedding.{field}"), value, rule })
        };
        if self.dense.len() > DENSE_MAX {
            return refuse("dense", self.dense.len().to_string(), "a model has at most 16 of them");
        }
        for (i, dense) in self.dense.iter().enumerate() {
            bounded(format!("embedding.dense[{i}].dim"), dense.dim, DIM_MAX)?;
        }
        let longest = self.prompts.iter().map(|(name, text)| name.len().max(text.len())).max();
        if self.prompts.len() > PROMPTS_MAX || longest.is_some_and(|bytes| bytes > PROMPT_BYTES_MAX) {
            let value = format!("{} of up to {} bytes", self.prompts.len(), longest.unwrap_or(0));
            return refuse("prompts", value, "a model has at most 256 of at most 4096 bytes each");
        }
        if let Some(name) = self.default_prompt.as_ref().filter(|name| !self.prompts.contains_key(*name)) {
            return refuse("default_prompt", format!("{name:?}"), "it must name one of the prompts");
        }
        if !spec.tied_head {
            return refuse("tied_head", "false".into(), "a model that embeds has no head");
        }
        let shape = |layer: &Layer| layer.attention().map(|a| (a.kv_heads, a.head_dim, a.kv_from));
        let first = spec.layers.first().and_then(shape);
        if !spec.layers.iter().all(|layer| shape(layer) == first && matches!(first, Some((.., None)))) {
            let rule = "all layers of a model that embeds have keys and values of their own, of one shape";
            return refuse("layers", "of several kinds".into(), rule);
        }
        Ok(())
    }
}
