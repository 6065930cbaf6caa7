//! The words that callers and the scheduler exchange. Nothing here knows how they travel.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::protocol::Call;
use crate::{ImageError, MediumKind, SoundError, TextError, Video, VideoError};

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    pub content: String,
    /// What an assistant thought before, for templates that want it back.
    pub reasoning: Option<String>,
    /// The calls that an assistant made.
    pub tool_calls: Vec<Call>,
    /// Of a tool's result: the id of the call, and the tool's name.
    pub tool_call_id: Option<String>,
    pub name: Option<String>,
    /// Files of images, in front of the text: PNG, JPEG or WebP.
    pub images: Vec<Arc<[u8]>>,
    /// Behind the images and in front of the text.
    pub videos: Vec<Video>,
    /// Files of sounds, behind the videos and in front of the text: WAV or FLAC.
    pub sounds: Vec<Arc<[u8]>>,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// How many media of a kind it has.
    pub fn count(&self, kind: MediumKind) -> usize {
        match kind {
            MediumKind::Image => self.images.len(),
            MediumKind::Video => self.videos.len(),
            MediumKind::Sound => self.sounds.len(),
        }
    }

    /// Bytes of all its texts but the role, arguments as JSON.
    pub fn text_bytes(&self) -> usize {
        self.texts().map(|text| text.len()).sum::<usize>() - self.role.len()
    }

    /// Every text in it, arguments as JSON.
    pub(crate) fn texts(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let fields = [&self.reasoning, &self.tool_call_id, &self.name].into_iter().flatten();
        let fields = [&self.role, &self.content].into_iter().chain(fields);
        let calls = self.tool_calls.iter().flat_map(|call| {
            let arguments = Value::Object(call.arguments.clone()).to_string();
            [Cow::Borrowed(call.id.as_str()), Cow::Borrowed(&call.name), Cow::Owned(arguments)]
        });
        fields.map(|field| Cow::Borrowed(field.as_str())).chain(calls)
    }
}

/// How hard the model should think; a template variable where the template has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Instant,
    Thinking,
    Contemplating,
}

/// Variables of a chat template beyond the messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatOptions {
    pub mode: Option<Mode>,
    /// JSON array of tool definitions, as the template's `tools`.
    pub tools: Option<Value>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Yields to interactive work at token boundaries.
    Background,
    #[default]
    Interactive,
}

/// Whether tokens that repeat the prompt or the answer are verified several in one step. The answer is the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Speculation {
    /// One token a step.
    Off,
    /// Where the measured times of steps and what was repeated so far promise more tokens a second.
    #[default]
    Auto,
    /// Wherever a repetition is found, whatever it costs: to measure and to test.
    Always,
}

/// What to continue.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    Chat(Vec<Message>),
    /// Raw text, no template.
    Text(String),
}

/// `None` means the model's own default, then greedy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to generate; what fits the context where absent.
    pub max_tokens: Option<u32>,
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// 0 is off.
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub seed: Option<u64>,
    /// Texts that end the answer and are not part of it. Reasoning and tool calls may hold them.
    pub stop: Vec<String>,
    pub priority: Priority,
    pub speculation: Speculation,
    /// The answer's text is JSON of this schema. Reasoning is free; tools cannot be called.
    pub json_schema: Option<Value>,
    pub chat: ChatOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop id or stop text.
    Stop,
    /// A stop id, after at least one tool call.
    ToolCall,
    /// `max_tokens` or the context is used up.
    Length,
    Cancelled,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// Prompt tokens whose keys and values were still there.
    pub cached_tokens: u32,
    pub completion_tokens: u32,
    /// Tokens that were computed because a repetition was expected.
    pub proposed_tokens: u32,
    /// Those of them that are part of the answer.
    pub accepted_tokens: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// From submission to the first step.
    pub queued: Duration,
    /// From submission to the first token (TTFT).
    pub first_token: Duration,
    /// From submission to the end.
    pub total: Duration,
}

/// What an answer is made of, in order: `Start`, any number of `Reasoning`, `Delta` and `ToolCall`, then `Done` or
/// `Error`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Start { prompt_tokens: u32, cached_tokens: u32 },
    Delta { text: String },
    Reasoning { text: String },
    ToolCall { id: String, name: String, arguments: Map<String, Value> },
    Done { finish_reason: FinishReason, usage: Usage, timing: Timing },
    Error { message: String },
}

/// The reader is gone or too slow: the answer is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkClosed;

/// Takes events. Never blocks: a full queue is `SinkClosed`.
pub type Sink = Box<dyn FnMut(Event) -> Result<(), SinkClosed> + Send>;

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("there is no session {0}: it was closed, or its model was unloaded")]
    NoSession(u64),
    #[error("there is no model {0} loaded")]
    NoModel(String),
    #[error("this session is already answering; cancel it or wait for its done frame")]
    Busy,
    #[error("the request was cancelled before its text was read")]
    Cancelled,
    #[error("{queued} requests are waiting already, the most this service takes; try again later")]
    QueueFull { queued: u32 },
    #[error("{open} sessions are open already, the most this service takes; close one first")]
    TooManySessions { open: u32 },
    #[error("the prompt is {tokens} tokens; this model's context has room for {limit}")]
    PromptTooLong { tokens: u32, limit: u32 },
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error("this model makes vectors of texts and writes none: call Embed, or take a model that writes")]
    MakesVectors,
    #[error("this model writes text and makes no vectors: take a model that embeds")]
    WritesText,
    #[error(
        "text {index} is {tokens} tokens; this model reads {limit}: split it, or cut it with the option truncate"
    )]
    TextTooLong { index: usize, tokens: usize, limit: u32 },
    #[error("there are no texts")]
    NoTexts,
    #[error("text {index} is empty, and so are its tokens")]
    EmptyText { index: usize },
    #[error("there is no prompt {name:?}; this model has: {known}")]
    UnknownPrompt { name: String, known: String },
    #[error("option {name} is {value}; {rule}")]
    Option { name: &'static str, value: String, rule: &'static str },
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("image {image} of the conversation: {problem}")]
    Image { image: usize, problem: ImageError },
    #[error("video {video} of the conversation: {problem}")]
    Video { video: usize, problem: VideoError },
    #[error("sound {sound} of the conversation: {problem}")]
    Sound { sound: usize, problem: SoundError },
    #[error("the service is shutting down")]
    ShuttingDown,
}
