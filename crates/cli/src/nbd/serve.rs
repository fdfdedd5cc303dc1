//! Serving one image, as long as somebody wants it.
//!
//! ```text
//!   (fork) ─► image open ─► export there ─► number written ─► listening ─► the parent ends ─► ... ─► told to end, or deserted
//!                                                                    connections end, flush, image closed ─► exit 0
//! ```
//! Invariants: whatever fails before clients can connect is told by the process that was started; exit status 0 means that
//! everything is on disk.

use std::path::{Path, PathBuf};

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::options::Options;
use drystone_blockdev::request::{OpenRequest, Source};
use drystone_blockdev::settings::Settings;
use drystone_blockdev::snapshots::{SnapshotChange, change_snapshots};
use drystone_core::control::{Plan, Task};
use drystone_core::graph::node::NodeId;
use drystone_export::nbd::{ExportBitmap, ExportOptions, Listen, NbdServer, ServerOptions};
use drystone_sys::{Address, Background, Forked, PidFile, go_into_background, take_activated};

use super::FAILED;
use super::options::{Place, Serving};
use crate::serve::disk::put_on;
use crate::serve::overlay::Temporary;
use crate::tool::image::ImageArgs;
use crate::tool::{self, Asked, Load, Start, Tool};

const NS_PER_S: u64 = 1_000_000_000;
/// I/O threads, at most: one client rarely keeps more busy.
const THREADS_MAX: usize = 4;

/// Serves the image; the exit status.
///
/// # Errors
/// Those of the image, the socket and the number's file; what could not be stored at the end.
pub(super) fn run(name: &'static str, serving: Serving) -> Result<u8> {
    let background = if serving.fork {
        match go_into_background()? {
            Forked::Parent { is_ready } => return Ok(if is_ready { 0 } else { FAILED }),
            Forked::Child(background) => Some(background),
        }
    } else {
        None
    };
    let start = Start { name, load: Load::Serve };
    tool::serve(start, async |tool, asked| serve(tool, asked, serving, background).await)?;
    Ok(0)
}

/// What is on offer.
struct Offer {
    node: NodeId,
    /// The image below what the options put on it.
    image: NodeId,
    read_only: bool,
}

async fn serve(tool: &Tool, asked: &Asked, serving: Serving, background: Option<Background>) -> Result<()> {
    let address = match &serving.place {
        Place::Unix(path) => Some(Address::Unix(path.clone())),
        Place::Tcp(host, port) => Address::resolve(&mut tool.lane(), host, *port).await?.into_iter().next(),
        Place::Activated => None,
    };
    let listen = match address {
        Some(address) => Listen::At(address),
        None => Listen::Inherited(take_activated()?),
    };
    let mut temporary = None;
    let served = match open(tool, &serving, &mut temporary).await {
        Ok(offer) => offered(tool, asked, (&serving, background), offer, listen).await,
        Err(error) => Err(error),
    };
    let Some(temporary) = temporary else { return served };
    let closed = tool.close_all().await;
    served.and(closed).and(temporary.remove(&**tool.local()).await)
}

/// Opens the image, and what the options put on it.
async fn open(tool: &Tool, serving: &Serving, temporary: &mut Option<Temporary>) -> Result<Offer> {
    let image = ImageArgs {
        cache: serving.cache,
        discard: serving.discard,
        detect_zeroes: serving.detect_zeroes,
        aio: serving.aio,
        ..match serving.image_opts {
            true => ImageArgs::of_options(serving.image.clone()),
            false => ImageArgs::of(serving.image.clone(), serving.format.clone()),
        }
    };
    // Whoever writes to an overlay only reads what is below.
    let read_only = serving.read_only;
    let (mut node, len_bytes) = if read_only || serving.snapshot {
        let disk = tool.open_reader(&image).await?;
        (disk.node, disk.len_bytes)
    } else {
        let disk = tool.open_writer(&image, false).await?;
        (disk.node, disk.len_bytes)
    };
    let image = node;
    if let Some(which) = serving.load_snapshot.clone() {
        let show = SnapshotChange::Show(which);
        tool.on_control(async move |task| change_snapshots(task, node, &show).await).await?;
    }
    if serving.snapshot && !read_only {
        let made = Temporary::make(&**tool.local()).await?;
        let file = made.file();
        *temporary = Some(made);
        let opener = tool.opener().clone();
        node = tool.on_control(async move |task| put_on(task, &opener, node, &file).await).await?;
    }
    if serving.offset > 0 {
        if serving.offset > len_bytes {
            let text = format!("the image ends before offset {}", serving.offset);
            return Err(Error::new(Kind::InvalidInput, text).in_option("offset"));
        }
        node = window(tool, node, serving.offset, read_only).await?;
    }
    Ok(Offer { node, image, read_only })
}

