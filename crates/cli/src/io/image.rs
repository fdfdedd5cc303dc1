//! [`Image`]: the image that is open, and its users.
//!
//! ```text
//!   reader ──┐
//!            ├──► [copy-on-read] ──► [temporary overlay] ──► image
//!   writer ──┘  unless the image is read-only; changes lengths from the first command on that does
//! ```
//! Invariant: what is opened read-only takes no permission to write, so that an image that others use can be looked at.

use drystone_base::Result;
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_blockdev::report::Warning;
use drystone_blockdev::request::OpenRequest;
use drystone_core::backend::{Backend, ReadOnly, ReadWrite, RootId};
use drystone_core::control::{Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_filter::copy_on_read::CopyOnRead;

use super::table::Needs;
use crate::serve::disk::{absolute, put_on};
use crate::serve::overlay::Temporary;
use crate::tool::Tool;
use crate::tool::image::CacheMode;

/// What is to be opened.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) request: OpenRequest,
    pub(super) cache: CacheMode,
    /// `-s`.
    pub(super) is_snapshot: bool,
    /// `-C`.
    pub(super) is_copy_on_read: bool,
    /// The name of the user, for reports.
    pub(super) user: &'static str,
}

/// The open image.
pub(super) struct Image {
    pub(super) reader: Backend<ReadOnly>,
    writer: Option<Backend<ReadWrite>>,
    can_resize: bool,
    /// Where users attach.
    entry: NodeId,
    /// The image, below a filter that this tool has put there.
    pub(super) node: NodeId,
    pub(super) cache: CacheMode,
    overlay: Option<Overlay>,
    user: &'static str,
}

/// A temporary overlay.
struct Overlay {
    node: NodeId,
    file: Temporary,
}

/// What came of opening, on its way from the control task.
struct Opened {
    reader: Backend<ReadOnly>,
    entry: NodeId,
    node: NodeId,
    overlay: Option<Overlay>,
    warnings: Vec<Warning>,
}

impl Image {
    /// Opens an image.
    ///
    /// # Errors
    /// Those of the image and what is behind it, and of making an overlay; nothing of it is open then.
    pub(super) async fn open(tool: &Tool, wish: Wish) -> Result<Self> {
        let (opener, cache, user) = (tool.opener().clone(), wish.cache, wish.user);
        let writes = !wish.request.settings.read_only;
        let opened = tool.on_control(async move |task| open(task, &opener, &wish).await).await?;
        let Opened { reader, entry, node, overlay, warnings } = opened;
        warnings.iter().for_each(|warning| tool.warn(warning));
        let mut image = Self { reader, writer: None, can_resize: false, entry, node, cache, overlay, user };
        if writes && let Err(error) = image.allow(tool, Needs::Write).await {
            image.close(tool).await?;
            return Err(error);
        }
        Ok(image)
    }

    /// How writes are to be done for the cache mode.
    pub(super) fn flags(&self) -> WriteFlags {
        WriteFlags { fua: self.cache.is_writethrough, ..WriteFlags::default() }
    }

    /// The user that writes, if there is one.
    pub(super) fn writer(&self) -> Option<Backend<ReadWrite>> {
        self.writer.clone()
    }

    /// Makes sure that a command can do what it needs.
    ///
    /// # Errors
    /// The image is read-only, or somebody else's use of it excludes writing.
    pub(super) async fn allow(&mut self, tool: &Tool, needs: Needs) -> Result<()> {
        let resizes = self.can_resize || needs == Needs::Resize;
        if needs < Needs::Write || (self.writer.is_some() && resizes == self.can_resize) {
            return Ok(());
        }
        let perm = Perm::CONSISTENT_READ.with(Perm::WRITE);
        let perm = if resizes { perm.with(Perm::RESIZE) } else { perm };
        let grant = Grant { perm, shared: Perm::ALL };
        let (entry, name, known) = (self.entry, self.user.to_owned(), self.writer.clone());
        let writer = tool.on_control(async move |task| {
            let mut plan = Plan::new();
            let writer = match known {
                Some(writer) => {
                    plan.set_grant(writer.id(), grant);
                    writer
                }
                None => plan.attach_root(task.gs(), entry, RootSpec { name, grant, stays: false }),
            };
            task.apply(plan).await.map(|()| writer)
        });
        self.writer = Some(writer.await?);
        self.can_resize = resizes;
        Ok(())
    }

