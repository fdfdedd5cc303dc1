//! Named bitmaps of nodes: what they hold of concurrent I/O, and what plans may do to them.

use drystone_base::{Error, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::bitmap::action::{BitmapAction, MergeSource};
use drystone_core::bitmap::{BitmapInfo, Bits, Granularity};
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::lane::Lane;
use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, SimDisk};
use drystone_testkit::notation::show_range;

use crate::fixture::{LEN, node};
use crate::scripted::{Script, Scripted};
use crate::world::{World, at, attach, fill, filled, insert};

const GRAIN: Granularity = match Granularity::from_bytes(512) {
    Some(granularity) => granularity,
    None => panic!(),
};

fn device(seed: u64) -> (World, SimDisk, Backend<ReadWrite>, NodeId) {
    let world = World::new(seed);
    let disk = SimDisk::zeroed(LEN, seed);
    let device = disk.clone();
    let (backend, node) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = node("disk", Scripted::device("disk", &Script::default(), device), LEN, vec![]);
        let id = opening.add(base).unwrap();
        insert(task, opening).await.unwrap();
        let grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), ..Grant::WRITER };
        (attach(task, id, "client", grant).await.unwrap(), id)
    });
    (world, disk, backend, node)
}

fn add(name: &str) -> BitmapAction {
    BitmapAction::Add { name: name.to_owned(), granularity: GRAIN, persistent: false, recording: true }
}

fn remove(name: &str) -> BitmapAction {
    BitmapAction::Remove { name: name.to_owned() }
}

fn clear(name: &str) -> BitmapAction {
    BitmapAction::Clear { name: name.to_owned() }
}

fn record(name: &str, recording: bool) -> BitmapAction {
    BitmapAction::Record { name: name.to_owned(), recording }
}

fn merge(node: NodeId, from: &str, to: &str) -> BitmapAction {
    BitmapAction::Merge { name: to.to_owned(), source: MergeSource::Bitmap { node, name: from.to_owned() } }
}

fn act(world: &World, node: NodeId, actions: Vec<BitmapAction>) -> Result<()> {
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        actions.into_iter().for_each(|action| plan.change_bitmap(node, action));
        task.apply(plan).await
    })
}

fn kind(result: Result<()>) -> Kind {
    result.map_err(|error: Error| error.kind()).unwrap_err()
}

fn with<T: Send + 'static>(
    world: &World,
    node: NodeId,
    look: impl FnOnce(&drystone_core::bitmap::NodeBitmaps) -> T + Send + 'static,
) -> T {
    world.on_control(async move |task: &mut Task<'_>| {
        task.gs().with(|graph| look(graph.node_handle(node).unwrap().bitmaps()))
    })
}

fn dirty(world: &World, node: NodeId, name: &'static str) -> String {
    let bits: Bits = with(world, node, move |bitmaps| bitmaps.bits(name).unwrap());
    bits.all_areas().map(show_range).collect::<Vec<_>>().join(" ")
}

fn list(world: &World, node: NodeId) -> Vec<BitmapInfo> {
    with(world, node, drystone_core::bitmap::NodeBitmaps::list)
}

#[test]
fn writes_zeroes_and_discards_are_recorded_and_reads_are_not() {
    let (world, _, backend, node) = device(1);
    act(&world, node, vec![add("a")]).unwrap();
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &backend, at(1024, 512), 1).await.unwrap();
        lane.enter(&backend).await.write_zeroes(at(8192, 1024), ZeroFlags::default()).await.unwrap();
        lane.enter(&backend).await.discard(at(16384, 512)).await.unwrap();
        lane.enter(&backend).await.status(at(0, 512), 9).await.unwrap();
        lane.enter(&backend).await.flush().await.unwrap();
    });
    assert_eq!(dirty(&world, node, "a"), "1K..1536 8K..9K 16K..16896");
}

#[test]
fn a_write_that_failed_is_recorded() {
    let (world, disk, backend, node) = device(1);
    act(&world, node, vec![add("a")]).unwrap();
    disk.inject(Fault::every(OpFilter::any(), FaultEffect::Io));
    world.on_io(async |lane: &mut Lane| assert!(fill(lane, &backend, at(512, 512), 1).await.is_err()));
    assert_eq!(dirty(&world, node, "a"), "512..1K");
}

