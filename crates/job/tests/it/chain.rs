//! Chains of qcow2 images on simulated disks, bottom first, and what the disk on top of them shows.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use drystone_base::rng::Rng;
use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Result};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{GraphView, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::Status;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::{Class, Finding, Source, check};
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::driver::caches::CacheOptions;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_job::stream::{BackingNames, StreamOptions};
use drystone_testkit::client::{BackendClient, Load, Mix, SharedModel, Target, Watched};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};
use drystone_testkit::graph::SimDriver;
use drystone_testkit::model::{ByteModel, DiscardRule};
use drystone_testkit::sim::Sim;

use crate::world::World;

/// The nodes of a chain and its guest.
#[derive(Clone)]
pub(crate) struct Chain {
    /// Bottom first.
    pub(crate) layers: Vec<NodeId>,
    pub(crate) guest: Backend<ReadWrite>,
}

/// Images at rest.
#[derive(Clone)]
pub(crate) struct Images {
    pub(crate) list: Vec<Image>,
    pub(crate) model: ByteModel,
}

/// Names of nodes are the names of images.
pub(crate) struct NodeNames;

impl BackingNames for NodeNames {
    fn name_of(&self, graph: &GraphView<'_>, base: NodeId) -> Result<String> {
        Ok(format!("{}.img", graph.node(base).map(|node| node.name).unwrap_or_default()))
    }
}

pub(crate) fn options(id: &str, top: NodeId) -> StreamOptions {
    StreamOptions::new(id, top, Arc::new(NodeNames))
}

/// An empty image of `len` bytes with clusters of 4 KiB.
fn empty(len: u64, names_backing: bool) -> Image {
    let options = CreateOptions {
        cluster_bytes: 4096,
        backing_format: names_backing.then(|| b"qcow2".to_vec()),
        backing_name: names_backing.then(|| b"below.img".to_vec()),
        ..CreateOptions::new(len)
    };
    let layout = options.layout().unwrap();
    let mut image = Image::new(layout.len_file);
    for (at, bytes) in &layout.pieces {
        image.write(at.get(), bytes);
    }
    image
}

impl Images {
    /// Images of the lengths `lens`, bottom first, each with some writes, zeroes and discards of its own.
    pub(crate) fn drawn(lens: &[u64], rng: &mut Rng) -> Self {
        let mut images = Self { list: Vec::new(), model: ByteModel::zeroed(*lens.first().unwrap()) };
        for (n, len) in lens.iter().enumerate() {
            images.list.push(empty(*len, n > 0));
            images.resize_model(*len);
            images.write_some(*len, rng);
        }
        images
    }

    fn resize_model(&mut self, len: u64) {
        let resize = self.model.begin_resize(len);
        self.model.end_write(resize, drystone_testkit::model::Ending::Done);
    }

    /// An empty image.
    pub(crate) fn empty(len: u64) -> Self {
        Self { list: vec![empty(len, false)], model: ByteModel::zeroed(len) }
    }

    /// An empty image on the one at the bottom of `other`.
    pub(crate) fn on(other: &Self, len: u64) -> Self {
        let below = other.list.first().unwrap().clone();
        Self { list: vec![below, empty(len, true)], model: other.model.clone() }
    }

