//! [`Operator`]: who changes the graph.
//!
//! In a calm run, what must work does. After a command that failed because a device did, or that nobody has seen the end
//! of, the operator looks how things stand: done or not done, never half.

use std::future::pending;
use std::mem;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_core::runtime::LocalRef;
use drystone_testkit::client::Watched;
use drystone_testkit::model::Ending as Outcome;
use serde_json::{Value, json};

use super::{DISK_BYTES, Disk, Ending, OVERLAYS, PAUSE_NS, Run};
use crate::monitor::Monitor;
use crate::wait::unless;

/// One in how many commands the operator goes in the middle of.
const VANISH_ONE_IN: u64 = 10;
/// A disk grows by multiples of this many bytes.
const GROWTH_BYTES: u64 = 48 << 10;
/// A disk grows up to this length.
const DISK_BYTES_MAX: u64 = 2 * DISK_BYTES;
/// Connections that there may be.
const CONNECTIONS_MAX: u64 = 4;

/// What came of a command.
#[derive(Debug)]
enum Answer {
    Done(Value),
    Refused(String),
    /// Nobody knows.
    Unseen,
}

impl Answer {
    const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

/// Who changes the graph, as monitor 0.
pub(super) struct Operator {
    run: Run,
    monitor: Option<Monitor>,
    local: LocalRef,
    rng: Rng,
}

/// What `x-debug-query-block-graph` says.
struct Graph(Value);

impl Graph {
    fn list(&self, what: &str) -> impl Iterator<Item = &Value> {
        self.0.get(what).and_then(Value::as_array).into_iter().flatten()
    }

    fn has(&self, name: &str) -> bool {
        self.list("nodes").any(|node| node["name"] == name)
    }

    /// The name of the node behind another one.
    fn backing_of(&self, name: &str) -> Option<&str> {
        let top = &self.list("nodes").find(|node| node["name"] == name)?["id"];
        let mut edges = self.list("edges");
        let edge = edges.find(|edge| edge["parent"] == *top && edge["name"] == "backing")?;
        self.list("nodes").find(|node| node["id"] == edge["child"])?["name"].as_str()
    }
}

fn node(disk: &Disk, index: usize, backing: Option<&str>) -> Value {
    let name = disk.node(index);
    json!({ "driver": "qcow2", "node-name": name, "file": format!("{name}-file"), "backing": backing })
}

/// Adds a member to an object, or replaces it.
fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(members) = object.as_object_mut() {
        members.insert(key.to_owned(), value.into());
    }
}

fn export_id(disk: &Disk) -> String {
    format!("export-{}", disk.name)
}

impl Operator {
    /// From the first command to `quit`.
    pub(super) async fn operate(run: Run, local: LocalRef, rng: Rng) -> Result<()> {
        let monitor = Some(run.access.monitor(0, &local).await?);
        let mut operator = Self { run, monitor, local, rng };
        operator.set_up().await?;
        for _ in 0..operator.run.story.steps {
            operator.step().await?;
        }
        match operator.run.story.ending {
            Ending::Calm | Ending::Cut => operator.end_calmly().await,
            Ending::Busy => operator.end_at_work().await,
        }
    }

    async fn set_up(&mut self) -> Result<()> {
        self.must("object-add", json!({ "qom-type": "iothread", "id": "t0" })).await?;
        let at = json!({ "addr": { "type": "unix", "data": { "path": "nbd" } }, "max-connections": CONNECTIONS_MAX });
        self.must("nbd-server-start", at).await?;
        for disk in self.run.clone().disks.iter() {
            self.must("blockdev-add", node(disk, 0, None)).await?;
            self.export(disk).await?;
        }
        Ok(())
    }

    fn monitor(&mut self) -> &mut Monitor {
        match &mut self.monitor {
            Some(monitor) => monitor,
            None => panic!("the operator is not there"),
        }
    }

    async fn call(&mut self, command: &str, arguments: Value) -> Result<Answer> {
        let called = self.monitor().call(command, arguments).await?;
        self.run.counts.command(command, called.is_ok());
        Ok(match called {
            Ok(value) => Answer::Done(value),
            Err(text) => Answer::Refused(text),
        })
    }

