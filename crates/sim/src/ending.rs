//! The end of a run: what must be so when nobody is at work any more, and what is in the images when they are closed.

use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_core::control::{Plan, Task};
use drystone_format::qcow2::feature::IncompatibleBit;
use drystone_format::qcow2::header::Version;
use drystone_job::Status;
use drystone_played::image::{demand_sound, header, recorded_backing, repaired};
use drystone_testkit::client::{BackendClient, Watched};
use drystone_testkit::disk::{Image, SimDisk, Timing};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

use crate::audit;
use crate::image::{Format, Sheet, demand_no_data_in_tables};
use crate::kept::Kept;
use crate::prepare::{chain_of, finish};
use crate::stage::{Common, Disk, Guest, Stage};

/// A disk when its run is over: the image on top, and what it shows.
pub(crate) type Shown = (String, ByteModel);

impl Stage {
    /// Reads every disk as a whole.
    pub(crate) async fn read_all(&self, sim: &Sim) -> Result<()> {
        for disk in &self.disks {
            let mut reader = Watched::new(BackendClient::new(&disk.main, &sim.io(1)), &disk.model);
            let len = disk.model.borrow().len();
            let read = reader.read(GuestRange::new(GuestOffset::ZERO, len)).await;
            if !disk.is_forgotten() {
                read?;
            }
        }
        Ok(())
    }

    /// Nobody waits, no gate is closed, nothing is quiet.
    pub(crate) async fn demand_calm(&self) -> Result<()> {
        let look = async move |task: &mut Task<'_>| {
            // Requests whose callers went away run to their ends.
            drop(task.drain_all().await);
            let (nodes, roots) = task.gs().with(|graph| (graph.nodes(), graph.roots()));
            assert!(nodes.iter().all(|node| node.quiet == 0), "something is quiet for ever: {nodes:?}");
            assert!(roots.iter().all(|root| !root.closed), "a gate is closed for ever: {roots:?}");
            // One line is that of this very call.
            let report = task.gs().waits().report();
            assert_eq!(report.lines().count(), 1, "somebody waits for ever:\n{report}");
            Ok(())
        };
        self.on_control(look).await
    }

    /// Devices work again, and go on to.
    pub(crate) fn mend(&self) {
        self.common.power().cut_at(u64::MAX);
        for sheet in self.common.sheets() {
            sheet.disk.clear_faults();
            sheet.disk.set_space(u64::MAX);
        }
    }

    /// Lets all jobs end, well if they can.
    pub(crate) async fn end_jobs(&self, sim: &Sim) {
        let local = sim.io(1);
        if self.common.is_damaged() {
            // They would fail, be resumed, and fail again.
            self.jobs.cancel_all();
        }
        while !self.jobs.list().is_empty() {
            for job in self.jobs.list() {
                // Each of these may come too late.
                let _ = self.jobs.set_speed(&job.id, 0);
                let _ = match job.status {
                    Status::Pending => self.jobs.finalize(&job.id),
                    _ => self.jobs.resume(&job.id),
                };
            }
            local.sleep_until(local.now_ns().saturating_add(1_000_000)).await;
        }
    }

    /// The image on top of each disk.
    pub(crate) async fn tops(&self) -> Result<Vec<String>> {
        let roots: Vec<_> = self.disks.iter().map(|disk| disk.main.id()).collect();
        let look = async move |task: &mut Task<'_>| {
            Ok(task.gs().with(|graph| {
                let known = graph.roots();
                let node = |id| known.iter().find(|root| root.id == id).and_then(|root| root.node);
                let top = |id| audit::chain(graph, node(id)?).first().map(|image| image.name.clone());
                roots.into_iter().map(|id| top(id).unwrap_or_default()).collect::<Vec<String>>()
            }))
        };
        self.on_control(look).await
    }

    /// What each disk shows, unless nothing is known of it.
    pub(crate) fn models(&self) -> Vec<Option<ByteModel>> {
        let model = |disk: &Rc<Disk>| (!disk.is_forgotten()).then(|| disk.model.borrow().clone());
        self.disks.iter().map(model).collect()
    }

    /// Takes all users away and closes all images.
    pub(crate) async fn close(&self) -> Result<()> {
        let work = async move |task: &mut Task<'_>| {
            let roots = task.gs().with(|graph| graph.roots());
            let roots = roots.into_iter().filter(|root| root.node.is_some()).map(|root| root.id);
            let mut plan = Plan::new();
            roots.for_each(|root| plan.detach_root(root));
            task.apply(plan).await?;
            while let Some(unused) = unused(task) {
                let mut plan = Plan::new();
                plan.remove(unused);
                task.apply(plan).await?;
            }
            let left = task.gs().with(|graph| graph.nodes());
            assert!(left.is_empty(), "nodes are left that cannot go: {left:?}");
            Ok(())
        };
        self.on_control(work).await
    }
}

/// A node that nothing leads to.
fn unused(task: &Task<'_>) -> Option<drystone_core::graph::node::NodeId> {
    task.gs()
        .with(|graph| graph.nodes().iter().map(|node| node.id).find(|id| graph.parents_of(*id).is_empty()))
}