    /// What the disk on top shows.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let sim = Sim::seeded(1);
        let world = World::new(&sim);
        let disks = self.disks(&mut Rng::new(1));
        let chain = Chain::open(&world, &disks, Grant::WRITER).unwrap();
        let mut client = BackendClient::new(&chain.guest, &sim.io(1));
        let whole = GuestRange::new(GuestOffset::ZERO, self.model.len());
        let bytes = sim.block_on(&sim.io(1), client.read(whole)).unwrap().unwrap();
        chain.close(&world).unwrap();
        world.end();
        bytes
    }

    /// A full image of `len` bytes below an empty one.
    pub(crate) fn full(len: u64) -> Self {
        let mut images = Self { list: vec![empty(len, false)], model: ByteModel::zeroed(len) };
        images.change(&mut Rng::new(1), async |client, _| {
            client.write(GuestRange::new(GuestOffset::ZERO, len), false).await.unwrap();
        });
        images.list.push(empty(len, true));
        images
    }

    fn write_some(&mut self, len: u64, rng: &mut Rng) {
        self.change(rng, async |client, rng| {
            let mix = Mix { reads: 1, writes: 6, zeroes: 2, discards: 1, flushes: 0 };
            let load = Load { mix, discard: DiscardRule::OldOrZero, ..Load::new(8, len) };
            load.run(client, rng, |error| panic!("{}", error.report())).await;
        });
    }

    /// Lets a guest of the image on top do something.
    fn change(&mut self, rng: &mut Rng, work: impl AsyncFnOnce(&mut Watched<BackendClient>, &mut Rng)) {
        let sim = Sim::seeded(rng.next_u64());
        let world = World::new(&sim);
        let disks = self.disks(rng);
        let model = Rc::new(RefCell::new(self.model.clone()));
        let chain = Chain::open(&world, &disks, Grant::WRITER).unwrap();
        let mut client = chain.client(&sim, 1, &model);
        let mut rng = Rng::new(rng.next_u64());
        sim.block_on(&sim.io(1), work(&mut client, &mut rng)).unwrap();
        chain.read_all(&sim, &model).unwrap();
        chain.close(&world).unwrap();
        world.end();
        self.list = disks.iter().map(SimDisk::image).collect();
        self.model = model.borrow().clone();
    }

    pub(crate) fn disks(&self, rng: &mut Rng) -> Vec<SimDisk> {
        self.list
            .iter()
            .map(|image| SimDisk::new(image.clone(), DiskOptions::seeded(rng.next_u64())))
            .collect()
    }
}

impl Chain {
    /// Opens the images on `disks` as `layer0` and so on, the last on top with a guest, the others read-only.
    pub(crate) fn open(world: &World<'_>, disks: &[SimDisk], grant: Grant) -> Result<Self> {
        let disks = disks.to_vec();
        world.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let mut layers: Vec<NodeId> = Vec::new();
            for (n, disk) in disks.iter().enumerate() {
                let read_only = n + 1 < disks.len();
                let below = layers.last().copied();
                layers.push(add_image(&mut opening, &format!("layer{n}"), disk, (below, read_only)).await?);
            }
            let mut plan = Plan::new();
            plan.insert(opening);
            let spec = RootSpec { name: "guest".to_owned(), grant, stays: false };
            let guest = plan.attach_root(task.gs(), *layers.last().unwrap(), spec);
            task.apply(plan).await?;
            Ok::<_, Error>(Self { layers, guest })
        })
    }

    pub(crate) fn top(&self) -> NodeId {
        *self.layers.last().unwrap()
    }

    /// Takes the guest away, and with it the chain.
    pub(crate) fn close(self, world: &World<'_>) -> Result<()> {
        let root = self.guest.id();
        world.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.detach_root(root);
            task.apply(plan).await
        })
    }

    pub(crate) fn client(&self, sim: &Sim, thread: u16, model: &SharedModel) -> Watched<BackendClient> {
        Watched::new(BackendClient::new(&self.guest, &sim.io(thread)), model)
    }

    /// Reads the whole disk and compares.
    pub(crate) fn read_all(&self, sim: &Sim, model: &SharedModel) -> Result<()> {
        let mut client = self.client(sim, 1, model);
        let len = model.borrow().len();
        sim.block_on(&sim.io(1), client.read(GuestRange::new(GuestOffset::ZERO, len))).unwrap().map(drop)
    }

    /// How many bytes the image on top has an answer of its own for.
    pub(crate) fn allocated_in_top(&self, sim: &Sim, len: u64) -> u64 {
        let reader: Backend<ReadOnly> = self.guest.reader();
        let mut lane = Lane::new(sim.io(1));
        sim.block_on(&sim.io(1), async {
            let (mut at, mut allocated) = (0, 0);
            while at < len {
                let range = GuestRange::new(GuestOffset::new(at), len - at);
                let Status { len, allocated: is_own, .. } =
                    lane.enter(&reader).await.status(range, 0).await.unwrap();
                allocated += if is_own { len } else { 0 };
                at += len;
            }
            allocated
        })
        .unwrap()
    }
}

