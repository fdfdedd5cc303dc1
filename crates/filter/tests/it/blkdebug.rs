//! `blkdebug` between a user and a disk: what fails, what is held, and what a drain does with that.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{GuestOffset, GuestRange};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::{NodeFacts, ZeroFlags};
use drystone_core::graph::node::{ChildKey, Node, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::event::Event;
use drystone_core::request::io::HOLD_NS_MAX;
use drystone_core::runtime::yield_now;
use drystone_filter::blkdebug::rules::{InjectError, Kinds, Rule};
use drystone_filter::blkdebug::{BlkDebug, BlkDebugOptions, Limits};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};
use drystone_testkit::graph::{SimDriver, SimGraph};
use drystone_testkit::sim::Sim;

use crate::chain::{on_io, read, write};

const LEN: u64 = 64 << 10;

/// The filter on a disk, and a user that writes.
struct Debugged {
    node: NodeId,
    filter: Arc<Node>,
    backend: Backend<ReadWrite>,
}

fn debugged(graph: &SimGraph<'_>, options: BlkDebugOptions) -> Debugged {
    let disk = SimDisk::new(Image::new(LEN), DiskOptions::seeded(1));
    let (node, filter, backend) = graph.call(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = opening.add(SimDriver::node("disk", &disk)).unwrap();
        let new = NewNode {
            name: Some("debug".to_owned()),
            driver: Box::new(BlkDebug::new(options)),
            facts: NodeFacts { len: LEN, request_alignment: 1, read_only: false },
            children: vec![(ChildKey::File, Role::FILTER_CHILD, disk)],
            owned: false,
            force_share: false,
        };
        let node = opening.add(new).unwrap();
        let filter = opening.node(node).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        let grant = Grant { perm: Perm::CONSISTENT_READ.with(Perm::WRITE), shared: Perm::ALL };
        let spec = RootSpec { name: "user".to_owned(), grant, stays: false };
        let backend = plan.attach_root(task.gs(), node, spec);
        task.apply(plan).await.unwrap();
        (node, filter, backend)
    });
    Debugged { node, filter, backend }
}

impl Debugged {
    fn debug(&self) -> &BlkDebug {
        self.filter.driver_as().unwrap()
    }

    /// Starts a write on an I/O thread; whether it has worked, once it has ended.
    fn begin_write(&self, sim: &Sim) -> Rc<RefCell<Option<bool>>> {
        let (done, backend) = (Rc::new(RefCell::new(None)), self.backend.clone());
        let (says, mut lane) = (Rc::clone(&done), Lane::new(sim.io(1)));
        sim.spawn(&sim.io(1), "writer", async move {
            let result = write(&mut lane, &backend, 0, 7, 512).await;
            *says.borrow_mut() = Some(result.is_ok());
        });
        done
    }

    /// Waits until a breakpoint holds the write, and drains if that is wanted.
    fn wait_until_held(&self, graph: &SimGraph<'_>, tag: &'static str, drains: bool) {
        let (filter, node) = (Arc::clone(&self.filter), self.node);
        graph.call(async move |task: &mut Task<'_>| {
            filter.driver_as::<BlkDebug>().unwrap().wait_until_held(tag).await;
            if drains {
                drop(task.drain(&[node]).await);
            }
            for _ in 0..100 {
                yield_now().await;
            }
        });
    }
}

#[test]
fn a_held_request_waits_until_it_is_resumed() {
    let sim = Sim::seeded(1);
    let graph = SimGraph::start(&sim);
    let debugged = debugged(&graph, BlkDebugOptions::default());
    debugged.debug().set_breakpoint("pwritev", "a").unwrap();
    let done = debugged.begin_write(&sim);
    debugged.wait_until_held(&graph, "a", false);
    assert_eq!(*done.borrow(), None, "it is held");
    debugged.debug().resume("a").unwrap();
    assert!(debugged.debug().resume("a").is_err());
    let before_ns = sim.now_ns();
    sim.run_until(|| done.borrow().is_some()).unwrap();
    assert_eq!(*done.borrow(), Some(true));
    assert!(sim.now_ns() - before_ns < HOLD_NS_MAX);
}

