//! `a{sv}` to typed requests. A key that a call does not have, or of another type, is an error that says so.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use muse_runtime::protocol::Call;
use muse_runtime::{ChatOptions, EmbedOptions, GenerateOptions, Message, Mode, Priority, Speculation, Video};

use super::error::Error;
use super::wire::{Conversation, Dictionary, Options, Value};
use crate::config::Limits;

/// A dictionary whose keys are taken one by one; [`Keys::finish`] refuses what is left.
pub struct Keys {
    left: Dictionary,
    known: Vec<&'static str>,
}

/// A type of the wire, and its name for a person.
trait Typed: Sized {
    const SIGNATURE: &'static str;
    const WORDS: &'static str;

    fn of(value: Value) -> Option<Self>;
}

macro_rules! typed {
    ($($ty:ty: $kind:ident, $signature:literal, $words:literal;)*) => {
        $(impl Typed for $ty {
            const SIGNATURE: &'static str = $signature;
            const WORDS: &'static str = $words;

            fn of(value: Value) -> Option<Self> {
                if let Value::$kind(value) = value { Some(value) } else { None }
            }
        })*
    };
}
typed! {
    bool: Flag, "b", "a boolean";
    u32: Small, "u", "an unsigned 32-bit number";
    u64: Large, "t", "an unsigned 64-bit number";
    f64: Double, "d", "a double";
    String: Text, "s", "a string";
    Vec<String>: Texts, "as", "an array of strings";
}

impl Keys {
    pub fn new(options: Options) -> Self {
        Self { left: options.0, known: Vec::new() }
    }

    fn take<T: Typed>(&mut self, name: &'static str) -> Result<Option<T>, Error> {
        self.known.push(name);
        let Some(value) = self.left.remove(name) else { return Ok(None) };
        let signature = value.signature();
        let (takes, words) = (T::SIGNATURE, T::WORDS);
        let problem = || format!("option {name} has D-Bus type {signature}; it takes {takes} ({words})");
        T::of(value).map(Some).ok_or_else(|| Error::InvalidOption(problem()))
    }

    pub fn flag(&mut self, name: &'static str) -> Result<bool, Error> {
        Ok(self.take(name)?.unwrap_or(false))
    }

    pub fn string(&mut self, name: &'static str) -> Result<Option<String>, Error> {
        self.take(name)
    }

    /// Refuses every key that was not asked for.
    pub fn finish(self) -> Result<(), Error> {
        let Some(name) = self.left.keys().min() else { return Ok(()) };
        let known = match self.known.as_slice() {
            [] => "this call has none".into(),
            known => format!("this call has: {}", known.join(", ")),
        };
        Err(Error::UnknownOption(format!("there is no option {:?}; {known}", shorten(name))))
    }

    /// Takes the options that every answer has.
    pub fn generate(&mut self, limits: &Limits) -> Result<GenerateOptions, Error> {
        let options = GenerateOptions {
            max_tokens: self.take("max_tokens")?,
            temperature: self.number("temperature")?,
            top_k: self.take("top_k")?,
            top_p: self.number("top_p")?,
            min_p: self.number("min_p")?,
            repetition_penalty: self.number("repetition_penalty")?,
            seed: self.take("seed")?,
            stop: self.take("stop")?.unwrap_or_default(),
            priority: self.one_of("priority", &PRIORITIES)?.unwrap_or_default(),
            speculation: match self.take("speculation")? {
                Some(false) => Speculation::Off,
                Some(true) | None => Speculation::Auto,
            },
            json_schema: self.json("json_schema", limits)?,
            chat: ChatOptions { mode: self.one_of("mode", &MODES)?, tools: self.tools(limits)? },
        };
        let stop_bytes: usize = options.stop.iter().map(String::len).sum();
        bounded("the stop texts have", stop_bytes, limits.text_bytes(), "bytes")?;
        Ok(options)
    }

    /// Takes the options of texts to embed.
    pub fn embed(&mut self) -> Result<EmbedOptions, Error> {
        Ok(EmbedOptions {
            prompt: self.take("prompt")?,
            truncate: self.flag("truncate")?,
            priority: self.one_of("priority", &PRIORITIES)?.unwrap_or_default(),
        })
    }

    fn number(&mut self, name: &'static str) -> Result<Option<f32>, Error> {
        Ok(self.take::<f64>(name)?.map(|value| value as f32))
    }

