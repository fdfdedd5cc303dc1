//! What the monitors of the storm ask for.
//!
//! Whatever may change which node is the top of a disk holds the disk's gate together with others of its kind; whatever
//! would destroy something if that changed holds it alone. All other commands meet as they like. Contents of a lower layer
//! never change, so a backing file that was right once is right for ever.
//!
//! Every turn has a generator of its own, out of the seed, the monitor and the number of the turn: what one turn finds
//! does not change what the next one tries.

use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use serde_json::{Value, json};

use super::disks::backing_file;
use super::{CHAINS, DISKS, Disk, LEN_BYTES, Monitor, Rng, Storm, tool};

/// What has to succeed in every run.
pub(super) const KINDS: &[&str] = &[
    "block-export-add",
    "block-export-del",
    "block-job-cancel",
    "block-job-set-speed",
    "block-stream",
    "block_resize",
    "blockdev-add",
    "blockdev-del",
    "blockdev-reopen",
    "blockdev-snapshot",
    "blockdev-snapshot-sync",
    "change-backing-file",
    "job-cancel",
    "job-dismiss",
    "job-finalize",
    "job-pause",
    "job-resume",
    "nbd-server-start",
    "nbd-server-stop",
    "object-add",
    "object-del",
    "qom-list",
    "query-block",
    "query-block-exports",
    "query-block-jobs",
    "query-blockstats",
    "query-commands",
    "query-jobs",
    "query-named-block-nodes",
    "query-qmp-schema",
    "query-version",
    "transaction",
    "x-debug-query-block-graph",
];

/// A disk with more layers than this gets no more of them.
const LAYERS_MAX: usize = 10;
const JOBS_MAX: usize = 5;
const VERBS: [&str; 13] = [
    "job-pause",
    "job-resume",
    "job-cancel",
    "job-complete",
    "job-finalize",
    "job-dismiss",
    "block-job-pause",
    "block-job-resume",
    "block-job-cancel",
    "block-job-complete",
    "block-job-finalize",
    "block-job-dismiss",
    "block-job-set-speed",
];
const QUERIES: [&str; 10] = [
    "query-block",
    "query-block-exports",
    "query-block-jobs",
    "query-blockstats",
    "query-commands",
    "query-jobs",
    "query-named-block-nodes",
    "query-qmp-schema",
    "query-version",
    "x-debug-query-block-graph",
];

/// The options of a disk's export.
pub(super) fn export(disk: usize, node: &str, thread: Option<usize>) -> Value {
    let mut options = json!({"type": "nbd", "id": format!("x{disk}"), "node-name": node, "name": format!("d{disk}"), "writable": true});
    if let Some(thread) = thread {
        options["iothread"] = format!("t{thread}").into();
    }
    options
}

/// The node that copies what is read of a disk.
fn filter(disk: usize) -> String {
    format!("c{disk}")
}

/// The name of a job on a disk.
fn job_id(disk: usize, rest: &str) -> String {
    format!("j{disk}-{rest}")
}

/// A node, as `query-named-block-nodes` tells it, and what is below.
struct Layer {
    node: String,
    info: Value,
}

/// The right to put a layer on a disk.
enum Rise<'d> {
    WithOthers {
        _gate: RwLockReadGuard<'d, ()>,
    },
    /// After a kill it must be clear what was on its way.
    Alone {
        _gate: RwLockWriteGuard<'d, ()>,
    },
}

/// Who sends random commands.
pub(super) struct Author<'s> {
    pub(super) storm: &'s Storm,
    pub(super) monitor: Monitor,
    rng: Rng,
    number: u64,
    turns: u64,
}

impl<'s> Author<'s> {
    pub(super) fn new(storm: &'s Storm, monitor: Monitor, number: u64) -> Self {
        Self { storm, monitor, rng: Rng::new(storm.seed), number, turns: 0 }
    }

    fn rise(&self, disk: &'s Disk) -> Rise<'s> {
        if self.storm.is_deadly {
            Rise::Alone { _gate: disk.close() }
        } else {
            Rise::WithOthers { _gate: disk.share() }
        }
    }

    /// Asks for something that may put layers on disks. Who is killed meanwhile leaves word of it.
    fn ask_for(&mut self, layers: &[(&Disk, &str)], name: &str, arguments: Value) -> Result<Value, String> {
        for (disk, new) in layers {
            // Who was killed before it could tell what has risen is not forgotten.
            disk.rising.lock().unwrap().get_or_insert_with(|| (*new).to_owned());
        }
        let answer = self.ask(name, arguments);
        if answer.is_err() {
            layers.iter().for_each(|(disk, _)| disk.has_risen());
        }
        answer
    }

    fn ask(&mut self, name: &str, arguments: Value) -> Result<Value, String> {
        self.storm.call(&mut self.monitor, &json!({"execute": name, "arguments": arguments}))
    }

    fn disk(&mut self) -> (usize, &'s Disk) {
        let number = self.rng.index(CHAINS);
        (number, &self.storm.disks[number])
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.rng.index(from.len())).cloned()
    }

