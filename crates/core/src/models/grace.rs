//! Grace periods: space that was freed is not used again while a request that found it is inside.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread;

use super::{A, B, Guarded, explore, join};
use crate::graph::gate::{Gate, Moment};
use crate::runtime::Shard;
use crate::sync::lock;

/// A piece of space that requests find through a table.
struct Space {
    gate: Gate,
    is_mapped: Mutex<bool>,
    bytes: Guarded,
}

impl Space {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: Gate::new(3, 0), is_mapped: Mutex::new(true), bytes: Guarded::new() })
    }

    /// A request: looks the space up, and uses it a little later.
    fn read(&self, shard: Shard) {
        let Some(side) = self.gate.try_enter(shard) else { return };
        let found = *lock(&self.is_mapped);
        if found {
            self.bytes.read();
        }
        self.gate.leave(shard, side);
    }

    fn unmap(&self) -> Moment {
        *lock(&self.is_mapped) = false;
        self.gate.moment()
    }

    /// Uses the space for something else if that is allowed.
    fn use_again(&self, freed: Moment) -> bool {
        let has_passed = self.gate.has_passed(freed);
        if has_passed {
            self.bytes.write();
        }
        has_passed
    }
}

/// Two threads read while a third frees what they read, and asks for it again.
pub fn freed_space_waits_for_requests_that_found_it() {
    explore(5, || {
        let space = Space::new();
        let threads = [A, B].map(|shard| {
            let space = Arc::clone(&space);
            thread::spawn(move || space.read(shard))
        });
        let freed = space.unmap();
        let early = space.use_again(freed);
        join(threads);
        assert!(early || space.use_again(freed), "everybody has left");
    });
}

/// One frees from inside a request of its own (as a discard does), another asks with the stamp that it was given, and a
/// third advances the phase for a reason of its own.
pub fn whoever_asks_gets_the_same_answer() {
    explore(3, || {
        let space = Space::new();
        let (reader, other) = (Arc::clone(&space), Arc::clone(&space));
        let threads = [
            thread::spawn(move || reader.read(A)),
            thread::spawn(move || {
                let moment = other.gate.moment();
                other.gate.has_passed(moment);
            }),
        ];
        let Some(side) = space.gate.try_enter(B) else { return };
        let freed = space.unmap();
        assert!(!space.gate.has_passed(freed), "the request that frees is inside itself");
        space.gate.leave(B, side);
        space.use_again(freed);
        join(threads);
    });
}

/// Requests that overlap without a pause do not keep a grace period from ending.
pub fn continuous_traffic_does_not_hold_up_a_grace_period() {
    explore(6, || {
        let space = Space::new();
        let busy = Arc::clone(&space);
        let thread = thread::spawn(move || {
            let mut inside = busy.gate.try_enter(A);
            for _ in 0..2 {
                let next = busy.gate.try_enter(A);
                if let Some(side) = std::mem::replace(&mut inside, next) {
                    busy.gate.leave(A, side);
                }
            }
            inside
        });
        let freed = space.unmap();
        space.use_again(freed);
        let Some(last) = thread.join().ok().flatten() else { return };
        // The last one is inside for ever; it had begun after the others, and each advance needs only these to be gone.
        let late = space.gate.moment();
        assert!(!space.gate.has_passed(late));
        space.gate.leave(A, last);
        assert!(space.gate.has_passed(freed));
        assert!(space.gate.has_passed(late));
    });
}

/// Requests that were admitted when a gate opened count, too.
pub fn admitted_requests_hold_up_a_grace_period() {
    explore(6, || {
        let space = Arc::new((Arc::new(Gate::new(2, 1)), Mutex::new(true), Guarded::new()));
        let waits = Arc::clone(&space);
        let thread = thread::spawn(move || {
            let (gate, is_mapped, bytes) = &*waits;
            let side = loom::future::block_on(crate::graph::gate::Enter::new(Arc::clone(gate), A));
            if *lock(is_mapped) {
                bytes.read();
            }
            gate.leave(A, side);
        });
        let (gate, is_mapped, bytes) = &*space;
        gate.set_closed(0);
        *lock(is_mapped) = false;
        let freed = gate.moment();
        if gate.has_passed(freed) {
            bytes.write();
        }
        join([thread]);
        assert!(gate.has_passed(freed));
    });
}
