//! The small files of a Hugging Face folder. Every read is bounded.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::ImportError;

/// The largest published tokenizer.json is about 35 MB; everything else here is far smaller.
const FILE_MAX: u64 = 128 << 20;

pub(super) fn malformed(file: &str, problem: &str) -> ImportError {
    ImportError::Malformed { file: file.into(), problem: problem.into() }
}

/// True for a name that stays in its folder: one plain component.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!(parts.next(), Some(std::path::Component::Normal(part)) if part == name);
    plain && parts.next().is_none() && !name.contains(['\\', '\0'])
}

/// The whole file, or `None` where there is none.
pub(super) fn bytes(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
    let path = dir.join(name);
    let io = |source| ImportError::Io { path: path.display().to_string(), source };
    let file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut bytes = Vec::new();
    let len = file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(io)? as u64;
    if len > FILE_MAX {
        let (file, what) = (name.to_owned(), "the file".to_owned());
        return Err(ImportError::TooLarge { file, what, len, limit: FILE_MAX });
    }
    Ok(Some(bytes))
}

/// A file that holds one JSON object.
pub(super) fn json(dir: &Path, name: &str) -> Result<Option<Map<String, Value>>, ImportError> {
    let Some(bytes) = bytes(dir, name)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| malformed(name, &e.to_string()))
}

/// `tokenizer.json`; empty for a model alone. One whose tokenizer is there in another form is refused.
pub(super) fn tokenizer(dir: &Path) -> Result<Vec<u8>, ImportError> {
    const OTHER_FORMS: [&str; 6] =
        ["tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"];
    let bytes = bytes(dir, "tokenizer.json")?;
    if bytes.is_none() && OTHER_FORMS.iter().any(|name| dir.join(name).exists()) {
        return Err(malformed(
            "tokenizer.json",
            "is missing: save the tokenizer in its fast form (AutoTokenizer.from_pretrained(..).save_pretrained(..))",
        ));
    }
    Ok(bytes.unwrap_or_default())
}

/// How images are prepared: a file of its own, or a part of the file for all kinds of input.
pub(super) fn image_processor(dir: &Path) -> Result<Map<String, Value>, ImportError> {
    Ok(processor(dir, "preprocessor_config.json", "image_processor")?.unwrap_or_default())
}

/// How videos are prepared: as images, where nothing is said of videos.
pub(super) fn video_processor(dir: &Path) -> Result<Map<String, Value>, ImportError> {
    match processor(dir, "video_preprocessor_config.json", "video_processor")? {
        Some(own) => Ok(own),
        None => image_processor(dir),
    }
}

/// How sounds are prepared: what the file for images says of them, or a part of the file for all kinds of input.
pub(super) fn feature_extractor(dir: &Path) -> Result<Map<String, Value>, ImportError> {
    const KEYS: [&str; 5] =
        ["feature_size", "padding_side", "padding_value", "samples_per_token", "sampling_rate"];
    match json(dir, "preprocessor_config.json")?.filter(|own| own.contains_key("sampling_rate")) {
        Some(own) => Ok(own.into_iter().filter(|(key, _)| KEYS.contains(&key.as_str())).collect()),
        None => Ok(part(dir, "feature_extractor")?.unwrap_or_default()),
    }
}

/// What the file `own` says, or else the `part` of the one for all kinds of input.
fn processor(dir: &Path, own: &str, part: &str) -> Result<Option<Map<String, Value>>, ImportError> {
    match json(dir, own)? {
        Some(own) => Ok(Some(own)),
        None => self::part(dir, part),
    }
}

/// A part of the file for all kinds of input.
fn part(dir: &Path, part: &str) -> Result<Option<Map<String, Value>>, ImportError> {
    match json(dir, "processor_config.json")?.and_then(|mut all| all.remove(part)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(part)) => Ok(Some(part)),
        Some(_) => Err(malformed("processor_config.json", &format!("{part} is not an object"))),
    }
}

/// `chat_template.jinja`, or `chat_template` of tokenizer_config.json: a string, or a list of named templates of
/// which `default` is taken, as transformers does.
pub(super) fn chat_template(
    dir: &Path,
    tokenizer_config: &Map<String, Value>,
) -> Result<Option<String>, ImportError> {
    const FILE: &str = "chat_template.jinja";
    if let Some(bytes) = bytes(dir, FILE)? {
        let text = String::from_utf8(bytes).map_err(|e| malformed(FILE, &e.to_string()))?;
        return Ok(Some(text));
    }
    let bad = |problem: &str| malformed("tokenizer_config.json", problem);
    match tokenizer_config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(list)) => {
            let named_default = |t: &&Value| t.get("name").and_then(Value::as_str) == Some("default");
            let template = list.iter().find(named_default).and_then(|t| t.get("template"));
            let text = template.and_then(Value::as_str);
            let text = text.ok_or_else(|| bad("chat_template is a list without a template named default"))?;
            Ok(Some(text.into()))
        }
        Some(_) => Err(bad("chat_template is neither a text nor a list of templates")),
    }
}

/// The folder's own name, for provenance.
pub(super) fn name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.into());
    full.file_name().map_or_else(|| "checkpoint".into(), |n| n.to_string_lossy().into_owned())
}

/// `license` of the model card's front matter (the lines between two `---` at the start of README.md).
pub(super) fn license(dir: &Path) -> Result<Option<String>, ImportError> {
    let Some(card) = bytes(dir, "README.md")? else { return Ok(None) };
    let card = String::from_utf8_lossy(&card);
    let mut lines = card.lines();
    if lines.next() != Some("---") {
        return Ok(None);
    }
    let license = lines.take_while(|line| *line != "---").find_map(|line| line.strip_prefix("license:"));
    Ok(license.map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()))
}
