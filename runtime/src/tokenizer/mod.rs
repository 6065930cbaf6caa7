//! Text to ids with the `tokenizers` library, and a model's chat template around it.
//!
//! A tokenizer comes with the model file and is not trusted: its size is bounded, a panic of the library is an
//! error here, and so is a text that takes too long.
//!
//! Control tokens (`<|im_end|>`) that a message merely mentions are read as ordinary text, so that nobody can end
//! his turn and speak as somebody else; see [`disguise`](self::disguise). A raw prompt is read as it stands.

mod added;
mod coder;
mod cut;
mod disguise;
mod growth;
mod pieces;
mod watch;
mod whole;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use muse_format::{MediaText, VideoText};
use serde_json::Value;

use self::coder::Coder;
pub(crate) use self::coder::TIME_MAX;
use self::disguise::Disguise;
use self::pieces::{PieceDecoder, Pieces};
pub use self::whole::WholeText;
use crate::protocol::{AddedToken, Call, Protocol};
use crate::template::{Content, Function, Part, Template, ToolCall, Turn};
use crate::{ChatOptions, MediumKind, Message, Text, TextDecoder, TextError};

/// The text side of a real model.
pub struct HfText {
    coder: Coder,
    /// Put in front of raw text.
    bos: Option<u32>,
    image: Option<MediaText>,
    video: Option<VideoText>,
    audio: Option<MediaText>,
    chat: Option<(Template, Disguise)>,
    pieces: Arc<Pieces>,
    protocol: Protocol,
}

impl HfText {
    /// Reads `tokenizer.json` and compiles the chat template; an empty template means that the model has none.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] where the JSON is too large, is not a tokenizer, has a decoder that this version
    /// does not know or that makes a token too long, or a step whose work has no bound; [`TextError::Template`] where the
    /// template does not compile.
    pub fn new(
        tokenizer_json: &[u8],
        text: &muse_format::Text,
        chat_template: &str,
    ) -> Result<Self, TextError> {
        let coder = Coder::new(tokenizer_json)?;
        let tokenizer = &coder.tokenizer;
        let pieces = Pieces::new(tokenizer, tokenizer_json)?;
        let chat = if chat_template.is_empty() {
            None
        } else {
            let template = Template::new(chat_template, text.template_tokens.clone())?;
            Some((template, Disguise::new(tokenizer, chat_template)?))
        };
        let added = tokenizer.get_added_tokens_decoder();
        let token = |text: &str| {
            let (id, token) = added.iter().find(|(_, token)| token.content == text)?;
            Some(AddedToken { id: *id, special: token.special })
        };
        let protocol = Protocol::declared(chat_template, token);
        let bos = text.bos_id.filter(|_| text.add_bos);
        let muse_format::Text { image, audio, .. } = *text;
        let video = text.video.clone();
        let pieces = Arc::new(pieces);
        Ok(Self { coder, bos, image, video, audio, chat, pieces, protocol })
    }

    /// The id of a token's exact text: `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.coder.tokenizer.token_to_id(token)
    }

    /// Ids of `text`, control tokens recognised but for those that `mark` is in; it is removed.
    fn ids(&self, text: &str, mark: Option<char>) -> Result<Vec<u32>, TextError> {
        let encoding = self.coder.encoding(text, self.coder.end(), |pieces| {
            let Some(mark) = mark else { return Ok(()) };
            let mut left = text.matches(mark).count();
            pieces.split(|_, mut piece| {
                left -= piece.get().matches(mark).count();
                piece.replace(mark, "")?;
                Ok([piece])
            })?;
            if left > 0 {
                return Err("control tokens in a message could not be told from text".into());
            }
            Ok(())
        })?;
        Ok(encoding.get_ids().to_vec())
    }
}

