//! Reopening on simulated disks, with every operation of theirs failing once.

use std::rc::Rc;

use drystone_base::Result;
use drystone_blockdev::draft::change;
use drystone_blockdev::given::Given;
use drystone_blockdev::open::Opener;
use drystone_blockdev::query::graph::graph;
use drystone_blockdev::query::node::nodes;
use drystone_core::control::{Opening, Plan, Task};
use drystone_format::qcow2::create::CreateOptions;
use drystone_testkit::crash::FaultSweep;
use drystone_testkit::disk::{FaultEffect, Image, SimDisk};
use drystone_testkit::graph::{SimDriver, SimGraph};
use drystone_testkit::sim::Sim;

use crate::draft::{add, detach, export, options, read, reopen, write};

const DISK_BYTES: u64 = 256 << 10;
const NAMES: [&str; 2] = ["a", "b"];

/// A new image of 4 KiB clusters.
fn image() -> Image {
    let layout = CreateOptions { cluster_bytes: 4096, ..CreateOptions::new(DISK_BYTES) }.layout().unwrap();
    let mut image = Image::new(layout.len_file);
    for (at, bytes) in layout.pieces {
        image.write(at.get(), &bytes);
    }
    image
}

fn node(name: &str, more: &str) -> String {
    format!(r#"{{"driver":"qcow2","node-name":"{name}","file":"{name}-file","backing":null{more}}}"#)
}

/// The images as nodes of the graph.
async fn open(task: &mut Task<'_>, disks: &[SimDisk]) -> Result<()> {
    for (name, disk) in NAMES.iter().zip(disks) {
        if task.gs().find(&format!("{name}-file")).is_err() {
            let mut opening = Opening::new(task);
            opening.add(SimDriver::node(&format!("{name}-file"), disk))?;
            let mut plan = Plan::new();
            plan.insert(opening);
            task.apply(plan).await?;
        }
        if task.gs().find(name).is_err() {
            add(task, &node(name, "")).await?;
        }
    }
    Ok(())
}

/// Everything that the graph and its nodes remember.
fn memory(task: &Task<'_>) -> String {
    task.gs().with(|view| {
        let given: Vec<Option<Rc<Given>>> =
            view.nodes().iter().map(|node| Given::of(view, node.id)).collect();
        format!("{given:?} {:?} {:?}", nodes(view, true), graph(view))
    })
}

/// Writes what it can, and reopens both images for reading. What was acknowledged.
async fn work(task: &mut Task<'_>, disks: &[SimDisk]) -> Vec<bool> {
    while open(task, disks).await.is_err() {}
    let mut written = Vec::new();
    for (index, name) in NAMES.iter().enumerate() {
        let user = export(task, name).await.unwrap();
        for at in [0, 100_000] {
            written.push(write(task, &user, at, &[u8::try_from(index).unwrap() + 1; 5000]).await.is_ok());
        }
        detach(task, &user).await;
    }
    let (before, opener) = (memory(task), Opener::trusting());
    let wanted = [node("a", r#","read-only":true,"l2-cache-size":4096"#), node("b", r#","read-only":true"#)];
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    while reopen(task, &wanted).await.is_err() {
        assert_eq!(memory(task), before);
        // Together with another command that would have been fine, too.
        let refused = change(task, &opener, async |draft, task| {
            draft.reopen(task, vec![options(wanted[0])])?;
            draft.del(task, "none")
        });
        refused.await.unwrap_err();
        assert_eq!(memory(task), before);
    }
    written
}

fn swept(effect: FaultEffect) {
    let sweep = FaultSweep::new(5, vec![image(), image()], effect);
    let run = |sim: &Sim, disks: &[SimDisk]| {
        let graph = SimGraph::start(sim);
        let used = disks.to_vec();
        let written = graph.call(async move |task: &mut Task<'_>| work(task, &used).await);
        graph.finish();
        written
    };
    let swept = sweep.sweep(run, |sim, disks, written| {
        let (graph, used, written) = (SimGraph::start(sim), disks.to_vec(), written.clone());
        graph.call(async move |task: &mut Task<'_>| {
            open(task, &used).await.unwrap();
            for (index, name) in NAMES.iter().enumerate() {
                let user = export(task, name).await.unwrap();
                for (place, at) in [0, 100_000].into_iter().enumerate() {
                    if written[index * 2 + place] {
                        let expected = vec![u8::try_from(index).unwrap() + 1; 5000];
                        assert!(read(task, &user, at, 5000).await == expected, "{name} at {at}");
                    }
                }
                detach(task, &user).await;
            }
        });
        graph.finish();
    });
    assert!(swept.ops > 20, "{}", swept.ops);
}

#[test]
fn a_disk_that_fails_during_a_reopen_leaves_all_as_it_was() {
    swept(FaultEffect::Io);
}

#[test]
fn a_disk_that_is_full_during_a_reopen_leaves_all_as_it_was() {
    swept(FaultEffect::NoSpace);
}
