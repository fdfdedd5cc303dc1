//! The budget of a request through real drivers on real files: drivers and core allocate nothing for what is mapped, and
//! `sys` at most once per request.
//!
//! | file | how an operation gets there | allocations |
//! |---|---|---|
//! | in memory (tmpfs), page cached | on the spot | 0 |
//! | direct, or a buffered write that the file system refuses to do without waiting | ring or thread pool | 1 |
//!
//! Counted around single requests on their thread, once everything has been used. Buffers come from a pool.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the tests themselves")]

use std::path::{Path, PathBuf};

use drystone_base::GuestOffset;
use drystone_blockdev::create::{CreateRequest, create_image};
use drystone_blockdev::formats::{BackingName, Formats};
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_blockdev::request::OpenRequest;
use drystone_blockdev::settings::Settings;
use drystone_buf::{Buf, Pool};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::permission::Grant;
use drystone_protocol::file::Locking;
use drystone_protocol::file::create::Existing;
use drystone_sys::{EngineKind, Threads};
use drystone_testkit::allocations::{CountingAllocator, made_here};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const LEN: u64 = 8 << 20;
const CLUSTER: u64 = 64 << 10;
const REQUEST_BYTES: usize = 4096;
/// The last one is counted: what is made once is made by then.
const ROUNDS: u32 = 40;

struct Folder(PathBuf);

impl Folder {
    fn below(parent: &Path, name: &str) -> Self {
        let path = parent.join(format!("drystone-alloc-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A graph on one thread, and a control task in it.
fn on_control(kind: EngineKind, test: impl AsyncFnOnce(&mut Task<'_>) + Send + 'static) {
    let mut threads = Threads::start(1, kind).unwrap();
    let done = threads.run_here(async move |local| {
        let (thread, control) = ControlThread::new(local.clone(), 1);
        local.spawn(Box::pin(thread.run()));
        control.call(async move |task: &mut Task<'_>| test(task).await).await
    });
    done.unwrap();
}

async fn create(task: &Task<'_>, path: &Path, format: &str, backing: Option<&str>) {
    let backing = backing.map(|name| BackingName { name: name.into(), format: Some("qcow2".to_owned()) });
    let request = CreateRequest {
        name: path.into(),
        format: format.to_owned(),
        len_bytes: LEN,
        backing,
        options: Options::default(),
        existing: Existing::Replace,
        locking: Locking::Auto,
    };
    create_image(task.local_ref(), &Formats::builtin(), request).await.unwrap();
}

async fn open(task: &mut Task<'_>, path: &Path, format: &str, direct: bool) -> Backend<ReadWrite> {
    let settings = Settings { cache_direct: direct, ..Settings::default() };
    let request = OpenRequest { settings, format: Some(format.to_owned()), ..OpenRequest::of_name(path) };
    let opened = Opener::trusting().open(task, &request).await.unwrap();
    let mut plan = Plan::new();
    plan.insert(opened.opening);
    let spec = RootSpec { name: "client".to_owned(), grant: Grant::WRITER, stays: false };
    let user = plan.attach_root(task.gs(), opened.top, spec);
    task.apply(plan).await.unwrap();
    user
}

async fn close(task: &mut Task<'_>, user: &Backend<ReadWrite>) {
    let mut plan = Plan::new();
    plan.detach_root(user.id());
    task.apply(plan).await.unwrap();
}

async fn write(task: &mut Task<'_>, user: &Backend<ReadWrite>, at: u64, buf: Buf) -> u64 {
    let before = made_here();
    let mut ticket = task.enter(user).await;
    let (result, _buf) = ticket.write(GuestOffset::new(at), buf, WriteFlags::default()).await;
    drop(ticket);
    result.unwrap();
    made_here() - before
}

async fn read(task: &mut Task<'_>, user: &Backend<ReadWrite>, at: u64, buf: Buf) -> u64 {
    let before = made_here();
    let mut ticket = task.enter(user).await;
    let (result, _buf) = ticket.read(GuestOffset::new(at), buf).await;
    drop(ticket);
    result.unwrap();
    made_here() - before
}

/// An image with `layers` layers, the lowest of which has cluster 0, the next one cluster 1, and so on.
async fn make_chain(task: &mut Task<'_>, folder: &Path, format: &str, layers: u64) -> PathBuf {
    let mut path = PathBuf::new();
    for layer in 0..layers {
        let below = path.file_name().map(|name| name.to_str().unwrap().to_owned());
        path = folder.join(format!("{format}-{layers}-{layer}"));
        create(task, &path, format, below.as_deref()).await;
        let user = open(task, &path, format, false).await;
        write(task, &user, layer * CLUSTER, Buf::zeroed(usize::try_from(CLUSTER).unwrap())).await;
        close(task, &user).await;
    }
    path
}

/// Allocations of a read from each layer, lowest first, and of an overwrite of what the top layer has.
async fn costs(task: &mut Task<'_>, path: &Path, format: &str, layers: u64, direct: bool) -> (Vec<u64>, u64) {
    let user = open(task, path, format, direct).await;
    let pool = Pool::new(1 << 20);
    let mut reads = Vec::with_capacity(8);
    let mut overwrite = 0;
    for _ in 0..ROUNDS {
        reads.clear();
        for layer in 0..layers {
            reads.push(read(task, &user, layer * CLUSTER, pool.take(REQUEST_BYTES)).await);
        }
        let mut buf = pool.take(REQUEST_BYTES);
        buf.fill_zero();
        overwrite = write(task, &user, (layers - 1) * CLUSTER, buf).await;
    }
    close(task, &user).await;
    (reads, overwrite)
}

const IMAGES: [(&str, u64); 3] = [("raw", 1), ("qcow2", 1), ("qcow2", 3)];

fn demand(kind: EngineKind, parent: &Path, name: &'static str, direct: bool, limit: (u64, u64)) {
    let folder = Folder::below(parent, name);
    on_control(kind, async move |task: &mut Task<'_>| {
        for (format, layers) in IMAGES {
            let path = make_chain(task, &folder.0, format, layers).await;
            let (reads, overwrite) = costs(task, &path, format, layers, direct).await;
            println!("{name}, {kind:?}, {format} of {layers} layers: reads {reads:?}, overwrite {overwrite}");
            assert!(
                reads.iter().all(|made| *made <= limit.0),
                "{name}, {format} of {layers}: reads {reads:?}"
            );
            assert!(overwrite <= limit.1, "{name}, {format} of {layers} layers: overwrite {overwrite}");
        }
        drop(folder);
    });
}

#[test]
fn requests_that_memory_answers_allocate_nothing() {
    for kind in [EngineKind::Uring, EngineKind::Pool] {
        demand(kind, Path::new("/dev/shm"), "memory", false, (0, 0));
    }
}

#[test]
fn reads_that_the_page_cache_answers_allocate_nothing() {
    for kind in [EngineKind::Uring, EngineKind::Pool] {
        demand(kind, &std::env::temp_dir(), "cached", false, (0, 1));
    }
}

#[test]
fn requests_that_wait_for_a_device_allocate_once() {
    for kind in [EngineKind::Uring, EngineKind::Pool] {
        demand(kind, &std::env::temp_dir(), "direct", true, (1, 1));
    }
}
