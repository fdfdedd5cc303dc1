//! Nobody makes a change out of parts, with the quiescence of another: it comes from `admit`, for the nodes that its own
//! plan writes.
use drystone_core::control::{Change, StagedPlan};

fn graft<'k>(plan: StagedPlan, other: Change<'k>) -> Change<'k> {
    Change { plan, ..other } //~ E0451
}

fn main() {}
