//! [`State`]: the images of a chain, and what the disk on top of it holds.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_format::qcow2::driver::passes::PassDiscard;
use drystone_testkit::client::SharedModel;
use drystone_testkit::disk::{DiskOptions, Image, SimDisk, Timing};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::{ByteModel, Content};
use drystone_testkit::sim::Sim;

use crate::common::{golden, golden_image, parse_od};

use super::chain::{Chain, SMALL, demand_consistent, demand_leaks, header, is_data};
use super::kind::Kind;
use super::script::{Stage, client};
use super::snapshot;
use super::tracked::Tracked;

/// Longest read of [`read_all`].
const READ_BYTES: u64 = 256 << 10;

/// Of a disk that is larger than twice this, so much is read at the start and the end.
const LARGE_BYTES: u64 = 2 << 20;

/// Images at rest.
#[derive(Clone)]
pub(crate) struct State {
    /// Bottom first.
    pub(crate) images: Vec<Image>,
    pub(crate) model: ByteModel,
    pub(crate) options: Qcow2Options,
    /// How many clusters of the image on top leak.
    pub(crate) leaks: u64,
    /// Of the image on top.
    pub(crate) bitmaps: Tracked,
}

impl State {
    /// A new image.
    pub(crate) fn new(kind: &str) -> Self {
        Self::of(Kind::of(kind))
    }

    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            images: kind.images(),
            model: ByteModel::zeroed(kind.len),
            options: SMALL,
            leaks: 0,
            bitmaps: Tracked::default(),
        }
    }

    /// A recorded image, on its own.
    pub(crate) fn golden(name: &str) -> Self {
        let images = vec![Image::from_bytes(&golden_image(name).bytes)];
        let model = ByteModel::of(&Image::from_bytes(&parse_od(&golden(&format!("{name}.disk")))));
        Self { images, model, options: SMALL, leaks: 0, bitmaps: Tracked::default() }
    }

    /// After the requests of `script` and a clean close.
    pub(crate) fn after(mut self, script: &str) -> Self {
        let sim = Sim::seeded(0);
        let disks: Vec<SimDisk> = self.images.iter().map(instant_disk).collect();
        let model = Rc::new(RefCell::new(self.model));
        let graph = SimGraph::start(&sim);
        let chain = Chain::open(&graph, &disks, self.options).unwrap();
        let (names, bitmaps) = (RefCell::default(), RefCell::new(self.bitmaps));
        let stage = Stage {
            sim: &sim,
            graph: &graph,
            chain: &chain,
            model: &model,
            names: &names,
            bitmaps: &bitmaps,
        };
        stage.run(script).unwrap();
        stage.run("flush").unwrap();
        chain.close(&graph).unwrap();
        bitmaps.borrow_mut().stored();
        self.bitmaps = bitmaps.take();
        self.images = disks.iter().map(SimDisk::image).collect();
        demand_leaks(self.images.last().unwrap(), self.leaks);
        self.model = model.borrow().clone();
        self
    }

    /// With an internal snapshot of the image on top.
    pub(crate) fn snapshot(mut self) -> Self {
        let top = self.images.last_mut().unwrap();
        snapshot::take(top);
        demand_leaks(top, self.leaks);
        self
    }

    /// With every cluster counted that the refcount table can count: nothing is free.
    pub(crate) fn with_full_counts(mut self) -> Self {
        let top = self.images.last_mut().unwrap();
        snapshot::count_everything(top);
        self.leaks = demand_consistent(top).leaks;
        self
    }

    /// With a new image on top.
    pub(crate) fn overlay(mut self, kind: &str) -> Self {
        let kind = Kind { is_overlay: true, ..Kind::of(kind) };
        let mut below = self.contents();
        below.set_len(kind.len);
        self.images.extend(kind.images());
        self.model = ByteModel::of(&below);
        self
    }

    /// With options for the image on top.
    pub(crate) fn with(self, change: impl FnOnce(&mut Qcow2Options)) -> Self {
        let mut options = self.options;
        change(&mut options);
        Self { options, ..self }
    }

    /// With freed space given back by the file of the image on top.
    pub(crate) fn passing(self) -> Self {
        self.with(|options| options.pass_discard = PassDiscard::ALL)
    }

    /// With other bytes in the file of the image on top.
    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut Image)) -> Self {
        edit(self.images.last_mut().unwrap());
        self
    }

    /// With another image on top, made from the one there. The model is not asked any more.
    pub(crate) fn with_top(&self, make: impl FnOnce(&Image) -> Image) -> Self {
        let mut state = self.clone();
        let top = state.images.last_mut().unwrap();
        *top = make(top);
        state.model = ByteModel::zeroed(state.model.len());
        let _ = state.model.begin_write(whole(state.model.len()), Content::Any);
        state
    }

    /// What a guest sees.
    pub(crate) fn contents(&self) -> Image {
        let sim = Sim::seeded(0);
        let disks: Vec<SimDisk> = self.images.iter().map(instant_disk).collect();
        let graph = SimGraph::start(&sim);
        let chain = Chain::open(&graph, &disks, self.options).unwrap();
        read_all(&sim, &chain, &Rc::new(RefCell::new(self.model.clone()))).unwrap()
    }
}

fn whole(len: u64) -> GuestRange {
    GuestRange::new(GuestOffset::ZERO, len)
}

/// A disk on which all operations end at once.
pub(crate) fn instant_disk(image: &Image) -> SimDisk {
    SimDisk::new(image.clone(), DiskOptions { timing: Timing::Instant, ..DiskOptions::seeded(0) })
}

/// A data file that is a raw image of the disk says what the disk does.
pub(crate) fn demand_raw_data(disks: &[SimDisk], contents: &Image) {
    let [.., data, top] = disks else { return };
    let len = contents.len();
    if is_data(data) && header(&top.image()).is_data_raw() && len <= 2 * LARGE_BYTES {
        let mut data = data.image();
        data.set_len(len);
        assert!(data == *contents, "the raw data file differs from the disk");
    }
}

/// Reads the disk, each byte checked; of a large one, the start and the end.
pub(crate) fn read_all(sim: &Sim, chain: &Chain, model: &SharedModel) -> Result<Image> {
    let mut client = client(sim, 1, chain, model);
    let len = model.borrow().len();
    let read = async move {
        let mut rest = whole(len);
        let mut image = Image::new(len);
        while !rest.is_empty() {
            if len > 2 * LARGE_BYTES && rest.len() <= len - LARGE_BYTES && rest.len() > LARGE_BYTES {
                rest = rest.skip(rest.len() - LARGE_BYTES);
            }
            let part = rest.take(READ_BYTES);
            let bytes = client.read(part).await?;
            if bytes.iter().any(|&byte| byte != 0) {
                image.write(part.start().get(), &bytes);
            }
            rest = rest.skip(part.len());
        }
        Ok(image)
    };
    sim.block_on(&sim.io(1), read).unwrap()
}
