//! A live snapshot under writes, on many schedules.

use drystone_core::control::{Opening, Plan, Task};
use drystone_core::lane::Lane;
use drystone_testkit::disk::SimDisk;
use drystone_testkit::sim::explore;

use crate::fixture::{BLOCK, LEN, attach_writer, overlay, read, start, write};

#[test]
fn a_snapshot_under_writes_loses_none_of_them() {
    explore(0..200, |sim| {
        let control = start(sim);
        let (base, top) = (SimDisk::zeroed(LEN, sim.seed()), SimDisk::zeroed(LEN, sim.seed() + 1));
        let io = sim.io(1);
        let opened = sim.block_on(&sim.control(), {
            let control = control.clone();
            async move {
                control
                    .call(async move |task: &mut Task<'_>| {
                        let mut opening = Opening::new(task);
                        let node = overlay(&mut opening, "base", base, None)?;
                        let mut plan = Plan::new();
                        plan.insert(opening);
                        task.apply(plan).await?;
                        attach_writer(task, node, "client").await
                    })
                    .await
            }
        });
        let backend = opened.unwrap().unwrap().unwrap();
        let writer = backend.clone();
        sim.spawn(&io.clone(), "writer", async move {
            let mut lane = Lane::new(io);
            for round in 1..=20_u8 {
                write(&mut lane, &writer, u64::from(round % 7) * BLOCK, round).await.unwrap();
            }
            for round in 14..=20_u8 {
                assert_eq!(read(&mut lane, &writer, u64::from(round % 7) * BLOCK).await.unwrap(), round);
            }
        });
        control.spawn(async move |task: &mut Task<'_>| {
            let base = task.gs().find("base").unwrap();
            let mut opening = Opening::new(task);
            let over = overlay(&mut opening, "top", top, Some(base)).unwrap();
            let mut plan = Plan::new();
            plan.insert(opening);
            plan.replace(base, over);
            task.apply(plan).await.unwrap();
            let base = task.gs().with(|graph| graph.node(base)).unwrap();
            assert!(base.settled, "nobody writes to the old layer any more");
        });
        drop(control);
        sim.run_to_end().unwrap();
        drop(backend);
    });
}
