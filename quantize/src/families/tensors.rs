//! Which tensor of a checkpoint becomes which of ours.

use std::collections::HashSet;
use std::iter;

use muse_format::{Expected, Layer};

use super::origin::{Blocks, Named, Origin, Pairs, Rows, Transform};
use super::place::{Place, of_any_expert};
use super::{Draft, Family, Imported, LeftOut};
use crate::checkpoint::{Checkpoint, ImportError, TensorSource};

impl Family {
    /// Where a tensor of ours comes from.
    pub(super) fn origin(
        &self,
        expected: Expected,
        draft: &Draft,
        checkpoint: &Checkpoint,
    ) -> Result<Imported, ImportError> {
        let Expected { name, rows, cols, role } = expected;
        let rows = usize::try_from(rows).expect("bounded by Spec::validate");
        let cols = usize::try_from(cols).expect("bounded by Spec::validate");
        let constant = || draft.constants.iter().find(|(part, _)| *part == part_of(&name));
        let origin = if let Some(index) = name.strip_prefix("rope.") {
            let values = rotation(index, draft)?;
            return Ok(Imported { name, role, rows, cols: values.len(), origin: Origin::Computed(values) });
        } else if let Some(values) = draft.computed.get(&name) {
            Origin::Computed(values.clone())
        } else if let Some(Named { theirs, of, rows: from, transform }) = draft.named.get(&name) {
            let shape = match transform {
                Transform::Transpose { .. } => (cols, rows),
                _ if rows == 1 => (rows, of * cols),
                _ => (of * rows, cols),
            };
            self.part_of_theirs(checkpoint, theirs, shape, *from, *transform)?
        } else if let Some(part) = draft.parts.get(&name) {
            self.part_of_theirs(checkpoint, &part.theirs, part.shape, part.rows, part.transform)?
        } else if let Some((_, value)) = constant() {
            Origin::Computed(vec![*value; cols])
        } else {
            self.by_rules(&name, (rows, cols), draft, checkpoint)?
        };
        Ok(Imported { name, role, rows, cols, origin })
    }

    /// Rows of the tensor that they call `theirs`, which has to be of `shape`.
    fn part_of_theirs(
        &self,
        checkpoint: &Checkpoint,
        theirs: &str,
        shape: (usize, usize),
        rows: Rows,
        transform: Transform,
    ) -> Result<Origin, ImportError> {
        let (name, source) = self.find(checkpoint, theirs)?;
        if source.shape() != shape {
            return Err(ImportError::Shape { name: name.clone(), actual: source.shape(), expected: shape });
        }
        Ok(Origin::Tensor { name: name.clone(), rows, transform })
    }

    /// Where a tensor comes from that nothing but the family's rules for a decoder says.
    fn by_rules(
        &self,
        name: &str,
        (rows, cols): (usize, usize),
        draft: &Draft,
        checkpoint: &Checkpoint,
    ) -> Result<Origin, ImportError> {
        let mut theirs = self.their_name(draft.aliases.get(name).map_or(name, String::as_str));
        let mut place = self.place(name, draft);
        // Whoever trained a model further may have saved its experts one by one; a GGUF's are read that way.
        let apart = self.expert_apart(name).filter(|apart| checkpoint.tensors.contains_key(apart));
        let is_apart = apart.is_some();
        if let Some(apart) = apart {
            (theirs, place) = (apart, Place::ALONE);
        }
        let first = (place.expert * place.of + place.index) * rows;
        let mut from = Rows { first, pairs: self.pairs(name, draft), ..Rows::default() };
        if let Some((_, [index, of], len)) = draft.alternating.iter().find(|(p, ..)| *p == part_of(name)) {
            place.of = *of;
            from = Rows {
                first: index * len,
                blocks: Some(Blocks { len: *len, every: of * len }),
                ..Rows::default()
            };
        }
        let part = of_any_expert(part_of(name));
        let own = draft.transforms.iter().find(|(own, _)| *own == part).map(|(_, own)| *own);
        let own = own.filter(|own| !(is_apart && matches!(own, Transform::Transpose { .. })));
        let add_one = (self.centred)(name) && !checkpoint.norms_hold_one;
        let mut transform = own.unwrap_or(if add_one { Transform::AddOne } else { Transform::AsIs });
        let longer = draft.longer.iter().find(|(ours, _)| *ours == name).map(|(_, rows)| *rows);
        let mut shape = (longer.unwrap_or(place.experts * place.of * rows), cols);
        if let Transform::Transpose { first } = &mut transform {
            // Experts lie one below the other, what is fused side by side.
            shape = (place.experts * cols, place.of * rows);
            (*first, from.first) = (place.expert * cols, place.index * rows);
        }
        self.part_of_theirs(checkpoint, &theirs, shape, from, transform)
    }

