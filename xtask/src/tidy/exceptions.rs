//! `xtask/tidy-exceptions.txt`: what is tolerated for now. The list may only shrink.
//!
//! ```text
//!  # rule           place                                    at most
//!  function-length  crates/format/src/qcow2/header.rs::parse 84
//!  file-length      crates/core/src/backend.rs               910
//!  clock            crates/cli/src/progress.rs               1
//! ```
//! The place is a path, or `path::function` for the length of a function. The number is the lines for the rules on
//! size, else the count of findings in that file. An entry that tolerates more than there is, is itself a finding.

use super::Finding;
use super::tree::Tree;

const PATH: &str = "xtask/tidy-exceptions.txt";

/// One line of the list.
struct Entry<'a> {
    line: usize,
    rule: &'a str,
    place: &'a str,
    limit: usize,
}

impl Entry<'_> {
    fn covers(&self, finding: &Finding) -> bool {
        self.rule == finding.rule && self.place == finding.place
    }
}

/// The findings that are left when the list is taken into account, and what is wrong with the list.
pub(super) fn apply(tree: &Tree, findings: Vec<Finding>) -> Vec<Finding> {
    let (mut left, mut problems) = (findings, Vec::new());
    for (line, text) in (1..).zip(tree.text(PATH).unwrap_or_default().lines()) {
        match parse(line, text) {
            Ok(Some(entry)) => problems.extend(take(&mut left, &entry)),
            Ok(None) => {}
            Err(()) => problems.push(problem(line, "write `rule place number`")),
        }
    }
    left.append(&mut problems);
    left
}

fn problem(line: usize, text: impl Into<String>) -> Finding {
    Finding::new(PATH, line, "exceptions", text)
}

/// `Ok(None)` for a line without an entry.
fn parse(line: usize, text: &str) -> Result<Option<Entry<'_>>, ()> {
    let text = text.split('#').next().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [] => Ok(None),
        [rule, place, limit] => {
            let limit = limit.parse().map_err(|_| ())?;
            Ok(Some(Entry { line, rule, place, limit }))
        }
        _ => Err(()),
    }
}

/// Takes away what the entry covers; returns what is wrong with the entry.
fn take(findings: &mut Vec<Finding>, entry: &Entry<'_>) -> Option<Finding> {
    let amount: usize =
        findings.iter().filter(|finding| entry.covers(finding)).map(|finding| finding.amount).sum();
    if amount <= entry.limit {
        findings.retain(|finding| !entry.covers(finding));
    }
    match amount {
        0 => Some(problem(entry.line, "nothing here needs it any more; remove the line")),
        _ if amount < entry.limit => Some(problem(entry.line, format!("lower {} to {amount}", entry.limit))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    fn long(lines: usize) -> Finding {
        Finding { amount: lines, place: "a.rs::f".into(), ..Finding::new("a.rs", 3, "function-length", "") }
    }

    fn found(list: &str, findings: Vec<Finding>) -> Vec<String> {
        lines(&apply(&Tree::of(&[(PATH, list)]), findings))
    }

    #[test]
    fn an_exact_entry_silences_its_finding_only() {
        let other = Finding::new("b.rs", 1, "clock", "");
        let left = found("# why\nfunction-length a.rs::f 84 # because\n", vec![long(84), other]);
        assert_eq!(left, ["b.rs:1: clock"]);
    }

    #[test]
    fn growth_past_the_entry_is_found() {
        assert_eq!(found("function-length a.rs::f 84", vec![long(85)]), ["a.rs:3: function-length"]);
    }

    #[test]
    fn an_entry_that_tolerates_more_than_there_is_must_shrink() {
        let at = [format!("{PATH}:1: exceptions")];
        assert_eq!(found("function-length a.rs::f 84", vec![long(83)]), at);
        assert_eq!(found("function-length a.rs::f 84", vec![]), at);
        assert_eq!(found("function-length a.rs::f", vec![]), at);
    }

    #[test]
    fn findings_of_one_file_are_counted_together() {
        let clock = || Finding::new("a.rs", 1, "clock", "");
        assert!(found("clock a.rs 2", vec![clock(), clock()]).is_empty());
        assert_eq!(found("clock a.rs 1", vec![clock(), clock()]).len(), 2);
    }
}
