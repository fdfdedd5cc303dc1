//! [`Quiet`]: no request is in flight below any root that reaches certain nodes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use drystone_base::{Error, Kind, Result};

use crate::control::gs::Inner;
use crate::control::patience::hurrying;
use crate::graph::gate::Gate;
use crate::graph::node::NodeId;
use crate::graph::shape::{Place, Shape};
use crate::waits::{Rank, Waiting};

/// The quiet sections that one task has begun and that last. Clones are the same list.
///
/// Whoever enters below its own section would wait for itself.
#[derive(Clone, Default)]
pub(crate) struct Sections(Rc<RefCell<Vec<Listed>>>);

struct Listed {
    id: u64,
    places: Vec<Place>,
}

/// Why a task cannot enter.
pub(crate) const OWN_SECTION: &str =
    "the task keeps the node quiet, and would wait for the end of its own section";

impl Sections {
    /// Fails if one of the sections keeps `gate` closed.
    pub(crate) fn demand_open(&self, inner: &Inner, gate: &Arc<Gate>) -> Result<()> {
        let sections = self.0.borrow();
        if sections.is_empty() {
            return Ok(());
        }
        let places = sections.iter().flat_map(|listed| listed.places.iter().copied());
        let closes = inner.shape.borrow().gates_above(places);
        match closes.list().iter().any(|closed| Arc::ptr_eq(closed, gate)) {
            true => Err(Error::new(Kind::InvalidInput, OWN_SECTION)),
            false => Ok(()),
        }
    }
}

/// Proof that some nodes are quiet; they are until it is dropped. Sections nest and overlap. Lends nothing.
///
/// It does not say that what was written is on stable storage: a drain does not flush. Dropping it never waits; it
/// admits everybody who waited, in order.
#[must_use = "the nodes are quiet only while the section is held"]
pub struct Quiet {
    inner: Rc<Inner>,
    places: Vec<Place>,
    /// Where the section is listed, and as what.
    listed: Option<(Sections, u64)>,
}

impl Quiet {
    /// Closes the gates above `places` and waits until nobody is inside.
    pub(crate) async fn begin(inner: &Rc<Inner>, places: Vec<Place>) -> Self {
        {
            let mut shape = inner.shape.borrow_mut();
            for place in &places {
                *shape.quiet.entry(*place).or_insert(0) += 1;
            }
            shape.refresh_gates(&shape.gates_above(places.iter().copied()));
        }
        // From here on, dropping the section opens the gates again.
        let quiet = Self { inner: Rc::clone(inner), places, listed: None };
        let mut waiting: Option<(Arc<Gate>, Waiting)> = None;
        let outside = poll_fn(|cx| {
            // Gates are asked for anew: roots come to reach quiet nodes and go while we wait.
            let gates = inner.shape.borrow().gates_above(quiet.places.iter().copied());
            for gate in gates.list() {
                if gate.poll_quiet(cx).is_pending() {
                    let is_said = waiting.as_ref().is_some_and(|(said, _)| Arc::ptr_eq(said, gate));
                    if !is_said {
                        waiting = Some((Arc::clone(gate), waiting_for(inner, gate)));
                    }
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        });
        let in_use = || inner.shape.borrow().nodes_in_use(quiet.places.iter().copied());
        hurrying(&inner.local, outside, in_use).await;
        quiet
    }

    /// The same, as a section of a task.
    pub(crate) async fn begin_listed(inner: &Rc<Inner>, places: Vec<Place>, sections: &Sections) -> Self {
        let mut quiet = Self::begin(inner, places).await;
        let id = inner.next_id();
        sections.0.borrow_mut().push(Listed { id, places: quiet.places.clone() });
        quiet.listed = Some((sections.clone(), id));
        quiet
    }

    /// Whether `node` is one of the nodes that this section was begun for.
    #[must_use]
    pub fn covers(&self, node: NodeId) -> bool {
        self.places.contains(&Place::Node(node)) || self.places.contains(&Place::Everything)
    }
}

/// A drain waits for those who are inside of `gate`.
fn waiting_for(inner: &Inner, gate: &Arc<Gate>) -> Waiting {
    let users = users_of(&inner.shape.borrow(), gate);
    let what = format!("the requests of {users} to end");
    inner.waits.begin((Rank::Change, Rank::Gate), "a drain", what, users)
}

fn users_of(shape: &Shape, gate: &Arc<Gate>) -> String {
    let users = shape.roots.values().filter(|shape| Arc::ptr_eq(shape.root.gate(), gate));
    users.map(|shape| format!("'{}'", shape.root.name())).collect::<Vec<_>>().join(", ")
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some((sections, id)) = self.listed.take() {
            sections.0.borrow_mut().retain(|listed| listed.id != id);
        }
        let mut shape = self.inner.shape.borrow_mut();
        for place in &self.places {
            if let Some(count) = shape.quiet.get_mut(place) {
                *count -= 1;
                if *count == 0 {
                    shape.quiet.remove(place);
                }
            }
        }
        shape.refresh_gates(&shape.gates_above(self.places.iter().copied()));
    }
}
