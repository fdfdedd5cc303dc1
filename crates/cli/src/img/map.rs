//! `img map`: where the bytes of a disk are.
//!
//! ```text
//!  Offset          Length          Mapped to       File        [{ "start": 0, "length": 65536, "depth": 1, ...},
//!  0               0x10000         0x50000         a.qcow2      { "start": 65536, ...}]
//! ```
//! Neighbours that say the same are one entry. Entries come out as they are found, so that no map is too large.
//!
//! Not here: where the answers come from ([`drystone_core::lane::Ticket::status`]).

use std::ffi::OsString;

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_blockdev::query::filename;
use drystone_blockdev::report::Layer;
use drystone_core::backend::ReadOnly;
use drystone_core::control::{GraphView, Task};
use drystone_core::driver::Status;
use drystone_core::graph::node::{ChildKey, NodeId};

use super::line::{self, Line, SIZE_MAX, size_between};
use super::options::{self, Output};
use super::{Console, Failure};
use crate::args::getopt::Flag;
use crate::tool::disk::Disk;
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::value(Some('s'), "start-offset"),
    Flag::value(Some('l'), "max-length"),
    options::OUTPUT,
    options::FORCE_SHARE,
    options::OBJECT,
];

const HELP: &str = "\
Says where the bytes of a disk are: in which file of the chain, and at which offset.

  map [OPTION...] IMAGE

  -f, --format FORMAT     raw or qcow2; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -s, --start-offset N    begin there, in bytes (0)
  -l, --max-length N      so many bytes at most
      --output human|json how to say it (human): for people, only what is data
  -U, --force-share       look at an image that somebody else writes to; what is said may be out of date
      --object OBJECT     a secret
  -h, --help              this text
";

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let (mut start, mut most) = (0, SIZE_MAX);
    let line = Line::read("map", FLAGS, args, |name, value| {
        let size = size_between(name, value, (0, SIZE_MAX))?;
        *(if name == "start-offset" { &mut start } else { &mut most }) = size;
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    let image = line.only_image()?;
    tool::run(line::start(console, Load::Look), async |tool: &Tool| {
        let disk = tool.open_reader(&image).await?;
        let files = files(tool, &disk.layers).await?;
        let printer = Printer { console, output: line.output, files: &files, has_printed: false };
        map(tool, &disk, (start, most), printer).await
    })?;
    Ok(0)
}

/// The names of the files that the data of the layers lies in.
async fn files(tool: &Tool, layers: &[Layer]) -> Result<Vec<String>> {
    let nodes: Vec<NodeId> = layers.iter().map(|layer| layer.node).collect();
    let look = async move |task: &mut Task<'_>| {
        let name = |graph: &GraphView<'_>, node| {
            let file = [ChildKey::DataFile, ChildKey::File].iter().find_map(|key| graph.child(node, *key));
            filename::of(graph, file.unwrap_or(node)).text()
        };
        Ok(task.gs().with(|graph| nodes.iter().map(|node| name(graph, *node)).collect()))
    };
    tool.on_control(look).await
}

/// Bytes that have the same story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    start: u64,
    status: Status,
}

impl Entry {
    /// The entry with `next` as a part of it, if both are one.
    fn joined(self, next: Self) -> Option<Self> {
        let plain = |status: Status| Status { len: 0, offset: None, ..status };
        let follows = match (self.status.offset, next.status.offset) {
            (None, None) => true,
            (Some(at), Some(next)) => at + self.status.len == next,
            _ => false,
        };
        let len = self.status.len + next.status.len;
        (follows && plain(self.status) == plain(next.status))
            .then_some(Self { status: Status { len, ..self.status }, ..self })
    }
}

async fn map(
    tool: &Tool,
    disk: &Disk<ReadOnly>,
    (start, most): (u64, u64),
    mut printer: Printer<'_>,
) -> Result<()> {
    let end = disk.len_bytes.min(start.saturating_add(most));
    let mut lane = tool.lane();
    let mut pending = Entry { start, status: Status { len: 0, data: false, zero: false, ..NOTHING } };
    printer.head();
    while let at = pending.start + pending.status.len
        && at < end
    {
        let Some(range) = GuestRange::checked(at, end - at) else { break };
        let status = lane.enter(&disk.backend).await.status(range, u32::MAX).await?;
        let next = Entry { start: at, status: printer.shown(status) };
        pending = if pending.status.len == 0 {
            next
        } else if let Some(joined) = pending.joined(next) {
            joined
        } else {
            printer.entry(pending)?;
            next
        };
    }
    printer.entry(pending)?;
    printer.end();
    Ok(())
}

const NOTHING: Status =
    Status { len: 0, data: false, zero: false, allocated: false, compressed: false, offset: None, depth: 0 };

/// Entries on their way out.
struct Printer<'a> {
    console: &'a mut Console,
    output: Output,
    /// By depth.
    files: &'a [String],
    has_printed: bool,
}

impl<'a> Printer<'a> {
    fn head(&mut self) {
        self.console.print(match self.output {
            Output::Human => format!("{:<16}{:<16}{:<16}File\n", "Offset", "Length", "Mapped to"),
            Output::Json => "[".to_owned(),
        });
    }

    /// What of an answer is told: people are not told more than where data is.
    fn shown(&self, status: Status) -> Status {
        if self.output == Output::Human && (status.zero || !status.data) {
            return Status { len: status.len, zero: true, ..NOTHING };
        }
        status
    }

    fn entry(&mut self, entry: Entry) -> Result<()> {
        match self.output {
            Output::Json => {
                let separator = if std::mem::replace(&mut self.has_printed, true) { ",\n" } else { "" };
                self.console.print(format!("{separator}{}", json(entry)));
            }
            Output::Human if entry.status.data => {
                let Some(offset) = entry.status.offset else {
                    let text =
                        "the file contains compressed, encrypted or external clusters, which have no place";
                    return Err(Error::new(Kind::Unsupported, text));
                };
                let numbers = [entry.start, entry.status.len, offset].map(|n| format!("{:<16}", hex(n)));
                self.console.print(numbers.concat());
                let file = self.file(entry.status.depth);
                self.console.print(file);
                self.console.print("\n");
            }
            Output::Human => {}
        }
        Ok(())
    }

    /// The file that the layer at this depth lies in.
    fn file(&self, depth: u32) -> &'a str {
        let file = usize::try_from(depth).ok().and_then(|depth| self.files.get(depth));
        file.map_or("", String::as_str)
    }

    fn end(&mut self) {
        if self.output == Output::Json {
            self.console.print("]\n");
        }
    }
}

fn json(Entry { start, status }: Entry) -> String {
    let Status { len, data, zero, allocated, compressed, offset, depth } = status;
    let offset = offset.map(|at| format!(", \"offset\": {at}")).unwrap_or_default();
    let present = allocated || data;
    format!(
        "{{ \"start\": {start}, \"length\": {len}, \"depth\": {depth}, \"present\": {present}, \"zero\": {zero}, \
         \"data\": {data}, \"compressed\": {compressed}{offset}}}"
    )
}

/// As C prints it with `%#x`: zero has no prefix.
fn hex(number: u64) -> String {
    if number == 0 { "0".to_owned() } else { format!("{number:#x}") }
}