    fn one_of<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(word) = self.take::<String>(name)? else { return Ok(None) };
        let found = choices.iter().find(|(choice, _)| *choice == word);
        let names = || choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>().join(", ");
        let problem = || format!("option {name} is {:?}; it is one of: {}", shorten(&word), names());
        found.map(|(_, value)| Some(*value)).ok_or_else(|| Error::InvalidOption(problem()))
    }

    fn json(&mut self, name: &'static str, limits: &Limits) -> Result<Option<serde_json::Value>, Error> {
        let Some(text) = self.take::<String>(name)? else { return Ok(None) };
        bounded(&format!("option {name} has"), text.len(), limits.text_bytes(), "bytes")?;
        let value = serde_json::from_str(&text);
        value.map(Some).map_err(|e| Error::InvalidOption(format!("option {name} is not JSON: {e}")))
    }

    fn tools(&mut self, limits: &Limits) -> Result<Option<serde_json::Value>, Error> {
        let Some(tools) = self.json("tools", limits)? else { return Ok(None) };
        let objects = tools.as_array().is_some_and(|tools| tools.iter().all(serde_json::Value::is_object));
        if !objects {
            let text = "option tools is not a JSON array of tool definitions, which are objects";
            return Err(Error::InvalidOption(text.into()));
        }
        Ok(Some(tools))
    }
}

const PRIORITIES: [(&str, Priority); 2] =
    [("interactive", Priority::Interactive), ("background", Priority::Background)];
const MODES: [(&str, Mode); 3] =
    [("instant", Mode::Instant), ("thinking", Mode::Thinking), ("contemplating", Mode::Contemplating)];
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// The conversation of a `Respond`.
///
/// # Errors
/// [`Error::InvalidMessage`] with the index of the message, [`Error::LimitExceeded`], [`Error::Unsupported`].
pub fn messages(conversation: Conversation, limits: &Limits) -> Result<Vec<Message>, Error> {
    let wire = conversation.0;
    if wire.is_empty() {
        return Err(Error::EmptyPrompt("the prompt is empty: the conversation has no messages".into()));
    }
    let (mut text_bytes, mut file_bytes) = (0, 0);
    let messages = wire.into_iter().enumerate().map(|(index, wire)| {
        let message = message(index, wire, limits, &mut file_bytes)?;
        text_bytes += message.text_bytes();
        Ok(message)
    });
    let messages = messages.collect::<Result<Vec<_>, Error>>()?;
    bounded("the conversation has", text_bytes, limits.text_bytes(), "bytes of text")?;
    Ok(messages)
}

/// Keys of a message.
const KEYS: [&str; 6] = ["role", "content", "reasoning", "tool_calls", "tool_call_id", "name"];
const IMAGES: &str = "images";
const VIDEOS: &str = "videos";
const AUDIO: &str = "audio";

/// Refuses a conversation of too many messages, or of more text than they may have, before it waits for anything.
pub fn bounded_texts(conversation: &Conversation, limits: &Limits) -> Result<(), Error> {
    bounded("the conversation has", conversation.0.len(), limits.messages as usize, "messages")?;
    let texts = conversation.0.iter().flatten().map(|(key, value)| match value {
        Value::Text(text) if key != "role" => text.len(),
        _ => 0,
    });
    bounded("the conversation has", texts.sum(), limits.text_bytes(), "bytes of text")
}

/// Whether a conversation comes with files.
pub fn has_files(conversation: &Conversation) -> bool {
    conversation.0.iter().any(|message| [IMAGES, VIDEOS, AUDIO].iter().any(|key| message.contains_key(*key)))
}

/// A message whose files are counted in `file_bytes`.
fn message(
    index: usize,
    mut wire: Dictionary,
    limits: &Limits,
    file_bytes: &mut usize,
) -> Result<Message, Error> {
    let invalid = |problem: String| Error::InvalidMessage(format!("message {index} {problem}"));
    let limit = limits.image_bytes();
    let mut files = |key: &str, what: &str| {
        let files =
            wire.remove(key).map(|value| self::files(value, key, what, limit - *file_bytes).map_err(invalid));
        let files = files.transpose()?.unwrap_or_default();
        *file_bytes += files.iter().map(|file| file.len()).sum::<usize>();
        bounded("the conversation has", *file_bytes, limit, "bytes of images and sounds")?;
        Ok::<_, Error>(files)
    };
    let (images, sounds) = (files(IMAGES, "image")?, files(AUDIO, "sound")?);
    let videos = wire.remove(VIDEOS).map(|value| self::videos(value, limit - *file_bytes).map_err(invalid));
    let (videos, video_bytes) = videos.transpose()?.unwrap_or_default();
    *file_bytes += video_bytes;
    bounded("the conversation has", *file_bytes, limit, "bytes of images, sounds and videos")?;
    let mut string = |key: &str| match wire.remove(key) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(invalid(format!("has a {key} of D-Bus type {}; it takes s", other.signature()))),
    };
    let [role, content, reasoning, tool_calls, tool_call_id, name] = KEYS.map(&mut string);
    let role = role?.ok_or_else(|| invalid("has no role".into()))?;
    if !ROLES.contains(&role.as_str()) {
        let role = shorten(&role);
        return Err(invalid(format!("has role {role:?}; it is one of: {}", ROLES.join(", "))));
    }
    let (reasoning, tool_call_id, name) = (reasoning?, tool_call_id?, name?);
    let tool_calls = tool_calls?.map(|json| self::tool_calls(&json).map_err(invalid)).transpose()?;
    let only = |key: &str, whose: &str, given: bool| match given && role != whose {
        true => Err(invalid(format!("has {key} and role {role}; only one of role {whose} has it"))),
        false => Ok(()),
    };
    only("reasoning", "assistant", reasoning.is_some())?;
    only("tool_calls", "assistant", tool_calls.is_some())?;
    only("tool_call_id", "tool", tool_call_id.is_some())?;
    only("name", "tool", name.is_some())?;
    only(IMAGES, "user", !images.is_empty())?;
    only(VIDEOS, "user", !videos.is_empty())?;
    only(AUDIO, "user", !sounds.is_empty())?;
    if let Some(key) = wire.keys().min() {
        let keys = [&KEYS[..], &[IMAGES, VIDEOS, AUDIO]].concat().join(", ");
        return Err(invalid(format!("has an unknown key {:?}; a message has: {keys}", shorten(key))));
    }
    let content = match content? {
        None if tool_calls.is_some() => String::new(),
        content => content.ok_or_else(|| invalid("has no content".into()))?,
    };
    let tool_calls = tool_calls.unwrap_or_default();
    Ok(Message { role, content, reasoning, tool_calls, tool_call_id, name, images, videos, sounds })
}

