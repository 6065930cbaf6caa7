//! What the scheduler drives. `model/` implements it for real models, `sim.rs` for tests of everything above.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use muse_format::{Audio, Generation, MediaText, VideoText, Vision};
use muse_kernels::{BackendError, Span};

use crate::protocol::Protocol;
use crate::{ChatOptions, Draft, DrafterInfo, LogitRows, Mapped, Medium, MediumKind, Message, Plan};

/// What callers may know of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// [`muse_format::Spec::family`].
    pub family: String,
    /// BLAKE3 of the file.
    pub hash: [u8; 32],
    pub vocab: u32,
    /// Positions a sequence may have: the spec's context, or less where the plan says so.
    pub context: u32,
    /// Sequences that can be resident at once.
    pub slots: u32,
    /// Most tokens of one [`Engine::step`], over all its spans; no fewer than those of a medium that is read in one step.
    pub batch_tokens: u32,
    /// Most rows of one [`Engine::step`] whose logits may be wanted: one a slot, and the rest for speculation.
    pub logit_rows: u32,
    /// Bytes of the mapped weights that count as memory: of experts that stay in the file, the hot ones.
    pub weight_bytes: u64,
    /// Experts stay in the file, and a larger budget would let more of them stay in memory.
    pub short_of_memory: bool,
    /// Bytes allocated at load beside the weights.
    pub working_bytes: u64,
    /// `cpu (avx512-vnni, 2 threads)`.
    pub backend: String,
    pub generation: Generation,
    /// What it looks at images with; `None` where it takes none.
    pub vision: Option<VisionInfo>,
    /// What it listens to sounds with; `None` where it takes none.
    pub audio: Option<AudioInfo>,
    /// What a model that embeds does; one that has it writes no text.
    pub embedding: Option<EmbeddingInfo>,
    /// What [`Engine::draft`] asks; `None` where nothing drafts for the model.
    pub drafter: Option<DrafterInfo>,
}

/// How a model takes images.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionInfo {
    pub spec: Vision,
    /// Most tokens of one image: the spec's, or less where the plan says so.
    pub image_tokens: u32,
}

/// How a model takes sounds.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioInfo {
    pub spec: Audio,
    /// Most tokens of one sound: as many as the context or the plan has room for.
    pub audio_tokens: u32,
}

/// What callers may know of the vectors of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingInfo {
    /// Numbers of a vector.
    pub width: u32,
    /// Texts that may be put in front of others, by name.
    pub prompts: BTreeMap<String, String>,
    /// The name of the one that is put there where nobody says.
    pub default_prompt: Option<String>,
}

impl ModelInfo {
    pub(crate) fn new(mapped: &Mapped, plan: &Plan, backend: String) -> Self {
        let spec = &mapped.spec;
        let vision = spec.vision.as_ref().zip(plan.vision.as_ref());
        let audio = spec.audio.as_ref().zip(plan.audio.as_ref());
        let embedding = spec.embedding.as_ref().map(|embedding| EmbeddingInfo {
            width: embedding.width(spec.dim),
            prompts: embedding.prompts.clone(),
            default_prompt: embedding.default_prompt.clone(),
        });
        Self {
            family: spec.family.clone(),
            hash: mapped.hash,
            vocab: spec.vocab,
            context: plan.context,
            slots: plan.slots,
            batch_tokens: plan.batch_tokens,
            logit_rows: plan.logit_rows,
            weight_bytes: plan.weight_bytes,
            short_of_memory: plan.experts_on_flash.is_some_and(|experts| experts.short),
            working_bytes: plan.working_bytes,
            backend,
            generation: mapped.generation.clone(),
            vision: vision
                .map(|(vision, plan)| VisionInfo { spec: vision.clone(), image_tokens: plan.tokens }),
            audio: audio.map(|(audio, plan)| AudioInfo { spec: audio.clone(), audio_tokens: plan.tokens }),
            embedding,
            drafter: mapped.drafter().and_then(|drafter| DrafterInfo::of(&drafter.spec)),
        }
    }
}

/// Rows of a step that are vectors of the medium last perceived, in the place of tokens' embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The first row, counted over the step.
    pub row: u32,
    /// The medium's vector in that row.
    pub from: u32,
    pub len: u32,
    /// Whether they see each other, also those behind, in layers that have a window; they go on to the medium's end then.
    pub joint: bool,
}

