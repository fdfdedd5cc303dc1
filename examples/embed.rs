//! Opens a chain of images, reads and writes it from several threads, and snapshots it meanwhile.
//!
//! `embed IMAGE NEW-LAYER`: both are qcow2; the second is made now and stands on the first afterwards.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use drystone_base::{GuestOffset, Result};
use drystone_blockdev::draft::{SnapshotSync, change};
use drystone_blockdev::open::Opener;
use drystone_blockdev::request::OpenRequest;
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::permission::Grant;
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_sys::{EngineKind, ThreadHandle, Threads};

fn main() -> Result<()> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (image, layer) = paths.next().zip(paths.next()).expect("usage: embed IMAGE NEW-LAYER");
    let mut threads = Threads::start(3, EngineKind::Auto)?;
    let workers: Vec<_> = threads.handles().iter().skip(1).cloned().collect();
    threads.run_here(|local| async move {
        // This thread owns the graph; whoever has a `Control` sends work to it.
        let (thread, control) = ControlThread::new(local.clone(), 3);
        local.spawn(Box::pin(thread.run()));
        let disk = control.call(async |task: &mut Task<'_>| open(task, image).await).await??;
        let start = |(worker, first): (&ThreadHandle, u64)| {
            let disk = disk.clone();
            worker.call(move |local| write_and_check(local, disk, first * 256))
        };
        let work: Vec<_> = workers.iter().zip(0..).map(start).collect();
        control.call(async |task: &mut Task<'_>| snapshot(task, layer).await).await??;
        for done in work {
            done.await??;
        }
        // The last user goes, and the images are closed.
        let closed = control.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.detach_root(disk.id());
            task.apply(plan).await
        });
        closed.await?
    })
}

/// Opens the image with everything that it stands on, and becomes its user.
async fn open(task: &mut Task<'_>, image: PathBuf) -> Result<Backend<ReadWrite>> {
    let request = OpenRequest { node_name: Some("disk".into()), ..OpenRequest::of_name(image) };
    let opened = Opener::trusting().open(task, &request).await?;
    let mut plan = Plan::new();
    plan.insert(opened.opening);
    let user = RootSpec { name: "embed".into(), grant: Grant::WRITER, stays: false };
    let disk = plan.attach_root(task.gs(), opened.top, user);
    task.apply(plan).await?;
    Ok(disk)
}

async fn write_and_check(local: LocalRef, disk: Backend<ReadWrite>, first: u64) -> Result<()> {
    let mut lane = Lane::new(local);
    for block in first..first + 256 {
        let (at, fill) = (GuestOffset::new(block * 4096), block.to_le_bytes()[0]);
        let mut ticket = lane.enter(&disk).await;
        ticket.write(at, Buf::copy_of(&[fill; 4096]), WriteFlags::default()).await.0?;
        let (result, buf) = ticket.read(at, Buf::zeroed(4096)).await;
        result?;
        assert_eq!(buf.as_slice(), [fill; 4096]);
    }
    lane.enter(&disk).await.flush().await
}

/// Puts a new layer on the disk: all its users are on that one from then on.
async fn snapshot(task: &mut Task<'_>, layer: PathBuf) -> Result<()> {
    let (new, opener) = (SnapshotSync::new("disk", layer, "layer"), Opener::trusting());
    change(task, &opener, async |draft, task| draft.snapshot_sync(task, new).await).await.map(drop)
}
