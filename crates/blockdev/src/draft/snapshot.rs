//! Snapshots: an overlay takes the place of a node, for all its users.
//!
//! ```text
//!   export          export                     what is written from now on goes to the overlay;
//!      |               |                       the node below is not written any more, and becomes read-only
//!   [node]    =>   [overlay] --backing--> [node]
//! ```

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{Demand, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::policy::DetectZeroes;
use drystone_core::graph::role::Role;
use drystone_protocol::file::Locking;
use drystone_protocol::file::create::Existing;
use drystone_sys::path::{canonical, exists};

use super::Draft;
use crate::create::{CreateRequest, create_image};
use crate::formats::BackingName;
use crate::given::Given;
use crate::name::{self, Name};
use crate::options::Options;
use crate::query::filename::{self, Filename};
use crate::request::{BackingChoice, OpenRequest, Source};
use crate::settings::Settings;

/// The format of overlays unless another is wanted.
const FORMAT: &str = "qcow2";

/// Where the overlay's file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverlayMode {
    /// `existing`: it is there already, and names the node's file as its backing file or nothing.
    Existing,
    /// `absolute-paths`: it is made.
    #[default]
    AbsolutePaths,
}

/// The arguments of `blockdev-snapshot-sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSync {
    /// `node-name`: the node whose place is taken.
    pub node: String,
    /// `snapshot-file`.
    pub file: OsString,
    /// `snapshot-node-name`: the overlay's. It has to be given.
    pub node_name: Option<String>,
    /// `format` of the overlay; `qcow2` if it is not given.
    pub format: Option<String>,
    /// `mode`.
    pub mode: OverlayMode,
}

impl SnapshotSync {
    /// A new qcow2 image in `file` as `node_name`, on `node`.
    #[must_use]
    pub fn new(node: &str, file: impl Into<OsString>, node_name: &str) -> Self {
        Self {
            node: node.to_owned(),
            file: file.into(),
            node_name: Some(node_name.to_owned()),
            format: None,
            mode: OverlayMode::AbsolutePaths,
        }
    }
}

impl Draft {
    /// `blockdev-snapshot`: puts a node without users and without a backing image on `node`.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Unsupported`] for an overlay that cannot have a backing image. That both nodes are
    /// free for it is checked when the draft is applied.
    pub fn snapshot(&mut self, task: &Task<'_>, node: &str, overlay: &str) -> Result<()> {
        let (below, above) = (self.find(task, node)?, self.find(task, overlay)?);
        let format_name = self.plan.node(task.gs(), above).map_or("", |above| above.driver().format_name());
        if !self.opener.formats.find(format_name).is_ok_and(|format| format.has_backing()) {
            let text = format!("driver '{format_name}' has no backing images, so it cannot be an overlay");
            return Err(Error::new(Kind::Unsupported, text).on_node(overlay));
        }
        self.demand_free(below);
        self.plan.demand(above, Demand::NoUser);
        self.plan.demand(above, Demand::NoBacking);
        self.plan.set_child(above, ChildKey::Backing, below, Role::COW);
        self.plan.replace(below, above);
        self.retire(task, below);
        Ok(())
    }

    /// `blockdev-snapshot-sync`: makes the overlay, or opens the file of one, and puts it on the node.
    ///
    /// The overlay goes with its last user: on a node without any, it is not there when the draft was applied.
    ///
    /// A file that is there already is overwritten in mode `absolute-paths`; it stays then, whatever becomes of the
    /// draft. One that was not there is removed when the draft is aborted.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without the node; [`Kind::AlreadyExists`] for a name that is taken; those of making and opening
    /// images.
    pub async fn snapshot_sync(&mut self, task: &mut Task<'_>, snapshot: SnapshotSync) -> Result<NodeId> {
        let below = self.find(task, &snapshot.node)?;
        let Some(node_name) = snapshot.node_name.clone() else {
            let text = "the overlay needs a name";
            return Err(Error::new(Kind::InvalidInput, text).in_option("snapshot-node-name"));
        };
        if self.find(task, &node_name).is_ok() {
            let text = "there is a node of that name already";
            return Err(Error::new(Kind::AlreadyExists, text)
                .on_node(node_name)
                .in_option("snapshot-node-name"));
        }
        let format = snapshot.format.clone().unwrap_or_else(|| FORMAT.to_owned());
        if !self.opener.formats.find(&format)?.has_backing() {
            let text = format!("an image of format '{format}' has no backing file");
            return Err(Error::new(Kind::Unsupported, text).in_option("format"));
        }
        self.demand_now(task, below)?;
        if snapshot.mode == OverlayMode::AbsolutePaths {
            let path = path_of(&snapshot.file)?;
            let backing = self.recorded(task, below, &path).await?;
            let image = CreateRequest { backing: Some(backing), ..self.image(task, below, &snapshot.file) };
            let image = CreateRequest { format: format.clone(), existing: Existing::Replace, ..image };
            self.make(task, path, image).await?;
        }
        let mut request = OpenRequest::of(Source::Name(snapshot.file));
        request.format = Some(format);
        request.settings = self.settings_on(task, below);
        request.node_name = Some(node_name.clone());
        // It goes with its last user.
        request.owned = false;
        let above = self.put_on(task, below, request).await?;
        self.name_was_said(task, above, node_name)?;
        Ok(above)
    }

