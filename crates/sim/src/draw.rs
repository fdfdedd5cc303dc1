//! [`draw`]: a script at random.
//!
//! Disks are small and their clusters few, so that requests meet; runs are short, so that there are many of them.

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_job::OnError;
use drystone_testkit::disk::{FaultEffect, OpKind};

use crate::after::{After, Deed};
use crate::image::{DataKind, Format, ImageSpec, Qcow2Kind};
use crate::run::Options;
use crate::script::{Actor, DiskSpec, Script};
use crate::step::{
    BitmapVerb, Change, FaultSpec, JobStep, KeepVerb, Part, Peer, Reach, Request, Step, Stream, Target,
    Trouble, VisitKind,
};

/// A generator with a taste.
struct Draw {
    rng: Rng,
}

/// The script of `seed`.
#[must_use]
pub fn draw(seed: u64, options: &Options) -> Script {
    let mut draw = Draw { rng: Rng::new(seed ^ 0x0073_6372_6970_7400) };
    let threads = if draw.rng.one_in(3) { 3 } else { 2 };
    let mut script = Script {
        seed,
        threads,
        images: Vec::new(),
        disks: Vec::new(),
        actors: Vec::new(),
        afters: Vec::new(),
    };
    draw.images(&mut script);
    draw.actors(&mut script, options.steps.max(1));
    draw.afters(&mut script);
    script
}

impl Draw {
    /// One or two disks; two have the image at the bottom in common.
    fn images(&mut self, script: &mut Script) {
        let cluster_bytes = self.cluster_bytes();
        let len = cluster_bytes * (8 + self.rng.below(24));
        let bottom = self.image(len, None);
        script.images.push(bottom);
        let disk_count = if self.rng.one_in(3) { 2 } else { 1 };
        for _ in 0..disk_count {
            let mut below = 0;
            let more = self.rng.below(3) + u64::from(disk_count > 1);
            for _ in 0..more.min(3) {
                let image = self.image(len, Some(below));
                below = script.images.len();
                script.images.push(image);
            }
            script.disks.push(DiskSpec { image: below, resizes: self.rng.one_in(5) });
        }
    }

    /// Images are committed and amended afterwards, in one script of four.
    fn afters(&mut self, script: &mut Script) {
        if !self.rng.one_in(4) {
            return;
        }
        for _ in 0..=self.rng.below(3) {
            let deed = match self.rng.below(6) {
                0..3 => Deed::Commit,
                3 => Deed::Version(2 + u32::from(self.rng.one_in(2))),
                _ => Deed::Refcount(1 << self.rng.below(7)),
            };
            let cut = self.rng.one_in(2).then(|| self.rng.below(80));
            script.afters.push(After { disk: self.rng.index(2), deed, cut });
        }
    }

    /// An image about as long as others of its chain.
    fn image(&mut self, len: u64, backing: Option<usize>) -> ImageSpec {
        let len = match self.rng.below(6) {
            0 => len / 2 + 512,
            1 => len + 512 * self.rng.below(20),
            _ => len,
        };
        let format = match backing {
            None if self.rng.one_in(3) => Format::Raw,
            None => Format::Qcow2(self.bottom_kind()),
            Some(_) => Format::Qcow2(self.kind()),
        };
        let fill = if self.rng.one_in(4) { 0 } else { 1 + self.rng.below(1000) };
        ImageSpec { format, len: len.next_multiple_of(512), backing, fill }
    }

    fn cluster_bytes(&mut self) -> u64 {
        match self.rng.below(8) {
            0..4 => 4096,
            4..7 => 512,
            _ => 1024,
        }
    }

    fn kind(&mut self) -> Qcow2Kind {
        let is_v2 = self.rng.one_in(5);
        let is_extended = !is_v2 && self.rng.one_in(5);
        let refcount_bits = if is_v2 || self.rng.one_in(2) { 16 } else { 1 << self.rng.below(7) };
        let cluster_bytes = if is_extended { 16 << 10 } else { self.cluster_bytes() };
        let has_data_file = !is_v2 && self.rng.one_in(8);
        let data = if has_data_file { DataKind::Apart } else { DataKind::Inside };
        Qcow2Kind { cluster_bytes, refcount_bits, is_v2, is_extended, data }
    }

    /// Of an image with nothing behind it.
    fn bottom_kind(&mut self) -> Qcow2Kind {
        let kind = self.kind();
        let is_raw = kind.data == DataKind::Apart && self.rng.one_in(2);
        Qcow2Kind { data: if is_raw { DataKind::Raw } else { kind.data }, ..kind }
    }