    fn path(&self, name: &str) -> String {
        self.storm.dir.join(name).to_str().unwrap().to_owned()
    }

    /// One command, with what it needs.
    pub(super) fn turn(&mut self) {
        self.turns += 1;
        self.rng = Rng::new((self.storm.seed << 40) ^ (self.number << 32) ^ self.turns);
        match self.rng.below(104) {
            100..=103 => self.copy_on_read(),
            0..=14 => self.snapshot_sync(),
            15..=19 => self.snapshot(),
            20..=26 => self.transaction(),
            27..=38 => self.reopen(),
            39..=46 => self.stream(),
            47..=60 => self.verb(),
            61..=64 => self.change_backing_file(),
            65..=72 => self.exports(),
            73 => self.server_stop(),
            74..=75 => self.resize(),
            76..=84 => self.tidy_up(),
            85..=89 => self.others(),
            90..=95 => self.query(),
            _ => self.nonsense(),
        }
    }

    /// Some more for commands that did not succeed yet.
    pub(super) fn catch_up(&mut self, missing: &[&str]) {
        for kind in missing {
            match *kind {
                "block-export-add" | "block-export-del" | "nbd-server-start" => self.exports(),
                "nbd-server-stop" => self.server_stop(),
                "block_resize" => self.resize(),
                "blockdev-add" | "blockdev-snapshot" => self.snapshot(),
                "blockdev-del" => self.tidy_up(),
                "blockdev-reopen" => self.reopen(),
                "blockdev-snapshot-sync" => self.snapshot_sync(),
                "change-backing-file" => self.change_backing_file(),
                "transaction" => self.transaction(),
                "object-add" | "object-del" | "qom-list" => self.others(),
                job if job.contains("job") || job == "block-stream" => {
                    self.stream();
                    self.verb();
                }
                _ => self.look_at_all(),
            }
        }
    }

    /// The layers of a disk, in use or not.
    fn layers(&mut self, disk: usize) -> Vec<Layer> {
        let nodes = self.ask("query-named-block-nodes", json!({"flat": true})).unwrap();
        let name = |info: &Value| info["node-name"].as_str().unwrap().to_owned();
        let layer = |info: &Value| Layer { node: name(info), info: info.clone() };
        let (begin, nodes) = (format!("d{disk}-"), nodes.as_array().unwrap().clone());
        let is_layer = |layer: &Layer| layer.node.starts_with(&begin) && layer.info["drv"] == "qcow2";
        nodes.iter().map(layer).filter(is_layer).collect()
    }

    fn is_high(&mut self, disk: usize) -> bool {
        self.layers(disk).len() > LAYERS_MAX
    }

    /// An overlay that nobody has a use for is gone at once, and what is below is the top as before.
    fn risen_if_there(&mut self, disk: &Disk, old: &str, new: &str) {
        let number = new[1..2].parse().unwrap();
        if self.layers(number).iter().any(|layer| layer.node == new) {
            self.risen(disk, old, new);
        }
        disk.has_risen();
    }

    /// `old` was the top when the command was sent. Of two commands that succeed only one can have named it, unless a
    /// stream has taken it out of the chain in between: then `new` stands beside that.
    fn risen(&mut self, disk: &Disk, old: &str, new: &str) {
        let top = {
            let mut top = disk.top.lock().unwrap();
            if *top == old {
                return new.clone_into(&mut top);
            }
            top.clone()
        };
        let graph = self.ask("x-debug-query-block-graph", json!({})).unwrap();
        let below = |node: &String| {
            Self::child(&graph, node, "backing").or_else(|| Self::child(&graph, node, "file"))
        };
        let chain: Vec<String> = std::iter::successors(Some(top), below).collect();
        assert!(
            !chain.iter().any(|node| node == old),
            "'{new}' was put in the middle of the chain {chain:?}"
        );
    }