/// What media change of the rows of a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct MediaRows<'a> {
    /// In the order of their rows.
    pub placed: &'a [Placed],
    /// What each row turns by, in models with [`Vision::axes`]: time, row and column. Empty where every row turns by its
    /// position.
    pub turns: &'a [[u32; 3]],
}

/// A model that can be stepped. Owned by one thread; nothing grows after it is made.
pub trait Engine: Send {
    fn info(&self) -> &ModelInfo;

    /// The tokenizer and template, shared with callers so that a prompt is counted before it is queued.
    fn text(&self) -> Arc<dyn Text>;

    /// Runs `tokens` (the rows of `spans` one after another) through the model, keys and values of positions
    /// `span.start..` replaced, and writes the logits of the rows in `wanted`, ascending, to `logits`,
    /// `(wanted.len(), vocab)`. At most `logit_rows` rows may be wanted.
    ///
    /// A span starts where its slot's last one ended, or further back: at 0 always, where [`keep`](Self::keep) says so, and
    /// behind the first row of the last span, as far back as rows are proposed in one step.
    fn step(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        wanted: &[u32],
        logits: &mut [f32],
    ) -> Result<(), BackendError>;

    /// [`step`](Self::step) with rows that are media's or behind them.
    fn step_with_media(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        media: MediaRows<'_>,
        wanted: &[u32],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        match media {
            MediaRows { placed: [], turns: [] } => self.step(spans, tokens, wanted, logits),
            _ => Err(BackendError::Unsupported("vectors in the place of tokens".into())),
        }
    }

    /// [`step_with_media`](Self::step_with_media) of rows that tokens are drawn from, one temperature each in `rows`, to which it
    /// writes all of their logits, or the best of each where that is less work than to bring all.
    fn step_to_draw(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        media: MediaRows<'_>,
        wanted: &[u32],
        rows: &mut LogitRows,
    ) -> Result<(), BackendError> {
        rows.whole = true;
        self.step_with_media(spans, tokens, media, wanted, rows.logits(wanted.len()))
    }

    /// Writes the logits of the rows that the last call wanted, a [`step_to_draw`](Self::step_to_draw) that gave the best of
    /// each, to `logits`, `(wanted.len(), vocab)`.
    fn read_logits(&mut self, logits: &mut [f32]) -> Result<(), BackendError> {
        let _ = logits;
        Err(BackendError::Unsupported("logits of a step that gave all of them".into()))
    }

    /// Computes the vectors of `medium`, which are there until the next one. It has at most as many tokens as
    /// [`ModelInfo`] says of its kind. One that was the last one takes no time.
    fn perceive(&mut self, medium: &Medium) -> Result<(), BackendError> {
        Err(BackendError::Unsupported(format!("{medium:?}")))
    }

    /// Writes the vectors of whole `texts` to `out`, `(texts.len(), width)`. There are 1 to `slots` texts, each of 1 to
    /// `context` tokens, and at most `batch_tokens` of them together. For models whose info has `embedding`.
    fn embed(&mut self, texts: &[&[u32]], out: &mut [f32]) -> Result<(), BackendError> {
        let _ = (texts, out);
        Err(BackendError::Unsupported("vectors of texts, of a model that writes text".into()))
    }

    /// What the model's drafter expects behind each of `drafts`: the logits of the tokens of one after another, `(the sum of
    /// their counts, vocab)`, before what the model's spec makes of logits, which leaves their order as it is. There are at
    /// most `logit_rows` rows and one draft a slot, and from each `start` on a block's positions are within the context.
    /// Each `start` is where the next span of its slot may start, after a step of it. For models whose info has
    /// `drafter`; no step depends on it.
    fn draft(&mut self, drafts: &[Draft], logits: &mut [f32]) -> Result<(), BackendError> {
        let _ = (drafts, logits);
        Err(BackendError::Unsupported("drafts, of a model without a drafter".into()))
    }

