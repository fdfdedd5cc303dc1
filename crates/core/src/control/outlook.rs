//! [`Outlook`]: the graph that a plan would make, and what making it takes.

use std::collections::BTreeSet;

use drystone_base::Result;

use crate::control::plan::{NewEdges, Plan};
use crate::control::rights::Sets;
use crate::control::step::{Demand, Step, apply, sweep};
use crate::graph::check::{Permissions, check};
use crate::graph::node::{ChildKey, NodeId};
use crate::graph::shape::{NodeShape, Parent, Place, Shape, Topology, View};

/// What the graph would be: the view, its permissions, and the nodes that leave it.
pub(crate) struct Outlook<'g> {
    pub(crate) view: View<'g>,
    pub(crate) permissions: Permissions,
    /// Get new options, observers or bitmaps, or are held.
    reopened: BTreeSet<NodeId>,
    /// All whose users move.
    replaced: BTreeSet<NodeId>,
    /// Have to be free, in the ways that steps demand.
    demanded: BTreeSet<NodeId>,
}

impl<'g> Outlook<'g> {
    /// Applies the steps to a view of `shape` and checks the result.
    pub(crate) fn of(plan: &Plan, shape: &'g Shape) -> Result<Self> {
        let mut view = View::new(shape);
        let mut touched = BTreeSet::new();
        for step in &plan.steps {
            apply(&mut view, plan, step, &mut touched)?;
        }
        sweep(&mut view)?;
        plan.check_bitmaps(shape)?;
        touched.extend(view.nodes.keys().copied());
        let permissions = check(&view, &touched)?;
        for id in view.nodes.keys().copied().collect::<Vec<_>>() {
            if let Some(node) = view.node_mut(id) {
                node.version += 1;
            }
        }
        let observed = plan.notes.observers.iter().map(|(node, ..)| *node);
        let bitmaps = plan.notes.bitmaps.iter().map(|(node, _)| *node);
        let held = plan.options.keys().chain(&plan.notes.held).copied();
        let reopened = held.chain(observed).chain(bitmaps).collect();
        let (mut replaced, mut demanded) = (BTreeSet::new(), BTreeSet::new());
        for step in &plan.steps {
            match step {
                Step::Replace { from, .. } => drop(replaced.insert(*from)),
                Step::Demand { node, .. } => drop(demanded.insert(*node)),
                _ => {}
            }
        }
        Ok(Self { view, permissions, reopened, replaced, demanded })
    }

    /// What the change touches, and how.
    pub(crate) fn sets(&self) -> Sets {
        let base = self.view.base();
        let mut sets = Sets {
            write: self.written(),
            taken: self.taken(),
            demanded: self.demanded.clone(),
            ..Sets::default()
        };
        for (id, mode) in &self.permissions.nodes {
            let Some(before) = base.node(*id) else { continue };
            sets.read.insert(*id);
            if before.users != mode.users {
                sets.users.insert(*id);
            }
            if before.parents.iter().any(|parent| self.is_less_or_other(*id, *parent)) {
                sets.left.insert(*id);
            }
        }
        sets.users.extend(self.replaced.iter().copied().filter(|id| base.node(*id).is_some()));
        sets.read.extend(base.below(sets.write.iter().filter_map(|place| place.node())));
        let brought = self.view.nodes.iter().filter(|(id, _)| base.node(**id).is_none());
        sets.names = brought.filter_map(|(_, node)| Some(node.as_ref()?.node.name().to_owned())).collect();
        sets
    }

