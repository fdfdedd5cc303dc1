//! `--bitmaps`: the persistent bitmaps of the source, beside its contents.
//!
//! Invariant: whether they can be copied is known before anything is written.

use drystone_base::{Error, Kind, Result};
use drystone_core::backend::ReadWrite;
use drystone_core::bitmap::BitmapInfo;
use drystone_core::bitmap::action::{BitmapAction, MergeSource};
use drystone_core::control::Plan;
use drystone_core::graph::node::NodeId;
use drystone_format::qcow2::driver::Qcow2;

use super::Source;
use super::args::Request;
use crate::tool::Tool;
use crate::tool::disk::Disk;

/// What is to be copied.
pub(super) struct Bitmaps {
    source: NodeId,
    list: Vec<BitmapInfo>,
}

/// Finds out what there is.
///
/// # Errors
/// A format that has no bitmaps; a bitmap that is inconsistent, unless these are left out.
pub(super) async fn look_at(tool: &Tool, source: &Source, request: &Request) -> Result<Bitmaps> {
    if !request.is_target_options && request.target_format == "raw" {
        return Err(Error::new(Kind::Unsupported, "a raw image has no bitmaps").in_option("bitmaps"));
    }
    let node = source.node;
    let found = tool.on_control(async move |task| {
        Ok(task.gs().with(|graph| {
            let image = graph.node_handle(node)?;
            image.driver_as::<Qcow2>()?;
            Some(image.bitmaps().list())
        }))
    });
    let mut list = found.await?.ok_or_else(|| {
        Error::new(Kind::Unsupported, "the format of the source has no bitmaps").in_option("bitmaps")
    })?;
    list.retain(|bitmap| bitmap.persistent);
    if let Some(broken) = list.iter().find(|bitmap| bitmap.inconsistent && !request.skips_broken_bitmaps) {
        let text = format!(
            "bitmap '{}' of the source is inconsistent (--skip-broken-bitmaps leaves it out)",
            broken.name
        );
        return Err(Error::new(Kind::InvalidInput, text).in_option("bitmaps"));
    }
    for broken in list.extract_if(.., |bitmap| bitmap.inconsistent) {
        tool.warn(format_args!("bitmap '{}' is inconsistent and is not copied", broken.name));
    }
    Ok(Bitmaps { source: node, list })
}

/// Makes them in the target.
///
/// # Errors
/// Those of the target's format.
pub(super) async fn copy(tool: &Tool, bitmaps: Bitmaps, target: &Disk<ReadWrite>) -> Result<()> {
    let (source, target) = (bitmaps.source, target.node);
    tool.on_control(async move |task| {
        let mut plan = Plan::new();
        for BitmapInfo { name, granularity, recording, .. } in bitmaps.list.into_iter().rev() {
            let add = BitmapAction::Add { name: name.clone(), granularity, persistent: true, recording };
            plan.change_bitmap(target, add);
            let from = MergeSource::Bitmap { node: source, name: name.clone() };
            plan.change_bitmap(target, BitmapAction::Merge { name, source: from });
        }
        task.apply(plan).await
    })
    .await
}
