//! Internal snapshots, taken, applied and deleted, cut at every boundary: what is found is the state before or after a step,
//! in all that the disk and its snapshots hold.
//!
//! A cut can leave "copied" flags that the counts do not bear out. They are the only corruption that may be found, in an
//! image that says that it is dirty (version 2 cannot say it): the next write repairs it first.

use std::collections::BTreeMap;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_core::snapshots::{NewSnapshot, SnapshotInfo};
use drystone_format::qcow2::check::Finding;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_format::qcow2::driver::passes::PassDiscard;
use drystone_format::qcow2::feature::IncompatibleBit;
use drystone_format::qcow2::header::Version;
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::crash::{CrashPoints, Subject};
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, SMALL, demand_clean, findings, header};
use super::repairing::{demand_repairable, repaired};
use super::script::{run, steps};
use super::state::{State, instant_disk};

/// What snapshots leave is given back by the file.
const PASSING: Qcow2Options = Qcow2Options { pass_discard: PassDiscard::ALL, ..SMALL };

/// What the disk holds, and what each snapshot does, by identifier.
#[derive(Clone, PartialEq)]
struct World {
    disk: Vec<u8>,
    snapshots: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sum = |bytes: &[u8]| {
            bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            })
        };
        write!(f, "{} {:x}", self.disk.len(), sum(&self.disk))?;
        self.snapshots.iter().try_for_each(|(id, bytes)| write!(f, ", {id} {} {:x}", bytes.len(), sum(bytes)))
    }
}

impl World {
    /// After a step.
    fn after(&self, step: &str) -> Self {
        let mut world = self.clone();
        match *step.split_whitespace().collect::<Vec<_>>() {
            ["take", _] => {
                let last = world.snapshots.keys().filter_map(|id| id.parse::<u64>().ok()).max().unwrap_or(0);
                world.snapshots.insert((last + 1).to_string(), world.disk.clone());
            }
            ["apply", id] => world.disk = world.snapshots[id].clone(),
            ["delete", id] => drop(world.snapshots.remove(id)),
            _ => panic!("'{step}' is no change of snapshots"),
        }
        world
    }

    /// What an image shows.
    fn of(image: &Image) -> Self {
        let (disk, list) = look(image, None);
        let shown = |snapshot: &SnapshotInfo| {
            let id = String::from_utf8(snapshot.id.clone()).unwrap();
            let bytes = look(image, Some(id.clone())).0;
            (id, bytes)
        };
        Self { disk, snapshots: list.iter().map(shown).collect() }
    }
}

/// The bytes of the disk, or of a snapshot, and the list of snapshots.
fn look(image: &Image, shown: Option<String>) -> (Vec<u8>, Vec<SnapshotInfo>) {
    let sim = Sim::seeded(0);
    let graph = SimGraph::start(&sim);
    let disk = instant_disk(image);
    let options = Qcow2Options { read_only: true, ..SMALL };
    let chain = Chain::open_to_read(&graph, &disk, options).unwrap();
    let (list, len) = chain.snapshots(&graph, shown).unwrap();
    let bytes = sim.block_on(&sim.io(1), async {
        let mut client = BackendClient::new(&chain.backend, &sim.io(1));
        client.read(GuestRange::new(GuestOffset::ZERO, len)).await.unwrap()
    });
    chain.close(&graph).unwrap();
    assert!(disk.image() == *image, "looking has changed the image");
    (bytes.unwrap(), list)
}

/// Changes of internal snapshots, one after the other.
struct Changes<'s> {
    before: World,
    script: &'s str,
}

impl Changes<'_> {
    fn make(&self, sim: &Sim, disks: &[SimDisk], from: &World, script: &str) -> Vec<World> {
        let graph = SimGraph::start(sim);
        let is_off = || disks[0].power().is_off();
        let chain = match Chain::open(&graph, disks, PASSING) {
            Ok(chain) => chain,
            Err(error) => {
                assert!(is_off(), "{}", error.report());
                return vec![from.clone()];
            }
        };
        let mut worlds = vec![from.clone()];
        for step in steps(script) {
            let after = worlds[0].after(step);
            let result = chain.change_snapshots(&graph, step);
            if let Err(error) = result {
                assert!(is_off(), "{step}: {}", error.report());
                worlds.push(after);
                break;
            }
            worlds = vec![after];
        }
        let closed = chain.close(&graph);
        assert!(closed.is_ok() || is_off());
        worlds
    }
}

