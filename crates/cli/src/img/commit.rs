//! `img commit`: what an image has of its own goes down into one that it lies on.
//!
//! ```text
//!  before:  base <── mid <── image          opened:  base, for writing     mid <── image, without what is below
//!  -b base: what mid and image have is written to base; they stay as they are
//!  without: what image has is written to mid, and image is emptied (unless -d)
//! ```
//! Invariants: the image is not emptied before the base and everything written to it are on stable storage, so a cut at
//! any moment leaves a chain that shows what it showed; nothing is written before everything is open and locked.
//!
//! Not here: how an image is emptied ([`drystone_core::driver::Driver::make_empty`]).

use std::ffi::{OsStr, OsString};
use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::backing;
use drystone_blockdev::report::Layer;
use drystone_blockdev::request::BackingChoice;
use drystone_core::backend::ReadWrite;
use drystone_core::disk::Preallocation;
use drystone_job::copy::spec::{CopySource, CopySpec, Order, Own, Zeroes};

use super::line::{self, Line, QUIET, SIZE_MAX, cache_mode, size_between};
use super::{Console, Failure, canonical, options};
use crate::args::getopt::Flag;
use crate::tool::disk::Disk;
use crate::tool::image::{CacheMode, ImageArgs};
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    QUIET,
    line::PROGRESS,
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::value(Some('t'), "cache"),
    Flag::switch(Some('d'), "drop"),
    Flag::value(Some('b'), "base"),
    Flag::value(Some('r'), "rate"),
    options::OBJECT,
];

const HELP: &str = "\
Writes what an image has of its own to an image that it lies on.

  commit [OPTION...] IMAGE

  -b, --base BASE         down to this image of the chain (the next one); with -d
  -d, --drop              do not empty IMAGE afterwards
  -r, --rate N            so many bytes per second at most
  -t, --cache MODE        none, writeback, writethrough, directsync or unsafe (writeback)
  -f, --format FORMAT     raw or qcow2; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -p, --progress          show how far it is
  -q, --quiet             print errors only
      --object OBJECT     a secret
  -h, --help              this text

Images between BASE and IMAGE show other contents afterwards, and so do all others that lie on BASE.
";