/// Everybody has gone: jobs end, the disks are read once more, and everything is closed.
pub(crate) fn end(sim: &Sim, stage: &Rc<Stage>) -> Vec<Shown> {
    // At once: requests whose callers went away go on from here.
    stage.mend();
    let ended = finish(sim, async {
        stage.end_jobs(sim).await;
        stage.demand_calm().await?;
        stage.read_all(sim).await?;
        stage.demand_calm().await?;
        let shown = known(stage.tops().await?, stage.models());
        let emptied = stage.close_hall().await;
        match emptied.and(stage.close().await) {
            // What cannot be stored stays open.
            Err(_) if stage.common.is_damaged() => Ok(shown),
            closed => closed.map(|()| shown),
        }
    });
    ended.unwrap_or_else(|error| panic!("a run cannot be ended: {}", error.report()))
}

/// The disks of which something is known.
pub(crate) fn known(tops: Vec<String>, models: Vec<Option<ByteModel>>) -> Vec<Shown> {
    tops.into_iter().zip(models).filter_map(|(top, model)| Some((top, model?))).collect()
}

/// What is on the devices now.
pub(crate) fn images_of(common: &Common) -> Vec<(Sheet, Image)> {
    common.sheets().into_iter().map(|sheet| (sheet.clone(), SimDisk::image(&sheet.disk))).collect()
}

/// What could be on the devices after the power went off: one of many for each.
pub(crate) fn survivors_of(common: &Common, rng: &mut Rng) -> Vec<(Sheet, Image)> {
    let one_of = |sheet: Sheet| {
        let state = sheet.disk.crash_state();
        let (place, seed) = (rng.index(2 * state.change_count() + SURVIVORS_DRAWN), rng.next_u64());
        let limit = place.saturating_add(1).max(SURVIVORS_DRAWN);
        let survivor = state.survivors(limit, seed).take(place + 1).last();
        let image = survivor.map_or_else(|| sheet.disk.durable_image(), |survivor| survivor.image);
        (sheet, image)
    };
    common.sheets().into_iter().map(one_of).collect()
}

/// Of what could be on a device, so many are neither all nor nothing nor all but one change.
const SURVIVORS_DRAWN: usize = 16;

/// Checks images, opens them in a new process as they say themselves, and compares what they show.
pub(crate) fn reopen(
    seed: u64,
    images: Vec<(Sheet, Image)>,
    mut shown: Vec<Shown>,
    kept: &[Kept],
    may_leak: bool,
) {
    let sim = Sim::seeded(seed);
    let common = Common::new(seed, Timing::Instant);
    let mut sheets = Vec::new();
    for (sheet, bytes) in images {
        if let Some((_, model)) = shown.iter_mut().find(|(top, _)| *top == sheet.name) {
            model.found_len(len_of(&sheet, &bytes));
        }
        let backing = match sheet.format {
            Format::Raw => None,
            Format::Qcow2(_) if sheet.is_damaged => {
                demand_no_data_in_tables(&sheet.name, &bytes);
                continue;
            }
            Format::Qcow2(_) => {
                let keeps = kept.iter().any(|one| one.image == sheet.name);
                demand_whole(&sheet.name, &bytes, may_leak, keeps);
                recorded_backing(&bytes)
                    .unwrap_or_else(|error| panic!("'{}': {}", sheet.name, error.report()))
            }
        };
        sheets.push(common.add_as(&sheet.name, bytes, sheet.format, backing));
    }
    let graph = SimGraph::start(&sim);
    let mut stage = Stage::new(&sim, &graph, common);
    let found = finish(&sim, async {
        let needed = needed_for(&sheets, &shown);
        let guests = shown.into_iter().map(|(top, model)| Guest { top, model, resizes: false });
        stage.open(needed, guests.collect()).await?;
        stage.read_all(&sim).await?;
        stage.close().await?;
        stage.demand_kept(&sim, &sheets, kept).await
    });
    found.unwrap_or_else(|error| panic!("images cannot be opened again: {}", error.report()));
    drop(stage);
    graph.finish();
}

/// As [`demand_sound`], of an image that may have been cut off while its internal snapshots changed: one that says so must be
/// sound after a repair, and one that cannot say it (version 2), too.
fn demand_whole(name: &str, image: &Image, may_leak: bool, keeps: bool) {
    let header = header(image).unwrap_or_else(|error| panic!("image '{name}': {}", error.report()));
    let is_dirty = header.incompatible().has(IncompatibleBit::Dirty);
    if may_leak && (is_dirty || (header.version() == Version::V2 && keeps)) {
        demand_sound(name, &repaired(name, image), false);
    } else {
        demand_sound(name, image, may_leak);
    }
}

/// The images of the chains of all disks, each once, before those on top of it.
fn needed_for(sheets: &[Sheet], shown: &[Shown]) -> Vec<Sheet> {
    let mut needed: Vec<Sheet> = Vec::new();
    for sheet in shown.iter().flat_map(|(top, _)| chain_of(sheets, top)) {
        if needed.iter().all(|known| known.name != sheet.name) {
            needed.push(sheet);
        }
    }
    needed
}

fn len_of(sheet: &Sheet, bytes: &Image) -> u64 {
    match sheet.format {
        Format::Raw => bytes.len(),
        Format::Qcow2(_) => header(bytes).map_or(0, |header| header.len_guest()),
    }
}