    fn sync_of(&mut self, number: usize, disk: &Disk) -> (String, String, Value) {
        let new = format!("d{number}-{}", self.storm.name());
        let old = disk.top.lock().unwrap().clone();
        let arguments = json!({"node-name": old, "snapshot-file": self.path(&new), "snapshot-node-name": new, "format": "qcow2"});
        (old, new, arguments)
    }

    fn snapshot_sync(&mut self) {
        let (number, disk) = self.disk();
        if self.is_high(number) {
            return self.stream();
        }
        let _gate = self.rise(disk);
        let (old, new, arguments) = self.sync_of(number, disk);
        if self.ask_for(&[(disk, &new)], "blockdev-snapshot-sync", arguments).is_ok() {
            self.risen_if_there(disk, &old, &new);
        }
    }

    fn snapshot(&mut self) {
        let (number, disk) = self.disk();
        if self.is_high(number) {
            return;
        }
        let _gate = self.rise(disk);
        let old = disk.top.lock().unwrap().clone();
        let Some(layer) = self.layers(number).into_iter().find(|layer| layer.node == old) else { return };
        let (new, len_bytes) =
            (format!("d{number}-{}", self.storm.name()), &layer.info["image"]["virtual-size"]);
        let below = self.path(&old);
        tool(&self.storm.dir, &format!("img create -q -u -f qcow2 -b {below} -F qcow2 {new} {len_bytes}"));
        let file = json!({"driver": "file", "filename": self.path(&new), "node-name": format!("{new}-file")});
        let added = self
            .ask("blockdev-add", json!({"driver": "qcow2", "node-name": new, "file": file, "backing": null}));
        added.unwrap_or_else(|text| panic!("a new image cannot be opened: {text}"));
        let arguments = json!({"node": old, "overlay": new});
        if self.ask_for(&[(disk, &new)], "blockdev-snapshot", arguments).is_ok() {
            self.risen(disk, &old, &new);
            disk.has_risen();
        }
    }

    /// Two snapshots at once, or none of them.
    fn transaction(&mut self) {
        let first = self.rng.index(CHAINS - 1);
        let second = first + 1 + self.rng.index(CHAINS - 1 - first);
        if self.is_high(first) || self.is_high(second) {
            return;
        }
        let disks = [(first, &self.storm.disks[first]), (second, &self.storm.disks[second])];
        let _gates = disks.map(|(_, disk)| self.rise(disk));
        let layers = disks.map(|(number, disk)| self.sync_of(number, disk));
        let mut actions: Vec<Value> =
            layers.iter().map(|(.., data)| json!({"type": "blockdev-snapshot-sync", "data": data})).collect();
        let is_aborted = self.rng.one_in(3);
        if is_aborted {
            actions.insert(self.rng.index(3), json!({"type": "abort", "data": {}}));
        }
        let rising: Vec<(&Disk, &str)> =
            disks.iter().zip(&layers).map(|((_, disk), (_, new, _))| (*disk, new.as_str())).collect();
        let is_done = self.ask_for(&rising, "transaction", json!({"actions": actions})).is_ok();
        assert!(!(is_done && is_aborted), "what was aborted succeeds");
        for ((number, disk), (old, new, _)) in disks.into_iter().zip(&layers) {
            if is_done {
                self.risen_if_there(disk, old, new);
            } else {
                assert!(
                    self.layers(number).iter().all(|layer| layer.node != *new),
                    "a part of it happened: {new}"
                );
            }
        }
    }

    /// Names of the children of a node, by the names of their edges.
    fn child(graph: &Value, node: &str, edge: &str) -> Option<String> {
        let id_of =
            |name: &str| Some(&graph["nodes"].as_array()?.iter().find(|node| node["name"] == name)?["id"]);
        let parent = id_of(node)?;
        let edges = graph["edges"].as_array()?;
        let id = &edges.iter().find(|one| one["parent"] == *parent && one["name"] == edge)?["child"];
        let child = graph["nodes"].as_array()?.iter().find(|node| node["id"] == *id)?;
        Some(child["name"].as_str()?.to_owned())
    }

