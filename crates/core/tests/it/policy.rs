//! What a node makes of zeroes and discards, and what a plan remembers of nodes.

use std::cell::Cell;
use std::rc::Rc;

use drystone_base::{GuestOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Demand, Opening, Plan, Task};
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::policy::{DetectZeroes, NodePolicy};
use drystone_core::graph::role::Role;
use drystone_testkit::disk::SimDisk;

use crate::fixture::overlay;
use crate::scripted::{Script, Scripted};
use crate::world::{World, add_filter, at, attach_writer, insert, insert_device, instant_disk};

const DETECT: NodePolicy = NodePolicy { detect_zeroes: DetectZeroes::On, ignores_discards: false };
const DETECT_AND_UNMAP: NodePolicy =
    NodePolicy { detect_zeroes: DetectZeroes::Unmap, ignores_discards: false };
const IGNORE: NodePolicy = NodePolicy { detect_zeroes: DetectZeroes::Off, ignores_discards: true };

/// `top`, a filter, on `bottom`, whose bytes are on the disk.
async fn pair(
    task: &mut Task<'_>,
    script: &Script,
    disk: &SimDisk,
) -> Result<(NodeId, NodeId, Backend<ReadWrite>)> {
    let mut opening = Opening::new(task);
    let device = Scripted::device("bottom", script, disk.clone());
    let bottom = opening.add(crate::fixture::node("bottom", device, disk.len(), Vec::new()))?;
    let top = add_filter(&mut opening, "top", script, bottom)?;
    insert(task, opening).await?;
    let user = attach_writer(task, top, "user").await?;
    Ok((top, bottom, user))
}

async fn set(task: &mut Task<'_>, node: NodeId, policy: NodePolicy) {
    let mut plan = Plan::new();
    plan.set_policy(node, policy);
    task.apply(plan).await.unwrap();
}

async fn write(task: &mut Task<'_>, user: &Backend<ReadWrite>, start: u64, bytes: &[u8]) -> Result<()> {
    let mut ticket = task.enter(user).await;
    ticket.write(GuestOffset::new(start), Buf::copy_of(bytes), WriteFlags::default()).await.0
}

fn is_stored(disk: &SimDisk, start: u64) -> bool {
    disk.image().is_allocated(start).0
}

#[test]
fn zeroes_are_detected_at_the_node_that_is_told_to_wherever_it_is() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = instant_disk();
        let (top, bottom, user) = pair(task, &Script::default(), &disk).await.unwrap();
        write(task, &user, 0, &[0; 4096]).await.unwrap();
        assert!(is_stored(&disk, 0), "nobody looks");
        for (node, start) in [(top, 4096), (bottom, 3 * 4096)] {
            set(task, node, DETECT_AND_UNMAP).await;
            write(task, &user, start, &[0; 4096]).await.unwrap();
            assert!(!is_stored(&disk, start));
            write(task, &user, start, &[0, 0, 0, 1]).await.unwrap();
            assert!(is_stored(&disk, start), "a byte that is not zero is found");
            set(task, node, NodePolicy::default()).await;
        }
        assert_eq!(disk.image().bytes(3 * 4096..3 * 4096 + 4), [0, 0, 0, 1]);
    });
    world.end();
}

#[test]
fn detected_zeroes_replace_what_was_there_whatever_the_lengths() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = instant_disk();
        let (top, bottom, user) = pair(task, &Script::default(), &disk).await.unwrap();
        for (node, policy) in [(top, DETECT), (bottom, DETECT), (bottom, DETECT_AND_UNMAP)] {
            set(task, node, policy).await;
            for (start, len) in [(0, 1), (511, 2), (100, 4096), (4096, 512), (7, 0)] {
                write(task, &user, 0, &[0xaa; 8192]).await.unwrap();
                write(task, &user, start, &vec![0; len]).await.unwrap();
                let mut expected = [0xaa; 8192];
                expected[usize::try_from(start).unwrap()..][..len].fill(0);
                assert!(disk.image().bytes(0..8192) == expected, "{start} {len} {policy:?}");
            }
            set(task, node, NodePolicy::default()).await;
        }
        let past = disk.len() - 1;
        set(task, top, DETECT).await;
        assert_eq!(write(task, &user, past, &[0; 2]).await.unwrap_err().kind(), Kind::OutOfRange);
    });
    world.end();
}

#[test]
fn a_node_that_ignores_discards_gives_no_space_back() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = instant_disk();
        let mut opening = Opening::new(task);
        let device = Scripted::device("disk", &Script::default(), disk.clone());
        let node = opening.add(crate::fixture::node("disk", device, disk.len(), Vec::new())).unwrap();
        insert(task, opening).await.unwrap();
        let user = attach_writer(task, node, "user").await.unwrap();
        let unmap = ZeroFlags { may_unmap: true, ..ZeroFlags::default() };
        for (policy, keeps) in [(IGNORE, true), (NodePolicy::default(), false)] {
            set(task, node, policy).await;
            write(task, &user, 0, &[1; 8192]).await.unwrap();
            task.enter(&user).await.discard(at(0, 4096)).await.unwrap();
            assert_eq!(is_stored(&disk, 0), keeps);
            task.enter(&user).await.write_zeroes(at(4096, 4096), unmap).await.unwrap();
            assert_eq!(disk.image().bytes(4096..8192), vec![0; 4096]);
            assert_eq!(is_stored(&disk, 4096), keeps);
        }
    });
    world.end();
}

