//! Writers that know what must be on the disk at any time.
//!
//! ```text
//!  block of 3000 bytes: | version | its number | filling that depends on both |      neighbours share sectors and clusters
//!  versions of a block:   flushed <= acknowledged <= issued
//! ```
//! Runs of blocks belong to one writer, which writes them with rising versions; zeroes are versions, too. So whatever
//! happens, every sector of a block holds a version between the last safe and the last issued one. A block that was trimmed
//! may hold zeroes or what it held, as after a write that nobody acknowledged.

use std::collections::BTreeSet;
use std::io::{self, Error, ErrorKind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use drystone_base::rng::Rng;

use crate::common::nbd::{Client, Write};
use crate::common::serve::PATIENCE;

/// Not a multiple of anything.
pub(crate) const BLOCK_BYTES: usize = 3000;
const WRITERS: usize = 4;
/// Blocks in a row that belong to one writer: more than a cluster.
const RUN_BLOCKS: usize = 32;
/// Most writes that a writer has in flight.
const BATCH_MAX: usize = 8;
/// What a crash does not tear.
const SECTOR_BYTES: usize = 512;

/// Most writes in flight when a disk is put right after a kill.
const RECOVER_BATCH: usize = 16;
/// One step in so many is to hang up.
const HANG_UP_ODDS: u64 = 500;
/// Between two attempts to connect.
const BREATH: Duration = Duration::from_millis(2);

/// What is known of every block.
pub(crate) struct Load {
    blocks: Vec<Block>,
    is_over: AtomicBool,
    /// A writer has found something else than it wrote, or got no answer.
    is_broken: AtomicBool,
    counts: Counts,
    slowest: Slowest,
}

/// How often what was done, in blocks and in calls.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) written: AtomicU64,
    pub(crate) zeroed: AtomicU64,
    pub(crate) trimmed: AtomicU64,
    pub(crate) read_back: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) connected: AtomicU64,
    /// Connections that a writer gave up in the middle of a request.
    pub(crate) hung_up: AtomicU64,
    /// Requests that failed because the disk was full.
    pub(crate) full: AtomicU64,
}

/// The longest that requests took, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Slowest {
    pub(crate) read: AtomicU64,
    pub(crate) write: AtomicU64,
    pub(crate) zero: AtomicU64,
    pub(crate) flush: AtomicU64,
}

fn timed<T>(slowest: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = work();
    let us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    slowest.fetch_max(us, Ordering::Relaxed);
    done
}

#[derive(Debug, Default)]
struct Block {
    issued: AtomicU64,
    acknowledged: AtomicU64,
    flushed: AtomicU64,
    /// Versions that are zeroes, of those that the disk can still hold.
    zeroes: Mutex<BTreeSet<u64>>,
}

impl Block {
    /// A new version of the block is on its way.
    fn issue(&self, is_zero: bool) -> u64 {
        let version = self.issued.load(Ordering::SeqCst) + 1;
        let oldest = self.flushed.load(Ordering::SeqCst);
        let mut zeroes = self.zeroes.lock().unwrap();
        zeroes.retain(|old| *old >= oldest);
        if is_zero {
            zeroes.insert(version);
        }
        self.issued.store(version, Ordering::SeqCst);
        version
    }

    fn span(&self, first: u64, last: u64) -> Span {
        let zeroes = self.zeroes.lock().unwrap().range(first..=last).copied().collect();
        Span { zeroes, ..Span::between(first, last) }
    }
}

/// What keeps a write when the process that was told to do it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safe {
    /// A flush: the image's tables are written then.
    Flushed,
    /// Its acknowledgement: there is nothing else to write.
    Acknowledged,
}

/// What a block can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// The version that is safe.
    pub(crate) first: u64,
    /// The last version that anybody has begun to write.
    pub(crate) last: u64,
    /// Versions that are zeroes.
    zeroes: Vec<u64>,
}

impl Span {
    /// Any of these versions, none of which is zeroes but that before the first.
    pub(crate) fn between(first: u64, last: u64) -> Self {
        Self { first, last, zeroes: Vec::new() }
    }

    fn filling(&self, block: usize, version: u64) -> Vec<u8> {
        if self.is_zero(version) { vec![0; BLOCK_BYTES] } else { filling(block, version) }
    }