impl Text for HfText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.ids(text, None)?;
        if let Some(bos) = self.bos {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    fn encode_chat(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<u32>, TextError> {
        let (template, disguise) = self.chat.as_ref().ok_or(TextError::NoTemplate)?;
        let bytes = messages.iter().map(|message| message.role.len() + message.text_bytes()).sum();
        check_len(bytes, self.coder.text_max)?;
        for kind in MediumKind::ALL {
            let sent = messages.iter().any(|message| message.count(kind) > 0);
            if sent && self.medium(kind).is_none() {
                return Err(TextError::NoTower { kind });
            }
        }
        let mark = disguise.mark(messages, options.tools.as_ref())?;
        let turns = messages.iter().map(|message| turn(message, disguise, mark)).collect();
        let tools = options.tools.as_ref().map(|tools| disguise.hide_json(tools, mark));
        let mut rendered = template.render(turns, tools, options.mode)?;
        for media in [self.image, self.audio].into_iter().flatten().filter(|media| media.lines) {
            // A message's own mention has the mark in it.
            if let Some(token) = self.coder.tokenizer.id_to_token(media.token) {
                rendered = rendered.replace(&token, &format!("\n\n{token}\n\n"));
            }
        }
        self.ids(&rendered, Some(mark))
    }

    fn medium(&self, kind: MediumKind) -> Option<MediaText> {
        match kind {
            MediumKind::Image => self.image,
            MediumKind::Video => self.video.as_ref().map(|video| MediaText {
                token: video.token,
                before: None,
                after: None,
                tiles: None,
                lines: false,
            }),
            MediumKind::Sound => self.audio,
        }
    }

    fn video(&self) -> Option<&VideoText> {
        self.video.as_ref()
    }

    fn encode_part(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.ids(text, None)
    }

    fn decoder(&self, continues: bool) -> Box<dyn TextDecoder> {
        Box::new(PieceDecoder::new(Arc::clone(&self.pieces), continues))
    }

    fn piece(&self, id: u32) -> Vec<u8> {
        self.pieces.get(id).to_vec()
    }

    fn protocol(&self) -> Protocol {
        self.protocol.clone()
    }
}

/// What the template sees of a message, mentions of control tokens disguised.
fn turn(message: &Message, disguise: &Disguise, mark: char) -> Turn {
    let hide = |text: &str, role: &str| disguise.hide(text, role, mark).into_owned();
    let hide_field = |text: &Option<String>| text.as_deref().map(|text| hide(text, ""));
    let call = |call: &Call| ToolCall {
        id: hide(&call.id, ""),
        kind: "function".into(),
        function: Function {
            name: hide(&call.name, ""),
            arguments: disguise.hide_json(&Value::Object(call.arguments.clone()), mark),
        },
    };
    let calls = message.tool_calls.iter().map(call).collect::<Vec<_>>();
    let content = hide(&message.content, &message.role);
    let images = message.images.iter().map(|_| Part::Image);
    let mut parts: Vec<_> = images.chain(message.videos.iter().map(|_| Part::Video)).collect();
    parts.extend(message.sounds.iter().map(|_| Part::Audio));
    let content = if parts.is_empty() {
        Content::Text(content)
    } else {
        parts.push(Part::Text { text: content });
        Content::Parts(parts)
    };
    Turn {
        role: hide(&message.role, ""),
        content,
        reasoning_content: message.reasoning.as_deref().map(|text| hide(text, &message.role)),
        tool_calls: Some(calls).filter(|calls| !calls.is_empty()),
        tool_call_id: hide_field(&message.tool_call_id),
        name: hide_field(&message.name),
    }
}

fn check_len(bytes: usize, limit: usize) -> Result<(), TextError> {
    if bytes > limit { Err(TextError::TooLong { bytes, limit }) } else { Ok(()) }
}

/// Runs the library on what it was not written for; what goes wrong is told without the text it went wrong on.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let reason = panic.downcast_ref::<&str>().map_or(Cow::Borrowed(""), |text| Cow::Borrowed(*text));
            Err(format!("the tokenizers library failed: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests;