    /// Other options for up to three nodes of any disks. Who reopens an image has to say what is behind it, and what was
    /// right when it was looked up must be so still: nobody may put layers on or take some out meanwhile.
    fn reopen(&mut self) {
        let storm = self.storm;
        let gates = storm.disks.each_ref().map(|disk| disk.try_close());
        let jobs = self.ask("query-jobs", json!({})).unwrap();
        let is_still = |disk: usize| {
            let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
            gates[disk].is_some()
                && !jobs.as_array().unwrap().iter().any(|job| id(job).starts_with(&job_id(disk, "")))
        };
        let graph = self.ask("x-debug-query-block-graph", json!({})).unwrap();
        let mut options = Vec::new();
        for _ in 0..=self.rng.below(3) {
            if self.rng.one_in(4) {
                let raw = CHAINS + self.rng.index(DISKS - CHAINS);
                let one = self.reopened_file(&format!("d{raw}-0"), &format!("d{raw}-0-file"), &false.into());
                options.retain(|other: &Value| other["node-name"] != one["node-name"]);
                options.push(one);
                continue;
            }
            let (number, _) = self.disk();
            let layers = self.layers(number);
            let Some(node) = layers.get(self.rng.index(layers.len())) else { return };
            let Some(file) = Self::child(&graph, &node.node, "file") else { return };
            let one = if self.rng.one_in(2) || !is_still(number) {
                self.reopened_file(&node.node, &file, &node.info["ro"])
            } else {
                self.reopened_image(node, &file, &graph)
            };
            if options.iter().all(|other: &Value| other["node-name"] != one["node-name"]) {
                options.push(one);
            }
        }
        let _ = self.ask("blockdev-reopen", json!({"options": options}));
    }

    fn reopened_file(&mut self, layer: &str, file: &str, read_only: &Value) -> Value {
        let [cache, discard, detect] = self.settings();
        json!({
            "driver": "file", "node-name": file, "filename": self.path(layer), "discard": discard,
            "cache": cache, "detect-zeroes": detect, "read-only": read_only,
        })
    }

    fn reopened_image(&mut self, node: &Layer, file: &str, graph: &Value) -> Value {
        let [_, discard, detect] = self.settings();
        let below = Self::child(graph, &node.node, "backing");
        let cache_bytes = 65536 << self.rng.below(6);
        json!({
            "driver": "qcow2", "node-name": node.node, "file": file, "backing": below, "discard": discard,
            "detect-zeroes": detect, "read-only": node.info["ro"], "l2-cache-size": cache_bytes,
        })
    }

    fn settings(&mut self) -> [Value; 3] {
        let cache = json!({"direct": self.rng.one_in(2), "no-flush": false});
        let discard = self.pick(&["unmap", "ignore"]).into();
        let detect =
            if discard == "unmap" { self.pick(&["off", "on", "unmap"]) } else { self.pick(&["off", "on"]) };
        [cache, discard, detect.into()]
    }

    fn stream(&mut self) {
        let jobs = self.ask("query-jobs", json!({})).unwrap();
        if jobs.as_array().unwrap().len() >= JOBS_MAX {
            return self.verb();
        }
        let (number, disk) = self.disk();
        let _gate = disk.share();
        let layers: Vec<String> = self.layers(number).into_iter().map(|layer| layer.node).collect();
        let top = disk.top.lock().unwrap().clone();
        let (Some(layer), Some(other)) = (self.pick(&layers), self.pick(&layers)) else { return };
        let device = if self.rng.one_in(3) { layer } else { top };
        let job = self.storm.name();
        let mut arguments = json!({"job-id": job_id(number, &job.to_string()), "device": device});
        match self.rng.below(4) {
            0 => arguments["base-node"] = other.into(),
            1 => arguments["bottom"] = other.into(),
            2 => arguments["base"] = self.path(&other).into(),
            _ => {}
        }
        if self.rng.one_in(2) {
            arguments["speed"] = (100_000 << self.rng.below(8)).into();
        }
        for (option, odds) in [("auto-finalize", 3), ("auto-dismiss", 3)] {
            arguments[option] = (!self.rng.one_in(odds)).into();
        }
        if self.rng.one_in(4) {
            arguments["filter-node-name"] = format!("f{job}").into();
        }
        arguments["on-error"] = self.pick(&["report", "ignore", "stop", "enospc"]).into();
        let _ = self.ask("block-stream", arguments);
    }

