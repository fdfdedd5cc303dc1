//! [`Writer`]: values to text.
//!
//! ```text
//!   plain     {"return": [1, {}]}⏎                 ⏎ is CR LF (Spec "General Definitions")
//!   pretty    {⏎    "return": [⏎        1,⏎  …     four blanks per level, empty brackets on two lines
//! ```
//! The text is ASCII: everything else is escaped (Spec "Protocol Specification").

use serde_json::Value;

use super::number;

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

    /// Opens an object; its members follow.
    pub fn begin_object(&mut self) {
        self.begin(b'{');
    }

    /// Closes an object.
    pub fn end_object(&mut self) {
        self.end(b'}');
    }

    /// Opens an array; its items follow.
    pub fn begin_array(&mut self) {
        self.begin(b'[');
    }

    /// Closes an array.
    pub fn end_array(&mut self) {
        self.end(b']');
    }

    /// The key of the member that follows.
    pub fn key(&mut self, key: &str) {
        self.item();
        self.quoted(key);
        self.out.extend_from_slice(b": ");
        self.is_after_key = true;
    }

    /// A string.
    pub fn text(&mut self, text: &str) {
        self.item();
        self.quoted(text);
        self.after();
    }

    /// `true` or `false`.
    pub fn bool(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    /// `null`.
    pub fn null(&mut self) {
        self.raw("null");
    }

    /// A signed integer.
    pub fn signed(&mut self, value: i64) {
        self.raw(&value.to_string());
    }

    /// An unsigned integer.
    pub fn unsigned(&mut self, value: u64) {
        self.raw(&value.to_string());
    }

    /// A floating-point number; JSON has none that are not finite, so these become `null`.
    pub fn float(&mut self, value: f64) {
        if value.is_finite() {
            self.raw(&number::text(value));
        } else {
            self.null();
        }
    }

    /// Any value.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.null(),
            Value::Bool(value) => self.bool(*value),
            Value::String(text) => self.text(text),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(signed), _) => self.signed(signed),
                (None, Some(unsigned)) => self.unsigned(unsigned),
                (None, None) => self.float(number.as_f64().unwrap_or_default()),
            },
            Value::Array(values) => {
                self.begin_array();
                values.iter().for_each(|value| self.value(value));
                self.end_array();
            }
            Value::Object(members) => {
                self.begin_object();
                for (key, value) in members {
                    self.key(key);
                    self.value(value);
                }
                self.end_object();
            }
        }
    }

    fn raw(&mut self, text: &str) {
        self.item();
        self.out.extend_from_slice(text.as_bytes());
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
        for char in text.chars() {
            match char {
                '"' => self.out.extend_from_slice(b"\\\""),
                '\\' => self.out.extend_from_slice(b"\\\\"),
                '\u{8}' => self.out.extend_from_slice(b"\\b"),
                '\u{c}' => self.out.extend_from_slice(b"\\f"),
                '\n' => self.out.extend_from_slice(b"\\n"),
                '\r' => self.out.extend_from_slice(b"\\r"),
                '\t' => self.out.extend_from_slice(b"\\t"),
                ' '..='~' => self.out.extend(u8::try_from(char)),
                _ => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        self.out.extend_from_slice(format!("\\u{unit:04X}").as_bytes());
                    }
                }
            }
        }
        self.out.push(b'"');
    }
}
