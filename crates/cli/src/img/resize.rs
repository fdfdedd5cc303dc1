//! `img resize`: another length for a disk.
//!
//! ```text
//!  SIZE   the new length        +SIZE  so much longer        -SIZE  so much shorter
//! ```
//! A shorter disk loses what is behind its new end, so that is to be said with `--shrink`.
//!
//! Not here: how a format becomes longer or shorter.

use std::ffi::{OsStr, OsString};

use drystone_base::{Error, Kind, Result};
use drystone_core::disk::Preallocation;

use super::line::{self, Line, QUIET};
use super::{Console, Failure, options};
use crate::args::getopt::Flag;
use crate::args::number::parse_size;
use crate::tool::image::ImageArgs;
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    QUIET,
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::switch(None, "shrink"),
    Flag::value(None, "preallocation"),
    options::OBJECT,
];

const HELP: &str = "\
Makes a disk longer or shorter.

  resize [OPTION...] IMAGE [+|-]SIZE

  -f, --format FORMAT     raw or qcow2; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
      --shrink            SIZE may be less than now: what is behind the new end is lost
      --preallocation MODE how space is reserved for the new part: off, metadata, falloc or full
  -q, --quiet             print errors only
      --object OBJECT     a secret
  -h, --help              this text

SIZE is in bytes, or with a suffix (k, M, G, T, P, E: powers of 1024). File systems and partitions inside must be made
smaller before, or larger afterwards.
";

/// The length that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// This.
    To(u64),
    /// So much more than now.
    More(u64),
    /// So much less than now.
    Less(u64),
}

/// What the command line says.
struct Request {
    size: Size,
    may_shrink: bool,
    preallocation: Preallocation,
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let (args, last) = split(args);
    let (mut may_shrink, mut preallocation) = (false, Preallocation::Off);
    let line = Line::read("resize", FLAGS, args, |name, value| {
        match name {
            "shrink" => may_shrink = true,
            _ => preallocation = parse_preallocation(value)?,
        }
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    let free: Vec<&OsString> = line.free.iter().chain(&last).collect();
    let [name, size] = free[..] else {
        return Err(
            line.usage(format!("an image and a size are expected, {} arguments are given", free.len()))
        );
    };
    let request = Request { size: parse(size)?, may_shrink, preallocation };
    let image = line.image(name)?;
    tool::run(line::start(console, Load::Small), async |tool: &Tool| resize(tool, &image, &request).await)?;
    if !line.is_quiet {
        console.print("Image resized.\n");
    }
    Ok(0)
}

/// Takes a last argument such as `-1G` away, which is no option.
fn split(mut args: Vec<OsString>) -> (Vec<OsString>, Option<OsString>) {
    let is_less = |arg: &OsString| {
        let text = arg.to_str().and_then(|arg| arg.strip_prefix('-'));
        text.and_then(|text| text.bytes().next()).is_some_and(|first| first.is_ascii_digit())
    };
    let has_less = args.len() > 1 && args.last().is_some_and(is_less);
    let last = if has_less { args.pop() } else { None };
    (args, last)
}

fn parse_preallocation(value: &OsStr) -> Result<Preallocation> {
    Ok(match value.to_str() {
        Some("off") => Preallocation::Off,
        Some("metadata") => Preallocation::Metadata,
        Some("falloc") => Preallocation::Falloc,
        Some("full") => Preallocation::Full,
        _ => {
            let text = format!("there is no '{}'", value.display());
            return Err(Error::new(Kind::InvalidInput, text).in_option("preallocation"));
        }
    })
}

fn parse(size: &OsStr) -> Result<Size> {
    let bad = || Error::new(Kind::InvalidInput, format!("'{}' is no size", size.display()));
    let text = size.to_str().ok_or_else(bad)?;
    let number = |text: &str| parse_size(text).map_err(|_| bad());
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => Ok(Size::More(number(more)?)),
        (_, Some(less)) => Ok(Size::Less(number(less)?)),
        (None, None) => Ok(Size::To(number(text)?)),
    }
}

impl Request {
    /// The new length of a disk that is `len` bytes long.
    fn new_len(&self, len: u64) -> Result<u64> {
        let new = match self.size {
            Size::To(new) => Some(new),
            Size::More(more) => len.checked_add(more),
            Size::Less(less) => len.checked_sub(less),
        };
        let is_possible = |new: &u64| *new > 0 && i64::try_from(*new).is_ok();
        let new = new.filter(is_possible).ok_or_else(|| {
            Error::new(Kind::InvalidInput, "the new size is not between 1 and 2^63 - 1 bytes")
        })?;
        if new < len && !self.may_shrink {
            let text = "the disk would be shorter, and what is behind its new end lost: that takes --shrink";
            return Err(Error::new(Kind::InvalidInput, text));
        }
        if new <= len && self.preallocation != Preallocation::Off {
            let text = "space can be reserved for a new part only, and there is none";
            return Err(Error::new(Kind::InvalidInput, text).in_option("preallocation"));
        }
        Ok(new)
    }
}

async fn resize(tool: &Tool, image: &ImageArgs, request: &Request) -> Result<()> {
    let disk = tool.open_writer(image, true).await?;
    let new = request.new_len(disk.len_bytes)?;
    let mut lane = tool.lane();
    let resized = lane.enter(&disk.backend).await.resize(new, request.preallocation).await;
    resized.map_err(|error| error.at_path(&image.name))?;
    tool.close(disk).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_len(size: &str, may_shrink: bool) -> String {
        let request = parse(OsStr::new(size)).map(|size| Request {
            size,
            may_shrink,
            preallocation: Preallocation::Off,
        });
        request
            .and_then(|request| request.new_len(4096))
            .map_or_else(|error| error.report(), |len| len.to_string())
    }

    #[test]
    fn sizes_are_absolute_or_relative() {
        assert_eq!(new_len("1M", false), "1048576");
        assert_eq!(new_len("+1k", false), "5120");
        assert_eq!(new_len("-1k", true), "3072");
        assert_eq!(new_len("+0", false), "4096");
    }

    #[test]
    fn what_would_lose_data_or_is_no_length_is_refused() {
        assert!(new_len("-1k", false).contains("--shrink"));
        assert!(new_len("1k", false).contains("--shrink"));
        for size in ["0", "-4096", "-1M", "8E", "+8E"] {
            assert!(new_len(size, true).contains("not between"), "{size}");
        }
        for size in ["", "+", "abc", "+1x", "1kB"] {
            assert!(new_len(size, true).contains("is no size"), "{size}");
        }
    }

    #[test]
    fn a_last_argument_with_a_minus_is_a_size() {
        let split = |args: &[&str]| split(args.iter().map(OsString::from).collect()).1.is_some();
        assert!(split(&["a", "-1G"]));
        assert!(!split(&["a", "-q"]));
        assert!(!split(&["-1G"]));
        assert!(!split(&["a", "+1G"]));
    }
}
