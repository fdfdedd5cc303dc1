//! [`Options`]: what a user or an image says about a node, option by option, until somebody takes it.
//!
//! ```text
//!   {"driver": "raw", "file.driver": "file", "file.filename": "x"}       dotted keys are nested ones
//!   take_text("driver")   take_len("size")   take_nested("file")         whoever knows an option takes it
//!   finish()                                                             what nobody took is an error
//! ```
//! Scalars may be written as strings, as the C tools allow: `"offset": "512"`, `"read-only": "on"`, `"size": "1G"`.
//!
//! Invariants: nesting is bounded; an option is said once.

use std::collections::BTreeMap;
use std::fmt;

use drystone_base::{Error, Kind, Result};
use serde_json::Value;

use crate::json;

/// How deep options are nested, dotted keys included. (The parser of JSON has a limit of its own.)
const NESTING_MAX: usize = 64;

/// Named options, in the order of their names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options(BTreeMap<String, Entry>);

#[derive(Debug, Clone, PartialEq)]
enum Entry {
    /// Anything but an object.
    Plain(Value),
    Nested(Options),
}

/// Why an option is not added.
enum Fault {
    Twice,
    TooDeep,
}

/// What can be given for a child.
#[derive(Debug, Clone, PartialEq)]
pub enum Child {
    /// Nothing was said.
    Unsaid,
    /// There shall be none (`null`).
    None,
    /// The node of this name.
    Node(String),
    /// A new node with these options.
    New(Options),
}

/// As a JSON object, without blanks.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "{";
        for (key, entry) in &self.0 {
            f.write_str(separator)?;
            let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
            match key.bytes().all(is_plain) {
                true => write!(f, "\"{key}\":")?,
                false => write!(f, "{}:", Value::from(key.as_str()))?,
            }
            match entry {
                Entry::Plain(value) => write!(f, "{value}")?,
                Entry::Nested(options) => write!(f, "{options}")?,
            }
            separator = ",";
        }
        f.write_str(if self.0.is_empty() { "{}" } else { "}" })
    }
}

impl Options {
    /// The options of a JSON object.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if it is no JSON, no object, says an option twice or is nested too deep.
    pub fn from_json(text: &str) -> Result<Self> {
        let value = json::parse(text).map_err(|cause| {
            Error::new(Kind::InvalidInput, "cannot parse the JSON options").because(cause)
        })?;
        Self::from_value(value)
    }