    /// The tensor of the name `theirs`, and how this checkpoint spells it.
    pub(super) fn find<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        theirs: &str,
    ) -> Result<(&'a String, &'a dyn TensorSource), ImportError> {
        let spelled = self.spelled.iter();
        let others = spelled.filter_map(|(from, to)| Some(format!("{to}{}", theirs.strip_prefix(from)?)));
        let mut names = iter::once(theirs.to_owned()).chain(others);
        names
            .find_map(|name| checkpoint.tensors.get_key_value(&name))
            .map(|(name, source)| (name, source.as_ref()))
            .ok_or_else(|| ImportError::MissingTensor(theirs.to_owned()))
    }

    /// How the pairs of our tensor `name` lie in the source, where they are to be moved.
    fn pairs(&self, name: &str, draft: &Draft) -> Option<Pairs> {
        let part = part_of(name).trim_end_matches("_bias");
        if !self.interleaved || !matches!(part, "attn.q" | "attn.k" | "attn.q_norm" | "attn.k_norm") {
            return None;
        }
        let attention = draft.spec.layers[layer_of(name)?].attention()?;
        let rope = &draft.ropes[attention.rope? as usize];
        let (head_dim, rotated) = (attention.head_dim as usize, rope.rotated(attention.head_dim) as usize);
        Some(Pairs { head_dim, rotated })
    }

    pub(super) fn their_name(&self, ours: &str) -> String {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}.", self.prefix) };
        match ours {
            "embed" => return format!("{prefix}embed_tokens.weight"),
            "norm" => return format!("{prefix}norm.weight"),
            "per_layer.table" => return format!("{prefix}embed_tokens_per_layer.weight"),
            "per_layer.projection" => return format!("{prefix}per_layer_model_projection.weight"),
            "per_layer.norm" => return format!("{prefix}per_layer_projection_norm.weight"),
            "head" => return "lm_head.weight".into(),
            _ => {}
        }
        let (layer, part) = ours.strip_prefix('l').and_then(|o| o.split_once('.')).expect("l<i>.<part>");
        let (part, expert) = match part.split('.').collect::<Vec<_>>()[..] {
            ["experts", expert, of] => (format!("experts.*.{of}"), expert),
            _ => (part.to_owned(), ""),
        };
        let find = |part: &str| self.layer.iter().find(|(ours, _)| *ours == part).map(|(_, theirs)| *theirs);
        let named = find(&part).map(|theirs| (theirs, false));
        let weight = part.strip_suffix("_bias").and_then(find).map(|theirs| (theirs, true));
        let (theirs, bias) = named.or(weight).expect("a family names every part it asks for");
        let theirs = theirs.replace('*', expert);
        let theirs = if bias { theirs.replace(".weight", ".bias") } else { theirs };
        format!("{prefix}layers.{layer}.{theirs}")
    }

    /// What of the checkpoint is not used, all of which must be known.
    pub(super) fn left_out(
        &self,
        checkpoint: &Checkpoint,
        tensors: &[Imported],
        draft: &Draft,
    ) -> Result<Vec<LeftOut>, ImportError> {
        let origin_name = |t: &'_ Imported| match &t.origin {
            Origin::Tensor { name, .. } => Some(name.clone()),
            Origin::Computed(_) => None,
        };
        let used: HashSet<String> = tensors.iter().filter_map(origin_name).collect();
        // A buffer that old versions saved and that is computed again; and the head of a tied model, which is the table.
        let unused: HashSet<String> = draft.unused.iter().map(|ours| self.their_name(ours)).collect();
        let tied = draft.spec.tied_head;
        let harmless = |name: &str| {
            name.ends_with("rotary_emb.inv_freq")
                || (tied && name == "lm_head.weight")
                || unused.contains(name)
                || draft.ignored.iter().any(|ignored| ignored == name)
        };
        let mut parts: Vec<LeftOut> = Vec::new();
        for (name, source) in &checkpoint.tensors {
            if used.contains(name) || harmless(name) {
                continue;
            }
            let holds = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
            // Of a tower that is imported every tensor is.
            let imported = |part: &str| match part {
                "vision" => draft.spec.vision.is_some(),
                "audio" => draft.spec.audio.is_some(),
                _ => false,
            };
            let whole = draft.whole.as_ref().is_some_and(|whole| name.starts_with(whole));
            let mut left_out = self.left_out.iter().filter(|(part, _)| !imported(part) && !whole);
            let Some((part, _)) = left_out.find(|(_, prefixes)| holds(prefixes)) else {
                return Err(ImportError::UnknownTensor(name.clone()));
            };
            let (rows, cols) = source.shape();
            let weights = rows as u64 * cols as u64;
            match parts.iter_mut().find(|left| left.part == *part) {
                Some(left) => (left.tensors, left.weights) = (left.tensors + 1, left.weights + weights),
                None => parts.push(LeftOut { part, tensors: 1, weights }),
            }
        }
        Ok(parts)
    }
}

/// The frequencies of rotation table `index`.
fn rotation(index: &str, draft: &Draft) -> Result<Vec<f32>, ImportError> {
    let index: u32 = index.parse().expect("Spec::tensors numbers its tables");
    let mut rotations = draft.spec.layers.iter().filter_map(Layer::rotation);
    let (_, width) = rotations.find(|(table, _)| *table == index).expect("a table has a user");
    let values = draft.ropes[index as usize].frequencies(width);
    values.ok_or_else(|| ImportError::Config {
        key: "rope_scaling.factors".into(),
        value: "a shorter list".into(),
        rule: format!("a head of {width} needs {} factors", width / 2),
    })
}

/// `l12.attn.q` -> 12.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix('l')?.split('.').next()?.parse().ok()
}

/// `l12.attn.q` -> `attn.q`; others as they are.
pub(super) fn part_of(name: &str) -> &str {
    match name.strip_prefix('l').and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) if layer.bytes().all(|b| b.is_ascii_digit()) => part,
        _ => name,
    }
}
