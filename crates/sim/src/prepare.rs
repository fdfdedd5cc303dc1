//! The images of a script before its run: made, filled through the driver by a guest of their own, and closed.

use std::future::Future;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_testkit::client::{BackendClient, Load, Mix, Watched};
use drystone_testkit::disk::{Image, SimDisk, Timing};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::{ByteModel, DiscardRule};
use drystone_testkit::sim::Sim;

use crate::image::{Format, ImageSpec};
use crate::stage::{Common, Guest, Stage};

/// How many requests fill an image.
const FILL_REQUESTS: u64 = 6;

/// An image at rest.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) format: Format,
    pub(crate) backing: Option<usize>,
    /// Its file.
    pub(crate) bytes: Image,
    /// The file with its data, if that is not in the image.
    pub(crate) data: Option<Image>,
    /// What its disk shows.
    pub(crate) shows: Image,
}

/// Makes the images.
pub(crate) fn prepare(specs: &[ImageSpec]) -> Result<Vec<Prepared>> {
    let mut done: Vec<Prepared> = Vec::new();
    for spec in specs {
        let backing = spec.backing.and_then(|number| done.get(number));
        let mut shows = backing.map_or_else(|| Image::new(0), |below| below.shows.clone());
        shows.set_len(spec.len);
        let mut data = None;
        let bytes = match spec.format {
            Format::Raw => Image::new(spec.len),
            Format::Qcow2(kind) => {
                let name = spec.backing.map(|number| format!("i{number}"));
                let names = name.as_deref().zip(backing.map(|below| below.format.driver()));
                data = kind.data_image(spec.len);
                kind.image(spec.len, names)?
            }
        };
        done.push(Prepared { format: spec.format, backing: spec.backing, bytes, data, shows });
        if spec.fill > 0 {
            fill(&mut done, spec.fill)?;
        }
    }
    Ok(done)
}

/// Adds all images to those of a stage, in order.
pub(crate) fn add_all(common: &Common, images: &[Prepared]) -> Vec<crate::image::Sheet> {
    let add = |image: &Prepared| {
        let backing = image.backing.map(|number| format!("i{number}"));
        common.add(image.bytes.clone(), image.data.clone(), image.format, backing)
    };
    images.iter().map(add).collect()
}

/// Lets a guest write to the last image.
fn fill(images: &mut [Prepared], seed: u64) -> Result<()> {
    let sim = Sim::seeded(seed);
    let common = Common::new(seed, Timing::Instant);
    let sheets = add_all(&common, images);
    let (Some(last), Some(top)) = (images.last_mut(), sheets.last().cloned()) else { return Ok(()) };
    let graph = SimGraph::start(&sim);
    let mut stage = Stage::new(&sim, &graph, common.clone());
    let model = ByteModel::of(&last.shows);
    let below = chain_of(&sheets, &top.name);
    finish(&sim, stage.open(below, vec![Guest { top: top.name.clone(), model, resizes: false }]))?;
    let Some(disk) = stage.disks.first().map(Rc::clone) else { return Ok(()) };
    let len = last.shows.len();
    let local = sim.io(1);
    let mut client = Watched::new(BackendClient::new(&disk.main, &local), &disk.model);
    let mut rng = Rng::new(seed);
    let mix = Mix { reads: 0, writes: 5, zeroes: 2, discards: 1, flushes: 0 };
    let load =
        Load { mix, discard: DiscardRule::OldOrZero, len_max: len / 3, ..Load::new(FILL_REQUESTS, len) };
    let shown = finish(&sim, async {
        load.run(&mut client, &mut rng, |error| panic!("an image cannot be filled: {}", error.report()))
            .await;
        client.read(GuestRange::new(GuestOffset::ZERO, len)).await
    })?;
    last.shows = Image::from_bytes(&shown);
    finish(&sim, stage.close())?;
    last.bytes = SimDisk::image(&top.disk);
    let data = top.data.as_deref().and_then(|name| common.find(name));
    last.data = data.map(|(data, _)| SimDisk::image(&data.disk));
    Ok(())
}

/// The images of the chain below `top`, bottom first.
pub(crate) fn chain_of(sheets: &[crate::image::Sheet], top: &str) -> Vec<crate::image::Sheet> {
    let mut chain = Vec::new();
    let mut next = Some(top.to_owned());
    while let Some(sheet) = next.and_then(|name| sheets.iter().find(|sheet| sheet.name == name)) {
        next = sheet.backing.clone();
        chain.push(sheet.clone());
    }
    chain.reverse();
    chain
}

/// Runs `work` on I/O thread 1.
///
/// # Panics
/// If the simulation gets stuck.
pub(crate) fn finish<T>(sim: &Sim, work: impl Future<Output = T>) -> T {
    match sim.block_on(&sim.io(1), work) {
        Ok(output) => output,
        Err(stuck) => panic!("{stuck}"),
    }
}
