//! What the image tool prints: values that know the two layouts of the C tool.
//!
//! ```text
//!  JSON                                 words (behind a heading, indented)
//!  {                                    corrupt: false
//!      "corrupt": false,                bitmaps:
//!      "bitmaps": [                         [0]:
//!          { "name": "a" ... }                  name: a
//! ```
//! JSON is indented by four spaces, an empty list or object takes two lines, and every character that is not printable
//! ASCII is escaped. In words, dashes of keys become spaces and bytes come out as they went in.
//!
//! Invariant: keys appear in the order in which they were put in. Not here: which order that is.

use std::fmt::Write as _;

/// A value of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doc {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Text, which may be any bytes.
    Text(Vec<u8>),
    /// Values in a row.
    List(Vec<Self>),
    /// Values with names.
    Map(Vec<(&'static str, Self)>),
}

impl From<bool> for Doc {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Doc {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Doc {
    fn from(value: &str) -> Self {
        Self::Text(value.as_bytes().to_vec())
    }
}

impl From<&[u8]> for Doc {
    fn from(value: &[u8]) -> Self {
        Self::Text(value.to_vec())
    }
}

impl Doc {
    /// An object of the entries that are there.
    pub(crate) fn map<const N: usize>(entries: [(&'static str, Option<Self>); N]) -> Self {
        Self::Map(entries.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
    }

    /// The value as indented JSON and a line end.
    pub(crate) fn to_json(&self) -> String {
        let mut out = String::new();
        self.json(&mut out, 0);
        out.push('\n');
        out
    }

    /// The value as JSON on one line, without a line end.
    pub(crate) fn to_json_line(&self) -> String {
        let inside = |docs: Vec<String>| docs.join(", ");
        match self {
            Self::List(list) => format!("[{}]", inside(list.iter().map(Self::to_json_line).collect())),
            Self::Map(map) => {
                let entry = |(key, value): &(&str, Self)| format!("\"{key}\": {}", value.to_json_line());
                format!("{{{}}}", inside(map.iter().map(entry).collect()))
            }
            scalar => {
                let mut out = String::new();
                scalar.json(&mut out, 0);
                out
            }
        }
    }

    fn json(&self, out: &mut String, depth: usize) {
        match self {
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(value) => push(out, format_args!("{value}")),
            Self::Text(bytes) => json_string(&String::from_utf8_lossy(bytes), out),
            Self::List(list) => {
                let items = list.iter().map(|value| ("", value));
                json_group(('[', ']'), items, out, depth);
            }
            Self::Map(map) => {
                let items = map.iter().map(|(key, value)| (*key, value));
                json_group(('{', '}'), items, out, depth);
            }
        }
    }

    /// The entries in words, one a line, behind `depth` indentations of four spaces.
    pub(crate) fn words(&self, out: &mut Vec<u8>, depth: usize) {
        match self {
            Self::Map(map) => {
                map.iter().for_each(|(key, value)| value.line(&key.replace('-', " "), out, depth));
            }
            Self::List(list) => {
                list.iter()
                    .enumerate()
                    .for_each(|(index, value)| value.line(&format!("[{index}]"), out, depth));
            }
            Self::Bool(_) | Self::Number(_) | Self::Text(_) => {}
        }
    }

    fn line(&self, key: &str, out: &mut Vec<u8>, depth: usize) {
        out.extend(std::iter::repeat_n(b' ', 4 * depth));
        out.extend_from_slice(key.as_bytes());
        out.push(b':');
        match self {
            Self::Bool(value) => out.extend_from_slice(if *value { b" true" } else { b" false" }),
            Self::Number(value) => out.extend_from_slice(format!(" {value}").as_bytes()),
            Self::Text(bytes) => {
                out.push(b' ');
                out.extend_from_slice(bytes);
            }
            Self::List(_) | Self::Map(_) => {
                out.push(b'\n');
                self.words(out, depth + 1);
                return;
            }
        }
        out.push(b'\n');
    }
}

/// Writing to a string cannot fail.
fn push(out: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(what);
}

fn json_group<'a>(
    brackets: (char, char),
    items: impl Iterator<Item = (&'static str, &'a Doc)>,
    out: &mut String,
    depth: usize,
) {
    let indent = |out: &mut String, depth| out.extend(std::iter::repeat_n("    ", depth));
    out.push(brackets.0);
    let mut separator = "\n";
    for (key, value) in items {
        out.push_str(separator);
        indent(out, depth + 1);
        if brackets.0 == '{' {
            json_string(key, out);
            out.push_str(": ");
        }
        value.json(out, depth + 1);
        separator = ",\n";
    }
    out.push('\n');
    indent(out, depth);
    out.push(brackets.1);
}

fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| push(out, format_args!("\\u{unit:04X}")));
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc() -> Doc {
        Doc::map([
            ("lazy-refcounts", Some(false.into())),
            ("left-out", None),
            (
                "bitmaps",
                Some(Doc::List(vec![Doc::map([
                    ("flags", Some(Doc::List(vec![]))),
                    ("name", Some("a".into())),
                ])])),
            ),
            ("refcount-bits", Some(16.into())),
        ])
    }

    #[test]
    fn json_is_laid_out_as_by_the_c_tool() {
        let expected = "{\n    \"lazy-refcounts\": false,\n    \"bitmaps\": [\n        {\n            \"flags\": [\n            \
                        ],\n            \"name\": \"a\"\n        }\n    ],\n    \"refcount-bits\": 16\n}\n";
        assert_eq!(doc().to_json(), expected);
        assert_eq!(Doc::Map(vec![]).to_json(), "{\n}\n");
        let line =
            r#"{"lazy-refcounts": false, "bitmaps": [{"flags": [], "name": "a"}], "refcount-bits": 16}"#;
        assert_eq!(doc().to_json_line(), line);
    }

    #[test]
    fn words_have_spaces_for_dashes_and_numbers_for_items() {
        let mut out = Vec::new();
        doc().words(&mut out, 1);
        let expected = "    lazy refcounts: false\n    bitmaps:\n        [0]:\n            flags:\n            name: a\n    refcount bits: 16\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn strings_hold_printable_ascii_only() {
        let json = |bytes: &[u8]| Doc::from(bytes).to_json_line();
        assert_eq!(json("n\u{f6}\"\\\t\n\x01\x7f".as_bytes()), r#""n\u00F6\"\\\t\n\u0001\u007F""#);
        assert_eq!(json("\u{1f600}".as_bytes()), r#""\uD83D\uDE00""#);
        assert_eq!(json(b"n\xff"), r#""n\uFFFD""#);
    }
}