    /// Takes the user that writes away.
    ///
    /// # Errors
    /// Those of storing what the drivers hold.
    pub(super) async fn give_up_writing(&mut self, tool: &Tool) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        self.can_resize = false;
        let root = writer.id();
        tool.on_control(async move |task| detach(task, &[root]).await).await
    }

    /// Waits for all requests that are under way.
    ///
    /// # Errors
    /// The control thread has ended.
    pub(super) async fn drain(&self, tool: &Tool) -> Result<()> {
        let entry = self.entry;
        tool.on_control(async move |task| {
            drop(task.drain(&[entry]).await);
            Ok(())
        })
        .await
    }

    /// Closes it.
    ///
    /// # Errors
    /// Those of storing what the drivers hold; it stays open then, and is closed without storing when the tool ends.
    pub(super) async fn close(self, tool: &Tool) -> Result<()> {
        let mut roots = vec![self.reader.id()];
        roots.extend(self.writer.as_ref().map(Backend::id));
        let overlay = self.overlay;
        tool.on_control(async move |task| {
            let detached = detach(task, &roots).await;
            match overlay {
                None => detached,
                Some(overlay) => detached.and(overlay.remove(task).await),
            }
        })
        .await
    }
}

impl Overlay {
    async fn remove(self, task: &mut Task<'_>) -> Result<()> {
        let mut plan = Plan::new();
        plan.remove(self.node);
        let removed = task.apply(plan).await;
        removed.and(self.file.remove(task.local()).await)
    }
}

async fn detach(task: &mut Task<'_>, roots: &[RootId]) -> Result<()> {
    let mut plan = Plan::new();
    roots.iter().for_each(|root| plan.detach_root(*root));
    task.apply(plan).await
}

async fn open(task: &mut Task<'_>, opener: &Opener, wish: &Wish) -> Result<Opened> {
    let mut request = wish.request.clone();
    request.settings.read_only |= wish.is_snapshot;
    let grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };
    let users = if request.settings.read_only { grant.perm } else { grant.perm.with(Perm::WRITE) };
    request.users = Some(Grant { perm: users, ..grant });
    let opened = opener.open(task, &request).await?;
    let (node, warnings, mut opening) = (opened.top, opened.warnings, opened.opening);
    let filters = wish.is_copy_on_read && !wish.is_snapshot;
    let entry = if filters {
        let len = opening.node(node)?.len();
        opening.add(CopyOnRead::new(None).node(None, node, len))?
    } else {
        node
    };
    let mut plan = Plan::new();
    plan.insert(opening);
    let spec = RootSpec { name: wish.user.to_owned(), grant, stays: false };
    let reader: Backend<ReadOnly> = plan.attach_root(task.gs(), entry, spec);
    task.apply(plan).await?;
    let opened = Opened { reader, entry, node, overlay: None, warnings };
    if !wish.is_snapshot {
        return Ok(opened);
    }
    let root = opened.reader.id();
    match put_overlay(task, opener, opened).await {
        Ok(opened) => Ok(opened),
        Err(error) => {
            detach(task, &[root]).await?;
            Err(error)
        }
    }
}

/// Puts a temporary overlay on the image, for all its users.
async fn put_overlay(task: &mut Task<'_>, opener: &Opener, opened: Opened) -> Result<Opened> {
    let file = Temporary::make(task.local()).await?;
    let put = match absolute(&file.file()) {
        Ok(path) => put_on(task, opener, opened.node, &path).await,
        Err(error) => Err(error),
    };
    match put {
        Ok(node) => Ok(Opened { entry: node, node, overlay: Some(Overlay { node, file }), ..opened }),
        Err(error) => {
            file.remove(task.local()).await?;
            Err(error)
        }
    }
}

/// Options that are added to others, and say more than those.
///
/// # Errors
/// Keys that exclude each other.
pub(super) fn with_options(base: &Options, more: &Options) -> Result<Options> {
    let mut flat = base.flat();
    flat.extend(more.flat());
    let mut options = Options::default();
    for (key, value) in flat {
        options.set(&key, value)?;
    }
    Ok(options)
}
