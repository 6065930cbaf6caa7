//! Changes to a template's source before it is compiled.
//!
//! * `{% generation %}` marks what a trainer learns from and prints its body. An `if` that is always true does the
//!   same and keeps the whitespace control.
//! * A namespace attribute is the only thing that survives a loop's turn, so it is the only way to nest values
//!   without end or in a circle, which would overflow the stack when they are printed or dropped. Values assigned
//!   to one pass through [`KEEP`]. Every such assignment starts with `{% set`, and one that this file cannot
//!   follow is refused, so none escapes.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// The function around every value that is assigned to a namespace attribute.
pub(super) const KEEP: &str = "_muse_keep";
/// Levels of lists and maps in a kept value.
const DEPTH_MAX: usize = 8;

/// The source to compile, or what cannot be followed in it.
pub(super) fn harden(source: &str) -> Result<String, String> {
    if source.contains(KEEP) {
        return Err(format!("{KEEP} is a reserved name"));
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let inside = tag.trim_start_matches(['-', '+']).trim_start();
        let name: String = inside.chars().take_while(|&c| is_word(c)).collect();
        let (opening, after) = tag.split_at(tag.len() - inside.len() + name.len());
        rest = after;
        let bare = after.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
        match name.as_str() {
            "generation" if bare => out.push_str(&opening.replace("generation", " if true")),
            "endgeneration" if bare => out.push_str(&opening.replace("endgeneration", " endif")),
            "set" => {
                out.push_str(opening);
                rest = guard(after, &mut out)?;
            }
            _ => out.push_str(opening),
        }
    }
    Ok(out + rest)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Copies what follows `set` up to the end of an assignment to an attribute, its value guarded; returns the rest.
fn guard<'a>(after: &'a str, out: &mut String) -> Result<&'a str, String> {
    let target_len = after.find(['=', '|', '%']).unwrap_or(after.len());
    let (target, assignment) = after.split_at(target_len);
    if !target.contains('.') {
        return Ok(after);
    }
    let unsigned = target.trim_end().trim_end_matches(['-', '+']);
    let is_path = unsigned.split('.').all(|name| !name.trim().is_empty() && name.trim().chars().all(is_word));
    out.push_str(target);
    if is_path && assignment.starts_with("%}") {
        // The value is the text up to `endset`.
        return Ok(assignment);
    }
    let refuse = || format!("the assignment to {:.40} is too unusual to be checked", target.trim());
    let value = assignment.strip_prefix('=').filter(|_| is_path).ok_or_else(refuse)?;
    let len = expression_len(value).ok_or_else(refuse)?;
    out.push_str(&format!("= {KEEP}({})", &value[..len]));
    Ok(&value[len..])
}

/// Bytes before the `%}` of a tag, where all brackets in them are closed.
fn expression_len(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' | '\'' => loop {
                match chars.next()?.1 {
                    '\\' => drop(chars.next()?),
                    end if end == c => break,
                    _ => {}
                }
            },
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            '%' if text[at..].starts_with("%}") => {
                let signed = text[..at].ends_with(['-', '+']);
                return open.is_empty().then_some(at - usize::from(signed));
            }
            ')' | ']' | '}' if open.pop() != Some(c) => return None,
            _ => {}
        }
    }
    None
}

/// A copy of `value` that shares no list or map with it, so that nothing lazy, deep or circular is kept.
pub(super) fn keep(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    copy(state, &value, DEPTH_MAX)
}

fn copy(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<Value, Error> {
    state.consume_fuel(1)?;
    let refuse =
        |problem: &str| Error::new(ErrorKind::InvalidOperation, format!("a namespace cannot hold {problem}"));
    let inner = || depth.checked_sub(1).ok_or_else(|| refuse("lists and maps more than 8 levels deep"));
    match value.kind() {
        ValueKind::Undefined | ValueKind::None | ValueKind::Bool | ValueKind::Number => Ok(value.clone()),
        ValueKind::String | ValueKind::Bytes => Ok(value.clone()),
        ValueKind::Seq | ValueKind::Iterable => {
            let depth = inner()?;
            let items = value.try_iter()?.map(|item| copy(state, &item, depth));
            Ok(Value::from(items.collect::<Result<Vec<_>, _>>()?))
        }
        ValueKind::Map => {
            let depth = inner()?;
            let pairs = value.try_iter()?.map(|key| {
                let item = copy(state, &value.get_item(&key)?, depth)?;
                Ok((copy(state, &key, depth)?, item))
            });
            Ok(Value::from_pairs(pairs.collect::<Result<Vec<_>, Error>>()?))
        }
        other => Err(refuse(&format!("a value of kind {other}"))),
    }
}
