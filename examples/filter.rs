//! A filter driver in one file: it turns every byte of the node below it round, and counts what passes.
//!
//! `filter`: writes through the filter and looks at what the node below has got.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::{Access, BufResult, Driver, Extent, Place, WriteFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_protocol::memory::{Memory, MemoryOptions};
use drystone_sys::{EngineKind, Threads};

/// The filter. It is shared by all I/O threads, so what it counts with is atomic.
struct Invert {
    passed_bytes: Arc<AtomicU64>,
}

impl Invert {
    fn turn(&self, buf: &mut Buf) {
        self.passed_bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.as_mut_slice().iter_mut().for_each(|byte| *byte = !*byte);
    }
}

impl Driver for Invert {
    fn format_name(&self) -> &'static str {
        "invert"
    }

    /// The bytes are nowhere as they are: ask the filter for them.
    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Ask })
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let file = match io.file() {
                Ok(file) => file,
                Err(error) => return (Err(error), buf),
            };
            let (result, mut buf) = file.read(at, buf).await;
            self.turn(&mut buf);
            (result, buf)
        })
    }

    /// The buffer is the caller's, who gets it back as it was.
    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let mut turned = Buf::copy_of(buf.as_slice());
            self.turn(&mut turned);
            let result = match io.file() {
                Ok(file) => file.write(at, turned, flags).await.0,
                Err(error) => Err(error),
            };
            (result, buf)
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }
}

fn main() -> Result<()> {
    let mut threads = Threads::start(1, EngineKind::Auto)?;
    threads.run_here(|local| async move {
        let (thread, control) = ControlThread::new(local.clone(), 1);
        local.spawn(Box::pin(thread.run()));
        let passed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&passed);
        let (above, below) = control.call(async |task: &mut Task<'_>| build(task, counter).await).await??;
        let mut lane = Lane::new(local.clone());
        let data = Buf::copy_of(b"dry stone");
        lane.enter(&above).await.write(GuestOffset::ZERO, data, WriteFlags::default()).await.0?;
        let (result, through) = lane.enter(&above).await.read(GuestOffset::ZERO, Buf::zeroed(9)).await;
        result?;
        let (result, stored) = lane.enter(&below).await.read(GuestOffset::ZERO, Buf::zeroed(9)).await;
        result?;
        println!("through the filter: {:?}", String::from_utf8_lossy(through.as_slice()));
        println!("in the node below:  {:x?}", stored.as_slice());
        println!("bytes that passed:  {}", passed.load(Ordering::Relaxed));
        Ok(())
    })
}

/// A node in memory, the filter on it, a user of the filter and one that looks at the memory.
async fn build(
    task: &mut Task<'_>,
    passed_bytes: Arc<AtomicU64>,
) -> Result<(Backend<ReadWrite>, Backend<ReadOnly>)> {
    let mut opening = Opening::new(task);
    let (memory, facts) = Memory::open(MemoryOptions { len_bytes: 1 << 20 })?;
    let node = |name: &str, driver: Box<dyn Driver>, children| NewNode {
        name: Some(name.into()),
        driver,
        facts,
        children,
        owned: false,
        force_share: false,
    };
    let memory = opening.add(node("memory", Box::new(memory), vec![]))?;
    let children = vec![(ChildKey::File, Role::FILTER_CHILD, memory)];
    let filter = opening.add(node("filter", Box::new(Invert { passed_bytes }), children))?;
    let mut plan = Plan::new();
    plan.insert(opening);
    let above = RootSpec { name: "user".into(), grant: Grant::WRITER, stays: false };
    let above = plan.attach_root(task.gs(), filter, above);
    let grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };
    let below =
        plan.attach_root(task.gs(), memory, RootSpec { name: "onlooker".into(), grant, stays: false });
    task.apply(plan).await?;
    Ok((above, below))
}
