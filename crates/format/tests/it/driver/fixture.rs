//! A qcow2 image on a simulated disk, in a graph, under a model.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, HostOffset, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Control, ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::disk::Disk;
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, Place, WriteFlags, ZeroFlags};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::{Outcome, Source, check};
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_format::qcow2::header::Version;
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::model::{ByteModel, Content, DiscardRule, Ending};
use drystone_testkit::sim::Sim;

/// A protocol node.
struct Device(SimDisk);

impl Driver for Device {
    fn format_name(&self) -> &'static str {
        "device"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.0)
    }
}

/// What an image is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) len: u64,
    pub(crate) cluster_bytes: u64,
    pub(crate) version: Version,
    pub(crate) refcount_bits: u64,
}

impl Kind {
    /// One of many kinds.
    pub(crate) fn drawn(rng: &mut Rng) -> Self {
        let cluster_bytes = [512, 1024, 4096, 65536][rng.index(4)];
        let version = if rng.one_in(4) { Version::V2 } else { Version::V3 };
        let refcount_bits = if version == Version::V2 { 16 } else { 1 << rng.below(7) };
        Self {
            len: cluster_bytes * (20 + rng.below(40)) - 512 * rng.below(2),
            cluster_bytes,
            version,
            refcount_bits,
        }
    }

    pub(crate) fn image(&self) -> Image {
        let options = CreateOptions {
            cluster_bytes: self.cluster_bytes,
            version: self.version,
            refcount_bits: self.refcount_bits,
            ..CreateOptions::new(self.len)
        };
        let layout = options.layout().unwrap();
        let mut image = Image::new(layout.len_file);
        for (at, bytes) in &layout.pieces {
            image.write(at.get(), bytes);
        }
        image
    }
}

/// Bytes, for the check.
struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn len_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        let at = usize::try_from(at.get()).unwrap();
        Ok(self.0[at..at + len_bytes].to_vec())
    }
}

/// The consistency check; findings are printed.
pub(crate) fn check_image(image: &Image) -> Outcome {
    let bytes = Bytes(image.to_vec());
    let area = Header::area_len_bytes(&bytes.0[..512.min(bytes.0.len())]).unwrap();
    let header = Header::parse(&bytes.0[..area.min(bytes.0.len())]).unwrap();
    let future = pin!(check(&bytes, &header, |finding| println!("{finding}")));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome.unwrap(),
        Poll::Pending => panic!("reading from memory waits for nothing"),
    }
}

pub(crate) fn start(sim: &Sim) -> Control {
    let local = sim.control();
    let (thread, control) = ControlThread::new(local.clone(), sim.io_threads() + 1);
    sim.spawn(&local, "control", thread.run());
    control
}

fn new_node(
    name: &str,
    driver: Box<dyn Driver>,
    facts: NodeFacts,
    children: Vec<(ChildKey, Role, NodeId)>,
) -> NewNode {
    NewNode { name: Some(name.to_owned()), driver, facts, children, owned: false, force_share: false }
}

/// Opens the image on `disk` as node `name`, on `backing`.
pub(crate) async fn open(
    opening: &mut Opening,
    name: &str,
    disk: SimDisk,
    backing: Option<NodeId>,
) -> Result<NodeId> {
    let facts = NodeFacts { len: disk.len(), request_alignment: 1, read_only: false };
    let file = opening.add(new_node(&format!("{name}-file"), Box::new(Device(disk)), facts, vec![]))?;
    let visit = opening.visit(file).await?;
    let opened =
        Qcow2::open(visit.io(), Qcow2Options { l2_cache_bytes: 4096, ..Qcow2Options::default() }).await?;
    drop(visit);
    let mut children = vec![(ChildKey::File, Role::IMAGE, file)];
    children.extend(backing.map(|id| (ChildKey::Backing, Role::COW, id)));
    opening.add(new_node(name, Box::new(opened.driver), opened.facts, children))
}

/// Opens a chain, the last disk on top, and attaches a writer to it.
pub(crate) fn open_chain(sim: &Sim, control: &Control, disks: Vec<SimDisk>) -> Result<Backend<ReadWrite>> {
    let control = control.clone();
    let opened = sim.block_on(&sim.control(), async move {
        control
            .call(async move |task: &mut Task<'_>| {
                let mut opening = Opening::new(task);
                let mut top = None;
                for (n, disk) in disks.into_iter().enumerate() {
                    top = Some(open(&mut opening, &format!("layer{n}"), disk, top).await?);
                }
                let mut plan = Plan::new();
                plan.insert(opening);
                let grant = Grant {
                    perm: Grant::WRITER.perm.with(drystone_core::graph::permission::Perm::RESIZE),
                    ..Grant::WRITER
                };
                let spec = RootSpec { name: "client".to_owned(), grant, stays: false };
                let backend = plan.attach_root(task.gs(), top.unwrap(), spec);
                task.apply(plan).await?;
                Ok(backend)
            })
            .await
    });
    opened.unwrap().unwrap()
}

