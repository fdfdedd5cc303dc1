//! Graphs on real files, and images to put there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use drystone_base::{GuestOffset, Result};
use drystone_blockdev::create::{CreateRequest, create_image};
use drystone_blockdev::formats::{BackingName, Formats};
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_blockdev::policy::BackingPolicy;
use drystone_blockdev::report::{Layer, Warning};
use drystone_blockdev::request::OpenRequest;
use drystone_blockdev::settings::Settings;
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_protocol::file::Locking;
use drystone_protocol::file::create::Existing;
use drystone_sys::{EngineKind, Threads};

pub(crate) const LEN: u64 = 1 << 20;

/// Runs `test` as a control task of a graph.
pub(crate) fn on_control(test: impl AsyncFnOnce(&mut Task<'_>) + Send + 'static) {
    let mut threads = Threads::start(1, EngineKind::Pool).unwrap();
    let done = threads.run_here(async move |local| {
        let (thread, control) = ControlThread::new(local.clone(), 1);
        local.spawn(Box::pin(thread.run()));
        control.call(async move |task: &mut Task<'_>| test(task).await).await
    });
    done.unwrap();
}

/// A folder that is gone after the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// On whatever file system temporary files are.
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// For many files: nothing is written to a disk.
    pub(crate) fn in_memory() -> Self {
        Self::below(Path::new("/dev/shm"))
    }

    fn below(parent: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("drystone-blockdev-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(std::fs::canonicalize(path).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A raw file that begins with `start`.
    pub(crate) fn raw(&self, name: &str, start: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, start).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(LEN).unwrap();
        path
    }

    /// Names of what is in it.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn new_image(path: impl Into<OsString>, format: &str) -> CreateRequest {
    CreateRequest {
        name: path.into(),
        format: format.to_owned(),
        len_bytes: LEN,
        backing: None,
        options: Options::default(),
        existing: Existing::Replace,
        locking: Locking::Auto,
    }
}

pub(crate) async fn create(task: &Task<'_>, request: CreateRequest) -> Result<()> {
    create_image(task.local_ref(), &Formats::builtin(), request).await
}

/// A qcow2 image at `path` that names `backing` (name, format).
pub(crate) async fn overlay(task: &Task<'_>, path: &Path, backing: Option<(&str, &str)>) {
    let backing = backing.map(|(name, format)| BackingName {
        name: name.into(),
        format: Some(format.to_owned()).filter(|format| !format.is_empty()),
    });
    create(task, CreateRequest { backing, ..new_image(path, "qcow2") }).await.unwrap();
}

pub(crate) fn request(path: impl Into<OsString>) -> OpenRequest {
    OpenRequest::of_name(path)
}

pub(crate) fn read_only(path: impl Into<OsString>) -> OpenRequest {
    let settings = Settings { read_only: true, ..Settings::default() };
    OpenRequest { settings, ..OpenRequest::of_name(path) }
}

pub(crate) fn json(text: &str) -> OpenRequest {
    OpenRequest::of_name(format!("json:{text}"))
}

/// An image that was opened and has a user.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) top: NodeId,
    pub(crate) user: Backend<ReadWrite>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) warnings: Vec<Warning>,
}

pub(crate) async fn open(task: &mut Task<'_>, request: &OpenRequest) -> Result<Image> {
    open_by(&Opener::trusting(), task, request).await
}

pub(crate) async fn open_with(
    policy: BackingPolicy,
    task: &mut Task<'_>,
    request: &OpenRequest,
) -> Result<Image> {
    open_by(&Opener { policy, ..Opener::trusting() }, task, request).await
}

/// Opens the image and attaches somebody who writes it if that is possible.
pub(crate) async fn open_by(opener: &Opener, task: &mut Task<'_>, request: &OpenRequest) -> Result<Image> {
    let opened = opener.open(task, request).await?;
    let read_only = opened.opening.node(opened.top)?.is_read_only();
    let perm = if read_only { Perm::CONSISTENT_READ } else { Grant::WRITER.perm };
    let mut plan = Plan::new();
    plan.insert(opened.opening);
    let grant = Grant { perm, shared: Perm::ALL };
    let spec = RootSpec { name: "user".to_owned(), grant, stays: false };
    let user = plan.attach_root(task.gs(), opened.top, spec);
    task.apply(plan).await?;
    Ok(Image { top: opened.top, user, layers: opened.layers, warnings: opened.warnings })
}

impl Image {
    pub(crate) async fn read(&self, task: &mut Task<'_>, at: u64, len: usize) -> Vec<u8> {
        let mut ticket = task.enter(&self.user).await;
        let (result, buf) = ticket.read(GuestOffset::new(at), Buf::zeroed(len)).await;
        result.unwrap();
        buf.as_slice().to_vec()
    }

    pub(crate) async fn write(&self, task: &mut Task<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        let mut ticket = task.enter(&self.user).await;
        ticket.write(GuestOffset::new(at), Buf::copy_of(bytes), WriteFlags::default()).await.0
    }

    /// Takes the image out of the graph.
    pub(crate) async fn close(self, task: &mut Task<'_>) {
        let mut plan = Plan::new();
        plan.detach_root(self.user.id());
        task.apply(plan).await.unwrap();
    }

    pub(crate) fn formats(&self) -> Vec<&'static str> {
        self.layers.iter().map(|layer| layer.format_name).collect()
    }
}

/// Descriptors that this process has of files below the folder.
pub(crate) fn open_files(folder: &Folder) -> Vec<PathBuf> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    targets.filter(|target| target.starts_with(&folder.0)).collect()
}

/// Runs a C tool; `None` if it is not installed.
pub(crate) fn tool(name: &str, args: &[&str]) -> Option<Output> {
    let output = Command::new(name).args(args).output();
    output.inspect_err(|_| eprintln!("skipped: {name} is not installed")).ok()
}

/// What a C tool prints; it must work.
pub(crate) fn tool_says(name: &str, args: &[&str]) -> Option<String> {
    let output = tool(name, args)?;
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
