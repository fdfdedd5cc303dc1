//! `img snapshot`: internal snapshots listed, taken, applied and deleted.
//!
//! Not here: external snapshots, which are images of their own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::snapshots::{SnapshotChange, Which, change_snapshots, list_snapshots};
use drystone_core::snapshots::NewSnapshot;
use drystone_sys::time_of_day;

use super::line::{self, Line, QUIET};
use super::snapshots::{Row, to_table};
use super::{Console, Failure, options};
use crate::args::getopt::Flag;
use crate::tool::image::ImageArgs;
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    QUIET,
    options::FORMAT,
    options::IMAGE_OPTS,
    options::FORCE_SHARE,
    Flag::switch(Some('l'), "list"),
    Flag::value(Some('a'), "apply"),
    Flag::value(Some('c'), "create"),
    Flag::value(Some('d'), "delete"),
    options::OBJECT,
];

const HELP: &str = "\
Lists, takes, applies or deletes internal snapshots: states of a disk that its image keeps.

  snapshot [OPTION...] [-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] IMAGE

  -l, --list              list them (what is done if nothing else is said)
  -c, --create SNAPSHOT   take one with this name
  -a, --apply SNAPSHOT    make the disk what it was; SNAPSHOT is an identifier or a name
  -d, --delete SNAPSHOT   delete the first with this name
  -f, --format FORMAT     raw or qcow2; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -U, --force-share       list those of an image that somebody else writes to
  -q, --quiet             print errors only
      --object OBJECT     a secret
  -h, --help              this text
";

/// What to do.
#[derive(Debug, Clone)]
enum Action {
    List,
    Change(SnapshotChange),
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let mut actions = Vec::new();
    let line = Line::read("snapshot", FLAGS, args, |name, value| {
        actions.push(match name {
            "list" => Action::List,
            "apply" => Action::Change(SnapshotChange::Apply(Which::IdOrName(value.as_bytes().to_vec()))),
            "create" => Action::Change(SnapshotChange::Create(taken_now(value))),
            _ => Action::Change(SnapshotChange::Delete(Which::Name(value.as_bytes().to_vec()))),
        });
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    if actions.len() > 1 {
        return Err(line.usage("--list, --apply, --create and --delete exclude each other"));
    }
    let image = line.only_image()?;
    let start = line::start(console, Load::Small);
    match actions.pop().unwrap_or(Action::List) {
        Action::List => {
            let rows = tool::run(start, async |tool: &Tool| list(tool, &image).await)?;
            if !rows.is_empty() {
                console.print("Snapshot list:\n");
                to_table(&rows).into_iter().for_each(|row| console.print(row));
            }
        }
        Action::Change(_) if line.force_share => {
            let text = "an image that somebody else may write to is not changed";
            return Err(Error::new(Kind::InvalidInput, text).in_option("force-share").into());
        }
        Action::Change(what) => tool::run(start, async |tool: &Tool| change(tool, &image, what).await)?,
    }
    Ok(0)
}

fn taken_now(name: &OsStr) -> NewSnapshot {
    let now = time_of_day();
    NewSnapshot {
        name: name.as_bytes().to_vec(),
        date_s: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
        date_ns: now.subsec_nanos(),
        vm_clock_ns: 0,
        icount: Some(0),
    }
}

async fn list(tool: &Tool, image: &ImageArgs) -> Result<Vec<Row>> {
    let disk = tool.open_reader(image).await?;
    let node = disk.node;
    let list = tool.on_control(async move |task| list_snapshots(task, node).await).await;
    let list = list.map_err(|error| error.at_path(&image.name))?;
    tool.close(disk).await?;
    Ok(list.iter().map(Row::from).collect())
}

async fn change(tool: &Tool, image: &ImageArgs, what: SnapshotChange) -> Result<()> {
    let disk = tool.open_writer(image, true).await?;
    let node = disk.node;
    let changed =
        tool.on_control(async move |task| change_snapshots(task, node, &what).await.map(drop)).await;
    changed.map_err(|error| error.at_path(&image.name))?;
    tool.close(disk).await
}
