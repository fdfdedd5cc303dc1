//! What commands do on the control thread.

use std::collections::BTreeSet;

use drystone_base::Result;
use drystone_blockdev::backing::amend;
use drystone_blockdev::draft::{Draft, change};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Demand, GraphView, NodeInfo, Opening, Plan, Task};
use drystone_core::driver::Amendment;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_filter::copy_on_read::CopyOnRead;

use super::change::not_there;
use crate::audit;
use crate::image::{Format, Qcow2Kind};
use crate::stage::{Common, Front, NodeOptions, data_name, owner};
use crate::step::Target;

/// What a command works with.
pub(super) struct Desk {
    pub(super) common: Common,
    pub(super) front: Front,
    pub(super) main: Backend<ReadWrite>,
    /// Its user may change the length.
    pub(super) resizes: bool,
}

/// An owner while the image on top is read-only.
const READS: Grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };

/// A new image takes the place of the one on top.
pub(super) async fn snapshot(
    task: &mut Task<'_>,
    desk: &Desk,
    kind: Qcow2Kind,
    is_doomed: bool,
) -> Result<()> {
    let (common, head) = (&desk.common, desk.front.head());
    let info = task.gs().with(|graph| graph.node_named(&head));
    let below = common.find(&head).map(|(sheet, _)| sheet);
    let (info, below) = info.zip(below).ok_or_else(|| not_there("the image on top"))?;
    let bytes = kind.image(info.len, Some((&head, below.format.driver())))?;
    let sheet = common.add(bytes, kind.data_image(info.len), Format::Qcow2(kind), Some(head.clone()));
    let done = change(task, common.opener(), async |draft, task| {
        let options = NodeOptions { with_backing: false, ..NodeOptions::WRITABLE };
        common.bring_in(draft, task, &sheet, options).await?;
        draft.snapshot(task, &head, &sheet.name)?;
        if is_doomed { draft.del(task, "nobody") } else { Ok(()) }
    });
    let result = done.await;
    match &result {
        Ok(()) => desk.front.set_head(&sheet.name),
        Err(_) => common.forget(&sheet.name),
    }
    result
}

/// A quiet section.
pub(super) async fn drain(task: &mut Task<'_>, desk: &Desk, target: Target, ns: u64) -> Result<()> {
    let head = task.gs().find(&desk.front.head())?;
    let Some(drained) = task.gs().with(|graph| targets(graph, head, target)) else { return Ok(()) };
    let quiet = match target {
        Target::All => task.drain_all().await,
        Target::Image(_) | Target::File(_) => task.drain(&[drained.node]).await,
    };
    let files: Vec<_> = drained.images.iter().filter_map(|name| desk.common.find(name)).collect();
    files.iter().for_each(|(sheet, watch)| watch.begin_quiet(&sheet.name, &sheet.disk));
    task.gs().with(audit::demand_sound);
    let before = task
        .gs()
        .with(|graph| audit::reaches(graph, desk.main.id(), drained.node))
        .then(|| desk.main.statistics());
    let until_ns = task.local().now_ns().saturating_add(ns);
    task.sleep_until(until_ns).await;
    if let Some(before) = before
        && task.gs().with(|graph| audit::reaches(graph, desk.main.id(), drained.node))
    {
        let name = desk.main.name();
        assert_eq!(before, desk.main.statistics(), "requests of '{name}' ended above something quiet");
    }
    files.iter().for_each(|(_, watch)| watch.end_quiet());
    drop(quiet);
    Ok(())
}

/// What is drained, and the images whose files are quiet then: nobody else has a way to them.
struct Drained {
    node: NodeId,
    images: BTreeSet<String>,
}

fn targets(graph: &GraphView<'_>, head: NodeId, target: Target) -> Option<Drained> {
    let one = |node: NodeId, image: &NodeInfo| Drained { node, images: BTreeSet::from([image.name.clone()]) };
    Some(match target {
        Target::Image(number) => {
            let image = nth(graph, head, number)?;
            let mut drained = one(image.id, &image);
            if graph.child(image.id, ChildKey::DataFile).is_some() {
                drained.images.insert(data_name(&image.name));
            }
            drained
        }
        Target::File(number) => {
            let image = nth(graph, head, number)?;
            one(graph.child(image.id, ChildKey::File)?, &image)
        }
        Target::All => {
            let files = graph.nodes().into_iter().filter_map(|node| match node.name.strip_suffix("-file") {
                Some(image) => Some(image.to_owned()),
                None => node.name.ends_with("-data").then_some(node.name),
            });
            Drained { node: head, images: files.collect() }
        }
    })
}

