//! The end of a run: what must be so when nobody is at work any more, and what is in the images when they are closed.

use std::rc::Rc;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_core::control::{Plan, Task};
use drystone_testkit::client::{BackendClient, SharedModel, Watched};
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

use crate::image::{Format, Sheet, demand_sound, recorded_backing};
use crate::prepare::{chain_of, finish};
use crate::stage::{Common, Stage};

/// A disk when its run is over: the image on top, and what it shows.
pub(crate) type Shown = (String, ByteModel);

impl Stage {
    /// Reads every disk as a whole.
    pub(crate) async fn read_all(&self, sim: &Sim) -> Result<()> {
        for disk in &self.disks {
            let mut reader = Watched::new(BackendClient::new(&disk.main, &sim.io(1)), &disk.model);
            let len = disk.model.borrow().len();
            reader.read(GuestRange::new(GuestOffset::ZERO, len)).await?;
        }
        Ok(())
    }

    /// Nobody waits, no gate is closed, nothing is quiet.
    pub(crate) async fn demand_calm(&self) -> Result<()> {
        let look = async move |task: &mut Task<'_>| {
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

    /// Takes all users away and closes all images.
    pub(crate) async fn close(&self) -> Result<()> {
        let roots: Vec<_> = self.disks.iter().map(|disk| disk.main.id()).collect();
        let work = async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            roots.into_iter().for_each(|root| plan.detach_root(root));
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

/// Everybody has gone: the disks are read once more, everything is closed, and the images are sound.
pub(crate) fn end(sim: &Sim, stage: &Rc<Stage>) -> Vec<Shown> {
    let ended = finish(sim, async {
        stage.demand_calm().await?;
        stage.read_all(sim).await?;
        stage.demand_calm().await?;
        stage.close().await
    });
    ended.unwrap_or_else(|error| panic!("a run cannot be ended: {}", error.report()));
    stage.disks.iter().map(|disk| (disk.front.head(), model_of(&disk.model))).collect()
}

fn model_of(model: &SharedModel) -> ByteModel {
    model.borrow().clone()
}

/// What is on the devices now, as images that say themselves what is behind them.
pub(crate) fn images_of(common: &Common) -> Vec<(Sheet, Image)> {
    common.sheets().into_iter().map(|sheet| (sheet.clone(), SimDisk::image(&sheet.disk))).collect()
}

/// Checks images, opens them on a new process and compares what they show.
pub(crate) fn reopen(seed: u64, images: Vec<(Sheet, Image)>, shown: Vec<Shown>, may_leak: bool) {
    let sim = Sim::seeded(seed);
    let common = Common::new(seed, drystone_testkit::disk::Timing::Instant);
    let mut sheets = Vec::new();
    for (sheet, bytes) in images {
        let backing = match sheet.format {
            Format::Raw => None,
            Format::Qcow2(_) => {
                demand_sound(&sheet.name, &bytes, may_leak);
                recorded_backing(&bytes)
                    .unwrap_or_else(|error| panic!("'{}': {}", sheet.name, error.report()))
            }
        };
        sheets.push(common.add_as(&sheet.name, bytes, sheet.format, backing));
    }
    let mut needed: Vec<Sheet> = Vec::new();
    for (top, _) in &shown {
        for sheet in chain_of(&sheets, top) {
            if needed.iter().all(|known| known.name != sheet.name) {
                needed.push(sheet);
            }
        }
    }
    let graph = SimGraph::start(&sim);
    let mut stage = Stage::new(&graph, common);
    let found = finish(&sim, async {
        stage.open(needed, shown).await?;
        stage.read_all(&sim).await?;
        stage.close().await
    });
    found.unwrap_or_else(|error| panic!("images cannot be opened again: {}", error.report()));
    drop(stage);
    graph.finish();
}
