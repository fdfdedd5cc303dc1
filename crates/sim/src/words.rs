//! [`Words`]: a line of a script, taken apart word by word.

use std::fmt::Display;
use std::str::{FromStr, SplitWhitespace};

use drystone_base::GuestRange;
use drystone_testkit::notation::{try_len, try_range};

/// Why a line of a script cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadWord(pub(crate) String);

/// What is left of a line.
pub(crate) struct Words<'t>(SplitWhitespace<'t>);

impl<'t> Words<'t> {
    pub(crate) fn of(line: &'t str) -> Self {
        Self(line.split_whitespace())
    }

    /// The next word; `what` says which one if it is missing.
    pub(crate) fn word(&mut self, what: &str) -> Result<&'t str, BadWord> {
        self.0.next().ok_or_else(|| BadWord(format!("{what} is missing")))
    }

    /// The next word, if there is one.
    pub(crate) fn maybe(&mut self) -> Option<&'t str> {
        self.0.next()
    }

    /// Whether the next word is this one; it is taken then.
    pub(crate) fn is_next(&mut self, word: &str) -> bool {
        let mut rest = self.0.clone();
        let found = rest.next() == Some(word);
        if found {
            self.0 = rest;
        }
        found
    }

    /// The next word has to be this one.
    pub(crate) fn expect(&mut self, word: &str) -> Result<(), BadWord> {
        if self.is_next(word) { Ok(()) } else { Err(BadWord(format!("'{word}' is missing"))) }
    }

    /// The next word as a value of another type.
    pub(crate) fn value<T: FromStr>(&mut self, what: &str) -> Result<T, BadWord> {
        let word = self.word(what)?;
        word.parse().map_err(|_| BadWord(format!("{what}: '{word}' is none")))
    }

    /// The next word as a number of bytes.
    pub(crate) fn len(&mut self) -> Result<u64, BadWord> {
        let word = self.word("a number of bytes")?;
        try_len(word).ok_or_else(|| BadWord(format!("'{word}' is not a number of bytes")))
    }

    /// The next word as a range.
    pub(crate) fn range(&mut self) -> Result<GuestRange, BadWord> {
        let word = self.word("a range")?;
        try_range(word).ok_or_else(|| BadWord(format!("'{word}' is not a range")))
    }

    /// Nothing may be left.
    pub(crate) fn end(mut self) -> Result<(), BadWord> {
        match self.0.next() {
            None => Ok(()),
            Some(word) => Err(BadWord(format!("'{word}' is one word too many"))),
        }
    }
}

/// Nobody knows the word.
pub(crate) fn unknown<T>(what: &str, word: impl Display) -> Result<T, BadWord> {
    Err(BadWord(format!("{what} '{word}' is unknown")))
}
