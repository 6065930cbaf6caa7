//! A spec and its tensors, made resident and ready to step.

mod block;
mod chain;
mod drafter;
mod embedding;
mod encoder;
mod latent;
mod loader;
mod recurrent;
mod state;
mod weights;

use std::sync::Arc;

use muse_format::Spec;
use muse_kernels::{Backend, BackendError, Best, Pass, PromptRows, Span, Step, bits};

use self::drafter::{DrafterModel, Stepped};
pub use self::embedding::EmbeddingModel;
pub use self::encoder::{EncoderLayerWeights, EncoderWeights, Norm};
pub(crate) use self::loader::Loader;
use self::recurrent::{Move, Recurrent};
pub use self::state::{Hidden, State};
pub use self::weights::{
    Affine, AttentionWeights, DeltaNetWeights, DrafterWeights, ExpertsWeights, FfnWeights, IndexWeights,
    LatentAttentionWeights, LatentWeights, LayerWeights, MixerWeights, NormedProduct, OwnNorms, PerLayerHalf,
    PerLayerWeights, Weights,
};
use crate::audio::AudioTower;
use crate::flash::Flash;
use crate::graph::{self, ChainRows};
use crate::media::cut;
use crate::plan::Plan;
use crate::vision::Tower;
use crate::weights::Mapped;
use crate::{Draft, Engine, LoadError, LogitRows, MediaRows, Medium, MediumKind, ModelInfo, Placed, Text};

/// A model on one backend.
pub struct Model<B: Backend> {
    backend: B,
    spec: Spec,
    weights: Weights<B::Weight>,
    state: State<B>,
    tower: Option<Tower<B>>,
    drafter: Option<DrafterModel<B>>,
    /// What it takes in of a step, where it goes by a chain.
    chain: ChainRows,
    audio: Option<AudioTower<B>>,
    /// What was perceived last.
    perceived: Option<MediumKind>,
    /// Tokens of a step, those that stand for media blanked.
    blanked: Vec<u32>, // (batch_tokens)
    /// Of the layers that forget: how many positions a query sees at most, and ring length.
    rings: Vec<(u32, u32)>,
    /// Where each slot's recurrent states go on; none where no layer has one.
    recurrent: Option<Recurrent>,
    /// Whether tokens are drawn from the best of rows of logits.
    finds_best: bool,
    info: ModelInfo,
    text: Arc<dyn Text>,
}

impl<B: Backend> Model<B> {
    /// Makes the weights of `mapped` resident and allocates what `plan` says; nothing is allocated after this.
    /// `name` tells people which backend it is.
    ///
    /// # Errors
    /// [`LoadError::Backend`] where the backend has no kernel for a layout or memory runs out.
    pub fn new(
        mapped: &Mapped,
        mut backend: B,
        name: String,
        plan: &Plan,
        text: Arc<dyn Text>,
    ) -> Result<Self, LoadError> {
        let spec = mapped.spec.clone();
        let weights = Loader { mapped, backend: &mut backend }.weights(&spec)?;
        let mut state = State::new(&mut backend, plan, Flash::new(mapped, plan)?)?;
        let vision = spec.vision.as_ref().zip(plan.vision.as_ref());
        let tower = vision.map(|(vision, plan)| Tower::new(mapped, &mut backend, &spec, vision, plan));
        let tower = tower.transpose()?;
        let audio = spec.audio.as_ref().zip(plan.audio.as_ref());
        let audio = audio.map(|(audio, plan)| AudioTower::new(mapped, &mut backend, &spec, audio, plan));
        let audio = audio.transpose()?;
        let blanked = Vec::with_capacity(plan.batch_tokens as usize);
        let info = ModelInfo::new(mapped, plan, name);
        let drafter = mapped.drafter().map(|mapped| DrafterModel::new(mapped, &spec, &mut backend, plan));
        let (drafter, hidden) = drafter.transpose()?.flatten().unzip();
        state.hidden = hidden;
        let chained = matches!(drafter, Some(DrafterModel::Chain(_)));
        let chain = ChainRows::new(if chained { plan.batch_tokens as usize } else { 0 }, plan.slots as usize);
        let layers = spec.layers.iter().zip(&plan.caches);
        let rings = layers.filter(|(_, cache)| cache.capacity < plan.context);
        let mut rings: Vec<_> =
            rings.filter_map(|(layer, cache)| Some((layer.attention()?.reach()?, cache.capacity))).collect();
        if let Some((DrafterModel::Block(block), planned)) = drafter.as_ref().zip(plan.drafter.as_ref()) {
            rings.extend(block.rings(planned, plan.context));
        }
        rings.sort_unstable();
        rings.dedup();
        let shape = plan.delta_states.iter().flatten().next();
        let recurrent = shape.map(|shape| Recurrent::new(shape.slots, shape.undo));
        Ok(Self {
            backend,
            spec,
            weights,
            state,
            tower,
            audio,
            drafter,
            chain,
            perceived: None,
            blanked,
            rings,
            recurrent,
            finds_best: plan.buffers.best > 0,
            info,
            text,
        })
    }

