//! Arguments as they come off the wire. What they are made of is counted as it is read: a dictionary without keys is
//! eight bytes of a message and many more of memory.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess};
use zbus::{Signature, Type};

/// Dictionaries, keys and elements of arrays that one argument may have: a tool's message has five, and a configuration
/// allows 65,536 messages at most.
const PIECES: usize = 8 << 16;

/// File descriptors that one argument may name, one as often as it likes. Each becomes one of the daemon's own, of which the
/// unit allows 8192 (`LimitNOFILE`): 64 sessions may ask at once.
const FILES: usize = 64;

pub type Dictionary = HashMap<String, Value>;

/// A file, the bytes of each frame, and frames a second.
pub type WireVideo = (OwnedFd, Vec<u64>, f64);

/// A value of a dictionary, of the types that a key may have.
#[derive(Debug)]
pub enum Value {
    Flag(bool),
    Small(u32),
    Large(u64),
    Double(f64),
    Text(String),
    Texts(Vec<String>),
    Files(Vec<OwnedFd>),
    Videos(Vec<WireVideo>),
    /// Of a type that no key has; it is not kept.
    Other(Box<str>),
}

impl Value {
    /// Its D-Bus type.
    pub fn signature(&self) -> String {
        let known = match self {
            Self::Flag(_) => "b",
            Self::Small(_) => "u",
            Self::Large(_) => "t",
            Self::Double(_) => "d",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::Files(_) => "ah",
            Self::Videos(_) => "a(hatd)",
            Self::Other(signature) => signature,
        };
        known.to_owned()
    }
}

/// An argument whose parts are counted. One that has too many is refused with the numbers.
#[derive(Debug, Default)]
pub struct Counted<T>(pub T);

pub type Options = Counted<Dictionary>;
pub type Conversation = Counted<Vec<Dictionary>>;
pub type Texts = Counted<Vec<String>>;

impl<'de, T: Read<'de>> Deserialize<'de> for Counted<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read(from, &mut Room { pieces: PIECES, files: FILES }).map(Self)
    }
}

impl Type for Options {
    const SIGNATURE: &'static Signature = <HashMap<String, zbus::OwnedVariant>>::SIGNATURE;
}

impl Type for Conversation {
    const SIGNATURE: &'static Signature = <Vec<HashMap<String, zbus::OwnedVariant>>>::SIGNATURE;
}

impl Type for Texts {
    const SIGNATURE: &'static Signature = <Vec<String>>::SIGNATURE;
}

/// What an argument may still have.
struct Room {
    pieces: usize,
    files: usize,
}

fn take<E: de::Error>(left: &mut usize, limit: usize, what: &str) -> Result<(), E> {
    let problem = || E::custom(format!("an argument has more than {limit} {what}; send fewer"));
    *left = left.checked_sub(1).ok_or_else(problem)?;
    Ok(())
}

impl Room {
    fn piece<E: de::Error>(&mut self) -> Result<(), E> {
        take(&mut self.pieces, PIECES, "dictionaries, keys and elements")
    }

    fn file<E: de::Error>(&mut self) -> Result<(), E> {
        take(&mut self.files, FILES, "file descriptors")
    }
}

/// Reads within a room.
trait Read<'de>: Sized {
    fn read<D: Deserializer<'de>>(from: D, room: &mut Room) -> Result<Self, D::Error>;
}

/// What reads a `T`, and what visits what it is made of.
struct Reader<'r, T>(&'r mut Room, PhantomData<T>);

impl<'de, T: Read<'de>> DeserializeSeed<'de> for Reader<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        T::read(from, self.0)
    }
}

fn reader<T>(room: &mut Room) -> Reader<'_, T> {
    Reader(room, PhantomData)
}

impl<'de> Read<'de> for String {
    fn read<D: Deserializer<'de>>(from: D, _: &mut Room) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

impl<'de> Read<'de> for OwnedFd {
    fn read<D: Deserializer<'de>>(from: D, room: &mut Room) -> Result<Self, D::Error> {
        room.file()?;
        zbus::OwnedFd::deserialize(from).map(Self::from)
    }
}

impl<'de> Read<'de> for WireVideo {
    fn read<D: Deserializer<'de>>(from: D, room: &mut Room) -> Result<Self, D::Error> {
        room.file()?;
        let (file, sizes, rate) = <(zbus::OwnedFd, Vec<u64>, f64)>::deserialize(from)?;
        sizes.iter().try_for_each(|_| room.piece())?;
        Ok((file.into(), sizes, rate))
    }
}

impl<'de, T: Read<'de>> Read<'de> for Vec<T> {
    fn read<D: Deserializer<'de>>(from: D, room: &mut Room) -> Result<Self, D::Error> {
        from.deserialize_seq(reader::<Self>(room))
    }
}

impl<'de, T: Read<'de>> de::Visitor<'de> for Reader<'_, Vec<T>> {
    type Value = Vec<T>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = from.next_element_seed(reader(self.0))? {
            self.0.piece()?;
            elements.push(element);
        }
        Ok(elements)
    }
}

impl<'de> Read<'de> for Dictionary {
    fn read<D: Deserializer<'de>>(from: D, room: &mut Room) -> Result<Self, D::Error> {
        from.deserialize_map(reader::<Self>(room))
    }
}

impl<'de> de::Visitor<'de> for Reader<'_, Dictionary> {
    type Value = Dictionary;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a dictionary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Dictionary, A::Error> {
        let mut dictionary = Dictionary::new();
        while let Some(key) = from.next_key()? {
            self.0.piece()?;
            dictionary.insert(key, from.next_value_seed(reader(self.0))?);
        }
        Ok(dictionary)
    }
}

