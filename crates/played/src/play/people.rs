//! Everybody but the operator.

use std::rc::Rc;

use drystone_base::Result;
use drystone_base::rng::Rng;
use drystone_core::runtime::LocalRef;
use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, OpKind, SimDisk};
use drystone_testkit::sim::Sim;
use serde_json::json;

use super::{Ending, PAUSE_NS, Run};
use crate::daemon::address;
use crate::monitor::Monitor;
use crate::nbd::{Entry, NbdClient};
use crate::visit::{Visitor, all};
use crate::wait::unless;

/// `EIO` and `ENOSPC`, which clients are told if devices fail.
const TROUBLES: &[i32] = &[5, 28];
/// Most connections that a crowd makes at once.
const CROWD_MAX: u64 = 6;
/// A disk that has become full has room for less than so many bytes more.
const ROOM_BYTES_MAX: u64 = 64 << 10;

/// Sends everybody to work.
pub(super) fn spawn(sim: &Sim, run: &Run, rng: &mut Rng) {
    let clients = (0..run.disks.len() + 1).map(|number| ("client", number));
    let others = ["meddler", "staller", "crowd", "vandal", "stranger", "misfortune"].map(|name| (name, 0));
    for (name, number) in clients.chain(others) {
        let local = sim.io(1 + u16::try_from(rng.below(4)).unwrap_or(0));
        let person = Person { run: run.clone(), local: Rc::clone(&local), rng: Rng::new(rng.next_u64()) };
        let is_here = match name {
            "misfortune" => run.story.is_troubled,
            "staller" | "crowd" | "vandal" => rng.one_in(2),
            "stranger" => rng.one_in(3),
            _ => true,
        };
        if !is_here {
            continue;
        }
        run.at_work.set(run.at_work.get() + 1);
        let at_work = Rc::clone(&run.at_work);
        sim.spawn(&local, format!("{name} {number}"), async move {
            match name {
                "client" => person.be_client(number).await,
                "meddler" => person.be_meddler().await,
                "staller" => person.be_staller().await,
                "crowd" => person.be_crowd().await,
                "vandal" => person.be_vandal().await,
                "stranger" => person.be_stranger().await,
                _ => person.be_misfortune().await,
            }
            at_work.set(at_work.get() - 1);
        });
    }
}

pub(super) struct Person {
    pub(super) run: Run,
    pub(super) local: LocalRef,
    pub(super) rng: Rng,
}

impl Run {
    /// Enters the export of a disk.
    pub(super) async fn enter(&self, disk: usize, local: &LocalRef) -> Result<NbdClient> {
        let name = self.disks.get(disk).map_or('?', |disk| disk.name);
        NbdClient::enter(&self.access.network, &address("nbd"), &Entry::to(&name.to_string()), local).await
    }

    /// What came of talking to a daemon, which hangs up when it ends only.
    pub(super) fn demand_talk(&self, talked: Result<()>) {
        if let Err(error) = talked {
            assert!(self.is_over.get() && self.story.ending != Ending::Calm, "{}", error.report());
        }
    }
}

impl Person {
    pub(super) async fn pause(&mut self) {
        self.local.sleep_until(self.local.now_ns() + self.rng.below(PAUSE_NS)).await;
    }

    /// Comes again and again.
    async fn be_client(mut self, number: usize) {
        let errors = if self.run.story.is_troubled { TROUBLES } else { &[] };
        while !self.run.is_over.get() {
            let at = (number + self.rng.index(2) * self.rng.index(2)) % self.run.disks.len();
            match (self.run.enter(at, &self.local).await, self.run.disks.get(at)) {
                (Ok(client), Some(disk)) => {
                    let (model, local) = (&disk.model, &self.local);
                    Visitor { client: &client, model, local, errors }.visit(&mut self.rng).await;
                    self.run.counts.event("visits of clients", 1);
                }
                // There is no export at the moment.
                _ => self.local.sleep_until(self.local.now_ns() + PAUSE_NS).await,
            }
        }
    }

    /// Looks and disturbs.
    async fn be_meddler(mut self) {
        let talked = self.meddle().await;
        self.run.demand_talk(talked);
    }

