//! [`Writer`]: values to text.
//!
//! ```text
//!   plain     {"return": [1, {}]}⏎                 ⏎ is CR LF (Spec "General Definitions")
//!   pretty    {⏎    "return": [⏎        1,⏎  …     four blanks per level, empty brackets on two lines
//! ```
//! The text is ASCII: everything else is escaped (Spec "Protocol Specification").

use std::io::Write as _;

use super::{Sink, number};

/// Digits of the largest `u64`.
const DIGITS_MAX: usize = 20;

/// Writes one JSON value after another into memory.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    is_pretty: bool,
    depth: usize,
    /// Something stands before the next item of the innermost object or array.
    has_item: bool,
    /// The next value follows its key.
    is_after_key: bool,
}

impl Writer {
    /// A writer of plain text on one line.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer that indents if asked to.
    #[must_use]
    pub fn with_pretty(is_pretty: bool) -> Self {
        Self { is_pretty, ..Self::default() }
    }

    /// The text of the values written, each of the outermost on a line that CR and LF end.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// A value that is not quoted.
    fn bare(&mut self, text: &[u8]) {
        self.item();
        self.out.extend_from_slice(text);
        self.after();
    }

    fn decimal(&mut self, is_negative: bool, mut magnitude: u64) {
        let mut digits = [0; DIGITS_MAX + 1];
        let mut start = digits.len();
        for slot in digits.iter_mut().rev() {
            start -= 1;
            *slot = b'0' + u8::try_from(magnitude % 10).unwrap_or_default();
            magnitude /= 10;
            if magnitude == 0 {
                break;
            }
        }
        if is_negative && let Some(slot) = digits.get_mut(start - 1) {
            start -= 1;
            *slot = b'-';
        }
        self.bare(digits.get(start..).unwrap_or_default());
    }

    fn begin(&mut self, bracket: u8) {
        self.item();
        self.out.push(bracket);
        self.depth += 1;
        self.has_item = false;
    }

    fn end(&mut self, bracket: u8) {
        self.depth = self.depth.saturating_sub(1);
        self.new_line();
        self.out.push(bracket);
        self.has_item = true;
        self.after();
    }

    /// What stands before a key or value.
    fn item(&mut self) {
        if std::mem::take(&mut self.is_after_key) || self.depth == 0 {
            return;
        }
        if self.has_item {
            self.out.extend_from_slice(if self.is_pretty { b"," } else { b", " });
        }
        self.new_line();
        self.has_item = true;
    }

    /// What stands after a value.
    fn after(&mut self) {
        if self.depth == 0 {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn new_line(&mut self) {
        const INDENT: usize = 4;
        if self.is_pretty {
            self.out.extend_from_slice(b"\r\n");
            self.out.resize(self.out.len() + INDENT * self.depth, b' ');
        }
    }

    fn quoted(&mut self, text: &str) {
        const QUOTES: usize = 2;
        self.out.reserve(text.len() + QUOTES);
        self.out.push(b'"');
        // Without a way out half way: a few instructions for sixteen characters.
        if text.bytes().fold(true, |is_all, byte| is_all & is_plain(byte)) {
            self.out.extend_from_slice(text.as_bytes());
        } else {
            self.escaped(text);
        }
        self.out.push(b'"');
    }

    /// Runs of characters that stand as they are go as a whole.
    fn escaped(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| !is_plain(byte)) {
            // Bytes that are not plain begin a character: inside of one, what is before would not be plain either.
            let (plain, special) = rest.split_at(at);
            self.out.extend_from_slice(plain.as_bytes());
            let mut chars = special.chars();
            if let Some(char) = chars.next() {
                escape(char, &mut self.out);
            }
            rest = chars.as_str();
        }
        self.out.extend_from_slice(rest.as_bytes());
    }
}

/// Whether a character of one byte stands as it is.
const fn is_plain(byte: u8) -> bool {
    (byte >= b' ') & (byte <= b'~') & (byte != b'"') & (byte != b'\\')
}

/// Writes a character that cannot stand as it is.
fn escape(char: char, out: &mut Vec<u8>) {
    let short = match char {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\u{8}' => b"\\b",
        '\u{c}' => b"\\f",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        _ => {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to memory does not fail.
                let _ = write!(out, "\\u{unit:04X}");
            }
            return;
        }
    };
    out.extend_from_slice(short);
}

impl Sink for Writer {
    fn begin_object(&mut self) {
        self.begin(b'{');
    }

    fn end_object(&mut self) {
        self.end(b'}');
    }

    fn begin_array(&mut self) {
        self.begin(b'[');
    }

    fn end_array(&mut self) {
        self.end(b']');
    }

    fn key(&mut self, key: &str) {
        self.item();
        self.quoted(key);
        self.out.extend_from_slice(b": ");
        self.is_after_key = true;
    }

    fn text(&mut self, text: &str) {
        self.item();
        self.quoted(text);
        self.after();
    }

    fn bool(&mut self, value: bool) {
        self.bare(if value { b"true" } else { b"false" });
    }

    fn null(&mut self) {
        self.bare(b"null");
    }

    fn signed(&mut self, value: i64) {
        self.decimal(value < 0, value.unsigned_abs());
    }

    fn unsigned(&mut self, value: u64) {
        self.decimal(false, value);
    }

    fn float(&mut self, value: f64) {
        if value.is_finite() {
            self.bare(number::text(value).as_bytes());
        } else {
            self.null();
        }
    }
}
