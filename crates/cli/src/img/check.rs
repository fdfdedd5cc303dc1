//! `img check`: whether an image's tables agree with each other.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | consistent |
//! | 1 | the check did not come to an end |
//! | 2 | data is or may get lost |
//! | 3 | space is wasted, nothing else |
//! | 63 | the format has nothing to check, or the image uses what this build cannot check |
//!
//! Findings go to standard error, one a line, in our words; the numbers go to standard output as by release 10.0 of the C
//! tool. With `-r`, what was found is repaired first; if something was, the numbers are those of a second check.

use std::ffi::{OsStr, OsString};
use std::io::{BufWriter, Write as _};

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::LocalRef;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::repair::{Repair, repair};
use drystone_format::qcow2::check::{self, CheckError, Class, Finding, Outcome};

use super::doc::Doc;
use super::image::{Bytes, Content, Image};
use super::options::{Common, Output};
use super::repair::Editable;
use super::spec::{Spec, bytes_of};
use super::{Console, FAILED, Failure, chain, options};
use crate::args::UsageError;
use crate::args::getopt::Flag;

const FLAGS: &[Flag] = &[
    options::HELP,
    Flag::switch(Some('q'), "quiet"),
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::value(Some('T'), "cache"),
    options::FORCE_SHARE,
    options::OUTPUT,
    Flag::value(Some('r'), "repair"),
    options::OBJECT,
];

const HELP: &str = "\
Checks whether the tables of a disk image agree with each other. Nothing is changed without -r.

  check [OPTION...] IMAGE

  -q, --quiet             print findings and errors only
  -f, --format FORMAT     raw or qcow2; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -T, --cache MODE        none, writeback, writethrough, directsync or unsafe; has no effect here
  -U, --force-share       check an image that somebody else writes to; findings may be wrong
      --output human|json how to say it (human)
  -r, --repair leaks|all  repair wasted space only, or everything that can be
      --object OBJECT     a secret: secret,id=NAME,data=TEXT
  -h, --help              this text

Exit status: 0 consistent, 1 failed, 2 corrupt, 3 leaked clusters only, 63 cannot be checked
";

const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const UNSUPPORTED: u8 = 63;

const CACHE_MODES: [&str; 6] = ["none", "off", "writeback", "writethrough", "directsync", "unsafe"];

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let mut is_quiet = false;
    let mut what = None;
    let common = options::parse("check", FLAGS, args, |name, value| {
        match name {
            "quiet" => is_quiet = true,
            "cache" => check_cache(value)?,
            _ => what = Some(parse_repair(value)?),
        }
        Ok(())
    })?;
    let Some(common) = common else {
        console.print(HELP);
        return Ok(0);
    };
    if what.is_some() && common.force_share {
        let text = "an image that somebody else may write to cannot be repaired";
        return Err(Error::new(Kind::InvalidInput, text).in_option("force-share").into());
    }
    let spec = common.spec()?;
    match super::run_here(async |local| examine(&local, &spec, &common, what).await)? {
        Verdict::Unsupported(error) => {
            console.complain(&error.report());
            Ok(UNSUPPORTED)
        }
        Verdict::Done { format, outcome, fixed } => {
            if !is_quiet {
                console.print(match common.output {
                    Output::Human => fixed.to_words() + &to_words(&outcome),
                    Output::Json => to_doc(&outcome, fixed, format, &common).to_json(),
                });
            }
            Ok(status(&outcome))
        }
    }
}

fn check_cache(mode: &OsStr) -> Result<()> {
    if CACHE_MODES.iter().any(|known| mode == *known) {
        return Ok(());
    }
    let text = format!("'{}' is none of {}", mode.display(), CACHE_MODES.join(", "));
    Err(Error::new(Kind::InvalidInput, text).in_option("cache"))
}

fn parse_repair(what: &OsStr) -> Result<Repair, Failure> {
    match what.to_str() {
        Some("leaks") => return Ok(Repair::Leaks),
        Some("all") => return Ok(Repair::All),
        _ => {}
    }
    let text = format!("--repair is 'leaks' or 'all', not '{}'", what.display());
    Err(Failure::Usage { command: "check", error: UsageError::Other(text) })
}

/// How a check ended, if it did.
enum Verdict {
    Done { format: &'static str, outcome: Outcome, fixed: Fixed },
    Unsupported(Error),
}

/// What was repaired.
#[derive(Debug, Clone, Copy, Default)]
struct Fixed {
    leaks: u64,
    corruptions: u64,
}

impl Fixed {
    const fn is_something(self) -> bool {
        self.leaks + self.corruptions > 0
    }

