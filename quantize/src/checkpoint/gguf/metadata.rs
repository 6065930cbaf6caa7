//! The key-value section. Scalars are kept; an array stays in the file until someone asks for it by its type, so
//! that a file cannot make us hold more than a caller's bound.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reader::{Cursor, Source};
use crate::checkpoint::ImportError;

const KEYS_MAX: u64 = 1 << 16;
const KEY_BYTES_MAX: u64 = 1 << 10;
/// A chat template is the longest scalar text.
const TEXT_BYTES_MAX: u64 = 1 << 24;
/// All scalar texts together.
const TEXTS_BYTES_MAX: u64 = 1 << 26;
const DEPTH_MAX: u32 = 4;
/// Elements of an array that a caller may ask for; the largest published vocabularies have 2^18.
const ELEMENTS_MAX: u64 = 1 << 22;
/// Bytes of one text in an array: a token or a merge.
const ELEMENT_BYTES_MAX: u64 = 1 << 12;
const ELEMENTS_BYTES_MAX: u64 = 1 << 28;
/// A key's length, its value's type and the smallest value.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 1;

const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Integer(i128),
    /// From f32 by its shortest decimal form, so that `1e-5` prints as such.
    Float(f64),
    Bool(bool),
    Text(String),
    /// `count` elements of type `kind`, starting at file offset `at`.
    Array {
        kind: u32,
        count: u64,
        at: u64,
    },
}

impl Value {
    fn show(&self) -> String {
        match self {
            Self::Integer(v) => v.to_string(),
            Self::Float(v) => v.to_string(),
            Self::Bool(v) => v.to_string(),
            Self::Text(v) => format!("{:?}", v.chars().take(40).collect::<String>()),
            Self::Array { kind, count, .. } => format!("an array of {count} elements of type {kind}"),
        }
    }
}

/// A GGUF's keys and values.
pub(super) struct Metadata {
    source: Arc<Source>,
    values: BTreeMap<String, Value>,
}

/// Bytes of one element of a fixed-size type.
fn element_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | BOOL => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}

fn scalar(cursor: &mut Cursor<'_>, kind: u32, what: &str) -> Result<Value, ImportError> {
    Ok(match kind {
        0 => Value::Integer(u8::from_le_bytes(cursor.array(what)?).into()),
        1 => Value::Integer(i8::from_le_bytes(cursor.array(what)?).into()),
        2 => Value::Integer(u16::from_le_bytes(cursor.array(what)?).into()),
        3 => Value::Integer(i16::from_le_bytes(cursor.array(what)?).into()),
        4 => Value::Integer(cursor.u32(what)?.into()),
        5 => Value::Integer(i32::from_le_bytes(cursor.array(what)?).into()),
        6 => Value::Float(shortest(f32::from_le_bytes(cursor.array(what)?))),
        BOOL => match cursor.array(what)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => return Err(cursor.source.malformed(format!("{what}: {other} is not a boolean"))),
        },
        TEXT => Value::Text(cursor.text(TEXT_BYTES_MAX, what)?),
        10 => Value::Integer(cursor.u64(what)?.into()),
        11 => Value::Integer(i64::from_le_bytes(cursor.array(what)?).into()),
        12 => Value::Float(f64::from_le_bytes(cursor.array(what)?)),
        other => return Err(cursor.source.malformed(format!("{what} has unknown value type {other}"))),
    })
}

/// Steps over an array whose element type was not yet read; gives type, count and where the elements start.
fn skip_array(cursor: &mut Cursor<'_>, depth: u32, what: &str) -> Result<Value, ImportError> {
    let kind = cursor.u32(what)?;
    let count = cursor.u64(what)?;
    let at = cursor.at;
    let each = match kind {
        TEXT => 8,
        ARRAY => 12,
        _ => element_bytes(kind).ok_or_else(|| {
            cursor.source.malformed(format!("{what} is an array of unknown value type {kind}"))
        })?,
    };
    if count.checked_mul(each).is_none_or(|bytes| bytes > cursor.left()) {
        let problem = format!("{what} claims {count} elements; {} bytes are left in the file", cursor.left());
        return Err(cursor.source.malformed(problem));
    }
    match kind {
        TEXT => {
            for _ in 0..count {
                let len = cursor.u64(what)?;
                cursor.skip(len, what)?;
            }
        }
        ARRAY if depth == DEPTH_MAX => {
            let problem = format!("{what} nests arrays more than {DEPTH_MAX} deep");
            return Err(cursor.source.malformed(problem));
        }
        ARRAY => {
            for _ in 0..count {
                skip_array(cursor, depth + 1, what)?;
            }
        }
        _ => cursor.skip(count * each, what)?,
    }
    Ok(Value::Array { kind, count, at })
}

