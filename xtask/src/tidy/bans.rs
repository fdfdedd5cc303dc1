//! Words that may not appear, each with what to use instead.
//!
//! | rule | why |
//! |---|---|
//! | `thread-local`, `select`, `sleep`, `clock` | the simulator plays many threads on one and owns the clock; a future that submitted a write is never dropped half way |
//! | `files`, `sockets` | only `sys` talks to the operating system; a driver sees its children |
//! | `random-map` | a run must repeat from its seed |
//! | `lint-reason`, `cast-blanket` | an exception says why, and names the exact lint |
//! | `unfinished`, `ignored` | what is in the tree works |
//!
//! Paths are found where they are written out and inside `use` trees (`use std::{fs, io}`), not through aliases.

use super::Finding;
use super::lexer::{Kind, Token};
use super::tree::{Class, Source, starts_with};

/// A sequence of tokens that is refused.
struct Ban {
    rule: &'static str,
    /// The tokens; a path is looked for in `use` trees too.
    words: &'static [&'static str],
    scope: Scope,
    advice: &'static str,
}

/// Where a ban holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// In every Rust file.
    Everywhere,
    /// Wherever time is not ours to spend: everything but `sys` and the project's own commands.
    OutsideSys,
    /// The same, without test code and crates that are nothing else, which talk to real programs.
    ProductionOutsideSys,
}

const FILES: &str = "files are opened by `sys` and reached through a child";
const SOCKETS: &str = "sockets come from `sys`; the types of addresses are in `core::net`";
const CLOCK: &str = "take the time from the clock that the executor gives";

#[rustfmt::skip]
const BANS: &[Ban] = &[
    Ban { rule: "thread-local", words: &["thread_local", "!"], scope: Scope::ProductionOutsideSys, advice: "pass the thread's identity as a parameter (`Shard`)" },
    Ban { rule: "select", words: &["select", "!"], scope: Scope::ProductionOutsideSys, advice: "await one thing; a dropped branch may have submitted a write" },
    Ban { rule: "select", words: &["select_biased", "!"], scope: Scope::ProductionOutsideSys, advice: "await one thing; a dropped branch may have submitted a write" },
    Ban { rule: "sleep", words: &["thread", "::", "sleep"], scope: Scope::OutsideSys, advice: "wait for the event, not for time" },
    Ban { rule: "clock", words: &["Instant", "::", "now"], scope: Scope::ProductionOutsideSys, advice: CLOCK },
    Ban { rule: "clock", words: &["SystemTime", "::", "now"], scope: Scope::ProductionOutsideSys, advice: CLOCK },
    Ban { rule: "files", words: &["std", "::", "fs"], scope: Scope::ProductionOutsideSys, advice: FILES },
    Ban { rule: "files", words: &["std", "::", "os", "::", "unix", "::", "fs"], scope: Scope::ProductionOutsideSys, advice: FILES },
    Ban { rule: "sockets", words: &["std", "::", "net"], scope: Scope::ProductionOutsideSys, advice: SOCKETS },
    Ban { rule: "sockets", words: &["std", "::", "os", "::", "unix", "::", "net"], scope: Scope::ProductionOutsideSys, advice: SOCKETS },
    Ban { rule: "unfinished", words: &["todo", "!"], scope: Scope::Everywhere, advice: "finish it or leave it out" },
    Ban { rule: "unfinished", words: &["unimplemented", "!"], scope: Scope::Everywhere, advice: "finish it or leave it out" },
    Ban { rule: "ignored", words: &["#", "[", "ignore"], scope: Scope::Everywhere, advice: "make the test pass or remove it" },
];

/// Crates in which a map with a random seed would make a run unrepeatable.
const SEEDED_CRATES: &[&str] = &["core", "format", "protocol", "filter", "job"];
/// Words that mark unfinished work in a comment.
const MARKS: &[&str] = &["TODO", "FIXME"];

pub(super) fn check(sources: &[Source<'_>]) -> Vec<Finding> {
    sources.iter().filter(|source| source.class != Class::Fixture).flat_map(check_source).collect()
}

fn check_source(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let paths = use_paths(&source.tokens);
    for at in 0..source.tokens.len() {
        let rest = source.tokens.get(at..).unwrap_or_default();
        findings.extend(banned_words(source, rest));
        findings.extend(bad_attribute(source, rest));
        findings.extend(random_map(source, rest));
    }
    findings.extend(paths.iter().flat_map(|(line, path)| banned_use(source, *line, path)));
    findings.extend(source.comments.iter().flat_map(|comment| unfinished(source, comment)));
    findings.sort_by_key(|finding| finding.line);
    findings.dedup_by(|a, b| a.line == b.line && a.rule == b.rule);
    findings
}

impl Scope {
    fn holds(self, source: &Source<'_>, line: usize) -> bool {
        let own = source.crate_name();
        let is_outside = own != "sys" && source.class != Class::Tool;
        match self {
            Self::Everywhere => true,
            Self::OutsideSys => is_outside,
            Self::ProductionOutsideSys => {
                is_outside && !matches!(own, "testkit" | "sim") && !source.is_test_line(line)
            }
        }
    }
}

fn banned_words(source: &Source<'_>, rest: &[Token<'_>]) -> Option<Finding> {
    let first = rest.first().filter(|token| token.kind != Kind::Literal)?;
    let is_here = |ban: &&Ban| starts_with(rest, ban.words) && ban.scope.holds(source, first.line);
    let ban = BANS.iter().find(is_here)?;
    let text = format!("`{}`: {}", ban.words.concat(), ban.advice);
    Some(Finding::new(source.path, first.line, ban.rule, text))
}

