//! Graphs on real files: both engines, folders that go away, and what the kernel says of a file.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::{Status, WriteFlags, ZeroFlags};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_protocol::file::{FileOptions, HostFile};
use drystone_sys::{EngineKind, Threads};

/// Reads and bears with everybody.
pub(crate) const READER: Grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };
/// Reads and writes and bears with everybody.
pub(crate) const WRITER: Grant = Grant { perm: Grant::WRITER.perm, shared: Perm::ALL };
/// The same, and resizes.
pub(crate) const RESIZER: Grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), shared: Perm::ALL };
/// The driver of an image format that is open for writing.
pub(crate) const FORMAT: Grant =
    Grant { perm: RESIZER.perm, shared: Perm::CONSISTENT_READ.with(Perm::WRITE_UNCHANGED) };

/// Runs `test` as a control task of a graph, on each engine.
pub(crate) fn on_both_engines(test: impl AsyncFnOnce(&mut Task<'_>) + Send + Clone + 'static) {
    for engine in [EngineKind::Uring, EngineKind::Pool] {
        let mut threads = match Threads::start(1, engine) {
            Err(error) if engine == EngineKind::Uring => {
                eprintln!("no io_uring here: {}", error.report());
                continue;
            }
            threads => threads.unwrap(),
        };
        let test = test.clone();
        let done = threads.run_here(async move |local| {
            let (thread, control) = ControlThread::new(local.clone(), 1);
            local.spawn(Box::pin(thread.run()));
            control.call(async move |task: &mut Task<'_>| test(task).await).await
        });
        done.unwrap();
    }
}

/// A folder that is gone after the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    fn below(parent: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("drystone-protocol-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A new file with these contents.
    pub(crate) fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node 'disk' of the graph.
pub(crate) async fn insert(task: &mut Task<'_>, options: FileOptions) -> Result<NodeId> {
    insert_as(task, "disk", options).await
}

pub(crate) async fn insert_as(task: &mut Task<'_>, name: &str, options: FileOptions) -> Result<NodeId> {
    let (driver, facts) = HostFile::open(task.local(), options).await?;
    let mut opening = Opening::new(task);
    let name = Some(name.to_owned());
    let children = Vec::new();
    let new = NewNode { name, driver: Box::new(driver), facts, children, owned: true, force_share: false };
    let node = opening.add(new)?;
    let mut plan = Plan::new();
    plan.insert(opening);
    task.apply(plan).await?;
    Ok(node)
}

pub(crate) async fn attach(task: &mut Task<'_>, node: NodeId, grant: Grant) -> Result<Backend<ReadWrite>> {
    let mut plan = Plan::new();
    let backend =
        plan.attach_root(task.gs(), node, RootSpec { name: "user".to_owned(), grant, stays: false });
    task.apply(plan).await?;
    Ok(backend)
}

pub(crate) async fn detach(task: &mut Task<'_>, backend: &Backend<ReadWrite>) {
    let mut plan = Plan::new();
    plan.detach_root(backend.id());
    task.apply(plan).await.unwrap();
}

pub(crate) async fn remove(task: &mut Task<'_>, node: NodeId) {
    let mut plan = Plan::new();
    plan.remove(node);
    task.apply(plan).await.unwrap();
}

/// A node and a user of it.
pub(crate) async fn open(
    task: &mut Task<'_>,
    options: FileOptions,
    grant: Grant,
) -> Result<Backend<ReadWrite>> {
    let node = insert(task, options).await?;
    attach(task, node, grant).await
}

pub(crate) async fn read(task: &mut Task<'_>, from: &Backend<ReadWrite>, at: u64, len: usize) -> Vec<u8> {
    let dirty = Buf::copy_of(&vec![0xee; len]);
    let (result, buf) = task.enter(from).await.read(GuestOffset::new(at), dirty).await;
    result.unwrap();
    buf.as_slice().to_vec()
}

pub(crate) async fn write(task: &mut Task<'_>, to: &Backend<ReadWrite>, at: u64, bytes: &[u8]) -> Result<()> {
    let mut ticket = task.enter(to).await;
    ticket.write(GuestOffset::new(at), Buf::copy_of(bytes), WriteFlags::default()).await.0
}

pub(crate) async fn zero(
    task: &mut Task<'_>,
    of: &Backend<ReadWrite>,
    range: GuestRange,
    may_unmap: bool,
) -> Result<()> {
    task.enter(of).await.write_zeroes(range, ZeroFlags { may_unmap, ..ZeroFlags::default() }).await
}

pub(crate) async fn status(task: &mut Task<'_>, of: &Backend<ReadWrite>, range: GuestRange) -> Status {
    task.enter(of).await.status(range, 0).await.unwrap()
}

pub(crate) async fn len(task: &mut Task<'_>, of: &Backend<ReadWrite>) -> u64 {
    task.enter(of).await.len()
}

pub(crate) fn range(at: u64, len: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(at), len)
}

/// The bytes of the file that descriptors of this process have locked. (`/proc/locks` would say it for all processes, but
/// is no snapshot: what others lock meanwhile makes it skip lines.)
pub(crate) fn locked(path: &Path) -> Vec<u64> {
    let path = std::fs::canonicalize(path).unwrap();
    let process = Path::new("/proc/self");
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(process.join("fd")).unwrap().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let info = process.join("fdinfo").join(entry.file_name());
            let info = std::fs::read_to_string(info).unwrap_or_default();
            let locks = info.lines().filter(|line| line.starts_with("lock:") && line.contains("OFDLCK"));
            for line in locks {
                let words: Vec<&str> = line.split_whitespace().rev().collect();
                bytes.extend(words[1].parse::<u64>().unwrap()..=words[0].parse::<u64>().unwrap());
            }
        }
    }
    bytes.sort_unstable();
    bytes
}