    /// Something is done to a job, which may make sense or not.
    fn verb(&mut self) {
        let jobs = self.ask("query-jobs", json!({})).unwrap();
        let Some(job) = self.pick(jobs.as_array().unwrap()) else { return };
        let fitting: &[&str] = match job["status"].as_str().unwrap() {
            "pending" => &["job-finalize", "job-cancel", "block-job-cancel"],
            "concluded" => &["job-dismiss", "block-job-dismiss"],
            "paused" => &["job-resume", "block-job-resume"],
            _ => &["job-pause", "job-cancel", "block-job-set-speed", "block-job-cancel"],
        };
        let verb = if self.rng.one_in(3) { self.pick(&VERBS) } else { self.pick(fitting) }.unwrap();
        let key = if verb.starts_with("job-") || ["block-job-finalize", "block-job-dismiss"].contains(&verb) {
            "id"
        } else {
            "device"
        };
        let mut arguments = json!({key: job["id"]});
        if verb == "block-job-set-speed" {
            arguments["speed"] = self.rng.below(10_000_000).into();
        }
        let answer = self.ask(verb, arguments);
        if verb == "job-pause" && answer.is_ok() && self.rng.one_in(2) {
            let _ = self.ask("job-resume", json!({"id": job["id"]}));
        }
        assert!(answer.is_err() || !verb.ends_with("complete"), "a stream is never ready");
    }

    /// Writes the same name again.
    fn change_backing_file(&mut self) {
        let (number, disk) = self.disk();
        let _gate = disk.close();
        let (layers, top) = (self.layers(number), disk.top.lock().unwrap().clone());
        let is_top = |layer: &&Layer| layer.node == top;
        let any = layers.get(self.rng.index(layers.len()));
        let Some(node) = layers.iter().find(is_top).filter(|_| self.rng.one_in(2)).or(any) else { return };
        let Some(file) = node.info["image"]["backing-filename"].as_str() else { return };
        let arguments = json!({"device": node.node, "image-node-name": node.node, "backing-file": file});
        let _ = self.ask("change-backing-file", arguments);
    }

    /// Takes exports away, or brings them back.
    fn exports(&mut self) {
        let number = self.rng.index(DISKS);
        let disk = &self.storm.disks[number];
        let (id, keeper) = (format!("x{number}"), format!("k{number}"));
        {
            let _gate = disk.share();
            let exports = self.ask("query-block-exports", json!({})).unwrap();
            let is_there = |id: &str| exports.as_array().unwrap().iter().any(|export| export["id"] == *id);
            if is_there(&id) && is_there(&keeper) {
                let mode = self.pick(&["safe", "hard"]);
                let _ = self.ask("block-export-del", json!({"id": id, "mode": mode}));
                return;
            }
        }
        let _gate = disk.close();
        self.open_top(number, disk);
        if !self.add_exports(number, disk) {
            let address = json!({"type": "unix", "data": {"path": self.path("nbd.sock")}});
            let _ = self.ask("nbd-server-start", json!({"addr": address}));
        }
    }

    /// It takes the keepers with it, so nobody may count on them.
    fn server_stop(&mut self) {
        let storm = self.storm;
        let _gates = storm.disks.each_ref().map(|disk| disk.close());
        let _ = self.ask("nbd-server-stop", json!({}));
    }

    /// A layer of `blockdev-snapshot-sync` belongs to those above: it goes with the last export.
    fn open_top(&mut self, number: usize, disk: &Disk) {
        if disk.is_raw() {
            return;
        }
        let top = disk.top.lock().unwrap().clone();
        let layers = self.layers(number);
        if layers.iter().any(|layer| layer.node == top) {
            return;
        }
        let path = self.path(&top);
        let mut node =
            json!({"driver": "qcow2", "node-name": top, "file": {"driver": "file", "filename": path}});
        let backing = backing_file(&path).unwrap();
        if let Some(below) = layers.into_iter().find(|layer| Some(self.path(&layer.node)) == backing) {
            node["backing"] = below.node.into();
        }
        // A job may change meanwhile what is below it; then it is opened next time.
        let _ = self.ask("blockdev-add", node);
    }

    /// Beside the export with the writers a keeper that nobody reads from: while that one goes and comes, the top stays.
    fn add_exports(&mut self, number: usize, disk: &Disk) -> bool {
        let top = disk.top.lock().unwrap().clone();
        let entry = if self.has_filter(number) { filter(number) } else { top };
        let thread = self.pick(&[None, Some(0), Some(1)]).flatten();
        let keeper = format!("k{number}");
        let _ = self.ask(
            "block-export-add",
            json!({"type": "nbd", "id": keeper, "name": keeper, "node-name": entry}),
        );
        self.ask("block-export-add", export(number, &entry, thread)).is_ok()
    }

    fn has_filter(&mut self, number: usize) -> bool {
        let nodes = self.ask("query-named-block-nodes", json!({"flat": true})).unwrap();
        nodes.as_array().unwrap().iter().any(|node| node["node-name"] == filter(number))
    }