    fn actors(&mut self, script: &mut Script, steps: u64) {
        let len = script.images.iter().map(|image| image.len).max().unwrap_or(512);
        let has_jobs = self.rng.one_in(2);
        for disk in 0..script.disks.len() {
            let lanes = 2 + self.rng.below(3);
            for _ in 0..lanes {
                let steps = self.guest(len, steps);
                script.actors.push(self.actor(script.threads, disk, steps));
            }
            let operator = self.operator(steps / 2 + 1);
            script.actors.push(self.actor(script.threads, disk, operator));
            if has_jobs {
                let worker = self.worker(steps / 2 + 1);
                script.actors.push(self.actor(script.threads, disk, worker));
            }
        }
        if self.rng.one_in(4) {
            let steps = self.client(len, steps);
            script.actors.push(self.actor(script.threads, 0, steps));
        }
        if self.rng.one_in(3) {
            let steps = self.misfortunes();
            script.actors.push(self.actor(script.threads, 0, steps));
        }
        if self.rng.one_in(4) {
            let steps = vec![self.wait(3_000_000), Step::Trouble(Trouble::Cut(self.rng.below(120)))];
            script.actors.push(self.actor(script.threads, 0, steps));
        }
    }

    fn actor(&mut self, threads: u16, disk: usize, steps: Vec<Step>) -> Actor {
        let thread = 1 + u16::try_from(self.rng.below(u64::from(threads))).unwrap_or(0);
        Actor { disk, thread, steps }
    }

    fn some(&mut self, steps: u64) -> u64 {
        1 + self.rng.below(2 * steps)
    }

    /// Somebody who makes requests.
    fn guest(&mut self, len: u64, steps: u64) -> Vec<Step> {
        let comes_and_goes = self.rng.one_in(4);
        let mut list = Vec::new();
        for _ in 0..self.some(steps) {
            let step = match self.rng.below(16) {
                0 => self.wait(1_000_000),
                1 if comes_and_goes => Step::Change(self.visit()),
                2 => Step::Abandon(self.rng.below(12), Box::new(Step::Request(self.request(len)))),
                _ => Step::Request(self.request(len)),
            };
            list.push(step);
        }
        list
    }

    /// Somebody who makes requests over NBD.
    fn client(&mut self, len: u64, steps: u64) -> Vec<Step> {
        let mut list = vec![self.wait(1_000_000), Step::Peer(Peer::Connect)];
        for _ in 0..self.some(steps) {
            let step = match self.rng.below(16) {
                0 => self.wait(1_000_000),
                1..3 => Step::Peer(Peer::Stall),
                3 => Step::Peer(Peer::Disconnect),
                4 => Step::Peer(Peer::Vanish),
                5 => Step::Peer(Peer::Connect),
                _ => Step::Request(self.request(len)),
            };
            list.push(step);
        }
        list
    }

    /// Somebody who changes the graph.
    fn operator(&mut self, steps: u64) -> Vec<Step> {
        let keeps = self.rng.one_in(4);
        let mut list = Vec::new();
        for _ in 0..self.some(steps) {
            let change = match self.rng.below(29) {
                _ if keeps && self.rng.one_in(3) => Change::Keep(self.keep_verb(), self.rng.index(3)),
                0..6 => Change::Snapshot(self.kind()),
                6 => Change::DoomedSnapshot(self.kind()),
                7..12 => Change::Drain(self.target(), self.rng.below(500_000)),
                12..14 => Change::Reopen(self.rng.index(4), 4096 << (4 * self.rng.below(3))),
                14 => Change::Freeze,
                15 => Change::Thaw,
                16 => Change::Grow(512 * (1 + self.rng.below(16))),
                17..19 => Change::Filter(true),
                19 => Change::Filter(false),
                20 => Change::Delete,
                21 => Change::Bitmap(self.bitmap_verb(), self.rng.below(3)),
                22..24 => Change::Keep(self.keep_verb(), self.rng.index(3)),
                24..26 => Change::Shorten(512 * (1 + self.rng.below(32))),
                26 => Change::Lazy(self.rng.one_in(2)),
                _ => {
                    list.push(self.wait(1_500_000));
                    continue;
                }
            };
            // Nobody notices a read-only disk that stays one.
            let is_frozen = change == Change::Freeze;
            let step = Step::Change(change);
            list.push(if self.rng.one_in(10) {
                Step::Abandon(self.rng.below(12), Box::new(step))
            } else {
                step
            });
            if is_frozen {
                list.push(self.wait(300_000));
                list.push(Step::Change(Change::Thaw));
            }
        }
        list
    }

    fn bitmap_verb(&mut self) -> BitmapVerb {
        // They come more often than they go.
        let place = self.rng.index(2 * BitmapVerb::ALL.len());
        BitmapVerb::ALL.get(place).copied().unwrap_or(BitmapVerb::Add)
    }

    fn keep_verb(&mut self) -> KeepVerb {
        match self.rng.below(5) {
            0..2 => KeepVerb::Take,
            2..4 => KeepVerb::Apply,
            _ => KeepVerb::Forget,
        }
    }

    /// Somebody who works with jobs.
    fn worker(&mut self, steps: u64) -> Vec<Step> {
        let mut list = vec![self.wait(2_000_000), self.stream()];
        for _ in 0..self.some(steps) {
            let step = match self.rng.below(16) {
                0..2 => self.stream(),
                2..6 => Step::Job(JobStep::Pause),
                6..8 => Step::Job(JobStep::Resume),
                8 => Step::Job(JobStep::Cancel(self.rng.one_in(3))),
                9 => Step::Job(JobStep::Complete),
                10..12 => Step::Job(JobStep::Finalize),
                12 => Step::Job(JobStep::Speed(self.speed())),
                13 => Step::Change(Change::Delete),
                _ => self.wait(2_000_000),
            };
            list.push(step);
        }
        list
    }