/// The image number `number` from the top, going round.
pub(super) fn nth(graph: &GraphView<'_>, head: NodeId, number: usize) -> Option<NodeInfo> {
    let mut images = audit::chain(graph, head);
    let place = number.checked_rem(images.len())?;
    Some(images.swap_remove(place))
}

/// Says of an image what it was opened with, as far as it stays, and the rest anew.
fn say_again(
    draft: &mut Draft,
    task: &Task<'_>,
    desk: &Desk,
    image: &NodeInfo,
    options: NodeOptions,
) -> Result<()> {
    let (mut sheet, _) = desk.common.find(&image.name).ok_or_else(|| not_there("the image"))?;
    sheet.backing = task.gs().with(|graph| {
        let behind = graph.child(image.id, ChildKey::Backing)?;
        graph.node(behind).map(|node| node.name)
    });
    draft.reopen(task, vec![options.of(&sheet)?])
}

/// Other caches.
pub(super) async fn reopen(
    task: &mut Task<'_>,
    desk: &Desk,
    number: usize,
    cache_bytes: u64,
) -> Option<Result<()>> {
    let head = task.gs().find(&desk.front.head()).ok()?;
    let image = task.gs().with(|graph| nth(graph, head, number))?;
    let options = NodeOptions { read_only: image.read_only, with_backing: true, cache_bytes };
    let done = change(task, desk.common.opener(), async |draft, task| {
        say_again(draft, task, desk, &image, options)?;
        // A snapshot that comes between makes it a backing image, which it would make writable: what an intruder waits for.
        if !image.read_only {
            draft.plan().demand(image.id, Demand::NoOverlay);
        }
        Ok(())
    });
    Some(done.await)
}

/// The image on top becomes read-only, and its user reads only; or the other way round.
pub(super) async fn set_read_only(task: &mut Task<'_>, desk: &Desk, read_only: bool) -> Result<()> {
    let head = task.gs().find(&desk.front.head())?;
    let image = task.gs().with(|graph| graph.node(head)).ok_or_else(|| not_there("the image on top"))?;
    let options = NodeOptions { read_only, ..NodeOptions::WRITABLE };
    let done = change(task, desk.common.opener(), async |draft, task| {
        say_again(draft, task, desk, &image, options)?;
        draft.plan().set_grant(desk.main.id(), if read_only { READS } else { owner(desk.resizes) });
        Ok(())
    });
    done.await
}

/// A filter between the image on top and its users.
pub(super) async fn filter_in(task: &mut Task<'_>, desk: &Desk, name: String) -> Option<Result<()>> {
    let head = task.gs().find(&desk.front.head()).ok()?;
    let info = task.gs().with(|graph| graph.node(head))?;
    if task.gs().find(&name).is_ok() {
        return None;
    }
    let mut opening = Opening::new(task);
    let filter = match opening.add(CopyOnRead::new(None).node(Some(name), head, info.len)) {
        Ok(filter) => filter,
        Err(error) => return Some(Err(error)),
    };
    let mut plan = Plan::new();
    plan.insert(opening);
    plan.replace(head, filter);
    Some(task.apply(plan).await)
}

pub(super) async fn filter_out(task: &mut Task<'_>, name: &str) -> Option<Result<()>> {
    let filter = task.gs().find(name).ok()?;
    let below = task.gs().with(|graph| graph.child(filter, ChildKey::File))?;
    let mut plan = Plan::new();
    plan.replace(filter, below);
    Some(task.apply(plan).await)
}

/// Closes an image that is open and has no user.
pub(super) async fn delete(task: &mut Task<'_>, desk: &Desk) -> Option<Result<()>> {
    let name = task.gs().with(|graph| {
        let is_unused = |node: &&NodeInfo| node.owned && graph.parents_of(node.id).is_empty();
        graph.nodes().iter().find(is_unused).map(|node| node.name.clone())
    })?;
    Some(change(task, desk.common.opener(), async |draft, task| draft.del(task, &name)).await)
}

/// The image on top says that its counts may be written late, or does not any more.
pub(super) async fn set_lazy(task: &mut Task<'_>, desk: &Desk, is_on: bool) -> Option<Result<()>> {
    let head = task.gs().find(&desk.front.head()).ok()?;
    let read_only = task.gs().with(|graph| graph.node(head).is_none_or(|node| node.read_only));
    if read_only {
        return None;
    }
    Some(amend(task, head, Amendment::LazyRefcounts(is_on)).await)
}