impl Subject for Changes<'_> {
    /// What may be found.
    type Known = Vec<World>;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Vec<World> {
        self.make(sim, disks, &self.before, self.script)
    }

    fn verify(&self, _sim: &Sim, disks: &[SimDisk], known: &Vec<World>) -> Vec<World> {
        let image = disks[0].image();
        let header = header(&image);
        let is_dirty = header.incompatible().has(IncompatibleBit::Dirty) || header.version() == Version::V2;
        let is_flag = |found: &Finding| {
            is_dirty && matches!(found, Finding::NotTheOnlyReference { .. } | Finding::OnlyReference { .. })
        };
        let bad = findings(&image).into_iter().filter(|found| !is_flag(found));
        let bad: Vec<String> = bad
            .filter(
                |found| !matches!(found, Finding::Count { stored, references, .. } if stored > references),
            )
            .map(|found| found.to_string())
            .collect();
        assert_eq!(bad, Vec::<String>::new());
        let world = World::of(&image);
        assert!(known.contains(&world), "found {world:?}, expected one of {known:?}");
        demand_repairable(&image);
        assert_eq!(World::of(&repaired(&image)), world, "after a repair");
        vec![world]
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], known: Vec<World>) -> Vec<World> {
        let worlds = self.make(sim, disks, &known[0], "take again");
        if !disks[0].power().is_off() {
            let header = header(&disks[0].image());
            assert!(!header.incompatible().has(IncompatibleBit::Dirty), "nobody has put it right");
        }
        worlds
    }
}

/// An image after a script of requests and changes of snapshots.
fn prepared(kind: &str, script: &str) -> Image {
    let state = State::new(kind);
    let sim = Sim::seeded(0);
    let disk = instant_disk(&state.images[0]);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&graph, std::slice::from_ref(&disk), SMALL).unwrap();
    let model = std::rc::Rc::new(std::cell::RefCell::new(state.model));
    for step in steps(script) {
        if is_change(step) {
            chain.change_snapshots(&graph, step).unwrap();
        } else {
            run(&sim, &chain, &model, step).unwrap();
        }
    }
    chain.close(&graph).unwrap();
    demand_clean(&disk.image());
    disk.image()
}

fn is_change(step: &str) -> bool {
    ["take", "apply", "delete"].iter().any(|word| step.starts_with(word))
}

fn cut(name: &str, kind: &str, before: &str, script: &str) {
    let image = prepared(kind, before);
    let world = World::of(&image);
    CrashPoints::of(name, vec![image]).look_at(&Changes { before: world, script });
}

#[test]
fn a_first_snapshot_is_taken() {
    cut("a first snapshot is taken", "64K", "write 0..12K; zero 16K..20K", "take one");
}

#[test]
fn snapshots_are_taken_and_deleted() {
    cut(
        "snapshots are taken and deleted",
        "64K",
        "write 0..12K; take one; write 0..4K",
        "take two; delete 1",
    );
}

#[test]
fn a_snapshot_is_applied() {
    cut("a snapshot is applied", "64K", "write 0..12K; take one; write 0..4K; write 20K..24K", "apply 1");
}

#[test]
fn a_snapshot_of_another_length_is_applied() {
    let before = "write 0..2K; take one; grow 2200K; write 2190K..2195K";
    cut("a snapshot of another length is applied", "c512 64K", before, "apply 1");
}

#[test]
fn a_snapshot_of_compressed_clusters_is_taken_and_applied() {
    let before = "press 0..16K; take one; press 4K..8K; write 8K..9K";
    cut(
        "a snapshot of compressed clusters is taken and applied",
        "v2 64K",
        before,
        "take two; apply 1; delete 2",
    );
}

#[test]
fn a_snapshot_of_subclusters_is_taken() {
    let before = "write 0..512; write 3K..4K; write 17K..18K";
    cut("a snapshot of subclusters is taken", "c16K x 256K", before, "take one; delete 1");
}

