//! Opening what is to be served: the image, its chain, and an overlay on it.
//!
//! ```text
//!  image ──open──> graph                                    --overlay: read-only, and a new qcow2 file on it
//!                    '── overlay ──open──> graph
//! ```
//! Invariant: on an error, what was opened and made for this disk is closed and removed again.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::create::{CreateRequest, create_image};
use drystone_blockdev::formats::BackingName;
use drystone_blockdev::name::{self, Name};
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_blockdev::report::Warning;
use drystone_blockdev::request::{BackingChoice, OpenRequest, Source};
use drystone_blockdev::settings::Settings;
use drystone_core::control::{GraphView, Plan, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::role::Role;
use drystone_protocol::file::create::Existing;
use drystone_protocol::file::{HostFile, Locking};
use drystone_sys::path::canonical;

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
    /// Bitmaps may become wrong.
    pub(super) drop_bitmaps: bool,
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
    /// How its nodes are opened.
    pub(super) settings: Settings,
    /// Its overlay, if that is gone at the end.
    pub(super) temporary: Option<Temporary>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

impl DiskRequest {
    fn open_request(&self) -> Result<OpenRequest> {
        let mut request = OpenRequest::of(self.source()?);
        request.format.clone_from(&self.format);
        request.settings = self.settings;
        if self.overlay != Overlay::None {
            request.settings.read_only = true;
        }
        request.owned = true;
        Ok(request)
    }

    fn source(&self) -> Result<Source> {
        if !self.drop_bitmaps {
            return Ok(Source::Name(self.image.clone()));
        }
        let mut options = match name::parse(&self.image)? {
            Name::Options(options) => options,
            Name::Path { path, driver } => {
                let mut options = Options::default();
                options.set("file.filename", text(path.as_os_str())?)?;
                if let Some(driver) = driver {
                    options.set("file.driver", driver)?;
                }
                if let Some(format) = &self.format {
                    options.set("driver", format.as_str())?;
                }
                options
            }
        };
        options.set("drop-bitmaps", true)?;
        Ok(Source::Options(options))
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
        let mut disk = Disk { owned: vec![image], settings: self.settings, temporary: None, notes };
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
        let overlay = NewOverlay { file, settings: self.settings };
        let (mut plan, node) = overlay.make(task, opener, disk.top()).await?;
        disk.owned.push(node);
        let applied = task.apply(std::mem::take(&mut plan)).await;
        if applied.is_err() {
            disk.owned.pop();
            overlay.remove(task).await;
        }
        applied
    }
}

/// What happened, and what the user can do about it here.
fn note(warning: &Warning) -> String {
    match warning {
        Warning::ReadOnlyProbedRaw { .. } => format!("{warning} (--format raw)"),
        Warning::ReadOnlyImage { reason, .. } if reason.contains("bitmaps") => {
            format!("{warning} (--drop-bitmaps gives them up)")
        }
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

/// A qcow2 file that is about to be put on a node.
pub(super) struct NewOverlay {
    /// Where.
    pub(super) file: PathBuf,
    /// How it is opened.
    pub(super) settings: Settings,
}

impl NewOverlay {
    /// Makes the file and opens it on `below`. The plan brings the node in.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if there is a file already; those of making and opening images, after which it is removed.
    pub(super) async fn make(
        &self,
        task: &mut Task<'_>,
        opener: &Opener,
        below: NodeId,
    ) -> Result<(Plan, NodeId)> {
        if drystone_sys::path::exists(task.local(), &self.file).await? {
            return Err(Error::new(Kind::AlreadyExists, "there is a file of that name").at_path(&self.file));
        }
        let request = self.create_request(task, below).await?;
        create_image(task.local_ref(), &opener.formats, request).await?;
        match self.open(task, opener, below).await {
            Ok(opened) => Ok(opened),
            Err(error) => {
                self.remove(task).await;
                Err(error)
            }
        }
    }

    /// Removes the file. An error would hide the one that led here.
    pub(super) async fn remove(&self, task: &Task<'_>) {
        let _ = drystone_sys::path::remove_file(task.local(), &self.file).await;
    }

    async fn create_request(&self, task: &Task<'_>, below: NodeId) -> Result<CreateRequest> {
        let facts = task.gs().with(|graph| Some((graph.node(below)?.len, named(graph, below))));
        let (len_bytes, named) =
            facts.ok_or_else(|| Error::new(Kind::NotFound, "the disk has no node any more"))?;
        let (path, format) = named.ok_or_else(|| {
            let text = "the disk is more than a file in a format, so a new file cannot name it";
            Error::new(Kind::Unsupported, text)
        })?;
        let backing = Some(self.recorded(task, &path, format).await?);
        Ok(CreateRequest {
            name: self.file.clone().into_os_string(),
            format: "qcow2".into(),
            len_bytes,
            backing,
            options: Options::default(),
            existing: Existing::Keep,
            locking: Locking::Auto,
        })
    }

    /// How the new file names the file below: by its name alone if both are in one folder, else by its whole path.
    async fn recorded(&self, task: &Task<'_>, below: &Path, format: &str) -> Result<BackingName> {
        let below = canonical(task.local(), below).await?;
        let folder = match self.file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = canonical(task.local(), folder).await?;
        let name = match below.file_name() {
            Some(name) if below.parent() == Some(&folder) && is_plain(name) => name.to_os_string(),
            _ => below.into_os_string(),
        };
        Ok(BackingName { name, format: Some(format.to_owned()) })
    }

    async fn open(&self, task: &mut Task<'_>, opener: &Opener, below: NodeId) -> Result<(Plan, NodeId)> {
        let mut request = OpenRequest::of(Source::Name(absolute(&self.file)?.into_os_string()));
        request.format = Some("qcow2".into());
        request.settings = Settings { read_only: false, ..self.settings };
        request.backing = BackingChoice::Node(below);
        request.owned = true;
        let opened = opener.open(task, &request).await?;
        let mut plan = Plan::new();
        plan.insert(opened.opening);
        Ok((plan, opened.top))
    }
}

/// The path and the format by which an image can name a node, if these two say all there is to say: a window of a file,
/// or an image inside of an image, they cannot.
pub(super) fn named(graph: &GraphView<'_>, node: NodeId) -> Option<(PathBuf, &'static str)> {
    let path = |node| Some(graph.node_handle(node)?.driver_as::<HostFile>()?.path().to_owned());
    if let Some(path) = path(node) {
        return Some((path, "raw"));
    }
    let info = graph.node(node)?;
    let file = info.edges.iter().find(|edge| edge.key == ChildKey::File)?;
    let is_window = info.format_name == "raw" && file.role != Role::FILTER_CHILD;
    if is_window { None } else { Some((path(file.child)?, info.format_name)) }
}

/// Whether nobody would take the name for something else than a file's.
fn is_plain(name: &OsStr) -> bool {
    matches!(name::parse(name), Ok(Name::Path { driver: None, .. }))
}

/// A name that is a path whatever it looks like.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|cause| {
        Error::new(Kind::InvalidInput, "the name of the file is not valid").because(cause).at_path(path)
    })
}

fn text(name: &OsStr) -> Result<&str> {
    name.to_str()
        .ok_or_else(|| Error::new(Kind::InvalidInput, format!("'{}' is no valid text", name.display())))
}