    /// A command that is not worth going away from, and that works, or, if devices fail, is tried until it does.
    async fn must(&mut self, command: &str, arguments: Value) -> Result<Value> {
        loop {
            match self.call(command, arguments.clone()).await? {
                Answer::Done(value) => return Ok(value),
                other => assert!(self.run.story.is_troubled, "{command} {arguments}: {other:?}"),
            }
            self.pause().await;
        }
    }

    /// A command that must be refused.
    async fn must_not(&mut self, command: &str, arguments: Value, why: &str) -> Result<()> {
        let answer = self.call(command, arguments).await?;
        assert!(!answer.is_done(), "{command}, though {why}");
        Ok(())
    }

    /// A change. It fails only if devices do; and perhaps the operator does not wait for its end.
    async fn change(&mut self, command: &str, arguments: Value) -> Result<Answer> {
        let shown = format!("{command} {arguments}");
        if self.run.story.may_vanish && self.rng.one_in(VANISH_ONE_IN) {
            return self.vanish(command, arguments).await;
        }
        let answer = self.call(command, arguments).await?;
        assert!(answer.is_done() || self.run.story.is_troubled, "{shown}: {answer:?}");
        Ok(answer)
    }

    /// Goes in the middle of a command, and comes again. A monitor takes the next client when the command of the last one
    /// is over.
    async fn vanish(&mut self, command: &str, arguments: Value) -> Result<Answer> {
        let until_ns = self.local.now_ns() + self.rng.below(PAUSE_NS);
        let late = self.local.sleep_until(until_ns);
        if let Some(mut monitor) = self.monitor.take() {
            let sending = async {
                let sent = monitor.send(command, arguments).await;
                drop(sent);
                pending::<()>().await;
            };
            unless(sending, late).await;
        }
        self.run.counts.event("operators that vanished", 1);
        self.monitor = Some(self.run.access.monitor(0, &self.local).await?);
        Ok(Answer::Unseen)
    }

    async fn pause(&mut self) {
        self.local.sleep_until(self.local.now_ns() + self.rng.below(PAUSE_NS)).await;
    }

    async fn graph(&mut self) -> Result<Graph> {
        self.must("x-debug-query-block-graph", json!({})).await.map(Graph)
    }

    async fn is_exported(&mut self, disk: &Disk) -> Result<bool> {
        let exports = self.must("query-block-exports", json!({})).await?;
        let id = export_id(disk);
        Ok(exports.as_array().into_iter().flatten().any(|export| export["id"] == id.as_str()))
    }

    async fn step(&mut self) -> Result<()> {
        self.pause().await;
        let run = self.run.clone();
        let Some(disk) = run.disks.get(self.rng.index(run.disks.len())) else { return Ok(()) };
        match self.rng.below(8) {
            0 | 1 => self.snapshot(disk).await,
            2 => self.reopen(disk).await,
            3 | 4 => self.stream(disk).await,
            5 => self.resize_in_use(disk).await,
            _ => self.export_anew(disk).await,
        }
    }

    /// A snapshot of a disk, or of all, in one transaction.
    async fn snapshot(&mut self, disk: &Disk) -> Result<()> {
        let run = self.run.clone();
        let is_of_all = self.rng.one_in(2);
        let mut ready = Vec::new();
        for one in run.disks.iter().filter(|one| is_of_all || one.name == disk.name) {
            if one.top.get() < OVERLAYS && self.prepare_overlay(one).await? {
                ready.push(one);
            }
        }
        let mut actions: Vec<Value> = ready
            .iter()
            .map(|one| {
                let (top, overlay) = (one.node(one.top.get()), one.node(one.top.get() + 1));
                json!({ "type": "blockdev-snapshot", "data": { "node": top, "overlay": overlay } })
            })
            .collect();
        let aborted: Vec<Value> =
            actions.iter().cloned().chain([json!({ "type": "abort", "data": {} })]).collect();
        self.must_not("transaction", json!({ "actions": aborted }), "it was told to abort").await?;
        if ready.is_empty() {
            return Ok(());
        }
        // From now on, what is written may be in the overlay; if not, it is empty, and shows the same.
        ready.iter().for_each(|one| one.top.set(one.top.get() + 1));
        let answer = self.change("transaction", json!({ "actions": mem::take(&mut actions) })).await?;
        let graph = self.graph().await?;
        let is_above = |one: &&Disk| {
            let top = one.top.get();
            graph.backing_of(&one.node(top)) == top.checked_sub(1).map(|below| one.node(below)).as_deref()
        };
        let above = ready.iter().filter(|one| is_above(one)).count();
        assert!(above == 0 || above == ready.len(), "half of a transaction: {above} of {}", ready.len());
        assert!(above > 0 || !answer.is_done(), "a transaction was not done");
        if above == 0 {
            assert!(!matches!(&answer, Answer::Refused(text) if text.is_empty()), "refused without a word");
            ready.iter().for_each(|one| one.top.set(one.top.get() - 1));
        }
        Ok(())
    }

