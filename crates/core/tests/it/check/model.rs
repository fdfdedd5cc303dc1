//! What the rules of permissions come to, worked out the slow way: every grant again and again until none moves, every pair
//! of users of every node compared.
//!
//! Written from the rules and not from the code: bits are numbers here, and nothing is remembered between two plans.

use std::collections::{BTreeMap, BTreeSet};

use drystone_core::graph::node::ChildKey;

pub(super) const READ: u8 = 1;
pub(super) const WRITE: u8 = 2;
pub(super) const UNCHANGED: u8 = 4;
pub(super) const RESIZE: u8 = 8;
pub(super) const ALL: u8 = 15;

pub(super) const DATA: u8 = 1;
pub(super) const METADATA: u8 = 2;
pub(super) const FILTERED: u8 = 4;
pub(super) const COW: u8 = 8;
pub(super) const PRIMARY: u8 = 16;

/// What one edge wants and shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) perm: u8,
    pub(super) shared: u8,
}

const NOTHING: Wish = Wish { perm: 0, shared: ALL };

/// How a driver departs from the table of default permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Default,
    /// Wants nothing of its children and shares everything.
    Nothing,
    /// Writes to its children while it is active, and lets nobody else.
    Writes,
    /// The default, but serves nobody who resizes.
    RefusesResize,
}

#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) role: u8,
    pub(super) child: usize,
    pub(super) frozen: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) edges: BTreeMap<ChildKey, Edge>,
    pub(super) read_only: bool,
    pub(super) active: bool,
    pub(super) force_share: bool,
    pub(super) owned: bool,
    /// Its length is no multiple of its alignment.
    pub(super) odd: bool,
    pub(super) rule: Rule,
}

#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) node: usize,
    pub(super) wish: Wish,
    pub(super) stays: bool,
}

/// Who has an edge to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    Root(usize),
    Node(usize, ChildKey),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<usize, Node>,
    pub(super) roots: BTreeMap<usize, Root>,
}

/// What all edges want and share, in a graph that is allowed.
pub(super) type Wishes = BTreeMap<User, Wish>;

impl Model {
    pub(super) fn users_of(&self, id: usize) -> Vec<User> {
        let roots = self.roots.iter().filter(|(_, root)| root.node == id).map(|(root, _)| User::Root(*root));
        let edges = self.nodes.iter().flat_map(|(parent, node)| {
            let to_it = node.edges.iter().filter(|(_, edge)| edge.child == id);
            to_it.map(|(key, _)| User::Node(*parent, *key))
        });
        roots.chain(edges).collect()
    }

    /// Every node that is reached from `id`, itself included.
    pub(super) fn below(&self, id: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::from([id]);
        loop {
            let next: BTreeSet<usize> =
                reached.iter().flat_map(|id| self.nodes[id].edges.values().map(|edge| edge.child)).collect();
            if next.is_subset(&reached) {
                return reached;
            }
            reached.extend(next);
        }
    }

    /// Takes out what nobody owns and nobody uses. `None` if an edge that is frozen would go.
    pub(super) fn sweep(&mut self) -> Option<()> {
        loop {
            let gone = self
                .nodes
                .iter()
                .find(|(id, node)| !node.owned && self.users_of(**id).is_empty())
                .map(|(id, _)| *id);
            let Some(id) = gone else { return Some(()) };
            let node = self.nodes.remove(&id)?;
            if node.edges.values().any(|edge| edge.frozen > 0) {
                return None;
            }
        }
    }

