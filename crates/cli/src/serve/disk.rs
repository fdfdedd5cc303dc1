//! Opening what is to be served: the image, its chain, and an overlay on it.
//!
//! ```text
//!  image ──open──> graph                                    --overlay: read-only, and a new qcow2 file on it
//!                    '── overlay ──open──> graph
//! ```
//! Invariant: on an error, what was opened and made for this disk is closed and removed again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::draft::change;
use drystone_blockdev::open::Opener;
use drystone_blockdev::report::Warning;
use drystone_blockdev::request::OpenRequest;
use drystone_blockdev::settings::Settings;
use drystone_core::control::{Plan, Task};
use drystone_core::graph::node::NodeId;

use super::overlay::Temporary;

/// What is to be served.
#[derive(Debug, Clone)]
pub(super) struct DiskRequest {
    /// The image as it was named.
    pub(super) image: OsString,
    /// Its format, if it was said.
    pub(super) format: Option<String>,
    /// How it is opened.
    pub(super) settings: Settings,
    /// What clients write to.
    pub(super) overlay: Overlay,
}

/// What clients write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Overlay {
    /// The image.
    None,
    /// An overlay that is gone at the end.
    Temporary,
    /// An overlay in a new file.
    File(PathBuf),
}

/// A disk that is in the graph.
#[derive(Debug)]
pub(super) struct Disk {
    /// Its nodes that stay until they are removed, the last one on top.
    pub(super) owned: Vec<NodeId>,
    /// Its overlay, if that is gone at the end.
    pub(super) temporary: Option<Temporary>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

impl DiskRequest {
    fn open_request(&self) -> Result<OpenRequest> {
        let mut request = OpenRequest::of_name(self.image.clone());
        request.format.clone_from(&self.format);
        request.settings = self.settings;
        if self.overlay != Overlay::None {
            request.settings.read_only = true;
        }
        request.owned = true;
        Ok(request)
    }

    /// Opens the disk and brings it into the graph.
    ///
    /// # Errors
    /// Those of opening and making images.
    pub(super) async fn open(self, task: &mut Task<'_>, opener: &Opener) -> Result<Disk> {
        let opened = opener.open(task, &self.open_request()?).await?;
        let notes = opened.warnings.iter().map(note).collect();
        let image = opened.top;
        let mut plan = Plan::new();
        plan.insert(opened.opening);
        task.apply(plan).await?;
        let mut disk = Disk { owned: vec![image], temporary: None, notes };
        match self.put_overlay(task, opener, &mut disk).await {
            Ok(()) => Ok(disk),
            Err(error) => {
                disk.close(task).await?;
                Err(error)
            }
        }
    }

    async fn put_overlay(&self, task: &mut Task<'_>, opener: &Opener, disk: &mut Disk) -> Result<()> {
        let file = match &self.overlay {
            Overlay::None => return Ok(()),
            Overlay::File(file) => file.clone(),
            Overlay::Temporary => {
                let temporary = Temporary::make(task.local()).await?;
                let file = temporary.file();
                disk.temporary = Some(temporary);
                file
            }
        };
        disk.owned.push(put_on(task, opener, disk.top(), &absolute(&file)?).await?);
        Ok(())
    }
}

/// Makes an overlay, and gives it the users of the node.
///
/// # Errors
/// Those of [`Draft::put_new_overlay`](drystone_blockdev::draft::Draft::put_new_overlay) and of the change.
pub(crate) async fn put_on(
    task: &mut Task<'_>,
    opener: &Opener,
    below: NodeId,
    file: &Path,
) -> Result<NodeId> {
    change(task, opener, async |draft, task| draft.put_new_overlay(task, below, file).await).await
}

/// What happened, and what the user can do about it here.
fn note(warning: &Warning) -> String {
    match warning {
        Warning::ReadOnlyProbedRaw { .. } => format!("{warning} (--format raw)"),
        _ => warning.to_string(),
    }
}

impl Disk {
    /// The node that clients use.
    pub(super) fn top(&self) -> NodeId {
        self.owned.last().copied().expect("a disk has a node")
    }

    /// Takes the disk out of the graph and closes its files; removes a temporary overlay.
    ///
    /// # Errors
    /// The first of those of closing and removing; the rest is done all the same.
    pub(super) async fn close(&mut self, task: &mut Task<'_>) -> Result<()> {
        let mut result = Ok(());
        while let Some(node) = self.owned.pop() {
            let mut plan = Plan::new();
            plan.remove(node);
            result = result.and(task.apply(plan).await);
        }
        match self.temporary.take() {
            Some(temporary) => result.and(temporary.remove(task.local()).await),
            None => result,
        }
    }
}

/// A name that is a path whatever it looks like.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|cause| {
        Error::new(Kind::InvalidInput, "the name of the file is not valid").because(cause).at_path(path)
    })
}