    /// Makes a qcow2 image in `file`, and puts it on the node: what a user wants who names files rather than nodes.
    ///
    /// Beside [`Draft::snapshot_sync`]: nothing is overwritten; the overlay can be written whatever is below it; the node
    /// gets a name of its own, and stays until it is removed; the file names what is below by its name alone if both are
    /// in one folder, so that they can be moved together, else by its whole path.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if there is anything at `file`; [`Kind::Unsupported`] if a path and a format do not say
    /// all there is to say of the node; [`Kind::InvalidInput`] if `file` is not absolute; those of making and opening
    /// images.
    pub async fn put_new_overlay(
        &mut self,
        task: &mut Task<'_>,
        below: NodeId,
        file: &Path,
    ) -> Result<NodeId> {
        if !file.is_absolute() {
            return Err(Error::new(Kind::InvalidInput, "the path must be absolute").at_path(file));
        }
        self.demand_now(task, below)?;
        if exists(task.local(), file).await? {
            return Err(Error::new(Kind::AlreadyExists, "there is a file of that name").at_path(file));
        }
        let backing = self.recorded_beside(task, below, file).await?;
        let image = CreateRequest { backing: Some(backing), ..self.image(task, below, file.as_os_str()) };
        self.make(task, file.to_owned(), image).await?;
        let mut request = OpenRequest::of(Source::Name(file.as_os_str().to_owned()));
        request.format = Some(FORMAT.to_owned());
        request.settings = Settings { read_only: false, ..self.settings_on(task, below) };
        request.owned = true;
        self.put_on(task, below, request).await
    }

    /// Opens an overlay on the node, and gives it the node's users.
    async fn put_on(
        &mut self,
        task: &mut Task<'_>,
        below: NodeId,
        mut request: OpenRequest,
    ) -> Result<NodeId> {
        request.backing = BackingChoice::Node(below);
        request.users = Some(Grant::PASSIVE);
        self.demand_free(below);
        let above = self.open(task, &request).await?;
        self.plan.replace(below, above);
        self.retire(task, below);
        Ok(above)
    }

    /// Who names the overlay when it is reopened changes nothing.
    fn name_was_said(&mut self, task: &Task<'_>, overlay: NodeId, name: String) -> Result<()> {
        let Some(given) = Given::planned(task, &self.plan, overlay) else { return Ok(()) };
        let mut given = (*given).clone();
        given.explicit.set("node-name", name)?;
        self.plan.remember(overlay, Rc::new(given));
        Ok(())
    }

    fn demand_free(&mut self, node: NodeId) {
        self.plan.demand(node, Demand::NoJob);
        self.plan.demand(node, Demand::NoOverlay);
    }

    /// Finds out early what would be found out late: before a file is made.
    fn demand_now(&mut self, task: &Task<'_>, node: NodeId) -> Result<()> {
        task.gs().with(|graph| match graph.node(node) {
            // It comes with this draft.
            None => Ok(()),
            Some(_) => graph.demand(node, Demand::NoJob).and_then(|()| graph.demand(node, Demand::NoOverlay)),
        })
    }

    /// The overlay is opened as the node was.
    fn settings_on(&self, task: &Task<'_>, below: NodeId) -> Settings {
        let given = Given::planned(task, &self.plan, below);
        let read_only = self.plan.node(task.gs(), below).is_some_and(|node| node.is_read_only());
        let settings = given.map_or_else(Settings::default, |given| given.settings);
        let (auto_read_only, force_share, detect_zeroes) = (false, false, DetectZeroes::Off);
        Settings { read_only, auto_read_only, force_share, detect_zeroes, ..settings }
    }

