//! A model that turns texts into vectors.

use std::sync::Arc;

use muse_format::{Embedding, Pooling, Spec};
use muse_kernels::{Backend, BackendError, Linear, PromptRows, Span};

use super::loader::Loader;
use super::{Affine, EncoderWeights, State, Weights, check_vocabulary};
use crate::engine::check_texts;
use crate::flash::Flash;
use crate::graph;
use crate::plan::Plan;
use crate::weights::Mapped;
use crate::{Engine, LoadError, ModelInfo, Text};

/// What reads a text.
enum Body<W> {
    Decoder(Weights<W>),
    Encoder(EncoderWeights<W>),
}

/// A model that embeds, on one backend.
pub struct EmbeddingModel<B: Backend> {
    backend: B,
    spec: Spec,
    embedding: Embedding,
    body: Body<B::Weight>,
    dense: Vec<Affine<B::Weight>>, // (dense[i].dim, the width before it)
    state: State<B>,
    /// `(texts, width)`: what goes into a product after pooling, and what comes out.
    pooled: [B::Buffer; 2],
    info: ModelInfo,
    text: Arc<dyn Text>,
}

impl<B: Backend> EmbeddingModel<B> {
    /// Makes the weights of `mapped` resident and allocates what `plan` says; nothing is allocated after this.
    /// `name` tells people which backend it is.
    ///
    /// # Errors
    /// [`LoadError::Backend`] where the backend has no kernel for a layout or memory runs out.
    ///
    /// # Panics
    /// If the spec has no [`Embedding`].
    pub fn new(
        mapped: &Mapped,
        mut backend: B,
        name: String,
        plan: &Plan,
        text: Arc<dyn Text>,
    ) -> Result<Self, LoadError> {
        let spec = mapped.spec.clone();
        let embedding = spec.embedding.clone().expect("the caller asked");
        let mut loader = Loader { mapped, backend: &mut backend };
        let body = match &spec.encoder {
            Some(_) => Body::Encoder(loader.encoder(&spec)?),
            None => Body::Decoder(loader.weights(&spec)?),
        };
        let dense = loader.dense(&embedding, spec.dim)?;
        let state = State::new(&mut backend, plan, Flash::new(mapped, plan)?)?;
        let mut pooled = || backend.buffer(plan.pooled);
        let pooled = [pooled()?, pooled()?];
        let info = ModelInfo::new(mapped, plan, name);
        Ok(Self { backend, spec, embedding, body, dense, state, pooled, info, text })
    }

    /// Leaves the vectors of all tokens in `state.x`.
    fn read(&mut self, spans: &[Span], tokens: &[u32]) -> Result<(), BackendError> {
        let Self { backend, spec, state, .. } = self;
        match &self.body {
            Body::Encoder(weights) => graph::encode(backend, spec, weights, state, spans, tokens),
            Body::Decoder(weights) => {
                let all: Vec<u32> = (0..tokens.len() as u32).collect();
                graph::forward(backend, spec, weights, state, spans, tokens, (None, &[]), &all)
            }
        }
    }

    /// Brings the vectors of each text together and through the products after it; the result is in `pooled[0]`.
    fn pool(&mut self, spans: &[Span]) -> Result<(), BackendError> {
        let Self { backend, spec, embedding, dense, state, pooled, .. } = self;
        let [input, output] = pooled;
        let State { x, picked, .. } = state;
        let width = spec.dim as usize;
        let mut end = 0;
        picked.clear();
        picked.extend(spans.iter().map(|span| {
            let first = end;
            end += span.len;
            if embedding.pooling == Pooling::First { first } else { end - 1 }
        }));
        match embedding.pooling {
            Pooling::Mean => backend.mean(input, x, spans, width)?,
            Pooling::First | Pooling::Last => backend.gather(input, x, picked, width)?,
        }
        for (dense, w) in embedding.dense.iter().zip(dense) {
            let product = Linear { out: &mut *output, weight: &w.weight, bias: w.bias.as_ref() };
            backend.linear(input, spans.len(), &mut [product])?;
            if dense.tanh {
                backend.scale_and_cap(output, spans.len() * dense.dim as usize, 1.0, Some(1.0))?;
            }
            std::mem::swap(input, output);
        }
        Ok(())
    }
}

impl<B> Engine for EmbeddingModel<B>
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

    fn embed(&mut self, texts: &[&[u32]], out: &mut [f32]) -> Result<(), BackendError> {
        check_texts(&self.info, texts, out);
        let tokens = texts.concat();
        check_vocabulary(&tokens, self.spec.vocab)?;
        let span = |(slot, text): (u32, &&[u32])| Span { slot, start: 0, len: text.len() as u32 };
        let spans: Vec<Span> = (0..).zip(texts).map(span).collect();
        self.backend.prompt_rows(PromptRows::Of(&spans));
        self.read(&spans, &tokens)?;
        self.backend.prompt_rows(PromptRows::None);
        self.pool(&spans)?;
        self.backend.read(&self.pooled[0], out)?;
        if self.embedding.normalise {
            out.chunks_exact_mut(out.len() / texts.len()).for_each(normalise);
        }
        Ok(())
    }

    fn step(&mut self, _: &[Span], _: &[u32], _: &[u32], _: &mut [f32]) -> Result<(), BackendError> {
        Err(BackendError::Unsupported("the next token of a model that embeds".into()))
    }

    /// Texts are read whole, each time.
    fn keep(&self, _: u32, _: u32, _: u32) -> u32 {
        0
    }
}

/// Divides a vector by its length, or by 1e-12 where it is shorter, as torch does.
fn normalise(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    // Written so that NaN stays.
    let length = if squares.sqrt() < 1e-12 { 1e-12 } else { squares.sqrt() };
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn a_vector_gets_length_one_unless_it_has_none() {
        let mut vector = [3.0, 0.0, -4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, 0.0, -0.8]);
        let mut nothing = [0.0; 3];
        normalise(&mut nothing);
        assert_eq!(nothing, [0.0; 3]);
        let mut nan = [f32::NAN, 1.0];
        normalise(&mut nan);
        assert!(nan[0].is_nan() && nan[1].is_nan());
    }
}
