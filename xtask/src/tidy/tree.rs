//! The files that the rules look at, and what is known of each Rust file.
//!
//! ```text
//!  Tree: path -> text     --parse-->     Source: class, tokens without comments, comments, ranges of test code
//! ```
//! A file is *production* unless its place says otherwise ([`Class`]); inside a production file the items under
//! `#[cfg(test)]` are test code. Tests of the rules build a [`Tree`] from strings.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;

use super::lexer::{Kind, Token, lex};
use crate::run;

/// Text files of the repository by path (relative, with `/`).
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
}

/// What a Rust file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Part of a crate that users get.
    Production,
    /// Unit or integration tests, examples, fuzz targets.
    Test,
    /// A program that a test feeds to the compiler (`tests/misuse`, `tests/ui`).
    Fixture,
    /// Part of the project's own commands, or a build script.
    Tool,
}

/// One Rust file.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// Where it is.
    pub(crate) path: &'a str,
    /// All of it.
    pub(crate) text: &'a str,
    /// What it is for.
    pub(crate) class: Class,
    /// Its tokens without comments.
    pub(crate) tokens: Vec<Token<'a>>,
    /// Its comments.
    pub(crate) comments: Vec<Token<'a>>,
    /// Lines of items under `#[cfg(test)]`.
    tests: Vec<RangeInclusive<usize>>,
}

impl Tree {
    /// The files of a git checkout: tracked ones, and new ones that are not ignored.
    pub(crate) fn load(root: &Path) -> Result<Self, String> {
        let mut git = Command::new("git");
        git.current_dir(root).args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let listing = run::quiet(&mut git)?;
        let mut files = BTreeMap::new();
        for path in listing.split_terminator('\0') {
            // A file that is deleted but still listed, or is not text, has nothing to check.
            if let Ok(text) = std::fs::read_to_string(root.join(path)) {
                files.insert(path.to_string(), text);
            }
        }
        Ok(Self { files })
    }

    /// A tree for a test: `(path, text)`.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let own = |(path, text): &(&str, &str)| (path.to_string(), text.to_string());
        Self { files: files.iter().map(own).collect() }
    }

    /// All files, in the order of their paths.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The text of one file.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether a file or folder of that path exists; the empty path is the root.
    pub(crate) fn exists(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        path.is_empty()
            || self.files.contains_key(path)
            || self.files.keys().any(|file| file.starts_with(&folder))
    }

    /// All Rust files.
    pub(crate) fn sources(&self) -> Vec<Source<'_>> {
        let rust = self.files().filter(|(path, _)| has_extension(path, "rs"));
        let mut sources: Vec<_> = rust.map(|(path, text)| Source::new(path, text)).collect();
        let test_only: BTreeSet<String> = sources.iter().flat_map(Source::test_modules).collect();
        for source in &mut sources {
            let below =
                |module: &String| source.path == format!("{module}.rs") || is_below(source.path, module);
            if source.class == Class::Production && test_only.iter().any(below) {
                source.class = Class::Test;
            }
        }
        sources
    }
}

/// Whether a path ends in `.EXTENSION`.
pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// Whether `path` is in `folder` or deeper.
pub(crate) fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn class(path: &str) -> Class {
    let folders: Vec<&str> = path.split('/').collect();
    let has = |name: &str| folders.contains(&name);
    if has("tests") && (has("misuse") || has("ui")) {
        return Class::Fixture;
    }
    if has("tests")
        || has("benches")
        || has("examples")
        || has("fuzz")
        || has("tests.rs")
        // What a crate shows to its loom models, and nobody else.
        || has("models")
        || path.ends_with("_tests.rs")
    {
        return Class::Test;
    }
    if matches!(folders.first(), Some(&"xtask" | &"bench")) || has("build.rs") {
        return Class::Tool;
    }
    Class::Production
}

impl<'a> Source<'a> {
    fn new(path: &'a str, text: &'a str) -> Self {
        let (comments, tokens): (Vec<_>, Vec<_>) =
            lex(text).into_iter().partition(|token| token.kind == Kind::Comment);
        let tests = test_items(&tokens).map(|item| item.lines).collect();
        Self { path, text, class: class(path), tokens, comments, tests }
    }

    /// The crate: the folder below `crates/`, else the first folder.
    pub(crate) fn crate_name(&self) -> &'a str {
        crate_of(self.path)
    }

    /// Whether a line is test code.
    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        matches!(self.class, Class::Test | Class::Fixture)
            || self.tests.iter().any(|range| range.contains(&line))
    }

    /// How many lines are not inside an item under `#[cfg(test)]`.
    pub(crate) fn production_lines(&self) -> usize {
        let tests: usize = self.tests.iter().map(|range| range.end() + 1 - range.start()).sum();
        self.text.lines().count().saturating_sub(tests)
    }

    /// Paths, without `.rs`, of the modules that this file declares under `#[cfg(test)]`.
    fn test_modules(&self) -> Vec<String> {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or(("", self.path));
        let own = match file {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_string(),
            _ => self.path.trim_end_matches(".rs").to_string(),
        };
        test_items(&self.tokens).filter_map(|item| item.module).map(|name| format!("{own}/{name}")).collect()
    }
}