impl<'de> Read<'de> for Value {
    fn read<D: Deserializer<'de>>(from: D, room: &mut Room) -> Result<Self, D::Error> {
        from.deserialize_struct("Variant", &["signature", "value"], reader::<Self>(room))
    }
}

impl<'de> de::Visitor<'de> for Reader<'_, Value> {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a variant")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let signature: Signature = required(from.next_element()?)?;
        // A parsed one is many times as large.
        let (signature, room) = (signature.to_string(), self.0);
        match signature.as_str() {
            "b" => required(from.next_element()?).map(Value::Flag),
            "u" => required(from.next_element()?).map(Value::Small),
            "t" => required(from.next_element()?).map(Value::Large),
            "d" => required(from.next_element()?).map(Value::Double),
            "s" => required(from.next_element()?).map(Value::Text),
            "as" => required(from.next_element_seed(reader(room))?).map(Value::Texts),
            "ah" => required(from.next_element_seed(reader(room))?).map(Value::Files),
            "a(hatd)" => required(from.next_element_seed(reader(room))?).map(Value::Videos),
            _ => {
                required(from.next_element::<IgnoredAny>()?)?;
                Ok(Value::Other(signature.into()))
            }
        }
    }
}

fn required<T, E: de::Error>(value: Option<T>) -> Result<T, E> {
    value.ok_or_else(|| E::custom("a variant has no value"))
}

#[cfg(test)]
mod tests {
    use zbus::Variant;
    use zbus::wire::serialized::{Context, Data};
    use zbus::wire::{LE, to_bytes};

    use super::*;

    type Sent<'a> = HashMap<String, Variant<'a>>;

    /// Reads what was sent as a `T`.
    fn read<T: Type + for<'de> Deserialize<'de>>(sent: &(impl serde::Serialize + Type)) -> Result<T, String> {
        let data = to_bytes(Context::new(LE, 0), sent).unwrap();
        data.deserialize().map(|(value, _)| value).map_err(|problem| problem.to_string())
    }

    #[test]
    fn values_are_what_was_sent() {
        let sent = Sent::from_iter([
            ("b".into(), true.into()),
            ("u".into(), 7u32.into()),
            ("t".into(), 8u64.into()),
            ("d".into(), 0.5f64.into()),
            ("s".into(), "x".into()),
            ("as".into(), vec!["y", ""].into()),
            ("aav".into(), vec![vec![Variant::from(1u8)]].into()),
            ("v".into(), Variant::Variant(Box::new((1u8, "z").into()))),
            ("(ys)".into(), (1u8, "z").into()),
        ]);
        let read: Options = read(&sent).unwrap();
        assert_eq!(read.0.len(), sent.len());
        for (key, value) in &read.0 {
            let fine = match value {
                Value::Flag(value) => *value && key == "b",
                Value::Small(value) => *value == 7 && key == "u",
                Value::Large(value) => *value == 8 && key == "t",
                Value::Double(value) => *value == 0.5 && key == "d",
                Value::Text(value) => value == "x" && key == "s",
                Value::Texts(value) => *value == ["y", ""] && key == "as",
                Value::Other(_) => matches!(key.as_str(), "aav" | "v" | "(ys)"),
                Value::Files(_) | Value::Videos(_) => false,
            };
            assert!(fine, "{key}: {value:?}");
            assert_eq!(value.signature(), sent[key].value_signature().to_string());
        }
    }

    #[test]
    fn what_many_small_parts_would_become_is_not_made() {
        let many = 1 + PIECES;
        let keys: Sent<'_> = (0..many).map(|key| (key.to_string(), Variant::from(0u8))).collect();
        let stop = Sent::from_iter([("stop".into(), vec![""; many].into())]);
        let halves = vec![Sent::from_iter([("a".into(), Variant::from(0u8))]); 1 + PIECES / 2];
        let cases = [
            ("dictionaries", read::<Conversation>(&vec![Sent::new(); many]).map(drop)),
            ("dictionaries of a key", read::<Conversation>(&halves).map(drop)),
            ("keys", read::<Options>(&keys).map(drop)),
            ("texts of an option", read::<Options>(&stop).map(drop)),
            ("texts", read::<Texts>(&vec![""; many]).map(drop)),
        ];
        for (case, read) in cases {
            let problem = read.expect_err(case);
            assert!(
                problem.contains("more than 524288 dictionaries, keys and elements"),
                "{case}: {problem}"
            );
        }
        assert_eq!(read::<Texts>(&vec![""; PIECES]).unwrap().0.len(), PIECES, "as many are taken");
        assert_eq!(read::<Conversation>(&vec![Sent::new(); PIECES]).unwrap().0.len(), PIECES);
    }

    #[test]
    fn a_file_is_not_named_again_and_again() {
        for (count, fine) in [(FILES, true), (FILES + 1, false)] {
            // Numbers of files look as numbers do.
            let sent = Sent::from_iter([("images".into(), Variant::from(vec![0u32; count]))]);
            let mut bytes = to_bytes(Context::new(LE, 0), &sent).unwrap().bytes().to_vec();
            let signature = bytes.windows(2).position(|two| two == b"au").unwrap();
            bytes[signature + 1] = b'h';
            let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            let data = Data::new_fds(bytes, Context::new(LE, 0), [file]);
            match data.deserialize::<Options>() {
                Ok((read, _)) => {
                    assert!(fine && matches!(&read.0["images"], Value::Files(files) if files.len() == count));
                }
                Err(problem) => {
                    let problem = problem.to_string();
                    assert!(!fine && problem.contains("more than 64 file descriptors"), "{problem}");
                }
            }
        }
    }
}
