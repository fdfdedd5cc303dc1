//! Opens a chain of images, reads and writes it from several threads, and snapshots it meanwhile.
//!
//! `embed IMAGE NEW-LAYER`: both are qcow2; the second is made now and stands on the first afterwards.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use drystone_base::{GuestOffset, Result};
use drystone_blockdev::create::{CreateRequest, create_image};
use drystone_blockdev::formats::{BackingName, Formats};
use drystone_blockdev::open::Opener;
use drystone_blockdev::request::{BackingChoice, OpenRequest};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::permission::Grant;
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_sys::{EngineKind, Locking, Threads};

const WORKERS: u16 = 2;
const BLOCKS: u64 = 256;

fn main() -> Result<()> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (image, layer) = paths.next().zip(paths.next()).expect("usage: embed IMAGE NEW-LAYER");
    let mut threads = Threads::start(WORKERS + 1, EngineKind::Auto)?;
    let workers = threads.handles()[1..].to_vec();
    threads.run_here(|local| async move {
        // This thread owns the graph; whoever has a `Control` sends work to it.
        let (thread, control) = ControlThread::new(local.clone(), WORKERS + 1);
        local.spawn(Box::pin(thread.run()));
        let path = image.clone();
        let disk = control.call(async |task: &mut Task<'_>| open(task, path).await).await??;
        let done = workers.iter().map(|worker| {
            let (disk, offset) = (disk.clone(), u64::from(worker.shard().get() - 1) * BLOCKS);
            worker.call(move |local| write_and_check(local, disk, offset))
        });
        let done: Vec<_> = done.collect::<Result<_>>()?;
        control.call(async |task: &mut Task<'_>| snapshot(task, image, layer).await).await??;
        for done in done {
            done.await??;
        }
        control.call(async move |task: &mut Task<'_>| close(task, disk).await).await?
    })
}

/// Opens the image with everything that it stands on, and becomes its user.
async fn open(task: &mut Task<'_>, image: PathBuf) -> Result<Backend<ReadWrite>> {
    let opened = Opener::trusting().open(task, &OpenRequest::of_name(image)).await?;
    let mut plan = Plan::new();
    plan.insert(opened.opening);
    let user = RootSpec { name: "embed".into(), grant: Grant::WRITER, stays: false };
    let disk = plan.attach_root(task.gs(), opened.top, user);
    task.apply(plan).await?;
    Ok(disk)
}

async fn write_and_check(local: LocalRef, disk: Backend<ReadWrite>, first: u64) -> Result<()> {
    let mut lane = Lane::new(local);
    for block in first..first + BLOCKS {
        let (at, fill) = (GuestOffset::new(block * 4096), block.to_le_bytes()[0]);
        let mut ticket = lane.enter(&disk).await;
        ticket.write(at, Buf::copy_of(&[fill; 4096]), WriteFlags::default()).await.0?;
        let (result, buf) = ticket.read(at, Buf::zeroed(4096)).await;
        result?;
        assert_eq!(buf.as_slice(), [fill; 4096]);
    }
    lane.enter(&disk).await.flush().await
}

/// Puts a new layer on the disk, of which all users are from then on.
async fn snapshot(task: &mut Task<'_>, image: PathBuf, layer: PathBuf) -> Result<()> {
    let old = task.gs().find(NODE)?;
    let len_bytes = task.gs().with(|graph| graph.node(old)).map_or(0, |node| node.len);
    let backing = Some(BackingName { name: image.into(), format: Some("qcow2".into()) });
    let name = layer.into_os_string();
    let new = CreateRequest { name: name.clone(), format: "qcow2".into(), len_bytes, backing, ..CreateRequest::default() };
    create_image(task.local_ref(), &Formats::builtin(), new).await?;
    let request = OpenRequest { backing: BackingChoice::Node(old), ..OpenRequest::of_name(name) };
    let opened = Opener::trusting().open(task, &request).await?;
    let mut plan = Plan::new();
    plan.insert(opened.opening);
    plan.replace(old, opened.top);
    task.apply(plan).await
}

/// Ends being a user of the disk: its images are closed when this returns.
async fn close(task: &mut Task<'_>, disk: Backend<ReadWrite>) -> Result<()> {
    let mut plan = Plan::new();
    plan.detach_root(disk.id());
    task.apply(plan).await
}
