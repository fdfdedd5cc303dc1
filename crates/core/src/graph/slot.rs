//! [`Slot`]: what only a change may write and only a request inside may read, without a lock.
//!
//! The edges of the graph are such slots. A request reads them while it is inside a gate from which the slot's owner is
//! reached; a change writes them when the owner is quiet, which means that nobody is inside such a gate. The gate's
//! counts (released by `leave`, acquired by `is_quiet`) and its closed count (released by `set_closed`, acquired by
//! `try_enter`) order the two; `tests/loom` explores that.
//!
//! The crate keeps two promises that make the unsafe code here sound: a [`Presence`] is only used on slots of nodes that
//! were reached from its own root (`Io::child` is the only step from node to node), and an [`Excluded`] is only used on
//! slots whose reaching gates it was made from (`control::commit`).
#![expect(unsafe_code, reason = "a cell whose exclusion is the gate protocol")]

use crate::graph::gate::Gate;
use crate::request::presence::Presence;
use crate::sync::UnsafeCell;

/// A value that is read under a presence and written under quiescence.
pub(crate) struct Slot<T>(UnsafeCell<T>);

// SAFETY: references handed out by `get` move to no other thread than `&T` may (T: Sync), values put in and taken out by
// `replace` cross threads (T: Send); exclusion of the two is the gate protocol.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

/// Proof that nobody is inside any gate from which certain nodes are reached, nor can enter while the proof is borrowed.
pub(crate) struct Excluded(());

impl Excluded {
    /// Looks at every gate from which the slots that will be written are reached.
    ///
    /// # Panics
    /// If one is open or somebody is inside: the change would write edges under a running request. Control thread only,
    /// which is also the only one that opens gates.
    pub(crate) fn assert<'g>(gates: impl IntoIterator<Item = &'g Gate>) -> Self {
        for gate in gates {
            assert!(gate.is_closed(), "a change writes an edge that an open gate reaches");
            assert!(gate.is_quiet(), "a change writes an edge that a running request can reach");
        }
        Self(())
    }
}

impl<T> Slot<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The value, for a request that is inside.
    pub(crate) fn get<'t>(&'t self, _inside: &'t Presence) -> &'t T {
        self.0.with(|value| {
            // SAFETY: the presence keeps a gate that reaches this slot busy for `'t`, so no `replace` runs (its proof
            // asserts that these gates are idle and closed), and nobody else writes.
            unsafe { &*value }
        })
    }

    /// Puts `value` in and returns what was there.
    pub(crate) fn replace(&self, _proof: &Excluded, value: T) -> T {
        self.0.with_mut(|slot| {
            // SAFETY: the proof: nobody reads the slot now, and the control thread is the only writer.
            unsafe { std::mem::replace(&mut *slot, value) }
        })
    }
}
