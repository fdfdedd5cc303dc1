//! Grace periods as drivers see them: a stamp has passed when every request has ended that had begun before it.

use std::sync::{Arc, Mutex};

use drystone_base::{GuestRange, HostOffset, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::driver::{Access, Driver, Extent, Place, Tail};
use drystone_core::graph::grace::Stamp;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::role::Role;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

use crate::fixture::{LEN, node};
use crate::scripted::Script;
use crate::world::{
    Event, SHARING_WRITER, World, add_device, at, attach, detach, fill, insert, insert_device,
};

/// A filter that takes a stamp with every discard.
#[derive(Clone, Default)]
struct Frees(Arc<Mutex<Vec<Stamp>>>);

impl Frees {
    /// How many stamps have not passed.
    fn waiting(&self) -> usize {
        let mut stamps = self.0.lock().unwrap();
        stamps.iter_mut().map(|stamp| usize::from(!stamp.has_passed())).sum()
    }
}

impl Driver for Frees {
    fn format_name(&self) -> &'static str {
        "frees"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        let at = HostOffset::new(range.start().get());
        let place = Place::Child { child: ChildKey::File, at, tail: Tail::Zeroes, transparent: true };
        Ok(Extent { len: range.len(), place })
    }

    fn discard<'a>(&'a self, io: Io<'a>, _range: GuestRange) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.lock().unwrap().push(io.grace_stamp());
            Ok(())
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }
}

/// A node that frees, in the graph, and how many users it has.
fn freeing(world: &World, users: usize) -> (Frees, NodeId, Vec<Backend<ReadWrite>>) {
    let frees = Frees::default();
    let driver = frees.clone();
    let (id, backends) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "disk", &Script::default()).unwrap();
        let children = vec![(ChildKey::File, Role::FILTER_CHILD, disk)];
        let id = opening.add(node("top", driver, LEN, children)).unwrap();
        insert(task, opening).await.unwrap();
        let mut backends = Vec::new();
        for index in 0..users {
            backends.push(attach(task, id, &format!("user {index}"), SHARING_WRITER).await.unwrap());
        }
        (id, backends)
    });
    (frees, id, backends)
}

/// A request that is inside until it may leave.
fn stay_inside(world: &World, backend: &Backend<ReadWrite>) -> Event {
    let (inside, leave) = (Event::default(), Event::default());
    let (says, may_leave, user) = (inside.clone(), leave.clone(), backend.clone());
    world.spawn_io(2, "inside", async move |lane| {
        let ticket = lane.enter(&user).await;
        says.set();
        may_leave.wait().await;
        drop(ticket);
    });
    world.sim.run_until(|| inside.is_set()).unwrap();
    leave
}

fn free(world: &World, backend: &Backend<ReadWrite>) {
    world.on_io(async |lane| lane.enter(backend).await.discard(at(0, 512)).await.unwrap());
}

#[test]
fn a_stamp_passes_when_the_requests_of_every_user_have_ended() {
    let world = World::new(1);
    let (frees, _, backends) = freeing(&world, 3);
    let leaves: Vec<Event> = backends.iter().map(|backend| stay_inside(&world, backend)).collect();
    free(&world, &backends[0]);
    for leave in &leaves {
        assert_eq!(frees.waiting(), 1);
        leave.set();
        world.sim.settle().unwrap();
    }
    assert_eq!(frees.waiting(), 0);
    free(&world, &backends[0]);
    assert_eq!(frees.waiting(), 0, "nobody is inside");
}

#[test]
fn requests_that_begin_later_are_not_waited_for() {
    let world = World::new(1);
    let (frees, _, backends) = freeing(&world, 1);
    let early = stay_inside(&world, &backends[0]);
    free(&world, &backends[0]);
    assert_eq!(frees.waiting(), 1);
    let mut later = stay_inside(&world, &backends[0]);
    early.set();
    world.sim.settle().unwrap();
    let mut rounds = 0;
    while frees.waiting() > 0 {
        // There is always somebody inside, but never the same for long.
        let next = stay_inside(&world, &backends[0]);
        later.set();
        world.sim.settle().unwrap();
        later = next;
        rounds += 1;
        assert!(rounds < 4);
    }
    later.set();
}

