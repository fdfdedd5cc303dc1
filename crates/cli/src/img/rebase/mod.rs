//! `img rebase`: another backing file for an image.
//!
//! ```text
//!  unsafe (-u):  the header names the new backing file; what the disk shows may change
//!  safe:         where the old backing file shows other bytes than the new one, the image gets them as its own   (copy)
//!                ─► all of that durable ─► the header names the new backing file
//! ```
//! Invariant: in safe mode the disk shows the same at every moment, also after a power cut: before the header changes, what
//! was copied only repeats what the old backing file shows.

mod copy;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::backing::set_backing_file;
use drystone_blockdev::name;
use drystone_blockdev::request::BackingChoice;
use drystone_core::backend::{ReadOnly, ReadWrite};
use drystone_core::driver::BackingFile;
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::geometry::ClusterBits;

use super::line::{self, Line, QUIET, cache_mode};
use super::spec::Format;
use super::{Console, Failure, options};
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
    Flag::value(Some('b'), "backing"),
    Flag::value(Some('F'), "backing-format"),
    Flag::value(Some('T'), "backing-cache"),
    Flag::switch(Some('u'), "backing-unsafe"),
    Flag::switch(Some('c'), "compress"),
    options::FORCE_SHARE,
    options::OBJECT,
];

const HELP: &str = "\
Makes an image lie on another backing file, or on none. What it shows stays the same, unless -u is given.

  rebase [OPTION...] -b BACKING IMAGE

  -b, --backing BACKING   the new backing file, relative to IMAGE; '' for none
  -F, --backing-format FORMAT  its format: raw or qcow2
  -u, --backing-unsafe    change the name only, whatever the files hold; they need not be there
  -c, --compress          compress what is copied
  -t, --cache MODE        for IMAGE: none, writeback, writethrough, directsync or unsafe (writeback)
  -T, --backing-cache MODE  for the new backing file
  -f, --format FORMAT     of IMAGE; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -U, --force-share       look at the new backing file even if somebody writes to it
  -p, --progress          show how far it is
  -q, --quiet             print errors only
      --object OBJECT     a secret
  -h, --help              this text
";

/// What the command line says.
#[derive(Default)]
struct Request {
    backing: Option<OsString>,
    format: Option<String>,
    cache: CacheMode,
    backing_cache: CacheMode,
    is_unsafe: bool,
    compresses: bool,
    force_share: bool,
    shows_progress: bool,
}

impl Request {
    /// What the header is to name.
    fn recorded(&self) -> Result<Option<BackingFile>> {
        let Some(name) = self.backing.as_deref().filter(|name| !name.is_empty()) else { return Ok(None) };
        let Some(format) = &self.format else {
            let text = "the format of the backing file must be given (-F)";
            return Err(Error::new(Kind::InvalidInput, text));
        };
        let format = Some(format.as_bytes().to_vec());
        Ok(Some(BackingFile { name: name.as_bytes().to_vec(), format }))
    }
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let mut request = Request::default();
    let line = Line::read("rebase", FLAGS, args, |name, value| {
        match name {
            "cache" => request.cache = cache_mode(name, value)?,
            "backing" => request.backing = Some(value.to_owned()),
            "backing-format" => request.format = Some(options::text(value)?.to_owned()),
            "backing-cache" => request.backing_cache = cache_mode(name, value)?,
            "backing-unsafe" => request.is_unsafe = true,
            _ => request.compresses = true,
        }
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    if request.backing.is_none() && !request.is_unsafe {
        return Err(line.usage("the new backing file is missing (-b), and -u is not given"));
    }
    request.shows_progress = line.shows_progress();
    request.force_share = line.force_share;
    let image = ImageArgs { cache: request.cache, force_share: false, ..line.only_image()? };
    let load = if request.is_unsafe { Load::Small } else { Load::Heavy };
    tool::run(line::start(console, load), async |tool: &Tool| {
        let rebased = rebase(tool, &image, &request).await;
        rebased.map_err(|error| error.at_path(&image.name))
    })?;
    Ok(0)
}

async fn rebase(tool: &Tool, image: &ImageArgs, request: &Request) -> Result<()> {
    if request.shows_progress {
        tool.progress().show();
    }
    if let Some(format) = &request.format {
        Format::named(format)?;
    }
    let recorded = request.recorded()?;
    let disk = if request.is_unsafe {
        // What is behind it now may not be there.
        tool.open_writer(&ImageArgs { backing: BackingChoice::None, ..image.clone() }, false).await?
    } else {
        tool.open_writer(image, false).await?
    };
    if !request.is_unsafe {
        keep_contents(tool, &disk, request).await?;
    }
    let node = disk.node;
    tool.on_control(async move |task| set_backing_file(task, node, recorded.as_ref()).await).await?;
    tool.close(disk).await?;
    tool.progress().finish();
    Ok(())
}

/// Gives the image everything that it would show otherwise with the new backing file.
async fn keep_contents(tool: &Tool, disk: &Disk<ReadWrite>, request: &Request) -> Result<()> {
    let new = match request.backing.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => Some(open_new(tool, disk, name, request).await?),
        None => None,
    };
    let common = match &new {
        Some(new) => common_depth(tool, disk, new).await,
        None => None,
    };
    let rules =
        copy::Rules { unit_bytes: cluster_bytes(tool, disk).await?, compresses: request.compresses, common };
    copy::copy(tool, disk, new.as_ref(), rules).await?;
    match new {
        Some(new) => tool.close(new).await,
        None => Ok(()),
    }
}

async fn open_new(
    tool: &Tool,
    disk: &Disk<ReadWrite>,
    name: &OsStr,
    request: &Request,
) -> Result<Disk<ReadOnly>> {
    let because = |cause: Error| {
        Error::new(cause.kind(), format!("cannot open the new backing file '{}'", name.display()))
            .because(cause)
    };
    let folder = disk.layers.first().and_then(|top| top.path.as_deref()).and_then(Path::parent);
    let path = name::resolve(name, folder).map_err(because)?;
    let args = ImageArgs {
        cache: request.backing_cache,
        force_share: request.force_share,
        ..ImageArgs::of(path, request.format.clone())
    };
    tool.open_reader(&args).await.map_err(because)
}

/// Bytes of a cluster of the image.
async fn cluster_bytes(tool: &Tool, disk: &Disk<ReadWrite>) -> Result<u64> {
    let node = disk.node;
    let cluster = tool.on_control(async move |task| {
        let handle = task.gs().with(|graph| graph.node_handle(node));
        Ok(handle.and_then(|node| Some(node.driver_as::<Qcow2>()?.header_now().cluster().bytes())))
    });
    Ok(cluster.await?.unwrap_or(ClusterBits::DEFAULT.bytes()))
}

/// At which depth of the image's chain the new backing file is, if it is there: from there on nothing has to be compared.
async fn common_depth(tool: &Tool, disk: &Disk<ReadWrite>, new: &Disk<ReadOnly>) -> Option<u32> {
    let top = new.layers.first()?;
    // Raw images of one file can be different parts of it.
    if top.format_name != "qcow2" {
        return None;
    }
    let path = super::canonical(tool, top.path.as_deref()?).await?;
    for (depth, layer) in disk.layers.iter().enumerate().skip(1) {
        let is_as_deep = disk.layers.len() - depth == new.layers.len();
        let Some(other) = layer.path.as_deref().filter(|_| is_as_deep) else { continue };
        if layer.format_name == "qcow2" && super::canonical(tool, other).await.as_ref() == Some(&path) {
            return u32::try_from(depth).ok();
        }
    }
    None
}
