//! Every Rust file opens with `//!`; documents link to files that exist and name nobody's machine.
//!
//! Links are checked in Markdown outside code: `[text](target)` and `[text]: target`, where the target is neither a URL
//! nor an anchor of the same page. A target is relative to the document's folder; one that starts with `/` is
//! refused, because it means something else on every site that shows the page.

use super::Finding;
use super::tree::{Class, Source, Tree, has_extension};

/// Parts of paths that exist on one machine only. Assembled, so that this file does not name them itself.
const MACHINE_PATHS: &[&str] = &[
    concat!("..", "/shared"),
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
];
/// Those of them that no file of any kind may hold.
const NOWHERE: usize = 2;

pub(super) fn check(tree: &Tree, sources: &[Source<'_>]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = sources.iter().filter_map(header).collect();
    for (path, text) in tree.files() {
        let is_markdown = has_extension(path, "md");
        findings.extend(machine_paths(path, text, is_markdown));
        if is_markdown {
            findings.extend(broken_links(tree, path, text));
        }
    }
    findings
}

fn header(source: &Source<'_>) -> Option<Finding> {
    let text = "begin with `//!`: what the file is for, its invariants, what it leaves to others";
    let is_free = source.class == Class::Fixture || source.text.starts_with("//!");
    (!is_free).then(|| Finding::new(source.path, 1, "header", text))
}

fn machine_paths(path: &str, text: &str, is_markdown: bool) -> Vec<Finding> {
    let refused =
        MACHINE_PATHS.get(..if is_markdown { MACHINE_PATHS.len() } else { NOWHERE }).unwrap_or_default();
    let mut findings = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        if let Some(part) = refused.iter().find(|part| names(content, part)) {
            let text = format!("`{part}` exists on one machine only; say it without");
            findings.push(Finding::new(path, line, "machine-path", text));
        }
    }
    findings
}

/// Whether a line holds the path and not just a longer one that ends like it (`/net/work/`).
fn names(content: &str, part: &str) -> bool {
    content.match_indices(part).any(|(at, _)| {
        let before = content.get(..at).unwrap_or_default().chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '*' | '}' | '>'))
    })
}

fn broken_links(tree: &Tree, path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_code = false;
    for (line, content) in (1..).zip(text.lines()) {
        if content.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        for target in targets(&without_code(content)) {
            if !resolves(tree, path, &target) {
                let text = format!("`{target}` is not in the tree");
                findings.push(Finding::new(path, line, "link", text));
            }
        }
    }
    findings
}

/// A line without its parts in backquotes.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

fn targets(line: &str) -> Vec<String> {
    let inline = line.split("](").skip(1).filter_map(|tail| tail.split([')', ' ']).next());
    let definition = line.trim_start().starts_with('[').then(|| line.split_once("]: ")).flatten();
    let definition = definition.and_then(|(_, target)| target.split_whitespace().next());
    inline.chain(definition).map(str::to_string).collect()
}

fn resolves(tree: &Tree, document: &str, target: &str) -> bool {
    let file = target.split('#').next().unwrap_or_default();
    if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let mut folders: Vec<&str> = document.split('/').collect();
    folders.pop();
    for part in file.split('/') {
        match part {
            "." => {}
            ".." if folders.pop().is_none() => return false,
            ".." => {}
            _ => folders.push(part),
        }
    }
    tree.exists(folders.join("/").trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::of(files);
        lines(&check(&tree, &tree.sources()))
    }

    #[test]
    fn a_rust_file_says_first_what_it_is_for() {
        assert_eq!(
            found(&[("crates/core/src/a.rs", "#![x]\n//! late\n")]),
            ["crates/core/src/a.rs:1: header"]
        );
        assert!(
            found(&[("crates/core/src/a.rs", "//! early\n"), ("crates/core/tests/misuse/a.rs", "")])
                .is_empty()
        );
    }

    #[test]
    fn links_are_followed_from_the_documents_own_folder() {
        let text = "[a](b.md) [c](../README.md#part) [d](https://x.y/z)\n[e](#here) [f](gone.md)\n[g]: ../gone/too.md\n";
        let files =
            [("docs/a.md", text), ("docs/b.md", ""), ("README.md", "[d](docs) [e](docs/) [f](/docs)")];
        assert_eq!(found(&files), ["README.md:1: link", "docs/a.md:2: link", "docs/a.md:3: link"]);
    }

    #[test]
    fn code_has_no_links() {
        assert!(found(&[("a.md", "`x[i](j)`\n```text\n[a](b)\n```\n")]).is_empty());
    }

    #[test]
    fn no_document_names_a_machine() {
        let text =
            format!("see {}x\n/net{}\nplain\n{}\n", MACHINE_PATHS[1], MACHINE_PATHS[1], MACHINE_PATHS[2]);
        assert_eq!(found(&[("a.md", &text)]), ["a.md:1: machine-path", "a.md:4: machine-path"]);
        assert_eq!(
            found(&[("a.toml", &text)]),
            ["a.toml:1: machine-path"],
            "a test may speak of a user's folder"
        );
    }
}
