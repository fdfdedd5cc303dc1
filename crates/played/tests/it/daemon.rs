//! The daemon under every order of steps that a seed finds: monitors change the graph below an export while clients of NBD
//! write and read, stall and go. What a client reads is what the model says, whatever is below.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use drystone_base::Result;
use drystone_base::rng::Rng;
use drystone_core::runtime::LocalRef;
use drystone_format::qcow2::create::CreateOptions;
use drystone_played::daemon::{Access, DaemonOptions, SimDaemon, address};
use drystone_played::monitor::Monitor;
use drystone_played::nbd::{Entry, NbdClient};
use drystone_testkit::client::{SharedModel, Watched};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::{Sim, SimOptions};
use serde_json::{Value, json};

use crate::clients::{DISK_BYTES, WHOLE, visit};

/// Images that can be laid over others.
const OVERLAYS: usize = 4;
const PAUSE_NS: u64 = 300_000;

/// A new image of 4 KiB clusters.
fn image() -> Image {
    let layout = CreateOptions { cluster_bytes: 4096, ..CreateOptions::new(DISK_BYTES) }.layout().unwrap();
    let mut image = Image::new(layout.len_file);
    for (at, bytes) in layout.pieces {
        image.write(at.get(), &bytes);
    }
    image
}

fn name(index: usize) -> String {
    format!("i{index}")
}

fn node(index: usize, more: &Value) -> Value {
    let mut node =
        json!({ "driver": "qcow2", "node-name": name(index), "file": format!("{}-file", name(index)) });
    node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node
}

/// What the tasks of one run share.
#[derive(Clone)]
struct Run {
    access: Access,
    model: SharedModel,
    /// Clients go home.
    is_over: Rc<Cell<bool>>,
    clients: Rc<Cell<usize>>,
}

impl Run {
    async fn enter(&self, local: &LocalRef) -> Result<NbdClient> {
        NbdClient::enter(&self.access.network, &address("nbd"), &Entry::to("disk"), local).await
    }

    /// A client that comes again and again.
    async fn client(self, local: LocalRef, mut rng: Rng) {
        while !self.is_over.get() {
            match self.enter(&local).await {
                Ok(client) => visit(&client, &self.model, &local, &mut rng).await,
                // There is no export at the moment.
                Err(_) => local.sleep_until(local.now_ns() + PAUSE_NS).await,
            }
        }
        self.clients.set(self.clients.get() - 1);
    }

    /// A second operator, who looks and disturbs.
    async fn meddler(self, local: LocalRef, mut rng: Rng) {
        let mut monitor = self.access.monitor(1, &local).await.unwrap();
        while !self.is_over.get() {
            meddle(&mut monitor, &mut rng).await.unwrap();
            monitor.forget_events();
            local.sleep_until(local.now_ns() + rng.below(PAUSE_NS)).await;
        }
        self.clients.set(self.clients.get() - 1);
    }
}

