//! Random plans: as proptest draws them, as the core takes them, and as the model understands them.

use std::collections::BTreeMap;

use drystone_base::Result;
use drystone_core::backend::{Backend, ReadOnly, RootId};
use drystone_core::control::{NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::NodeFacts;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use proptest::prelude::*;

use super::driver::Ruled;
use super::model::{
    ALL, COW, DATA, Edge, FILTERED, METADATA, Model, Node, PRIMARY, READ, Root, Rule, UNCHANGED, Wish,
};

/// One step of a plan. Nodes and roots are numbers that are taken modulo how many were ever made.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Insert { children: Vec<(ChildKey, u8, usize)>, node: Box<Node> },
    Attach { node: usize, wish: Wish, stays: bool },
    Detach(usize),
    Move(usize, usize),
    SetGrant(usize, Wish),
    SetChild { parent: usize, key: ChildKey, child: usize, role: u8 },
    RemoveChild(usize, ChildKey),
    Replace(usize, usize),
    Remove(usize),
    SetReadOnly(usize, bool),
    SetActive(usize, bool),
    Freeze(usize, ChildKey),
    Thaw(usize, ChildKey),
}

/// What was ever made: numbers of the model, and what they are called in the graph.
#[derive(Default)]
pub(super) struct Known {
    nodes: Vec<NodeId>,
    roots: Vec<RootId>,
    /// How many nodes and roots.
    pub(super) born: (usize, usize),
}

impl Known {
    pub(super) fn node(&self, id: usize) -> NodeId {
        self.nodes[id]
    }

    pub(super) fn root(&self, id: usize) -> RootId {
        self.roots[id]
    }
}

pub(super) fn grant(wish: Wish) -> Grant {
    Grant { perm: Perm::from_bits(wish.perm), shared: Perm::from_bits(wish.shared) }
}

fn role(bits: u8) -> Role {
    let single = [
        (DATA, Role::DATA),
        (METADATA, Role::METADATA),
        (FILTERED, Role::FILTERED),
        (COW, Role::COW),
        (PRIMARY, Role::PRIMARY),
    ];
    let all = single.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, role)| role);
    all.reduce(Role::with).unwrap()
}

fn keys() -> impl Strategy<Value = ChildKey> {
    prop_oneof![
        4 => Just(ChildKey::File),
        3 => Just(ChildKey::Backing),
        1 => Just(ChildKey::DataFile),
        1 => (0..2_u16).prop_map(ChildKey::Numbered),
    ]
}

fn roles() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => Just(DATA | METADATA | PRIMARY),
        4 => Just(FILTERED | PRIMARY),
        4 => Just(COW),
        2 => Just(DATA),
        2 => Just(METADATA),
        1 => Just(FILTERED),
        1 => prop_oneof![Just(COW | PRIMARY), Just(FILTERED | DATA), Just(PRIMARY)],
    ]
}

fn wishes() -> impl Strategy<Value = Wish> {
    let perm = prop_oneof![4 => Just(READ), 2 => Just(READ | 2), 1 => Just(READ | 2 | 8), 1 => 0..=ALL];
    let shared = prop_oneof![5 => Just(ALL), 2 => Just(READ | UNCHANGED), 1 => 0..=ALL];
    (perm, shared).prop_map(|(perm, shared)| Wish { perm, shared })
}

fn nodes() -> impl Strategy<Value = Node> {
    let rule = prop_oneof![
        6 => Just(Rule::Default),
        1 => Just(Rule::Nothing),
        1 => Just(Rule::Writes),
        1 => Just(Rule::RefusesResize),
    ];
    let one_in = |n: u32| prop_oneof![n => Just(false), 1 => Just(true)];
    (one_in(4), one_in(3), one_in(4), one_in(6), rule).prop_map(|(read_only, force, unowned, odd, rule)| {
        Node {
            edges: BTreeMap::new(),
            read_only,
            active: true,
            force_share: force && read_only,
            owned: !unowned,
            odd,
            rule,
        }
    })
}