    /// What every edge wants and shares, or `None` if the graph is not allowed.
    pub(super) fn judge(&self) -> Option<Wishes> {
        let shapes_are_fine = self.nodes.values().all(Self::has_fine_shape);
        let has_cycle = self
            .nodes
            .iter()
            .any(|(id, node)| node.edges.values().any(|edge| self.below(edge.child).contains(id)));
        if !shapes_are_fine || has_cycle {
            return None;
        }
        let mut wishes: Wishes = self.roots.iter().map(|(id, root)| (User::Root(*id), root.wish)).collect();
        // The longest path is shorter than the number of nodes.
        for _ in 0..=self.nodes.len() {
            for (id, node) in &self.nodes {
                let users = self.sum(*id, &wishes);
                for (key, edge) in &node.edges {
                    let mut wish = node.rule.wish(edge.role, users, node);
                    if self.nodes[&edge.child].force_share {
                        wish.shared = ALL;
                    }
                    wishes.insert(User::Node(*id, *key), wish);
                }
            }
        }
        self.nodes.iter().all(|(id, node)| self.may_be_used(*id, node, &wishes)).then_some(wishes)
    }

    /// What all users of a node want and share together.
    pub(super) fn sum(&self, id: usize, wishes: &Wishes) -> Wish {
        let mut sum = NOTHING;
        for user in self.users_of(id) {
            let wish = wishes.get(&user).copied().unwrap_or(NOTHING);
            let shared = if self.nodes[&id].force_share { ALL } else { wish.shared };
            sum = Wish { perm: sum.perm | wish.perm, shared: sum.shared & shared };
        }
        sum
    }

    fn has_fine_shape(node: &Node) -> bool {
        let fine = |role: u8| {
            let kinds = role & (DATA | METADATA | FILTERED | COW);
            kinds != 0 && (role & FILTERED == 0 || kinds == FILTERED) && (role & COW == 0 || role == COW)
        };
        let count = |kind: u8| node.edges.values().filter(|edge| edge.role & kind != 0).count();
        node.edges.values().all(|edge| fine(edge.role))
            && [FILTERED, COW, PRIMARY].into_iter().all(|kind| count(kind) <= 1)
            && (node.read_only || !node.force_share)
    }

    fn may_be_used(&self, id: usize, node: &Node, wishes: &Wishes) -> bool {
        let users = self.users_of(id);
        let agree = users.iter().all(|one| {
            users
                .iter()
                .filter(|other| *other != one)
                .all(|other| node.force_share || wishes[one].perm & !wishes[other].shared == 0)
        });
        let sum = self.sum(id, wishes);
        let active_parent = users.iter().any(|user| match user {
            User::Node(parent, _) => self.nodes[parent].active,
            User::Root(_) => false,
        });
        let writes = sum.perm & (WRITE | UNCHANGED) != 0;
        agree
            && (node.active || (sum.perm & !READ == 0 && !active_parent))
            && !(writes && node.read_only)
            && !(writes && sum.perm & RESIZE == 0 && node.odd)
            && !(node.rule == Rule::RefusesResize && sum.perm & RESIZE != 0)
    }
}

impl Rule {
    fn wish(self, role: u8, users: Wish, node: &Node) -> Wish {
        match self {
            Self::Nothing => NOTHING,
            Self::Writes if node.active => Wish { perm: READ | WRITE, shared: READ | UNCHANGED },
            Self::Default | Self::Writes | Self::RefusesResize => default_wish(role, users, node),
        }
    }
}

/// The table of default permissions.
fn default_wish(role: u8, Wish { perm, shared }: Wish, node: &Node) -> Wish {
    if role & FILTERED != 0 {
        return Wish { perm, shared };
    }
    if role & COW != 0 {
        let lets_write = shared & WRITE != 0 || !node.active;
        return Wish {
            perm: perm & READ,
            shared: READ | UNCHANGED | if lets_write { WRITE | RESIZE } else { 0 },
        };
    }
    let mut wish = Wish { perm, shared: shared & !RESIZE };
    if role & METADATA != 0 {
        wish.perm |= READ;
        if !node.read_only && node.active {
            wish.perm |= WRITE | RESIZE;
        }
        wish.shared &= !WRITE;
    }
    if role & DATA != 0 {
        if wish.perm & UNCHANGED != 0 {
            wish.perm |= WRITE;
        }
        if wish.perm & WRITE != 0 {
            wish.perm |= RESIZE;
        }
    }
    if !node.active {
        wish.shared |= WRITE | RESIZE;
    }
    wish
}