    /// Brings recurrent states to where `spans` start, and remembers those that an answer goes on from.
    fn bring(&mut self, spans: &[Span], wanted: &[u32]) -> Result<(), BackendError> {
        let Some(recurrent) = &mut self.recurrent else { return Ok(()) };
        for each in recurrent.before(spans, wanted) {
            for state in self.state.delta_states.iter_mut().flatten() {
                match each {
                    Move::Remember(slot) => self.backend.remember(state, slot)?,
                    Move::Recall(slot) => self.backend.recall(state, slot)?,
                }
            }
        }
        Ok(())
    }

    /// Panics where a caller broke the contract of [`Engine::step`].
    fn check_step(&self, spans: &[Span], tokens: &[u32], wanted: &[u32]) {
        let info = &self.info;
        let rows: u64 = spans.iter().map(|s| u64::from(s.len)).sum();
        assert!(rows == tokens.len() as u64 && (1..=u64::from(info.batch_tokens)).contains(&rows));
        for span in spans {
            let end = u64::from(span.start) + u64::from(span.len);
            assert!(span.len > 0 && span.slot < info.slots && end <= u64::from(info.context), "{span:?}");
            let reached = self.recurrent.as_ref().is_none_or(|states| states.reaches(span.slot, span.start));
            assert!(reached, "no state goes on from {span:?}");
        }
        assert!(wanted.len() <= info.logit_rows as usize && wanted.iter().all(|w| u64::from(*w) < rows));
    }

    /// A step, its logits left where they are, and the best of each row where `temperatures` has one for it.
    fn compute(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        media: MediaRows<'_>,
        wanted: &[u32],
        temperatures: &[f32],
    ) -> Result<(), BackendError> {
        let MediaRows { placed, turns } = media;
        self.check_step(spans, tokens, wanted);
        self.check_media(media, tokens.len());
        check_vocabulary(tokens, self.spec.vocab)?;
        self.bring(spans, wanted)?;
        let Self { backend, spec, weights, state, tower, audio, perceived, blanked, drafter, chain, .. } =
            self;
        blanked.clear();
        blanked.extend(tokens.iter().map(|token| spec.embedded_as(*token)));
        state.pieces.clear();
        if placed.iter().any(|placed| placed.joint) {
            cut(spans, placed, &mut state.pieces, &mut state.joint);
        }
        state.turns.clear();
        state.turns.extend_from_slice(turns);
        let vectors = match perceived {
            Some(MediumKind::Image | MediumKind::Video) => tower.as_ref().map(|tower| &tower.vectors),
            Some(MediumKind::Sound) => audio.as_ref().map(|tower| &tower.vectors),
            None => None,
        };
        let vectors = vectors.filter(|_| !placed.is_empty());
        if let Some(drafter) = drafter {
            drafter.lay_out(spans, turns, chain);
        }
        let (tokens, chain) = (blanked.as_slice(), &*chain);
        let mut operations = |backend: &mut B| {
            graph::forward(backend, spec, weights, state, spans, tokens, (vectors, placed), wanted)?;
            if !temperatures.is_empty() {
                backend.best(&mut state.best, &state.logits, spec.vocab as usize, temperatures)?;
            }
            let Some((drafter, hidden)) = drafter.as_mut().zip(state.hidden.as_mut()) else { return Ok(()) };
            let stepped = Stepped { spans, tokens, vectors, placed, chain };
            drafter.take_in(backend, (spec, weights), hidden, &stepped)
        };
        backend.prompt_rows(PromptRows::Of(spans));
        // With media operations follow from more than a step says.
        if placed.is_empty() && turns.is_empty() {
            let step = Step {
                pass: Pass::Forward,
                spans: &[spans, &chain.spans],
                lists: &[tokens, bits(temperatures), &chain.given, &chain.places],
                fixed: &[wanted, &chain.embedded, &chain.kept],
            };
            backend.step(&step, &mut operations)?;
        } else {
            operations(backend)?;
        }
        backend.prompt_rows(PromptRows::None);
        if let Some(recurrent) = &mut self.recurrent {
            recurrent.after(spans);
        }
        Ok(())
    }

    /// Panics where a caller broke the contract of [`Engine::step_with_media`].
    fn check_media(&self, media: MediaRows<'_>, rows: usize) {
        let MediaRows { placed, turns } = media;
        assert!(turns.is_empty() || turns.len() == rows && self.state.axes.is_some());
        let seen = match self.perceived {
            None => 0,
            Some(MediumKind::Image | MediumKind::Video) => self.tower.as_ref().map_or(0, Tower::tokens),
            Some(MediumKind::Sound) => self.audio.as_ref().map_or(0, AudioTower::tokens),
        };
        for Placed { row, from, len, .. } in placed {
            let ends = (u64::from(*row) + u64::from(*len), u64::from(*from) + u64::from(*len));
            assert!(ends.0 <= rows as u64 && ends.1 <= u64::from(seen), "{placed:?} of {rows} and {seen}");
        }
    }
}

