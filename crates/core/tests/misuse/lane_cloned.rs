//! A lane is one submitter: two of them would hold two tickets.
use drystone_core::lane::Lane;

fn double(lane: &Lane) -> (Lane, Lane) {
    (lane.clone(), lane.clone()) //~ E0308
}

fn main() {}
