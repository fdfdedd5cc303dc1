//! A child is reached by a request and is gone with it: nobody can hold on to a node that may have left the graph.
use drystone_core::control::Visit;
use drystone_core::graph::node::ChildKey;

fn read_later(visit: Visit<'_>) {
    let file = visit.io().child(ChildKey::File);
    drop(visit); //~ E0505
    drop(file.map(|file| file.len()));
}

fn main() {}
