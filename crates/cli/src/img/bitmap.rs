//! `img bitmap`: persistent bitmaps of an image that nobody uses.
//!
//! ```text
//!  --add --merge a --disable IMAGE BITMAP      one after the other, to one bitmap; what was done before an error stays done
//! ```
//! Not here: what bitmaps are ([`drystone_core::bitmap`]), and where they are stored.

use std::ffi::OsString;

use drystone_base::{Error, Result};
use drystone_blockdev::bitmap;
use drystone_blockdev::request::BackingChoice;
use drystone_core::bitmap::action::{BitmapAction, MergeSource};
use drystone_core::control::{Plan, Task};
use drystone_core::graph::node::NodeId;

use super::line::{self, Line, SIZE_MAX, size_between};
use super::options::{self, text};
use super::{Console, Failure};
use crate::args::getopt::Flag;
use crate::tool::image::ImageArgs;
use crate::tool::{self, Load, Tool};

const FLAGS: &[Flag] = &[
    options::HELP,
    options::FORMAT,
    options::IMAGE_OPTS,
    Flag::switch(None, "add"),
    Flag::value(Some('g'), "granularity"),
    Flag::switch(None, "remove"),
    Flag::switch(None, "clear"),
    Flag::switch(None, "enable"),
    Flag::switch(None, "disable"),
    Flag::value(None, "merge"),
    Flag::value(Some('b'), "source-file"),
    Flag::value(Some('F'), "source-format"),
    options::OBJECT,
];

const HELP: &str = "\
Changes a persistent bitmap of an image: which parts of the disk were written since some moment.

  bitmap [OPTION...] ACTION... IMAGE BITMAP

      --add                  make it: it follows every write from now on
  -g, --granularity SIZE     with --add: bytes per bit (0: a cluster of the image, if that is 4 to 64 KiB)
      --remove               remove it
      --clear                nothing is dirty any more
      --enable, --disable    follow writes, or do not
      --merge SOURCE         what is dirty in the bitmap SOURCE is dirty in BITMAP, too
  -b, --source-file IMAGE    with --merge: SOURCE is a bitmap of this image
  -F, --source-format FORMAT its format
  -f, --format FORMAT        format of the image; without it, the first bytes decide
      --image-opts           IMAGE is a list of options: driver=qcow2,file.filename=PATH
      --object OBJECT        a secret
  -h, --help                 this text

Actions are done in their order. The first one that fails is the last one.
";

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verb {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(String),
}

impl Verb {
    const fn name(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge(_) => "merge",
        }
    }
}

/// What the command line says.
#[derive(Default)]
struct Request {
    verbs: Vec<Verb>,
    granularity: Option<u64>,
    source: Option<OsString>,
    source_format: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let mut request = Request::default();
    let line = Line::read("bitmap", FLAGS, args, |name, value| {
        match name {
            "add" => request.verbs.push(Verb::Add),
            "remove" => request.verbs.push(Verb::Remove),
            "clear" => request.verbs.push(Verb::Clear),
            "enable" => request.verbs.push(Verb::Enable),
            "disable" => request.verbs.push(Verb::Disable),
            "merge" => request.verbs.push(Verb::Merge(text(value)?.to_owned())),
            "granularity" => request.granularity = Some(size_between(name, value, (0, SIZE_MAX))?),
            "source-file" => request.source = Some(value.to_owned()),
            _ => request.source_format = Some(text(value)?.to_owned()),
        }
        Ok(())
    })?;
    let Some(line) = line else {
        console.print(HELP);
        return Ok(0);
    };
    let [name, bitmap] = &line.free[..] else {
        let count = line.free.len();
        return Err(line.usage(format!("an image and a bitmap are expected, {count} arguments are given")));
    };
    request.demand_sense(&line)?;
    let (image, bitmap) = (line.image(name)?, text(bitmap)?.to_owned());
    tool::run(line::start(console, Load::Small), async |tool: &Tool| {
        change(tool, &image, &request, bitmap).await
    })?;
    Ok(0)
}

impl Request {
    fn demand_sense(&self, line: &Line) -> Result<(), Failure> {
        let is_merge = |verb: &Verb| matches!(verb, Verb::Merge(_));
        if self.verbs.is_empty() {
            return Err(
                line.usage("one of --add, --remove, --clear, --enable, --disable and --merge is expected")
            );
        }
        if self.granularity.is_some() && !self.verbs.contains(&Verb::Add) {
            return Err(line.usage("--granularity is for --add"));
        }
        if self.source_format.is_some() && self.source.is_none() {
            return Err(line.usage("--source-format is for --source-file"));
        }
        if self.source.is_some() && !self.verbs.iter().any(is_merge) {
            return Err(line.usage("--source-file is for --merge"));
        }
        Ok(())
    }
}

async fn change(tool: &Tool, image: &ImageArgs, request: &Request, bitmap: String) -> Result<()> {
    // Bitmaps are an image's own: what it lies on is not needed, and need not be there.
    let alone = |image: ImageArgs| ImageArgs { backing: BackingChoice::None, ..image };
    let disk = tool.open_writer(&alone(image.clone()), false).await?;
    let source = match &request.source {
        Some(name) => {
            let source = ImageArgs::of(name, request.source_format.clone());
            Some(tool.open_reader(&alone(source)).await?)
        }
        None => None,
    };
    let from = source.as_ref().map_or(disk.node, |source| source.node);
    let mut result = Ok(());
    for verb in &request.verbs {
        if result.is_ok() {
            let (verb, bitmap) = (verb.clone(), bitmap.clone());
            // None at all, as the C tool has it, is the usual one.
            let (nodes, granularity) = ((disk.node, from), request.granularity.filter(|bytes| *bytes > 0));
            let about = format!("cannot {} bitmap '{bitmap}'", verb.name());
            let done = tool.on_control(async move |task| act(task, verb, bitmap, nodes, granularity).await);
            result = done
                .await
                .map_err(|error| Error::new(error.kind(), about).because(error).at_path(&image.name));
        }
    }
    if let Some(source) = source {
        result = result.and(tool.close(source).await);
    }
    // What was done before an error is stored.
    let closed = tool.close(disk).await;
    result.and(closed)
}

async fn act(
    task: &mut Task<'_>,
    verb: Verb,
    name: String,
    (node, from): (NodeId, NodeId),
    granularity: Option<u64>,
) -> Result<()> {
    let action = match verb {
        Verb::Add => {
            let found = task
                .gs()
                .with(|graph| graph.node_handle(node).map(|node| bitmap::granularity(&node, granularity)));
            let granularity = found.unwrap_or_else(|| Ok(drystone_core::bitmap::Granularity::FINEST))?;
            BitmapAction::Add { name, granularity, persistent: true, recording: true }
        }
        Verb::Remove => BitmapAction::Remove { name },
        Verb::Clear => BitmapAction::Clear { name },
        Verb::Enable => BitmapAction::Record { name, recording: true },
        Verb::Disable => BitmapAction::Record { name, recording: false },
        Verb::Merge(source) => {
            BitmapAction::Merge { name, source: MergeSource::Bitmap { node: from, name: source } }
        }
    };
    let mut plan = Plan::new();
    plan.change_bitmap(node, action);
    task.apply(plan).await
}
