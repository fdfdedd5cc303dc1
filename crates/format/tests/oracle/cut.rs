//! Images that a power cut left, looked at by the C tool: it finds no corruption either, as many leaks, and the same bytes.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use drystone_base::{GuestOffset, GuestRange};
use drystone_testkit::crash::{Bounds, CrashPoints, Subject};
use drystone_testkit::disk::SimDisk;
use drystone_testkit::model::{ByteModel, Content};
use drystone_testkit::sim::Sim;

use crate::chain::{demand_consistent, is_data};
use crate::changes::for_each_change;
use crate::common::outcome_of_json;
use crate::scripted::{Known, Scripted};
use crate::state::State;
use crate::tools::{Scratch, run, run_ok};

/// Of so many cut images the C tool sees one.
const SHOWN_ONE_IN: u64 = 8;
/// At least so many in all.
const SHOWN_MIN: u64 = 200;
/// Larger disks are checked, and not compared byte by byte.
const COMPARED_BYTES_MAX: u64 = 3 << 20;

/// A script whose cut images are shown to the C tool, too.
struct Shown<'s> {
    scripted: Scripted<'s>,
    scratch: &'s Scratch,
    seen: Cell<u64>,
    shown: Cell<u64>,
}

impl Subject for Shown<'_> {
    type Known = Known;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Known {
        self.scripted.change(sim, disks)
    }

    fn verify(&self, sim: &Sim, disks: &[SimDisk], known: &Known) -> Known {
        let known = self.scripted.verify(sim, disks, known);
        let seen = self.seen.replace(self.seen.get() + 1);
        if seen.is_multiple_of(SHOWN_ONE_IN) {
            self.shown.set(self.shown.get() + 1);
            self.show(disks);
        }
        known
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], known: Known) -> Known {
        self.scripted.go_on(sim, disks, known)
    }
}

impl Shown<'_> {
    fn show(&self, disks: &[SimDisk]) {
        let paths: Vec<_> = (0..disks.len()).map(|n| self.scratch.path(&format!("layer{n}"))).collect();
        for (disk, path) in disks.iter().zip(&paths) {
            std::fs::write(path, disk.image().to_vec()).unwrap();
        }
        let (chain, image) = (chain(&paths, disks), disks.last().unwrap().image());
        let output = run("qemu-img", "check --output=json", Path::new(&chain));
        let there = outcome_of_json(&String::from_utf8(output.stdout).unwrap());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((there.corruptions, there.check_errors), (0, 0), "{said}");
        assert_eq!(demand_consistent(&image), there, "{said}");
        let len = crate::chain::header(&image).len_guest();
        if len <= COMPARED_BYTES_MAX {
            let raw = self.scratch.path("raw");
            run_ok("qemu-img", &format!("convert -O raw {chain}"), &raw);
            assert!(self.read(disks, len) == std::fs::read(raw).unwrap(), "the C tool reads other bytes");
        }
    }

    /// What our driver reads of the chain, whatever is expected.
    fn read(&self, disks: &[SimDisk], len: u64) -> Vec<u8> {
        let mut model = ByteModel::zeroed(len);
        let _ = model.begin_write(GuestRange::new(GuestOffset::ZERO, len), Content::Any);
        let images = disks.iter().map(SimDisk::image).collect();
        State { images, model, ..self.scripted.state.clone() }.contents().to_vec()
    }
}

/// A chain in the words of the C tool, whatever its images call each other. A data file comes before its image.
fn chain(paths: &[PathBuf], disks: &[SimDisk]) -> String {
    let (mut below, mut data) = ("null".to_owned(), String::new());
    let file_at = |path: &PathBuf| format!(r#"{{"driver":"file","filename":"{}"}}"#, path.display());
    for (n, (path, disk)) in paths.iter().zip(disks).enumerate() {
        if n + 1 < disks.len() && is_data(disk) {
            data = format!(r#","data-file":{}"#, file_at(path));
            continue;
        }
        let file = file_at(path);
        below = format!(r#"{{"driver":"qcow2","file":{file}{data},"backing":{below}}}"#);
        data.clear();
    }
    format!("json:{below}")
}

macro_rules! list_of {
    ($($name:ident: $state:expr, $script:expr;)*) => {
        [$((stringify!($name), (|| $state) as fn() -> State, $script)),*]
    };
}

fn new(kind: &str) -> State {
    State::new(kind)
}

#[test]
fn the_c_tool_agrees_on_cut_images() {
    let scratch = Scratch::new("cut");
    let (mut seen, mut shown) = (0, 0);
    for (name, state, script) in for_each_change!(list_of) {
        let state = state();
        let shows = Shown {
            scripted: Scripted { state: &state, script },
            scratch: &scratch,
            seen: Cell::new(0),
            shown: Cell::new(0),
        };
        let bounds = Bounds { exhaustive_max: 2, samples: 3, torn: 1, ..Bounds::USUAL };
        CrashPoints { bounds, ..CrashPoints::of(name, state.images.clone()) }.look_at(&shows);
        (seen, shown) = (seen + shows.seen.get(), shown + shows.shown.get());
    }
    println!("the C tool has seen {shown} of {seen} cut images");
    assert!(shown >= SHOWN_MIN, "{shown}");
}