/// Twenty steps, and after each everything is as it was kept.
#[test]
fn snapshots_keep_what_they_show_whatever_is_written() {
    for kind in ["64K", "c512 r64 64K", "v2 64K", "c16K x 256K", "c4K r8 1M", "c512 zstd 64K"] {
        let sim = Sim::seeded(3);
        let state = State::new(kind);
        let disk = instant_disk(&state.images[0]);
        let mut kept = BTreeMap::new();
        let mut script = Vec::new();
        for round in 0..4_u64 {
            script.extend([format!("write {}..{}", round * 3000, round * 3000 + 9000), "take x".to_owned()]);
            script.extend([format!("press {}K..{}K", round * 16, round * 16 + 16), "take y".to_owned()]);
            script.extend([
                format!("apply {}", 2 * round + 1),
                "zero 4K..9K".to_owned(),
                "discard 16K..24K".to_owned(),
            ]);
            script.push(format!("delete {}", 2 * round + 1));
        }
        for step in script {
            let graph = SimGraph::start(&sim);
            let chain = Chain::open(&graph, std::slice::from_ref(&disk), SMALL).unwrap();
            let model = std::rc::Rc::new(std::cell::RefCell::new(State::new(kind).model));
            match is_change(&step) {
                true => chain.change_snapshots(&graph, &step).unwrap(),
                false => run(&sim, &chain, &model, &step).unwrap(),
            }
            chain.close(&graph).unwrap();
            demand_clean(&disk.image());
            let world = World::of(&disk.image());
            if let Some(id) = step.strip_prefix("delete ") {
                kept.remove(id);
            }
            if let Some(id) = step.strip_prefix("apply ") {
                assert_eq!(Some(&world.disk), kept.get(id), "{kind}: {step}");
            }
            for (id, bytes) in &kept {
                assert!(
                    world.snapshots.get(id) == Some(bytes),
                    "{kind}: snapshot {id} has changed by '{step}'"
                );
            }
            kept = world.snapshots;
        }
    }
}

#[test]
fn narrow_counts_refuse_a_snapshot_and_nothing_changes() {
    let image = prepared("c4K r1 64K", "write 0..12K");
    let sim = Sim::seeded(0);
    let disk = instant_disk(&image);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&graph, std::slice::from_ref(&disk), SMALL).unwrap();
    let error = chain.change_snapshots(&graph, "take one").unwrap_err();
    assert!(error.report().contains("1 bits"), "{}", error.report());
    chain.close(&graph).unwrap();
    demand_clean(&disk.image());
    assert_eq!(World::of(&disk.image()), World::of(&image));
}

impl Chain {
    /// `take NAME`, `apply ID` or `delete ID`.
    pub(super) fn change_snapshots(&self, graph: &SimGraph<'_>, step: &str) -> Result<()> {
        let words: Vec<String> = step.split_whitespace().map(str::to_owned).collect();
        self.alone(graph, async move |io| {
            let snapshots = io.node().driver().snapshots().unwrap();
            let [word, name] = &words[..] else { panic!("{words:?}") };
            match word.as_str() {
                "take" => {
                    let name = name.clone().into_bytes();
                    let new = NewSnapshot { name, date_s: 1, date_ns: 2, vm_clock_ns: 3, icount: None };
                    snapshots.create(io, &new).await.map(drop)
                }
                "apply" => snapshots.apply(io, name.as_bytes()).await.map(drop),
                _ => snapshots.delete(io, name.as_bytes()).await,
            }
        })
    }

    /// The snapshots; the node shows one of them from now on, if so. The length of what it shows.
    fn snapshots(&self, graph: &SimGraph<'_>, shown: Option<String>) -> Result<(Vec<SnapshotInfo>, u64)> {
        let top = self.top;
        graph.call(async move |task: &mut drystone_core::control::Task<'_>| {
            let mut plan = drystone_core::control::Plan::new();
            plan.hold(top);
            let checked = plan.check(task.gs()).map_err(|(_, error)| error)?;
            let staged = task.stage(checked).await?;
            let change = task.admit(staged).await?;
            let private = change.private(top)?;
            let io = private.io();
            let snapshots = io.node().driver().snapshots().unwrap();
            let list = snapshots.list(io).await?;
            let mut len = io.len();
            if let Some(id) = shown {
                len = snapshots.show(io, id.as_bytes()).await?;
                private.publish_len(len);
            }
            drop(private);
            change.abort().await;
            Ok((list, len))
        })
    }
}
