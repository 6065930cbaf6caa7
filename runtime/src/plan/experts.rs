//! Where experts lie: all in memory, or in the file with the hot ones in memory.

use muse_format::Spec;
use serde::Serialize;

use super::{Item, mib};

/// Bytes of a model's tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightBytes {
    pub all: u64,
    /// Of `all`, those of experts.
    pub experts: u64,
    /// Of the experts that one token runs through in a layer, where these are the most.
    pub chosen: u64,
}

impl From<u64> for WeightBytes {
    /// Of a model without experts.
    fn from(all: u64) -> Self {
        Self { all, ..Self::default() }
    }
}

impl WeightBytes {
    /// Counts the tensors of `spec`, of which `stored` tells the bytes by their names.
    pub fn new(spec: &Spec, stored: impl Fn(&str) -> u64) -> Self {
        let all = spec.tensors().iter().map(|tensor| stored(&tensor.name)).sum();
        let (mut experts, mut chosen) = (0, 0);
        for (i, layer) in spec.layers.iter().enumerate() {
            let Some(mixture) = &layer.experts else { continue };
            let bytes =
                |e: u32| EXPERT_PARTS.iter().map(|part| stored(&expert_tensor(i, e, part))).sum::<u64>();
            experts += (0..mixture.count).map(bytes).sum::<u64>();
            // All experts of a layer are of one shape.
            chosen = chosen.max(u64::from(mixture.used) * bytes(0));
        }
        Self { all, experts, chosen }
    }

    /// Bytes of what every token reads.
    pub fn resident(&self) -> u64 {
        self.all.saturating_sub(self.experts)
    }
}

/// The matrices of an expert, in the order of the file.
pub const EXPERT_PARTS: [&str; 3] = ["gate", "up", "down"];

/// The name of a matrix of an expert of layer `layer`.
pub fn expert_tensor(layer: usize, expert: u32, part: &str) -> String {
    format!("l{layer}.experts.{expert}.{part}")
}

/// Experts that stay in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExpertsOnFlash {
    /// Bytes of all experts.
    pub file_bytes: u64,
    /// Bytes of experts that may stay in memory.
    pub hot_bytes: u64,
    /// Whether a larger budget would let more stay.
    pub short: bool,
}

/// What of the file counts as memory.
pub(super) fn weight_items(weights: WeightBytes, on_flash: Option<ExpertsOnFlash>, place: &str) -> Vec<Item> {
    let Some(ExpertsOnFlash { file_bytes, hot_bytes, .. }) = on_flash else {
        return vec![Item { what: "weights", shape: place.into(), bytes: weights.all }];
    };
    let shape = format!("the hot ones of {:.1} MiB that stay in the file", mib(file_bytes));
    vec![
        Item { what: "weights", shape: "mapped file, but experts".into(), bytes: weights.resident() },
        Item { what: "experts", shape, bytes: hot_bytes },
    ]
}