    /// The options of a JSON value.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn from_value(value: Value) -> Result<Self> {
        let Value::Object(members) = value else {
            return Err(Error::new(Kind::InvalidInput, "the options are not a JSON object"));
        };
        let mut options = Self::default();
        for (key, value) in members {
            options.set(&key, value)?;
        }
        Ok(options)
    }

    /// Adds an option; a dotted key goes below its first part.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if the option is there already, or nested too deep.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        self.put(key, value.into(), NESTING_MAX).map_err(|fault| match fault {
            Fault::Twice => refused(key, "it is given twice"),
            Fault::TooDeep => refused(key, "the options are nested too deep"),
        })
    }

    /// Adds options below `key`.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_nested(&mut self, key: &str, options: Self) -> Result<()> {
        match self.0.insert(key.to_owned(), Entry::Nested(options)) {
            None => Ok(()),
            Some(_) => Err(refused(key, "it is given twice")),
        }
    }

    fn put(&mut self, key: &str, value: Value, depth: usize) -> Result<(), Fault> {
        let depth = depth.checked_sub(1).ok_or(Fault::TooDeep)?;
        if let Some((first, rest)) = key.split_once('.') {
            return self.nested(first)?.put(rest, value, depth);
        }
        if let Value::Object(members) = value {
            let nested = self.nested(key)?;
            return members.into_iter().try_for_each(|(inner, value)| nested.put(&inner, value, depth));
        }
        if let Value::Array(items) = value {
            let nested = self.nested(key)?;
            let mut numbered = items.into_iter().enumerate();
            return numbered.try_for_each(|(index, value)| nested.put(&index.to_string(), value, depth));
        }
        match self.0.insert(key.to_owned(), Entry::Plain(value)) {
            None => Ok(()),
            Some(_) => Err(Fault::Twice),
        }
    }

    fn nested(&mut self, key: &str) -> Result<&mut Self, Fault> {
        match self.0.entry(key.to_owned()).or_insert_with(|| Entry::Nested(Self::default())) {
            Entry::Nested(nested) => Ok(nested),
            Entry::Plain(_) => Err(Fault::Twice),
        }
    }

    /// A value that is no object; options where a value is expected are `null`, which no option takes.
    fn take(&mut self, key: &str) -> Option<Value> {
        match self.0.remove(key)? {
            Entry::Plain(value) => Some(value),
            Entry::Nested(_) => Some(Value::Null),
        }
    }

    /// The text of `key`.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if it is no string.
    pub fn take_text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(refused(key, "a string is expected")),
        }
    }

    /// Whether `key` is switched on.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if it is neither a boolean nor `on`, `off`, `yes`, `no`, `true`, `false`.
    pub fn take_switch(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(on)),
            Some(Value::String(text)) => match text.as_str() {
                "on" | "yes" | "true" => Ok(Some(true)),
                "off" | "no" | "false" => Ok(Some(false)),
                _ => Err(refused(key, "'on' or 'off' is expected")),
            },
            Some(_) => Err(refused(key, "'on' or 'off' is expected")),
        }
    }

    /// The number of `key`; as a string, it may have a suffix (`k`, `M`, `G`, `T`, `P`, `E`: powers of 1024).
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if it is no whole number from 0 to 2^64 - 1.
    pub fn take_number(&mut self, key: &str) -> Result<Option<u64>> {
        let number = match self.take(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => parse_len(&text),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| refused(key, "a whole number that is not negative is expected"))
    }

    /// The one of `choices` that `key` names.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if it names none of them.
    pub fn take_choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(text) = self.take_text(key)? else { return Ok(None) };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                Err(refused(key, format!("'{text}' is none of '{}'", names.join("', '"))))
            }
        }
    }

    /// The options below `key`; none if there are none.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if it is something else.
    pub fn take_nested(&mut self, key: &str) -> Result<Self> {
        match self.0.remove(key) {
            None => Ok(Self::default()),
            Some(Entry::Nested(options)) => Ok(options),
            Some(Entry::Plain(_)) => Err(refused(key, "options are expected")),
        }
    }

    /// The items of a list of options below `key`, each numbered from 0 on; none if there are none.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if it is something else, or a number is missing.
    pub fn take_list(&mut self, key: &str) -> Result<Vec<Self>> {
        let mut numbered = self.take_nested(key)?;
        let mut list = Vec::new();
        while numbered.has(&list.len().to_string()) {
            list.push(numbered.take_nested(&list.len().to_string())?);
        }
        match numbered.0.into_keys().next() {
            None => Ok(list),
            Some(other) => {
                Err(refused(&format!("{key}.{other}"), "items are numbered from 0 on, without a gap"))
            }
        }
    }

    /// The same for a list of texts.
    ///
    /// # Errors
    /// As [`Self::take_list`].
    pub fn take_texts(&mut self, key: &str) -> Result<Vec<String>> {
        let mut numbered = self.take_nested(key)?;
        let mut list = Vec::new();
        while let Some(text) = numbered.take_text(&list.len().to_string())? {
            list.push(text);
        }
        match numbered.0.into_keys().next() {
            None => Ok(list),
            Some(other) => {
                Err(refused(&format!("{key}.{other}"), "items are numbered from 0 on, without a gap"))
            }
        }
    }

    /// What is given for the child `key`.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if it is neither a node's name, options nor `null`.
    pub fn take_child(&mut self, key: &str) -> Result<Child> {
        match self.0.remove(key) {
            None => Ok(Child::Unsaid),
            Some(Entry::Nested(options)) => Ok(Child::New(options)),
            Some(Entry::Plain(Value::Null)) => Ok(Child::None),
            Some(Entry::Plain(Value::String(name))) => Ok(Child::Node(name)),
            Some(Entry::Plain(_)) => Err(refused(key, "a node's name or options are expected")),
        }
    }

    /// Whether something is said of `key`.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Whether options are given below `key`.
    #[must_use]
    pub fn is_nested(&self, key: &str) -> bool {
        matches!(self.0.get(key), Some(Entry::Nested(_)))
    }

    /// The options, without those of `keys` and what is below them.
    #[must_use]
    pub fn without(&self, keys: &[&str]) -> Self {
        let kept = self.0.iter().filter(|(key, _)| !keys.contains(&key.as_str()));
        Self(kept.map(|(key, entry)| (key.clone(), entry.clone())).collect())
    }

    /// Every option that is no object, by its dotted key, with its value as users may write it as a string.
    #[must_use]
    pub fn flat(&self) -> BTreeMap<String, String> {
        let mut flat = BTreeMap::new();
        self.flatten("", &mut flat);
        flat
    }

    fn flatten(&self, prefix: &str, flat: &mut BTreeMap<String, String>) {
        for (key, entry) in &self.0 {
            match entry {
                Entry::Nested(options) => options.flatten(&format!("{prefix}{key}."), flat),
                Entry::Plain(value) => {
                    let text = match value {
                        Value::Bool(true) => "on".to_owned(),
                        Value::Bool(false) => "off".to_owned(),
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    flat.insert(format!("{prefix}{key}"), text);
                }
            }
        }
    }

    /// Options that are no objects, with their values.
    pub(crate) fn plain(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().filter_map(|(key, entry)| match entry {
            Entry::Plain(value) => Some((key.as_str(), value)),
            Entry::Nested(_) => None,
        })
    }

    /// Adds an option that is not there yet; its key is not taken apart.
    pub(crate) fn put_new(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), Entry::Plain(value.into()));
    }

    /// Adds options below a key that is not there yet.
    pub(crate) fn put_below(&mut self, key: &str, options: Self) {
        self.0.insert(key.to_owned(), Entry::Nested(options));
    }

    /// Whether nothing is said, or everything has been taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The options that nobody has taken yet.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Everything has been taken.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] naming an option that `driver` does not have.
    pub fn finish(self, driver: &str) -> Result<()> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(refused(&key, format!("driver '{driver}' does not have it"))),
        }
    }
}

