//! Random chains of images and what the image tool does with them, against the bytes that each image has to show.
//!
//! ```text
//!  base <- mid <- top      lengths, clusters, versions and contents by the seed
//!  shows[0] shows[1] shows[2]: what a raw disk would hold after the same writes
//! ```
//! Invariant: an image that a command is not about shows what it showed. Not here: what the commands print (`golden`).

use std::path::{Path, PathBuf};

use crate::common::dice::Dice;
use crate::common::{Scratch, our_tool, run, words};

const NAMES: [&str; 3] = ["base", "mid", "top"];
const SECTOR: usize = 512;

struct Chain {
    scratch: Scratch,
    img: PathBuf,
    io: PathBuf,
    dice: Dice,
    seed: u64,
    cluster: usize,
    /// What each image shows.
    shows: Vec<Vec<u8>>,
}

impl Chain {
    fn new(seed: u64) -> Self {
        let scratch = Scratch::in_memory("chain");
        let (img, io) = (our_tool(&scratch, "qemu-img"), our_tool(&scratch, "qemu-io"));
        let mut dice = Dice::new(seed);
        let cluster = dice.pick(&[4 << 10, 16 << 10, 64 << 10]);
        let mut chain = Self { scratch, img, io, dice, seed, cluster, shows: Vec::new() };
        // A long disk has several workers.
        let longest = if seed.is_multiple_of(4) { 12 << 20 } else { 600 << 10 };
        let usual = (longest / 2 + chain.dice.below(longest / 2)) / SECTOR * SECTOR;
        for level in 0..NAMES.len() {
            let other = (usual / 2 + chain.dice.below(usual)) / SECTOR * SECTOR;
            let len = if chain.dice.once_in(3) { other } else { usual };
            chain.make(level, len);
        }
        chain
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn img(&self, line: &str) {
        let ran = run(&self.img, &words(line), self.dir());
        assert_eq!(ran.status, 0, "seed {}: qemu-img {line}: {}{}", self.seed, ran.stdout, ran.stderr);
    }

    fn make(&mut self, level: usize, len: usize) {
        let mut show = self.shows.last().cloned().unwrap_or_default();
        show.resize(len, 0);
        let below =
            level.checked_sub(1).map_or_else(String::new, |below| format!("-F qcow2 -b {} ", NAMES[below]));
        let extended = if self.cluster >= 16 << 10 && self.dice.once_in(3) { ",extended_l2=on" } else { "" };
        self.img(&format!(
            "create -q -f qcow2 -o cluster_size={}{extended} {below}{} {len}",
            self.cluster, NAMES[level]
        ));
        let mut args = vec!["-f".to_owned(), "qcow2".to_owned()];
        for _ in 0..1 + self.dice.below(6) {
            args.extend(["-c".to_owned(), self.write(&mut show)]);
        }
        args.push(NAMES[level].to_owned());
        let ran = run(&self.io, &args, self.dir());
        assert_eq!(ran.status, 0, "seed {}: {args:?}: {}", self.seed, ran.stderr);
        self.shows.push(show);
    }

    /// One write, made to `show` as well.
    fn write(&mut self, show: &mut [u8]) -> String {
        let whole = self.dice.once_in(3);
        let unit = if whole { self.cluster } else { SECTOR };
        let at = self.dice.below(show.len()) / unit * unit;
        let most = if self.dice.once_in(3) { show.len() } else { 4 * self.cluster };
        let len = (1 + self.dice.below(most)).next_multiple_of(unit).min(show.len() - at);
        let byte = self.dice.byte();
        let (flags, byte) = match self.dice.below(4) {
            0 => ("-z".to_owned(), 0),
            1 if whole && len % self.cluster == 0 => (format!("-c -P {byte}"), byte),
            _ => (format!("-P {byte}"), byte),
        };
        show[at..at + len].fill(byte);
        format!("write {flags} {at} {len}")
    }

    /// What an image shows.
    fn bytes(&self, name: &str) -> Vec<u8> {
        self.img(&format!("check -q {name}"));
        self.img(&format!("convert -f qcow2 -O raw {name} out.raw"));
        let bytes = std::fs::read(self.dir().join("out.raw")).unwrap();
        std::fs::remove_file(self.dir().join("out.raw")).unwrap();
        bytes
    }

    fn demand(&self, name: &str, expected: &[u8], when: &str) {
        let found = self.bytes(name);
        assert_eq!(found.len(), expected.len(), "seed {}: length of {name} {when}", self.seed);
        let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
        let at = differs.map(|at| (at, found[at], expected[at]));
        assert_eq!(at, None, "seed {}: {name} {when}: offset, found, expected", self.seed);
    }

    fn demand_all(&self, when: &str) {
        for (name, show) in NAMES.iter().zip(&self.shows) {
            self.demand(name, show, when);
        }
    }

    /// What `base` shows when `top` was committed to it.
    fn committed(&self, top: usize, base: usize) -> Vec<u8> {
        let mut expected = self.shows[base].clone();
        let top = &self.shows[top];
        expected.resize(expected.len().max(top.len()), 0);
        expected[..top.len()].copy_from_slice(top);
        expected
    }
}

/// A dozen of chains, from `first` on; `DRYSTONE_CHAINS` says how many instead.
fn with_chains(first: u64, test: impl Fn(&mut Chain)) {
    let count = std::env::var("DRYSTONE_CHAINS").map_or(12, |count| count.parse().unwrap());
    for seed in first..first + count {
        test(&mut Chain::new(seed));
    }
}

#[test]
fn what_is_committed_is_in_the_base_and_nothing_else_changes() {
    with_chains(0, |chain| {
        chain.demand_all("before");
        let keeps = chain.dice.pick(&["-d ", ""]);
        chain.img(&format!("commit -q {keeps}top"));
        chain.shows[1] = chain.committed(2, 1);
        chain.demand_all("after a commit");
    });
}

#[test]
fn a_commit_far_down_leaves_the_top_as_it_was() {
    with_chains(100, |chain| {
        chain.img("commit -q -b base top");
        let base = chain.committed(2, 0);
        chain.demand("base", &base, "after a commit through the middle");
        // What a shorter image hides is not seen through it.
        if chain.shows[0].len() == chain.shows[1].len() && chain.shows[1].len() == chain.shows[2].len() {
            chain.demand("top", &chain.shows[2], "after a commit through the middle");
        }
    });
}

#[test]
fn a_rebase_changes_nothing_that_is_seen() {
    with_chains(200, |chain| {
        let compressed = chain.dice.pick(&["-c", "", ""]);
        match chain.dice.below(3) {
            0 => chain.img(&format!("rebase {compressed} -F qcow2 -b base top")),
            1 => chain.img(&format!("rebase {compressed} -b '' top")),
            _ => {
                let len = chain.shows[1].len();
                chain.img(&format!("create -q -f qcow2 other {len}"));
                chain.img(&format!("rebase {compressed} -F qcow2 -b other top"));
            }
        }
        chain.demand_all("after a rebase");
    });
}

#[test]
fn a_conversion_shows_the_same_with_and_without_a_backing_file() {
    with_chains(300, |chain| {
        let compressed = chain.dice.pick(&["-c ", "", ""]);
        let below = chain.dice.pick(&["", "-B mid -F qcow2 ", "-B mid -F qcow2 "]);
        chain.img(&format!("convert {compressed}{below}-f qcow2 -O qcow2 top new"));
        chain.demand("new", &chain.shows[2], &format!("after convert {compressed}{below}"));
        chain.demand_all("after a conversion");
        chain.img("compare -q -f qcow2 -F qcow2 top new");
    });
}
