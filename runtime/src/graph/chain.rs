//! A drafter's rows that read what its target gave and the token behind that, and the tokens that they propose.

use muse_format::{Mixer, Spec};
use muse_kernels::{Backend, BackendError, Linear, Span};

use super::{attention, drafter, latent, place, product};
use crate::engine::Placed;
use crate::model::{DrafterWeights, MixerWeights, State, Weights};

/// Which rows meet which.
pub struct ChainRows {
    /// Of the drafter's rows.
    pub spans: Vec<Span>,
    pub embedded: Vec<u32>, // (rows): the row of a step whose token is read
    pub given: Vec<u32>,    // (rows): the row of what was given that is read with it
    pub kept: Vec<u32>,     // (rows): rows of a step that are kept
    pub places: Vec<u32>,   // (rows): where
}

impl ChainRows {
    pub fn new(rows: usize, slots: usize) -> Self {
        let list = || Vec::with_capacity(rows);
        let spans = Vec::with_capacity(slots);
        Self { spans, embedded: list(), given: list(), kept: list(), places: list() }
    }

    pub fn clear(&mut self) {
        self.spans.clear();
        for list in [&mut self.embedded, &mut self.given, &mut self.kept, &mut self.places] {
            list.clear();
        }
    }

    /// One more row.
    pub fn add(&mut self, embedded: u32, given: u32) {
        self.embedded.push(embedded);
        self.given.push(given);
    }

    /// The span of the rows added last, unless there are none.
    pub fn span(&mut self, span: Span) {
        if span.len > 0 {
            self.spans.push(span);
        }
    }

    /// What was given of a step's `row` is kept at `place`.
    pub fn keep(&mut self, row: u32, place: u32) {
        self.kept.push(row);
        self.places.push(place);
    }
}

/// Lays rows of `half` beside those of the other half: a token's embedding first, what was given in front of it second.
fn lay<B: Backend>(
    backend: &mut B,
    pairs: &mut B::Buffer,
    half: &B::Buffer,
    picked: &mut Vec<u32>,
    [rows, second]: [usize; 2],
    dim: usize,
) -> Result<(), BackendError> {
    picked.clear();
    picked.extend((0..rows).map(|row| (2 * row + second) as u32));
    backend.scatter(pairs, half, picked, dim)
}

/// Stores keys and values of `rows` in the drafter's cache. The first rows of `hidden` are what the target gave of a step of
/// `tokens`, behind its last norm; they are normed here once, and those to be kept are put in their places behind them.
#[allow(clippy::too_many_arguments)] // one call
pub fn take_in_chain<B: Backend>(
    backend: &mut B,
    (target, of_target): (&Spec, &Weights<B::Weight>),
    spec: &Spec,
    w: &DrafterWeights<B::Weight>,
    state: &mut State<B>,
    (pairs, hidden): (&mut B::Buffer, &mut B::Buffer),
    tokens: &[u32],
    (vectors, placed): (Option<&B::Buffer>, &[Placed]),
    rows: &ChainRows,
) -> Result<(), BackendError> {
    let (dim, eps, count) = (spec.dim as usize, spec.norm_eps, rows.embedded.len());
    backend.rms_norm_in_place(hidden, &w.read_norm, tokens.len(), eps)?;
    if count > 0 {
        backend.embed(&mut state.x, &of_target.embed, tokens, target.embed_scale)?;
        if let Some(vectors) = vectors {
            place(backend, state, vectors, placed, dim)?;
        }
        let State { x, y, picked, .. } = state;
        norm_embeddings(backend, w, y, x, tokens.len(), eps)?;
        backend.gather(x, y, &rows.embedded, dim)?;
        lay(backend, pairs, x, picked, [count, 0], dim)?;
        backend.gather(y, hidden, &rows.given, dim)?;
        lay(backend, pairs, y, picked, [count, 1], dim)?;
        backend.linear(pairs, count, &mut [product(x, &w.into)])?;
        for (i, (layer, lw)) in spec.layers.iter().zip(&w.layers).enumerate() {
            backend.rms_norm(&mut state.y, &state.x, &lw.attn_norm, count, eps)?;
            match (&layer.mixer, &lw.mixer) {
                (Mixer::Attention(a), MixerWeights::Attention(mixer)) => {
                    attention::keep(backend, a, mixer, &w.ropes, state, i, &rows.spans, eps)?;
                }
                (Mixer::Latent(a), MixerWeights::Latent(mixer)) => {
                    latent::keep(backend, a, mixer, &w.ropes, state, i, &rows.spans)?;
                }
                _ => unreachable!("`Drafter::validate` asks for attention"),
            }
        }
    }
    backend.gather(&mut state.y, hidden, &rows.kept, dim)?;
    backend.scatter(hidden, &state.y, &rows.places, dim)
}

fn norm_embeddings<B: Backend>(
    backend: &mut B,
    w: &DrafterWeights<B::Weight>,
    out: &mut B::Buffer,
    embeddings: &B::Buffer,
    rows: usize,
    eps: f32,
) -> Result<(), BackendError> {
    let norm = w.embed_norm.as_ref().expect("a chain's drafter has it");
    backend.rms_norm(out, embeddings, norm, rows, eps)
}

/// Runs `tokens`, one of each of the spans of `rows`, through the drafter, leaves what the target's head makes of them in
/// `logits`, and gives the next pass what this one gave. The first pass is given what was kept of the target in `hidden`.
#[allow(clippy::too_many_arguments)] // one call
pub fn propose_chain<B: Backend>(
    backend: &mut B,
    (target, of_target): (&Spec, &Weights<B::Weight>),
    spec: &Spec,
    w: &DrafterWeights<B::Weight>,
    state: &mut State<B>,
    (pairs, hidden): (&mut B::Buffer, Option<&B::Buffer>),
    of: &ChainRows,
    tokens: &[u32],
    logits: &mut B::Buffer,
) -> Result<(), BackendError> {
    let (rows, dim, eps) = (tokens.len(), spec.dim as usize, spec.norm_eps);
    let State { x, y, picked, .. } = state;
    if let Some(hidden) = hidden {
        backend.gather(y, hidden, &of.given, dim)?;
        lay(backend, pairs, y, picked, [rows, 1], dim)?;
    }
    backend.embed(x, &of_target.embed, tokens, target.embed_scale)?;
    norm_embeddings(backend, w, y, x, rows, eps)?;
    lay(backend, pairs, y, picked, [rows, 0], dim)?;
    backend.linear(pairs, rows, &mut [product(x, &w.into)])?;
    drafter::layers(backend, spec, w, state, &of.spans, rows)?;
    let State { x, y, picked, .. } = state;
    backend.rms_norm(y, x, &w.norm, rows, eps)?;
    backend.linear(y, rows, &mut [Linear { out: logits, weight: of_target.output(), bias: None }])?;
    backend.rms_norm(x, y, &w.read_norm, rows, eps)?;
    lay(backend, pairs, x, picked, [rows, 1], dim)
}