    fn to_words(self) -> String {
        if !self.is_something() {
            return String::new();
        }
        let Self { leaks, corruptions } = self;
        format!(
            "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    \
             {corruptions} corruptions\n\nDouble checking the fixed image now...\n"
        )
    }
}

async fn examine(local: &LocalRef, spec: &Spec, common: &Common, what: Option<Repair>) -> Result<Verdict> {
    let image = match what {
        Some(_) => Image::open_to_write(local, spec).await?,
        None => Image::open(local, spec, common.force_share).await?,
    };
    let Content::Qcow2(header) = &image.content else {
        let text = format!("there is nothing to check in an image of format {}", image.format());
        return Ok(Verdict::Unsupported(Error::new(Kind::Unsupported, text).at_path(spec.path())));
    };
    if !spec.is_without_backing() {
        chain::open_backing(local, &image, common.force_share).await?;
    }
    let ended = match what {
        None => look(&image.bytes, header).await.map(|outcome| (outcome, Fixed::default())),
        Some(what) => mend(&image.bytes, header, what).await,
    };
    match ended {
        Ok((outcome, fixed)) => Ok(Verdict::Done { format: image.format(), outcome, fixed }),
        Err(cause @ CheckError::Refused(_)) => {
            let error = Error::new(Kind::Unsupported, "the image cannot be checked").because(cause);
            Ok(Verdict::Unsupported(error.at_path(spec.path())))
        }
        Err(cause) => {
            Err(Error::new(Kind::InvalidImage, "the check failed").because(cause).at_path(spec.path()))
        }
    }
}

async fn look(bytes: &Bytes, header: &Header) -> Result<Outcome, CheckError> {
    let mut findings = BufWriter::new(std::io::stderr().lock());
    let outcome = check::check(bytes, header, |finding| {
        let _ = writeln!(findings, "{}: {finding}", severity(finding));
    });
    let outcome = outcome.await;
    let _ = findings.flush();
    outcome
}

/// Repairs the image, and checks it again if something was repaired.
async fn mend(bytes: &Bytes, header: &Header, what: Repair) -> Result<(Outcome, Fixed), CheckError> {
    let target = Editable::new(bytes.clone());
    let repaired = {
        let mut findings = BufWriter::new(std::io::stderr().lock());
        let repaired = repair(&target, header, what, |finding| {
            let _ = writeln!(findings, "{}: {finding}", severity(finding));
        });
        let repaired = repaired.await;
        let _ = findings.flush();
        repaired?
    };
    let fixed = Fixed { leaks: repaired.leaks_fixed, corruptions: repaired.corruptions_fixed };
    match target.into_bytes() {
        Some(bytes) if fixed.is_something() => Ok((look(&bytes, &repaired.header).await?, fixed)),
        _ => Ok((repaired.outcome, fixed)),
    }
}

fn severity(finding: &Finding) -> &'static str {
    match finding.class() {
        Class::Corruption => "corruption",
        Class::Leak => "leak",
        Class::CheckError => "not checked",
    }
}

const fn status(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome { check_errors: 1.., .. } => FAILED,
        Outcome { corruptions: 1.., .. } => CORRUPT,
        Outcome { leaks: 1.., .. } => LEAKS,
        _ => 0,
    }
}

fn to_words(outcome: &Outcome) -> String {
    let mut out = String::new();
    let Outcome { corruptions, leaks, check_errors, .. } = *outcome;
    if corruptions + leaks + check_errors == 0 {
        out.push_str("No errors were found on the image.\n");
    }
    if corruptions > 0 {
        out.push_str(&format!(
            "\n{corruptions} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n"
        ));
    }
    if leaks > 0 {
        out.push_str(&format!(
            "\n{leaks} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.\n"
        ));
    }
    if check_errors > 0 {
        out.push_str(&format!("\n{check_errors} internal errors have occurred during the check.\n"));
    }
    let (allocated, total) = (outcome.clusters_allocated, outcome.clusters_total);
    if allocated > 0 && total > 0 {
        out.push_str(&format!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            percent(allocated, total),
            percent(outcome.clusters_fragmented, allocated),
            percent(outcome.clusters_compressed, allocated),
        ));
    }
    if outcome.image_end_offset > 0 {
        out.push_str(&format!("Image end offset: {}\n", outcome.image_end_offset));
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn to_doc(outcome: &Outcome, fixed: Fixed, format: &'static str, common: &Common) -> Doc {
    let unless_zero = |count: u64| (count > 0).then_some(Doc::Number(count));
    Doc::map([
        ("image-end-offset", unless_zero(outcome.image_end_offset)),
        ("compressed-clusters", unless_zero(outcome.clusters_compressed)),
        ("total-clusters", unless_zero(outcome.clusters_total)),
        ("corruptions", unless_zero(outcome.corruptions)),
        ("corruptions-fixed", unless_zero(fixed.corruptions)),
        ("check-errors", Some(outcome.check_errors.into())),
        ("leaks-fixed", unless_zero(fixed.leaks)),
        ("leaks", unless_zero(outcome.leaks)),
        ("allocated-clusters", unless_zero(outcome.clusters_allocated)),
        ("filename", Some(Doc::Text(bytes_of(&common.name)))),
        ("format", Some(format.into())),
        ("fragmented-clusters", unless_zero(outcome.clusters_fragmented)),
    ])
}