impl Metadata {
    /// Reads `count` entries at `cursor`.
    pub(super) fn read(
        source: &Arc<Source>,
        cursor: &mut Cursor<'_>,
        count: u64,
    ) -> Result<Self, ImportError> {
        if count > KEYS_MAX || count.saturating_mul(ENTRY_BYTES_MIN) > cursor.left() {
            let problem = format!("{count} metadata entries do not fit in {} bytes", cursor.left());
            return Err(source.malformed(problem));
        }
        let mut values = BTreeMap::new();
        let mut text_bytes = 0;
        for index in 0..count {
            let key = cursor.text(KEY_BYTES_MAX, &format!("metadata key {index}"))?;
            let what = format!("metadata {key}");
            let kind = cursor.u32(&what)?;
            let value = match kind {
                ARRAY => skip_array(cursor, 1, &what)?,
                _ => scalar(cursor, kind, &what)?,
            };
            if let Value::Text(text) = &value {
                text_bytes += text.len() as u64;
                if text_bytes > TEXTS_BYTES_MAX {
                    let (file, what) = (source.name.clone(), "all metadata texts".into());
                    return Err(ImportError::TooLarge {
                        file,
                        what,
                        len: text_bytes,
                        limit: TEXTS_BYTES_MAX,
                    });
                }
            }
            if values.insert(key, value).is_some() {
                return Err(source.malformed(format!("{what} is given twice")));
            }
        }
        Ok(Self { source: source.clone(), values })
    }

    fn wrong(&self, key: &str, rule: &str) -> ImportError {
        let value = self.values.get(key).map_or("missing".into(), Value::show);
        ImportError::Config { key: key.into(), value, rule: rule.into() }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "it must be a text")),
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "it must be a boolean")),
        }
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<u32>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => u32::try_from(*value)
                .map(Some)
                .map_err(|_| self.wrong(key, "it must be an integer between 0 and 2^32 - 1")),
            Some(_) => Err(self.wrong(key, "it must be one integer")),
        }
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "it must be a finite number")),
        }
    }

    /// An integer or a float.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.values.get(key) {
            Some(Value::Integer(_)) => Ok(self.integer(key)?.map(f64::from)),
            _ => self.float(key),
        }
    }

    /// A key without which the model cannot be run.
    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ImportError> {
        value.ok_or_else(|| self.wrong(key, "the model cannot be read without it"))
    }

    fn array(&self, key: &str, kinds: &[u32], rule: &str) -> Result<Option<(u32, u64, u64)>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array { kind, count, at }) if kinds.contains(kind) => {
                if *count > ELEMENTS_MAX {
                    return Err(self.wrong(key, &format!("at most {ELEMENTS_MAX} elements are read")));
                }
                Ok(Some((*kind, *count, *at)))
            }
            Some(_) => Err(self.wrong(key, rule)),
        }
    }

    /// An array of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, ImportError> {
        let Some((_, count, at)) = self.array(key, &[TEXT], "it must be an array of texts")? else {
            return Ok(None);
        };
        let mut cursor = Cursor::new(&self.source, at);
        let mut list = Vec::new();
        let mut bytes = 0;
        for index in 0..count {
            let text = cursor.text(ELEMENT_BYTES_MAX, &format!("{key}[{index}]"))?;
            bytes += text.len() as u64;
            if bytes > ELEMENTS_BYTES_MAX {
                let (file, what) = (self.source.name.clone(), key.into());
                return Err(ImportError::TooLarge { file, what, len: bytes, limit: ELEMENTS_BYTES_MAX });
            }
            list.push(text);
        }
        Ok(Some(list))
    }

    /// An array of 32-bit floats.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, ImportError> {
        let Some((_, count, at)) = self.array(key, &[6], "it must be an array of 32-bit floats")? else {
            return Ok(None);
        };
        let mut cursor = Cursor::new(&self.source, at);
        (0..count).map(|_| Ok(f32::from_le_bytes(cursor.array(key)?))).collect::<Result<_, _>>().map(Some)
    }

    /// An array of 32-bit integers, signed or not; a negative one becomes `u32::MAX`.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<u32>>, ImportError> {
        let Some((kind, count, at)) = self.array(key, &[4, 5], "it must be an array of 32-bit integers")?
        else {
            return Ok(None);
        };
        let mut cursor = Cursor::new(&self.source, at);
        let one = |cursor: &mut Cursor<'_>| -> Result<u32, ImportError> {
            let value = cursor.u32(key)?;
            Ok(if kind == 5 && value > i32::MAX as u32 { u32::MAX } else { value })
        };
        (0..count).map(|_| one(&mut cursor)).collect::<Result<_, _>>().map(Some)
    }
}
