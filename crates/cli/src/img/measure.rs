//! `img measure`: how long the file of a new image would become.
//!
//! ```text
//!  --size N  ──────────────> disk of N bytes, all zeroes ─┐
//!  IMAGE ── extents that are data ──> in whole clusters ──┴─> required, fully allocated, bitmaps
//! ```
//! Not here: the arithmetic of tables ([`drystone_format::qcow2::measure`]).

use std::ffi::OsString;

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_blockdev::snapshots::Which;
use drystone_core::backend::ReadOnly;
use drystone_core::disk::Preallocation;
use drystone_format::qcow2::geometry::ClusterBits;
use drystone_format::qcow2::header::Version;
use drystone_format::qcow2::measure::Shape;
use drystone_format::qcow2::refcount::RefcountWidth;

use super::create::table::Values;
use super::doc::Doc;
use super::image::{Content, Image};
use super::line::{self, Line, SIZE_MAX, size_between};
use super::options::{self, Output};
use super::spec::{Format, Spec};
use super::{Console, Failure};
use crate::args::getopt::Flag;
use crate::tool::disk::Disk;
use crate::tool::image::ImageArgs;
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::value(Some('O'), "target-format"),
    Flag::value(Some('o'), "options"),
    Flag::value(None, "size"),
    Flag::value(Some('l'), "snapshot"),
    options::OUTPUT,
    options::FORCE_SHARE,
    options::OBJECT,
];

const HELP: &str = "\
Says how long the file of a new image would become.

  measure [OPTION...] IMAGE
  measure [OPTION...] --size SIZE

  -O, --target-format FORMAT  raw (the default) or qcow2: of the new image
  -o, --options KEY=VALUE,... options of the new image, as for `create`
      --size SIZE             a new, empty disk of so many bytes
  -f, --format FORMAT         of IMAGE; without it, the first bytes decide
      --image-opts            IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -l, --snapshot SNAPSHOT     an internal snapshot of IMAGE: its id, its name, snapshot.id=ID, snapshot.name=NAME
      --output human|json     how to say it (human)
  -U, --force-share           look at an image that somebody else writes to
      --object OBJECT         a secret
  -h, --help                  this text
";

const SECTOR_BYTES: u64 = 512;

/// What the new image is to be.
struct Target {
    format: Format,
    values: Values,
    shape: Option<Shape>,
    preallocation: Preallocation,
}

