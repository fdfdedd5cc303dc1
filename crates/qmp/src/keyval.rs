//! The types of the schema as a command line writes them: `driver=qcow2,file.driver=file,file.filename=a,,b`.
//!
//! ```text
//!   driver=raw,file.driver=file,x.0=a,x.1=b   ──►  {"driver": "raw", "file": {"driver": "file"}, "x": ["a", "b"]}
//!   raw,…                                     ──►  {"driver": "raw", …}       if the first key may be left out
//!   {"driver": "raw", …}                      ──►  JSON
//! ```
//! A comma in a value is written twice. Keys 0, 1, 2, … make a list. Of a key said twice, the last counts. Every scalar
//! is a string; the schema's types read it ([`Notation::Keyval`]).

use serde_json::{Map, Value};

use crate::schema::visit::NESTING_MAX;
use crate::schema::{Qapi, visit};
use crate::{QmpError, wire};

pub use crate::schema::visit::Notation;

/// The longest part of a key between dots, in bytes.
const FRAGMENT_MAX: usize = 127;

/// An option of the command line as a type of the schema; `implied` is the key that a first value without one has.
///
/// # Errors
/// The text is malformed, or not what the type takes.
pub fn parse<T: Qapi>(text: &str, implied: Option<&str>) -> Result<T, QmpError> {
    if text.starts_with('{') {
        return visit::parse(wire::parse_whole(text)?, Notation::Json);
    }
    visit::parse(parse_value(text, implied)?, Notation::Keyval)
}

/// As [`parse`], for options that predate JSON: a key without a value is `on`, or `off` if `no` stands before it.
///
/// # Errors
/// The text is malformed, or not what the type takes.
pub fn parse_flags<T: Qapi>(text: &str, implied: Option<&str>) -> Result<T, QmpError> {
    visit::parse(parse_pairs(text, implied, Bare::Flag)?, Notation::Keyval)
}

/// Dotted keys as nested objects and lists of strings.
///
/// # Errors
/// A key is malformed, used as a value and as an object, or a list has a hole.
pub fn parse_value(text: &str, implied: Option<&str>) -> Result<Value, QmpError> {
    parse_pairs(text, implied, Bare::Refused)
}

/// What a key without a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bare {
    Refused,
    Flag,
}

fn parse_pairs(text: &str, implied: Option<&str>, bare: Bare) -> Result<Value, QmpError> {
    let mut root = Map::new();
    let (mut rest, mut implied) = (text, implied);
    while !rest.is_empty() {
        let (key, value, after) = pair(rest, implied.take(), bare)?;
        insert(&mut root, key, value)?;
        rest = after;
    }
    let members = root.into_iter().map(|(key, value)| {
        let value = listified(value, &key)?;
        Ok((key, value))
    });
    members.collect::<Result<Map<_, _>, _>>().map(Value::Object)
}

/// Whether the text asks for help instead of saying anything: `help` or `?` where a key should be.
#[must_use]
pub fn asks_for_help(text: &str) -> bool {
    !text.starts_with('{') && text.split(',').any(|part| matches!(part, "help" | "?"))
}

/// The first key and value, and what follows them.
fn pair<'a>(
    text: &'a str,
    implied: Option<&'a str>,
    bare: Bare,
) -> Result<(&'a str, String, &'a str), QmpError> {
    let end = text.find(['=', ',']).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    match (after.strip_prefix('='), implied) {
        (Some(after), _) => {
            let (value, rest) = value(after);
            Ok((word, value, rest))
        }
        // Which ends at the first comma, be it doubled or not.
        (None, Some(implied)) => Ok((implied, word.to_owned(), after.strip_prefix(',').unwrap_or(after))),
        (None, None) if word.is_empty() => Err(invalid(word)),
        (None, None) if bare == Bare::Flag => {
            let rest = after.strip_prefix(',').unwrap_or(after);
            Ok(match word.strip_prefix("no") {
                Some(word) if word != "delay" => (word, "off".to_owned(), rest),
                _ => (word, "on".to_owned(), rest),
            })
        }
        (None, None) => Err(QmpError::generic(format!("Expected '=' after parameter '{word}'"))),
    }
}

