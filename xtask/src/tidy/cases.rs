//! Pages that list cases, each with the test that holds it: `docs/history.md` and `docs/security.md`.
//!
//! ```text
//!  | N  | scenario                          | how                          | test                                  |
//!  |----|-----------------------------------|------------------------------|---------------------------------------|
//!  | 1  | a job waits at a pause point ...  | no ticket across a pause     | `crates/core/tests/misuse/pause.rs`   |
//!  | 2  | the last reference is dropped ... | closing is part of a command | `core::close::close_awaits_requests`  |
//!  | 10 | a drain returns while a job ...   |                              | later: jobs                           |
//! ```
//! Rows from 1 on, each once and in order: 53 of history, 25 or more of security. The last cell names tests in
//! backquotes, as `crate::path::test_name` or as the path of a misuse program (from the root, or from the crate's
//! `tests/`); a row of history may say `later: SUBJECT` instead. A function of that name has to exist in that crate, and
//! every word of the path between has to be a module of it.

use std::collections::BTreeSet;

use super::Finding;
use super::lexer::Kind;
use super::tree::{Source, Tree, crate_of, has_extension, starts_with};

/// A page that lists cases.
struct Page {
    path: &'static str,
    rule: &'static str,
    /// What its rows are.
    cases: &'static str,
    rows_min: usize,
    rows_max: usize,
    /// Whether a test may be still to come.
    may_wait: bool,
}

const HISTORY: Page = Page {
    path: "docs/history.md",
    rule: "history",
    cases: "the 53 scenarios",
    rows_min: 53,
    rows_max: 53,
    may_wait: true,
};
const SECURITY: Page = Page {
    path: "docs/security.md",
    rule: "security",
    cases: "the known classes of attacks",
    rows_min: 25,
    rows_max: usize::MAX,
    may_wait: false,
};

pub(super) fn check(tree: &Tree, sources: &[Source<'_>]) -> Vec<Finding> {
    [HISTORY, SECURITY].iter().flat_map(|page| check_page(page, tree, sources)).collect()
}

fn check_page(page: &Page, tree: &Tree, sources: &[Source<'_>]) -> Vec<Finding> {
    let finding = |line, text| Finding::new(page.path, line, page.rule, text);
    let Some(text) = tree.text(page.path) else {
        return vec![finding(1, format!("write it: one row for each of {}", page.cases))];
    };
    let (mut findings, mut expected) = (Vec::new(), 1);
    let mut last_line = 1;
    for (line, content) in (1..).zip(text.lines()) {
        let Some((number, test)) = row(content) else { continue };
        last_line = line;
        if number == Some(expected) {
            expected += 1;
        } else {
            findings.push(finding(line, format!("this should be row {expected}")));
            expected = number.map_or(expected, |number| number + 1);
        }
        findings.extend(problem(page, tree, sources, test).map(|text| finding(line, text)));
    }
    if expected <= page.rows_min {
        findings.push(finding(last_line, format!("go on to row {}", page.rows_min)));
    } else if expected - 1 > page.rows_max {
        findings.push(finding(last_line, format!("end with row {}", page.rows_max)));
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
fn problem(page: &Page, tree: &Tree, sources: &[Source<'_>], test: &str) -> Option<String> {
    if let (Some(subject), true) = (test.strip_prefix("later:"), page.may_wait) {
        return subject.trim().is_empty().then(|| "say what it waits for: `later: SUBJECT`".into());
    }
    let names: Vec<&str> = test.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        let or_wait = if page.may_wait { ", or say `later: SUBJECT`" } else { "" };
        return Some(format!("name a test in backquotes{or_wait}"));
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

    const ROWS: usize = HISTORY.rows_max;

    fn check_history(tree: &Tree) -> Vec<Finding> {
        check_page(&HISTORY, tree, &tree.sources())
    }

    /// The findings for a table whose row 2 ends in `cell`.
    fn found(cell: &str) -> Vec<String> {
        let rows =
            (1..=ROWS).map(|n| format!("| {n} | s | h | {} |\n", if n == 2 { cell } else { "later: jobs" }));
        let table = format!(
            "# History\n\n| N | scenario | how | test |\n|---|:--|---|---|\n{}",
            rows.collect::<String>()
        );
        let tree = Tree::of(&[
            (HISTORY.path, &table),
            ("crates/core/src/gate.rs", "#[cfg(test)] mod tests { #[test] fn opens() {} }"),
            ("crates/core/tests/misuse/drain.rs", ""),
            ("crates/sys/tests/it/wake.rs", "fn wakes() {}"),
        ]);
        lines(&check_history(&tree))
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
        let tree = Tree::of(&[(HISTORY.path, &table)]);
        check_history(&tree).len()
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
        let missing = ["docs/history.md:1: history", "docs/security.md:1: security"];
        assert_eq!(lines(&check(&tree, &tree.sources())), missing);
    }

    #[test]
    fn attacks_wait_for_nothing_and_may_be_more() {
        let found = |rows: usize, cell: &str| {
            let table: String = (1..=rows).map(|n| format!("| {n} | s | h | {cell} |\n")).collect();
            let tree = Tree::of(&[(SECURITY.path, &table), ("crates/sys/tests/it/wake.rs", "fn wakes() {}")]);
            check_page(&SECURITY, &tree, &tree.sources()).len()
        };
        assert_eq!(found(25, "`sys::wakes`"), 0);
        assert_eq!(found(60, "`sys::wakes`"), 0);
        assert_eq!(found(24, "`sys::wakes`"), 1);
        assert_eq!(found(25, "later: jobs"), 25);
    }
}