/// A `use` of something at or below a banned path.
fn banned_use(source: &Source<'_>, line: usize, path: &str) -> Option<Finding> {
    let whole = format!("::{path}::");
    let names =
        |ban: &&Ban| ban.words.contains(&"::") && whole.contains(&format!("::{}::", ban.words.concat()));
    let ban = BANS.iter().find(names).filter(|ban| ban.scope.holds(source, line))?;
    Some(Finding::new(source.path, line, ban.rule, format!("`{path}`: {}", ban.advice)))
}

/// The paths that `use` declarations with braces bring in, with the line of each.
fn use_paths(tokens: &[Token<'_>]) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let starts =
        (0..tokens.len()).filter_map(|at| tokens.get(at..)).filter(|rest| starts_with(rest, &["use"]));
    for rest in starts {
        let end = rest.iter().position(|token| token.text == ";").unwrap_or(rest.len());
        let declaration = rest.get(1..end).unwrap_or_default();
        if declaration.iter().any(|token| token.text == "{") {
            expand(declaration, &mut paths);
        }
    }
    paths
}

fn expand(declaration: &[Token<'_>], paths: &mut Vec<(usize, String)>) {
    let mut stack: Vec<String> = Vec::new();
    let (mut path, mut line) = (String::new(), 0);
    let mut is_open = false;
    for token in declaration {
        match token.text {
            "{" => stack.push(path.clone()),
            "}" | "," => {
                if is_open {
                    paths.push((line, path.clone()));
                }
                is_open = false;
                if token.text == "}" {
                    stack.pop();
                }
                path = stack.last().cloned().unwrap_or_default();
            }
            text => {
                path.push_str(text);
                (line, is_open) = (token.line, true);
            }
        }
        is_open &= token.text != "{";
    }
}

/// `#[allow(...)]` and `#[expect(...)]` need a reason and may not lift all lints on casts at once.
fn bad_attribute(source: &Source<'_>, rest: &[Token<'_>]) -> Option<Finding> {
    let inside = match rest {
        [hash, open, inside @ ..] if hash.text == "#" && open.text == "[" => inside,
        [hash, bang, open, inside @ ..] if hash.text == "#" && bang.text == "!" && open.text == "[" => inside,
        _ => return None,
    };
    let inside = group(inside);
    let is_level =
        |pair: &[Token<'_>]| starts_with(pair, &["allow", "("]) || starts_with(pair, &["expect", "("]);
    let at = inside.windows(2).position(is_level)?;
    let line = inside.get(at)?.line;
    let lints = group(inside.get(at + 2..)?);
    if lints.iter().any(|token| token.text == "as_conversions") {
        return Some(Finding::new(source.path, line, "cast-blanket", "name the exact lint on this cast"));
    }
    let has_reason = lints.windows(2).any(|pair| starts_with(pair, &["reason", "="]));
    (!has_reason).then(|| Finding::new(source.path, line, "lint-reason", "say why: `reason = \"...\"`"))
}

/// The tokens before the bracket that closes the group they are in.
fn group<'a, 't>(tokens: &'t [Token<'a>]) -> &'t [Token<'a>] {
    let mut depth = 0_usize;
    let end = tokens.iter().position(|token| {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return true,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        false
    });
    tokens.get(..end.unwrap_or(tokens.len())).unwrap_or_default()
}

/// A `HashMap` or `HashSet` whose hasher is the standard library's, which is seeded by the operating system.
fn random_map(source: &Source<'_>, rest: &[Token<'_>]) -> Option<Finding> {
    let name = rest.first()?;
    let hasher_at = match name.text {
        "HashMap" => 2,
        "HashSet" => 1,
        "RandomState" => 0,
        _ => return None,
    };
    let is_watched = SEEDED_CRATES.contains(&source.crate_name()) && !source.is_test_line(name.line);
    let tail = rest.get(1..)?;
    let after = if starts_with(tail, &["::", "<"]) { tail.get(1..)? } else { tail };
    let is_random = match after {
        [open, inside @ ..] if open.text == "<" => arguments(inside) <= hasher_at,
        [colons, call, ..] if colons.text == "::" => matches!(call.text, "new" | "with_capacity" | "from"),
        _ => hasher_at == 0,
    };
    let text = "its order changes from run to run; use a BTreeMap/BTreeSet, or name a fixed hasher";
    (is_watched && is_random).then(|| Finding::new(source.path, name.line, "random-map", text))
}

/// How many generic arguments there are up to the closing `>`.
fn arguments(inside: &[Token<'_>]) -> usize {
    let (mut angle, mut other, mut count) = (1_usize, 0_usize, 1);
    let mut previous = "";
    for token in inside {
        match token.text {
            "<" => angle += 1,
            ">" if previous != "-" => angle -= 1,
            "(" | "[" => other += 1,
            ")" | "]" => other = other.saturating_sub(1),
            "," if angle == 1 && other == 0 => count += 1,
            _ => {}
        }
        if angle == 0 {
            break;
        }
        previous = token.text;
    }
    if previous == "," { count - 1 } else { count }
}

fn unfinished(source: &Source<'_>, comment: &Token<'_>) -> Option<Finding> {
    let mark = MARKS.iter().find(|mark| comment.text.contains(*mark))?;
    Some(Finding::new(
        source.path,
        comment.line,
        "unfinished",
        format!("`{mark}`: do it, or file it and say why it is so"),
    ))
}

#[cfg(test)]
mod tests;