    /// How many of the first `len` positions of `slot` are still whole: `len`, one less where a drafter needs to see that one
    /// again, or 0 where a ring has overwritten what they would need. Where a recurrent state has taken in more, it goes on from before the last answer, and what was kept
    /// then is the answer. `written` is the most positions the slot has held since it was last filled from position 0:
    /// cutting a sequence back does not bring overwritten positions back.
    fn keep(&self, slot: u32, len: u32, written: u32) -> u32;
}

/// Panics where a caller broke the contract of [`Engine::embed`].
pub(crate) fn check_texts(info: &ModelInfo, texts: &[&[u32]], out: &[f32]) {
    let width = info.embedding.as_ref().expect("the model embeds").width as usize;
    let tokens: usize = texts.iter().map(|text| text.len()).sum();
    assert!((1..=info.slots as usize).contains(&texts.len()) && tokens <= info.batch_tokens as usize);
    assert!(texts.iter().all(|text| (1..=info.context as usize).contains(&text.len())));
    assert_eq!(out.len(), texts.len() * width);
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    #[error("the tokenizer is not valid: {0}")]
    Tokenizer(String),
    #[error("the tokenizer could not encode the text: {0}")]
    Encode(String),
    #[error("the text is {bytes} bytes; at most {limit} are taken")]
    TooLong { bytes: usize, limit: usize },
    #[error(
        "the model's tokenizer took more than {seconds} s for {bytes} bytes of text, and was stopped: send less text, or \
         convert the model again with the tokenizer.json of its publisher"
    )]
    TooSlow { bytes: usize, seconds: u64 },
    #[error("this model has no chat template: use a raw prompt")]
    NoTemplate,
    #[error("the chat template failed: {0}")]
    Template(String),
    #[error("the JSON schema cannot be used: {0}")]
    Schema(String),
    #[error("this model takes no {kind}s; send the text without them")]
    NoTower { kind: MediumKind },
    #[error("the chat template wrote places for {placed} of {sent} {kind}s")]
    Places { kind: MediumKind, placed: usize, sent: usize },
}

/// Text to ids and back.
pub trait Text: Send + Sync {
    /// Ids of raw text, with BOS in front where the model asks for it.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError>;

    /// As [`encode`](Self::encode), the text cut so that there are at most `limit` ids and what is put around a text is
    /// still there, with the number of ids before the cut. Of models that embed. It is given up at `end`. Of a text that is
    /// too long for [`encode`](Self::encode) the begin is read, and that is an error where it has not twice as many ids.
    fn encode_at_most(
        &self,
        text: &str,
        limit: usize,
        _end: Instant,
    ) -> Result<(Vec<u32>, usize), TextError> {
        let mut ids = self.encode(text)?;
        let whole = ids.len();
        ids.truncate(limit);
        Ok((ids, whole))
    }

    /// Ids of a conversation rendered by the model's own template, ready for the assistant to answer. A medium is one
    /// token, that of [`medium`](Self::medium).
    fn encode_chat(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<u32>, TextError>;

    /// How a medium is written in a prompt; `None` where there are none of the kind.
    fn medium(&self, kind: MediumKind) -> Option<MediaText> {
        let _ = kind;
        None
    }

    /// How a video is written in a prompt; `None` where there are none.
    fn video(&self) -> Option<&VideoText> {
        None
    }

    /// Ids of text between control tokens, with nothing in front.
    fn encode_part(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode(text)
    }

    /// A fresh streaming decoder. `continues` says that its text goes on from a raw prompt, so that a space in front
    /// belongs to it.
    fn decoder(&self, continues: bool) -> Box<dyn TextDecoder>;

    /// What `id` adds to a text; nothing where it is special or unknown. Asked once for every token of a model, for
    /// answers that a schema constrains.
    fn piece(&self, _id: u32) -> Vec<u8> {
        Vec::new()
    }

    /// How answers to a conversation are written; all of it is text by default.
    fn protocol(&self) -> Protocol {
        Protocol::default()
    }
}

/// Turns ids into text as they come. Never returns half a UTF-8 sequence.
pub trait TextDecoder: Send {
    /// Text that `id` completes; empty while bytes are outstanding. Special tokens are silent.
    fn push(&mut self, id: u32) -> String;

    /// What is left at the end, incomplete bytes replaced by U+FFFD.
    fn finish(&mut self) -> String;
}
