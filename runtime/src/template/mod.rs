//! A model's own chat template, rendered as Hugging Face transformers does, within bounds.
//!
//! The template comes with the model file and is not trusted: its source, the work it may do (and with it the
//! memory it may take), its recursion and its output are bounded. It can read its variables and nothing else.

mod harden;

use std::collections::BTreeMap;

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
/// Nested values are printed and dropped by recursion. A source of 128 KiB can nest 64 Ki levels, of less than
/// 3 KiB of stack each (80 Ki levels fit, measured without optimisation). Address space, not memory.
const STACK_BYTES: usize = 256 << 20;

/// What a template sees of a message.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Turn {
    pub(crate) role: String,
    pub(crate) content: String,
}

/// A compiled chat template.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    tokens: BTreeMap<String, String>,
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
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(failed)?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_function(harden::KEEP, harden::keep);
        let hardened = harden::harden(source).map_err(TextError::Template)?;
        environment.add_template_owned("chat", hardened).map_err(failed)?;
        Ok(Self { environment, tokens })
    }

    /// Renders a conversation up to where the assistant speaks.
    ///
    /// `mode` becomes `enable_thinking` (false for instant) and `reasoning_strength` (`low`, `high`, `xhigh`); without
    /// one both are undefined and the template decides.
    ///
    /// # Errors
    /// [`TextError::Template`] with what the template raised, or the bound it broke.
    pub(crate) fn render(
        &self,
        messages: &[Turn],
        tools: Option<&serde_json::Value>,
        mode: Option<Mode>,
    ) -> Result<String, TextError> {
        let (thinking, strength) = match mode {
            None => (Value::UNDEFINED, Value::UNDEFINED),
            Some(Mode::Instant) => (false.into(), "low".into()),
            Some(Mode::Thinking) => (true.into(), "high".into()),
            Some(Mode::Contemplating) => (true.into(), "xhigh".into()),
        };
        let render = || {
            let tokens = Value::from(Serde(&self.tokens));
            let variables = context! {
                messages => Serde(messages),
                // Python's None: templates test for it with `is none` and by truth.
                tools => Serde(tools),
                documents => (),
                add_generation_prompt => true,
                enable_thinking => thinking,
                reasoning_strength => strength,
                ..tokens
            };
            let mut out = Bounded { bytes: Vec::new() };
            let template = self.environment.get_template("chat");
            let rendered =
                template.and_then(|template| template.render_captured_to(variables, &mut out).map(drop));
            // The error holds values of the template, which only this thread's stack can drop.
            rendered.map(|()| out.bytes).map_err(failed)
        };
        let bytes = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("muse-template".into()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, render);
            let thread = thread.map_err(|error| TextError::Template(format!("no thread for it: {error}")))?;
            thread.join().map_err(|_| TextError::Template("it crashed the renderer".into()))?
        })?;
        Ok(String::from_utf8(bytes).expect("templates write text"))
    }
}

fn failed(error: Error) -> TextError {
    TextError::Template(match error.kind() {
        ErrorKind::OutOfFuel => "it takes too much work or memory for this conversation".into(),
        ErrorKind::WriteFailure => format!("its output is more than {OUTPUT_MAX} bytes"),
        _ => error.to_string(),
    })
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
