//! A table that claims to list the public functions of a crate lists exactly those.
//!
//! ```text
//!  <!-- functions of core -->
//!  | function          | capability | thread |
//!  |-------------------|------------|--------|
//!  | `Backend::read`   | ticket     | I/O    |
//!  <!-- end of functions -->
//! ```
//! The table may be in a Markdown file or in the `//!` lines of a crate's Rust file; without the marker there is nothing to
//! check. A public function is a `pub fn` of production code, named `Type::function` inside `impl Type` and by its own
//! name outside; methods of traits belong to their trait's documentation. What a macro writes is not seen.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::lexer::{Kind, Token};
use super::tree::{Class, Source, Tree, has_extension};

const BEGIN: &str = "<!-- functions of ";
const END: &str = "<!-- end of functions -->";

/// A table: where it begins, its crate, and the functions it names with their lines.
struct Table<'a> {
    path: &'a str,
    line: usize,
    crate_name: &'a str,
    rows: BTreeMap<&'a str, usize>,
}

pub(super) fn check(tree: &Tree, sources: &[Source<'_>]) -> Vec<Finding> {
    let documents = tree.files().filter(|(path, _)| {
        has_extension(path, "md") || (has_extension(path, "rs") && path.starts_with("crates/"))
    });
    documents.flat_map(|(path, text)| tables(path, text)).flat_map(|table| compare(&table, sources)).collect()
}

fn compare(table: &Table<'_>, sources: &[Source<'_>]) -> Vec<Finding> {
    let of_crate = |source: &&Source<'_>| {
        source.class == Class::Production
            && source.path.starts_with(&format!("crates/{}/src/", table.crate_name))
    };
    let public: BTreeSet<String> = sources.iter().filter(of_crate).flat_map(public_functions).collect();
    let missing = public.iter().filter(|name| !table.rows.contains_key(name.as_str()));
    let mut findings: Vec<Finding> = missing
        .map(|name| Finding::new(table.path, table.line, "functions", format!("add a row for `{name}`")))
        .collect();
    for (name, line) in table.rows.iter().filter(|(name, _)| !public.contains(**name)) {
        let text = format!("`{name}` is not a public function of `{}`; remove the row", table.crate_name);
        findings.push(Finding::new(table.path, *line, "functions", text));
    }
    findings
}

fn tables<'a>(path: &'a str, text: &'a str) -> Vec<Table<'a>> {
    let mut tables: Vec<Table<'a>> = Vec::new();
    let mut is_open = false;
    for (line, content) in (1..).zip(text.lines()) {
        let content = if has_extension(path, "rs") {
            let Some(content) = content.trim_start().strip_prefix("//!") else { continue };
            content.trim()
        } else {
            content.trim()
        };
        if let Some(crate_name) = content.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(" -->")) {
            tables.push(Table { path, line, crate_name, rows: BTreeMap::new() });
            is_open = true;
        } else if content == END {
            is_open = false;
        } else if is_open
            && let Some(name) = row(content)
            && let Some(table) = tables.last_mut()
        {
            table.rows.insert(name, line);
        }
    }
    tables
}

/// The name in backquotes that begins a row.
fn row(line: &str) -> Option<&str> {
    line.strip_prefix('|')?.trim_start().strip_prefix('`')?.split('`').next()
}

/// Where an `impl` block begins to apply, and for what type.
struct Block<'a> {
    owner: Option<&'a str>,
    depth: usize,
}