    async fn meddle(&mut self) -> Result<()> {
        let mut monitor = self.run.access.monitor(1, &self.local).await?;
        while !self.run.is_over.get() {
            let job = json!({ "id": "job" });
            let (command, arguments) = match self.rng.below(9) {
                0 => ("query-named-block-nodes", json!({})),
                1 => ("query-block-exports", json!({})),
                2 => ("x-debug-query-block-graph", json!({})),
                3 => ("query-blockstats", json!({ "query-nodes": true })),
                4 => ("job-pause", job),
                5 => ("job-resume", job),
                6 => ("job-cancel", job),
                7 => ("object-add", json!({ "qom-type": "iothread", "id": "t1" })),
                _ => ("object-del", json!({ "id": "t1" })),
            };
            let done = monitor.call(command, arguments).await?;
            self.run.counts.command(command, done.is_ok());
            assert!(done.is_ok() || !command.contains("query"), "{command}: {done:?}");
            if command == "job-pause" {
                // Or nobody would ever resume it.
                let _ = monitor.call("job-resume", json!({ "id": "job" })).await?;
            }
            monitor.forget_events();
            self.pause().await;
        }
        Ok(())
    }

    /// Asks and does not listen; then it does, or goes.
    async fn be_staller(mut self) {
        while !self.run.is_over.get() {
            let talked = self.stall().await;
            self.run.demand_talk(talked);
            self.pause().await;
        }
    }

    async fn stall(&mut self) -> Result<()> {
        let mut monitor = self.run.access.monitor(2, &self.local).await?;
        let count = 1 + self.rng.below(8);
        let until_ns = self.local.now_ns() + 2 * PAUSE_NS;
        let late = self.local.sleep_until(until_ns);
        let asked = unless(ask(&mut monitor, count), late).await;
        self.local.sleep_until(until_ns).await;
        match asked {
            // It goes in the middle of a word.
            None => {
                self.run.counts.event("monitors that stalled for ever", 1);
                Ok(())
            }
            Some(asked) => {
                asked?;
                for _ in 0..count {
                    let reply = monitor.reply().await?;
                    assert!(reply.is_ok(), "an answer to a question: {reply:?}");
                }
                self.run.counts.event("monitors that stalled", 1);
                Ok(())
            }
        }
    }

    /// Connections beyond the limit, for a while.
    async fn be_crowd(mut self) {
        while !self.run.is_over.get() {
            let (count, disk) = (1 + self.rng.below(CROWD_MAX), self.rng.index(self.run.disks.len()));
            let until_ns = self.local.now_ns() + self.rng.below(2 * PAUSE_NS);
            all((0..count).map(|_| self.stand_about(disk, until_ns)).collect()).await;
            self.pause().await;
        }
    }

    async fn stand_about(&self, disk: usize, until_ns: u64) {
        let entering = self.run.enter(disk, &self.local);
        match unless(entering, self.local.sleep_until(until_ns)).await {
            Some(Ok(client)) => {
                unless(client.lost(), self.local.sleep_until(until_ns)).await;
                client.vanish();
                self.run.counts.event("connections of a crowd", 1);
            }
            Some(Err(_)) | None => self.run.counts.event("connections of a crowd in vain", 1),
        }
    }

    /// Lets devices fail.
    async fn be_misfortune(mut self) {
        while !self.run.is_over.get() {
            self.local.sleep_until(self.local.now_ns() + self.rng.below(4 * PAUSE_NS)).await;
            let disk = self.rng.index(self.run.disks.len());
            let Some(disk) = self.run.disks.get(disk) else { continue };
            let near_top = disk.top.get() + 1 - self.rng.index(2);
            let Some(image) = disk.images.get(near_top.saturating_sub(self.rng.index(2))).cloned() else {
                continue;
            };
            if self.rng.one_in(5) {
                image.set_space(image.image().allocated_bytes() + self.rng.below(ROOM_BYTES_MAX));
                self.pause().await;
                image.set_space(u64::MAX);
            } else {
                image_fault(&image, &mut self.rng);
            }
        }
    }
}

async fn ask(monitor: &mut Monitor, count: u64) -> Result<()> {
    for _ in 0..count {
        monitor.send("query-named-block-nodes", json!({})).await?;
    }
    Ok(())
}

fn image_fault(image: &SimDisk, rng: &mut Rng) {
    let effect = match rng.below(3) {
        0 => FaultEffect::Io,
        1 => FaultEffect::NoSpace,
        _ => FaultEffect::Short,
    };
    let filter = match rng.below(4) {
        0 => OpFilter::of(OpKind::Read),
        1 => OpFilter::of(OpKind::Write),
        2 => OpFilter::of(OpKind::Flush),
        _ => OpFilter::any(),
    };
    image.inject(Fault::nth(rng.below(4), filter, effect).times(1 + rng.below(3)));
}
