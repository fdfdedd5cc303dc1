//! Everything as it is meant: an export, a change of the graph step by step, a job with its filter, and a driver. This one
//! compiles; what the other programs get wrong, they get wrong in a part of this.
use drystone_base::{GuestOffset, GuestRange, HostOffset, Result};
use drystone_buf::{Buf, GuestSlice};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Control, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{
    Access, BufResult, Driver, Extent, NodeFacts, NodeMode, Place, Publish, StageRequest, Staged, Tail, WriteFlags,
};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::job::{JobCtx, JobLink};
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use stand_in::{Socket, join, spawn_io};

/// The payload first, then enter; leave, then reply.
async fn serve(lane: &mut Lane, disk: &Backend<ReadWrite>, client: &Socket) {
    loop {
        let payload = client.receive(lane).await;
        let mut ticket = lane.enter(disk).await;
        let (result, data) = ticket.write(GuestOffset::ZERO, payload, WriteFlags::default()).await;
        drop(ticket);
        client.send(lane, data).await;
        if result.is_err() {
            return;
        }
    }
}

fn export(disk: Backend<ReadWrite>) {
    spawn_io(async move |mut lane: Lane| serve(&mut lane, &disk, &Socket).await);
}

/// Parallel parts of one request: a lane each, and a fork each.
async fn read_in_parts(lane: &mut Lane, spare: &mut Lane, disk: &Backend<ReadOnly>) -> Result<()> {
    let mut ticket = lane.enter(disk).await;
    let mut part = ticket.fork(spare);
    let first = ticket.read(GuestOffset::ZERO, Buf::zeroed(512));
    let second = part.read(GuestOffset::new(512), Buf::zeroed(512));
    let ((first, _), (second, _)) = join(first, second).await;
    first.and(second)
}

/// Guest memory is copied once, and the copy is used.
async fn write_guest_memory(lane: &mut Lane, disk: &Backend<ReadWrite>, memory: &GuestSlice) -> Result<()> {
    let mut copy = Buf::zeroed(memory.len());
    memory.copy_to(copy.as_mut_slice());
    lane.enter(disk).await.write(GuestOffset::ZERO, copy, WriteFlags::default()).await.0
}

/// All phases of a change, one after the other.
async fn snapshot(task: &mut Task<'_>, overlay: NewNode, disk: NodeId) -> Result<usize> {
    let mut opening = Opening::new(task);
    let top = opening.add(overlay)?;
    opening.claim(top, Grant::WRITER).await?;
    opening.visit(top).await?.io().flush().await?;
    let mut plan = Plan::new();
    plan.insert(opening);
    plan.replace(disk, top);
    let checked = plan.check(task.gs()).map_err(|(_plan, error)| error)?;
    let staged = task.stage(checked).await?;
    let change = task.admit(staged).await?;
    change.private(disk)?.io().flush().await?;
    change.settle().await?.commit().finish().await;
    Ok(task.gs().with(|graph| graph.nodes().len()))
}

/// Sections nest, and a task that is in one still does I/O elsewhere.
async fn drain_twice(task: &mut Task<'_>, nodes: &[NodeId], elsewhere: &Backend<ReadOnly>) -> Result<()> {
    let outer = task.drain(nodes).await;
    let inner = task.drain_all().await;
    drop(inner);
    task.enter(elsewhere).await.flush().await?;
    drop(outer);
    task.sleep_until(0).await;
    Ok(())
}

struct MirrorState {
    granularity: u64,
}

struct MirrorTop {
    job: JobLink<MirrorState>,
}

/// The filter is made of a job that is whole; the job waits without a ticket and goes to the control thread for the graph.
async fn mirror(job: JobCtx, source: NodeId) -> Result<()> {
    let filter = MirrorTop { job: job.show(MirrorState { granularity: 65_536 }) };
    job.run(async move |job: &mut JobCtx| {
        let source: Backend<ReadOnly> = job
            .on_control(async move |task: &mut Task<'_>| {
                let mut opening = Opening::new(task);
                let top = opening.add(filter.into_node(source))?;
                let mut plan = Plan::new();
                plan.insert(opening);
                plan.replace(source, top);
                let spec = RootSpec { name: "mirror".to_owned(), grant: Grant::READER, stays: true };
                let backend = plan.attach_root(task.gs(), top, spec);
                task.apply(plan).await.map(|()| backend)
            })
            .await??;
        if let Some(lane) = job.lanes().first_mut() {
            lane.enter(&source).await.flush().await?;
        }
        job.pause_point().await?;
        job.sleep_until(1_000_000).await
    })
    .await
}

impl MirrorTop {
    fn into_node(self, source: NodeId) -> NewNode {
        NewNode {
            name: None,
            driver: Box::new(self),
            facts: NodeFacts { len: 0, request_alignment: 1, read_only: false },
            children: vec![(ChildKey::File, Role::FILTER_CHILD, source)],
            owned: false,
            force_share: false,
        }
    }
}

impl Driver for MirrorTop {
    fn format_name(&self) -> &'static str {
        "mirror-top"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        let is_watched = self.job.state().is_some_and(|state| state.granularity > 0);
        let at = HostOffset::new(range.start().get());
        let through = Place::Child { child: ChildKey::File, at, tail: Tail::Error, transparent: true };
        let place = if is_watched && access == Access::Write { Place::Ask } else { through };
        Ok(Extent { len: range.len(), place })
    }

    fn write<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf, flags: WriteFlags) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let _range = io.lock_range(GuestRange::new(at, buf.len() as u64)).await;
            match io.file() {
                Ok(file) => file.write(at, buf, flags).await,
                Err(error) => (Err(error), buf),
            }
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }

    fn check(&self, mode: NodeMode) -> Result<()> {
        let _ = mode.users;
        Ok(())
    }

    fn stage<'a>(&'a self, _request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        Box::pin(async { Ok(Box::new(Grow { len: 0 }) as Box<dyn Staged>) })
    }
}

struct Grow {
    len: u64,
}

impl Staged for Grow {
    fn settle<'a>(&'a mut self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.len = io.file()?.len();
            io.file()?.resize(self.len, Preallocation::Off).await
        })
    }

    fn commit(&mut self, publish: &Publish<'_>) {
        publish.len(self.len);
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}

async fn from_another_thread(control: &Control) -> Result<Option<NodeId>> {
    control.call(async |task: &mut Task<'_>| task.gs().find("disk").ok()).await
}

fn main() {}
