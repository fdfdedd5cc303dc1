//! Grace periods: "every request that began before now has ended", for those who free space.
//!
//! A node knows the gates from which it is reached (recomputed by commits). A [`Stamp`] is a moment of each; it has passed
//! when all of them have. Asking never waits: freed space stays in quarantine until somebody asks and the answer is yes.

use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use crate::graph::gate::{Gate, Moment};

/// The gates that reach one node.
#[derive(Default)]
pub(crate) struct Grace {
    gates: Mutex<Vec<Arc<Gate>>>,
}

/// A moment in the life of a node. Kept with freed space; see [`Stamp::has_passed`].
pub struct Stamp(SmallVec<[(Arc<Gate>, Moment); 2]>);

impl Grace {
    /// A commit has changed who reaches the node.
    pub(crate) fn set_gates(&self, gates: Vec<Arc<Gate>>) {
        *self.gates.lock().unwrap_or_else(PoisonError::into_inner) = gates;
    }

    /// Shows every gate that reaches the node.
    pub(crate) fn each_gate(&self, mut show: impl FnMut(&Arc<Gate>)) {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(&mut show);
    }

    /// This moment. A gate that comes to reach the node later does not matter: its requests begin later.
    pub(crate) fn stamp(&self) -> Stamp {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Stamp(gates.iter().map(|gate| (Arc::clone(gate), gate.moment())).collect())
    }
}

impl Stamp {
    /// Whether every request that had begun before the stamp was taken has ended. Any thread; never waits.
    pub fn has_passed(&mut self) -> bool {
        self.0.retain(|(gate, moment)| !gate.has_passed(*moment));
        self.0.is_empty()
    }
}
