//! Changes to a JSON value that bytes choose: a fuzzer that changes text itself seldom gets past the JSON.

use serde_json::{Map, Value, json};

use super::bytes::Bytes;

/// Changes what `bytes` lead to in `value`.
pub fn edit(value: &mut Value, bytes: &mut Bytes<'_>) {
    let len = match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    // Where the byte is none of the children, the container itself.
    let child = usize::from(bytes.next());
    let child = if len > 200 { (child << 8 | usize::from(bytes.next())) % len } else { child };
    match value {
        Value::Array(items) if child < len => edit(&mut items[child], bytes),
        Value::Object(fields) if child < len => {
            let key = fields.keys().nth(child).expect("it is below the length").clone();
            if bytes.next() == 0xff {
                fields.remove(&key);
            } else {
                edit(&mut fields[&key], bytes);
            }
        }
        other => *other = another(other, bytes),
    }
}

/// Something else in the place of `value`.
fn another(value: &Value, bytes: &mut Bytes<'_>) -> Value {
    let (int, float) = (value.as_i64(), value.as_f64());
    match bytes.next() {
        0 => Value::Null,
        1 => json!(value != &json!(true)),
        2 => json!([]),
        3 => json!({}),
        4 => json!(""),
        5 => json!(-1),
        6 => json!(0),
        7 => json!(i64::MAX),
        8 => json!(u64::MAX),
        9 => json!(u32::MAX),
        10 => json!(1u64 << 31),
        11 => json!(1e300),
        12 => json!(1e-300),
        13 => json!(f32::MIN_POSITIVE / 4.0),
        14 => json!(3e38),
        15 => json!(-0.5),
        16 => json!([value, value]),
        17 => Value::Object(Map::from_iter([("a".to_owned(), value.clone())])),
        18 => json!(int.unwrap_or(0).wrapping_add(1)),
        19 => json!(int.unwrap_or(0).wrapping_sub(1)),
        20 => json!(int.unwrap_or(1).wrapping_mul(2)),
        21 => json!(int.unwrap_or(2) / 2),
        22 => json!(-float.unwrap_or(1.0)),
        23 => json!(float.unwrap_or(1.0) * 1e10),
        24 => json!(value.as_str().unwrap_or("x").repeat(2)),
        25 => Value::Array(value.as_array().map_or(&[][..], Vec::as_slice).iter().skip(1).cloned().collect()),
        26..=63 => json!(1u64 << bytes.next().min(63)),
        64..=127 => json!(bytes.next()),
        _ => {
            let len = usize::from(bytes.next() % 16);
            let text: Vec<u8> = (0..len).map(|_| bytes.next()).collect();
            json!(String::from_utf8_lossy(&text))
        }
    }
}