/// A random step.
pub(super) fn op() -> impl Strategy<Value = Op> {
    let pick = || 0..1000_usize;
    let children = prop::collection::vec((keys(), roles(), pick()), 0..3);
    prop_oneof![
        6 => (children, nodes()).prop_map(|(children, node)| Op::Insert { children, node: Box::new(node) }),
        6 => (pick(), wishes(), any::<bool>()).prop_map(|(node, wish, stays)| Op::Attach { node, wish, stays }),
        2 => pick().prop_map(Op::Detach),
        2 => (pick(), pick()).prop_map(|(root, node)| Op::Move(root, node)),
        2 => (pick(), wishes()).prop_map(|(root, wish)| Op::SetGrant(root, wish)),
        3 => (pick(), keys(), pick(), roles())
            .prop_map(|(parent, key, child, role)| Op::SetChild { parent, key, child, role }),
        2 => (pick(), keys()).prop_map(|(parent, key)| Op::RemoveChild(parent, key)),
        3 => (pick(), pick()).prop_map(|(from, to)| Op::Replace(from, to)),
        2 => pick().prop_map(Op::Remove),
        1 => (pick(), any::<bool>()).prop_map(|(node, on)| Op::SetReadOnly(node, on)),
        2 => (pick(), any::<bool>()).prop_map(|(node, on)| Op::SetActive(node, on)),
        1 => (pick(), keys()).prop_map(|(parent, key)| Op::Freeze(parent, key)),
        1 => (pick(), keys()).prop_map(|(parent, key)| Op::Thaw(parent, key)),
    ]
}

/// The plan for the core. Insertions come first in `ops`.
pub(super) fn make(task: &mut Task<'_>, known: &mut Known, ops: &[Op]) -> Result<Plan> {
    let mut plan = Plan::new();
    bring_in(task, known, ops, &mut plan)?;
    for op in ops {
        let (nodes, roots) = known.born;
        let node = |pick: usize| known.nodes[pick % nodes];
        let root = |pick: usize| known.roots[pick % roots];
        match op {
            Op::Attach { node: at, wish, stays } if nodes > 0 => {
                let spec = RootSpec { name: format!("r{roots}"), grant: grant(*wish), stays: *stays };
                let backend: Backend<ReadOnly> = plan.attach_root(task.gs(), node(*at), spec);
                known.roots.push(backend.id());
                known.born.1 += 1;
            }
            Op::Detach(pick) if roots > 0 => plan.detach_root(root(*pick)),
            Op::Move(pick, to) if roots > 0 => plan.move_root(root(*pick), node(*to)),
            Op::SetGrant(pick, wish) if roots > 0 => plan.set_grant(root(*pick), grant(*wish)),
            Op::SetChild { parent, key, child, role: bits } if nodes > 0 => {
                plan.set_child(node(*parent), *key, node(*child), role(*bits));
            }
            Op::RemoveChild(parent, key) if nodes > 0 => plan.remove_child(node(*parent), *key),
            Op::Replace(from, to) if nodes > 0 => plan.replace(node(*from), node(*to)),
            Op::Remove(pick) if nodes > 0 => plan.remove(node(*pick)),
            Op::SetReadOnly(pick, on) if nodes > 0 => plan.set_read_only(node(*pick), *on),
            Op::SetActive(pick, on) if nodes > 0 => plan.set_active(node(*pick), *on),
            Op::Freeze(pick, key) if nodes > 0 => plan.freeze(node(*pick), *key, "a job"),
            Op::Thaw(pick, key) if nodes > 0 => plan.thaw(node(*pick), *key, "a job"),
            _ => {}
        }
    }
    Ok(plan)
}

/// Opens the nodes that the plan brings in. They are known from then on, whether they get into the graph or not.
fn bring_in(task: &Task<'_>, known: &mut Known, ops: &[Op], plan: &mut Plan) -> Result<()> {
    let mut opening = Opening::new(task);
    for op in ops {
        if let Op::Insert { children, node } = op {
            let id = opening.add(new_node(known, known.born.0, children, node))?;
            known.nodes.push(id);
            known.born.0 += 1;
        }
    }
    plan.insert(opening);
    Ok(())
}

fn new_node(known: &Known, born: usize, children: &[(ChildKey, u8, usize)], node: &Node) -> NewNode {
    let children = children.iter().filter(|_| born > 0);
    NewNode {
        name: Some(format!("n{born}")),
        driver: Box::new(Ruled(node.rule)),
        facts: NodeFacts {
            len: if node.odd { 1000 } else { 1024 },
            request_alignment: 512,
            read_only: node.read_only,
        },
        children: children.map(|(key, bits, child)| (*key, role(*bits), known.nodes[child % born])).collect(),
        owned: node.owned,
        force_share: node.force_share,
    }
}

/// What the plan makes of the model; `None` if one of its steps cannot be done. `born` as in [`Known`].
pub(super) fn predict(model: &Model, ops: &[Op], born: (usize, usize)) -> Option<Model> {
    let mut next = Draft { model: model.clone(), born };
    for op in ops {
        next.step(op)?;
    }
    next.model.sweep()?;
    Some(next.model)
}

