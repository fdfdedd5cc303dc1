//! Models of what threads share without locks, for `tests/loom`. Each function explores every order of its threads' steps,
//! up to a number of preemptions, and what each load may see; it panics where an assertion fails, two accesses to a cell
//! race, or somebody waits for ever.
//!
//! | module | promise |
//! |---|---|
//! | `gate` | a drain ends, nobody is inside then, and nobody waits for ever at a gate that opens |
//! | `grace` | what is freed is not used again while a request that knows of it is inside |
//! | `slot` | an edge is not written while a request reads it |
//! | `bitmap` | a write that has ended is in what is harvested of a bitmap's marks |
//! | `flush` | a flush that does nothing has nothing to do |

mod bitmap;
mod flush;
mod gate;
mod grace;
mod slot;

pub use bitmap::*;
pub use flush::*;
pub use gate::*;
pub use grace::*;
pub use slot::*;

use std::future::poll_fn;

use loom::cell::UnsafeCell;
use loom::future::block_on;
use loom::model::Builder;
use loom::thread::JoinHandle;

use crate::graph::gate::{Gate, Side};
use crate::runtime::Shard;

const A: Shard = Shard::new(0);
const B: Shard = Shard::new(1);

/// Explores `program` with at most `preemptions` switches away from a thread that could go on.
fn explore(preemptions: usize, program: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(program);
}

/// Waits until all threads have ended.
fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        assert!(thread.join().is_ok());
    }
}

/// Waits until nobody is inside.
fn drain(gate: &Gate) {
    block_on(poll_fn(|cx| gate.poll_quiet(cx)));
}

/// Something that requests look at and a change rewrites.
struct Guarded(UnsafeCell<u32>);

#[expect(unsafe_code, reason = "the very thing that loom checks")]
impl Guarded {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn read(&self) -> u32 {
        // SAFETY: loom panics if a write is not ordered with this read.
        self.0.with(|value| unsafe { *value })
    }

    fn write(&self) {
        // SAFETY: loom panics if another access is not ordered with this write.
        self.0.with_mut(|value| unsafe { *value += 1 });
    }
}

// SAFETY: loom panics if the accesses race.
#[expect(unsafe_code, reason = "the very thing that loom checks")]
unsafe impl Sync for Guarded {}

/// A request by somebody who takes the gate's first answer: it looks twice at what must not change meanwhile.
fn request(gate: &Gate, shard: Shard, guarded: &Guarded) {
    if let Some(side) = gate.try_enter(shard) {
        inside(gate, shard, side, guarded);
    }
}

fn inside(gate: &Gate, shard: Shard, side: Side, guarded: &Guarded) {
    let first = guarded.read();
    assert_eq!(guarded.read(), first);
    gate.leave(shard, side);
}