#[test]
fn a_policy_and_a_memory_change_with_the_plan_or_not_at_all() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let (_, bottom, _user) = pair(task, &Script::default(), &instant_disk()).await.unwrap();
        let memory = |task: &Task<'_>| {
            let memo = task.gs().with(|graph| graph.view(bottom)?.memo().cloned());
            memo.map(|memo| memo.downcast_ref::<Cell<u8>>().unwrap().get())
        };
        let policy = |task: &Task<'_>| task.gs().with(|graph| graph.node_handle(bottom).unwrap().policy());
        let draft = |value: u8| {
            let mut plan = Plan::new();
            plan.set_policy(bottom, DETECT);
            plan.remember(bottom, Rc::new(Cell::new(value)));
            plan
        };
        let mut refused = draft(1);
        refused.remove(bottom);
        assert!(task.apply(refused).await.is_err());
        assert_eq!((memory(task), policy(task)), (None, NodePolicy::default()));
        let plan = draft(2);
        assert!(plan.memo(task.gs(), bottom).is_some(), "what is planned is seen");
        task.apply(plan).await.unwrap();
        assert_eq!((memory(task), policy(task)), (Some(2), DETECT));
    });
    world.end();
}

#[test]
fn a_plan_is_extended_on_the_nodes_that_it_brings_in() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
        let mut plan = Plan::new();
        let mut below = disk;
        for name in ["one", "two"] {
            let mut opening = plan.resume(task);
            let top = overlay(&mut opening, name, instant_disk(), Some(below)).unwrap();
            assert_eq!(opening.find(name).unwrap(), top);
            plan.insert(opening);
            plan.replace(below, top);
            assert_eq!(plan.find(task.gs(), name).unwrap(), top);
            assert!(plan.children(task.gs(), top).contains(&(ChildKey::Backing, below)));
            below = top;
        }
        assert_eq!(plan.find(task.gs(), "disk").unwrap(), disk);
        assert!(task.gs().find("two").is_err());
        task.apply(plan).await.unwrap();
        assert_eq!(task.gs().with(|graph| graph.parents_of(disk)), ["one"]);
    });
    world.end();
}

#[test]
fn nodes_that_were_taken_out_of_a_plan_and_not_given_back_are_missed() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
        let mut opening = Opening::new(task);
        let top = overlay(&mut opening, "top", instant_disk(), Some(disk)).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(disk, top);
        plan.resume(task).close().await;
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::NotFound);
        assert!(task.gs().find("top").is_err());
    });
    world.end();
}

#[test]
fn an_overlay_has_to_be_free_and_without_a_backing_image() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
        let mut opening = Opening::new(task);
        let top = overlay(&mut opening, "top", instant_disk(), Some(disk)).unwrap();
        let free = overlay(&mut opening, "free", instant_disk(), None).unwrap();
        insert(task, opening).await.unwrap();
        let fault = |task: &Task<'_>, node, demand| {
            let asked = task.gs().with(|graph| graph.demand(node, demand));
            asked.err().map(|error| (error.kind(), error.report()))
        };
        assert_eq!(fault(task, free, Demand::NoUser), None);
        assert_eq!(fault(task, free, Demand::NoBacking), None);
        assert_eq!(fault(task, top, Demand::NoBacking).unwrap().0, Kind::InvalidInput);
        assert!(fault(task, disk, Demand::NoUser).unwrap().1.contains("node 'top'"));
        let _user = attach_writer(task, free, "user").await.unwrap();
        assert!(fault(task, free, Demand::NoUser).unwrap().1.contains("'user'"));
        // A demand is asked of what the steps before it have made.
        let mut plan = Plan::new();
        plan.set_child(free, ChildKey::Backing, disk, Role::COW);
        plan.demand(free, Demand::NoBacking);
        assert!(task.apply(plan).await.is_err());
    });
    world.end();
}

#[test]
fn a_node_that_is_held_is_read_with_nobody_inside() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let (top, _, user) = pair(task, &Script::default(), &instant_disk()).await.unwrap();
        write(task, &user, 0, b"held").await.unwrap();
        let mut plan = Plan::new();
        plan.hold(top);
        let checked = plan.check(task.gs()).map_err(|(_, error)| error).unwrap();
        assert_eq!(checked.quiet_nodes(), [top]);
        let staged = task.stage(checked).await.unwrap();
        let change = task.admit(staged).await.unwrap();
        let buf = change.private(top).unwrap().io().read_new(GuestOffset::ZERO, 4).await.unwrap();
        assert_eq!(buf.as_slice(), b"held");
        change.settle().await.unwrap().commit().finish().await;
        write(task, &user, 0, b"free").await.unwrap();
    });
    world.end();
}
