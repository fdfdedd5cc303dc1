//! The command line of `drystone-bench`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cases;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: drystone-bench [CASE...] [OPTION...]
       drystone-bench list
       drystone-bench floor SOCKET FILE     the server without a block layer, alone

  --quick            3 rounds of 0.4 s (otherwise 5 of 1 s)
  --rounds N         rounds
  --secs S           seconds of one measurement, such as 0.5
  --drystone PATH    our binary (default: target/release/drystone, left out if it is not there)
  --aa               compare the C tools with themselves: how large the noise is
  --dir DIR          where the images go (default: /dev/shm)
  --gib N            length of the disk of the case `img`, such as 0.5 (default: 1)
  --only TEXT        of the case `img`, the rows whose name has that text
  --json FILE        every figure of every round
  --markdown FILE    the tables, as printed
";

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Print the usage.
    Help,
    /// Print the cases.
    List,
    /// Be the floor.
    Floor {
        /// Where to listen.
        socket: PathBuf,
        /// What to serve.
        file: PathBuf,
    },
    /// Measure.
    Run(Options),
}

/// How to measure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    /// Cases to run; all if empty.
    pub(crate) cases: Vec<String>,
    /// How many rounds.
    pub(crate) rounds: usize,
    /// How long one measurement takes.
    pub(crate) time: Duration,
    /// Our binary, if there is one to compare.
    pub(crate) drystone: Option<PathBuf>,
    /// Whether the second side is the C tool too.
    pub(crate) is_aa: bool,
    /// Where images go.
    pub(crate) dir: PathBuf,
    /// Length of the mixed disk, in MiB.
    pub(crate) mixed_mib: u32,
    /// Rows of the mixed disk to measure; all if `None`.
    pub(crate) only: Option<String>,
    /// Where the figures go.
    pub(crate) json: Option<PathBuf>,
    /// Where the tables go.
    pub(crate) markdown: Option<PathBuf>,
}

impl Options {
    /// Whether a case was asked for.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|name| name == case)
    }
}

/// Reads the arguments.
pub(crate) fn parse(args: &[String]) -> Result<Command, String> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => return Ok(Command::List),
        ["floor", socket, file] => return Ok(Command::Floor { socket: socket.into(), file: file.into() }),
        _ if words.iter().any(|word| matches!(*word, "-h" | "--help")) => return Ok(Command::Help),
        _ => {}
    }
    let mut options = Options {
        cases: Vec::new(),
        rounds: 5,
        time: Duration::from_secs(1),
        drystone: existing("target/release/drystone"),
        is_aa: false,
        dir: PathBuf::from("/dev/shm"),
        mixed_mib: 1024,
        only: None,
        json: None,
        markdown: None,
    };
    let mut rest = words.into_iter();
    while let Some(word) = rest.next() {
        option(&mut options, word, &mut rest)?;
    }
    Ok(Command::Run(options))
}

fn option<'a>(
    options: &mut Options,
    word: &str,
    rest: &mut impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let mut value = || rest.next().ok_or_else(|| format!("{word} needs a value"));
    match word {
        "--quick" => (options.rounds, options.time) = (3, Duration::from_millis(400)),
        "--aa" => options.is_aa = true,
        "--rounds" => options.rounds = rounds(value()?)?,
        "--secs" => options.time = seconds(value()?)?,
        "--default-drystone" => options.drystone = existing(value()?),
        "--drystone" => {
            let path = value()?;
            options.drystone = Some(existing(path).ok_or_else(|| format!("{path} does not exist"))?);
        }
        "--dir" => options.dir = value()?.into(),
        "--gib" => options.mixed_mib = gib(value()?)?,
        "--only" => options.only = Some(value()?.into()),
        "--json" => options.json = Some(value()?.into()),
        "--markdown" => options.markdown = Some(value()?.into()),
        _ if cases::ALL.iter().any(|case| case.name == word) => options.cases.push(word.into()),
        _ => return Err(format!("unknown case or option: {word}\n{USAGE}")),
    }
    Ok(())
}

/// The path, if it is there.
fn existing(path: &str) -> Option<PathBuf> {
    Path::new(path).exists().then(|| path.into())
}

fn rounds(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=100).contains(number));
    number.ok_or_else(|| format!("--rounds takes 1 to 100, not {text}"))
}

/// MiB in so many GiB.
fn gib(text: &str) -> Result<u32, String> {
    let number: Option<f64> = text.parse().ok().filter(|number| (0.03..=64.0).contains(number));
    let mib = number.ok_or_else(|| format!("--gib takes 0.03 to 64, not {text}"))? * 1024.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 30 and 65536")]
    Ok(mib as u32)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: Option<f64> = text.parse().ok().filter(|number| (0.1..=60.0).contains(number));
    number.map(Duration::from_secs_f64).ok_or_else(|| format!("--secs takes 0.1 to 60, not {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    fn options(line: &str) -> Options {
        match parsed(line) {
            Ok(Command::Run(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn later_options_win_and_cases_add_up() {
        let options = options("nbd --quick startup --rounds 7 --secs 0.5");
        assert_eq!((options.rounds, options.time), (7, Duration::from_millis(500)));
        assert!(options.wants("nbd") && options.wants("startup") && !options.wants("info"));
    }

    #[test]
    fn without_a_case_all_are_wanted() {
        assert!(options("--aa").wants("check"));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "nvme",
            "--rounds",
            "--rounds 0",
            "--rounds x",
            "--secs NaN",
            "--secs 1e9",
            "--gib 0",
            "--gib inf",
            "--drystone /no/such",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_default_binary_that_is_not_there_is_left_out() {
        assert_eq!(options("--default-drystone /no/such").drystone, None);
    }
}
