//! Gates: entering, leaving, closing, opening, waiting, and giving up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::thread;

use super::{A, B, Guarded, drain, explore, inside, join, request};
use crate::graph::gate::{Enter, Gate};
use crate::runtime::Shard;

type Shared = Arc<(Gate, Guarded)>;

fn shared(closed: u32) -> Shared {
    Arc::new((Gate::new(2, closed), Guarded::new()))
}

/// Closes, waits, changes, opens.
fn change((gate, guarded): &(Gate, Guarded)) {
    gate.set_closed(1);
    drain(gate);
    guarded.write();
    gate.set_closed(0);
}

/// Requests of two threads that do not wait meet a change.
pub fn a_change_has_what_it_changes_to_itself() {
    explore(4, || {
        let shared = shared(0);
        let threads = [A, B].map(|shard| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || request(&shared.0, shard, &shared.1))
        });
        change(&shared);
        join(threads);
        assert!(shared.0.is_idle());
    });
}

/// A gate with its future's counted handle.
struct Waiting {
    gate: Arc<Gate>,
    guarded: Arc<Guarded>,
}

impl Waiting {
    fn new(closed: u32) -> Arc<Self> {
        Arc::new(Self { gate: Arc::new(Gate::new(2, closed)), guarded: Arc::new(Guarded::new()) })
    }

    fn enter(&self, shard: Shard) {
        let side = block_on(Enter::new(Arc::clone(&self.gate), shard));
        inside(&self.gate, shard, side, &self.guarded);
    }

    /// Asks once, and gives up if that was not enough.
    fn try_wait(&self, shard: Shard) {
        let mut enter = Enter::new(Arc::clone(&self.gate), shard);
        if let Poll::Ready(side) = Pin::new(&mut enter).poll(&mut Context::from_waker(Waker::noop())) {
            inside(&self.gate, shard, side, &self.guarded);
        }
    }

    fn change(&self) {
        self.gate.set_closed(1);
        drain(&self.gate);
        self.guarded.write();
        self.gate.set_closed(0);
    }
}

/// Whoever waits at a gate gets in when it opens.
pub fn nobody_is_forgotten_at_a_gate() {
    explore(3, || {
        let all = Waiting::new(0);
        let threads = [A, B].map(|shard| {
            let all = Arc::clone(&all);
            thread::spawn(move || all.enter(shard))
        });
        all.change();
        join(threads);
        assert!(all.gate.is_idle());
    });
}

/// One who gives up takes nobody's place along, and counts for nothing.
pub fn giving_up_at_a_gate_hurts_nobody() {
    explore(3, || {
        let all = Waiting::new(0);
        let (one, two) = (Arc::clone(&all), Arc::clone(&all));
        let threads = [thread::spawn(move || one.try_wait(A)), thread::spawn(move || two.enter(B))];
        all.change();
        join(threads);
        assert!(all.gate.is_idle());
    });
}

/// A gate that opens and closes again at once has admitted who waited, and the next drain waits for them.
pub fn a_gate_that_closes_again_at_once_has_admitted_who_waited() {
    explore(6, || {
        let all = Waiting::new(1);
        let one = Arc::clone(&all);
        let thread = thread::spawn(move || one.enter(A));
        all.gate.set_closed(0);
        all.change();
        join([thread]);
        assert!(all.gate.is_idle());
    });
}

/// Sections nest: the gate opens with the last of them, whatever happens in between.
pub fn nested_sections_keep_the_gate_closed_until_the_last_ends() {
    explore(2, || {
        let all = Waiting::new(0);
        let threads = [A, B].map(|shard| {
            let all = Arc::clone(&all);
            thread::spawn(move || all.enter(shard))
        });
        let gate = &all.gate;
        gate.set_closed(1);
        gate.set_closed(2);
        drain(gate);
        gate.set_closed(1);
        drain(gate);
        all.guarded.write();
        gate.set_closed(0);
        join(threads);
    });
}

/// Two drains that overlap wait for the same request: both are woken.
pub fn every_drainer_is_woken() {
    explore(3, || {
        let all = Waiting::new(0);
        let Some(side) = all.gate.try_enter(A) else { return };
        all.gate.set_closed(2);
        let drainers = [(), ()].map(|()| {
            let all = Arc::clone(&all);
            thread::spawn(move || drain(&all.gate))
        });
        all.gate.leave(A, side);
        join(drainers);
    });
}

/// A gate that is born closed lets nobody in before it is opened, and everybody then.
pub fn a_gate_can_be_born_closed() {
    explore(4, || {
        let all = Waiting::new(1);
        let threads = [A, B].map(|shard| {
            let all = Arc::clone(&all);
            thread::spawn(move || all.enter(shard))
        });
        assert!(all.gate.is_idle() || all.gate.closed_count() == 1);
        drain(&all.gate);
        all.guarded.write();
        all.gate.set_closed(0);
        join(threads);
    });
}

/// A sub-task keeps a drain waiting after the request that it was forked from has left, though the gate is closed.
pub fn a_fork_is_inside_like_its_parent() {
    explore(6, || {
        let shared = shared(0);
        let parent = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (gate, guarded) = &*parent;
            let Some(side) = gate.try_enter(A) else { return };
            let child = gate.fork(A, side);
            inside(gate, A, side, guarded);
            inside(gate, A, child, guarded);
        });
        change(&shared);
        join([thread]);
        assert!(shared.0.is_idle());
    });
}
