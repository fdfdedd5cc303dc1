//! Write observers: who is told of which writes, and when.

use std::sync::{Arc, Mutex};

use drystone_base::{GuestOffset, GuestRange};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::graph::node::NodeId;
use drystone_core::lane::Lane;
use drystone_core::request::observe::WriteObserver;
use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, OpKind, SimDisk};
use drystone_testkit::notation::show_range;

use crate::fixture::{LEN, node, overlay};
use crate::scripted::{Script, Scripted};
use crate::world::{World, add_filter, at, attach_writer, fill, filled, insert, load};

#[derive(Default)]
struct Told(Mutex<Vec<GuestRange>>);

impl WriteObserver for Told {
    fn written(&self, range: GuestRange) {
        self.0.lock().unwrap().push(range);
    }
}

impl Told {
    fn take(&self) -> String {
        let ranges = std::mem::take(&mut *self.0.lock().unwrap());
        ranges.into_iter().map(show_range).collect::<Vec<_>>().join(" ")
    }

    fn has(&self, range: GuestRange) -> bool {
        let ranges = self.0.lock().unwrap();
        ranges.iter().any(|told| told.start() <= range.start() && range.end() <= told.end())
    }
}

fn observe(world: &World, node: NodeId, observer: &Arc<Told>, add: bool) {
    let observer = Arc::clone(observer);
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        if add {
            plan.observe(node, observer)
        } else {
            plan.unobserve(node, observer)
        }
        task.apply(plan).await.unwrap();
    });
}

/// A filter on a device; both are observed.
fn observed_pair(seed: u64) -> (World, SimDisk, Backend<ReadWrite>, [Arc<Told>; 2], [NodeId; 2]) {
    let world = World::new(seed);
    let disk = SimDisk::zeroed(LEN, seed);
    let device = disk.clone();
    let (backend, nodes) = world.on_control(async move |task: &mut Task<'_>| {
        let script = Script::default();
        let mut opening = Opening::new(task);
        let base = opening.add(node("base", Scripted::device("base", &script, device), LEN, vec![])).unwrap();
        let top = add_filter(&mut opening, "top", &script, base).unwrap();
        insert(task, opening).await.unwrap();
        (attach_writer(task, top, "client").await.unwrap(), [top, base])
    });
    let told = [Arc::default(), Arc::default()];
    for (node, told) in nodes.iter().zip(&told) {
        observe(&world, *node, told, true);
    }
    (world, disk, backend, told, nodes)
}

#[test]
fn every_node_on_the_way_is_told_of_writes_and_of_nothing_else() {
    let (world, _, backend, told, _) = observed_pair(1);
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &backend, at(1000, 5000), 1).await.unwrap();
        load(lane, &backend, at(0, 512)).await.unwrap();
        lane.enter(&backend).await.flush().await.unwrap();
        lane.enter(&backend).await.status(at(0, 512), 9).await.unwrap();
    });
    assert_eq!((told[0].take(), told[1].take()), ("1000..6000".into(), "1000..6000".into()));
    world.on_io(async |lane: &mut Lane| {
        lane.enter(&backend).await.write_zeroes(at(0, 4096), ZeroFlags::default()).await.unwrap();
    });
    assert!(told.iter().all(|told| told.has(at(0, 4096))));
    told.iter().for_each(|told| drop(told.take()));
    world.on_io(async |lane: &mut Lane| lane.enter(&backend).await.discard(at(4096, 4096)).await.unwrap());
    assert!(told[0].has(at(4096, 4096)));
}

#[test]
fn whoever_is_acknowledged_finds_the_observers_told() {
    for seed in 0..50 {
        let (world, _, backend, told, _) = observed_pair(seed);
        for thread in [1, 2] {
            let user = backend.clone();
            let told = told.clone();
            world.spawn_io(thread, "writes", async move |lane| {
                for round in 0..5 {
                    let range = at(u64::from(thread) * 65536 + round * 512, 512);
                    fill(lane, &user, range, 1).await.unwrap();
                    assert!(told.iter().all(|told| told.has(range)));
                }
            });
        }
        drop(backend);
        world.end();
    }
}

/// A write that failed may have changed any of its bytes.
#[test]
fn observers_are_told_of_writes_that_failed() {
    let (world, disk, backend, told, _) = observed_pair(1);
    disk.inject(Fault::every(OpFilter::any(), FaultEffect::Io));
    world.on_io(async |lane: &mut Lane| {
        assert!(fill(lane, &backend, at(0, 512), 1).await.is_err());
        assert!(lane.enter(&backend).await.write_zeroes(at(512, 512), ZeroFlags::default()).await.is_err());
    });
    assert!(told.iter().all(|told| told.has(at(0, 512)) && told.has(at(512, 512))));
    told.iter().for_each(|told| drop(told.take()));
    disk.clear_faults();
    disk.inject(Fault::every(OpFilter::of(OpKind::Flush), FaultEffect::Io));
    world.on_io(async |lane: &mut Lane| {
        let fua = WriteFlags { fua: true, ..WriteFlags::default() };
        let mut ticket = lane.enter(&backend).await;
        assert!(ticket.write(GuestOffset::ZERO, filled(512, 1), fua).await.0.is_err());
        // Refused before anything was written.
        drop(ticket);
        assert!(fill(lane, &backend, at(LEN, 512), 1).await.is_err());
    });
    assert_eq!(told[0].take(), "0..512");
}

#[test]
fn an_observer_hears_of_writes_between_its_two_commits_and_of_no_others() {
    for seed in 0..50 {
        let (world, _, backend, _, [top, _]) = observed_pair(seed);
        let late: Arc<Told> = Arc::default();
        world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
        let user = backend.clone();
        world.spawn_io(1, "writes", async move |lane| {
            for round in 1..20 {
                fill(lane, &user, at(round * 512, 512), 1).await.unwrap();
            }
        });
        observe(&world, top, &late, true);
        world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(32768, 512), 1).await.unwrap());
        observe(&world, top, &late, false);
        world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(40960, 512), 1).await.unwrap());
        drop(backend);
        world.end();
        assert!(late.has(at(32768, 512)) && !late.has(at(40960, 512)) && !late.has(at(0, 512)));
    }
}

/// The node that stores what the overlay copies up is told in its own coordinates, the base not at all.
#[test]
fn a_layer_is_told_of_its_own_writes_only() {
    let world = World::new(1);
    let (backend, nodes) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = overlay(&mut opening, "base", SimDisk::zeroed(LEN, 1), None).unwrap();
        let top = overlay(&mut opening, "top", SimDisk::zeroed(LEN, 2), Some(base)).unwrap();
        insert(task, opening).await.unwrap();
        let file = task.gs().find("top-file").unwrap();
        (attach_writer(task, top, "client").await.unwrap(), [top, file, base])
    });
    let told: [Arc<Told>; 3] = Default::default();
    for (node, told) in nodes.iter().zip(&told) {
        observe(&world, *node, told, true);
    }
    world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(5000, 10), 1).await.unwrap());
    let [top, file, base] = told.map(|told| told.take());
    assert_eq!((top.as_str(), file.as_str(), base.as_str()), ("5000..5010", "4K..8K", ""));
}