    fn is_zero(&self, version: u64) -> bool {
        version == 0 || self.zeroes.contains(&version)
    }

    /// Which of the versions the bytes are.
    fn version_of(&self, bytes: &[u8], block: usize) -> Option<u64> {
        let is_known = |version: &u64| (self.first..=self.last).contains(version);
        if bytes.iter().all(|byte| *byte == 0) {
            return self.zeroes.last().copied().or(Some(0)).filter(is_known);
        }
        let claimed = u64::from_be_bytes(bytes[..8].try_into().unwrap());
        let is_it = |version: &u64| !self.is_zero(*version) && bytes == filling(block, *version);
        Some(claimed).filter(is_known).filter(is_it)
    }

    /// Whether each sector holds one of the versions.
    fn is_mixed(&self, bytes: &[u8], block: usize) -> bool {
        let versions: Vec<Vec<u8>> =
            (self.first..=self.last).map(|version| self.filling(block, version)).collect();
        sectors(block).all(|(from, to)| versions.iter().any(|version| version[from..to] == bytes[from..to]))
    }

    /// Which version each sector is of.
    fn describe(&self, bytes: &[u8], block: usize) -> String {
        let versions: Vec<Vec<u8>> = (0..=self.last).map(|version| self.filling(block, version)).collect();
        let name = |(from, to)| {
            let version = versions.iter().rposition(|version| version[from..to] == bytes[from..to]);
            version.map_or_else(|| "none".to_owned(), |version| version.to_string())
        };
        format!("its sectors hold versions {}", sectors(block).map(name).collect::<Vec<_>>().join(", "))
    }
}

/// The sectors of a block, or their parts that are its, from and to.
fn sectors(block: usize) -> impl Iterator<Item = (usize, usize)> {
    let end =
        move |from: usize| BLOCK_BYTES.min(from + SECTOR_BYTES - (block * BLOCK_BYTES + from) % SECTOR_BYTES);
    let first = (0, end(0));
    std::iter::successors(Some(first), move |(_, to)| (*to < BLOCK_BYTES).then(|| (*to, end(*to))))
}

fn filling(block: usize, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK_BYTES];
    }
    let mut bytes = [version.to_be_bytes(), (block as u64).to_be_bytes()].concat();
    let mut rng = Rng::new(version * 1_000_003 + block as u64);
    while bytes.len() < BLOCK_BYTES {
        bytes.extend(rng.next_u64().to_be_bytes());
    }
    bytes.truncate(BLOCK_BYTES);
    bytes
}

impl Load {
    /// A disk of zeroes.
    pub(crate) fn new(blocks: usize) -> Self {
        let blocks = (0..blocks).map(|_| Block::default()).collect();
        let [is_over, is_broken] = Default::default();
        Self { blocks, is_over, is_broken, counts: Counts::default(), slowest: Slowest::default() }
    }

    /// Writes from several connections until [`Self::stop`] or until the server goes; runs `meanwhile` beside that.
    pub(crate) fn run<T>(&self, socket: &Path, seed: u64, meanwhile: impl FnOnce() -> T) -> T {
        self.beside(|writer| self.write(socket, writer, &mut Rng::new(seed * 31 + writer as u64)), meanwhile)
    }

