//! The disks of the storm: their files, what is in them, and what they must be at the end.
//!
//! ```text
//!   d0  d1  d2      base ◄─ 0 ◄─ ... ◄─ top     qcow2, clusters of 4, 64, 4 KiB; all of d2 with O_DIRECT
//!   d3  d4          raw, the second with O_DIRECT
//! ```
//! A file's name is the name of its node: `d2-17`.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use serde_json::{Value, json};

use super::{BLOCKS, CHAINS, LEN_BYTES, Storm, tool};
use crate::common::serve::{Serve, drystone};
use crate::common::{run, words};
use crate::load::{BLOCK_BYTES, Load, Safe, check};

/// A disk, as the writers and the monitors see it.
pub(super) struct Disk {
    pub(super) load: Load,
    /// Shared by whoever puts a layer on top; alone is who relies on which one that is.
    gate: RwLock<()>,
    /// The node of the newest layer.
    pub(super) top: Mutex<String>,
    /// What is being put above it.
    pub(super) rising: Mutex<Option<String>>,
    number: usize,
}

impl Disk {
    /// A raw disk, or an image with data below and one layer above.
    pub(super) fn make(dir: &Path, number: usize) -> Self {
        let load = Load::new(BLOCKS);
        if number >= CHAINS {
            tool(dir, &format!("img create -q -f raw d{number}-0 {LEN_BYTES}"));
        } else {
            let option = if number == 1 { "" } else { "-o cluster_size=4k " };
            tool(dir, &format!("img create -q -f qcow2 {option}d{number}-base {LEN_BYTES}"));
            let server = Serve::start(dir, &[&format!("d{number}-base")]).unwrap();
            load.fill(&mut server.connect(""));
            server.stop_cleanly();
            let base = dir.join(format!("d{number}-base"));
            let base = base.display();
            tool(dir, &format!("img create -q -f qcow2 {option}-b {base} -F qcow2 d{number}-0"));
        }
        let top = Mutex::new(format!("d{number}-0"));
        Self { load, gate: RwLock::default(), top, rising: Mutex::default(), number }
    }

    pub(super) fn is_raw(&self) -> bool {
        self.number >= CHAINS
    }

    fn is_direct(&self) -> bool {
        self.number == 2 || self.number == 4
    }

    /// For reports.
    pub(super) fn about(&self) -> String {
        let cache = if self.is_direct() { ", O_DIRECT" } else { "" };
        let format = if self.is_raw() { "raw" } else { "qcow2" };
        format!("({format}{cache})")
    }

    /// What a write must have to outlive a kill.
    pub(super) fn safe(&self) -> Safe {
        if self.is_raw() { Safe::Acknowledged } else { Safe::Flushed }
    }

    /// The options of the node `top`, and of all below that its header names by their paths.
    pub(super) fn node(&self, dir: &Path, top: &str) -> Value {
        let mut node = self.layer(dir, top, false);
        node["discard"] = "unmap".into();
        node["file"]["discard"] = "unmap".into();
        node
    }

    fn layer(&self, dir: &Path, layer: &str, read_only: bool) -> Value {
        let path = dir.join(layer);
        let cache = json!({"direct": self.is_direct()});
        let file =
            json!({"driver": "file", "node-name": format!("{layer}-file"), "filename": path, "cache": cache});
        let driver = if self.is_raw() { "raw" } else { "qcow2" };
        let mut node = json!({"driver": driver, "node-name": layer, "read-only": read_only, "file": file});
        if self.is_raw() {
            return node;
        }
        let named = backing_file(&path).unwrap();
        if let Some(below) = named.as_deref().and_then(|path| Path::new(path).strip_prefix(dir).ok()) {
            node["backing"] = self.layer(dir, below.to_str().unwrap(), true);
        }
        node
    }