/// Whether each descriptor that this process has of the file can write, and whether it is for direct I/O.
pub(crate) fn descriptors(path: &Path) -> Vec<(bool, bool)> {
    let path = std::fs::canonicalize(path).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
            let Ok(info) = std::fs::read_to_string(info) else { continue };
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            // asm-generic/fcntl.h, except for O_DIRECT on a few architectures.
            found.push((flags & 3 == 2, flags & 0o40000 != 0));
        }
    }
    found
}

/// Space that the file takes, in bytes.
pub(crate) fn space(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// Something that only the superuser can set up and that is taken down after the test.
pub(crate) struct Setup {
    undo: Vec<String>,
    pub(crate) path: PathBuf,
}

impl Setup {
    /// A file system in memory with room for `bytes`, mounted on `folder`; `None` if we may not.
    pub(crate) fn small_file_system(folder: PathBuf, bytes: u64) -> Option<Self> {
        std::fs::create_dir(&folder).unwrap();
        let size = format!("size={bytes}");
        let target = folder.to_str().unwrap().to_owned();
        run(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &target])?;
        Some(Self { undo: vec!["umount".into(), target], path: folder })
    }

    /// A block device whose bytes are in `file`; `None` if we may not.
    pub(crate) fn block_device(file: &Path) -> Option<Self> {
        let device = run(&["losetup", "--find", "--show", file.to_str().unwrap()])?;
        let device = device.trim().to_owned();
        Some(Self { undo: vec!["losetup".into(), "--detach".into(), device.clone()], path: device.into() })
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let undo: Vec<&str> = self.undo.iter().map(String::as_str).collect();
        run(&undo);
    }
}

fn run(words: &[&str]) -> Option<String> {
    let output = Command::new(words[0]).args(&words[1..]).output();
    match output {
        Ok(output) if output.status.success() => Some(String::from_utf8(output.stdout).unwrap()),
        other => {
            eprintln!("skipped: cannot run {words:?}: {other:?}");
            None
        }
    }
}
