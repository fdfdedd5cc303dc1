//! `img convert`: one or several disks to a new or existing image.
//!
//! ```text
//!  arguments ─> sources opened ─> target made ─> target opened ─> copy (job::copy, on all processors) ─> closed
//!  (args)                         (unless -n)                     (fill)
//! ```
//! What a source has is read once; zeroes are left out where the target reads as zeroes anyway. Status 0 means that the
//! target is complete and closed; after a failure, what has been written of it stays.
//! Not here: formats, the copying itself.

mod args;
mod bitmaps;
mod fill;

use std::collections::BTreeSet;
use std::ffi::OsString;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::request::BackingChoice;
use drystone_core::backend::{ReadOnly, ReadWrite};
use drystone_protocol::file::HostFile;
use drystone_sys::FileId;

use self::args::Request;
use super::create::NewImage;
use super::{Console, Failure};
use crate::tool::disk::Disk;
use crate::tool::image::ImageArgs;
use crate::tool::{self, Load, Start, Tool};

const HELP: &str = "\
Copies disk images to another image, in another format if that is wanted.

  convert [OPTION...] SOURCE... TARGET

Sources
  -f, --source-format FORMAT  their format; found out if it is not said
      --source-image-opts     each SOURCE is a list KEY=VALUE,... (also --image-opts)
  -T, --source-cache MODE     none, writeback (the default), unsafe, writethrough, directsync
  -U, --force-share           read them whoever else writes to them
  -l, --source-snapshot SNAPSHOT  an internal snapshot: its id, its name, snapshot.id=ID, snapshot.name=NAME
      --salvage               what cannot be read is taken for zeroes

Target
  -O, --target-format FORMAT  raw (the default) or qcow2
      --target-image-opts     TARGET is a list KEY=VALUE,...; needs -n
  -o, --target-options KEY=VALUE,...  options of the new image; `-o help` lists them
  -B, --backing FILE          it lies on FILE, and holds what the source's own layer does
  -F, --backing-format FORMAT the format of the backing file
  -c, --compress              clusters are compressed
  -n, --no-create             it is there already
      --target-is-zero        it reads as zeroes now; needs -n
  -t, --target-cache MODE     as -T; the default is unsafe
      --bitmaps               copy the persistent bitmaps of the (first) source as well
      --skip-broken-bitmaps   but those that are inconsistent
  -S, --sparse-size SIZE      leave out zeroes where so many come together (4k); 0: write everything

Work
  -m, --parallel COUNT        requests at the same time, 1 to 16
  -W, --oob-writes            data may be written in any order
  -C, --copy-range-offloading the system copies between files, which may then share space; data is not looked at for zeroes
  -r, --rate RATE             bytes per second
  -p, --progress              show how far it is (also on SIGUSR1 without it)
  -q, --quiet                 print errors only
      --object OBJECT         a secret for images that need one
  -h, --help                  this text
";

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let Some(request) = args::parse(args)? else {
        console.print(HELP);
        return Ok(0);
    };
    if !request.skips_creation
        && let Some(help) =
            NewImage::help(&request.target_format, &request.target_options, !request.sources.is_empty())?
    {
        console.print(help);
        return Ok(0);
    }
    request.check()?;
    let start = Start { name: console.name, load: Load::Heavy };
    tool::run(start, async |tool| convert(tool, &request).await)?;
    Ok(0)
}

/// A source, opened.
type Source = Disk<ReadOnly>;

async fn convert(tool: &Tool, request: &Request) -> Result<()> {
    if request.is_progress {
        tool.progress().show();
    }
    request.check_target()?;
    let mut sources = Vec::new();
    for source in &request.sources {
        sources.push(match &request.snapshot {
            Some(which) => tool.open_snapshot(source, which).await?,
            None => tool.open_reader(source).await?,
        });
    }
    let bitmaps = match sources.first().filter(|_| request.copies_bitmaps) {
        Some(source) => Some(bitmaps::look_at(tool, source, request).await?),
        None => None,
    };
    let in_use = tool.files().await?;
    let len_bytes = sources.iter().try_fold(0_u64, |sum, source: &Source| sum.checked_add(source.len_bytes));
    let len_bytes = len_bytes.filter(|len| *len <= drystone_base::LEN_MAX);
    let len_bytes = len_bytes.ok_or_else(|| {
        Error::new(Kind::TooLarge, "the sources together are longer than the largest possible disk")
    })?;
    if !request.skips_creation {
        make(tool, request, len_bytes, &in_use).await?;
    }
    let target = open_target(tool, request).await?;
    if request.skips_creation {
        refuse_overlap(tool, &target, &in_use).await?;
    }
    if target.len_bytes < len_bytes {
        let text = format!("the target has {} bytes, and {len_bytes} are to be copied", target.len_bytes);
        return Err(Error::new(Kind::OutOfRange, text));
    }
    fill::fill(tool, request, &sources, &target).await?;
    if let Some(bitmaps) = bitmaps {
        bitmaps::copy(tool, bitmaps, &target).await?;
    }
    tool.close(target).await?;
    if request.is_progress {
        tool.progress().finish();
    }
    Ok(())
}

async fn make(tool: &Tool, request: &Request, len_bytes: u64, in_use: &BTreeSet<FileId>) -> Result<()> {
    let mut image = request.new_image()?;
    let made = image.make(tool, &request.target, len_bytes, in_use).await;
    made.map_err(|error| error.at_path(&request.target))
}

async fn open_target(tool: &Tool, request: &Request) -> Result<Disk<ReadWrite>> {
    let args = match request.is_target_options {
        true => ImageArgs::of_options(&request.target),
        false => ImageArgs::of(&request.target, Some(request.target_format.clone())),
    };
    // Without -B, nothing of a backing file is looked at.
    let backing = if request.skips_creation || request.new_image()?.backing().is_some() {
        BackingChoice::AsRecorded
    } else {
        BackingChoice::None
    };
    tool.open_writer(&ImageArgs { cache: request.target_cache, backing, ..args }, false).await
}

/// Fails if the target is one of the files that are read.
async fn refuse_overlap(tool: &Tool, target: &Disk<ReadWrite>, in_use: &BTreeSet<FileId>) -> Result<()> {
    let own = target.layers.first().and_then(|layer| layer.file.or(Some(layer.node)));
    let is_read = tool.on_control({
        let in_use = in_use.clone();
        async move |task| {
            Ok(task.gs().with(|graph| {
                let node = graph.node_handle(own?)?;
                Some(in_use.contains(&node.driver_as::<HostFile>()?.file_id()))
            }))
        }
    });
    if is_read.await? == Some(true) {
        return Err(Error::new(Kind::InUse, "the target is one of the files that are read"));
    }
    Ok(())
}