    fn stream(&mut self) -> Step {
        let reach = match self.rng.below(4) {
            0..2 => Reach::All,
            2 => Reach::Base(1 + self.rng.index(3)),
            _ => Reach::Bottom(self.rng.index(3)),
        };
        let policies = [OnError::Report, OnError::Ignore, OnError::Enospc, OnError::Stop, OnError::Auto];
        let on_error = policies.get(self.rng.index(policies.len())).copied().unwrap_or_default();
        let speed = if self.rng.one_in(3) { self.speed() } else { 0 };
        Step::Job(JobStep::Stream(Stream { reach, speed, on_error, is_manual: self.rng.one_in(6) }))
    }

    fn speed(&mut self) -> u32 {
        1 << (12 + self.rng.below(14))
    }

    /// What happens to devices: some operations fail, a device is full for a while, or the power goes.
    fn misfortunes(&mut self) -> Vec<Step> {
        let kind = self.rng.below(5);
        let mut list = vec![self.wait(1_500_000)];
        if kind == 0 || kind == 4 {
            list.push(Step::Trouble(Trouble::Cut(self.rng.below(160))));
            return list;
        }
        if kind == 3 {
            self.damage(&mut list);
            return list;
        }
        for _ in 0..=self.rng.below(4) {
            let image = self.rng.index(6);
            if kind == 1 {
                list.push(Step::Trouble(Trouble::Fault(self.fault(image))));
            } else {
                list.push(Step::Trouble(Trouble::Fill(image, 4096 * self.rng.below(8))));
                list.push(self.wait(2_000_000));
                list.push(Step::Trouble(Trouble::Room(image)));
            }
            list.push(self.wait(1_000_000));
        }
        if self.rng.one_in(3) {
            list.push(Step::Trouble(Trouble::Cut(self.rng.below(100))));
        }
        list
    }

    /// Metadata is damaged, and read again.
    fn damage(&mut self, list: &mut Vec<Step>) {
        let part = Part::ALL.get(self.rng.index(Part::ALL.len())).copied().unwrap_or(Part::L2);
        let image = self.rng.index(6);
        list.push(Step::Trouble(Trouble::Damage(image, part)));
        for _ in 0..=self.rng.below(3) {
            list.push(self.wait(500_000));
            list.push(Step::Change(Change::Freeze));
            list.push(Step::Change(Change::Thaw));
            list.push(Step::Change(Change::Reopen(self.rng.index(4), 4096)));
        }
    }

    fn fault(&mut self, image: usize) -> FaultSpec {
        let kinds = [None, Some(OpKind::Read), Some(OpKind::Write), Some(OpKind::Write), Some(OpKind::Flush)];
        let effects = [FaultEffect::Io, FaultEffect::Io, FaultEffect::NoSpace, FaultEffect::Short];
        FaultSpec {
            image,
            kind: kinds.get(self.rng.index(kinds.len())).copied().flatten(),
            effect: effects.get(self.rng.index(effects.len())).copied().unwrap_or(FaultEffect::Io),
            skip: self.rng.below(20),
            times: 1 + self.rng.below(4),
        }
    }

    fn wait(&mut self, ns_max: u64) -> Step {
        Step::Wait(self.rng.below(ns_max))
    }

    fn visit(&mut self) -> Change {
        match self.rng.below(8) {
            0..4 => Change::Visit(VisitKind::Writer),
            4 => Change::Visit(VisitKind::Reader),
            5 => Change::Visit(VisitKind::Jealous),
            6 => Change::Visit(VisitKind::Intruder),
            _ => Change::Leave,
        }
    }

    fn target(&mut self) -> Target {
        match self.rng.below(4) {
            0 => Target::All,
            1 => Target::File(self.rng.index(4)),
            _ => Target::Image(self.rng.index(4)),
        }
    }

    fn request(&mut self, len: u64) -> Request {
        let range = self.range(len);
        match self.rng.below(32) {
            0..8 => Request::Read(range),
            8..14 => Request::Write(range, false),
            14..16 => Request::Press(range),
            16..18 => Request::Write(range, true),
            18..21 => Request::Zero(range, false),
            21..23 => Request::Zero(range, true),
            23..26 => Request::Discard(range),
            26..28 => Request::Status(range),
            28 => Request::Resize(512 * (1 + self.rng.below(16))),
            _ => Request::Flush,
        }
    }

    /// Mostly whole blocks of some size; one in five has odd ends.
    fn range(&mut self, len: u64) -> GuestRange {
        let unit = match self.rng.below(10) {
            0..2 => 1,
            2..6 => 512,
            _ => 4096,
        };
        let units = (len / unit).max(1);
        let first = self.rng.below(units);
        let count_max = (12_288 / unit).min(units - first).max(1);
        GuestRange::new(GuestOffset::new(first * unit), (1 + self.rng.below(count_max)) * unit)
    }
}
