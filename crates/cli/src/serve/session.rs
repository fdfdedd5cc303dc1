//! One running `serve`: its disks, and what can be done to them while they are used. Lives on the control thread.

use std::cell::RefCell;
use std::future::poll_fn;
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Poll, Waker};

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::open::Opener;
use drystone_blockdev::query::filename::file_of;
use drystone_core::control::{Control, Task};
use drystone_core::graph::node::NodeId;
use serde_json::{Value, json};

use super::disk::{Disk, absolute, put_on};
use crate::graph::report::Report;
use crate::monitor::{Request, SnapshotArguments, no_such_command};

/// The disks on offer.
pub(super) struct Session {
    control: Control,
    opener: Opener,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    disks: Vec<Offered>,
    /// Nothing is changed any more.
    is_ending: bool,
    /// Whoever waits for changes that are under way.
    waiting: Option<Waker>,
}

/// A disk and the name of its export.
#[derive(Debug)]
pub(super) struct Offered {
    /// The export's name.
    pub(super) export: String,
    /// The disk.
    pub(super) disk: Disk,
    /// A change of it is under way.
    pub(super) is_busy: bool,
}

/// What a snapshot needs to know of its disk.
struct Target {
    index: usize,
    top: NodeId,
    /// Where the overlay goes.
    file: PathBuf,
}

impl Session {
    /// A session without disks.
    pub(super) fn new(control: Control, opener: Opener) -> Self {
        Self { control, opener, state: RefCell::default() }
    }

    /// Adds a disk.
    pub(super) fn add(&self, offered: Offered) {
        self.state.borrow_mut().disks.push(offered);
    }

    /// The names of the exports, and the nodes that clients use.
    pub(super) fn exports(&self) -> Vec<(String, NodeId)> {
        let state = self.state.borrow();
        state.disks.iter().map(|offered| (offered.export.clone(), offered.disk.top())).collect()
    }