/// The crate that a path belongs to: the folder below `crates/`, else the first folder.
pub(crate) fn crate_of(path: &str) -> &str {
    path.strip_prefix("crates/").unwrap_or(path).split('/').next().unwrap_or_default()
}

/// An item under `#[cfg(test)]`.
struct TestItem<'a> {
    lines: RangeInclusive<usize>,
    /// Its name, if it is `mod name;`.
    module: Option<&'a str>,
}

fn test_items<'a, 't>(tokens: &'t [Token<'a>]) -> impl Iterator<Item = TestItem<'a>> + use<'a, 't> {
    let starts = (0..tokens.len()).filter(|at| is_cfg_test(tokens.get(*at..).unwrap_or_default()));
    let mut done = 0;
    starts.filter_map(move |at| {
        let rest = tokens.get(at..)?;
        let first = rest.first()?.line;
        let (item, last) = end_of_item(rest)?;
        let is_nested = first <= done;
        done = done.max(last);
        let module = match item {
            [.., word, name, semicolon] if word.text == "mod" && semicolon.text == ";" => Some(name.text),
            _ => None,
        };
        (!is_nested).then_some(TestItem { lines: first..=last, module })
    })
}

/// `#[cfg(test)]` or `#[cfg(all(test, ...))]`.
fn is_cfg_test(tokens: &[Token<'_>]) -> bool {
    starts_with(tokens, &["#", "[", "cfg", "(", "test", ")"])
        || starts_with(tokens, &["#", "[", "cfg", "(", "all", "(", "test"])
}

/// Whether the tokens begin with these texts.
pub(crate) fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

/// The item that begins here with its attributes: up to its closing brace or semicolon; and its last line.
fn end_of_item<'a, 't>(tokens: &'t [Token<'a>]) -> Option<(&'t [Token<'a>], usize)> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && matches!(token.text, "}" | ";") && token.kind == Kind::Punct {
            return Some((tokens.get(..=at)?, token.line));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_under_cfg_test_is_test_code_and_the_rest_is_not() {
        let text = "//! x\nfn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n";
        let tree = Tree::of(&[("crates/core/src/a.rs", text)]);
        let source = &tree.sources()[0];
        let tests: Vec<usize> = (1..=8).filter(|line| source.is_test_line(*line)).collect();
        assert_eq!(tests, [3, 4, 5, 6, 7]);
        assert_eq!(source.production_lines(), 3);
    }

    #[test]
    fn not_test_is_production() {
        let tree = Tree::of(&[("crates/core/src/a.rs", "#[cfg(not(test))]\nfn a() {}\n")]);
        assert!(!tree.sources()[0].is_test_line(2));
    }

    #[test]
    fn a_module_file_declared_under_cfg_test_is_test_code_with_all_below_it() {
        let tree = Tree::of(&[
            ("crates/core/src/gate/mod.rs", "#[cfg(test)]\npub(crate) mod model;\nmod slot;\n"),
            ("crates/core/src/gate/model.rs", ""),
            ("crates/core/src/gate/model/deep.rs", ""),
            ("crates/core/src/gate/slot.rs", "#[cfg(test)] mod cases;"),
            ("crates/core/src/gate/slot/cases.rs", ""),
        ]);
        let classes: Vec<Class> = tree.sources().iter().map(|source| source.class).collect();
        let (p, t) = (Class::Production, Class::Test);
        assert_eq!(classes, [p, t, t, p, t]);
    }

    #[test]
    fn the_place_of_a_file_says_what_it_is_for() {
        let cases = [
            ("crates/core/src/lib.rs", Class::Production),
            ("crates/core/src/gate/tests.rs", Class::Test),
            ("crates/core/src/gate_tests.rs", Class::Test),
            ("crates/core/tests/it/main.rs", Class::Test),
            ("crates/core/tests/misuse/drain.rs", Class::Fixture),
            ("crates/core/build.rs", Class::Tool),
            ("xtask/src/main.rs", Class::Tool),
            ("examples/serve.rs", Class::Test),
        ];
        for (path, expected) in cases {
            assert_eq!(class(path), expected, "{path}");
        }
    }

    #[test]
    fn folders_exist_when_a_file_is_below_them() {
        let tree = Tree::of(&[("docs/a.md", "")]);
        assert!(tree.exists("docs"));
        assert!(tree.exists("docs/a.md"));
        assert!(!tree.exists("doc"));
    }
}
