//! Random commands of the image tool, one after the other, on images that lie on each other, against the bytes that each of
//! them has to show.
//!
//! Whatever a command does to one image, every other one shows what it showed, and all check clean. A command that fails
//! has changed nothing that is seen. Not here: what commands print and which of them fail (`golden`).

use std::path::{Path, PathBuf};

use crate::common::dice::Dice;
use crate::common::{Scratch, our_tool, run, words};

const SECTOR: usize = 512;
const LEN_MAX: usize = 700 << 10;
const STEPS: usize = 14;

/// An image, and what is known of it.
struct Image {
    name: String,
    format: &'static str,
    is_v2: bool,
    cluster: usize,
    shows: Vec<u8>,
    backing: Option<usize>,
    /// Internal snapshots: their names and what they hold.
    snapshots: Vec<(String, Vec<u8>)>,
}

struct Story {
    scratch: Scratch,
    img: PathBuf,
    io: PathBuf,
    dice: Dice,
    seed: u64,
    images: Vec<Image>,
    /// What was done, for whoever has to find out.
    told: Vec<String>,
    names: usize,
}

/// A change of what an image shows, made when its command has succeeded.
type Change = Box<dyn FnOnce(&mut Image)>;

impl Story {
    fn new(seed: u64) -> Self {
        let scratch = Scratch::in_memory("story");
        let (img, io) = (our_tool(&scratch, "qemu-img"), our_tool(&scratch, "qemu-io"));
        Self { scratch, img, io, dice: Dice::new(seed), seed, images: Vec::new(), told: Vec::new(), names: 0 }
    }

    fn run(&mut self, program: &Path, args: &[String]) -> bool {
        let ran = run(program, args, self.scratch.path());
        self.told.push(format!("{} -> {} {}", args.join(" "), ran.status, ran.stderr.trim()));
        assert!(ran.status < 128, "seed {}: {:#?}", self.seed, self.told);
        ran.status == 0
    }

    /// Whether the command succeeded.
    fn img(&mut self, line: &str) -> bool {
        let program = self.img.clone();
        self.run(&program, &words(line))
    }

    fn len(&mut self) -> usize {
        (1 + self.dice.below(LEN_MAX / SECTOR)) * SECTOR
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("i{}", self.names)
    }

    /// Options of a new qcow2 image, its clusters, and whether it has version 2.
    fn shape(&mut self) -> (String, usize, bool) {
        let cluster = self.dice.pick(&[512, 4 << 10, 16 << 10, 64 << 10]);
        let is_v2 = self.dice.once_in(5);
        let mut options = format!("cluster_size={cluster}");
        if is_v2 {
            options.push_str(",compat=0.10");
        } else {
            options.push_str(match self.dice.below(6) {
                0 if cluster >= 16 << 10 => ",extended_l2=on",
                1 => ",refcount_bits=64",
                2 => ",compression_type=zstd",
                3 => ",lazy_refcounts=on",
                _ => "",
            });
        }
        (options, cluster, is_v2)
    }

    fn create(&mut self) {
        let (name, len) = (self.name(), self.len());
        let backing =
            (!self.images.is_empty() && !self.dice.once_in(3)).then(|| self.dice.below(self.images.len()));
        if backing.is_none() && self.dice.once_in(4) {
            if self.img(&format!("create -q -f raw {name} {len}")) {
                self.add(name, ("raw", false, SECTOR), vec![0; len], None);
            }
            return;
        }
        let (mut options, cluster, is_v2) = self.shape();
        let mut below = String::new();
        let mut shows = Vec::new();
        if let Some(image) = backing.map(|index| &self.images[index]) {
            below = format!("-F {} -b {} ", image.format, image.name);
            shows.clone_from(&image.shows);
        } else {
            options.push_str(self.dice.pick(&["", ",preallocation=metadata", ",preallocation=falloc"]));
        }
        shows.resize(len, 0);
        if self.img(&format!("create -q -f qcow2 -o {options} {below}{name} {len}")) {
            self.add(name, ("qcow2", is_v2, cluster), shows, backing);
        }
    }

