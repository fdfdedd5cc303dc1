//! `img dd`: a part of a disk, in blocks, to a new image.
//!
//! | operand | |
//! |---|---|
//! | `if=`, `of=` | from where, to where |
//! | `bs=` | bytes of a block, 512 |
//! | `count=` | blocks that the input is taken to have |
//! | `skip=` | blocks from the start that are not copied: of those that `count` leaves |
//!
//! Numbers may have suffixes (k, M, ...). Everything is written, zeroes as well. A `skip` past the end copies nothing, which
//! is said and is no failure: as in release 10.0.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use drystone_base::{Error, Kind, Result};
use drystone_job::copy::spec::{CopySource, CopySpec, Order, Own, Zeroes};

use super::create::NewImage;
use super::options;
use super::{Console, Failure};
use crate::args::UsageError;
use crate::args::getopt::{Flag, Getopt};
use crate::args::number::{NumberError, parse_size};
use crate::img::options::text;
use crate::tool::image::ImageArgs;
use crate::tool::object::Secrets;
use crate::tool::{self, Load, Start, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    options::FORMAT,
    options::IMAGE_OPTS,
    options::FORCE_SHARE,
    options::OBJECT,
    Flag::value(Some('O'), "output-format"),
];

const HELP: &str = "\
Copies a disk image, or a part of it, to a new image.

  dd [OPTION...] [bs=BLOCK_SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT

  -f, --format FORMAT         the format of INPUT; found out if it is not said
      --image-opts            INPUT is a list KEY=VALUE,...
  -O, --output-format FORMAT  raw (the default) or qcow2
  -U, --force-share           read INPUT whoever else writes to it
      --object OBJECT         a secret for an image that needs one
  -h, --help                  this text

Numbers may have suffixes: k, M, G, T, P, E.
";

/// Bytes of a block if nobody says.
const BLOCK_BYTES: u64 = 512;
/// The most.
const BLOCK_BYTES_MAX: u64 = i32::MAX as u64;

#[derive(Default)]
struct Request {
    format: Option<String>,
    is_options: bool,
    output_format: Option<String>,
    force_share: bool,
    input: Option<OsString>,
    output: Option<OsString>,
    block_bytes: Option<u64>,
    count: Option<u64>,
    skip: u64,
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let Some(request) = parse(args)? else {
        console.print(HELP);
        return Ok(0);
    };
    let start = Start { name: console.name, load: Load::Heavy };
    tool::run(start, async |tool| copy(tool, &request).await)?;
    Ok(0)
}

fn usage(error: UsageError) -> Failure {
    Failure::Usage { command: "dd", error }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text)
}

/// Reads the arguments. `None`: help is asked for.
fn parse(args: Vec<OsString>) -> Result<Option<Request>, Failure> {
    let mut getopt = Getopt::new(FLAGS, args);
    let (mut request, mut secrets) = (Request::default(), Secrets::default());
    while let Some((name, value)) = getopt.next_option().map_err(usage)? {
        match name {
            "help" => return Ok(None),
            "format" => request.format = Some(text(&value)?.to_owned()),
            "image-opts" => request.is_options = true,
            "force-share" => request.force_share = true,
            "output-format" => request.output_format = Some(text(&value)?.to_owned()),
            _ => secrets.define(&value)?,
        }
    }
    for operand in getopt.into_free() {
        request.take(&operand)?;
    }
    if request.is_options && request.format.is_some() {
        return Err(invalid("--image-opts and --format exclude each other").into());
    }
    Ok(Some(request))
}

impl Request {
    fn take(&mut self, operand: &OsStr) -> Result<()> {
        let bytes = operand.as_bytes();
        let at = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        let (name, value) = bytes.split_at_checked(at).unwrap_or_default();
        let value = OsStr::from_bytes(value.strip_prefix(b"=").unwrap_or_default());
        match name {
            b"if" => self.input = Some(value.to_owned()),
            b"of" => self.output = Some(value.to_owned()),
            b"bs" => self.block_bytes = Some(number("bs", value, 1..=BLOCK_BYTES_MAX)?),
            b"count" => self.count = Some(number("count", value, 0..=i64::MAX.cast_unsigned())?),
            b"skip" => self.skip = number("skip", value, 0..=i64::MAX.cast_unsigned())?,
            _ => return Err(invalid(format!("there is no operand '{}'", operand.display()))),
        }
        Ok(())
    }

    /// What is copied of an input of `len_bytes`: where it begins and how many bytes; `None` if it begins past the end.
    fn part(&self, len_bytes: u64) -> Option<(u64, u64)> {
        let block_bytes = self.block_bytes.unwrap_or(BLOCK_BYTES);
        let counted = self.count.and_then(|count| count.checked_mul(block_bytes)).unwrap_or(u64::MAX);
        let end = len_bytes.min(counted);
        let start = self.skip.checked_mul(block_bytes)?;
        Some((start, end.checked_sub(start)?))
    }
}

fn number(name: &str, value: &OsStr, allowed: std::ops::RangeInclusive<u64>) -> Result<u64> {
    let text = match value.to_str().map_or(Err(NumberError::Malformed), parse_size) {
        Ok(number) if allowed.contains(&number) => return Ok(number),
        Ok(_) | Err(NumberError::Range) => {
            format!("'{}' is not between {} and {}", value.display(), allowed.start(), allowed.end())
        }
        Err(NumberError::Malformed) => format!("'{}' is no number", value.display()),
    };
    Err(invalid(text).in_option(name))
}

async fn copy(tool: &Tool, request: &Request) -> Result<()> {
    let (Some(input), Some(output)) = (&request.input, &request.output) else {
        return Err(invalid("both if= and of= are expected"));
    };
    let format = request.output_format.as_deref().unwrap_or("raw");
    let mut image = NewImage::parse(format, &[])?;
    let args = ImageArgs {
        is_options: request.is_options,
        force_share: request.force_share,
        ..ImageArgs::of(input, request.format.clone())
    };
    let source = tool.open_reader(&args).await?;
    let (start, len_bytes) = request.part(source.len_bytes).unwrap_or_else(|| {
        tool.warn(format_args!("'{}' ends before the blocks that are to be skipped do", input.display()));
        (0, 0)
    });
    let made = image.make(tool, output, len_bytes, &tool.files().await?).await;
    made.map_err(|error| error.at_path(output))?;
    let target = tool.open_writer(&ImageArgs::of(output, Some(format.to_owned())), false).await?;
    let spec = CopySpec {
        sources: vec![CopySource { backend: source.backend.clone(), start, len_bytes }],
        target: target.backend.clone(),
        unit_bytes: image.cluster_bytes().unwrap_or(BLOCK_BYTES),
        block_bytes: BLOCK_BYTES,
        zeroes: Zeroes::Written,
        zero_from: 0,
        own: Own::ALL,
        flags: target.flags,
        offloads: false,
        // A format gives out space in the order of writes.
        order: if image.cluster_bytes().is_some() { Order::Disk } else { Order::Free },
        bytes_per_second: 0,
        salvages: false,
    };
    tool.copy(spec, None, false).await?;
    tool.close(target).await
}