fn refused(key: &str, text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text).in_option(key)
}

/// A number with or without a suffix.
fn parse_len(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.get(digits.len()..)? {
        "" | "B" | "b" => 0,
        "K" | "k" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Options {
        Options::from_json(text).unwrap()
    }

    fn fault<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().report()
    }

    #[test]
    fn dotted_keys_and_objects_say_the_same() {
        let nested = of(r#"{"driver": "raw", "file": {"driver": "file", "filename": "x"}}"#);
        assert_eq!(of(r#"{"driver": "raw", "file.driver": "file", "file.filename": "x"}"#), nested);
        assert_eq!(of(r#"{"driver": "raw", "file": {"driver": "file"}, "file.filename": "x"}"#), nested);
    }

    #[test]
    fn an_option_is_said_once() {
        assert_eq!(
            fault(Options::from_json(r#"{"a.b": 1, "a": {"b": 2}}"#)),
            "option 'a.b': it is given twice"
        );
        assert_eq!(fault(Options::from_json(r#"{"a": 1, "a.b": 2}"#)), "option 'a.b': it is given twice");
    }

    #[test]
    fn what_is_no_object_or_nested_too_deep_is_refused() {
        assert!(fault(Options::from_json("[]")).contains("not a JSON object"));
        assert!(fault(Options::from_json("{")).contains("cannot parse"));
        let deep = format!(r#"{{"{}x": 1}}"#, "a.".repeat(100_000));
        assert!(fault(Options::from_json(&deep)).contains("nested too deep"));
    }

    #[test]
    fn scalars_may_be_written_as_strings() {
        let mut options = of(r#"{"a": "512", "b": 512, "c": "1k", "d": "on", "e": false, "f": "4E"}"#);
        for key in ["a", "b"] {
            assert_eq!(options.take_number(key).unwrap(), Some(512));
        }
        assert_eq!(options.take_number("c").unwrap(), Some(1024));
        assert_eq!(options.take_number("f").unwrap(), Some(4 << 60));
        assert_eq!(options.take_switch("d").unwrap(), Some(true));
        assert_eq!(options.take_switch("e").unwrap(), Some(false));
        assert_eq!(options.take_number("none").unwrap(), None);
        options.finish("raw").unwrap();
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for text in [r#""-1""#, "-1", "1.5", r#""""#, r#""k""#, r#""1x""#, r#""16E""#, "null", "{}", "true"] {
            let mut options = of(&format!(r#"{{"a": {text}}}"#));
            assert!(fault(options.take_number("a")).starts_with("option 'a': a whole number"), "{text}");
        }
    }

    #[test]
    fn a_list_is_numbered_however_it_is_written() {
        for text in [
            r#"{"a": [{"x": 1}, {"x": 2}], "b": ["p", "q"]}"#,
            r#"{"a.0.x": 1, "a.1.x": 2, "b.0": "p", "b.1": "q"}"#,
        ] {
            let mut options = of(text);
            let list = options.take_list("a").unwrap();
            let numbers = list.into_iter().map(|mut item| item.take_number("x").unwrap().unwrap());
            assert_eq!(numbers.collect::<Vec<_>>(), [1, 2]);
            assert_eq!(options.take_texts("b").unwrap(), ["p", "q"]);
            options.finish("x").unwrap();
        }
        assert!(of("{}").take_list("a").unwrap().is_empty());
        assert!(fault(of(r#"{"a.1.x": 1}"#).take_list("a")).contains("option 'a.1'"));
        assert!(fault(of(r#"{"a.0": "p", "a.2": "q"}"#).take_texts("a")).contains("option 'a.2'"));
        assert!(fault(of(r#"{"a": 1}"#).take_list("a")).contains("options are expected"));
    }

    #[test]
    fn a_child_is_a_name_options_or_nothing() {
        let mut options = of(r#"{"a": null, "b": "node0", "c": {"driver": "file"}, "d": 1, "e": {}}"#);
        assert_eq!(options.take_child("a").unwrap(), Child::None);
        assert_eq!(options.take_child("b").unwrap(), Child::Node("node0".into()));
        assert!(matches!(options.take_child("c").unwrap(), Child::New(_)));
        assert_eq!(options.take_child("e").unwrap(), Child::New(Options::default()));
        assert_eq!(options.take_child("none").unwrap(), Child::Unsaid);
        assert!(fault(options.take_child("d")).contains("a node's name"));
    }

    #[test]
    fn what_nobody_took_is_named() {
        assert_eq!(
            fault(of(r#"{"bogus": 1}"#).finish("raw")),
            "option 'bogus': driver 'raw' does not have it"
        );
    }
}
