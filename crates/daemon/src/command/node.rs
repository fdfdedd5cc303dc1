//! Nodes: opening, closing, reopening, lengths, names of backing files.

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::backing::change_backing_file;
use drystone_blockdev::draft;
use drystone_blockdev::options::Options;
use drystone_blockdev::resize;
use drystone_core::control::Task;
use drystone_qmp::schema::Qapi;
use drystone_qmp::schema::types::blockdev::BlockdevOptions;
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::graph::{BlockResize, BlockdevDel, BlockdevReopen, ChangeBackingFile};
use drystone_qmp::wire::Writer;

use super::{Outcome, done};
use crate::daemon::Daemon;

/// The schema's options as those that images are opened with.
fn options(typed: &BlockdevOptions) -> Result<Options> {
    let mut out = Writer::new();
    typed.write(&mut out);
    let text = String::from_utf8(out.into_bytes());
    let text = text.map_err(|cause| Error::new(Kind::InvalidInput, "no valid text").because(cause))?;
    Options::from_json(&text)
}

/// `blockdev-add`.
pub(crate) async fn add(daemon: &Daemon, typed: &BlockdevOptions) -> Outcome<Empty> {
    done(add_node(daemon, typed).await)
}

/// The same for the command line.
///
/// # Errors
/// Those of opening.
pub(crate) async fn add_node(daemon: &Daemon, typed: &BlockdevOptions) -> Result<()> {
    let (options, opener) = (options(typed)?, daemon.opener.clone());
    daemon
        .on_control(async move |task: &mut Task<'_>| {
            draft::change(task, &opener, async |draft, task| draft.add(task, options).await).await.map(drop)
        })
        .await
}

/// `blockdev-del`. When it answers, the node's files are closed and their locks are gone.
pub(super) async fn del(daemon: &Daemon, which: BlockdevDel) -> Outcome<Empty> {
    let opener = daemon.opener.clone();
    let deleted = daemon.on_control(async move |task: &mut Task<'_>| {
        draft::change(task, &opener, async |draft, task| draft.del(task, &which.node_name)).await
    });
    done(deleted.await)
}

/// `blockdev-reopen`.
pub(super) async fn reopen(daemon: &Daemon, typed: &BlockdevReopen) -> Outcome<Empty> {
    let wanted: Result<Vec<Options>> = typed.options.iter().map(options).collect();
    let opener = daemon.opener.clone();
    let reopened = daemon.on_control(async move |task: &mut Task<'_>| {
        let wanted = wanted?;
        draft::change(task, &opener, async |draft, task| draft.reopen(task, wanted)).await
    });
    done(reopened.await)
}

/// The node that is meant by `device` or `node-name`. There are no devices here but nodes.
pub(super) fn named(device: Option<String>, node: Option<String>) -> Result<String> {
    match (device, node) {
        (Some(name), None) | (None, Some(name)) => Ok(name),
        (Some(_), Some(_)) => {
            Err(Error::new(Kind::InvalidInput, "'device' and 'node-name' mean the same: give one"))
        }
        (None, None) => Err(Error::new(Kind::InvalidInput, "it is missing").in_option("node-name")),
    }
}

/// `block_resize`.
pub(super) async fn resize(daemon: &Daemon, typed: BlockResize) -> Outcome<Empty> {
    let resized = daemon.on_control(async move |task: &mut Task<'_>| {
        let node = named(typed.device, typed.node_name)?;
        let len_bytes = u64::try_from(typed.size)
            .map_err(|_| Error::new(Kind::InvalidInput, "it must not be negative").in_option("size"))?;
        resize::resize(task, &node, len_bytes).await
    });
    done(resized.await)
}

/// `change-backing-file`.
pub(super) async fn change_backing(daemon: &Daemon, typed: ChangeBackingFile) -> Outcome<Empty> {
    let changed = daemon.on_control(async move |task: &mut Task<'_>| {
        let ChangeBackingFile { device, image_node_name, backing_file } = typed;
        change_backing_file(task, &device, &image_node_name, &backing_file).await
    });
    done(changed.await)
}
