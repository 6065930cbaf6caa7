//! Where a matrix lies in a tensor of theirs that holds several.

use std::borrow::Cow;

use super::{Draft, Family, layer_of, part_of};

/// One of several matrices of equal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which expert's, and of how many in one tensor.
    pub expert: usize,
    pub experts: usize,
    /// Which of those that are fused, and of how many.
    pub index: usize,
    pub of: usize,
}

impl Place {
    /// Of a tensor that holds one matrix.
    pub const ALONE: Self = Self { expert: 0, experts: 1, index: 0, of: 1 };
}

impl Family {
    /// Their name of an expert's matrix as a tensor of its own, where the family has all experts' in one.
    pub(super) fn expert_apart(&self, name: &str) -> Option<String> {
        let ["experts", expert, matrix] = part_of(name).split('.').collect::<Vec<_>>()[..] else {
            return None;
        };
        let together = self.layer.iter().find(|(ours, _)| *ours == format!("experts.*.{matrix}"))?.1;
        let (parent, _) = together.rsplit_once('.').filter(|_| !together.contains('*'))?;
        let layer = layer_of(name)?;
        Some(format!("{}.layers.{layer}.{parent}.{expert}.{matrix}_proj.weight", self.prefix))
    }

    /// Which of the matrices that a tensor of theirs holds is ours.
    pub(super) fn place(&self, name: &str, draft: &Draft) -> Place {
        let part = part_of(name);
        let (index, of) = (self.fused)(part).unwrap_or((0, 1));
        let fused = Place { index, of, ..Place::ALONE };
        let ["experts", expert, matrix] = part.split('.').collect::<Vec<_>>()[..] else { return fused };
        let ours = format!("experts.*.{matrix}");
        if self.layer.iter().any(|(part, theirs)| *part == ours && theirs.contains('*')) {
            return fused;
        }
        let layer = &draft.spec.layers[layer_of(name).expect("experts are a layer's")];
        let experts = layer.experts.as_ref().map_or(1, |experts| experts.count as usize);
        let expert = expert.parse().expect("Spec::tensors numbers its experts");
        Place { expert, experts, ..fused }
    }
}

/// `experts.7.up` -> `experts.*.up`; others as they are.
pub(super) fn of_any_expert(part: &str) -> Cow<'_, str> {
    match part.split('.').collect::<Vec<_>>()[..] {
        ["experts", _, matrix] => format!("experts.*.{matrix}").into(),
        _ => part.into(),
    }
}
