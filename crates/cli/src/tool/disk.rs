//! [`Disk`]: an image in the graph, used by the tool.
//!
//! Invariant: a tool lets others do with an image what its format lets them; only the image locks of formats keep two
//! writers apart. A disk that nobody closes is closed at the end.

use std::collections::BTreeSet;

use drystone_base::Result;
use drystone_blockdev::open::Opener;
use drystone_blockdev::report::{Layer, Warning};
use drystone_blockdev::request::OpenRequest;
use drystone_blockdev::snapshots::{SnapshotChange, Which, change_snapshots};
use drystone_core::backend::{Backend, Mode, ReadOnly, ReadWrite, RootId};
use drystone_core::control::{Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_protocol::file::HostFile;
use drystone_sys::FileId;

use super::Tool;
use super::image::ImageArgs;

/// An image in the graph, and the tool's handle on it.
pub(crate) struct Disk<M: Mode> {
    /// For lanes: `lane.enter(&disk.backend)`.
    pub(crate) backend: Backend<M>,
    /// The node of the image.
    pub(crate) node: NodeId,
    /// Length of the disk in bytes when it was opened.
    pub(crate) len_bytes: u64,
    /// The image and what is behind it, from the top down.
    pub(crate) layers: Vec<Layer>,
    /// How writes are to be done for the cache mode that was asked for.
    pub(crate) flags: WriteFlags,
}

/// What came of opening, on its way from the control task.
struct Attached<M: Mode> {
    disk: Disk<M>,
    warnings: Vec<Warning>,
}

impl Tool {
    /// Opens an image for reading.
    ///
    /// # Errors
    /// Those of the image and its backing files; nothing of it is open then.
    pub(crate) async fn open_reader(&self, image: &ImageArgs) -> Result<Disk<ReadOnly>> {
        self.open(image, false, Perm::CONSISTENT_READ).await
    }

    /// Opens an image for reading, as it was when one of its internal snapshots was taken.
    ///
    /// # Errors
    /// As [`Self::open_reader`]; [`drystone_base::Kind::Unsupported`] for a format that has none;
    /// [`drystone_base::Kind::NotFound`].
    pub(crate) async fn open_snapshot(&self, image: &ImageArgs, which: &Which) -> Result<Disk<ReadOnly>> {
        let mut disk = self.open_reader(image).await?;
        let (node, show) = (disk.node, SnapshotChange::Show(which.clone()));
        let shown = self.on_control(async move |task| {
            change_snapshots(task, node, &show).await?;
            Ok(task.gs().with(|graph| graph.node(node)).map_or(0, |info| info.len))
        });
        disk.len_bytes = shown.await.map_err(|error| error.at_path(&image.name))?;
        Ok(disk)
    }

    /// Opens an image for reading and writing; with `may_resize`, also to change its length.
    ///
    /// # Errors
    /// As [`Self::open_reader`].
    pub(crate) async fn open_writer(&self, image: &ImageArgs, may_resize: bool) -> Result<Disk<ReadWrite>> {
        let perm = Perm::CONSISTENT_READ.with(Perm::WRITE);
        let perm = if may_resize { perm.with(Perm::RESIZE) } else { perm };
        self.open(image, true, perm).await
    }

    async fn open<M: Mode>(&self, image: &ImageArgs, is_writer: bool, perm: Perm) -> Result<Disk<M>> {
        let about = |error: drystone_base::Error| match image.is_options {
            true => error,
            false => error.at_path(&image.name),
        };
        let mut request = image.request(is_writer).map_err(about)?;
        let grant = Grant { perm, shared: Perm::ALL };
        request.users = Some(grant);
        let (opener, flags) = (
            self.opener().clone(),
            WriteFlags { fua: is_writer && image.cache.is_writethrough, ..WriteFlags::default() },
        );
        let name = self.name.to_owned();
        let attached = self.on_control(async move |task| {
            let spec = RootSpec { name, grant, stays: false };
            attach(task, &opener, &request, spec, flags).await
        });
        let Attached { disk, warnings } = attached.await.map_err(about)?;
        warnings.iter().for_each(|warning| self.warn(warning));
        Ok(disk)
    }

    /// Flushes nothing, waits for requests that are under way, stores what the drivers hold, and closes the files.
    ///
    /// # Errors
    /// Those of storing; the disk stays open then, and is closed without storing when the tool ends.
    pub(crate) async fn close<M: Mode>(&self, disk: Disk<M>) -> Result<()> {
        let root = disk.backend.id();
        self.on_control(async move |task| detach(task, root).await).await
    }

    /// The files that are open.
    ///
    /// # Errors
    /// The tool is ending.
    pub(crate) async fn files(&self) -> Result<BTreeSet<FileId>> {
        self.on_control(async |task| {
            Ok(task.gs().with(|graph| {
                let files = graph.views().filter_map(|view| view.node().driver_as::<HostFile>());
                files.map(HostFile::file_id).collect()
            }))
        })
        .await
    }

    /// Closes every disk that is still open.
    ///
    /// # Errors
    /// The first of those of [`Self::close`]; the others are closed all the same.
    pub(crate) async fn close_all(&self) -> Result<()> {
        self.on_control(async |task| {
            let roots = task.gs().with(|graph| graph.roots());
            let mut result = Ok(());
            // The last one that was opened goes first: it may stand on others.
            for root in roots.iter().rev().filter(|root| root.node.is_some()) {
                result = result.and(detach(task, root.id).await);
            }
            result
        })
        .await
    }
}

async fn attach<M: Mode>(
    task: &mut Task<'_>,
    opener: &Opener,
    request: &OpenRequest,
    spec: RootSpec,
    flags: WriteFlags,
) -> Result<Attached<M>> {
    let opened = opener.open(task, request).await?;
    let (node, layers, warnings) = (opened.top, opened.layers, opened.warnings);
    let mut plan = Plan::new();
    plan.insert(opened.opening);
    let backend = plan.attach_root(task.gs(), node, spec);
    task.apply(plan).await?;
    let len_bytes = task.gs().with(|graph| graph.node(node)).map_or(0, |info| info.len);
    Ok(Attached { disk: Disk { backend, node, len_bytes, layers, flags }, warnings })
}

async fn detach(task: &mut Task<'_>, root: RootId) -> Result<()> {
    let mut plan = Plan::new();
    plan.detach_root(root);
    task.apply(plan).await
}
