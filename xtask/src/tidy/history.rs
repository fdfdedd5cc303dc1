//! `docs/history.md` lists the historical scenarios, each with the test that holds it.
//!
//! ```text
//!  | N  | scenario                          | how                          | test                                  |
//!  |----|-----------------------------------|------------------------------|---------------------------------------|
//!  | 1  | a job waits at a pause point ...  | no ticket across a pause     | `crates/core/tests/misuse/pause.rs`   |
//!  | 2  | the last reference is dropped ... | closing is part of a command | `core::close::close_awaits_requests`  |
//!  | 10 | a drain returns while a job ...   |                              | later: jobs                           |
//! ```
//! Rows 1 to 53, each once and in order. The last cell names tests in backquotes, as `crate::path::test_name` or as
//! the path of a misuse program (from the root, or from the crate's `tests/`); or it says `later: SUBJECT`. A function
//! of that name has to exist in that crate, and every word of the path between has to be a module of it.

use std::collections::BTreeSet;

use super::Finding;
use super::lexer::Kind;
use super::tree::{Source, Tree, crate_of, has_extension, starts_with};

const PATH: &str = "docs/history.md";
const ROWS: usize = 53;

pub(super) fn check(tree: &Tree, sources: &[Source<'_>]) -> Vec<Finding> {
    let Some(text) = tree.text(PATH) else {
        return vec![Finding::new(
            PATH,
            1,
            "history",
            format!("write it: one row for each of the {ROWS} scenarios"),
        )];
    };
    let (mut findings, mut expected) = (Vec::new(), 1);
    let mut last_line = 1;
    for (line, content) in (1..).zip(text.lines()) {
        let Some((number, test)) = row(content) else { continue };
        last_line = line;
        if number == Some(expected) {
            expected += 1;
        } else {
            findings.push(Finding::new(PATH, line, "history", format!("this should be row {expected}")));
            expected = number.map_or(expected, |number| number + 1);
        }
        findings.extend(problem(tree, sources, test).map(|text| Finding::new(PATH, line, "history", text)));
    }
    if expected != ROWS + 1 {
        findings.push(Finding::new(PATH, last_line, "history", format!("end with row {ROWS}")));
    }
    findings
}

/// Number and test of a row of the table; `None` for any other line, the table's own head included.
fn row(line: &str) -> Option<(Option<usize>, &str)> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let (number, rest) = inner.split_once('|')?;
    let number = number.trim();
    if number == "N" || number.starts_with(['-', ':']) {
        return None;
    }
    Some((number.parse().ok(), rest.rsplit('|').next()?.trim()))
}

/// What is wrong with a row's last cell.
fn problem(tree: &Tree, sources: &[Source<'_>], test: &str) -> Option<String> {
    if let Some(subject) = test.strip_prefix("later:") {
        return subject.trim().is_empty().then(|| "say what it waits for: `later: SUBJECT`".into());
    }
    let names: Vec<&str> = test.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        return Some("name a test in backquotes, or say `later: SUBJECT`".into());
    }
    let missing = |name: &&&str| {
        if has_extension(name, "rs") { !is_program(tree, name) } else { !is_test(sources, name) }
    };
    names.iter().find(missing).map(|name| format!("no test `{name}`"))
}

fn is_program(tree: &Tree, name: &str) -> bool {
    let below = format!("/tests/{name}");
    tree.files().any(|(path, _)| path == name || path.ends_with(&below))
}