    /// As [`Self::run`], for an export that comes and goes: a writer that has lost its connection makes another one, and
    /// every writer reads blocks of its own back. See [`Self::is_well`].
    pub(crate) fn run_on<T>(
        &self,
        (socket, export): (&Path, &str),
        seed: u64,
        meanwhile: impl FnOnce() -> T,
    ) -> T {
        let write = |writer| {
            struct Tell<'a>(&'a Load);
            impl Drop for Tell<'_> {
                fn drop(&mut self) {
                    self.0.is_broken.fetch_or(thread::panicking(), Ordering::SeqCst);
                }
            }
            let _tell = Tell(self);
            self.write_on((socket, export), writer, &mut Rng::new(seed * 31 + writer as u64));
        };
        self.beside(write, meanwhile)
    }

    fn beside<T>(&self, write: impl Fn(usize) + Sync, meanwhile: impl FnOnce() -> T) -> T {
        self.is_over.store(false, Ordering::SeqCst);
        let write = &write;
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || write(writer));
            }
            // Also if it fails: the writers must not go on for ever.
            struct Stop<'a>(&'a Load);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.is_over.store(true, Ordering::SeqCst);
                }
            }
            let _stop = Stop(self);
            meanwhile()
        })
    }

    /// Waits until so many more blocks were written.
    pub(crate) fn progress(&self, writes: u64) {
        let goal = self.written() + writes;
        let begin = Instant::now();
        while self.written() < goal {
            assert!(begin.elapsed() < PATIENCE, "nobody writes any more");
            thread::yield_now();
        }
    }

    /// How many blocks were written so far.
    pub(crate) fn written(&self) -> u64 {
        self.counts.written.load(Ordering::SeqCst)
    }

    /// Whether no writer has failed so far.
    pub(crate) fn is_well(&self) -> bool {
        !self.is_broken.load(Ordering::SeqCst)
    }

    /// How often a request failed because the disk was full.
    pub(crate) fn full(&self) -> u64 {
        self.counts.full.load(Ordering::SeqCst)
    }

    /// How many blocks were read back.
    pub(crate) fn read_back_so_far(&self) -> u64 {
        self.counts.read_back.load(Ordering::SeqCst)
    }

    /// How many connections were made, and given up by their writers.
    pub(crate) fn connections(&self) -> (u64, u64) {
        (self.counts.connected.load(Ordering::SeqCst), self.counts.hung_up.load(Ordering::SeqCst))
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How long it took at most.
    pub(crate) fn slowest(&self) -> &Slowest {
        &self.slowest
    }

    /// Half of the blocks get a first version.
    pub(crate) fn fill(&self, client: &mut Client) {
        for (number, block) in self.blocks.iter().enumerate().step_by(2) {
            client.write((number * BLOCK_BYTES) as u64, &filling(number, 1)).unwrap();
            for known in [&block.issued, &block.acknowledged, &block.flushed] {
                known.store(1, Ordering::SeqCst);
            }
        }
        client.flush().unwrap();
    }

    fn write_on(&self, (socket, export): (&Path, &str), writer: usize, rng: &mut Rng) {
        while !self.is_over.load(Ordering::SeqCst) {
            if let Err(error) = self.write_over(&mut *rng, (socket, export), writer) {
                assert!(is_gone(&error), "export '{export}': {error}");
                thread::park_timeout(BREATH);
            }
        }
    }

    /// One connection, until it is lost.
    fn write_over(&self, rng: &mut Rng, (socket, export): (&Path, &str), writer: usize) -> io::Result<()> {
        let mut client = Client::connect(socket, export)?;
        self.counts.connected.fetch_add(1, Ordering::SeqCst);
        while !self.is_over.load(Ordering::SeqCst) {
            if rng.one_in(HANG_UP_ODDS) {
                self.counts.hung_up.fetch_add(1, Ordering::SeqCst);
                return self.hang_up(client, writer, rng);
            }
            match self.step_on((&mut client, export), writer, rng) {
                // The connection stays.
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    self.counts.full.fetch_add(1, Ordering::SeqCst);
                }
                step => step?,
            }
        }
        Ok(())
    }

    /// Leaves a write half sent, which never happens then.
    fn hang_up(&self, client: Client, writer: usize, rng: &mut Rng) -> io::Result<()> {
        let number = self.pick(writer, rng);
        let version = self.blocks[number].issued.load(Ordering::SeqCst) + 1;
        client.abandon_write((number * BLOCK_BYTES) as u64, &filling(number, version))
    }

    fn step_on(&self, (client, export): (&mut Client, &str), writer: usize, rng: &mut Rng) -> io::Result<()> {
        match rng.below(40) {
            0..=1 => self.flush(client),
            2..=14 => self.read_back((client, export), writer, rng),
            15..=16 => self.zero_some(client, writer, rng),
            17..=18 => self.trim_some(client, writer, rng),
            19..=22 => self.write_some(client, writer, rng),
            _ => self.write_one(client, writer, rng),
        }
    }

    /// A block of the writer's.
    fn pick(&self, writer: usize, rng: &mut Rng) -> usize {
        let round = RUN_BLOCKS * WRITERS;
        loop {
            let number = rng.index(self.blocks.len().div_ceil(round)) * round
                + writer * RUN_BLOCKS
                + rng.index(RUN_BLOCKS);
            if number < self.blocks.len() {
                return number;
            }
        }
    }

    /// Some blocks of the writer's in a row, often a whole run.
    fn pick_row(&self, writer: usize, rng: &mut Rng) -> std::ops::Range<usize> {
        let one = self.pick(writer, rng);
        let run = one / RUN_BLOCKS * RUN_BLOCKS;
        let end = (run + RUN_BLOCKS).min(self.blocks.len());
        if rng.one_in(2) { run..end } else { one..one + 1 + rng.index(end - one) }
    }

    /// Nobody else writes this block: it must be the last version, or as after a lost connection.
    fn read_back(
        &self,
        (client, export): (&mut Client, &str),
        writer: usize,
        rng: &mut Rng,
    ) -> io::Result<()> {
        let number = self.pick(writer, rng);
        let at = (number * BLOCK_BYTES) as u64;
        let bytes = timed(&self.slowest.read, || client.read(at, BLOCK_BYTES))?;
        check_block(&bytes, number, &self.known(number), &format!("read back from '{export}'"));
        self.counts.read_back.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn zero_some(&self, client: &mut Client, writer: usize, rng: &mut Rng) -> io::Result<()> {
        let row = self.pick_row(writer, rng);
        let versions: Vec<u64> = row.clone().map(|number| self.blocks[number].issue(true)).collect();
        let (at, len) = ((row.start * BLOCK_BYTES) as u64, row.len() * BLOCK_BYTES);
        let may_unmap = rng.one_in(2);
        timed(&self.slowest.zero, || client.write_zeroes(at, len, may_unmap))?;
        for (number, version) in row.zip(versions) {
            self.blocks[number].acknowledged.store(version, Ordering::SeqCst);
            self.counts.zeroed.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Nobody says what is there afterwards: zeroes or what was there, sector by sector.
    fn trim_some(&self, client: &mut Client, writer: usize, rng: &mut Rng) -> io::Result<()> {
        let row = self.pick_row(writer, rng);
        for number in row.clone() {
            self.blocks[number].issue(true);
        }
        let (at, len) = ((row.start * BLOCK_BYTES) as u64, row.len() * BLOCK_BYTES);
        timed(&self.slowest.zero, || client.trim(at, len))?;
        self.counts.trimmed.fetch_add(row.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    /// Several writes in flight at once, each of another block.
    fn write_some(&self, client: &mut Client, writer: usize, rng: &mut Rng) -> io::Result<()> {
        let numbers: BTreeSet<usize> = (0..BATCH_MAX).map(|_| self.pick(writer, rng)).collect();
        let version = |number: &usize| (*number, self.blocks[*number].issue(false));
        let batch: Vec<(usize, u64)> = numbers.iter().map(version).collect();
        let write = |(number, version): &(usize, u64)| Write {
            at: (number * BLOCK_BYTES) as u64,
            data: filling(*number, *version),
        };
        let writes: Vec<Write> = batch.iter().map(write).collect();
        let done = timed(&self.slowest.write, || client.write_all_at_once(&writes))?;
        let mut result = Ok(());
        for ((number, version), one) in batch.into_iter().zip(done) {
            match one {
                Ok(()) => {
                    self.blocks[number].acknowledged.store(version, Ordering::SeqCst);
                    self.counts.written.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// What a block holds, with no crash in between; a write whose connection was lost may have happened.
    fn known(&self, number: usize) -> Span {
        let block = &self.blocks[number];
        let [first, last] =
            [&block.acknowledged, &block.issued].map(|version| version.load(Ordering::SeqCst));
        block.span(first, last)
    }

    /// [`Self::known`] of all blocks.
    pub(crate) fn all_known(&self) -> Vec<Span> {
        (0..self.blocks.len()).map(|number| self.known(number)).collect()
    }

    fn write(&self, socket: &Path, writer: usize, rng: &mut Rng) {
        let Ok(mut client) = Client::connect(socket, "") else { return };
        while !self.is_over.load(Ordering::SeqCst) {
            let done = if rng.one_in(20) {
                self.flush(&mut client)
            } else {
                self.write_one(&mut client, writer, rng)
            };
            // The server has gone, as it does in some tests; what that means is checked by its contents.
            if done.is_err() {
                return;
            }
        }
    }

    fn write_one(&self, client: &mut Client, writer: usize, rng: &mut Rng) -> io::Result<()> {
        let number = self.pick(writer, rng);
        let block = &self.blocks[number];
        let version = block.issue(false);
        let (at, data) = ((number * BLOCK_BYTES) as u64, filling(number, version));
        let through = rng.one_in(10);
        timed(&self.slowest.write, || {
            if through { client.write_through(at, &data) } else { client.write(at, &data) }
        })?;
        block.acknowledged.store(version, Ordering::SeqCst);
        if through {
            block.flushed.fetch_max(version, Ordering::SeqCst);
        }
        self.counts.written.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// A flush on any connection is for all that was acknowledged on any.
    fn flush(&self, client: &mut Client) -> io::Result<()> {
        let acknowledged: Vec<u64> =
            self.blocks.iter().map(|block| block.acknowledged.load(Ordering::SeqCst)).collect();
        timed(&self.slowest.flush, || client.flush())?;
        for (block, version) in self.blocks.iter().zip(acknowledged) {
            block.flushed.fetch_max(version, Ordering::SeqCst);
        }
        self.counts.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// What is acknowledged now, and was issued: what a snapshot that is taken now must and may hold.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block.acknowledged.load(Ordering::SeqCst)).collect()
    }

    /// See [`Self::acknowledged`].
    pub(crate) fn issued(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block.issued.load(Ordering::SeqCst)).collect()
    }

    /// What the disk can hold after the server was killed. The kernel goes on, so no sector is torn.
    fn after_kill(&self, safe: Safe) -> Vec<Span> {
        let span = |block: &Block| {
            let first = match safe {
                Safe::Flushed => block.flushed.load(Ordering::SeqCst),
                Safe::Acknowledged => block.acknowledged.load(Ordering::SeqCst),
            };
            block.span(first, block.issued.load(Ordering::SeqCst))
        };
        self.blocks.iter().map(span).collect()
    }

    /// Goes on after the server was killed from the disk as it was found: writes every block whose version is not certain
    /// anew, so that all bytes are known again.
    pub(crate) fn recover(&self, client: &mut Client, safe: Safe, about: &str) {
        let spans = self.after_kill(safe);
        check(&client.read_all().unwrap(), &spans, about);
        let uncertain: Vec<usize> =
            (0..spans.len()).filter(|number| spans[*number].first != spans[*number].last).collect();
        for numbers in uncertain.chunks(RECOVER_BATCH) {
            let rewrite = |number: &usize| {
                let version = self.blocks[*number].issue(false);
                self.blocks[*number].acknowledged.store(version, Ordering::SeqCst);
                Write { at: (number * BLOCK_BYTES) as u64, data: filling(*number, version) }
            };
            let writes: Vec<Write> = numbers.iter().map(rewrite).collect();
            client.write_all_at_once(&writes).unwrap().into_iter().for_each(Result::unwrap);
        }
        client.flush().unwrap();
        for block in &self.blocks {
            block.flushed.store(block.acknowledged.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }
}

/// The versions of all blocks of `disk`, each of which must be in its span: as a whole if its last version is safe, else
/// sector by sector. What is not whole counts as the last version.
pub(crate) fn check(disk: &[u8], spans: &[Span], about: &str) -> Vec<u64> {
    let check_one = |(number, span): (usize, &Span)| {
        check_block(&disk[number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES], number, span, about)
    };
    spans.iter().enumerate().map(check_one).collect()
}

/// The same for one block.
fn check_block(bytes: &[u8], number: usize, span: &Span, about: &str) -> u64 {
    if let Some(version) = span.version_of(bytes, number) {
        return version;
    }
    assert!(
        span.first < span.last && span.is_mixed(bytes, number),
        "{about}: block {number} holds something else than {span:?}: {}",
        span.describe(bytes, number)
    );
    span.last
}

/// Whether an error says that there is no such export now, and not that something went wrong.
fn is_gone(error: &Error) -> bool {
    const ESHUTDOWN: i32 = 108;
    use ErrorKind as K;
    let is_lost = [K::NotFound, K::ConnectionRefused, K::ConnectionReset, K::BrokenPipe, K::UnexpectedEof];
    is_lost.contains(&error.kind()) || error.raw_os_error() == Some(ESHUTDOWN)
}
