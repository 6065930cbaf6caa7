//! A model's own chat template, rendered as Hugging Face transformers does, within bounds.
//!
//! The template comes with the model file and is not trusted: its source, the work it may do (and with it the
//! memory it may take), its recursion, its output and the time it takes are bounded. It can read its variables and nothing else.

mod harden;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;

use crate::{Mode, TextError};

/// Bytes of a template's source; the largest in use are about 30 KiB.
const SOURCE_MAX: usize = 1 << 17;
/// Bytes of a rendered conversation: four bytes a token fill a context of two million.
const OUTPUT_MAX: usize = 8 << 20;
/// Instructions, and 64-byte units of data made or moved: 64 MiB in all.
const FUEL: u64 = 1 << 20;
const RECURSION_MAX: usize = 100;
/// What fuel does not bound (slices of slices, each a view of the one before) time does.
const TIME_MAX: Duration = Duration::from_secs(10);
const TOO_SLOW: &str = "it takes more than 10 seconds for a conversation";
/// Long expressions are compiled, and nested values printed and dropped, by recursion. A source of 128 KiB can nest
/// 64 Ki levels, of less than 3 KiB of stack each (80 Ki levels fit, measured). Address space, not memory.
const STACK_BYTES: usize = 256 << 20;

/// What a template sees of a message, under the names of Hugging Face transformers. What is absent is undefined.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize), serde(default))]
pub(crate) struct Turn {
    pub(crate) role: String,
    pub(crate) content: Content,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// A text, or images, videos, sounds and a text, as templates of models that take them want it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Part {
    Image,
    Video,
    Audio,
    Text { text: String },
}

/// A call that an assistant made.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) function: Function,
}

#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub(crate) struct Function {
    pub(crate) name: String,
    /// An object: templates cannot parse JSON.
    pub(crate) arguments: serde_json::Value,
}

/// A compiled chat template.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Arc<Environment<'static>>,
    tokens: BTreeMap<String, String>,
    /// A rendering is past its time and still runs: it cannot be ended, but no second one is started.
    ran_away: AtomicBool,
    time_max: Duration,
}

impl Template {
    /// Compiles `source`. `tokens` are variables such as `bos_token`.
    ///
    /// # Errors
    /// [`TextError::Template`] where the source is too large or not Jinja.
    pub(crate) fn new(source: &str, tokens: BTreeMap<String, String>) -> Result<Self, TextError> {
        if source.len() > SOURCE_MAX {
            let problem = format!("it is {} bytes; at most {SOURCE_MAX} are taken", source.len());
            return Err(TextError::Template(problem));
        }
        let hardened = harden::harden(source).map_err(TextError::Template)?;
        let environment = apart(TIME_MAX, move || {
            let mut environment = environment()?;
            environment.add_template_owned("chat", hardened)?;
            Ok(environment)
        })?;
        Ok(Self {
            environment: Arc::new(environment),
            tokens,
            ran_away: AtomicBool::new(false),
            time_max: TIME_MAX,
        })
    }

    /// Renders a conversation up to where the assistant speaks.
    ///
    /// `mode` becomes `enable_thinking` and `thinking` (false for instant), `reasoning_strength` (`low`, `high`,
    /// `xhigh`) and `reasoning_effort` (`low`, `medium`, `high`): a template reads those that it knows. Without a mode
    /// all are undefined and the template decides.
    ///
    /// # Errors
    /// [`TextError::Template`] with what the template raised, or the bound it broke.
    pub(crate) fn render(
        &self,
        messages: Vec<Turn>,
        tools: Option<serde_json::Value>,
        mode: Option<Mode>,
    ) -> Result<String, TextError> {
        if self.ran_away.load(Ordering::Relaxed) {
            return Err(TextError::Template(TOO_SLOW.into()));
        }
        let [thinking, strength, effort]: [Value; 3] = match mode {
            None => [const { Value::UNDEFINED }; 3],
            Some(Mode::Instant) => [false.into(), "low".into(), "low".into()],
            Some(Mode::Thinking) => [true.into(), "high".into(), "medium".into()],
            Some(Mode::Contemplating) => [true.into(), "xhigh".into(), "high".into()],
        };
        let tokens = Value::from(Serde(&self.tokens));
        let variables = context! {
            messages => Serde(messages),
            // Null is Python's None: templates ask `is none` and by truth.
            tools => Serde(tools),
            documents => (),
            add_generation_prompt => true,
            enable_thinking => thinking.clone(),
            thinking => thinking,
            reasoning_strength => strength,
            reasoning_effort => effort,
            ..tokens
        };
        let environment = Arc::clone(&self.environment);
        let rendered = apart(self.time_max, move || {
            let mut out = Bounded { bytes: Vec::new() };
            environment.get_template("chat")?.render_captured_to(variables, &mut out)?;
            Ok(out.bytes)
        });
        if rendered == Err(TextError::Template(TOO_SLOW.into())) {
            self.ran_away.store(true, Ordering::Relaxed);
        }
        Ok(String::from_utf8(rendered?).expect("templates write text"))
    }
}

/// What a template may use, as transformers sets Jinja up.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function(harden::KEEP, harden::keep);
    environment.add_filter("tojson", to_json);
    environment.add_test("iterable", is_iterable);
    Ok(environment)
}

/// Runs `work` on a thread of its own, where recursion has room, and waits for at most `time_max`.
fn apart<T: Send + 'static>(
    time_max: Duration,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, TextError> {
    let (sender, result) = mpsc::sync_channel(1);
    // An error holds values of the template, which only this thread's stack can drop: it stays here.
    let work = move || drop(sender.send(work().map_err(failed)));
    let thread = std::thread::Builder::new().name("muse-template".into()).stack_size(STACK_BYTES);
    thread.spawn(work).map_err(|error| TextError::Template(format!("no thread for it: {error}")))?;
    result.recv_timeout(time_max).unwrap_or_else(|error| {
        Err(TextError::Template(match error {
            RecvTimeoutError::Timeout => TOO_SLOW.into(),
            RecvTimeoutError::Disconnected => "it crashed the renderer".into(),
        }))
    })
}

fn failed(error: Error) -> TextError {
    TextError::Template(match error.kind() {
        ErrorKind::OutOfFuel => "it takes too much work or memory for this conversation".into(),
        ErrorKind::WriteFailure => format!("its output is more than {OUTPUT_MAX} bytes"),
        _ => error.to_string(),
    })
}

/// As Jinja has it: None is not, unlike what minijinja's own says.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Local time in the format of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, Error> {
    let now = jiff::Zoned::now();
    jiff::fmt::strtime::format(format, &now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// JSON with the spaces of Python's `json.dumps(value, ensure_ascii=False, indent=indent)`, unlike minijinja's own,
/// which is written for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if ensure_ascii == Some(true) || indent.is_some_and(|indent| indent > 16) {
        let problem = "tojson: ensure_ascii must be false and indent at most 16";
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    let mut out = Bounded { bytes: Vec::new() };
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
        Some(indent) => {
            let indent = " ".repeat(indent);
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, "tojson failed").with_source(error))?;
    Ok(String::from_utf8(out.bytes).expect("JSON is text"))
}

/// `{"a": 1, "b": [2, 3]}`
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// Takes at most [`OUTPUT_MAX`] bytes.
struct Bounded {
    bytes: Vec<u8>,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_MAX {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