    /// Lets nobody begin a change any more, and waits until those under way have ended.
    pub(super) async fn settle(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            state.is_ending = true;
            if state.disks.iter().all(|offered| !offered.is_busy) {
                return Poll::Ready(());
            }
            state.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Gives the disks up, to be closed, when no change is under way.
    pub(super) async fn end(&self) -> Vec<Disk> {
        self.settle().await;
        self.state.borrow_mut().disks.drain(..).map(|offered| offered.disk).collect()
    }

    /// Carries out a command of the control socket.
    pub(super) async fn run(self: Rc<Self>, mut request: Request) -> Result<Value> {
        match request.execute.as_str() {
            "snapshot" => self.snapshot(request.arguments()?).await,
            "query-graph" => {
                let report =
                    self.control.call(async |task: &mut Task<'_>| task.gs().with(Report::of)).await?;
                serde_json::to_value(report).map_err(|cause| {
                    Error::new(Kind::Unsupported, "cannot describe the graph").because(cause)
                })
            }
            other => Err(no_such_command(other)),
        }
    }

    /// Puts a new overlay on a running disk. Done when the guest writes to it.
    pub(super) async fn snapshot(&self, arguments: SnapshotArguments) -> Result<Value> {
        let format = arguments.format.as_deref().unwrap_or("qcow2");
        if format != "qcow2" {
            let text = format!("an overlay is qcow2, not '{format}'");
            return Err(Error::new(Kind::Unsupported, text).in_option("format"));
        }
        let target = self.begin(&arguments)?;
        let index = target.index;
        let file = target.file.clone();
        let opener = self.opener.clone();
        let work = async move |task: &mut Task<'_>| snapshot_of(task, &opener, &target).await;
        let done = self.control.call(work).await.and_then(|done| done);
        self.finish(index, done.as_ref().ok().map(|(node, _)| *node));
        let (_, name) = done?;
        Ok(json!({ "file": file.to_string_lossy(), "node": name }))
    }

    fn begin(&self, arguments: &SnapshotArguments) -> Result<Target> {
        let mut state = self.state.borrow_mut();
        if state.is_ending {
            return Err(Error::new(Kind::Cancelled, "the disks are being closed"));
        }
        let (index, offered) = find(&mut state.disks, arguments.export.as_deref())?;
        let about = |kind, text: &str| Err(Error::new(kind, format!("disk '{}' {text}", offered.export)));
        if offered.disk.temporary.is_some() {
            return about(Kind::Unsupported, "is on a temporary overlay, which a new file could not outlive");
        }
        if offered.is_busy {
            return about(Kind::InUse, "is being changed already");
        }
        let path = PathBuf::from(&arguments.file);
        if !path.is_absolute() {
            return Err(Error::new(Kind::InvalidInput, "the path must be absolute").in_option("file"));
        }
        let file = absolute(&path)?;
        offered.is_busy = true;
        Ok(Target { index, top: offered.disk.top(), file })
    }

    fn finish(&self, index: usize, node: Option<NodeId>) {
        let mut state = self.state.borrow_mut();
        if let Some(offered) = state.disks.get_mut(index) {
            offered.is_busy = false;
            offered.disk.owned.extend(node);
        }
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Snapshots of all disks, in new files beside theirs. What became of each.
    pub(super) async fn snapshot_all(&self) -> Vec<Result<Value>> {
        let mut results = Vec::new();
        for (export, _) in self.exports() {
            results.push(match self.new_name(&export).await {
                Ok(file) => {
                    self.snapshot(SnapshotArguments { file, format: None, export: Some(export) }).await
                }
                Err(error) => Err(error),
            });
        }
        results
    }

    /// A file that is not there yet, beside the disk's newest one.
    async fn new_name(&self, export: &str) -> Result<String> {
        let top = find(&mut self.state.borrow_mut().disks, Some(export))?.1.disk.owned.first().copied();
        let named = self.control.call(async move |task: &mut Task<'_>| {
            let path = task.gs().with(|graph| file_of(graph, top?));
            free_name(task, path).await
        });
        named.await?
    }
}

/// The disk with this export, or the only one.
fn find<'d>(disks: &'d mut [Offered], export: Option<&str>) -> Result<(usize, &'d mut Offered)> {
    let text = match export {
        None if disks.len() > 1 => "there are several disks; say which with 'export'".to_owned(),
        None => "there is no disk".to_owned(),
        Some(name) => format!("there is no export '{name}'"),
    };
    let is_only = disks.len() == 1;
    let is_meant = |offered: &Offered| export.map_or(is_only, |name| offered.export == name);
    let found = disks.iter_mut().enumerate().find(|(_, offered)| is_meant(offered));
    found.ok_or_else(|| Error::new(Kind::NotFound, text).in_option("export"))
}

/// Makes the overlay and moves everybody from the old top to it.
async fn snapshot_of(task: &mut Task<'_>, opener: &Opener, target: &Target) -> Result<(NodeId, String)> {
    let top = target.top;
    let is_read_only = task.gs().with(|graph| graph.node(top)).is_none_or(|node| node.read_only);
    if is_read_only {
        let text = "the disk is read-only: a snapshot of it would never differ";
        return Err(Error::new(Kind::ReadOnly, text));
    }
    let node = put_on(task, opener, top, &target.file).await?;
    let name = task.gs().with(|graph| graph.node(node)).map(|info| info.name);
    Ok((node, name.unwrap_or_default()))
}

/// `disk.qcow2` gives `disk.1.qcow2`, `disk.2.qcow2`, ...: the first that is free.
async fn free_name(task: &Task<'_>, of: Option<PathBuf>) -> Result<String> {
    let of = of.ok_or_else(|| Error::new(Kind::Unsupported, "the disk is no file; name the new one"))?;
    let of = absolute(&of)?;
    let stem = of.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    for number in 1..=u32::MAX {
        let path = of.with_file_name(format!("{stem}.{number}.qcow2"));
        if !drystone_sys::path::exists(task.local(), &path).await? {
            return path
                .into_os_string()
                .into_string()
                .map_err(|path| Error::new(Kind::InvalidInput, "the name is no valid text").at_path(path));
        }
    }
    Err(Error::new(Kind::AlreadyExists, "there is no free name beside it").at_path(of))
}
