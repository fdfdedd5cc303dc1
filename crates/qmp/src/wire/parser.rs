//! The tokens of one value to the value.
//!
//! Invariants: no recursion, so nesting costs no stack; every token ends inside the text.

use serde_json::{Map, Number, Value};

use super::lexer::TokenKind;
use crate::QmpError;

/// A token by its place in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

pub(super) fn parse(text: &[u8], tokens: &[Token]) -> Result<Value, QmpError> {
    let mut parser = Parser { text, tokens: tokens.iter(), open: Vec::new() };
    let mut complete = None;
    loop {
        complete = match (complete, parser.open.pop()) {
            (None, container) => {
                parser.open.extend(container);
                parser.begin()?
            }
            (Some(value), Some(container)) => parser.add(container, value)?,
            (Some(value), None) => return Ok(value),
        };
    }
}

/// An object or array that is not complete.
enum Container {
    Array(Vec<Value>),
    /// And the key of the member that comes next.
    Object(Map<String, Value>, String),
}

struct Parser<'a> {
    text: &'a [u8],
    tokens: std::slice::Iter<'a, Token>,
    open: Vec<Container>,
}

impl Parser<'_> {
    /// A scalar or something empty; `None` if a container was opened.
    fn begin(&mut self) -> Result<Option<Value>, QmpError> {
        let token = self.take()?;
        match token.kind {
            TokenKind::OpenBrace if self.took(TokenKind::CloseBrace) => Ok(Some(Value::Object(Map::new()))),
            TokenKind::OpenBracket if self.took(TokenKind::CloseBracket) => {
                Ok(Some(Value::Array(Vec::new())))
            }
            TokenKind::OpenBrace => {
                let key = self.key()?;
                self.open.push(Container::Object(Map::new(), key));
                Ok(None)
            }
            TokenKind::OpenBracket => {
                self.open.push(Container::Array(Vec::new()));
                Ok(None)
            }
            _ => self.scalar(token).map(Some),
        }
    }

    fn scalar(&self, token: Token) -> Result<Value, QmpError> {
        let text = self.text.get(token.start..token.end).unwrap_or_default();
        match token.kind {
            TokenKind::Text => unquoted(text).map(Value::String),
            TokenKind::Integer | TokenKind::Float => number(token.kind, text),
            TokenKind::Keyword => match text {
                b"true" => Ok(Value::Bool(true)),
                b"false" => Ok(Value::Bool(false)),
                b"null" => Ok(Value::Null),
                _ => {
                    let word = String::from_utf8_lossy(text);
                    Err(QmpError::json(format_args!("invalid keyword '{word}'")))
                }
            },
            _ => Err(QmpError::json("expecting value")),
        }
    }

    /// A key and its colon.
    fn key(&mut self) -> Result<String, QmpError> {
        let token = self.take()?;
        let is_container = matches!(token.kind, TokenKind::OpenBrace | TokenKind::OpenBracket);
        let key = if is_container { Value::Null } else { self.scalar(token)? };
        let Value::String(key) = key else {
            return Err(QmpError::json("key is not a string in object"));
        };
        if self.take()?.kind != TokenKind::Colon {
            return Err(QmpError::json("missing : in object pair"));
        }
        Ok(key)
    }

    /// Adds a value to its container; the container if that is complete.
    fn add(&mut self, container: Container, value: Value) -> Result<Option<Value>, QmpError> {
        let more = match container {
            Container::Array(mut values) => {
                values.push(value);
                match self.take()?.kind {
                    TokenKind::Comma => Container::Array(values),
                    TokenKind::CloseBracket => return Ok(Some(Value::Array(values))),
                    _ => return Err(QmpError::json("expected separator in list")),
                }
            }
            Container::Object(mut map, key) => {
                if map.insert(key, value).is_some() {
                    return Err(QmpError::json("duplicate key"));
                }
                match self.take()?.kind {
                    TokenKind::Comma => {
                        let key = self.key()?;
                        Container::Object(map, key)
                    }
                    TokenKind::CloseBrace => return Ok(Some(Value::Object(map))),
                    _ => return Err(QmpError::json("expected separator in dict")),
                }
            }
        };
        self.open.push(more);
        Ok(None)
    }

    fn take(&mut self) -> Result<Token, QmpError> {
        self.tokens.next().copied().ok_or_else(|| QmpError::json("premature EOI"))
    }

    fn took(&mut self, kind: TokenKind) -> bool {
        let is_next = self.tokens.as_slice().first().is_some_and(|token| token.kind == kind);
        if is_next {
            self.tokens.next();
        }
        is_next
    }
}

