//! Streams on real threads and files, with a guest that writes on another thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, Result};
use drystone_blockdev::create::{CreateRequest, create_image};
use drystone_blockdev::formats::{BackingName, Formats};
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_blockdev::request::OpenRequest;
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::Grant;
use drystone_core::lane::Lane;
use drystone_job::stream::{StreamBase, StreamOptions, start};
use drystone_job::{IoWork, JobEvent, Jobs, Threads};
use drystone_protocol::file::Locking;
use drystone_protocol::file::create::Existing;
use drystone_sys::{EngineKind, ThreadHandle};

use crate::chain::{names_of, options};

const LEN: u64 = 24 << 20;
const BLOCK: u64 = 4096;

/// Jobs run on I/O thread 1.
struct OnThread(ThreadHandle);

impl Threads for OnThread {
    fn spawn(&self, work: IoWork) -> Result<()> {
        self.0.spawn(work)
    }
}

/// A folder that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("drystone-job-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn create(task: &Task<'_>, path: &Path, backing: Option<&str>) {
    let request = CreateRequest {
        name: path.into(),
        format: "qcow2".to_owned(),
        len_bytes: LEN,
        backing: backing.map(|name| BackingName { name: name.into(), format: Some("qcow2".to_owned()) }),
        options: Options::default(),
        existing: Existing::Replace,
        locking: Locking::Auto,
    };
    create_image(task.local_ref(), &Formats::builtin(), request).await.unwrap();
}

/// Opens an image with a guest: its node and those behind it, from the top down.
async fn open(task: &mut Task<'_>, path: &Path) -> (Backend<ReadWrite>, Vec<NodeId>) {
    let opened = Opener::trusting().open(task, &OpenRequest::of_name(path)).await.unwrap();
    let mut plan = Plan::new();
    plan.insert(opened.opening);
    let spec = RootSpec { name: "guest".to_owned(), grant: Grant::WRITER, stays: false };
    let guest = plan.attach_root(task.gs(), opened.top, spec);
    task.apply(plan).await.unwrap();
    let nodes = task.gs().with(|graph| crate::chain::nodes_below(graph, opened.top));
    (guest, nodes)
}

async fn close(task: &mut Task<'_>, guest: &Backend<ReadWrite>) {
    let mut plan = Plan::new();
    plan.detach_root(guest.id());
    task.apply(plan).await.unwrap();
}

async fn write(lane: &mut Lane, guest: &Backend<ReadWrite>, block: u64, byte: u8) {
    let buf = Buf::copy_of(&vec![byte; usize::try_from(BLOCK).unwrap()]);
    let at = GuestOffset::new(block * BLOCK);
    lane.enter(guest).await.write(at, buf, WriteFlags::default()).await.0.unwrap();
}

async fn compare(lane: &mut Lane, guest: &Backend<ReadWrite>, known: &[u8]) {
    for (block, byte) in (0..).zip(known) {
        let buf = Buf::zeroed(usize::try_from(BLOCK).unwrap());
        let (result, buf) = lane.enter(guest).await.read(GuestOffset::new(block * BLOCK), buf).await;
        result.unwrap();
        assert!(buf.as_slice().iter().all(|found| found == byte), "block {block}");
    }
}

/// Images `layer0` to `layer3`, each with blocks of its own; what the last shows, a byte for each block.
async fn build(task: &mut Task<'_>, folder: &Folder) -> Vec<u8> {
    let mut known = vec![0; usize::try_from(LEN / BLOCK).unwrap()];
    let mut rng = Rng::new(1);
    for layer in 0..4_u8 {
        let backing = layer.checked_sub(1).map(|below| format!("layer{below}"));
        let path = folder.0.join(format!("layer{layer}"));
        create(task, &path, backing.as_deref()).await;
        let (guest, _) = open(task, &path).await;
        let mut lane = Lane::new(task.local_ref().clone());
        for _ in 0..150 {
            let (block, byte) = (rng.index(known.len()), layer + 1);
            write(&mut lane, &guest, block as u64, byte).await;
            known[block] = byte;
        }
        drop(lane);
        close(task, &guest).await;
    }
    known
}

