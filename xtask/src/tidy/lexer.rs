//! Rust source as a flat list of tokens with line numbers: enough to find items, attributes and paths, and to know
//! what is a comment or a string.
//!
//! ```text
//!  fn a<'x>() { "}" /* } */ }   ->   fn  a  <  'x  >  (  )  {  "}"  }
//! ```
//! Invariant: every byte belongs to one token or to a gap of white space, and each step consumes at least one
//! character, so lexing ends on any input. Not here: meaning. Punctuation is one character a token, except `::`.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or keyword.
    Ident,
    /// `'a`.
    Lifetime,
    /// A string, character or number.
    Literal,
    /// One character, or `::`.
    Punct,
    /// `// ...` or `/* ... */`, documentation included.
    Comment,
}

/// One token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its text.
    pub(crate) text: &'a str,
    /// The line on which it begins, from 1.
    pub(crate) line: usize,
}

/// The tokens of a file, comments included.
pub(crate) fn lex(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (kind, len) = next(rest, first);
        let (text, after) = rest.split_at_checked(len).unwrap_or((rest, ""));
        if let Some(kind) = kind {
            tokens.push(Token { kind, text, line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

/// Kind and length of what `rest`, which starts with `first`, begins with; no kind for white space.
fn next(rest: &str, first: char) -> (Option<Kind>, usize) {
    if first.is_whitespace() {
        return (None, first.len_utf8());
    }
    if rest.starts_with("//") {
        return (Some(Kind::Comment), rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Some(Kind::Comment), block_comment(rest));
    }
    if let Some(len) = string(rest) {
        return (Some(Kind::Literal), len);
    }
    if first == '\'' {
        return quote(rest);
    }
    if is_name(first) {
        let len = if first.is_ascii_digit() { number(rest) } else { name(rest) };
        return (Some(if first.is_ascii_digit() { Kind::Literal } else { Kind::Ident }), len);
    }
    (Some(Kind::Punct), if rest.starts_with("::") { 2 } else { first.len_utf8() })
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn name(rest: &str) -> usize {
    let raw = if rest.starts_with("r#") { 2 } else { 0 };
    let tail = rest.get(raw..).unwrap_or_default();
    raw + tail.find(|c| !is_name(c)).unwrap_or(tail.len())
}

/// A number: `0x1f_u8`, `1.5e3`; the range `1..2` is not part of it.
fn number(rest: &str) -> usize {
    let end = name(rest);
    let tail = rest.get(end..).unwrap_or_default();
    match tail.strip_prefix('.') {
        Some(fraction) if fraction.starts_with(|c: char| c.is_ascii_digit()) => end + 1 + name(fraction),
        _ => end,
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of a string literal of any kind at the start of `rest`.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| {
        let tail = rest.strip_prefix(prefix).unwrap_or_default();
        let hashes = if prefix.ends_with('r') { tail.trim_start_matches('#') } else { tail };
        hashes.starts_with('"')
    });
    let prefix = prefix.unwrap_or_default();
    let tail = rest.get(prefix.len()..)?;
    if prefix.ends_with('r') {
        let hashes = tail.len() - tail.trim_start_matches('#').len();
        let close = format!("\"{}", "#".repeat(hashes));
        let body = tail.get(hashes + 1..)?;
        let end = body.find(&close).map_or(body.len(), |at| at + close.len());
        return Some(prefix.len() + hashes + 1 + end);
    }
    let body = tail.strip_prefix('"')?;
    Some(prefix.len() + 1 + escaped(body, '"'))
}

/// Length up to and with the closing `quote`, which a backslash hides.
fn escaped(body: &str, quote: char) -> usize {
    let mut hidden = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if hidden => hidden = false,
            '\\' => hidden = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    body.len()
}

/// A character (`'x'`, `'\''`) or a lifetime (`'x`). A byte character is the name `b` and then this.
fn quote(rest: &str) -> (Option<Kind>, usize) {
    let body = rest.get(1..).unwrap_or_default();
    let mut chars = body.chars();
    let (first, second) = (chars.next(), chars.next());
    if first == Some('\\') || second == Some('\'') {
        return (Some(Kind::Literal), 1 + escaped(body, '\''));
    }
    (Some(Kind::Lifetime), 1 + name(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        lex(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn braces_in_strings_characters_and_comments_are_not_braces() {
        let source = r####"{ "}\"}" r#"}"}"# b'}' '\'' '}' /* } /* } */ } */ c"}" } // }"####;
        let braces = lex(source).into_iter().filter(|t| t.kind == Kind::Punct).map(|t| t.text);
        assert_eq!(braces.collect::<String>(), "{}");
    }

    #[test]
    fn a_lifetime_is_not_an_open_character() {
        assert_eq!(texts("fn a<'x>(b: &'x u8) { 'y' }").join(" "), "fn a < 'x > ( b : & 'x u8 ) { 'y' }");
    }

    #[test]
    fn paths_numbers_and_raw_names_stay_together() {
        assert_eq!(
            texts("std::fs r#type 0..1_0.5e3"),
            ["std", "::", "fs", "r#type", "0", ".", ".", "1_0.5e3"]
        );
    }

    #[test]
    fn lines_are_counted_inside_tokens_too() {
        let lines: Vec<usize> = lex("a\n\"\n\"\n/*\n*/ b").iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 2, 4, 5]);
    }

    #[test]
    fn unfinished_tokens_end_with_the_file() {
        let visible = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
        for source in ["\"", "'", "r#\"", "/*", "/* /*", "b'", "'\\", "r#", "\"\\"] {
            assert_eq!(visible(&texts(source).concat()), visible(source), "{source}");
        }
    }
}
