//! Edge slots: read under a presence, replaced under quiescence.

use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use super::{A, B, drain, explore, join};
use crate::backend::{Root, RootId};
use crate::graph::gate::{Enter, Gate};
use crate::graph::slot::{Excluded, Slot};
use crate::request::presence::Presence;

/// Two roots, each with a gate, from which one edge is reached.
struct Graph {
    roots: [Arc<Root>; 2],
    edge: Slot<Box<u32>>,
}

impl Graph {
    fn new() -> Arc<Self> {
        let root = |id| {
            let gate = Arc::new(Gate::new(2, 0));
            Arc::new(Root::new(RootId(id), "a user".to_owned(), gate, 0, Arc::default()))
        };
        Arc::new(Self { roots: [root(0), root(1)], edge: Slot::new(Box::new(0)) })
    }

    fn look(&self, presence: &Presence) {
        let first = **self.edge.get(presence);
        assert_eq!(**self.edge.get(presence), first);
    }

    fn replace(&self) {
        for root in &self.roots {
            root.gate().set_closed(1);
        }
        for root in &self.roots {
            drain(root.gate());
        }
        let proof = Excluded::assert(self.roots.iter().map(|root| &**root.gate()));
        drop(self.edge.replace(&proof, Box::new(1)));
        for root in &self.roots {
            root.gate().set_closed(0);
        }
    }
}

/// Requests of two roots read the edge while a change replaces it.
pub fn an_edge_is_not_replaced_while_it_is_read() {
    explore(4, || {
        let graph = Graph::new();
        let threads = [(A, 0), (B, 1)].map(|(shard, index)| {
            let graph = Arc::clone(&graph);
            thread::spawn(move || {
                let root = graph.roots.get(index).map(Arc::clone).unwrap_or_else(|| unreachable!());
                if let Some(side) = root.gate().try_enter(shard) {
                    graph.look(&Presence::counted(root, shard, side));
                }
            })
        });
        graph.replace();
        join(threads);
    });
}

/// The same with requests that wait, and sub-tasks.
pub fn an_edge_is_not_replaced_while_a_sub_task_reads_it() {
    explore(3, || {
        let graph = Graph::new();
        let threads = [A, B].map(|shard| {
            let graph = Arc::clone(&graph);
            thread::spawn(move || {
                let [root, _] = &graph.roots;
                let side = block_on(Enter::new(Arc::clone(root.gate()), shard));
                let presence = Presence::counted(Arc::clone(root), shard, side);
                let fork = presence.fork();
                drop(presence);
                graph.look(&fork);
            })
        });
        graph.replace();
        join(threads);
    });
}