/// The files behind an array of descriptors, each read from its begin, whatever its offset. Where they are more than
/// `limit` bytes together, so are the first of them that are returned.
fn files(value: Value, key: &str, what: &str, limit: usize) -> Result<Vec<Arc<[u8]>>, String> {
    let signature = value.signature();
    let Value::Files(fds) = value else {
        return Err(format!("has {key} of D-Bus type {signature}; it takes ah"));
    };
    let (mut files, mut bytes) = (Vec::new(), 0);
    for (index, fd) in fds.into_iter().enumerate() {
        let file = read_file(fd, &format!("{what} {index}"), limit - bytes)?;
        bytes += file.len();
        files.push(file);
        if bytes > limit {
            break;
        }
    }
    Ok(files)
}

/// Videos, each a file with its frames one behind the other, the bytes of each, and frames a second. Also the bytes of
/// their files; where those are more than `limit`, what is read so far.
fn videos(value: Value, limit: usize) -> Result<(Vec<Video>, usize), String> {
    let signature = value.signature();
    let Value::Videos(wires) = value else {
        return Err(format!("has {VIDEOS} of D-Bus type {signature}; it takes a(hatd)"));
    };
    let (mut videos, mut bytes) = (Vec::new(), 0);
    for (index, (fd, sizes, rate)) in wires.into_iter().enumerate() {
        let file = read_file(fd, &format!("video {index}"), limit - bytes)?;
        bytes += file.len();
        if bytes > limit {
            break;
        }
        let video = Video::new(file, &sizes, rate);
        videos.push(video.map_err(|problem| format!("has video {index} that cannot be shown: {problem}"))?);
    }
    Ok((videos, bytes))
}

/// What is in a file, or a part of it that is more than `left` bytes.
fn read_file(fd: OwnedFd, name: &str, left: usize) -> Result<Arc<[u8]>, String> {
    let problem = |problem: &dyn std::fmt::Display| format!("has {name} that cannot be read: {problem}");
    let file = File::from(fd);
    // Anything else may have no end, or never begin.
    if !file.metadata().map_err(|e| problem(&e))?.is_file() {
        return Err(problem(&"it is not a file; send a pipe's content as a memfd"));
    }
    let mut bytes = Vec::new();
    let mut part = vec![0; 1 << 16];
    while bytes.len() <= left {
        match file.read_at(&mut part, bytes.len() as u64).map_err(|e| problem(&e))? {
            0 => break,
            len => bytes.extend_from_slice(&part[..len]),
        }
    }
    Ok(bytes.into())
}

/// The calls of an assistant's message, as `tool_call` frames have them.
fn tool_calls(json: &str) -> Result<Vec<Call>, String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wire {
        id: String,
        name: String,
        #[serde(default)]
        arguments: serde_json::Map<String, serde_json::Value>,
        #[serde(rename = "event")]
        _event: Option<serde::de::IgnoredAny>,
    }
    let calls: Vec<Wire> = serde_json::from_str(json).map_err(|problem| {
        format!("has tool_calls that are not an array of {{\"id\",\"name\",\"arguments\"}}: {problem}")
    })?;
    let calls = calls.into_iter().map(|Wire { id, name, arguments, .. }| Call { id, name, arguments });
    Ok(calls.collect())
}

/// Refuses more than `limit`.
pub fn bounded(subject: &str, count: usize, limit: usize, unit: &str) -> Result<(), Error> {
    if count <= limit {
        return Ok(());
    }
    Err(Error::LimitExceeded(format!("{subject} {count} {unit}; this service takes {limit} at most")))
}

/// What a client sent, short enough to be repeated in an error.
fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}
