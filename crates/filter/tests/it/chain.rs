//! `guest -> copy-on-read -> overlays -> base`, on simulated disks.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::{Error, GuestOffset, GuestRange, Result};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::driver::{Status, WriteFlags, ZeroFlags};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::lane::Lane;
use drystone_filter::copy_on_read::CopyOnRead;
use drystone_testkit::client::{BackendClient, SharedModel, Watched};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};
use drystone_testkit::graph::{SimDriver, SimGraph};
use drystone_testkit::model::ByteModel;
use drystone_testkit::overlay::SimOverlay;
use drystone_testkit::pattern::Stamp;
use drystone_testkit::sim::Sim;

/// A chain of images with a filter on top.
pub(crate) struct Chain {
    pub(crate) guest: Backend<ReadWrite>,
    /// Sees the top without the filter and without the layers below it.
    pub(crate) copier: Backend<ReadWrite>,
    pub(crate) model: SharedModel,
    /// The disks of the layers, top last.
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) filter: NodeId,
}

pub(crate) fn stamped(len: u64, stamp: u32) -> Image {
    let mut image = Image::new(len);
    image.write(0, &Stamp::new(stamp).bytes(0, len));
    image
}

/// Reads, and writes what does not change what is seen.
const COPIER: Grant = Grant { perm: Perm::CONSISTENT_READ.with(Perm::WRITE_UNCHANGED), shared: Perm::ALL };

impl Chain {
    /// A base with data, then empty overlays of the lengths `overlays`, the last of which is the top.
    pub(crate) fn open(
        sim: &Sim,
        graph: &SimGraph<'_>,
        base: &Image,
        overlays: &[u64],
        bottom: Option<usize>,
    ) -> Self {
        let mut rng = sim.rng();
        let mut disk = |image: Image| SimDisk::new(image, DiskOptions::seeded(rng.next_u64()));
        let mut disks = vec![disk(base.clone())];
        disks.extend(overlays.iter().map(|len| disk(Image::new(*len))));
        let (used, lens) = (disks.clone(), overlays.to_vec());
        let (guest, copier, filter) = graph
            .call(async move |task: &mut Task<'_>| {
                let mut opening = Opening::new(task);
                let mut layers = vec![opening.add(SimDriver::node("layer0", &used[0]))?];
                for (n, (disk, len)) in used.iter().skip(1).zip(&lens).enumerate() {
                    let file = opening.add(SimDriver::node(&format!("file{}", n + 1), disk))?;
                    let below = layers.last().copied();
                    layers.push(opening.add(SimOverlay::node(
                        &format!("layer{}", n + 1),
                        *len,
                        file,
                        below,
                    ))?);
                }
                let top = *layers.last().unwrap();
                let filter = CopyOnRead::new(bottom.map(|n| layers[n]));
                let filter = opening.add(filter.node(Some("cor".to_owned()), top, *lens.last().unwrap()))?;
                let mut plan = Plan::new();
                plan.insert(opening);
                let spec = RootSpec { name: "guest".to_owned(), grant: Grant::WRITER, stays: false };
                let guest = plan.attach_root(task.gs(), filter, spec);
                let spec = RootSpec { name: "copier".to_owned(), grant: COPIER, stays: false };
                let copier = plan.attach_root(task.gs(), filter, spec);
                task.apply(plan).await?;
                Ok::<_, Error>((guest, copier, filter))
            })
            .unwrap();
        let model = Rc::new(RefCell::new(ByteModel::of(&shown(base, overlays))));
        Self { guest, copier, model, disks, filter }
    }

    pub(crate) fn client(&self, sim: &Sim, thread: u16) -> Watched<BackendClient> {
        Watched::new(BackendClient::new(&self.guest, &sim.io(thread)), &self.model)
    }

    /// How the top alone has `range`.
    pub(crate) fn status(&self, sim: &Sim, range: GuestRange) -> Status {
        let reader: Backend<ReadOnly> = self.guest.reader();
        let mut lane = Lane::new(sim.io(1));
        sim.block_on(&sim.io(1), async { lane.enter(&reader).await.status(range, 0).await }).unwrap().unwrap()
    }
}

/// What a chain shows whose overlays are empty: the base as far as no layer is shorter.
fn shown(base: &Image, overlays: &[u64]) -> Image {
    let len = *overlays.last().unwrap();
    let visible = overlays.iter().copied().chain([base.len()]).min().unwrap();
    let mut image = Image::new(len);
    image.write(0, &base.bytes(0..visible));
    image
}

/// Runs `work` with a lane of I/O thread 1.
pub(crate) fn on_io<T>(sim: &Sim, work: impl AsyncFnOnce(&mut Lane) -> T) -> T {
    let mut lane = Lane::new(sim.io(1));
    sim.block_on(&sim.io(1), work(&mut lane)).unwrap()
}

pub(crate) async fn read(
    lane: &mut Lane,
    backend: &Backend<ReadWrite>,
    range: GuestRange,
) -> Result<Vec<u8>> {
    let len = usize::try_from(range.len()).unwrap();
    let (result, buf) = lane.enter(backend).await.read(range.start(), drystone_buf::Buf::zeroed(len)).await;
    result.map(|()| buf.as_slice().to_vec())
}

pub(crate) async fn write(
    lane: &mut Lane,
    backend: &Backend<ReadWrite>,
    at: u64,
    byte: u8,
    len: usize,
) -> Result<()> {
    let buf = drystone_buf::Buf::copy_of(&vec![byte; len]);
    lane.enter(backend).await.write(GuestOffset::new(at), buf, WriteFlags::default()).await.0
}

pub(crate) async fn zero_unchanged(
    lane: &mut Lane,
    backend: &Backend<ReadWrite>,
    range: GuestRange,
) -> Result<()> {
    let flags = ZeroFlags { unchanged: true, ..ZeroFlags::default() };
    lane.enter(backend).await.write_zeroes(range, flags).await
}
