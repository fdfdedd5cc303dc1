//! Writers that know what must be on the disk at any time.
//!
//! ```text
//!  block of 3000 bytes: | version | its number | filling that depends on both |      neighbours share sectors and clusters
//!  versions of a block:   flushed <= acknowledged <= issued
//! ```
//! Each block belongs to one writer, which writes it with rising versions. So whatever happens, every sector of a block
//! holds a version between the last flushed and the last issued one, unless a write to it was under way at the end.

use std::io::{self, Error, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use drystone_base::rng::Rng;

use crate::common::nbd::Client;
use crate::common::serve::PATIENCE;

/// Not a multiple of anything.
pub(crate) const BLOCK_BYTES: usize = 3000;
const WRITERS: usize = 4;
/// What a crash does not tear.
const SECTOR_BYTES: usize = 512;

/// Between two attempts to connect.
const BREATH: Duration = Duration::from_millis(2);

/// What is known of every block.
pub(crate) struct Load {
    blocks: Vec<Block>,
    is_over: AtomicBool,
    /// A writer has found something else than it wrote, or got no answer.
    is_broken: AtomicBool,
    written: AtomicU64,
    read_back: AtomicU64,
    connected: AtomicU64,
}

#[derive(Debug, Default)]
struct Block {
    issued: AtomicU64,
    acknowledged: AtomicU64,
    flushed: AtomicU64,
}

/// What a block can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The version that is safe.
    pub(crate) first: u64,
    /// The last version that anybody has begun to write.
    pub(crate) last: u64,
    /// A write was under way: any bytes.
    pub(crate) is_torn: bool,
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
        let [written, read_back, connected] = Default::default();
        Self { blocks, is_over, is_broken, written, read_back, connected }
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
        self.written.load(Ordering::SeqCst)
    }

    /// Whether no writer has failed so far.
    pub(crate) fn is_well(&self) -> bool {
        !self.is_broken.load(Ordering::SeqCst)
    }

    /// Blocks written, blocks read back, connections made.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.written, &self.read_back, &self.connected].map(|count| count.load(Ordering::SeqCst))
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
            let mut step = match Client::connect(socket, export) {
                Ok(mut client) => {
                    self.connected.fetch_add(1, Ordering::SeqCst);
                    (|| {
                        while !self.is_over.load(Ordering::SeqCst) {
                            self.step_on((&mut client, export), writer, rng)?;
                        }
                        Ok(())
                    })()
                }
                Err(error) => Err(error),
            };
            if let Err(error) = &mut step {
                assert!(is_gone(error), "export '{export}': {error}");
                thread::park_timeout(BREATH);
            }
        }
    }

    fn step_on(&self, (client, export): (&mut Client, &str), writer: usize, rng: &mut Rng) -> io::Result<()> {
        match rng.below(20) {
            0 => self.flush(client),
            1..=7 => self.read_back((client, export), writer, rng),
            _ => self.write_one(client, writer, rng),
        }
    }

    /// Nobody else writes this block: it must be the last version, or as after a lost connection.
    fn read_back(
        &self,
        (client, export): (&mut Client, &str),
        writer: usize,
        rng: &mut Rng,
    ) -> io::Result<()> {
        let number = rng.index(self.blocks.len() / WRITERS) * WRITERS + writer;
        let bytes = client.read((number * BLOCK_BYTES) as u64, BLOCK_BYTES)?;
        check_block(&bytes, number, self.known(number), &format!("read back from '{export}'"));
        self.read_back.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// What a block holds, with no crash in between; a write whose connection was lost may have happened.
    fn known(&self, number: usize) -> Span {
        let block = &self.blocks[number];
        let [first, last] =
            [&block.acknowledged, &block.issued].map(|version| version.load(Ordering::SeqCst));
        Span { first, last, is_torn: false }
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
        let number = rng.index(self.blocks.len() / WRITERS) * WRITERS + writer;
        let block = &self.blocks[number];
        let version = block.issued.fetch_add(1, Ordering::SeqCst) + 1;
        let at = (number * BLOCK_BYTES) as u64;
        let through = rng.one_in(10);
        if through {
            client.write_through(at, &filling(number, version))?;
        } else {
            client.write(at, &filling(number, version))?;
        }
        block.acknowledged.store(version, Ordering::SeqCst);
        if through {
            block.flushed.fetch_max(version, Ordering::SeqCst);
        }
        self.written.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// A flush on any connection is for all that was acknowledged on any.
    fn flush(&self, client: &mut Client) -> io::Result<()> {
        let acknowledged: Vec<u64> =
            self.blocks.iter().map(|block| block.acknowledged.load(Ordering::SeqCst)).collect();
        client.flush()?;
        for (block, version) in self.blocks.iter().zip(acknowledged) {
            block.flushed.fetch_max(version, Ordering::SeqCst);
        }
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

    /// What the disk can hold after a crash.
    fn after_crash(&self) -> Vec<Span> {
        let span = |block: &Block| {
            let [first, acknowledged, last] = [&block.flushed, &block.acknowledged, &block.issued]
                .map(|version| version.load(Ordering::SeqCst));
            Span { first, last, is_torn: acknowledged != last }
        };
        self.blocks.iter().map(span).collect()
    }

    /// Goes on after a crash from the disk as it was found: writes every block that may be torn, so that all bytes are
    /// known again.
    pub(crate) fn recover(&self, client: &mut Client, about: &str) {
        let spans = self.after_crash();
        let versions = check(&client.read_all().unwrap(), &spans, about);
        for (number, (span, version)) in spans.iter().zip(versions).enumerate() {
            if span.first != span.last {
                client.write((number * BLOCK_BYTES) as u64, &filling(number, version)).unwrap();
            }
            let block = &self.blocks[number];
            for known in [&block.acknowledged, &block.flushed, &block.issued] {
                known.store(version, Ordering::SeqCst);
            }
        }
        client.flush().unwrap();
    }
}

/// The versions of all blocks of `disk`, each of which must be in its span: as a whole if its last version is safe, else
/// sector by sector. What is not whole counts as the last version.
pub(crate) fn check(disk: &[u8], spans: &[Span], about: &str) -> Vec<u64> {
    let check_one = |(number, span): (usize, &Span)| {
        check_block(&disk[number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES], number, *span, about)
    };
    spans.iter().enumerate().map(check_one).collect()
}

/// The same for one block.
fn check_block(bytes: &[u8], number: usize, span: Span, about: &str) -> u64 {
    let version = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    if (span.first..=span.last).contains(&version) && bytes == filling(number, version) {
        return version;
    }
    assert!(
        span.is_torn || span.first < span.last && is_mixed(bytes, number, span),
        "{about}: block {number} holds something else than {span:?}: {}",
        describe(bytes, number, span)
    );
    span.last
}

/// Which version each run of bytes of a block is of.
fn describe(bytes: &[u8], number: usize, span: Span) -> String {
    let versions: Vec<Vec<u8>> = (0..=span.last).map(|version| filling(number, version)).collect();
    let at_sector = |from: usize| {
        let to = BLOCK_BYTES.min(from + SECTOR_BYTES - (number * BLOCK_BYTES + from) % SECTOR_BYTES);
        let version = versions.iter().position(|version| version[from..to] == bytes[from..to]);
        (to, version.map_or("none".to_owned(), |version| version.to_string()))
    };
    let mut sectors = Vec::new();
    let mut from = 0;
    while from < BLOCK_BYTES {
        let (to, version) = at_sector(from);
        sectors.push(version);
        from = to;
    }
    format!("its sectors hold versions {}", sectors.join(", "))
}

/// Whether an error says that there is no such export now, and not that something went wrong.
fn is_gone(error: &Error) -> bool {
    const ESHUTDOWN: i32 = 108;
    use ErrorKind as K;
    let is_lost = [K::NotFound, K::ConnectionRefused, K::ConnectionReset, K::BrokenPipe, K::UnexpectedEof];
    is_lost.contains(&error.kind()) || error.raw_os_error() == Some(ESHUTDOWN)
}

/// Whether each sector holds one of the versions of the span.
fn is_mixed(bytes: &[u8], number: usize, span: Span) -> bool {
    let versions: Vec<Vec<u8>> = (span.first..=span.last).map(|version| filling(number, version)).collect();
    let mut from = 0;
    while from < BLOCK_BYTES {
        let to = BLOCK_BYTES.min(from + SECTOR_BYTES - (number * BLOCK_BYTES + from) % SECTOR_BYTES);
        if !versions.iter().any(|version| version[from..to] == bytes[from..to]) {
            return false;
        }
        from = to;
    }
    true
}