/// Takes the writer out, and with it the chain: everything is stored and closed.
pub(crate) fn close(sim: &Sim, control: &Control, backend: &Backend<ReadWrite>) -> Result<()> {
    let (control, root) = (control.clone(), backend.id());
    let closed = sim.block_on(&sim.control(), async move {
        control
            .call(async move |task: &mut Task<'_>| {
                let mut plan = Plan::new();
                plan.detach_root(root);
                task.apply(plan).await
            })
            .await
    });
    closed.unwrap().unwrap()
}

pub(crate) type Model = Rc<RefCell<ByteModel>>;

/// One client: random requests, each checked against the model.
pub(crate) struct Client {
    pub(crate) lane: Lane,
    pub(crate) backend: Backend<ReadWrite>,
    pub(crate) model: Model,
    pub(crate) rng: Rng,
    pub(crate) len: u64,
    pub(crate) max: u64,
}

impl Client {
    pub(crate) fn draw_range(&mut self) -> GuestRange {
        let at = self.rng.below(self.len / 512) * 512;
        let len = (1 + self.rng.below(self.max / 512)) * 512;
        GuestRange::new(GuestOffset::new(at), len.min(self.len - at))
    }

    /// One request of any kind. Errors of the disk are returned; a wrong byte panics.
    pub(crate) async fn step(&mut self) -> Result<()> {
        let range = self.draw_range();
        match self.rng.below(12) {
            0..=4 => self.write(range).await,
            5..=7 => self.read(range).await,
            8 | 9 => self.zero(range).await,
            10 => self.discard(range).await,
            _ => self.flush().await,
        }
    }

    pub(crate) async fn write(&mut self, range: GuestRange) -> Result<()> {
        let content: Content = self.model.borrow_mut().fresh_stamp().into();
        let buf = Buf::copy_of(&content.bytes(range.start().get(), range.len()));
        let mut ticket = self.lane.enter(&self.backend).await;
        let write = self.model.borrow_mut().begin_write(range, content);
        let (result, _) = ticket.write(range.start(), buf, WriteFlags::default()).await;
        self.model.borrow_mut().end_write(write, Ending::from(&result));
        result
    }

    pub(crate) async fn read(&mut self, range: GuestRange) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        let read = self.model.borrow_mut().begin_read(range);
        let buf = Buf::zeroed(usize::try_from(range.len()).unwrap());
        let (result, buf) = ticket.read(range.start(), buf).await;
        match result {
            Ok(()) => {
                if let Err(mismatch) = self.model.borrow_mut().end_read(read, buf.as_slice()) {
                    panic!("{mismatch}");
                }
                Ok(())
            }
            Err(error) => {
                self.model.borrow_mut().abandon_read(read);
                Err(error)
            }
        }
    }

    async fn zero(&mut self, range: GuestRange) -> Result<()> {
        let flags = ZeroFlags { may_unmap: self.rng.one_in(2), ..ZeroFlags::default() };
        let mut ticket = self.lane.enter(&self.backend).await;
        let write = self.model.borrow_mut().begin_write(range, Content::Zero);
        let result = ticket.write_zeroes(range, flags).await;
        self.model.borrow_mut().end_write(write, Ending::from(&result));
        result
    }

    async fn discard(&mut self, range: GuestRange) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        let discard = self.model.borrow_mut().begin_discard(range, DiscardRule::OldOrZero);
        let result = ticket.discard(range).await;
        self.model.borrow_mut().end_write(discard, Ending::from(&result));
        result
    }

    pub(crate) async fn flush(&mut self) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        let flush = self.model.borrow_mut().begin_flush();
        ticket.flush().await?;
        self.model.borrow_mut().end_flush(flush);
        Ok(())
    }

    /// Reads the whole disk.
    pub(crate) async fn read_all(&mut self) -> Result<()> {
        let mut rest = GuestRange::new(GuestOffset::ZERO, self.len);
        while !rest.is_empty() {
            let part = rest.take(self.max);
            self.read(part).await?;
            rest = rest.skip(part.len());
        }
        Ok(())
    }
}

/// A client on I/O thread `thread` of the simulation.
pub(crate) fn client(
    sim: &Sim,
    thread: u16,
    backend: &Backend<ReadWrite>,
    model: &Model,
    len: u64,
    max: u64,
) -> Client {
    let seed = sim.rng().next_u64().wrapping_add(u64::from(thread) * 7919);
    Client {
        lane: Lane::new(sim.io(thread)),
        backend: backend.clone(),
        model: Rc::clone(model),
        rng: Rng::new(seed),
        len,
        max,
    }
}

/// Runs clients side by side until all have ended.
pub(crate) fn run_clients(sim: &Sim, clients: Vec<(u16, LocalFuture<'static, ()>)>) {
    let running = Rc::new(Cell::new(clients.len()));
    for (thread, client) in clients {
        let running = Rc::clone(&running);
        sim.spawn(&sim.io(thread), "client", async move {
            client.await;
            running.set(running.get() - 1);
        });
    }
    sim.run_until(|| running.get() == 0).unwrap();
}
