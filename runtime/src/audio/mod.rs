//! Sounds in place of tokens: causal convolutions over samples, computed a stretch of the sound at a time, so that memory
//! does not grow with its length. It reads an [`Audio`] as the graph of the language model reads a spec.

mod decode;
mod resample;
mod sizes;
mod sound;
mod weights;

use muse_format::{Audio, Spec};
use muse_kernels::{Backend, BackendError, Linear};

pub use self::sizes::AudioPlan;
pub use self::sound::{Sound, SoundError};
use self::weights::{Stage, TowerWeights};
use crate::model::{Affine, Loader};
use crate::weights::Mapped;

/// The tower of a model on one backend, and the vectors of the sound that it heard last.
pub struct AudioTower<B: Backend> {
    spec: Audio,
    /// Width of the residual stream of the language model, and the epsilon of its norms.
    dim: usize,
    norm_eps: f32,
    weights: TowerWeights<B::Weight>,
    /// Vectors of a stretch, and rows of a stage that are computed at once.
    stretch: u32,
    rows: usize,
    state: State<B>,
    /// [`Sound::hash`] of what `vectors` are of, and how many there are.
    heard: Option<([u8; 32], u32)>,
    pub(crate) vectors: B::Buffer, // (tokens, dim of the language model)
}

/// What is written while a sound is computed. Rows are those of a part of a stretch, in one stage.
struct State<B: Backend> {
    from: B::Buffer,        // (rows of a stretch, dim): what the stage before gave
    into: B::Buffer,        // as `from`: what this one gives
    x: B::Buffer,           // (rows, dim)
    y: B::Buffer,           // (rows, dim)
    wide: B::Buffer,        // (rows, ffn_dim), (rows, width of a patch) or (rows, dim of the language model)
    before: Vec<B::Buffer>, // (taps - 1, dim) each, one a block: the rows before those that are computed
    at: Vec<u32>,           // (rows): where they lie
    host: Vec<f32>,         // (rows, patch)
}

impl<B: Backend> AudioTower<B> {
    /// Makes the tower of `mapped` resident and allocates what `plan` says.
    ///
    /// # Errors
    /// [`BackendError`] where the backend has no kernel for a layout or memory runs out.
    pub fn new(
        mapped: &Mapped,
        backend: &mut B,
        spec: &Spec,
        audio: &Audio,
        plan: &AudioPlan,
    ) -> Result<Self, BackendError> {
        let weights = TowerWeights::load(&mut Loader { mapped, backend }, audio, spec.dim)?;
        let fit = |len: u64| usize::try_from(len).expect("a length within the budget fits the address space");
        let mut buffer = |len: u64| backend.buffer(fit(len));
        let state = State {
            from: buffer(plan.between)?,
            into: buffer(plan.between)?,
            x: buffer(plan.chunk)?,
            y: buffer(plan.chunk)?,
            wide: buffer(plan.wide)?,
            before: histories(audio).map(&mut buffer).collect::<Result<_, _>>()?,
            at: Vec::with_capacity(plan.rows as usize),
            host: Vec::with_capacity(fit(plan.host)),
        };
        let vectors = buffer(plan.sound_len())?;
        let (dim, norm_eps, spec) = (spec.dim as usize, spec.norm_eps, audio.clone());
        let (stretch, rows) = (plan.stretch, plan.rows as usize);
        Ok(Self { spec, dim, norm_eps, weights, stretch, rows, state, heard: None, vectors })
    }

    /// How many vectors there are: 0 before the first sound.
    pub fn tokens(&self) -> u32 {
        self.heard.map_or(0, |(_, tokens)| tokens)
    }

    /// Computes the vectors of `sound`, which has no more than planned.
    ///
    /// # Errors
    /// [`BackendError`]; the vectors are nobody's then.
    pub fn listen(&mut self, backend: &mut B, sound: &Sound) -> Result<(), BackendError> {
        if self.heard.is_some_and(|(hash, _)| hash == *sound.hash()) {
            return Ok(());
        }
        self.heard = None;
        let State { before, host, .. } = &mut self.state;
        for (before, len) in before.iter_mut().zip(histories(&self.spec)) {
            host.clear();
            host.resize(len as usize, 0.0);
            backend.write(before, host)?;
        }
        let tokens = sound.tokens(&self.spec);
        for first in (0..tokens).step_by(self.stretch as usize) {
            self.stretch(backend, sound, first, self.stretch.min(tokens - first))?;
        }
        self.heard = Some((*sound.hash(), tokens));
        Ok(())
    }

