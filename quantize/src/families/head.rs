//! Layers of a checkpoint that guess the token after the next, as a drafter of the model beside them.
//!
//! transformers leaves them out. That such a layer reads the token's embedding first and then what the last norm gave, both
//! normed, that it rotates by the position of what was given, and that it reads its own norm's output from the second token
//! on, is as vLLM and SGLang have it; see docs/models.md.

use std::collections::HashMap;

use muse_format::{ChainDrafter, Drafter, Layer, Spec};

use super::{Draft, Named, Transform};

/// Most tokens that one layer is asked for: each is proposed where those before it are right.
const CHAIN: u32 = 4;

/// What has a file of its own.
pub(super) const THE_MODEL: &[(&str, &[&str])] = &[("the model", &["model.", "lm_head."])];

/// The drafter of the model of `draft`, of one `layer` that is like one of the model's; `given` are our names and theirs of what
/// is around it.
pub(super) fn head(draft: Draft, layer: Layer, given: &[(&str, String, Transform)]) -> Draft {
    let spec = Spec {
        family: format!("{}_mtp", draft.spec.family),
        dim: draft.spec.dim,
        vocab: draft.spec.vocab,
        context: draft.spec.context,
        norm_eps: draft.spec.norm_eps,
        tied_head: true,
        ropes: draft.spec.ropes,
        drafter: Some(Drafter::Chain(ChainDrafter { chain: CHAIN })),
        layers: vec![layer],
        ..Spec::default()
    };
    let named = |(ours, theirs, transform): &(&str, String, Transform)| {
        ((*ours).to_owned(), Named { transform: *transform, ..Named::whole(theirs.clone()) })
    };
    let named: HashMap<_, _> = given.iter().map(named).collect();
    let Draft { ropes, alternating, aliases, .. } = draft;
    Draft { alternating, aliases, named, ..Draft::new(spec, ropes) }
}
