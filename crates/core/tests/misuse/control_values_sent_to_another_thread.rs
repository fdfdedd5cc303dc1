//! What belongs to the control thread stays there: openings, changes in every phase, quiet sections, views.
use drystone_core::control::{After, Change, GraphView, Opening, Plan, Quiet, Settled, StagedPlan, Visit};

fn elsewhere<T: Send>(_value: T) {}

fn send(opening: Opening, plan: Plan, visit: Visit<'_>, quiet: Quiet, graph: &GraphView<'_>) {
    elsewhere(opening); //~ E0277
    elsewhere(plan); //~ E0277
    elsewhere(visit); //~ E0277
    elsewhere(quiet); //~ E0277
    elsewhere(graph); //~ E0277
}

fn send_phases(staged: StagedPlan, change: Change<'_>, settled: Settled<'_>, after: After) {
    elsewhere(staged); //~ E0277
    elsewhere(change); //~ E0277
    elsewhere(settled); //~ E0277
    elsewhere(after); //~ E0277
}

fn main() {}
