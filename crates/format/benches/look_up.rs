//! What a mapped cluster costs: `cargo bench -p drystone-format [-- locate] [read] [overwrite] [absent] [rounds=N]`.
//!
//! ```text
//!   lane ─► Backend ─► Asker ─► qcow2 ─► Flat        locate, absent: look-ups alone, many for each request
//!   lane ─► Backend ──────────► qcow2 ─► Flat        read, overwrite: whole requests of 4 KiB
//! ```
//! `Flat` holds an image's metadata, forgets what is written and never waits, so what is left is the cost of the core and
//! of the mapping. Prints nanoseconds for one and two threads. For instructions, divide the difference of two runs
//! under `valgrind --tool=callgrind` that differ in `rounds` only.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a benchmark")]

use std::any::Any;
use std::cell::RefCell;
use std::hint::black_box;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Control, ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{Access, BufResult, Driver, Extent, NodeFacts, Place, WriteFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::{Local, LocalFuture, LocalRef, Shard};
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::driver::open::Qcow2Options;

/// Length of the disk.
const LEN: u64 = 4 << 30;
/// Length of a request.
const REQUEST_BYTES: usize = 4096;
/// Look-ups in one request to an [`Asker`].
const LOOK_UPS: usize = 1000;

/// A thread without timers, on which nothing ever has to be woken.
struct Here {
    shard: Shard,
    tasks: RefCell<Vec<LocalFuture<'static, ()>>>,
}

impl Local for Here {
    fn shard(&self) -> Shard {
        self.shard
    }

    fn spawn(&self, task: LocalFuture<'static, ()>) {
        self.tasks.borrow_mut().push(task);
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn sleep_until(&self, _at_ns: u64) -> LocalFuture<'static, ()> {
        Box::pin(async {})
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Here {
    fn new(shard: u16) -> Rc<Self> {
        Rc::new(Self { shard: Shard::new(shard), tasks: RefCell::default() })
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
                return value;
            }
            let tasks = self.tasks.take();
            let left: Vec<_> = tasks
                .into_iter()
                .filter_map(|mut task| task.as_mut().poll(&mut cx).is_pending().then_some(task))
                .collect();
            self.tasks.borrow_mut().extend(left);
        }
    }
}

/// Metadata that can be read, in a file that is otherwise nothing.
struct Flat(Vec<(u64, Vec<u8>)>);

impl Disk for Flat {
    fn submit(&self, _local: &LocalRef, op: DiskOp) -> Completion {
        match op {
            DiskOp::Read { at, mut buf } => {
                for (start, piece) in &self.0 {
                    let first = at.max(*start);
                    let end = (at + buf.len() as u64).min(start + piece.len() as u64);
                    if first < end {
                        let index = |bytes| usize::try_from(bytes).unwrap();
                        let part = |from: u64| index(first - from)..index(end - from);
                        buf.as_mut_slice()[part(at)].copy_from_slice(&piece[part(*start)]);
                    }
                }
                Completion::ready(Ok(()), Some(buf))
            }
            DiskOp::Write { buf, .. } => Completion::ready(Ok(()), Some(buf)),
            _ => Completion::ready(Ok(()), None),
        }
    }
}

impl Driver for Flat {
    fn format_name(&self) -> &'static str {
        "flat"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(self)
    }
}

/// A node that looks its child's bytes up many times and does nothing with the answers.
struct Asker;

impl Asker {
    fn look_up(io: Io<'_>, seed: u64, access: Access) -> Result<()> {
        let child = io.file()?;
        let Some(driver) = child.node().driver_as::<Qcow2>() else {
            unreachable!("an asker stands on an image")
        };
        let mut rng = Rng::new(seed);
        for _ in 0..LOOK_UPS {
            let at = rng.next_u64() % (LEN / 4096) * 4096;
            black_box(driver.locate(child, GuestRange::new(GuestOffset::new(at), 4096), access)?);
        }
        Ok(())
    }
}

impl Driver for Asker {
    fn format_name(&self) -> &'static str {
        "asker"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Ask })
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move { (Self::look_up(io, at.get(), Access::Read), buf) })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        _flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move { (Self::look_up(io, at.get(), Access::Write), buf) })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// An image, its file, and a user of each of the image and of an asker on it.
struct World {
    disk: Backend<ReadWrite>,
    asker: Backend<ReadWrite>,
}

