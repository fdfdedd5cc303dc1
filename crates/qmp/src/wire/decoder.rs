//! [`Decoder`]: a stream of bytes to values.
//!
//! ```text
//!   …1,{"execute": "query-ver  sion"}{"ex…      values are cut by structure: no line ends needed, none forbidden
//!       └─── text, tokens ───────────┘          kept until braces and brackets balance, or one is closed too often
//! ```
//! After an error, what was kept is forgotten and the stream is read on; [`Limits`] bound what is kept.

use serde_json::Value;

use super::lexer::{Lexer, TokenKind, Verdict};
use super::parser::{self, Token};
use crate::QmpError;

/// How much one value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its tokens.
    pub text_bytes: usize,
    /// Tokens: braces, brackets, commas, colons, keys and scalars.
    pub tokens: usize,
    /// Braces and brackets open at a time.
    pub nesting: usize,
}

impl Limits {
    /// What a monitor accepts unless it is told otherwise. Nesting is that of release 10.0; its 64 MiB of text and two
    /// million tokens would let one client use more memory than the largest transaction that makes sense.
    pub const DEFAULT: Self = Self { text_bytes: 16 << 20, tokens: 1 << 20, nesting: 1 << 10 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Cuts a stream into JSON values. Not for one whole text: it cannot know that nothing more will come.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    lexer: Lexer,
    /// The tokens of the current value, without what stands between them.
    text: Vec<u8>,
    tokens: Vec<Token>,
    /// Where the current token begins in `text`.
    token_start: usize,
    /// Open less closed; below zero is an error that the parser words.
    braces: isize,
    brackets: isize,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The next value, or the next error, of the stream; `input` is what has not been looked at yet and shrinks.
    /// `None` if all of it has been, and more is needed. A number or word at the end waits for the byte after it.
    ///
    /// # Errors
    /// Inside the `Option`: the text is no JSON or too large. Call again: the stream is read on.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Value, QmpError>> {
        while let Some((&byte, rest)) = input.split_first() {
            let verdict = self.lexer.step(byte);
            if !matches!(verdict, Verdict::EndedBefore(_)) {
                *input = rest;
            }
            if let Some(result) = self.apply(verdict, byte) {
                return Some(result);
            }
        }
        None
    }

    fn apply(&mut self, verdict: Verdict, byte: u8) -> Option<Result<Value, QmpError>> {
        match verdict {
            Verdict::Skip => None,
            Verdict::Take => {
                self.text.push(byte);
                self.text_is_too_long().then(|| Err(self.give_up("JSON token size limit exceeded")))
            }
            Verdict::Last(kind) => {
                self.text.push(byte);
                self.token(kind)
            }
            Verdict::EndedBefore(kind) => self.token(kind),
            Verdict::Stray => {
                self.text.push(byte);
                let token = self.text.get(self.token_start..).unwrap_or_default();
                let error = QmpError::json(format_args!("stray '{}'", String::from_utf8_lossy(token)));
                self.forget();
                Some(Err(error))
            }
        }
    }

    fn token(&mut self, kind: TokenKind) -> Option<Result<Value, QmpError>> {
        match kind {
            TokenKind::OpenBrace => self.braces += 1,
            TokenKind::CloseBrace => self.braces -= 1,
            TokenKind::OpenBracket => self.brackets += 1,
            TokenKind::CloseBracket => self.brackets -= 1,
            _ => {}
        }
        self.tokens.push(Token { kind, start: self.token_start, end: self.text.len() });
        self.token_start = self.text.len();
        if self.braces < 0 || self.brackets < 0 || (self.braces == 0 && self.brackets == 0) {
            let value = parser::parse(&self.text, &self.tokens);
            self.forget();
            return Some(value);
        }
        let refusal = if self.braces.saturating_add(self.brackets).unsigned_abs() > self.limits.nesting {
            "JSON nesting depth limit exceeded"
        } else if self.text_is_too_long() {
            "JSON token size limit exceeded"
        } else if self.tokens.len() >= self.limits.tokens {
            "JSON token count limit exceeded"
        } else {
            return None;
        };
        self.forget();
        Some(Err(QmpError::generic(refusal)))
    }

    fn text_is_too_long(&self) -> bool {
        self.text.len() > self.limits.text_bytes
    }

    /// An error in the middle of a token: what is left of it is skipped.
    fn give_up(&mut self, refusal: &str) -> QmpError {
        self.lexer.recover();
        self.forget();
        QmpError::generic(refusal)
    }

    fn forget(&mut self) {
        // One large request does not keep its memory for the life of the connection.
        const KEPT_BYTES: usize = 64 << 10;
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        self.tokens.clear();
        self.tokens.shrink_to(KEPT_BYTES / size_of::<Token>());
        (self.token_start, self.braces, self.brackets) = (0, 0, 0);
    }
}

/// The value that a whole text is.
///
/// # Errors
/// The text is no JSON, too large, empty, or more than one value.
pub(crate) fn parse_whole(text: &str) -> Result<Value, QmpError> {
    let mut decoder = Decoder::default();
    let mut input = text.as_bytes();
    let first = match decoder.next(&mut input) {
        Some(result) => result?,
        None => {
            let verdict = decoder.lexer.end();
            return decoder.apply(verdict, b' ').unwrap_or_else(|| Err(QmpError::json("premature EOI")));
        }
    };
    if input.iter().any(|byte| !byte.is_ascii_whitespace()) {
        return Err(QmpError::generic("Expecting at most one JSON value"));
    }
    Ok(first)
}