    /// An image of the node's length, which replaces nothing and has nothing behind it yet.
    fn image(&self, task: &Task<'_>, below: NodeId, file: &OsStr) -> CreateRequest {
        CreateRequest {
            name: file.to_owned(),
            format: FORMAT.to_owned(),
            len_bytes: self.plan.node(task.gs(), below).map_or(0, |node| node.len()),
            backing: None,
            options: Options::default(),
            existing: Existing::Keep,
            locking: Locking::Auto,
        }
    }

    /// Makes an image in the file at `path`, which is removed with the draft if it was not there.
    async fn make(&mut self, task: &mut Task<'_>, path: PathBuf, image: CreateRequest) -> Result<()> {
        let was_there = exists(task.local(), &path).await?;
        // What was made of an image that could not be finished is gone by itself; what there is then is somebody else's.
        create_image(task.local_ref(), &self.opener.formats, image).await?;
        if !was_there {
            self.made.push(path);
        }
        Ok(())
    }

    /// How the overlay in `file` names what is below it.
    async fn recorded(&self, task: &Task<'_>, below: NodeId, file: &Path) -> Result<BackingName> {
        let name = match filename::of_planned(task, &self.plan, below) {
            Filename::Path(path) => reachable(task, &path, file).await?.into_os_string(),
            Filename::Options(options) => OsString::from(format!("json:{options}")),
        };
        Ok(BackingName { name, format: Some(self.format_name(task, below)) })
    }

    /// The same, by its name alone if both files are in one folder, else by its whole path.
    async fn recorded_beside(&self, task: &Task<'_>, below: NodeId, file: &Path) -> Result<BackingName> {
        let path = filename::file_of_planned(task, &self.plan, below).ok_or_else(|| {
            let text = "the disk is more than a file in a format, so a new file cannot name it";
            Error::new(Kind::Unsupported, text)
        })?;
        let path = canonical(task.local(), path).await?;
        let folder = canonical(task.local(), file.parent().unwrap_or(file)).await?;
        let name = match path.file_name() {
            Some(name) if path.parent() == Some(&folder) && is_plain(name) => name.to_os_string(),
            _ => path.into_os_string(),
        };
        Ok(BackingName { name, format: Some(self.format_name(task, below)) })
    }

    /// The format of a node's bytes. What is no image of a format is read as it is.
    fn format_name(&self, task: &Task<'_>, node: NodeId) -> String {
        let name = self.plan.node(task.gs(), node).map(|node| node.driver().format_name());
        name.filter(|name| self.opener.formats.find(name).is_ok()).unwrap_or("raw").to_owned()
    }

    /// Nobody writes to the node any more; others may share it from now on.
    fn retire(&mut self, task: &Task<'_>, node: NodeId) {
        let mut todo = vec![node];
        while let Some(id) = todo.pop() {
            self.plan.set_read_only(id, true);
            let Some(given) = Given::planned(task, &self.plan, id) else { continue };
            let settings = Settings { read_only: true, ..given.settings };
            self.plan.remember(id, Rc::new(Given { settings, ..(*given).clone() }));
            todo.extend(
                self.heirs(task, id).into_iter().filter(|(key, _)| *key == ChildKey::File).map(|(_, id)| id),
            );
        }
    }

    /// The children of a node that take over from it what they were not told.
    pub(super) fn heirs(&self, task: &Task<'_>, node: NodeId) -> Vec<(ChildKey, NodeId)> {
        let is_heir = |child: NodeId| {
            Given::planned(task, &self.plan, child).is_some_and(|given| given.heir_of == Some(node))
        };
        let children = self.plan.children(task.gs(), node);
        children.into_iter().filter(|(_, child)| is_heir(*child)).collect()
    }
}

/// The path of `below` as an image in `file` can name it: relative names are relative to the image.
async fn reachable(task: &Task<'_>, below: &Path, file: &Path) -> Result<PathBuf> {
    let folder = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
    if is_plain(below.as_os_str())
        && (below.is_absolute()
            || (folder(below).as_os_str().is_empty() && folder(file).as_os_str().is_empty()))
    {
        return Ok(below.to_path_buf());
    }
    canonical(task.local(), below).await
}

/// Whether nobody would take the name for something else than a file's.
fn is_plain(name: &OsStr) -> bool {
    matches!(name::parse(name), Ok(Name::Path { driver: None, .. }))
}

fn path_of(file: &OsStr) -> Result<PathBuf> {
    match name::parse(file)? {
        Name::Path { path, .. } => Ok(path),
        Name::Options(_) | Name::Node(_) => {
            let text = "an image is made in a file, which is named by its path";
            Err(Error::new(Kind::Unsupported, text).in_option("snapshot-file"))
        }
    }
}