fn world(here: &Rc<Here>, is_mapped: bool) -> (World, Control) {
    let options = CreateOptions { is_mapped, ..CreateOptions::new(LEN) };
    let layout = options.layout().unwrap();
    let flat = Flat(layout.pieces.into_iter().map(|(at, bytes)| (at.get(), bytes)).collect());
    let len = layout.len_file;
    let (thread, control) = ControlThread::new(here.clone(), 4);
    here.spawn(Box::pin(thread.run()));
    let opened = control.call(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let node = |name: &str, driver: Box<dyn Driver>, facts, children| NewNode {
            name: Some(name.to_owned()),
            driver,
            facts,
            children,
            owned: false,
            force_share: false,
        };
        let facts = |len| NodeFacts { len, request_alignment: 1, read_only: false };
        let file = opening.add(node("file", Box::new(flat), facts(len), vec![]))?;
        let image = Qcow2::open(opening.visit(file).await?.io(), Qcow2Options::default()).await?;
        let child = vec![(ChildKey::File, Role::IMAGE, file)];
        let disk = opening.add(node("disk", Box::new(image.driver), image.facts, child))?;
        let asker = opening.add(node(
            "asker",
            Box::new(Asker),
            facts(LEN),
            vec![(ChildKey::File, Role::FILTER_CHILD, disk)],
        ))?;
        let mut plan = Plan::new();
        plan.insert(opening);
        let spec = |name: &str| RootSpec {
            name: name.into(),
            grant: Grant { shared: Perm::ALL, ..Grant::WRITER },
            stays: false,
        };
        let world = World {
            disk: plan.attach_root(task.gs(), disk, spec("guest")),
            asker: plan.attach_root(task.gs(), asker, spec("asking")),
        };
        task.apply(plan).await?;
        Ok::<_, drystone_base::Error>(world)
    });
    let world = here.run(opened).unwrap().unwrap();
    (world, control)
}

/// Runs `requests` requests on a thread.
fn requests(here: &Rc<Here>, backend: &Backend<ReadWrite>, access: Access, count: usize) {
    let mut lane = Lane::new(here.clone());
    let mut rng = Rng::new(here.shard.index() as u64);
    here.run(async {
        let mut buf = Buf::zeroed(REQUEST_BYTES);
        for _ in 0..count {
            let at = GuestOffset::new(rng.next_u64() % (LEN / 4096) * 4096);
            let mut ticket = lane.enter(backend).await;
            let (result, back) = match access {
                Access::Write => ticket.write(at, buf, WriteFlags::default()).await,
                _ => ticket.read(at, buf).await,
            };
            result.unwrap();
            buf = back;
        }
    });
}

/// Loads all of the mapping and makes the marks of the first write.
fn warm_up(here: &Rc<Here>, backend: &Backend<ReadWrite>) {
    let mut lane = Lane::new(here.clone());
    here.run(async {
        for at in (0..LEN).step_by(1 << 20) {
            let mut ticket = lane.enter(backend).await;
            ticket.read(GuestOffset::new(at), Buf::zeroed(512)).await.0.unwrap();
        }
        let mut ticket = lane.enter(backend).await;
        ticket.write(GuestOffset::ZERO, Buf::zeroed(512), WriteFlags::default()).await.0.unwrap();
    });
}

fn measure(
    what: &str,
    backend: &Backend<ReadWrite>,
    access: Access,
    (threads, count, per): (u16, usize, usize),
) {
    let barrier = Arc::new(Barrier::new(usize::from(threads)));
    let slowest = std::thread::scope(|scope| {
        let run = |shard: u16| {
            let (backend, barrier) = (backend.clone(), Arc::clone(&barrier));
            scope.spawn(move || {
                let here = Here::new(shard);
                barrier.wait();
                let start = Instant::now();
                requests(&here, &backend, access, count);
                start.elapsed()
            })
        };
        let running: Vec<_> = (1..=threads).map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    });
    let ns = slowest.as_nanos() as f64 / (count * per) as f64;
    println!("{what:<24} {threads} threads {ns:>8.1} ns");
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let rounds =
        words.iter().find_map(|word| word.strip_prefix("rounds=")).map_or(2000, |n| n.parse().unwrap());
    let threads = words
        .iter()
        .find_map(|word| word.strip_prefix("threads="))
        .map_or(vec![1, 2], |n| vec![n.parse().unwrap()]);
    let cases: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.contains('=')).collect();
    let is_asked = |case: &str| cases.is_empty() || cases.contains(&case);
    let here = Here::new(0);
    let (mapped, _mapped_control) = world(&here, true);
    warm_up(&here, &mapped.disk);
    let (empty, _empty_control) = world(&here, false);
    for threads in threads {
        let ask = |what, world: &World, access| {
            if is_asked(what) {
                measure(what, &world.asker, access, (threads, rounds, LOOK_UPS));
            }
        };
        ask("locate", &mapped, Access::Read);
        ask("locate-to-write", &mapped, Access::Write);
        ask("absent", &empty, Access::Read);
        for (what, access) in [("read", Access::Read), ("overwrite", Access::Write)] {
            if is_asked(what) {
                measure(what, &mapped.disk, access, (threads, rounds * 100, 1));
            }
        }
    }
}