/// What is known of it.
struct Measured {
    required: u64,
    fully_allocated: u64,
    bitmaps: Option<u64>,
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let mut format = "raw".to_owned();
    let (mut list, mut size, mut snapshot) = (None, None, None);
    let line = Line::read("measure", FLAGS, args, |name, value| {
        match name {
            "target-format" => format = options::text(value)?.to_owned(),
            "options" => list = Some(super::create::join(list.take(), options::text(value)?)?),
            "size" => size = Some(size_between(name, value, (0, SIZE_MAX))?),
            _ => snapshot = Some(tool::snapshot::parse(options::text(value)?)?),
        }
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    let invalid = |text: &str| Failure::Failed(Error::new(Kind::InvalidInput, text));
    let is_about_image = line.format.is_some() || line.is_options || snapshot.is_some();
    match (&line.free[..], size) {
        ([_], Some(_)) => return Err(invalid("either an image or --size is measured, not both")),
        ([], None) => return Err(invalid("an image or --size is expected")),
        ([_, _, ..], _) => return Err(invalid("one image is expected")),
        ([], Some(_)) if is_about_image => {
            return Err(invalid(
                "--format, --image-opts and --snapshot are about an image, and there is none",
            ));
        }
        ([_], None) | ([], Some(_)) => {}
    }
    let target = Target::new(&format, list.as_deref().unwrap_or_default())?;
    let measured = match size {
        Some(size) => target.measure(size, 0)?,
        None => of_image(&line, &line.only_image()?, snapshot.as_ref(), &target, console)?,
    };
    console.print(match line.output {
        Output::Human => measured.to_words(),
        Output::Json => measured.to_doc().to_json(),
    });
    Ok(0)
}

fn of_image(
    line: &Line,
    image: &ImageArgs,
    snapshot: Option<&Which>,
    target: &Target,
    console: &Console,
) -> Result<Measured, Failure> {
    let bitmaps = source_bitmaps(line, image)?;
    let (len, required) = tool::run(line::start(console, Load::Look), async |tool: &Tool| {
        let mut disk = tool.open_reader(image).await?;
        if let Some(which) = snapshot {
            tool.show_snapshot(&mut disk, which.clone()).await?;
        }
        let len = disk.len_bytes;
        // Nobody knows what of a backing file would show through.
        let is_known = target.values.backing().is_none() && !target.takes_all();
        let required =
            if is_known { data_bytes(tool, &disk, target.unit()).await? } else { target.all(len)? };
        Ok((len, required))
    })?;
    let mut measured = target.measure(len, required)?;
    if let Some((shape, bitmaps)) = target.shape.zip(bitmaps).filter(|_| target.has_bitmaps()) {
        measured.bitmaps = Some(shape.bitmaps_bytes(len, bitmaps));
    }
    Ok(measured)
}

/// Lengths of the names and granularities of the bitmaps that the image could hand on; `None` if its format has none.
fn source_bitmaps(line: &Line, image: &ImageArgs) -> Result<Option<Vec<(u64, u8)>>, Failure> {
    let spec = if image.is_options {
        Spec::of_list(options::text(&image.name)?)
    } else {
        Spec::of_name(&image.name, image.format.as_deref())
    };
    // What is not understood there is no image with bitmaps.
    let Ok(spec) = spec else { return Ok(None) };
    let force_share = line.force_share;
    Ok(super::run_here(async |local| {
        let image = Image::open(&local, &spec, force_share).await?;
        let Content::Qcow2(header) = &image.content else { return Ok(None) };
        if header.version() == Version::V2 {
            return Ok(None);
        }
        let bitmaps = image.bytes.bitmaps(header).await?;
        let sizes = bitmaps.iter().map(|bitmap| (bitmap.name.len() as u64, bitmap.granularity_bits));
        Ok(Some(sizes.collect()))
    })?)
}

/// Bytes of the disk that are data, in whole units.
async fn data_bytes(tool: &Tool, disk: &Disk<ReadOnly>, unit: u64) -> Result<u64> {
    let mut lane = tool.lane();
    let (mut at, mut counted_to, mut bytes) = (0, 0, 0);
    while let Some(range) = GuestRange::checked(at, disk.len_bytes - at).filter(|range| !range.is_empty()) {
        let status = lane.enter(&disk.backend).await.status(range, u32::MAX).await?;
        let end = at + status.len;
        if status.data && !status.zero {
            let start = (at - at % unit).max(counted_to);
            counted_to = end.next_multiple_of(unit);
            bytes += counted_to - start;
        }
        at = end;
    }
    Ok(bytes)
}

impl Target {
    fn new(format: &str, list: &str) -> Result<Self> {
        let format = Format::named(format)?;
        let values = Values::parse(format, list)?;
        let preallocation = values.preallocation()?;
        let shape = match format {
            Format::Raw => None,
            Format::Qcow2 => Some(shape(&values)?),
        };
        Ok(Self { format, values, shape, preallocation })
    }

    /// What data is stored in.
    fn unit(&self) -> u64 {
        self.shape.map_or(SECTOR_BYTES, |shape| shape.cluster.bytes())
    }

    /// What the disk holds does not matter: the new image takes space for all of it.
    fn takes_all(&self) -> bool {
        let is_reserved = matches!(self.preallocation, Preallocation::Falloc | Preallocation::Full);
        self.format == Format::Raw || is_reserved
    }

    /// Bytes of a disk of `len` bytes in whole units.
    fn all(&self, len: u64) -> Result<u64> {
        let too_large = || Error::new(Kind::TooLarge, "the disk is too large for clusters of this size");
        len.checked_next_multiple_of(self.unit()).ok_or_else(too_large)
    }

    fn has_bitmaps(&self) -> bool {
        matches!(self.values.version(), Ok(Version::V3))
    }

    /// For a disk of `len` bytes, of which `data` are data.
    fn measure(&self, len: u64, data: u64) -> Result<Measured> {
        let Some(shape) = self.shape else {
            let len = len.next_multiple_of(SECTOR_BYTES);
            return Ok(Measured { required: len, fully_allocated: len, bitmaps: None });
        };
        let too_large = || Error::new(Kind::TooLarge, "the disk is too large for clusters of this size");
        let (metadata, all) = shape.metadata_bytes(len).zip(shape.len_rounded(len)).ok_or_else(too_large)?;
        let data = if self.takes_all() { all } else { data };
        Ok(Measured { required: metadata + data, fully_allocated: metadata + all, bitmaps: None })
    }
}

/// What a version is called here. (Who makes an image can say v2 and v3, too.)
const LEVELS: [&str; 2] = ["0.10", "1.1"];

/// What decides how much room tables take, where the values can belong to an image.
fn shape(values: &Values) -> Result<Shape> {
    let invalid = |option: &str, text: &str| Error::new(Kind::InvalidInput, text).in_option(option);
    if values.asks_for_encryption() {
        return Err(
            Error::new(Kind::Unsupported, "encrypted images cannot be measured").in_option("encryption")
        );
    }
    let cluster = ClusterBits::from_bytes(values.number("cluster_size"));
    let cluster =
        cluster.ok_or_else(|| invalid("cluster_size", "it is not a power of two from 512 bytes to 2 MiB"))?;
    let width = RefcountWidth::from_bits(values.number("refcount_bits"));
    let width = width.ok_or_else(|| invalid("refcount_bits", "it is not a power of two up to 64"))?;
    if values.words("compat").is_some_and(|compat| !LEVELS.contains(&compat)) {
        return Err(invalid("compat", "what is measured is of level 0.10 or 1.1"));
    }
    if values.version()? == Version::V2 && width != RefcountWidth::BITS_16 {
        return Err(invalid("refcount_bits", "version 2 of the format has 16 bits"));
    }
    let extended_l2 = values.is_on("extended_l2");
    if extended_l2 && cluster.bytes() < EXTENDED_CLUSTER_BYTES_MIN {
        return Err(invalid("extended_l2", "it needs clusters of 16 KiB at least"));
    }
    Ok(Shape { cluster, width, extended_l2 })
}

/// Spec "Extended L2 Entries": a subcluster is 512 bytes at least, and there are 32.
const EXTENDED_CLUSTER_BYTES_MIN: u64 = 16 << 10;

impl Measured {
    fn to_words(&self) -> String {
        let mut out =
            format!("required size: {}\nfully allocated size: {}\n", self.required, self.fully_allocated);
        if let Some(bytes) = self.bitmaps {
            out.push_str(&format!("bitmaps size: {bytes}\n"));
        }
        out
    }

    fn to_doc(&self) -> Doc {
        Doc::map([
            ("bitmaps", self.bitmaps.map(Doc::from)),
            ("required", Some(self.required.into())),
            ("fully-allocated", Some(self.fully_allocated.into())),
        ])
    }
}