fn public_functions(source: &Source<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut pending: Option<Option<&str>> = None;
    let mut depth = 0_usize;
    for (at, token) in source.tokens.iter().enumerate() {
        let rest = source.tokens.get(at..).unwrap_or_default();
        match token.text {
            "impl" if is_item(source.tokens.get(at.wrapping_sub(1))) => pending = Some(inherent_type(rest)),
            "{" => {
                depth += 1;
                if let Some(owner) = pending.take() {
                    blocks.push(Block { owner, depth });
                }
            }
            "}" => {
                if blocks.last().is_some_and(|block| block.depth == depth) {
                    blocks.pop();
                }
                depth = depth.saturating_sub(1);
            }
            "pub" if !source.is_test_line(token.line) => {
                let name = public_function(rest);
                let owner = blocks.last().and_then(|block| block.owner);
                names.extend(
                    name.map(|name| owner.map_or(name.to_string(), |owner| format!("{owner}::{name}"))),
                );
            }
            _ => {}
        }
    }
    names
}

/// Whether an `impl` behind this token begins an item and is not a type (`-> impl Future`).
fn is_item(before: Option<&Token<'_>>) -> bool {
    before.is_none_or(|token| matches!(token.text, "}" | ";" | "]" | "unsafe" | "{"))
}

/// `pub [const] [async] [unsafe] fn NAME`; not `pub(crate)`.
fn public_function<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let words = tokens.get(1..)?;
    let skip = words.iter().take_while(|token| matches!(token.text, "const" | "async" | "unsafe")).count();
    match words.get(skip..)? {
        [word, name, ..] if word.text == "fn" && name.kind == Kind::Ident => Some(name.text),
        _ => None,
    }
}

/// The type of `impl<..> path::Type<..> {`; `None` for `impl Trait for Type`.
fn inherent_type<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let mut angle = 0_usize;
    let (mut name, mut previous) = (None, "");
    for token in tokens.get(1..)? {
        match token.text {
            "<" => angle += 1,
            ">" if previous != "-" => angle = angle.saturating_sub(1),
            "{" | "where" if angle == 0 => return name,
            "for" if angle == 0 => return None,
            _ if angle == 0 && token.kind == Kind::Ident => name = Some(token.text),
            _ => {}
        }
        previous = token.text;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    const CODE: &str = "//! x
        pub fn free() {}
        fn hidden() -> impl Fn() { pub_fn() }
        impl<'a, T: Into<Vec<u8>>> gate::Gate<'a, T> where T: Copy {
            pub const fn open(&self) { if x { y } }
            pub(crate) fn inner(&self) {}
        }
        impl Clone for Gate { fn clone(&self) {} }
        pub async fn later() {}
        #[cfg(test)] mod tests { pub fn helper() {} }
    ";

    fn found(rows: &str) -> Vec<String> {
        let table = format!(
            "text\n<!-- functions of core -->\n| function | x |\n|---|---|\n{rows}<!-- end of functions -->\n"
        );
        let tree = Tree::of(&[("crates/core/src/a.rs", CODE), ("docs/graph.md", &table)]);
        lines(&check(&tree, &tree.sources()))
    }

    #[test]
    fn public_functions_are_named_by_their_type() {
        let tree = Tree::of(&[("crates/core/src/a.rs", CODE)]);
        assert_eq!(public_functions(&tree.sources()[0]), ["free", "Gate::open", "later"]);
    }

    #[test]
    fn a_table_lists_exactly_the_public_functions() {
        assert!(found("| `free` | a |\n| `Gate::open` | b |\n| `later` | c |\n").is_empty());
        let found = found("| `free` | a |\n| `Gate::close` | b |\n| `later` | c |\n");
        assert_eq!(found, ["docs/graph.md:2: functions", "docs/graph.md:6: functions"]);
    }

    #[test]
    fn a_table_in_the_header_of_a_module_counts_too() {
        let text = "//! <!-- functions of core -->\n//! | `gone` | a |\n//! <!-- end of functions -->\n";
        let tree = Tree::of(&[("crates/core/src/lib.rs", text)]);
        assert_eq!(lines(&check(&tree, &tree.sources())), ["crates/core/src/lib.rs:2: functions"]);
    }

    #[test]
    fn no_table_no_finding() {
        let tree = Tree::of(&[("crates/core/src/a.rs", CODE)]);
        assert!(check(&tree, &tree.sources()).is_empty());
    }
}
