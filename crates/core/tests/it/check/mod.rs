//! `check()` against a model: random plans on random graphs are allowed by both or by neither, and come to the same grants;
//! a plan that is refused leaves the graph as it was.

mod driver;
mod model;
mod plan;

use std::cell::Cell;

use drystone_base::Kind;
use drystone_core::control::{GraphView, Task};
use drystone_core::graph::permission::Grant;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::world::World;
use model::{Model, RESIZE, UNCHANGED, User, WRITE, Wish, Wishes};
use plan::{Known, Op, grant, make, op, predict};

const CHANGING: u8 = WRITE | UNCHANGED | RESIZE;

/// What the model says about a graph that is allowed, compared with what the graph says about itself.
fn compare(graph: &GraphView<'_>, known: &Known, model: &Model, wishes: &Wishes) {
    assert_eq!(graph.nodes().len(), model.nodes.len());
    assert_eq!(graph.roots().len(), model.roots.len());
    for (id, root) in &model.roots {
        let info = graph.roots().into_iter().find(|info| info.id == known.root(*id)).unwrap();
        assert_eq!((info.node, info.grant), (Some(known.node(root.node)), grant(root.wish)));
        assert!(!info.closed, "nothing is quiet between two plans");
    }
    for (id, node) in &model.nodes {
        let info = graph.node(known.node(*id)).unwrap();
        assert_eq!(info.users, grant(model.sum(*id, wishes)), "users of n{id}");
        assert_eq!((info.read_only, info.active), (node.read_only, node.active));
        let edges = info.edges.iter().map(|edge| (edge.key, edge.child, edge.grant, edge.frozen)).collect();
        let mut wanted: Vec<_> = node
            .edges
            .iter()
            .map(|(key, edge)| (*key, edge, wishes[&User::Node(*id, *key)]))
            .map(|(key, edge, wish)| (key, known.node(edge.child), grant(wish), edge.frozen > 0))
            .collect();
        wanted.sort_by_key(|edge| edge.0);
        assert_eq!(sorted(edges), wanted, "edges of n{id}");
        let mut parents: Vec<String> = model.users_of(*id).into_iter().map(name_of).collect();
        parents.sort();
        let mut known_parents = graph.parents_of(info.id);
        known_parents.sort();
        assert_eq!(known_parents, parents, "parents of n{id}");
        assert_eq!(info.settled, is_settled(model, wishes, *id), "n{id} is settled");
    }
}

fn sorted<K: Ord + Copy, B, C, D>(mut edges: Vec<(K, B, C, D)>) -> Vec<(K, B, C, D)> {
    edges.sort_by_key(|edge| edge.0);
    edges
}

fn name_of(user: User) -> String {
    match user {
        User::Root(id) => format!("r{id}"),
        User::Node(id, _) => format!("n{id}"),
    }
}

/// Nobody can change the node or anything below it.
fn is_settled(model: &Model, wishes: &Wishes, id: usize) -> bool {
    model.below(id).into_iter().all(|below| {
        model.users_of(below).into_iter().all(|user| {
            let wants = wishes[&user].perm & CHANGING != 0;
            let can = match user {
                User::Root(_) => true,
                // A format may hold permissions for its own structures while nobody can make it change anything.
                User::Node(parent, _) => {
                    let of_users = model.users_of(parent);
                    of_users.into_iter().any(|user| wishes[&user].perm & CHANGING != 0)
                }
            };
            !(wants && can)
        })
    })
}

/// Names in quotes, behind the name of the node.
fn quoted(text: &str) -> Vec<&str> {
    text.split('\'').skip(1).step_by(2).collect()
}

/// Runs `plans` one after the other on an empty graph and its model; how many were allowed.
async fn run(task: &mut Task<'_>, plans: Vec<Vec<Op>>) -> usize {
    let (mut model, mut known) = (Model::default(), Known::default());
    let mut allowed = 0;
    for mut ops in plans {
        ops.sort_by_key(|op| !matches!(op, Op::Insert { .. }));
        let before = task.gs().with(|graph| (graph.nodes(), graph.roots()));
        let prediction = predict(&model, &ops, known.born);
        let verdict = prediction.and_then(|model| model.judge().map(|wishes| (model, wishes)));
        let result = match make(task, &mut known, &ops) {
            Ok(plan) => task.apply(plan).await,
            Err(error) => Err(error),
        };
        match (verdict, result) {
            (Some((after, wishes)), Ok(())) => {
                task.gs().with(|graph| compare(graph, &known, &after, &wishes));
                model = after;
                allowed += 1;
            }
            (None, Err(error)) => {
                let after = task.gs().with(|graph| (graph.nodes(), graph.roots()));
                assert_eq!(after, before, "a refused plan leaves the graph alone");
                let text = error.to_string();
                if error.kind() == Kind::InUse && text.contains("does not share it") {
                    let names = quoted(&text);
                    assert!(error.node() == names.first().copied() && names.len() >= 4, "{text}");
                }
            }
            (Some(_), Err(error)) => panic!("refused, but the model allows it: {error}\n{ops:?}"),
            (None, Ok(())) => panic!("allowed, but the model refuses it\n{ops:?}"),
        }
    }
    allowed
}

#[test]
fn random_plans_are_allowed_or_refused_as_the_model_says() {
    let config = ProptestConfig {
        cases: 600,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    };
    let (allowed, all) = (Cell::new(0), Cell::new(0));
    let plans = prop::collection::vec(prop::collection::vec(op(), 1..4), 1..16);
    let verdict = TestRunner::new(config).run(&plans, |plans| {
        all.set(all.get() + plans.len());
        let world = World::new(1);
        allowed
            .set(allowed.get() + world.on_control(async move |task: &mut Task<'_>| run(task, plans).await));
        Ok(())
    });
    verdict.unwrap();
    let (allowed, all) = (allowed.get(), all.get());
    assert!(
        allowed > all / 4 && allowed < all * 3 / 4,
        "{allowed} of {all} plans were allowed: that tests little"
    );
}

#[test]
fn the_sum_of_no_users_is_passive() {
    assert_eq!(grant(Wish { perm: 0, shared: model::ALL }), Grant::PASSIVE);
}