    /// Everything that is read is copied up from now on, or not any more. Nobody may write beside that filter.
    fn copy_on_read(&mut self) {
        let (number, disk) = self.disk();
        let _gate = disk.close();
        self.remove_exports(number);
        self.open_top(number, disk);
        if self.has_filter(number) {
            let _ = self.ask("blockdev-del", json!({"node-name": filter(number)}));
        } else {
            let top = disk.top.lock().unwrap().clone();
            let options = json!({"driver": "copy-on-read", "node-name": filter(number), "file": top});
            let _ = self.ask("blockdev-add", options);
        }
        self.add_exports(number, disk);
    }

    fn remove_exports(&mut self, number: usize) {
        for export in ["x", "k"] {
            let _ = self.ask("block-export-del", json!({"id": format!("{export}{number}"), "mode": "hard"}));
        }
    }

    /// A disk with clients keeps its length, so they have to go.
    fn resize(&mut self) {
        let (number, disk) = self.disk();
        let _gate = disk.close();
        self.remove_exports(number);
        self.open_top(number, disk);
        let top = disk.top.lock().unwrap().clone();
        let Some(layer) = self.layers(number).into_iter().find(|layer| layer.node == top) else { return };
        let len_bytes = layer.info["image"]["virtual-size"].as_u64().unwrap();
        if len_bytes < 4 * LEN_BYTES as u64 {
            let more = 4096 * (1 + self.rng.below(16));
            let _ = self.ask("block_resize", json!({"node-name": top, "size": len_bytes + more}));
        }
        self.add_exports(number, disk);
    }

    /// Closes a layer that nobody uses, and removes the files that nothing names any more.
    fn tidy_up(&mut self) {
        let (number, disk) = self.disk();
        let _gate = disk.close();
        let top = disk.top.lock().unwrap().clone();
        let layers = self.layers(number);
        let unused: Vec<String> =
            layers.into_iter().map(|layer| layer.node).filter(|node| *node != top).collect();
        if let Some(layer) = self.pick(&unused) {
            let _ = self.ask("blockdev-del", json!({"node-name": layer}));
        }
        let nodes = self.ask("query-named-block-nodes", json!({})).unwrap();
        self.storm.sweep(number, &format!("{nodes} {top} "));
    }

    /// Nodes and threads that have nothing to do with the disks.
    fn others(&mut self) {
        let name = format!("u{}", self.rng.below(3));
        let _ = match self.rng.below(5) {
            0 => self.ask("blockdev-add", json!({"driver": "null-co", "node-name": name, "size": 1 << 20})),
            1 => self.ask("blockdev-del", json!({"node-name": name})),
            2 => self.ask("object-add", json!({"qom-type": "iothread", "id": name})),
            3 => self.ask("object-del", json!({"id": name})),
            _ => self.ask("qom-list", json!({"path": "/objects"})),
        };
    }

    fn query(&mut self) {
        let query = self.pick(&QUERIES).unwrap();
        self.ask(query, json!({})).unwrap();
    }

    /// Asks for everything that can be asked for.
    pub(super) fn look_at_all(&mut self) {
        for query in QUERIES {
            self.ask(query, json!({})).unwrap();
        }
    }

    fn nonsense(&mut self) {
        let commands = [
            json!({"execute": "dance"}),
            json!({"execute": 7}),
            json!({"nothing": {}}),
            json!({"execute": "blockdev-add", "arguments": {"driver": "qcow2", "node-name": "d0-0"}}),
            json!({"execute": "blockdev-add", "arguments": {"driver": "none", "node-name": "n"}}),
            json!({"execute": "blockdev-del", "arguments": {"node-name": "d1-file"}}),
            json!({"execute": "blockdev-reopen", "arguments": {"options": [{"driver": "qcow2", "node-name": "none", "file": "x"}]}}),
            json!({"execute": "blockdev-snapshot", "arguments": {"node": "d0-base", "overlay": "d1-base"}}),
            json!({"execute": "block-stream", "arguments": {"device": "none"}}),
            json!({"execute": "job-cancel", "arguments": {"id": "none"}}),
            json!({"execute": "block_resize", "arguments": {"node-name": "d2-0", "size": -1}}),
            json!({"execute": "transaction", "arguments": {"actions": [{"type": "abort", "data": {}}]}}),
        ];
        let command = self.pick(&commands).unwrap();
        let answer = self.storm.call(&mut self.monitor, &command);
        assert!(answer.is_err(), "{command} succeeds");
    }
}