#[test]
fn a_drain_lets_a_held_request_go_on_and_loses_nothing_of_it() {
    let sim = Sim::seeded(1);
    let graph = SimGraph::start(&sim);
    let debugged = debugged(&graph, BlkDebugOptions::default());
    debugged.debug().set_breakpoint("pwritev", "a").unwrap();
    debugged.debug().set_breakpoint("pwritev_done", "b").unwrap();
    let done = debugged.begin_write(&sim);
    debugged.wait_until_held(&graph, "a", true);
    assert_eq!(*done.borrow(), Some(true), "also past a breakpoint that it comes to during the drain");
    assert!(sim.now_ns() < HOLD_NS_MAX, "nobody has waited for a clock");
    assert!(debugged.debug().resume("a").is_err(), "nothing is held any more");
    let bytes = on_io(&sim, async |lane| {
        read(lane, &debugged.backend, GuestRange::new(GuestOffset::ZERO, 512)).await
    });
    assert_eq!(bytes.unwrap(), [7; 512]);
}

#[test]
fn a_breakpoint_holds_for_a_minute_at_most() {
    let sim = Sim::seeded(1);
    let graph = SimGraph::start(&sim);
    let debugged = debugged(&graph, BlkDebugOptions::default());
    debugged.debug().set_breakpoint("pwritev", "a").unwrap();
    let done = debugged.begin_write(&sim);
    sim.run_until(|| done.borrow().is_some()).unwrap();
    assert_eq!(*done.borrow(), Some(true));
    assert!(sim.now_ns() >= HOLD_NS_MAX);
}

#[test]
fn a_rule_fails_a_request_before_it_reaches_the_disk() {
    let sim = Sim::seeded(1);
    let graph = SimGraph::start(&sim);
    let rule = InjectError {
        event: Event::None,
        state: 0,
        kinds: Kinds::WRITE,
        errno: 28,
        offset: None,
        once: true,
    };
    let options = BlkDebugOptions { rules: vec![Rule::InjectError(rule)], ..BlkDebugOptions::default() };
    let debugged = debugged(&graph, options);
    on_io(&sim, async |lane: &mut Lane| {
        let first = GuestRange::new(GuestOffset::ZERO, 512);
        assert_eq!(write(lane, &debugged.backend, 0, 7, 512).await.unwrap_err().errno(), 28);
        assert_eq!(read(lane, &debugged.backend, first).await.unwrap(), [0; 512]);
        write(lane, &debugged.backend, 0, 7, 512).await.unwrap();
        assert_eq!(read(lane, &debugged.backend, first).await.unwrap(), [7; 512]);
    });
}

#[test]
fn aligned_requests_keep_the_bytes_around_what_is_written() {
    let sim = Sim::seeded(1);
    let graph = SimGraph::start(&sim);
    let limits = Limits {
        align: 4096,
        max_transfer: 8192,
        opt_write_zero: 8192,
        max_write_zero: 16384,
        opt_discard: 8192,
        max_discard: 16384,
    };
    limits.check().unwrap();
    let debugged = debugged(&graph, BlkDebugOptions { limits, ..BlkDebugOptions::default() });
    on_io(&sim, async |lane: &mut Lane| {
        let mut model = vec![0_u8; usize::try_from(LEN).unwrap()];
        let spans = [(3, 5), (4090, 20), (0, 20_000), (12_000, 4096), (LEN - 100, 100), (8191, 16_386)];
        for (n, (at, len)) in spans.into_iter().enumerate() {
            let (from, to) = (usize::try_from(at).unwrap(), usize::try_from(at + len).unwrap());
            if n % 3 == 2 {
                model[from..to].fill(0);
                let range = GuestRange::new(GuestOffset::new(at), len);
                lane.enter(&debugged.backend).await.write_zeroes(range, ZeroFlags::default()).await.unwrap();
            } else {
                let byte = u8::try_from(n + 1).unwrap();
                model[from..to].fill(byte);
                write(lane, &debugged.backend, at, byte, to - from).await.unwrap();
            }
            let range = GuestRange::new(GuestOffset::new(1), LEN - 1);
            assert!(read(lane, &debugged.backend, range).await.unwrap() == model[1..], "after {n}");
        }
    });
}

#[test]
fn limits_that_exclude_each_other_are_refused_by_name() {
    let fault = |limits: Limits| limits.check().unwrap_err().report();
    let none = Limits::default();
    assert!(fault(Limits { align: 3, ..none }).contains("option 'align'"));
    assert!(fault(Limits { align: 1 << 32, ..none }).contains("option 'align'"));
    assert!(fault(Limits { align: 4096, max_transfer: 512, ..none }).contains("option 'max-transfer'"));
    assert!(fault(Limits { opt_discard: 1024, max_discard: 512, ..none }).contains("option 'max-discard'"));
}
