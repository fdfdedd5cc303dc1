//! A change ends with the task that was admitted: no drained section is forgotten somewhere.
use drystone_base::Result;
use drystone_core::control::{Change, Control, StagedPlan, Task};

async fn take_out<'k>(control: &Control) -> Option<Change<'k>> {
    control.call(async |_task: &mut Task<'_>| None).await.ok()? //~ E0277
    //~ says: is not plain data
}

async fn return_it<'k>(task: &mut Task<'_>, staged: StagedPlan) -> Result<Change<'k>> {
    task.admit(staged).await //~ lifetime
}

fn main() {}
