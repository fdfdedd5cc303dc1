//! The file that `convert -c` makes: the same each time, whoever compresses what; with `-W` another one that shows the same.

use std::path::{Path, PathBuf};

use crate::common::dice::Dice;
use crate::common::{Scratch, our_tool, run, words};

const CLUSTER: usize = 64 << 10;

struct Converted {
    scratch: Scratch,
    img: PathBuf,
}

impl Converted {
    /// Beside a disk of runs of words, noise and zeroes, with a last cluster that is no whole one.
    fn new() -> Self {
        let scratch = Scratch::in_memory("compressed");
        let mut dice = Dice::new(7);
        let mut bytes = Vec::new();
        while bytes.len() < 8 << 20 {
            let clusters = CLUSTER * (1 + dice.below(12));
            match dice.below(3) {
                0 => bytes.extend((0..clusters).map(|_| dice.byte())),
                1 => bytes.extend((0..clusters).map(|_| dice.pick(b"drystone"))),
                _ => bytes.resize(bytes.len() + clusters, 0),
            }
        }
        bytes.extend(b"the last cluster is short".repeat(100));
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        std::fs::write(scratch.path().join("disk"), bytes).unwrap();
        let img = our_tool(&scratch, "qemu-img");
        Self { scratch, img }
    }

    #[track_caller]
    fn img(&self, line: &str) {
        let ran = run(&self.img, &words(line), self.scratch.path());
        assert_eq!(ran.status, 0, "{line}: {}{}", ran.stdout, ran.stderr);
    }

    /// What a conversion with these options makes; it shows the disk and is whole.
    #[track_caller]
    fn convert(&self, options: &str) -> Vec<u8> {
        self.img(&format!("convert -c {options} -f raw -O qcow2 disk made"));
        self.img("compare -f raw -F qcow2 disk made");
        self.img("check -f qcow2 made");
        std::fs::read(self.scratch.path().join(Path::new("made"))).unwrap()
    }
}

#[test]
fn a_compressed_conversion_makes_the_same_file_each_time() {
    let converted = Converted::new();
    for kind in ["zlib", "zstd"] {
        let kind = format!("-o compression_type={kind}");
        let alone = converted.convert(&format!("{kind} -m 1"));
        for requests in [2, 8, 16] {
            assert!(
                converted.convert(&format!("{kind} -m {requests}")) == alone,
                "{kind}, {requests} requests"
            );
        }
    }
}

#[test]
fn a_compressed_conversion_in_any_order_shows_the_same() {
    let converted = Converted::new();
    for requests in [1, 3, 16] {
        converted.convert(&format!("-W -m {requests}"));
    }
}