/// What the command line says.
struct Request {
    base: Option<OsString>,
    /// The image is not emptied.
    keeps: bool,
    rate_bytes: u64,
    cache: CacheMode,
    shows_progress: bool,
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let mut request = Request {
        base: None,
        keeps: false,
        rate_bytes: 0,
        cache: CacheMode::WRITEBACK,
        shows_progress: false,
    };
    let line = Line::read("commit", FLAGS, args, |name, value| {
        match name {
            "cache" => request.cache = cache_mode(name, value)?,
            "base" => request.base = Some(value.to_owned()),
            "rate" => request.rate_bytes = size_between(name, value, (0, SIZE_MAX))?,
            _ => request.keeps = true,
        }
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    request.shows_progress = line.shows_progress();
    let image = ImageArgs { cache: request.cache, ..line.only_image()? };
    tool::run(line::start(console, Load::Heavy), async |tool: &Tool| commit(tool, &image, &request).await)?;
    if !line.is_quiet {
        console.print("Image committed.\n");
    }
    Ok(0)
}

async fn commit(tool: &Tool, image: &ImageArgs, request: &Request) -> Result<()> {
    let chain = Chain::find(tool, image, request).await?;
    let base = tool.open_writer(&chain.base, true).await?;
    // What lies between is used through the image; its handles keep it open.
    let mut below = BackingChoice::None;
    let mut between = Vec::new();
    for layer in chain.between.iter().rev() {
        let disk = tool.open_reader(&ImageArgs { backing: below, ..layer.clone() }).await?;
        below = BackingChoice::Node(disk.node);
        between.push(disk);
    }
    let top = tool.open_writer(&ImageArgs { backing: below, ..image.clone() }, false).await?;
    copy(tool, &top, &base, between.len(), request.rate_bytes).await?;
    // Stores it: everything is durable when it is closed.
    tool.close(base).await?;
    if !request.keeps && request.base.is_none() {
        let node = top.node;
        tool.on_control(async move |task| backing::make_empty(task, node).await).await?;
    }
    tool.close(top).await?;
    tool.progress().finish();
    Ok(())
}

/// Which images take part.
struct Chain {
    base: ImageArgs,
    /// Between the image and the base, the upper one first.
    between: Vec<ImageArgs>,
}

impl Chain {
    async fn find(tool: &Tool, image: &ImageArgs, request: &Request) -> Result<Self> {
        let disk = tool.open_reader(image).await?;
        if request.shows_progress {
            tool.progress().show();
        }
        let layers = disk.layers.clone();
        tool.close(disk).await?;
        let about = |error: Error| error.at_path(&image.name);
        let base = match &request.base {
            None => 1,
            Some(name) => position(tool, &layers, name).await.map_err(about)?,
        };
        let names = layers.windows(2).take(base).map(|pair| match pair {
            [above, below] => args_of(above, below, request.cache),
            _ => unreachable!("windows of two"),
        });
        let mut names: Vec<ImageArgs> = names.collect::<Result<_>>().map_err(about)?;
        let base = names
            .pop()
            .ok_or_else(|| about(Error::new(Kind::InvalidInput, "the image does not have a backing file")))?;
        Ok(Self { base, between: names })
    }
}

/// How `below` is opened: as `above` names it.
fn args_of(above: &Layer, below: &Layer, cache: CacheMode) -> Result<ImageArgs> {
    let path = above.backing_path();
    let is_options = |path: &Path| path.as_os_str().as_encoded_bytes().starts_with(b"json:");
    let is_recorded =
        path.as_deref().is_some_and(|path| is_options(path) || below.path.as_deref() == Some(path));
    let (Some(path), true) = (path, is_recorded) else {
        let text = "the backing file is not the one that the image names";
        return Err(Error::new(Kind::Unsupported, text));
    };
    let said = above.backing.as_ref().and_then(|backing| backing.format.clone());
    // What the image does not say was found out already; options say it themselves.
    let format = if is_options(&path) { None } else { said.or_else(|| Some(below.format_name.to_owned())) };
    Ok(ImageArgs { cache, ..ImageArgs::of(path, format) })
}

/// Which layer of a chain, not the first, goes by this name, as it is or beside the image.
async fn position(tool: &Tool, layers: &[Layer], name: &OsStr) -> Result<usize> {
    let name = Path::new(name);
    let folder = layers.first().and_then(|top| top.path.as_deref()).and_then(Path::parent);
    let mut names = vec![canonical(tool, name).await];
    if let Some(folder) = folder {
        names.push(canonical(tool, &folder.join(name)).await);
    }
    for (index, layer) in layers.iter().enumerate().skip(1) {
        let Some(path) = layer.path.as_deref() else { continue };
        let full = canonical(tool, path).await;
        if path == name || (full.is_some() && names.contains(&full)) {
            return Ok(index);
        }
    }
    let text = format!("'{}' is not in the backing chain", name.display());
    Err(Error::new(Kind::NotFound, text))
}

/// Writes to the base what the images above it have, and makes that durable.
async fn copy(
    tool: &Tool,
    top: &Disk<ReadWrite>,
    base: &Disk<ReadWrite>,
    between: usize,
    rate_bytes: u64,
) -> Result<()> {
    let mut lane = tool.lane();
    if base.len_bytes < top.len_bytes {
        let grown = lane.enter(&base.backend).await.resize(top.len_bytes, Preallocation::Off).await;
        grown.map_err(|cause| {
            Error::new(cause.kind(), "cannot make the base as long as the image").because(cause)
        })?;
    }
    let layers_below = u32::try_from(between).unwrap_or(u32::MAX);
    let source = CopySource { backend: top.backend.reader(), start: 0, len_bytes: top.len_bytes };
    let spec = CopySpec {
        sources: vec![source],
        target: base.backend.clone(),
        unit_bytes: SECTOR_BYTES,
        block_bytes: SECTOR_BYTES,
        zeroes: Zeroes::Known,
        zero_from: u64::MAX,
        own: Own { until: u64::MAX, layers_below, is_cut: true },
        flags: base.flags,
        offloads: false,
        order: Order::Disk,
        bytes_per_second: rate_bytes,
        salvages: false,
    };
    tool.copy(spec, None, false).await?;
    lane.enter(&base.backend).await.flush().await
}

/// What the copy is made of at the least: what is below the image stays where it is, to the sector.
const SECTOR_BYTES: u64 = 512;
