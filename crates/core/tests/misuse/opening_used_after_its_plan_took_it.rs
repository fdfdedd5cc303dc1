//! A subgraph that a plan has taken in belongs to the plan: it is not closed or changed from outside.
use drystone_core::control::{Opening, Plan};

async fn close_what_a_plan_brings_in(mut plan: Plan, opening: Opening) {
    plan.insert(opening);
    opening.close().await; //~ E0382
}

fn main() {}