async fn meddle(monitor: &mut Monitor, rng: &mut Rng) -> Result<()> {
    let job = json!({ "id": "job" });
    let (command, arguments) = match rng.below(9) {
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
    assert!(
        done.is_ok() || command.starts_with("job-") || command.starts_with("object-"),
        "{command}: {done:?}"
    );
    if command == "job-pause" {
        // Or nobody would ever resume it.
        let _ = monitor.call("job-resume", json!({ "id": "job" })).await?;
    }
    Ok(())
}

/// Who changes the graph.
struct Operator {
    run: Run,
    monitor: Monitor,
    local: LocalRef,
    rng: Rng,
    /// The node that is exported.
    top: usize,
    /// Images that were not used yet.
    next: usize,
    is_exported: bool,
}

impl Operator {
    async fn start(run: Run, local: LocalRef, rng: Rng) -> Result<Self> {
        let monitor = run.access.monitor(0, &local).await?;
        let mut operator = Self { run, monitor, local, rng, top: 0, next: 1, is_exported: false };
        operator.monitor.ok("object-add", json!({ "qom-type": "iothread", "id": "t0" })).await?;
        operator.monitor.ok("blockdev-add", node(0, &json!({ "backing": null }))).await?;
        let at = json!({ "addr": { "type": "unix", "data": { "path": "nbd" } }, "max-connections": 3 });
        operator.monitor.ok("nbd-server-start", at).await?;
        operator.export().await?;
        Ok(operator)
    }

    async fn export(&mut self) -> Result<()> {
        let mut export = json!({ "type": "nbd", "id": "e", "name": "disk", "node-name": name(self.top), "writable": true });
        if self.rng.one_in(2) {
            export["iothread"] = "t0".into();
        }
        self.monitor.ok("block-export-add", export).await?;
        self.is_exported = true;
        Ok(())
    }

    async fn step(&mut self) -> Result<()> {
        self.local.sleep_until(self.local.now_ns() + self.rng.below(PAUSE_NS)).await;
        match self.rng.below(7) {
            0 | 1 => self.snapshot().await,
            2 => self.reopen().await,
            3 => self.resize().await,
            4 | 5 => self.stream().await,
            _ => self.unexport().await,
        }
    }

    async fn snapshot(&mut self) -> Result<()> {
        if self.next > OVERLAYS {
            return Ok(());
        }
        let (top, overlay) = (name(self.top), name(self.next));
        self.monitor.ok("blockdev-add", node(self.next, &json!({ "backing": null }))).await?;
        let snapshot = |node: &str| {
            let data = json!({ "node": node, "overlay": overlay });
            json!({ "type": "blockdev-snapshot", "data": data })
        };
        let refused = json!({ "actions": [snapshot(&top), snapshot("nobody")] });
        assert!(self.monitor.call("transaction", refused).await?.is_err());
        self.monitor.ok("transaction", json!({ "actions": [snapshot(&top)] })).await?;
        (self.top, self.next) = (self.next, self.next + 1);
        Ok(())
    }

    async fn reopen(&mut self) -> Result<()> {
        let bytes = 4096 << self.rng.below(4);
        let backing = self.backing().await?;
        let options = json!({ "l2-cache-size": bytes, "backing": backing, "discard": "unmap" });
        self.monitor.ok("blockdev-reopen", json!({ "options": [node(self.top, &options)] })).await?;
        let wrong = json!({ "backing": backing, "read-only": true });
        let refused =
            self.monitor.call("blockdev-reopen", json!({ "options": [node(self.top, &wrong)] })).await?;
        assert!(refused.is_err(), "it has a writer");
        Ok(())
    }

    /// The name of the node below the top, or null.
    async fn backing(&mut self) -> Result<Value> {
        let graph = self.monitor.ok("x-debug-query-block-graph", json!({})).await?;
        let id = |wanted: &str| {
            graph["nodes"]
                .as_array()
                .unwrap()
                .iter()
                .find(|node| node["name"] == wanted)
                .map(|node| node["id"].clone())
        };
        let top = id(&name(self.top)).unwrap();
        let edges = graph["edges"].as_array().unwrap();
        let Some(edge) = edges.iter().find(|edge| edge["parent"] == top && edge["name"] == "backing") else {
            return Ok(Value::Null);
        };
        let nodes = graph["nodes"].as_array().unwrap();
        Ok(nodes.iter().find(|node| node["id"] == edge["child"]).unwrap()["name"].clone())
    }

    async fn resize(&mut self) -> Result<()> {
        let resize = json!({ "node-name": name(self.top), "size": 2 * DISK_BYTES });
        assert!(self.monitor.call("block_resize", resize).await?.is_err(), "its users were told its length");
        Ok(())
    }

    async fn stream(&mut self) -> Result<()> {
        self.monitor.forget_events();
        let speed = if self.rng.one_in(2) { 0 } else { 64 << 20 };
        let stream = json!({ "job-id": "job", "device": name(self.top), "speed": speed });
        self.monitor.ok("block-stream", stream).await?;
        for _ in 0..self.rng.below(4) {
            self.local.sleep_until(self.local.now_ns() + self.rng.below(PAUSE_NS)).await;
            let verb = ["job-pause", "job-resume", "job-cancel"][self.rng.index(3)];
            let _ = self.monitor.call(verb, json!({ "id": "job" })).await?;
        }
        let _ = self.monitor.call("job-resume", json!({ "id": "job" })).await?;
        let is_end = |data: &Value| data["id"] == "job" && data["status"] == "null";
        self.monitor.event("JOB_STATUS_CHANGE", is_end).await.map(drop)
    }

    async fn unexport(&mut self) -> Result<()> {
        let mode = if self.rng.one_in(2) { "safe" } else { "hard" };
        let deleted = self.monitor.call("block-export-del", json!({ "id": "e", "mode": mode })).await?;
        match deleted {
            Ok(_) => self.monitor.event("BLOCK_EXPORT_DELETED", |data| data["id"] == "e").await.map(drop)?,
            Err(text) => {
                assert_eq!(mode, "safe", "{text}");
                return Ok(());
            }
        }
        self.is_exported = false;
        self.export().await
    }

    /// Sends everybody home, looks at everything once more, and ends the daemon.
    async fn finish(mut self) -> Result<()> {
        self.run.is_over.set(true);
        while self.run.clients.get() > 0 {
            self.local.sleep_until(self.local.now_ns() + PAUSE_NS).await;
        }
        let client = self.run.enter(&self.local).await?;
        Watched::new(client.clone(), &self.run.model).read(WHOLE).await?;
        if self.rng.one_in(2) {
            client.leave().await.unwrap();
        }
        self.monitor.ok("quit", json!({})).await.map(drop)
    }
}

/// One run; what was said in it, and its steps.
fn play(seed: u64) -> (u64, u64) {
    let sim = Sim::new(SimOptions { io_threads: 4, ..SimOptions::seeded(seed) });
    let hash = play_on(&sim);
    (hash, sim.schedule_hash())
}

fn play_on(sim: &Sim) -> u64 {
    let mut rng = sim.rng();
    let disks = (0..=OVERLAYS).map(|index| {
        let name = format!("{}-file", name(index));
        let options = DiskOptions { name: name.clone(), ..DiskOptions::seeded(rng.next_u64()) };
        (name, SimDisk::new(image(), options))
    });
    let options = DaemonOptions { disks: disks.collect(), ..DaemonOptions::seeded(rng.next_u64()) };
    let daemon = SimDaemon::start(sim, options);
    let run = Run {
        access: daemon.access(),
        model: Rc::new(RefCell::new(ByteModel::zeroed(DISK_BYTES))),
        is_over: Rc::default(),
        clients: Rc::new(Cell::new(3)),
    };
    for number in 0..2 {
        let local = sim.io(1 + number);
        let task = run.clone().client(Rc::clone(&local), Rng::new(rng.next_u64()));
        sim.spawn(&local, format!("client {number}"), task);
    }
    let local = sim.io(4);
    sim.spawn(&local, "meddler", run.clone().meddler(Rc::clone(&local), Rng::new(rng.next_u64())));
    let operator = async {
        let mut operator = Operator::start(run, Rc::clone(&local), Rng::new(rng.next_u64())).await?;
        for _ in 0..6 {
            operator.step().await?;
        }
        operator.finish().await
    };
    match sim.block_on(&local, operator) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{}\n{}", error.report(), daemon.trace()),
        Err(stuck) => panic!("{stuck}\n{}", daemon.trace()),
    }
    let trace = daemon.trace().clone();
    daemon.finish();
    trace.hash()
}

#[test]
fn clients_read_what_was_written_whatever_monitors_do_below_them() {
    let schedules: BTreeSet<u64> = (0..150).map(|seed| play(seed).1).collect();
    assert_eq!(schedules.len(), 150);
}

#[test]
fn equal_seeds_give_equal_conversations() {
    for seed in 5000..5010 {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}
