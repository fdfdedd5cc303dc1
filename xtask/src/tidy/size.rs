//! A production file has at most 800 lines, a production function at most 70.
//!
//! Inline test modules do not count, nor do test files. A function is counted from its `fn` to its closing brace, with
//! everything between: a long function that is mostly comment is still long to read.

use super::Finding;
use super::lexer::{Kind, Token};
use super::tree::{Class, Source};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

pub(super) fn check(sources: &[Source<'_>]) -> Vec<Finding> {
    let counted = sources.iter().filter(|source| matches!(source.class, Class::Production | Class::Tool));
    counted.flat_map(|source| long_file(source).into_iter().chain(long_functions(source))).collect()
}

fn long_file(source: &Source<'_>) -> Option<Finding> {
    let lines = source.production_lines();
    let text = format!("{lines} lines; split it at {FILE_LINES_MAX}");
    let finding = Finding::new(source.path, FILE_LINES_MAX + 1, "file-length", text);
    (lines > FILE_LINES_MAX).then_some(Finding { amount: lines, ..finding })
}

fn long_functions(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if token.text != "fn" || token.kind != Kind::Ident || source.is_test_line(token.line) {
            continue;
        }
        let rest = source.tokens.get(at + 1..).unwrap_or_default();
        let name = rest.first().filter(|token| token.kind == Kind::Ident);
        let (Some(name), Some(last)) = (name, last_line(rest)) else { continue };
        let lines = last + 1 - token.line;
        if lines > FUNCTION_LINES_MAX {
            let text = format!("`{}` has {lines} lines; split it at {FUNCTION_LINES_MAX}", name.text);
            let finding = Finding::new(source.path, token.line, "function-length", text);
            let place = format!("{}::{}", source.path, name.text);
            findings.push(Finding { amount: lines, place, ..finding });
        }
    }
    findings
}

/// The line of a function's closing brace; `None` if it has no body or is only a type (`fn(u8) -> u8`).
fn last_line(signature: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0_usize;
    for token in signature.iter().filter(|token| token.kind == Kind::Punct) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return None,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return Some(token.line);
                }
            }
            ";" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::super::tree::Tree;
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        lines(&check(&Tree::of(&[(path, text)]).sources()))
    }

    #[test]
    fn a_function_is_measured_to_its_own_closing_brace() {
        let body = "    let x = [0; 3]; // }\n".repeat(69);
        let long = format!("fn a(x: [u8; 2]) -> Vec<u8> {{\n{body}}}\n");
        assert_eq!(found("crates/core/src/a.rs", &long), ["crates/core/src/a.rs:1: function-length"]);
        let short = long.replacen("    let x = [0; 3]; // }\n", "", 1);
        assert!(found("crates/core/src/a.rs", &short).is_empty());
    }

    #[test]
    fn trait_methods_without_a_body_and_function_types_are_not_functions() {
        let text =
            format!("trait T {{ fn a(&self);\n fn b(x: fn(u8) -> u8); }}\n{}fn c() {{}}\n", "\n".repeat(90));
        assert!(found("crates/core/src/a.rs", &text).is_empty());
    }

    #[test]
    fn test_code_may_be_long() {
        let long = format!("fn a() {{\n{}}}\n", "\n".repeat(900));
        assert!(found("crates/core/tests/it/a.rs", &long).is_empty());
        assert!(found("crates/core/src/a/tests.rs", &long).is_empty());
        assert!(found("crates/core/src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{long}}}\n")).is_empty());
        assert_eq!(found("xtask/src/a.rs", &long).len(), 2, "the project's own commands are production too");
    }
}