/// A value up to a single comma, and what follows that.
fn value(text: &str) -> (String, &str) {
    let (mut value, mut rest) = (String::new(), text);
    loop {
        let Some((part, after)) = rest.split_once(',') else {
            value.push_str(rest);
            return (value, "");
        };
        value.push_str(part);
        let Some(after_second) = after.strip_prefix(',') else { return (value, after) };
        value.push(',');
        rest = after_second;
    }
}

fn insert(root: &mut Map<String, Value>, key: &str, value: String) -> Result<(), QmpError> {
    let mut fragments = key.split('.').enumerate().peekable();
    let (mut map, mut prefix_bytes) = (root, 0);
    while let Some((depth, fragment)) = fragments.next() {
        if !is_fragment(fragment, depth == 0) || depth >= NESTING_MAX {
            return Err(invalid(key));
        }
        if fragment.len() > FRAGMENT_MAX {
            return Err(QmpError::generic(format!("Parameter '{fragment}' is too long")));
        }
        prefix_bytes += fragment.len() + usize::from(depth > 0);
        let is_last = fragments.peek().is_none();
        let slot = map.entry(fragment).or_insert_with(|| match is_last {
            true => Value::String(String::new()),
            false => Value::Object(Map::new()),
        });
        match slot {
            Value::Object(inner) if !is_last => map = inner,
            Value::String(text) if is_last => {
                *text = value;
                return Ok(());
            }
            _ => return Err(inconsistent(key.get(..prefix_bytes).unwrap_or(key))),
        }
    }
    Ok(())
}

/// A name of the schema, or, but not first, the index of an item.
fn is_fragment(fragment: &str, is_first: bool) -> bool {
    let bytes = fragment.as_bytes();
    let is_name = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_name || (!is_first && is_index(fragment))
}

fn is_index(fragment: &str) -> bool {
    !fragment.is_empty() && fragment.bytes().all(|byte| byte.is_ascii_digit())
}

/// Objects whose keys are indices become lists; `path` names the value.
fn listified(value: Value, path: &str) -> Result<Value, QmpError> {
    let Value::Object(map) = value else { return Ok(value) };
    let indices = map.keys().filter(|key| is_index(key)).count();
    let inner = |(key, value): (String, Value)| {
        let value = listified(value, &format!("{path}.{key}"))?;
        Ok((key, value))
    };
    let members = map.into_iter().map(inner).collect::<Result<Map<_, _>, QmpError>>()?;
    match (indices, members.len()) {
        (0, _) => Ok(Value::Object(members)),
        (indices, len) if indices < len => Err(inconsistent(path)),
        _ => list(members, path).map(Value::Array),
    }
}

fn list(members: Map<String, Value>, path: &str) -> Result<Vec<Value>, QmpError> {
    let mut items: Vec<(usize, Value)> = members
        .into_iter()
        .map(|(key, value)| match key.parse() {
            Ok(index) => Ok((index, value)),
            Err(_) => Err(invalid(&format!("{path}.{key}"))),
        })
        .collect::<Result<_, _>>()?;
    items.sort_by_key(|(index, _)| *index);
    match items.iter().enumerate().find(|(expected, (index, _))| expected != index) {
        // `x.0` and `x.00` are one item said twice.
        Some((expected, (index, _))) if *index < expected => Err(inconsistent(path)),
        Some((expected, _)) => Err(QmpError::generic(format!("Parameter '{path}.{expected}' missing"))),
        None => Ok(items.into_iter().map(|(_, value)| value).collect()),
    }
}

fn invalid(key: &str) -> QmpError {
    QmpError::generic(format!("Invalid parameter '{key}'"))
}

fn inconsistent(path: &str) -> QmpError {
    QmpError::generic(format!("Parameters '{path}.*' used inconsistently"))
}

/// The truth of a word.
pub(crate) fn bool_of(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// An integer as C writes it: decimal, `0x` hexadecimal, or octal after a zero.
pub(crate) fn integer_of(text: &str) -> Option<i128> {
    let text = text.trim_start();
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (radix, digits) = match (hexadecimal, digits.strip_prefix('0')) {
        (Some(digits), _) => (16, digits),
        (None, Some(digits)) if !digits.is_empty() => (8, digits),
        _ => (10, digits),
    };
    let magnitude =
        i128::from(u64::from_str_radix(Some(digits).filter(|text| !text.starts_with('+'))?, radix).ok()?);
    Some(if is_negative { -magnitude } else { magnitude })
}