/// The user that is inside is taken out of the graph, others come, the node is replaced: the stamp waits for whoever was
/// there when it was taken.
#[test]
fn a_stamp_outlives_the_users_that_it_is_about() {
    let world = World::new(1);
    let (frees, top, backends) = freeing(&world, 2);
    let leave = stay_inside(&world, &backends[1]);
    free(&world, &backends[0]);
    let gone = backends[0].clone();
    world.on_control(async move |task: &mut Task<'_>| {
        detach(task, &gone).await.unwrap();
        attach::<ReadWrite>(task, top, "late", SHARING_WRITER).await.unwrap();
    });
    assert_eq!(frees.waiting(), 1);
    let root = backends[1].id();
    let moved = Event::default();
    let says = moved.clone();
    world.control.spawn(async move |task: &mut Task<'_>| {
        let other = insert_device(task, "other", &Script::default()).await.unwrap();
        let mut plan = Plan::new();
        plan.move_root(root, other);
        task.apply(plan).await.unwrap();
        says.set();
    });
    world.sim.settle().unwrap();
    assert!(!moved.is_set() && frees.waiting() == 1);
    leave.set();
    world.sim.settle().unwrap();
    assert!(moved.is_set() && frees.waiting() == 0);
    // The user that has moved away does not hold up what is freed from now on.
    let elsewhere = stay_inside(&world, &backends[1]);
    let late = world.on_control(async move |task: &mut Task<'_>| {
        attach::<ReadWrite>(task, top, "latest", SHARING_WRITER).await.unwrap()
    });
    free(&world, &late);
    assert_eq!(frees.waiting(), 0);
    elsewhere.set();
}

/// Users that reach the node through layers above it count as well, those beside it do not.
#[test]
fn a_node_is_reached_from_every_user_above_it() {
    let world = World::new(1);
    let (frees, top, backends) = freeing(&world, 1);
    let (above, beside) = world.on_control(async move |task: &mut Task<'_>| {
        let script = Script::default();
        let mut opening = Opening::new(task);
        let one = crate::world::add_filter(&mut opening, "one", &script, top).unwrap();
        let two = crate::world::add_filter(&mut opening, "two", &script, one).unwrap();
        insert(task, opening).await.unwrap();
        let above = attach::<ReadWrite>(task, two, "above", SHARING_WRITER).await.unwrap();
        let disk = task.gs().find("disk").unwrap();
        (above, attach::<ReadWrite>(task, disk, "beside", SHARING_WRITER).await.unwrap())
    });
    let leaves = [stay_inside(&world, &above), stay_inside(&world, &beside)];
    free(&world, &backends[0]);
    assert_eq!(frees.waiting(), 1);
    leaves[0].set();
    world.sim.settle().unwrap();
    assert_eq!(frees.waiting(), 0);
    leaves[1].set();
}

#[test]
fn stamps_pass_under_load_and_drains() {
    for seed in 0..50 {
        let world = World::new(seed);
        let (frees, top, backends) = freeing(&world, 2);
        for (thread, backend) in (1..).zip(&backends) {
            let user = backend.clone();
            world.spawn_io(thread, "works", async move |lane| {
                for _ in 0..10 {
                    fill(lane, &user, at(0, 512), 1).await.unwrap();
                    lane.enter(&user).await.discard(at(0, 512)).await.unwrap();
                }
            });
        }
        world.on_control(async move |task: &mut Task<'_>| {
            for _ in 0..3 {
                drop(task.drain(&[top]).await);
            }
        });
        drop(backends);
        world.end();
        assert_eq!(frees.waiting(), 0);
    }
}