    /// The disk's gate, shared. Who held it when the daemon was killed has broken nothing.
    pub(super) fn share(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk's gate, alone.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, if nobody is there.
    pub(super) fn try_close(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.gate.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Nothing is being put on top any more, and who is the top is known.
    pub(super) fn has_risen(&self) {
        *self.rising.lock().unwrap() = None;
    }

    /// The daemon was killed while a layer was put on top. If its file is whole, it is as good as the layer below: either
    /// nothing was written to it, or it was the top already.
    pub(super) fn settle_top(&self, dir: &Path) {
        let Some(new) = self.rising.lock().unwrap().take() else { return };
        let mut top = self.top.lock().unwrap();
        let is_whole = [0, 3].contains(&run(&drystone(), &words(&format!("img check {new}")), dir).status);
        if is_whole && backing_file(dir.join(&new)).unwrap().is_some_and(|below| below.contains(&*top)) {
            *top = new;
        }
    }

    /// The files of the chain, from the top down.
    fn files(&self, dir: &Path) -> Vec<String> {
        let top = self.top.lock().unwrap().clone();
        let chain = tool(dir, &format!("img info --backing-chain --output json {top}"));
        let chain: Value = serde_json::from_str(&chain).unwrap();
        let file = |layer: &Value| layer["filename"].as_str().unwrap().to_owned();
        chain.as_array().unwrap().iter().map(file).collect()
    }

    /// Space may be wasted by a kill, nothing else. Looks at so many layers, from the top down.
    pub(super) fn demand_consistent(&self, dir: &Path, layers: usize) {
        if self.is_raw() {
            return;
        }
        for file in self.files(dir).into_iter().take(layers) {
            let ran = run(&drystone(), &words(&format!("img check {file}")), dir);
            assert!([0, 3].contains(&ran.status), "{file}: {}{}", ran.stdout, ran.stderr);
        }
    }

    /// The disk holds what the writers know, and every layer of it is whole.
    fn examine(&self, dir: &Path, may_leak: bool) {
        let top = self.top.lock().unwrap().clone();
        if may_leak {
            self.demand_consistent(dir, usize::MAX);
        } else if !self.is_raw() {
            for file in self.files(dir) {
                assert!(tool(dir, &format!("img check {file}")).contains("No errors"), "{file}");
            }
        }
        let args = [top.as_str(), "--read-only", "--format", if self.is_raw() { "raw" } else { "qcow2" }];
        let server = Serve::start(dir, &args).unwrap();
        let bytes = server.connect("").read_all().unwrap();
        server.stop_cleanly();
        check(&bytes, &self.load.all_known(), &format!("disk {}", self.number));
        assert!(
            bytes[BLOCKS * BLOCK_BYTES..].iter().all(|byte| *byte == 0),
            "nobody wrote behind the blocks"
        );
    }
}

impl Storm {
    /// See [`Disk::examine`]; and the daemon has left nothing behind.
    pub(super) fn examine(&self) {
        for disk in &self.disks {
            disk.examine(&self.dir, self.is_deadly);
        }
        let is_ours = |name: &String| !name.starts_with('d') && name != "stderr";
        let left: BTreeSet<String> = std::fs::read_dir(&self.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(is_ours)
            .collect();
        assert!(left.is_empty(), "the daemon leaves {left:?}");
    }

    /// Removes the files of a disk that nothing names: not `known`, which is all that the daemon says of its nodes, nor a
    /// header of what that names. Nobody may be about to make or name one.
    pub(super) fn sweep(&self, number: usize, known: &str) {
        let mut named = names_in(known, number);
        let mut todo: Vec<String> = named.iter().cloned().collect();
        while let Some(name) = todo.pop() {
            // A file that was not made after all, or is none of an image, names nothing.
            let backing = backing_file(self.dir.join(name)).ok().flatten().unwrap_or_default();
            todo.extend(names_in(&backing, number).into_iter().filter(|name| named.insert(name.clone())));
        }
        let begin = format!("d{number}-");
        for entry in std::fs::read_dir(&self.dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with(&begin) && !named.contains(&name) {
                std::fs::remove_file(self.dir.join(name)).unwrap();
            }
        }
    }
}

/// The files of a disk that a text names.
fn names_in(text: &str, number: usize) -> BTreeSet<String> {
    let begin = format!("d{number}-");
    let rest_of = |rest: &str| rest.chars().take_while(char::is_ascii_alphanumeric).collect::<String>();
    text.split(begin.as_str()).skip(1).map(|rest| begin.clone() + &rest_of(rest)).collect()
}

/// What a qcow2 file names as its backing file. Spec "Header": its offset and its length.
pub(super) fn backing_file(path: impl AsRef<Path>) -> io::Result<Option<String>> {
    let mut header = [0; 20];
    let file = std::fs::File::open(path)?;
    file.read_exact_at(&mut header, 0)?;
    let at = u64::from_be_bytes(header[8..16].try_into().unwrap());
    let mut name = vec![0; u32::from_be_bytes(header[16..20].try_into().unwrap()) as usize];
    file.read_exact_at(&mut name, at)?;
    Ok((at != 0).then(|| String::from_utf8(name).unwrap()))
}

#[test]
fn files_are_found_in_texts() {
    let text =
        r#"json:{"backing":{"file":{"filename":"/tmp/x/d1-12"}},"node":"d1-base-file","other":"d11-3"}"#;
    assert_eq!(names_in(text, 1).into_iter().collect::<Vec<_>>(), ["d1-12", "d1-base"]);
}
