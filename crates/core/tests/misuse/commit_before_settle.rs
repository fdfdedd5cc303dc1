//! What has to be stored is stored before a change takes effect.
use drystone_core::control::{Change, StagedPlan};

fn commit_undrained(staged: StagedPlan) {
    staged.commit(); //~ E0599
}

fn commit_unsettled(change: Change<'_>) {
    change.commit(); //~ E0599
}

fn main() {}