/// Writes random blocks until it is told to stop.
fn spawn_guest(
    thread: &ThreadHandle,
    guest: &Backend<ReadWrite>,
    known: &Arc<Mutex<Vec<u8>>>,
    stop: &Arc<AtomicBool>,
) -> impl Future<Output = Result<u32>> + use<> {
    let (guest, known, stop) = (guest.clone(), Arc::clone(known), Arc::clone(stop));
    thread.call(async move |local| {
        let mut lane = Lane::new(local);
        let mut rng = Rng::new(2);
        let mut written = 0;
        while !stop.load(Ordering::Relaxed) {
            let block = rng.index(usize::try_from(LEN / BLOCK).unwrap());
            let byte = 100 + u8::try_from(written % 100).unwrap();
            write(&mut lane, &guest, block as u64, byte).await;
            known.lock().unwrap()[block] = byte;
            written += 1;
        }
        written
    })
}

/// Streams into layer `top` down to layer `base`, and returns the names of the layers that are left.
fn run(top: usize, base: usize) -> Vec<String> {
    let folder = Folder::new();
    let mut threads = drystone_sys::Threads::start(3, EngineKind::Pool).unwrap();
    let (job_thread, guest_thread) = (threads.handles()[1].clone(), threads.handles()[2].clone());
    threads.run_here(async move |local| {
        let (thread, control) = ControlThread::new(local.clone(), 3);
        local.spawn(Box::pin(thread.run()));
        let jobs = Jobs::new(control.clone(), OnThread(job_thread), |_: JobEvent| {});
        let path = folder.0.join("layer3");
        let (folder, known) = control
            .call(async move |task: &mut Task<'_>| {
                let known = build(task, &folder).await;
                (folder, known)
            })
            .await
            .unwrap();
        let (known, stop) = (Arc::new(Mutex::new(known)), Arc::new(AtomicBool::new(false)));
        let opening = path.clone();
        let (guest, nodes) =
            control.call(async move |task: &mut Task<'_>| open(task, &opening).await).await.unwrap();
        let writing = spawn_guest(&guest_thread, &guest, &known, &stop);
        let started = jobs.clone();
        let (from, to) = (nodes[3 - top], nodes[3 - base]);
        let begun = control.call(async move |task: &mut Task<'_>| {
            let options = StreamOptions {
                base: StreamBase::Base(to),
                auto_dismiss: false,
                backing_file: Some(format!("layer{base}")),
                ..options("j", from)
            };
            start(&started, task, options).await
        });
        begun.await.unwrap().unwrap();
        jobs.ended("j").await;
        assert_eq!(jobs.info("j").unwrap().error, None);
        stop.store(true, Ordering::Relaxed);
        assert!(writing.await.unwrap() > 0);
        drop(jobs);
        let known = known.lock().unwrap().clone();
        let names = control.call(async move |task: &mut Task<'_>| {
            let mut lane = Lane::new(task.local_ref().clone());
            compare(&mut lane, &guest, &known).await;
            close(task, &guest).await;
            let (guest, nodes) = open(task, &path).await;
            compare(&mut lane, &guest, &known).await;
            let names = task.gs().with(|graph| names_of(graph, &nodes));
            close(task, &guest).await;
            (names, folder)
        });
        names.await.unwrap().0
    })
}

#[test]
fn files_are_streamed_while_a_guest_writes() {
    assert_eq!(run(3, 0).len(), 2);
}

/// The image is open read-only, and so is its file: both become writable for the time of the job.
#[test]
fn files_in_the_middle_of_a_chain_are_streamed() {
    assert_eq!(run(2, 0).len(), 3);
}