/// Whether a crate has a function of that name, and its tree has the modules of the path.
fn is_test(sources: &[Source<'_>], name: &str) -> bool {
    let mut parts: Vec<&str> = name.split("::").collect();
    let (Some(function), false) = (parts.pop(), parts.is_empty()) else { return false };
    let first = parts.remove(0).trim_start_matches("drystone_").trim_start_matches("drystone-");
    let own: Vec<&Source<'_>> = sources.iter().filter(|source| crate_of(source.path) == first).collect();
    let modules: BTreeSet<&str> = own.iter().flat_map(|source| modules(source)).collect();
    let has_function =
        own.iter().any(|source| source.tokens.windows(2).any(|pair| starts_with(pair, &["fn", function])));
    has_function && parts.iter().all(|part| modules.contains(part))
}

/// Names by which a path may go through a file: its folders, its own name, and the modules inside it.
fn modules<'a>(source: &Source<'a>) -> impl Iterator<Item = &'a str> {
    let inline = source.tokens.windows(2).filter_map(|pair| match pair {
        [word, name] if word.text == "mod" && name.kind == Kind::Ident => Some(name.text),
        _ => None,
    });
    let inline: Vec<&'a str> = inline.collect();
    source.path.split('/').map(|part| part.trim_end_matches(".rs")).chain(inline)
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    /// The findings for a table whose row 2 ends in `cell`.
    fn found(cell: &str) -> Vec<String> {
        let rows =
            (1..=ROWS).map(|n| format!("| {n} | s | h | {} |\n", if n == 2 { cell } else { "later: jobs" }));
        let table = format!(
            "# History\n\n| N | scenario | how | test |\n|---|:--|---|---|\n{}",
            rows.collect::<String>()
        );
        let tree = Tree::of(&[
            (PATH, &table),
            ("crates/core/src/gate.rs", "#[cfg(test)] mod tests { #[test] fn opens() {} }"),
            ("crates/core/tests/misuse/drain.rs", ""),
            ("crates/sys/tests/it/wake.rs", "fn wakes() {}"),
        ]);
        lines(&check(&tree, &tree.sources()))
    }

    #[test]
    fn a_named_test_has_to_exist_in_its_crate() {
        let bad = ["docs/history.md:6: history"];
        assert!(found("`core::gate::tests::opens`").is_empty());
        assert!(found("`drystone_sys::it::wake::wakes` and `core::opens`").is_empty());
        assert_eq!(found("`core::gate::tests::closes`"), bad);
        assert_eq!(found("`core::door::opens`"), bad);
        assert_eq!(found("`sys::opens`"), bad);
        assert_eq!(found("`opens`"), bad);
        assert_eq!(found("`core::opens`, `core::gone`"), bad);
    }

    #[test]
    fn a_misuse_program_is_named_by_its_path() {
        assert!(found("`misuse/drain.rs`").is_empty());
        assert!(found("`crates/core/tests/misuse/drain.rs`").is_empty());
        assert_eq!(found("`misuse/gone.rs`").len(), 1);
    }

    #[test]
    fn a_row_names_a_test_or_says_what_it_waits_for() {
        assert_eq!(found("later:").len(), 1);
        assert_eq!(found("soon").len(), 1);
        assert_eq!(found("").len(), 1);
    }

    fn numbered(numbers: &[usize]) -> usize {
        let table: String = numbers.iter().map(|n| format!("| {n} | s | h | later: x |\n")).collect();
        let tree = Tree::of(&[(PATH, &table)]);
        check(&tree, &tree.sources()).len()
    }

    #[test]
    fn every_row_is_there_once_and_in_order() {
        let all: Vec<usize> = (1..=ROWS).collect();
        assert_eq!(numbered(&all), 0);
        assert_eq!(numbered(&all[..ROWS - 1]), 1, "the last is missing");
        let without = |gone: usize| all.iter().copied().filter(|n| *n != gone).collect::<Vec<_>>();
        assert_eq!(numbered(&without(7)), 1, "one is missing");
        let more: Vec<usize> = (1..=ROWS + 1).collect();
        assert_eq!(numbered(&more), 1, "one too many");
        assert!(numbered(&[]) == 1);
    }

    #[test]
    fn the_page_has_to_exist() {
        let tree = Tree::of(&[]);
        assert_eq!(lines(&check(&tree, &tree.sources())), ["docs/history.md:1: history"]);
    }
}
