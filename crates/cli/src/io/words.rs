//! One line of commands, taken apart: words between spaces, and options as `getopt` of the GNU C library reads them.
//!
//! ```text
//!  read -qP 0xab -v 0 64k      ->   q, P=0xab, v | 0, 64k
//! ```
//! There are no quotes. Options and other words may be mixed; `--` ends the options.

/// The words of a line.
pub(super) fn split(line: &str) -> Vec<String> {
    line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The options of a command and its other words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    given: Vec<(char, String)>,
    pub(super) free: Vec<String>,
}

/// Why options are not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WordsError {
    /// There is no such option.
    #[error("there is no option '-{0}'")]
    Unknown(char),
    /// Its value is missing.
    #[error("option '-{0}' needs a value")]
    NeedsValue(char),
}

impl Words {
    /// Words among which there are no options.
    pub(super) fn plain(words: &[String]) -> Self {
        Self { given: Vec::new(), free: words.to_vec() }
    }

    /// Takes the words behind a command's name apart. `letters` are its options; a colon follows those with a value.
    pub(super) fn parse(letters: &str, words: &[String]) -> Result<Self, WordsError> {
        let mut parsed = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.strip_prefix('-') {
                Some("-") => {
                    parsed.free.extend(words.cloned());
                    break;
                }
                Some(options) if !options.is_empty() => {
                    parsed.options(letters, options, || words.next().cloned())?;
                }
                _ => parsed.free.push(word.clone()),
            }
        }
        Ok(parsed)
    }

    /// The options of one word; `next` is asked for a value that is the word behind.
    fn options(
        &mut self,
        letters: &str,
        options: &str,
        mut next: impl FnMut() -> Option<String>,
    ) -> Result<(), WordsError> {
        let mut rest = options.chars();
        while let Some(letter) = rest.next() {
            let known = letters.split_once(letter).filter(|_| letter != ':');
            let (_, behind) = known.ok_or(WordsError::Unknown(letter))?;
            if !behind.starts_with(':') {
                self.given.push((letter, String::new()));
                continue;
            }
            let joined = rest.as_str();
            let value = if joined.is_empty() { next() } else { Some(joined.to_owned()) };
            self.given.push((letter, value.ok_or(WordsError::NeedsValue(letter))?));
            break;
        }
        Ok(())
    }

    /// Whether an option was given.
    pub(super) fn has(&self, letter: char) -> bool {
        self.given.iter().any(|(given, _)| *given == letter)
    }

    /// How often an option was given.
    pub(super) fn count(&self, letter: char) -> usize {
        self.given.iter().filter(|(given, _)| *given == letter).count()
    }

    /// The last value of an option.
    pub(super) fn value(&self, letter: char) -> Option<&str> {
        self.values(letter).last()
    }

    /// All values of an option.
    pub(super) fn values(&self, letter: char) -> impl Iterator<Item = &str> {
        self.given.iter().filter(move |(given, _)| *given == letter).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(letters: &str, line: &str) -> String {
        match Words::parse(letters, &split(line)) {
            Ok(words) => {
                let given = words.given.iter().map(|(letter, value)| format!("{letter}{value}"));
                format!("{} | {}", given.collect::<Vec<_>>().join(" "), words.free.join(" "))
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn options_may_be_joined_and_stand_anywhere() {
        assert_eq!(parse("CP:qv", "-qP 0xab  0 -v 64k"), "q P0xab v | 0 64k");
        assert_eq!(parse("P:", "-P5 -P -q"), "P5 P-q | ");
        assert_eq!(parse("q", "-q -- -q 0"), "q | -q 0");
        assert_eq!(parse("q", "- 0"), " | - 0");
    }

    #[test]
    fn what_is_no_option_is_refused() {
        assert_eq!(parse("P:q", "0 -1"), "there is no option '-1'");
        assert_eq!(parse("P:q", "--foo"), "there is no option '--'");
        assert_eq!(parse("P:q", "-:"), "there is no option '-:'");
        assert_eq!(parse("P:q", "0 -qP"), "option '-P' needs a value");
    }

    #[test]
    fn a_line_has_words_between_spaces_only() {
        assert_eq!(split("  read\t 0  1 "), ["read\t", "0", "1"]);
        assert!(split("   ").is_empty());
    }
}