/// Integers that fit neither `i64` nor `u64` become floating-point numbers.
fn number(kind: TokenKind, text: &[u8]) -> Result<Value, QmpError> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    if kind == TokenKind::Integer {
        if let Ok(signed) = text.parse::<i64>() {
            return Ok(Value::from(signed));
        }
        if let Ok(unsigned) = text.parse::<u64>() {
            return Ok(Value::from(unsigned));
        }
    }
    let finite = text.parse().ok().and_then(Number::from_f64);
    finite.map(Value::Number).ok_or_else(|| QmpError::json("number out of range"))
}

/// What a string token says, without its quotes.
fn unquoted(token: &[u8]) -> Result<String, QmpError> {
    // The closing quote stays, so that an error can show all of a broken escape at the end.
    let mut rest = token.get(1..).unwrap_or_default();
    let mut out = String::with_capacity(rest.len());
    while rest.len() > 1 {
        let is_special = |&byte: &u8| byte == b'\\' || byte >= 0x80;
        let plain_bytes = rest.iter().position(is_special).unwrap_or(rest.len() - 1);
        let (plain, special) = rest.split_at(plain_bytes);
        out.extend(plain.iter().map(|&byte| char::from(byte)));
        rest = match special.first() {
            Some(b'\\') => escape(special, &mut out)?,
            Some(0x80..) => multibyte(special, &mut out)?,
            _ => special,
        };
    }
    Ok(out)
}

/// One escape at the beginning of `text`; what follows it.
fn escape<'a>(text: &'a [u8], out: &mut String) -> Result<&'a [u8], QmpError> {
    let (char, len) = match text.get(1) {
        Some(&same @ (b'"' | b'\'' | b'\\' | b'/')) => (char::from(same), 2),
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(b'u') => unicode_escape(text)?,
        _ => return Err(QmpError::json("invalid escape sequence in string")),
    };
    out.push(char);
    Ok(text.get(len..).unwrap_or_default())
}

/// The length of `\u` and four digits.
const ESCAPE_BYTES: usize = 6;

fn unicode_escape(text: &[u8]) -> Result<(char, usize), QmpError> {
    let unit = |at: usize| {
        let digits = text.get(at..at + ESCAPE_BYTES)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |sum, &digit| Some(sum * 16 + char::from(digit).to_digit(16)?))
    };
    let invalid = |len: usize| {
        let shown = String::from_utf8_lossy(text.get(..len).unwrap_or(text));
        QmpError::json(format_args!("{shown} is not a valid Unicode character"))
    };
    let first = unit(0).ok_or_else(|| invalid(ESCAPE_BYTES))?;
    let (code, len) = match (first, unit(ESCAPE_BYTES)) {
        (0xd800..=0xdbff, Some(second @ 0xdc00..=0xdfff)) => {
            (0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00), 2 * ESCAPE_BYTES)
        }
        _ => (first, ESCAPE_BYTES),
    };
    char::from_u32(code)
        .filter(|&char| !is_noncharacter(char))
        .map(|char| (char, len))
        .ok_or_else(|| invalid(len))
}

/// One character of several bytes at the beginning of `text`; what follows it.
fn multibyte<'a>(text: &'a [u8], out: &mut String) -> Result<&'a [u8], QmpError> {
    // "Modified UTF-8": the one overlong form that is accepted.
    if let Some(rest) = text.strip_prefix(&[0xc0, 0x80]) {
        out.push('\0');
        return Ok(rest);
    }
    let char = (2..=4).find_map(|len| {
        let char = std::str::from_utf8(text.get(..len)?).ok()?.chars().next()?;
        Some(char).filter(|&char| !is_noncharacter(char))
    });
    let char = char.ok_or_else(|| QmpError::json("invalid UTF-8 sequence in string"))?;
    out.push(char);
    Ok(text.get(char.len_utf8()..).unwrap_or_default())
}

fn is_noncharacter(char: char) -> bool {
    let code = u32::from(char);
    matches!(code, 0xfdd0..=0xfdef) || code & 0xfffe == 0xfffe
}