    fn add(
        &mut self,
        name: String,
        (format, is_v2, cluster): (&'static str, bool, usize),
        shows: Vec<u8>,
        backing: Option<usize>,
    ) {
        self.images.push(Image { name, format, is_v2, cluster, shows, backing, snapshots: Vec::new() });
    }

    /// An image on which none lies.
    fn top(&mut self) -> usize {
        let is_top = |index: &usize| self.images.iter().all(|image| image.backing != Some(*index));
        let tops: Vec<usize> = (0..self.images.len()).filter(is_top).collect();
        self.dice.pick(&tops)
    }

    fn any(&mut self) -> usize {
        self.dice.below(self.images.len())
    }

    fn write(&mut self) {
        let top = self.top();
        let mut shows = self.images[top].shows.clone();
        let mut args = vec!["-f".to_owned(), self.images[top].format.to_owned()];
        for _ in 0..1 + self.dice.below(4) {
            let command = self.one_write(top, &mut shows);
            args.extend(["-c".to_owned(), command]);
        }
        args.push(self.images[top].name.clone());
        let program = self.io.clone();
        assert!(self.run(&program, &args), "seed {}: {:#?}", self.seed, self.told);
        self.images[top].shows = shows;
    }

    fn one_write(&mut self, top: usize, shows: &mut [u8]) -> String {
        let image = &self.images[top];
        let (cluster, is_qcow2) = (image.cluster, image.format == "qcow2");
        let shows_through = image.is_v2 && image.backing.is_some();
        let is_whole = self.dice.once_in(2);
        let unit = if is_whole { cluster } else { SECTOR };
        let at = self.dice.below(shows.len()) / unit * unit;
        let most = if self.dice.once_in(4) { shows.len() } else { 5 * cluster };
        let len = (1 + self.dice.below(most)).next_multiple_of(unit).min(shows.len() - at);
        let is_cluster = is_whole && len.is_multiple_of(cluster);
        let byte = self.dice.byte();
        let (command, byte) = match self.dice.below(6) {
            0 => ("write -z".to_owned(), 0),
            1 => ("write -z -u".to_owned(), 0),
            2 if is_cluster && is_qcow2 && !shows_through => ("discard".to_owned(), 0),
            3 if is_cluster && is_qcow2 => (format!("write -c -P {byte}"), byte),
            _ => (format!("write -P {byte}"), byte),
        };
        shows[at..at + len].fill(byte);
        format!("{command} {at} {len}")
    }

    fn convert(&mut self) {
        let (source, name) = (self.any(), self.name());
        let (options, cluster, is_v2) = self.shape();
        let (image, work) = (
            &self.images[source],
            ["", "-W ", "-m 1 ", "-S 64k ", "-S 0 ", "-c ", "-p "][self.dice.below(7)],
        );
        let mut shows = image.shows.clone();
        let (from, format) = (image.name.clone(), image.format);
        let backing = image.backing.filter(|_| self.dice.once_in(2));
        let mut line = format!("convert {work}-f {format} ");
        if let Some(below) = backing.map(|index| &self.images[index]) {
            line.push_str(&format!("-B {} -F {} -O qcow2 -o {options} {from} ", below.name, below.format));
        } else if self.dice.once_in(4) && !work.contains("-c") {
            if self.img(&format!("{line}-O raw {from} {name}")) {
                self.add(name, ("raw", false, SECTOR), shows, None);
            }
            return;
        } else {
            line.push_str(&format!("-O qcow2 -o {options} {from} "));
            let second = self.any();
            if self.images[second].format == format && self.dice.once_in(5) {
                shows.extend_from_slice(&self.images[second].shows);
                line.push_str(&format!("{} ", self.images[second].name));
            }
        }
        if self.img(&format!("{line}{name}")) {
            self.add(name, ("qcow2", is_v2, cluster), shows, backing);
        }
    }

    fn lies_on(&self, mut image: usize, other: usize) -> bool {
        loop {
            match (image == other, self.images[image].backing) {
                (true, _) => return true,
                (false, Some(below)) => image = below,
                (false, None) => return false,
            }
        }
    }

    fn rebase(&mut self) {
        let (image, other) = (self.any(), self.any());
        let compressed = self.dice.pick(&["-c ", "", "", "-p "]);
        let name = self.images[image].name.clone();
        if self.dice.once_in(3) {
            if self.img(&format!("rebase {compressed}-f qcow2 -b '' {name}")) {
                self.lies_on_now(image, None);
            }
        } else if !self.lies_on(other, image) {
            let (below, format) = (self.images[other].name.clone(), self.images[other].format);
            if self.img(&format!("rebase {compressed}-f qcow2 -F {format} -b {below} {name}")) {
                self.lies_on_now(image, Some(other));
            }
        }
    }

    /// Its snapshots show what is below, too, and that has changed.
    fn lies_on_now(&mut self, image: usize, backing: Option<usize>) {
        self.images[image].backing = backing;
        self.images[image].snapshots.clear();
    }

    fn commit(&mut self) {
        let top = self.top();
        let Some(base) = self.images[top].backing else { return };
        // Whatever else lies on the base shows other bytes afterwards.
        if self.images.iter().filter(|image| image.backing == Some(base)).count() > 1 {
            return;
        }
        let keeps = self.dice.pick(&["-d ", "", "-p ", "-r 1G "]);
        let name = self.images[top].name.clone();
        if self.img(&format!("commit {keeps}-f qcow2 {name}")) {
            let from = self.images[top].shows.clone();
            let shows = &mut self.images[base].shows;
            shows.resize(shows.len().max(from.len()), 0);
            shows[..from.len()].copy_from_slice(&from);
            self.lies_on_now(top, Some(base));
        }
    }

    fn resize(&mut self) {
        let (top, len) = (self.top(), self.len());
        let image = &self.images[top];
        let how = if len < image.shows.len() {
            "--shrink "
        } else {
            self.dice.pick(&["", "--preallocation=falloc "])
        };
        let line = format!("resize -q {how}-f {} {} {len}", image.format, image.name);
        self.change(top, &line, Box::new(move |image| image.shows.resize(len, 0)));
    }

    fn snapshot(&mut self) {
        let top = self.top();
        let tag = self.name();
        let image = &self.images[top];
        let name = image.name.clone();
        let old = image.snapshots.get(self.dice.below(image.snapshots.len().max(1))).cloned();
        match (old, self.dice.below(3)) {
            (Some((tag, bytes)), 1) => {
                self.change(
                    top,
                    &format!("snapshot -q -a {tag} {name}"),
                    Box::new(|image| image.shows = bytes),
                );
            }
            (Some((tag, _)), 2) => {
                let line = format!("snapshot -q -d {tag} {name}");
                self.change(
                    top,
                    &line,
                    Box::new(move |image| image.snapshots.retain(|(name, _)| *name != tag)),
                );
            }
            _ => {
                let line = format!("snapshot -q -c {tag} {name}");
                self.change(top, &line, Box::new(|image| image.snapshots.push((tag, image.shows.clone()))));
            }
        }
    }

    fn amend(&mut self) {
        let image = self.any();
        let options =
            ["compat=1.1", "compat=0.10", "refcount_bits=8", "refcount_bits=32", "lazy_refcounts=off"];
        let option = self.dice.pick(&options);
        let name = self.images[image].name.clone();
        let change: Change = Box::new(move |image| match option {
            "compat=1.1" => image.is_v2 = false,
            "compat=0.10" => image.is_v2 = true,
            _ => {}
        });
        self.change(image, &format!("amend -q -f qcow2 -o {option} {name}"), change);
    }

    fn change(&mut self, image: usize, line: &str, change: Change) {
        if self.img(line) {
            change(&mut self.images[image]);
        }
    }

    fn step(&mut self) {
        match self.dice.below(16) {
            _ if self.images.is_empty() => self.create(),
            0 | 1 => self.create(),
            2..=5 => self.write(),
            6 | 7 => self.convert(),
            8 | 9 => self.rebase(),
            10 | 11 => self.commit(),
            12 => self.resize(),
            13 | 14 => self.snapshot(),
            _ => self.amend(),
        }
    }

    /// Every image shows what it has to, and so do its snapshots.
    fn demand_all(&mut self) {
        for index in 0..self.images.len() {
            let Image { name, format, shows, snapshots, .. } = &self.images[index];
            let mut wanted = vec![(format!("convert -f {format} -O raw {name} out"), shows.clone())];
            for (tag, bytes) in snapshots {
                wanted.push((format!("convert -l {tag} -f {format} -O raw {name} out"), bytes.clone()));
            }
            if *format == "qcow2" {
                let line = format!("check -q -f qcow2 {name}");
                assert!(self.img(&line), "seed {}: {:#?}", self.seed, self.told);
            }
            for (line, expected) in wanted {
                assert!(self.img(&line), "seed {}: {:#?}", self.seed, self.told);
                let found = std::fs::read(self.scratch.path().join("out")).unwrap();
                let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
                let found = (found.len(), differs.map(|at| (at, found[at], expected[at])));
                assert_eq!(found, (expected.len(), None), "seed {}: {line}: {:#?}", self.seed, self.told);
            }
        }
    }
}

/// So many stories, from `first` on; `DRYSTONE_STORIES` says how many instead.
fn stories(first: u64) {
    let count = std::env::var("DRYSTONE_STORIES").map_or(8, |count| count.parse().unwrap());
    for seed in first..first + count {
        let mut story = Story::new(seed);
        for _ in 0..STEPS {
            story.step();
            story.demand_all();
        }
    }
}

#[test]
fn whatever_is_done_to_images_no_byte_is_lost() {
    stories(0);
}

#[test]
fn whatever_else_is_done_to_images_no_byte_is_lost() {
    stories(1_000_000);
}