/// What of a node is from `offset` on.
async fn window(tool: &Tool, below: NodeId, offset: u64, read_only: bool) -> Result<NodeId> {
    let opener = tool.opener().clone();
    let work = async move |task: &mut Task<'_>| {
        let name = task.gs().with(|graph| graph.node(below)).map(|node| node.name).unwrap_or_default();
        let mut options = Options::default();
        options.set("driver", "raw")?;
        options.set("offset", offset)?;
        options.set("file", name)?;
        let mut request = OpenRequest::of(Source::Options(options));
        request.owned = true;
        request.settings = Settings { read_only, ..Settings::default() };
        let opened = opener.open(task, &request).await?;
        let node = opened.top;
        let mut plan = Plan::new();
        plan.insert(opened.opening);
        task.apply(plan).await?;
        Ok(node)
    };
    tool.on_control(work).await
}

/// Offers it until the end.
async fn offered(
    tool: &Tool,
    asked: &Asked,
    (serving, background): (&Serving, Option<Background>),
    offer: Offer,
    listen: Listen,
) -> Result<()> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let options = ServerOptions {
        connections_max: serving.shared,
        handshake_ns: match serving.handshake_s {
            0 => u64::MAX,
            seconds => seconds.saturating_mul(NS_PER_S),
        },
        ..ServerOptions::default()
    };
    let server = NbdServer::bind(&tool.io_threads(count)?, listen, options)?;
    let export = ExportOptions {
        name: serving.name.clone(),
        description: serving.description.clone(),
        writable: !offer.read_only,
        writethrough: serving.cache.is_writethrough,
        allocation_depth: serving.allocation_depth,
        // One connection is no "several".
        connections_max: u32::from(serving.shared == 1),
        ..ExportOptions::default()
    };
    let (bitmaps, Offer { node, image, .. }) = (serving.bitmaps.clone(), offer);
    let (server, added) = tool
        .on_control(async move |task| {
            let name =
                |node| task.gs().with(|graph| graph.node(node)).map(|node| node.name).unwrap_or_default();
            let bitmap = |bitmap| ExportBitmap { node: Some(name(image)), name: bitmap };
            // As the C tool has them.
            let bitmaps = bitmaps.into_iter().rev().map(bitmap).collect();
            let export = ExportOptions { node: name(node), bitmaps, ..export };
            let added = server.add_export(task, export).await.map(drop);
            Ok((server, added))
        })
        .await?;
    let served = match added {
        Ok(()) => until_the_end(asked, (serving, background), &server).await,
        Err(error) => Err(error),
    };
    served.and(tool.on_control(async move |task| server.stop(task).await).await)
}

async fn until_the_end(
    asked: &Asked,
    (serving, background): (&Serving, Option<Background>),
    server: &NbdServer,
) -> Result<()> {
    // Absolute, because the process goes to another folder.
    let pid_file = match &serving.pid_file {
        Some(path) => Some(PidFile::create(&absolute(path)?)?),
        None => None,
    };
    server.open()?;
    if let Some(background) = background {
        background.ready()?;
    }
    if serving.persistent {
        asked.asked().await;
    } else {
        asked.unless(server.deserted()).await;
    }
    drop(pid_file);
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|cause| {
        Error::new(Kind::InvalidInput, "the path has no meaning").at_path(path).because(cause)
    })
}
