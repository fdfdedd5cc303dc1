//! Changes of nodes that are drained already.
use drystone_core::control::{Opening, Plan, Task};
use drystone_testkit::disk::SimDisk;
use drystone_testkit::sim::explore;

use crate::fixture::{LEN, attach_writer, overlay, start};

#[test]
fn a_task_changes_what_it_has_drained() {
    explore(0..20, |sim| {
        let control = start(sim);
        let (base, top) = (SimDisk::zeroed(LEN, sim.seed()), SimDisk::zeroed(LEN, sim.seed() + 1));
        control.spawn(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let base = overlay(&mut opening, "base", base, None).unwrap();
            let mut plan = Plan::new();
            plan.insert(opening);
            task.apply(plan).await.unwrap();
            let writer = attach_writer(task, base, "client").await.unwrap();
            let quiet = task.drain(&[base]).await;
            let mut opening = Opening::new(task);
            let over = overlay(&mut opening, "top", top, Some(base)).unwrap();
            let mut plan = Plan::new();
            plan.insert(opening);
            plan.replace(base, over);
            task.apply(plan).await.unwrap();
            drop(quiet);
            drop(writer);
        });
        drop(control);
        sim.run_to_end().unwrap();
    });
}