struct Draft {
    model: Model,
    born: (usize, usize),
}

impl Draft {
    fn node(&mut self, pick: usize) -> Option<&mut Node> {
        self.model.nodes.get_mut(&(pick % self.born.0))
    }

    fn root(&mut self, pick: usize) -> Option<&mut Root> {
        self.model.roots.get_mut(&(pick % self.born.1))
    }

    fn there(&self, pick: usize) -> Option<usize> {
        let id = pick % self.born.0;
        self.model.nodes.contains_key(&id).then_some(id)
    }

    /// As the arms of `make`: without nodes or roots, nothing happens.
    fn step(&mut self, op: &Op) -> Option<()> {
        let (nodes, roots) = self.born;
        match op {
            Op::Insert { children, node } => self.insert(children, node),
            Op::Attach { node, wish, stays } if nodes > 0 => {
                let root = Root { node: self.there(*node)?, wish: *wish, stays: *stays };
                self.model.roots.insert(roots, root);
                self.born.1 += 1;
                Some(())
            }
            Op::Detach(pick) if roots > 0 => self.model.roots.remove(&(pick % roots)).map(drop),
            Op::Move(pick, to) if roots > 0 => {
                let to = self.there(*to)?;
                self.root(*pick)?.node = to;
                Some(())
            }
            Op::SetGrant(pick, wish) if roots > 0 => {
                self.root(*pick)?.wish = *wish;
                Some(())
            }
            Op::SetChild { parent, key, child, role } if nodes > 0 => {
                let child = self.there(*child)?;
                self.set_child(*parent, *key, Some((child, *role)))
            }
            Op::RemoveChild(parent, key) if nodes > 0 => self.set_child(*parent, *key, None),
            Op::Replace(from, to) if nodes > 0 => self.replace(*from, *to),
            Op::Remove(pick) if nodes > 0 => {
                let id = self.there(*pick)?;
                self.node(id)?.owned = false;
                self.model.users_of(id).is_empty().then_some(())
            }
            Op::SetReadOnly(pick, on) if nodes > 0 => {
                self.node(*pick)?.read_only = *on;
                Some(())
            }
            Op::SetActive(pick, on) if nodes > 0 => {
                self.node(*pick)?.active = *on;
                Some(())
            }
            Op::Freeze(pick, key) if nodes > 0 => {
                self.node(*pick)?.edges.get_mut(key)?.frozen += 1;
                Some(())
            }
            Op::Thaw(pick, key) if nodes > 0 => {
                let edge = self.node(*pick)?.edges.get_mut(key)?;
                edge.frozen = edge.frozen.checked_sub(1)?;
                Some(())
            }
            _ => Some(()),
        }
    }

    fn insert(&mut self, children: &[(ChildKey, u8, usize)], node: &Node) -> Option<()> {
        let id = self.born.0;
        let mut node = node.clone();
        for (key, role, child) in children.iter().filter(|_| id > 0) {
            let edge = Edge { role: *role, child: self.there(*child)?, frozen: 0 };
            // Two children under one key are refused.
            if node.edges.insert(*key, edge).is_some() {
                return None;
            }
        }
        self.born.0 += 1;
        self.model.nodes.insert(id, node);
        Some(())
    }

    fn set_child(&mut self, parent: usize, key: ChildKey, to: Option<(usize, u8)>) -> Option<()> {
        let node = self.node(parent)?;
        let known = node.edges.get(&key).cloned();
        if known.as_ref().is_some_and(|edge| edge.frozen > 0) || (known.is_none() && to.is_none()) {
            return None;
        }
        match to {
            // An edge that is moved keeps its role.
            Some((child, role)) => {
                let role = known.map_or(role, |edge| edge.role);
                node.edges.insert(key, Edge { role, child, frozen: 0 });
            }
            None => drop(node.edges.remove(&key)),
        }
        Some(())
    }

    fn replace(&mut self, from: usize, to: usize) -> Option<()> {
        let (from, to) = (self.there(from)?, self.there(to)?);
        let below = self.model.below(to);
        for root in self.model.roots.values_mut().filter(|root| root.node == from && !root.stays) {
            root.node = to;
        }
        for (_, node) in self.model.nodes.iter_mut().filter(|(id, _)| !below.contains(*id)) {
            for edge in node.edges.values_mut().filter(|edge| edge.child == from) {
                if edge.frozen > 0 {
                    return None;
                }
                edge.child = to;
            }
        }
        Some(())
    }
}
