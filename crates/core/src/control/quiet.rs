//! [`Quiet`]: no request is in flight below any root that reaches certain nodes.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::control::gs::Inner;
use crate::graph::node::NodeId;
use crate::graph::shape::Place;
use crate::waits::Rank;

/// Proof that some nodes are quiet; they are until it is dropped. Sections nest and overlap. Lends nothing.
///
/// It does not say that what was written is on stable storage: a drain does not flush. Dropping it never waits; it
/// admits everybody who waited, in order.
#[must_use = "the nodes are quiet only while the section is held"]
pub struct Quiet {
    inner: Rc<Inner>,
    places: Vec<Place>,
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
        let quiet = Self { inner: Rc::clone(inner), places };
        let mut waiting = None;
        poll_fn(|cx| {
            // Gates are asked for anew: roots come to reach quiet nodes and go while we wait.
            let gates = inner.shape.borrow().gates_above(quiet.places.iter().copied());
            for gate in gates.list() {
                if gate.poll_quiet(cx).is_pending() {
                    waiting.get_or_insert_with(|| {
                        let what = "the requests inside to end".to_owned();
                        inner.waits.begin((Rank::Change, Rank::Gate), "a drain", what, "requests".to_owned())
                    });
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
        .await;
        quiet
    }

    /// Whether `node` is one of the nodes that this section was begun for.
    #[must_use]
    pub fn covers(&self, node: NodeId) -> bool {
        self.places.contains(&Place::Node(node)) || self.places.contains(&Place::Everything)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
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