    /// Opens the next overlay of a disk, as long as the disk; whether it is ready.
    async fn prepare_overlay(&mut self, disk: &Disk) -> Result<bool> {
        let overlay = disk.top.get() + 1;
        if !self.graph().await?.has(&disk.node(overlay)) {
            self.change("blockdev-add", node(disk, overlay, None)).await?;
            if !self.graph().await?.has(&disk.node(overlay)) {
                return Ok(false);
            }
        }
        let len_bytes = disk.model.borrow().len();
        let resize = json!({ "node-name": disk.node(overlay), "size": len_bytes });
        Ok(self.change("block_resize", resize).await?.is_done())
    }

    async fn reopen(&mut self, disk: &Disk) -> Result<()> {
        let (graph, top) = (self.graph().await?, disk.top.get());
        let mut wanted = node(disk, top, graph.backing_of(&disk.node(top)));
        if self.is_exported(disk).await? {
            let mut wrong = wanted.clone();
            set(&mut wrong, "read-only", true);
            self.must_not("blockdev-reopen", json!({ "options": [wrong] }), "it has a writer").await?;
        }
        set(&mut wanted, "l2-cache-size", 4096_u64 << self.rng.below(4));
        set(&mut wanted, "discard", "unmap");
        self.change("blockdev-reopen", json!({ "options": [wanted] })).await.map(drop)
    }

    async fn resize_in_use(&mut self, disk: &Disk) -> Result<()> {
        if !self.is_exported(disk).await? {
            return Ok(());
        }
        let resize = json!({ "node-name": disk.node(disk.top.get()), "size": DISK_BYTES_MAX });
        self.must_not("block_resize", resize, "its users were told its length").await
    }

    /// Nobody uses it: it may grow.
    async fn resize(&mut self, disk: &Disk) -> Result<()> {
        let len_bytes = disk.model.borrow().len() + GROWTH_BYTES * self.rng.below(4);
        if len_bytes > DISK_BYTES_MAX {
            return Ok(());
        }
        let top = disk.node(disk.top.get());
        let growth = disk.model.borrow_mut().begin_resize(len_bytes);
        let answer = self.change("block_resize", json!({ "node-name": top, "size": len_bytes })).await?;
        let is_done = match answer {
            Answer::Done(_) => true,
            Answer::Refused(_) => false,
            Answer::Unseen => self.len_of(&top).await? == len_bytes,
        };
        disk.model.borrow_mut().end_write(growth, if is_done { Outcome::Done } else { Outcome::Failed });
        Ok(())
    }

    async fn len_of(&mut self, name: &str) -> Result<u64> {
        let nodes = self.must("query-named-block-nodes", json!({})).await?;
        let node = nodes.as_array().into_iter().flatten().find(|node| node["node-name"] == name);
        Ok(node.and_then(|node| node.pointer("/image/virtual-size")?.as_u64()).unwrap_or(0))
    }

    async fn stream(&mut self, disk: &Disk) -> Result<()> {
        self.monitor().forget_events();
        let speed = if self.rng.one_in(2) { 0 } else { 64 << 20 };
        let stops = self.run.story.is_troubled && self.rng.one_in(2);
        let on_error = if stops { "stop" } else { "report" };
        let top = disk.node(disk.top.get());
        let stream = json!({ "job-id": "job", "device": top, "speed": speed, "on-error": on_error });
        let mut answer = self.change("block-stream", stream).await?;
        for _ in 0..self.rng.below(4) {
            self.pause().await;
            let verb = ["job-pause", "job-resume", "job-cancel"].get(self.rng.index(3)).copied();
            if self.rng.one_in(4) {
                answer = self.vanish(verb.unwrap_or("job-pause"), json!({ "id": "job" })).await?;
            } else {
                let _ = self.call(verb.unwrap_or("job-pause"), json!({ "id": "job" })).await?;
            }
        }
        let _ = self.call("job-resume", json!({ "id": "job" })).await?;
        if answer.is_done() && !stops {
            let is_end = |data: &Value| data["id"] == "job" && data["status"] == "null";
            return self.monitor().event("JOB_STATUS_CHANGE", is_end).await.map(drop);
        }
        self.jobs_end().await
    }