/// Copying up what is below changes nothing that the disk shows.
#[test]
fn a_write_that_changes_nothing_is_not_recorded() {
    let (world, _, backend, node) = device(1);
    act(&world, node, vec![add("a")]).unwrap();
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        let flags = WriteFlags { unchanged: true, ..WriteFlags::default() };
        ticket.write(at(512, 0).start(), filled(512, 0), flags).await.0.unwrap();
        let flags = ZeroFlags { unchanged: true, ..ZeroFlags::default() };
        ticket.write_zeroes(at(2048, 512), flags).await.unwrap();
    });
    assert_eq!(dirty(&world, node, "a"), "");
}

#[test]
fn a_bitmap_has_what_was_written_while_it_recorded() {
    let (world, _, backend, node) = device(1);
    let write = |granule: u64| {
        world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(granule * 512, 512), 1).await.unwrap());
    };
    act(&world, node, vec![add("a")]).unwrap();
    write(0);
    act(&world, node, vec![add("b"), record("a", false)]).unwrap();
    write(2);
    act(&world, node, vec![record("a", true), add("c")]).unwrap();
    write(4);
    act(&world, node, vec![clear("b"), merge(node, "a", "c"), record("c", false)]).unwrap();
    write(6);
    assert_eq!(dirty(&world, node, "a"), "0..512 2K..2560 3K..3584");
    assert_eq!(dirty(&world, node, "b"), "3K..3584");
    assert_eq!(dirty(&world, node, "c"), "0..512 2K..2560");
    act(&world, node, vec![remove("a"), remove("b"), remove("c")]).unwrap();
    assert!(list(&world, node).is_empty());
    write(8);
    act(&world, node, vec![add("a")]).unwrap();
    assert_eq!(dirty(&world, node, "a"), "");
}

#[test]
fn bitmaps_of_all_granularities_record_side_by_side() {
    let (world, _, backend, node) = device(1);
    let names = ["2048", "512", "65536", "1024"];
    for name in names {
        let granularity = Granularity::from_bytes(name.parse().unwrap()).unwrap();
        let (name, persistent, recording) = (name.to_owned(), false, true);
        act(&world, node, vec![BitmapAction::Add { name, granularity, persistent, recording }]).unwrap();
        world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(4096, 1), 1).await.unwrap());
    }
    let found: Vec<(String, u64)> =
        list(&world, node).into_iter().map(|info| (info.name, info.dirty_bytes)).collect();
    let expected = names.map(|name| (name.to_owned(), name.parse::<u64>().unwrap()));
    // What was written before a bitmap came is not in it: all wrote the same byte.
    assert_eq!(found, expected);
    act(&world, node, vec![remove("512")]).unwrap();
    world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(0, 1), 1).await.unwrap());
    assert_eq!(dirty(&world, node, "1024"), "0..1K 4K..5K");
}

#[test]
fn actions_happen_all_or_none() {
    let (world, _, backend, node) = device(1);
    act(&world, node, vec![add("a")]).unwrap();
    world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    let all = vec![clear("a"), add("b"), merge(node, "b", "a"), record("a", false), remove("missing")];
    assert_eq!(kind(act(&world, node, all)), Kind::NotFound);
    assert_eq!(list(&world, node).len(), 1);
    assert!(list(&world, node)[0].recording);
    assert_eq!(dirty(&world, node, "a"), "0..512");
    // Later actions see what earlier ones do.
    act(&world, node, vec![add("b"), merge(node, "a", "b"), remove("a"), add("a")]).unwrap();
    assert_eq!((dirty(&world, node, "a").as_str(), dirty(&world, node, "b").as_str()), ("", "0..512"));
}