    /// Computes `tokens` vectors from `first` on; those before them were the last that were computed.
    fn stretch(
        &mut self,
        backend: &mut B,
        sound: &Sound,
        first: u32,
        tokens: u32,
    ) -> Result<(), BackendError> {
        let (mut block, stages) = (0, self.spec.stages.len());
        for stage in 0..stages {
            let (rows, dim) = ((tokens * self.spec.rows(stage)) as usize, self.spec.stages[stage].dim);
            for start in (0..rows).step_by(self.rows) {
                let len = self.rows.min(rows - start);
                self.begin(backend, sound, stage, first, start, len)?;
                self.blocks(backend, stage, block, len)?;
                let State { x, into, at, .. } = &mut self.state;
                if stage + 1 == stages {
                    self.project(backend, first + start as u32, len)?;
                } else {
                    numbers(at, start as u32, len);
                    backend.scatter(into, x, at, dim as usize)?;
                }
            }
            let State { from, into, .. } = &mut self.state;
            std::mem::swap(from, into);
            block += self.spec.stages[stage].blocks as usize;
        }
        Ok(())
    }

    /// `x = norm(patch(..))` of rows `start..start + len` of a stage, counted from the `first` vector.
    fn begin(
        &mut self,
        backend: &mut B,
        sound: &Sound,
        stage: usize,
        first: u32,
        start: usize,
        len: usize,
    ) -> Result<(), BackendError> {
        let (w, eps, width) = (&self.weights.stages[stage], self.spec.norm_eps, self.spec.patch_width(stage));
        let State { from, x, wide, at, host, .. } = &mut self.state;
        if stage == 0 {
            let before = first as usize * self.spec.samples() as usize + start * width as usize;
            host.clear();
            host.extend_from_slice(sound.part(before, len * width as usize));
            host.resize(len * width as usize, 0.0);
            backend.write(wide, host)?;
        } else {
            numbers(at, start as u32, len);
            backend.gather(wide, from, at, width as usize)?;
        }
        backend.linear(wide, len, &mut [product(x, &w.patch)])?;
        backend.rms_norm_in_place(x, &w.norm, len, eps)
    }

    /// Takes the rows of `x` through the blocks of a stage, the first of which is the tower's `block`th.
    fn blocks(
        &mut self,
        backend: &mut B,
        stage: usize,
        block: usize,
        len: usize,
    ) -> Result<(), BackendError> {
        let (own, eps, activation) = (&self.spec.stages[stage], self.spec.norm_eps, self.spec.activation);
        let w: &Stage<B::Weight> = &self.weights.stages[stage];
        let State { x, y, wide, before, .. } = &mut self.state;
        for (w, before) in w.blocks.iter().zip(&mut before[block..]) {
            backend.convolve_causal(y, x, before, &w.conv, &w.conv_bias, len)?;
            backend.rms_norm_in_place(y, &w.norm, len, eps)?;
            backend.linear(y, len, &mut [product(wide, &w.up)])?;
            backend.activate(wide, len * own.ffn_dim as usize, activation)?;
            backend.linear(wide, len, &mut [product(y, &w.down)])?;
            backend.add(x, y, len * own.dim as usize)?;
        }
        Ok(())
    }

    /// `vectors` from `first` on, of the rows of `x`.
    fn project(&mut self, backend: &mut B, first: u32, len: usize) -> Result<(), BackendError> {
        let (w, eps, State { x, wide, at, .. }) = (&self.weights, self.spec.norm_eps, &mut self.state);
        backend.rms_norm_in_place(x, &w.norm, len, eps)?;
        backend.linear(x, len, &mut [product(wide, &w.projection)])?;
        backend.rms_norm_in_place(wide, &w.post_norm, len, eps)?;
        if let Some(norm) = &w.vector_norm {
            backend.rms_norm_in_place(wide, norm, len, self.norm_eps)?;
        }
        numbers(at, first, len);
        backend.scatter(&mut self.vectors, wide, at, self.dim)
    }
}

/// Elements of the rows that each block keeps.
fn histories(audio: &Audio) -> impl Iterator<Item = u64> {
    let taps = u64::from(audio.taps);
    let of = move |stage: &muse_format::AudioStage| {
        std::iter::repeat_n((taps - 1) * u64::from(stage.dim), stage.blocks as usize)
    };
    audio.stages.iter().flat_map(of)
}

/// `at = [start, start + 1, ..]`
fn numbers(at: &mut Vec<u32>, start: u32, len: usize) {
    at.clear();
    at.extend(start..start + len as u32);
}

fn product<'a, B: Backend>(out: &'a mut B::Buffer, affine: &'a Affine<B::Weight>) -> Linear<'a, B> {
    Linear { out, weight: &affine.weight, bias: affine.bias.as_ref() }
}
