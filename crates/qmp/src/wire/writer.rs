//! [`Writer`]: values to text.
//!
//! ```text
//!   plain     {"return": [1, {}]}⏎                 ⏎ is CR LF (Spec "General Definitions")
//!   pretty    {⏎    "return": [⏎        1,⏎  …     four blanks per level, empty brackets on two lines
//! ```
//! The text is ASCII: everything else is escaped (Spec "Protocol Specification").

use std::fmt;
use std::io::Write as _;

use super::{Sink, number};

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

    fn raw(&mut self, text: fmt::Arguments<'_>) {
        self.item();
        // Writing to memory does not fail.
        let _ = self.out.write_fmt(text);
        self.after();
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
        self.out.push(b'"');
        let mut rest = text;
        while let Some(at) = rest.find(|char| !matches!(char, ' '..='~') || matches!(char, '"' | '\\')) {
            let (plain, special) = rest.split_at(at);
            self.out.extend_from_slice(plain.as_bytes());
            let mut chars = special.chars();
            self.out.extend(chars.next().into_iter().flat_map(escaped));
            rest = chars.as_str();
        }
        self.out.extend_from_slice(rest.as_bytes());
        self.out.push(b'"');
    }
}

/// The escape of a character that cannot stand as it is.
fn escaped(char: char) -> Vec<u8> {
    let short = match char {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\u{8}' => b"\\b",
        '\u{c}' => b"\\f",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        _ => {
            let mut units = [0; 2];
            let units = char.encode_utf16(&mut units).iter();
            return units.flat_map(|unit| format!("\\u{unit:04X}").into_bytes()).collect();
        }
    };
    short.to_vec()
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
        self.raw(format_args!("{value}"));
    }

    fn null(&mut self) {
        self.raw(format_args!("null"));
    }

    fn signed(&mut self, value: i64) {
        self.raw(format_args!("{value}"));
    }

    fn unsigned(&mut self, value: u64) {
        self.raw(format_args!("{value}"));
    }

    fn float(&mut self, value: f64) {
        if value.is_finite() {
            self.raw(format_args!("{}", number::text(value)));
        } else {
            self.null();
        }
    }
}