/// The names of the nodes of the backing chain of the guest, filters among them.
pub(crate) fn names_below(world: &World<'_>, guest: &Backend<ReadWrite>) -> Vec<String> {
    let id = guest.id();
    world.call(async move |task: &mut Task<'_>| {
        task.gs().with(|graph| {
            let root = graph.roots().into_iter().find(|root| root.id == id);
            let nodes = root.and_then(|root| root.node).map(|top| nodes_below(graph, top));
            names_of(graph, &nodes.unwrap_or_default())
        })
    })
}

/// The nodes of the backing chain of `top`, from there down.
pub(crate) fn nodes_below(graph: &GraphView<'_>, top: NodeId) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    let mut at = Some(top);
    while let Some(node) = at.and_then(|id| graph.node(id)) {
        let next = |role: Role| node.edges.iter().find(|edge| edge.role.has(role)).map(|edge| edge.child);
        at = next(Role::COW).or_else(|| next(Role::FILTERED));
        nodes.push(node.id);
    }
    nodes
}

pub(crate) fn names_of(graph: &GraphView<'_>, nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().filter_map(|node| Some(graph.node(*node)?.name)).collect()
}

async fn add_image(
    opening: &mut Opening,
    name: &str,
    disk: &SimDisk,
    (backing, read_only): (Option<NodeId>, bool),
) -> Result<NodeId> {
    let mut file = NewNode { owned: false, ..SimDriver::node(&format!("{name}-file"), disk) };
    file.facts.read_only = read_only;
    let file = opening.add(file)?;
    let options = Qcow2Options { read_only, caches: CacheOptions::of_bytes(0), ..Qcow2Options::default() };
    let opened = Qcow2::open(opening.visit(file).await?.io(), options).await?;
    let mut children = vec![(ChildKey::File, Role::IMAGE, file)];
    children.extend(backing.map(|id| (ChildKey::Backing, Role::COW, id)));
    opening.add(NewNode {
        name: Some(name.to_owned()),
        driver: Box::new(opened.driver),
        facts: opened.facts,
        children,
        owned: false,
        force_share: false,
    })
}

/// An image, for the check.
struct Bytes<'i>(&'i Image);

impl Source for Bytes<'_> {
    fn len_bytes(&self) -> u64 {
        self.0.len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.bytes(at.get()..at.get() + len_bytes as u64))
    }
}

pub(crate) fn header(image: &Image) -> Header {
    let area = Header::area_len_bytes(&image.bytes(0..512)).unwrap();
    Header::parse(&image.bytes(0..area as u64)).unwrap()
}

/// What an image calls its backing file, and its format.
pub(crate) fn backing_of(image: &Image) -> Option<(String, String)> {
    let header = header(image);
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
    let format = text(header.extensions().backing_format());
    header.backing_name().map(|name| (text(Some(name)), format))
}

/// Fails if the check finds more than leaks.
pub(crate) fn demand_consistent(image: &Image) {
    let mut findings = Vec::new();
    let note = |found: &Finding| {
        if found.class() != Class::Leak {
            findings.push(found.to_string());
        }
    };
    let (bytes, header) = (Bytes(image), header(image));
    let outcome = {
        let checking = pin!(check(&bytes, &header, note));
        match checking.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome.unwrap(),
            Poll::Pending => panic!("a check of memory waits"),
        }
    };
    assert_eq!((outcome.corruptions, outcome.check_errors), (0, 0), "{findings:#?}");
}
