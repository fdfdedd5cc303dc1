//! What a commit or a drain works out from the picture of the graph for the requests: which gates are closed, which gates
//! reach a node, which nodes are settled.
//!
//! | fact | of | depends on | so it is worked out again for |
//! |---|---|---|---|
//! | closed count | a gate | what is quiet below it | the gates above what has become quiet or was changed |
//! | gates (for grace periods) | a node | all above it | the changed nodes and all below them |
//! | settled | a node | its users, all below it | the changed nodes and, where the answer is another one, those above |
//!
//! The cost of a change is that of what it touches, however many other nodes there are. Lists are in the order of ids,
//! so that a simulated run does not depend on where things lie in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::backend::RootId;
use crate::graph::gate::Gate;
use crate::graph::node::{Node, NodeId};
use crate::graph::permission::Perm;
use crate::graph::shape::{NodeShape, Parent, Place, RootShape, Shape, Topology};

/// Gates, each once, in the order in which they were found.
#[derive(Default)]
pub(crate) struct Gates {
    list: Vec<Arc<Gate>>,
    known: BTreeSet<*const Gate>,
}

impl Gates {
    pub(crate) fn add(&mut self, gate: &Arc<Gate>) {
        if self.known.insert(Arc::as_ptr(gate)) {
            self.list.push(Arc::clone(gate));
        }
    }

    pub(crate) fn list(&self) -> &[Arc<Gate>] {
        &self.list
    }

    pub(crate) fn into_list(self) -> Vec<Arc<Gate>> {
        self.list
    }
}

impl Shape {
    /// The gates from behind which any of `places` is reached.
    pub(crate) fn gates_above(&self, places: impl IntoIterator<Item = Place>) -> Gates {
        let (mut nodes, mut roots) = (Vec::new(), BTreeSet::new());
        for place in places {
            match place {
                Place::Node(id) => nodes.push(id),
                Place::Root(id) => {
                    roots.insert(id);
                }
                Place::Everything => roots.extend(self.roots.keys().copied()),
            }
        }
        roots.extend(self.above(nodes).1);
        let mut gates = Gates::default();
        for shape in roots.iter().filter_map(|id| self.root(*id)) {
            gates.add(shape.root.gate());
        }
        gates
    }

    /// The nodes that are reached from behind any of the gates at `places` that somebody is inside of.
    pub(crate) fn nodes_in_use(&self, places: impl IntoIterator<Item = Place>) -> Vec<Arc<Node>> {
        let gates = self.gates_above(places);
        let is_in_use = |root: &RootShape| {
            let is_it = |gate: &Arc<Gate>| Arc::ptr_eq(gate, root.root.gate()) && !gate.is_quiet();
            gates.list().iter().any(is_it)
        };
        let roots = self.roots.iter().filter(|(_, root)| is_in_use(root));
        let tops = roots.filter_map(|(_, root)| root.node);
        self.nodes_below(tops)
    }

    /// The nodes that some roots reach.
    pub(crate) fn nodes_behind(&self, roots: &[RootId]) -> Vec<Arc<Node>> {
        self.nodes_below(roots.iter().filter_map(|id| self.root(*id)?.node))
    }

    /// The nodes `tops` and all below them.
    pub(crate) fn nodes_below(&self, tops: impl IntoIterator<Item = NodeId>) -> Vec<Arc<Node>> {
        let shapes = self.below(tops).into_iter().filter_map(|id| self.node(id));
        shapes.map(|shape| Arc::clone(&shape.node)).collect()
    }

    /// Brings the closed counts of `gates` in step with the places that are quiet and are reached from behind them. A gate
    /// that no root of the graph has any more opens: its requests find out that they have no node.
    pub(crate) fn refresh_gates(&self, gates: &Gates) {
        let mut closed: BTreeMap<*const Gate, u32> = BTreeMap::new();
        for place in self.quiet.keys() {
            for gate in self.gates_above([*place]).list() {
                *closed.entry(Arc::as_ptr(gate)).or_insert(0) += 1;
            }
        }
        for gate in gates.list() {
            let count = closed.get(&Arc::as_ptr(gate)).copied().unwrap_or(0);
            if gate.closed_count() != count {
                gate.set_closed(count);
            }
        }
    }

    /// Publishes, to the nodes below those whose users have changed, which gates they are reached from.
    pub(crate) fn publish_gates(&self, changed: impl IntoIterator<Item = NodeId>) {
        for shape in self.below(changed).into_iter().filter_map(|id| self.node(id)) {
            let mut gates = Gates::default();
            for parent in &shape.parents {
                match parent {
                    Parent::Root(id) => {
                        if let Some(root) = self.root(*id) {
                            gates.add(root.root.gate());
                        }
                    }
                    // Parents come first, and those that are not below a changed node know their gates.
                    Parent::Node(id, _) => {
                        if let Some(above) = self.node(*id) {
                            above.node.grace.each_gate(|gate| gates.add(gate));
                        }
                    }
                }
            }
            shape.node.grace.set_gates(gates.into_list());
        }
    }

    /// Publishes which nodes are settled after a commit. What the nodes `moved` show may lie elsewhere now: all above them
    /// forget what they remember. Of the nodes `asked`, users or children have changed.
    pub(crate) fn publish_settled(&self, moved: &BTreeSet<NodeId>, asked: BTreeSet<NodeId>) {
        for id in self.children_first(&self.above(moved.iter().copied()).0) {
            self.settle(id, true);
        }
        let mut asked = asked;
        while !asked.is_empty() {
            let mut parents = BTreeSet::new();
            for id in self.children_first(&asked) {
                if self.settle(id, false) {
                    parents.extend(self.node(id).into_iter().flat_map(|shape| &shape.parents).filter_map(
                        |parent| match parent {
                            Parent::Root(_) => None,
                            Parent::Node(parent, _) => Some(*parent),
                        },
                    ));
                }
            }
            asked = parents;
        }
    }

    fn children_first(&self, nodes: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let mut order = self.below(nodes.iter().copied());
        order.retain(|id| nodes.contains(id));
        order.reverse();
        order
    }

    /// Works out whether a node is settled; whether that is news.
    fn settle(&self, id: NodeId, moved: bool) -> bool {
        let Some(shape) = self.node(id) else { return false };
        let mut children = shape.edges.iter().filter_map(|edge| self.node(edge.child));
        let settled = !self.is_written(shape) && children.all(|child| child.node.chain.is_settled());
        let before = shape.node.chain.is_settled();
        shape.node.chain.set_settled(settled, moved);
        settled != before
    }

    /// Whether anybody may change the node's contents now. A format that holds `WRITE` on its file only because it is
    /// opened for writing does not, while none of its own users may.
    fn is_written(&self, shape: &NodeShape) -> bool {
        let changing = Perm::WRITE.with(Perm::WRITE_UNCHANGED).with(Perm::RESIZE);
        shape.parents.iter().any(|parent| {
            let wants = self.grant_of(*parent).is_some_and(|grant| grant.perm.has_any(changing));
            wants
                && match parent {
                    Parent::Root(_) => true,
                    Parent::Node(id, _) => {
                        self.node(*id).is_some_and(|node| self.users_of(node).perm.has_any(changing))
                    }
                }
        })
    }
}