    /// Nodes whose edges, options or mode change or that begin or cease to be written, and roots that move or lose a
    /// permission: nobody may be inside meanwhile.
    fn written(&self) -> BTreeSet<Place> {
        let base = self.view.base();
        let changed = self.view.nodes.iter().filter(|(id, after)| {
            base.node(**id).is_some_and(|before| match after {
                None => true,
                Some(after) => self.reopened.contains(*id) || is_rebuilt(before, after),
            })
        });
        let turned = self.permissions.nodes.iter().filter(|(id, mode)| {
            base.node(*id).is_some_and(|before| before.users.perm.writes() != mode.users.perm.writes())
        });
        let roots = self.view.roots.iter().filter(|(id, after)| {
            base.root(**id).is_some_and(|before| match after {
                None => true,
                Some(after) => before.node != after.node || !after.grant.perm.has(before.grant.perm),
            })
        });
        let nodes = changed.map(|(id, _)| *id).chain(turned.map(|(id, _)| *id)).map(Place::Node);
        nodes.chain(roots.map(|(id, _)| Place::Root(*id))).collect()
    }

    /// The edges of nodes of the graph that lead elsewhere than now.
    pub(crate) fn new_edges(&self) -> NewEdges {
        let base = self.view.base();
        let mut moved = NewEdges::new();
        for (id, after) in &self.view.nodes {
            let Some((before, after)) = base.node(*id).zip(after.as_ref()) else { continue };
            let is_same = |key, child| before.edge(key).is_some_and(|edge| edge.child == child);
            let edges = after.edges.iter().filter(|edge| !is_same(edge.key, edge.child));
            let edges: Vec<_> = edges.map(|edge| (edge.key, edge.child)).collect();
            if !edges.is_empty() {
                moved.insert(*id, edges);
            }
        }
        moved
    }

    /// Nodes of the graph that get a user of a kind that demands exclude.
    fn taken(&self) -> BTreeSet<NodeId> {
        let base = self.view.base();
        // Any user is one of a kind that the widest demand excludes.
        let blocks = |graph: &dyn Fn(Demand) -> bool| graph(Demand::NoUser);
        let taken = self.view.nodes.iter().filter(|(id, after)| {
            let Some(before) = base.node(**id) else { return false };
            let mut users = after.iter().flat_map(|after| &after.parents);
            users.any(|user| {
                let had = before.parents.contains(user) && blocks(&|demand| demand.excludes(base, *user));
                !had && blocks(&|demand| demand.excludes(&self.view, *user))
            })
        });
        taken.map(|(id, _)| *id).collect()
    }

    /// Whether `parent` gives up node `id`, or wants or shares something else of it.
    fn is_less_or_other(&self, id: NodeId, parent: Parent) -> bool {
        let stays = self.view.node(id).is_some_and(|after| after.parents.contains(&parent));
        !stays || self.view.base().grant_of(parent) != Some(self.permissions.grant_of(&self.view, parent))
    }

    /// Nodes of the graph that show what lies elsewhere, or something else, once the change is done.
    pub(crate) fn moved(&self) -> BTreeSet<NodeId> {
        let base = self.view.base();
        let moved = self.view.nodes.iter().filter(|(id, after)| {
            base.node(**id)
                .zip(after.as_ref())
                .is_some_and(|(before, after)| self.reopened.contains(*id) || is_rebuilt(before, after))
        });
        moved.map(|(id, _)| *id).collect()
    }

    /// Nodes for which it has to be asked whether they can change now: their users are others, or can do other things.
    pub(crate) fn asked(&self) -> BTreeSet<NodeId> {
        let base = self.view.base();
        let mut asked: BTreeSet<NodeId> = self.view.nodes.keys().copied().collect();
        for (id, mode) in &self.permissions.nodes {
            if base.node(*id).is_none_or(|before| before.users.perm != mode.users.perm) {
                asked.insert(*id);
                asked.extend(
                    self.view.node(*id).into_iter().flat_map(|node| &node.edges).map(|edge| edge.child),
                );
            }
        }
        asked
    }
}

/// Whether the node itself differs, apart from its users.
fn is_rebuilt(before: &NodeShape, after: &NodeShape) -> bool {
    !same_edges(before, after) || before.read_only != after.read_only || before.active != after.active
}

fn same_edges(before: &NodeShape, after: &NodeShape) -> bool {
    let ends = |shape: &NodeShape| -> BTreeSet<(ChildKey, NodeId)> {
        shape.edges.iter().map(|edge| (edge.key, edge.child)).collect()
    };
    ends(before) == ends(after)
}
