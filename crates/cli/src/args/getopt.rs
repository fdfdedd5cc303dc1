//! Options and other arguments, as `getopt_long` of the GNU C library takes them apart.
//!
//! Options and other arguments may be mixed; `--` ends the options. A long name may be shortened as long as it is clear
//! which is meant; short ones may be written together, and a value may follow its short option without a space.
//!
//! Invariant: options come out one by one, in their order, so that whoever reads them can stop at the first that ends the
//! command (`--help`) before a later one turns out to be wrong.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::UsageError;

/// One option that a command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flag {
    /// Its letter.
    pub(crate) short: Option<char>,
    /// Its name; also what identifies it.
    pub(crate) long: &'static str,
    /// Whether a value follows.
    pub(crate) has_value: bool,
}

impl Flag {
    /// An option without a value.
    pub(crate) const fn switch(short: Option<char>, long: &'static str) -> Self {
        Self { short, long, has_value: false }
    }

    /// An option with a value.
    pub(crate) const fn value(short: Option<char>, long: &'static str) -> Self {
        Self { short, long, has_value: true }
    }
}

/// An option that was given: its name, and its value if it has one (else empty).
pub(crate) type Given = (&'static str, OsString);

/// A command line on its way through.
#[derive(Debug)]
pub(crate) struct Getopt {
    flags: &'static [Flag],
    rest: VecDeque<OsString>,
    /// The unread letters of an argument such as `-qf`.
    letters: Vec<u8>,
    free: Vec<OsString>,
}

impl Getopt {
    /// Begins with the arguments behind the command's name.
    pub(crate) fn new(flags: &'static [Flag], args: impl IntoIterator<Item = OsString>) -> Self {
        Self { flags, rest: args.into_iter().collect(), letters: Vec::new(), free: Vec::new() }
    }

    /// The next option; `None` when all were read, which [`Self::into_free`] is for.
    pub(crate) fn next_option(&mut self) -> Result<Option<Given>, UsageError> {
        loop {
            if !self.letters.is_empty() {
                return self.next_letter().map(Some);
            }
            let Some(arg) = self.rest.pop_front() else { return Ok(None) };
            match arg.as_bytes() {
                b"--" => {
                    self.free.extend(self.rest.drain(..));
                    return Ok(None);
                }
                [b'-', b'-', name @ ..] => return self.long(name).map(Some),
                [b'-', letters @ ..] if !letters.is_empty() => self.letters = letters.to_vec(),
                _ => self.free.push(arg),
            }
        }
    }

    /// The arguments that are no options.
    pub(crate) fn into_free(self) -> Vec<OsString> {
        self.free
    }

    fn next_letter(&mut self) -> Result<Given, UsageError> {
        let letters = std::mem::take(&mut self.letters);
        let (first, rest) = letters.split_first().map_or((0, &[][..]), |(first, rest)| (*first, rest));
        let name = || format!("-{}", char::from(first));
        let flag = self.flags.iter().find(|flag| flag.short == Some(char::from(first)));
        let flag = flag.ok_or_else(|| UsageError::Unknown(name()))?;
        if !flag.has_value {
            self.letters = rest.to_vec();
            return Ok((flag.long, OsString::new()));
        }
        if !rest.is_empty() {
            return Ok((flag.long, OsStr::from_bytes(rest).to_os_string()));
        }
        let value = self.rest.pop_front().ok_or_else(|| UsageError::NeedsValue(name()))?;
        Ok((flag.long, value))
    }

    fn long(&mut self, text: &[u8]) -> Result<Given, UsageError> {
        let mut parts = text.splitn(2, |byte| *byte == b'=');
        let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let value = parts.next().map(|value| OsString::from_vec(value.to_vec()));
        let flag = self.find(&name)?;
        match (flag.has_value, value) {
            (false, None) => Ok((flag.long, OsString::new())),
            (false, Some(_)) => Err(UsageError::TakesNoValue(format!("--{}", flag.long))),
            (true, Some(value)) => Ok((flag.long, value)),
            (true, None) => {
                let value = self.rest.pop_front();
                let value = value.ok_or_else(|| UsageError::NeedsValue(format!("--{}", flag.long)))?;
                Ok((flag.long, value))
            }
        }
    }

    fn find(&self, name: &str) -> Result<Flag, UsageError> {
        if let Some(exact) = self.flags.iter().find(|flag| flag.long == name) {
            return Ok(*exact);
        }
        let candidates: Vec<&Flag> = self.flags.iter().filter(|flag| flag.long.starts_with(name)).collect();
        match candidates[..] {
            [] => Err(UsageError::Unknown(format!("--{name}"))),
            [only] => Ok(*only),
            _ => {
                let names: Vec<String> = candidates.iter().map(|flag| format!("'--{}'", flag.long)).collect();
                Err(UsageError::Ambiguous { name: format!("--{name}"), candidates: names.join(" or ") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::switch(Some('q'), "quiet"),
        Flag::value(Some('f'), "format"),
        Flag::switch(Some('U'), "force-share"),
        Flag::value(None, "output"),
    ];

    /// Everything that comes out, on one line.
    fn parse(args: &[&str]) -> String {
        let mut getopt = Getopt::new(FLAGS, args.iter().map(OsString::from));
        let mut out = Vec::new();
        loop {
            match getopt.next_option() {
                Ok(Some((name, value))) if value.is_empty() => out.push(name.to_owned()),
                Ok(Some((name, value))) => out.push(format!("{name}={}", value.to_string_lossy())),
                Ok(None) => break,
                Err(error) => return format!("{}: {error}", out.join(" ")),
            }
        }
        out.push("|".into());
        out.extend(getopt.into_free().iter().map(|free| free.to_string_lossy().into_owned()));
        out.join(" ")
    }

    #[test]
    fn options_and_files_may_be_mixed() {
        assert_eq!(parse(&["a", "-q", "b", "--format", "raw", "c"]), "quiet format=raw | a b c");
        assert_eq!(parse(&["-", "a"]), "| - a", "a lone dash is a file");
        assert_eq!(parse(&["-q", "--", "-q", "--format"]), "quiet | -q --format");
    }

    #[test]
    fn short_options_may_be_joined_with_each_other_and_their_value() {
        assert_eq!(parse(&["-qUfraw"]), "quiet force-share format=raw |");
        assert_eq!(parse(&["-qf", "raw", "x"]), "quiet format=raw | x");
        assert_eq!(parse(&["-f=raw"]), "format==raw |", "only long options have an equals sign");
        assert_eq!(parse(&["-f", "-q"]), "format=-q |");
    }

    #[test]
    fn long_options_may_be_shortened_while_they_are_clear() {
        assert_eq!(parse(&["--form=raw", "--o", "json"]), "format=raw output=json |");
        assert_eq!(parse(&["--fo=raw"]), ": option '--fo' could be '--format' or '--force-share'");
        assert_eq!(parse(&["--quiet=yes"]), ": option '--quiet' takes no value");
        assert_eq!(parse(&["-q", "--zip"]), "quiet: there is no option '--zip'");
        assert_eq!(parse(&["--format"]), ": option '--format' needs a value");
        assert_eq!(parse(&["-qz"]), "quiet: there is no option '-z'");
    }

    #[test]
    fn an_empty_value_is_a_value() {
        assert_eq!(parse(&["--format=", "-f", "", "x"]), "format format | x");
    }
}