    async fn jobs_end(&mut self) -> Result<()> {
        while self.must("query-jobs", json!({})).await?.as_array().is_some_and(|jobs| !jobs.is_empty()) {
            let _ = self.call("job-resume", json!({ "id": "job" })).await?;
            self.pause().await;
        }
        Ok(())
    }

    /// Takes a disk off the offer, and offers it again, on any thread.
    async fn export_anew(&mut self, disk: &Disk) -> Result<()> {
        if self.is_exported(disk).await? {
            self.unexport(disk).await?;
        }
        if !self.is_exported(disk).await? {
            if self.rng.one_in(2) {
                self.resize(disk).await?;
            }
            self.export(disk).await?;
        }
        Ok(())
    }

    async fn unexport(&mut self, disk: &Disk) -> Result<()> {
        self.monitor().forget_events();
        let id = export_id(disk);
        if self.rng.one_in(2) {
            let delete = json!({ "id": id, "mode": "safe" });
            // It may have clients.
            if !self.call("block-export-del", delete).await?.is_done() {
                return Ok(());
            }
        } else if !self.change("block-export-del", json!({ "id": id, "mode": "hard" })).await?.is_done() {
            return Ok(());
        }
        self.monitor().event("BLOCK_EXPORT_DELETED", |data| data["id"] == id.as_str()).await.map(drop)
    }

    async fn export(&mut self, disk: &Disk) -> Result<()> {
        let mut export =
            json!({ "type": "nbd", "id": export_id(disk), "name": disk.name.to_string(), "writable": true });
        set(&mut export, "node-name", disk.node(disk.top.get()));
        if self.rng.one_in(3) {
            // It is there at times.
            set(&mut export, "iothread", "t1");
            if self.call("block-export-add", export.clone()).await?.is_done() {
                return Ok(());
            }
        }
        set(&mut export, "iothread", "t0");
        self.change("block-export-add", export).await.map(drop)
    }

    /// Sends everybody home, looks at everything once more, and ends the daemon.
    async fn end_calmly(mut self) -> Result<()> {
        let run = self.run.clone();
        run.is_over.set(true);
        // Who waits for a silent server has minutes to go.
        let mut pause_ns = PAUSE_NS;
        while run.at_work.get() > 0 {
            self.local.sleep_until(self.local.now_ns() + self.rng.below(pause_ns)).await;
            pause_ns += pause_ns / 8;
        }
        run.mend();
        self.jobs_end().await?;
        for (number, disk) in run.disks.iter().enumerate() {
            while !self.is_exported(disk).await? {
                self.export(disk).await?;
            }
            // Those who have gone may still be on the way out.
            let client = loop {
                match run.enter(number, &self.local).await {
                    Ok(client) => break client,
                    Err(_) => self.pause().await,
                }
            };
            let whole = GuestRange::new(GuestOffset::ZERO, client.len_bytes());
            assert_eq!(whole.len(), disk.model.borrow().len(), "the length of the disk");
            Watched::new(client.clone(), &disk.model).read(whole).await?;
            if self.rng.one_in(2) {
                let _ = client.leave().await;
            }
        }
        self.monitor().ok("quit", json!({})).await.map(drop)
    }

    /// Ends the daemon while everybody is at work.
    async fn end_at_work(mut self) -> Result<()> {
        let run = self.run.clone();
        if let Some(disk) = run.disks.get(self.rng.index(run.disks.len())) {
            let stream = json!({ "job-id": "job", "device": disk.node(disk.top.get()), "speed": 64 << 20 });
            self.change("block-stream", stream).await?;
        }
        self.pause().await;
        if self.rng.one_in(2) {
            run.mend();
        }
        run.is_over.set(true);
        self.monitor().ok("quit", json!({})).await.map(drop)
    }
}
