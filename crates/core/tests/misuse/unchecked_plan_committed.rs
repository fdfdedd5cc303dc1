//! A plan that was not checked has no way to take effect.
use drystone_core::control::{Checked, Plan};

fn commit(plan: Plan) {
    plan.commit(); //~ E0599
}

fn commit_unstaged(checked: Checked) {
    checked.commit(); //~ E0599
}

fn main() {}