impl<B> Engine for Model<B>
where
    B: Backend + Send,
    B::Weight: Send,
    B::Buffer: Send,
    B::Cache: Send,
    B::DeltaState: Send,
{
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn text(&self) -> Arc<dyn Text> {
        self.text.clone()
    }

    fn step(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        wanted: &[u32],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        self.step_with_media(spans, tokens, MediaRows::default(), wanted, logits)
    }

    fn step_with_media(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        media: MediaRows<'_>,
        wanted: &[u32],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        assert_eq!(logits.len(), wanted.len() * self.info.vocab as usize);
        self.compute(spans, tokens, media, wanted, &[])?;
        self.backend.read(&self.state.logits, logits)
    }

    fn step_to_draw(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        media: MediaRows<'_>,
        wanted: &[u32],
        rows: &mut LogitRows,
    ) -> Result<(), BackendError> {
        rows.whole = !self.finds_best;
        if rows.whole {
            return self.step_with_media(spans, tokens, media, wanted, rows.logits(wanted.len()));
        }
        assert_eq!(rows.temperatures.len(), wanted.len());
        self.compute(spans, tokens, media, wanted, &rows.temperatures)?;
        self.backend.read(&self.state.best, &mut rows.best[..wanted.len() * Best::WIDTH])
    }

    fn read_logits(&mut self, logits: &mut [f32]) -> Result<(), BackendError> {
        self.backend.read(&self.state.logits, logits)
    }

    fn draft(&mut self, drafts: &[Draft], logits: &mut [f32]) -> Result<(), BackendError> {
        let Self { backend, spec, weights, state, drafter, info, .. } = self;
        let all = drafter.as_mut().zip(state.hidden.as_ref()).zip(info.drafter.as_ref());
        let Some(((drafter, hidden), known)) = all else {
            return Err(BackendError::Unsupported("drafts, of a model without a drafter".into()));
        };
        drafter::check(known, drafts, info.slots, info.context);
        let rows: usize = drafts.iter().map(|draft| draft.count as usize).sum();
        assert!(rows <= info.logit_rows as usize && logits.len() == rows * info.vocab as usize);
        drafts.iter().try_for_each(|draft| check_vocabulary(&[draft.token], spec.vocab))?;
        drafter.draft(backend, (spec, weights), hidden, &mut state.logits, drafts, logits)
    }

    fn perceive(&mut self, medium: &Medium) -> Result<(), BackendError> {
        let Self { backend, tower, audio, .. } = self;
        let none =
            || BackendError::Unsupported(format!("{}s: the model has no tower for them", medium.kind()));
        backend.prompt_rows(PromptRows::All);
        let perceived = match medium {
            Medium::Image(image) | Medium::Video(image) => {
                tower.as_mut().ok_or_else(none).and_then(|tower| tower.look(backend, image))
            }
            Medium::Sound(sound) => {
                audio.as_mut().ok_or_else(none).and_then(|tower| tower.listen(backend, sound))
            }
        };
        backend.prompt_rows(PromptRows::None);
        perceived?;
        self.perceived = Some(medium.kind());
        Ok(())
    }

    fn keep(&self, slot: u32, len: u32, written: u32) -> u32 {
        // The next query, at `len`, sees back to `len + 1 - window`; a ring has lost what lies more than its
        // length behind the furthest position ever written.
        let whole = |(window, ring): &(u32, u32), len: u32| {
            (len + 1).saturating_sub(*window) >= written.saturating_sub(*ring)
        };
        if len > written {
            return 0;
        }
        let longest = |len: u32| self.recurrent.as_ref().map_or(len, |states| states.longest(slot, len));
        let asked = len;
        let mut len = longest(asked);
        // Where another token may follow than before, one more position is computed again if a drafter needs what is given
        // there and does not keep it.
        if len == asked && self.drafter.as_ref().is_some_and(|drafter| !drafter.goes_on(slot, len)) {
            len = longest(len - 1);
        }
        if self.rings.iter().all(|ring| whole(ring, len)) { len } else { 0 }
    }
}

/// Refuses a token that the embedding has no row for.
fn check_vocabulary(tokens: &[u32], vocab: u32) -> Result<(), BackendError> {
    let Some(token) = tokens.iter().find(|token| **token >= vocab) else { return Ok(()) };
    Err(BackendError::Tensor { problem: format!("embed has {vocab} rows; there is no token {token}") })
}
