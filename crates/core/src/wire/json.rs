//! Strict JSON: bounded in size and depth, no duplicate keys, errors that name the field.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::MESSAGE_BYTES_MAX;
use crate::Amount;
use crate::error::Malformed;

/// Deepest nesting of a message, counting the outermost object as one.
pub const DEPTH_MAX: usize = 32;

/// Parses a message.
///
/// # Errors
/// When it is too large or too deep, is no JSON, or says one key twice (two parsers could then
/// read two different payments).
pub fn parse(bytes: &[u8]) -> Result<Value, Malformed> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Malformed::new("message", format!("is larger than {MESSAGE_BYTES_MAX} bytes")));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    // The parser's own words quote no input, only what it expected and where.
    let problem =
        |error: serde_json::Error| Malformed::new("message", format!("bad JSON: {error}"));
    let value = Strict { depth: DEPTH_MAX }.deserialize(&mut deserializer).map_err(problem)?;
    deserializer.end().map_err(problem)?;
    Ok(value)
}

struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth }),
            None => Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.deeper()?)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(self.deeper()?)?;
            // The key itself is the sender's; it is named only when it is short and plain.
            if map.contains_key(&key) {
                let plain = key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric());
                let name = if plain { key.as_str() } else { "a key" };
                return Err(A::Error::custom(format_args!("{name} appears twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// The fields of one object, taken out one by one; what is left is what nobody knew.
pub struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// The fields of `value`, which stands at `path`.
    ///
    /// # Errors
    /// When it is no object.
    pub fn root(value: Value, path: &str) -> Result<Self, Malformed> {
        match value {
            Value::Object(map) => Ok(Self { map, path: path.to_owned() }),
            _ => {
                let field = if path.is_empty() { "message" } else { path };
                Err(Malformed::new(field, "must be an object"))
            }
        }
    }

    /// The full path of `key`.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Whether `key` is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    fn take(&mut self, key: &str, form: &str) -> Result<Value, Malformed> {
        // `shift_remove` keeps the order of what remains.
        self.map
            .shift_remove(key)
            .ok_or_else(|| Malformed::new(self.path(key), format!("is missing; {form}")))
    }

    fn wrong<T>(&self, key: &str, form: &str) -> Result<T, Malformed> {
        Err(Malformed::new(self.path(key), form))
    }

    /// A string.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn text(&mut self, key: &str) -> Result<String, Malformed> {
        match self.take(key, "must be a string")? {
            Value::String(text) => Ok(text),
            _ => self.wrong(key, "must be a string"),
        }
    }

    /// A string that may be missing or null. A null stays among the rest, for the echo.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text_or_null(&mut self, key: &str) -> Result<Option<String>, Malformed> {
        if !self.has(key) {
            return Ok(None);
        }
        self.text(key).map(Some)
    }

    /// A boolean; `1`, `"true"` and the like are none.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn bool(&mut self, key: &str) -> Result<bool, Malformed> {
        match self.take(key, "must be true or false")? {
            Value::Bool(value) => Ok(value),
            _ => self.wrong(key, "must be true or false"),
        }
    }

    /// A whole number of at most 64 bits.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn u64(&mut self, key: &str) -> Result<u64, Malformed> {
        let form = "must be a whole number, 0 or more";
        match self.take(key, form)?.as_u64() {
            Some(number) => Ok(number),
            None => self.wrong(key, form),
        }
    }

    /// An amount: a decimal string of atomic units.
    ///
    /// # Errors
    /// When it is missing or breaks the grammar of [`Amount::parse`].
    pub fn amount(&mut self, key: &str) -> Result<Amount, Malformed> {
        let form = "must be a string of decimal digits";
        match self.take(key, form)? {
            Value::String(text) => Amount::parse(&text)
                .map_err(|error| Malformed::new(self.path(key), error.to_string())),
            _ => self.wrong(key, form),
        }
    }

    /// An object.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn object(&mut self, key: &str) -> Result<Self, Malformed> {
        let value = self.take(key, "must be an object")?;
        Self::root(value, &self.path(key))
    }

    /// An object that may be missing or null. A null or an empty one stays among the rest, for
    /// the echo.
    ///
    /// # Errors
    /// When it is something else.
    pub fn map_or_null(&mut self, key: &str) -> Result<Map<String, Value>, Malformed> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) if map.is_empty() => Ok(Map::new()),
            Some(_) => Ok(self.object(key)?.rest()),
        }
    }

    /// An array.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn array(&mut self, key: &str) -> Result<Vec<Value>, Malformed> {
        match self.take(key, "must be an array")? {
            Value::Array(items) => Ok(items),
            _ => self.wrong(key, "must be an array"),
        }
    }

    /// Everything that was not taken.
    pub fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        for levels in [DEPTH_MAX + 1, 127, 5_000] {
            assert!(parse(nested(levels).as_bytes()).is_err(), "{levels} levels were read");
        }
    }

    #[test]
    fn duplicates_size_and_trailing_text_are_refused() {
        let twice = parse(br#"{"amount":"1","amount":"2"}"#).unwrap_err();
        assert!(twice.problem.contains("amount appears twice"), "{twice}");
        assert!(parse(br#"{"a":{"b":1,"\u0062":2}}"#).is_err(), "escaped duplicate");
        assert!(parse(b"{} {}").is_err());
        assert!(parse(b"").is_err());
        let large = format!("\"{}\"", "x".repeat(MESSAGE_BYTES_MAX));
        assert!(parse(large.as_bytes()).is_err());
    }
}
