//! What test runners say at their end, as numbers.
//!
//! | runner | line |
//! |---|---|
//! | nextest    | `Summary [ 0.5s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 2 skipped` |
//! | cargo test | `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; ...` |
//!
//! The caller says which runner it was: nextest repeats the output of a failed test, which may hold a line of the
//! other kind.

/// The program that ran the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    /// `cargo nextest run`.
    Nextest,
    /// `cargo test`.
    CargoTest,
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Ended well.
    pub(crate) passed: usize,
    /// Failed, timed out, leaked, or could not be started.
    pub(crate) failed: usize,
}

impl Counts {
    /// Both numbers added.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// The numbers in a runner's output; `None` if it has no closing line.
pub(crate) fn parse(runner: Runner, output: &str) -> Option<Counts> {
    let plain = without_colour(output);
    match runner {
        Runner::Nextest => plain.lines().rev().find_map(nextest_line),
        Runner::CargoTest => plain.lines().filter_map(cargo_line).reduce(Counts::plus),
    }
}

/// A result that is neither passed nor skipped is a failure, whatever word the runner has for it.
fn nextest_line(line: &str) -> Option<Counts> {
    let rest = line.trim_start().strip_prefix("Summary [")?;
    let (_, results) = rest.split_once(" run: ")?;
    let mut counts = Counts::default();
    for part in without_parentheses(results).split(',') {
        let mut words = part.split_whitespace();
        let number: usize = words.next()?.parse().ok()?;
        match words.next()? {
            "passed" => counts.passed += number,
            "skipped" => {}
            _ => counts.failed += number,
        }
    }
    Some(counts)
}

fn cargo_line(line: &str) -> Option<Counts> {
    let (_, results) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = results.split("; ").find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse::<usize>().ok()
    };
    Some(Counts { passed: number(" passed")?, failed: number(" failed")? })
}

fn without_parentheses(text: &str) -> String {
    let mut depth = 0_usize;
    let keep = |c: &char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    text.chars().filter(keep).collect()
}

/// The text without terminal escapes (`ESC [ ... letter`).
fn without_colour(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut parts = text.split('\u{1b}');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        plain.push_str(part.get(end..).unwrap_or_default());
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: usize, failed: usize) -> Option<Counts> {
        Some(Counts { passed, failed })
    }

    #[test]
    fn nextest_counts_everything_that_did_not_pass() {
        let line = "     Summary [   0.005s] 14 tests run: 9 passed (1 slow, 1 leaky), 2 failed, 1 exec failed, 2 timed out, 3 skipped";
        assert_eq!(parse(Runner::Nextest, line), counts(9, 5));
        assert_eq!(parse(Runner::Nextest, "  Summary [ 1s] 1 test run: 1 passed, 0 skipped"), counts(1, 0));
        assert_eq!(
            parse(Runner::Nextest, "  Summary [ 1s] 3/9 tests run: 2 passed, 1 failed, 0 skipped"),
            counts(2, 1)
        );
    }

    #[test]
    fn nextest_reads_through_colour_and_ignores_a_failed_tests_own_lines() {
        let text = "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 5 filtered out\n\
                    \u{1b}[31;1m     Summary\u{1b}[0m [   0.1s] \u{1b}[1m2\u{1b}[0m tests run: \u{1b}[1m1\u{1b}[0m passed, \u{1b}[1m1\u{1b}[0m failed, 0 skipped\n";
        assert_eq!(parse(Runner::Nextest, text), counts(1, 1));
    }

    #[test]
    fn cargo_test_adds_the_binaries_up() {
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    noise\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(parse(Runner::CargoTest, text), counts(4, 2));
    }

    #[test]
    fn no_closing_line_is_not_zero_tests() {
        assert_eq!(parse(Runner::Nextest, "error: could not compile"), None);
        assert_eq!(parse(Runner::CargoTest, "error: could not compile"), None);
    }
}