#[test]
fn what_is_not_possible_is_refused() {
    let (world, _, _backend, node) = device(1);
    act(&world, node, vec![add("a")]).unwrap();
    let refused = |action: BitmapAction| kind(act(&world, node, vec![action]));
    assert_eq!(refused(add("a")), Kind::AlreadyExists);
    assert_eq!(refused(add("")), Kind::InvalidInput);
    assert_eq!(refused(add(&"x".repeat(1024))), Kind::InvalidInput);
    act(&world, node, vec![add(&"x".repeat(1023))]).unwrap();
    assert_eq!(refused(clear("b")), Kind::NotFound);
    assert_eq!(refused(merge(node, "b", "a")), Kind::NotFound);
    let short = MergeSource::Bits(Bits::new(GRAIN, 512));
    assert_eq!(refused(BitmapAction::Merge { name: "a".into(), source: short }), Kind::InvalidInput);
    let (name, granularity) = ("p".to_owned(), GRAIN);
    let persistent = BitmapAction::Add { name, granularity, persistent: true, recording: true };
    assert_eq!(refused(persistent), Kind::Unsupported);
    with(&world, node, |bitmaps| bitmaps.set_busy("a", true).unwrap());
    for action in [clear("a"), remove("a"), record("a", false), merge(node, "a", "a")] {
        assert_eq!(refused(action), Kind::InUse);
    }
    with(&world, node, |bitmaps| bitmaps.set_busy("a", false).unwrap());
    act(&world, node, vec![merge(node, "a", "a"), remove("a")]).unwrap();
}

#[test]
fn bitmaps_follow_the_length_of_the_disk() {
    let (world, _, backend, node) = device(1);
    act(&world, node, vec![add("a"), add("b"), record("b", false)]).unwrap();
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &backend, at(0, LEN), 1).await.unwrap();
        let mut ticket = lane.enter(&backend).await;
        ticket.resize(LEN / 2, Preallocation::Off).await.unwrap();
        ticket.resize(LEN * 2, Preallocation::Off).await.unwrap();
    });
    assert_eq!(dirty(&world, node, "a"), show_range(at(0, LEN / 2)));
    world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(LEN * 2 - 512, 512), 1).await.unwrap());
    let info = list(&world, node);
    assert_eq!((info[0].dirty_bytes, info[1].dirty_bytes), (LEN / 2 + 512, 0));
}

/// Writers on two threads, and somebody who looks, clears and adds: whoever was acknowledged before a look is seen by it.
#[test]
fn an_acknowledged_write_is_in_every_bitmap_that_recorded() {
    for seed in 0..30 {
        let (world, _, backend, node) = device(seed);
        act(&world, node, vec![add("first")]).unwrap();
        for thread in [1, 2] {
            let user = backend.clone();
            world.spawn_io(thread, "writes", async move |lane| {
                for round in 0..8 {
                    fill(lane, &user, at(u64::from(thread) * 65536 + round * 512, 512), 1).await.unwrap();
                }
            });
        }
        for round in 0..4_u64 {
            act(&world, node, vec![add(&format!("b{round}")), clear("first")]).unwrap();
            let range = at(round * 512, 512);
            world.on_io(async |lane: &mut Lane| fill(lane, &backend, range, 1).await.unwrap());
            let seen: Vec<bool> = with(&world, node, move |bitmaps| {
                let names = (0..=round).map(|round| format!("b{round}")).chain(["first".to_owned()]);
                names.map(|name| bitmaps.bits(&name).unwrap().get(range.start())).collect()
            });
            assert!(seen.iter().all(|seen| *seen), "{seen:?}");
        }
        drop(backend);
        world.end();
    }
}

/// Bitmaps that began together, or were cleared together, are one in memory.
#[test]
fn a_thousand_bitmaps_of_equal_content_take_the_memory_of_one() {
    let (world, _, backend, node) = device(1);
    let names: Vec<String> = (0..1000).map(|number| format!("b{number}")).collect();
    act(&world, node, names.iter().map(|name| add(name)).collect()).unwrap();
    let write = |round: u64| {
        world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(round * 1024, 512), 1).await.unwrap());
    };
    for round in 0..10 {
        write(round);
        let all = list(&world, node);
        assert!(all.len() == 1000 && all.iter().all(|info| info.dirty_bytes == (round + 1) * 512));
    }
    let memory = with(&world, node, drystone_core::bitmap::NodeBitmaps::memory_bytes);
    assert!(memory < 50_000, "{memory} bytes");
    // One that is cleared goes its own way.
    act(&world, node, vec![clear("b7")]).unwrap();
    write(10);
    let all = list(&world, node);
    assert_eq!((all[6].dirty_bytes, all[7].dirty_bytes), (11 * 512, 512));
    let memory = with(&world, node, drystone_core::bitmap::NodeBitmaps::memory_bytes);
    assert!(memory < 60_000, "{memory} bytes");
}
