//! [`change_backing_file`]: another name for the backing file in an image's header. What is behind the image stays.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{Demand, GraphView, NodeInfo, Plan, Task};
use drystone_core::driver::{Amendment, BackingFile};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::role::Role;
use drystone_core::request::io::Io;

use crate::alone::with_private;
use crate::given::Given;

/// `change-backing-file`: the header of `image`, one of the images behind `top` or that one itself, names `name` from now
/// on; nothing, if that is empty. The format that it names is that of the image behind it, below filters. An image that is read-only is
/// made writable for the moment.
///
/// # Errors
/// [`Kind::NotFound`]; [`Kind::InvalidInput`] for an image that is not in the chain, or has nothing behind it;
/// [`Kind::InUse`] while a job works on it; those of writing. A power cut leaves the old name or the new one.
pub async fn change_backing_file(task: &mut Task<'_>, top: &str, image: &str, name: &OsStr) -> Result<()> {
    let (top_id, id) = (task.gs().find(top)?, task.gs().find(image)?);
    let backing = task.gs().with(|graph| named(graph, top_id, id, name)).map_err(|e| e.on_node(image))?;
    let locked = task.gs().with(|graph| read_only_part(graph, id));
    set_read_only(task, &locked, false).await?;
    let written = write(task, id, backing.as_ref()).await.map_err(|error| error.on_node(image));
    let restored = set_read_only(task, &locked, true).await;
    written.and(restored)
}

/// What the header is to say.
fn named(graph: &GraphView<'_>, top: NodeId, image: NodeId, name: &OsStr) -> Result<Option<BackingFile>> {
    let refuse = |text: &str| Err(Error::new(Kind::InvalidInput, text));
    graph.demand(top, Demand::NoParent)?;
    let mut chain = std::iter::successors(Some(top), |id| {
        graph.child(*id, ChildKey::Backing).or_else(|| filtered(graph, *id))
    });
    if !chain.any(|id| id == image) {
        return refuse("the image is not in that chain");
    }
    let Some(behind) = graph.child(image, ChildKey::Backing).and_then(|id| unfiltered(graph, id)) else {
        return refuse("it has no backing image");
    };
    // What is no image of a format is read as it is.
    let is_image = behind.edges.iter().any(|edge| edge.key == ChildKey::File);
    let format = if is_image { behind.format_name } else { "raw" };
    let format = Some(format.as_bytes().to_vec());
    Ok((!name.is_empty()).then(|| BackingFile { name: name.as_bytes().to_vec(), format }))
}

/// The image in a node or below it. `raw` shows the bytes of its file and is an image all the same.
fn unfiltered(graph: &GraphView<'_>, node: NodeId) -> Option<NodeInfo> {
    let mut info = graph.node(node)?;
    while info.format_name != "raw"
        && let Some(below) = filtered(graph, info.id)
    {
        info = graph.node(below)?;
    }
    Some(info)
}

/// What a filter stands on.
fn filtered(graph: &GraphView<'_>, node: NodeId) -> Option<NodeId> {
    let info = graph.node(node)?;
    info.edges.iter().find(|edge| edge.role.has(Role::FILTERED)).map(|edge| edge.child)
}

/// The image and the files below it that came with it, as far as they are read-only.
fn read_only_part(graph: &GraphView<'_>, image: NodeId) -> Vec<NodeId> {
    let file_of = |id: &NodeId| {
        let file = graph.child(*id, ChildKey::File)?;
        Given::of(graph, file).is_some_and(|given| given.heir_of == Some(*id)).then_some(file)
    };
    let parts = std::iter::successors(Some(image), file_of);
    parts.filter(|id| graph.node(*id).is_some_and(|node| node.read_only)).collect()
}

async fn set_read_only(task: &mut Task<'_>, nodes: &[NodeId], read_only: bool) -> Result<()> {
    if nodes.is_empty() {
        return Ok(());
    }
    let mut plan = Plan::new();
    for node in nodes {
        plan.set_read_only(*node, read_only);
    }
    task.apply(plan).await
}

/// Makes the header of `image` name `backing`, or nothing; what is behind the image stays, and is not asked. For whoever has
/// made sure that the image shows the same with it.
///
/// # Errors
/// [`Kind::InUse`] while a job works on it; those of writing. A power cut leaves the old name or the new one.
pub async fn set_backing_file(
    task: &mut Task<'_>,
    image: NodeId,
    backing: Option<&BackingFile>,
) -> Result<()> {
    write(task, image, backing).await
}

/// Gives up everything that `image` has of its own: its disk shows what is behind it, or is zeroes.
///
/// # Errors
/// [`Kind::Unsupported`] if its format cannot; [`Kind::InUse`] while a job works on it; those of writing.
pub async fn make_empty(task: &mut Task<'_>, image: NodeId) -> Result<()> {
    alone(task, image, async |io| io.node().driver().make_empty(io).await).await
}

/// Changes one property of `image`.
///
/// # Errors
/// [`Kind::Unsupported`] if its format cannot; [`Kind::InUse`] while a job works on it; those of writing. A power cut leaves
/// the old property or the new one.
pub async fn amend(task: &mut Task<'_>, image: NodeId, what: Amendment) -> Result<()> {
    alone(task, image, async |io| io.node().driver().amend(io, what).await).await
}

async fn write(task: &mut Task<'_>, image: NodeId, backing: Option<&BackingFile>) -> Result<()> {
    alone(task, image, async |io| io.node().driver().change_backing_file(io, backing).await).await
}

/// Does something to an image with nobody else inside.
async fn alone(
    task: &mut Task<'_>,
    image: NodeId,
    work: impl for<'a> AsyncFnOnce(Io<'a>) -> Result<()>,
) -> Result<()> {
    with_private(task, image, async |private| work(private.io()).await).await
}
