//! [`Ram`]: a disk in memory that counts what is done to it, and holds it up when it is told to.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{Access, Driver, Extent, Place, Status};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef, Shard};

/// Allocation is kept in pieces of this many bytes.
pub(crate) const GRAIN: u64 = 4096;

#[derive(Clone, Default)]
pub(crate) struct Ram(Arc<Inner>);

#[derive(Default)]
struct Inner {
    media: Mutex<Media>,
    ops: AtomicU64,
    flushes: AtomicU64,
    hold: Mutex<Hold>,
    error: Mutex<Option<Kind>>,
    threads: Mutex<BTreeSet<Shard>>,
}

#[derive(Default)]
struct Media {
    bytes: Vec<u8>,
    data: BTreeSet<u64>,
}

#[derive(Default)]
struct Hold {
    is_held: bool,
    waiting: Vec<Waker>,
}

impl Ram {
    pub(crate) fn new(len: u64) -> Self {
        let ram = Self::default();
        ram.0.media.lock().unwrap().bytes = vec![0; usize::try_from(len).unwrap()];
        ram
    }

    /// Operations so far that were begun on the media.
    pub(crate) fn ops(&self) -> u64 {
        self.0.ops.load(Ordering::SeqCst)
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.0.flushes.load(Ordering::SeqCst)
    }

    pub(crate) fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        self.0.media.lock().unwrap().bytes[at..at + len].to_vec()
    }

    /// The threads that have used it so far.
    pub(crate) fn threads(&self) -> Vec<Shard> {
        self.0.threads.lock().unwrap().iter().copied().collect()
    }

    /// From now on operations stand still.
    pub(crate) fn hold(&self) {
        self.0.hold.lock().unwrap().is_held = true;
    }

    /// How many operations stand still.
    pub(crate) fn held(&self) -> usize {
        self.0.hold.lock().unwrap().waiting.len()
    }

    /// Lets them go on.
    pub(crate) fn release(&self) {
        let waiting = {
            let mut hold = self.0.hold.lock().unwrap();
            hold.is_held = false;
            std::mem::take(&mut hold.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// From now on operations fail.
    pub(crate) fn fail(&self, kind: Option<Kind>) {
        *self.0.error.lock().unwrap() = kind;
    }

    fn run(&self, op: &mut DiskOp) -> Result<()> {
        self.0.ops.fetch_add(1, Ordering::SeqCst);
        if let Some(kind) = *self.0.error.lock().unwrap() {
            return Err(Error::new(kind, "told to fail"));
        }
        let mut media = self.0.media.lock().unwrap();
        let span = |at: u64, len: u64| usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
        match op {
            DiskOp::Read { at, buf } => {
                let span = span(*at, buf.len() as u64);
                buf.as_mut_slice().copy_from_slice(&media.bytes[span]);
            }
            DiskOp::Write { at, buf, .. } => {
                let len = buf.len() as u64;
                media.bytes[span(*at, len)].copy_from_slice(buf.as_slice());
                media.data.extend(*at / GRAIN..(*at + len).div_ceil(GRAIN));
            }
            DiskOp::Discard(range) | DiskOp::WriteZeroes { range, may_unmap: true, .. } => {
                media.clear(*range);
            }
            DiskOp::WriteZeroes { fast_only: true, .. } => {
                return Err(Error::new(Kind::Unsupported, "not fast"));
            }
            DiskOp::WriteZeroes { range, .. } => {
                media.clear(*range);
                let (start, end) = (range.start().get(), range.end().get());
                media.data.extend(start / GRAIN..end.div_ceil(GRAIN));
            }
            DiskOp::Flush => drop(self.0.flushes.fetch_add(1, Ordering::SeqCst)),
            DiskOp::Truncate { len, .. } => media.bytes.resize(usize::try_from(*len).unwrap(), 0),
        }
        Ok(())
    }

    async fn released(&self) {
        poll_fn(|cx| {
            let mut hold = self.0.hold.lock().unwrap();
            if !hold.is_held {
                return Poll::Ready(());
            }
            hold.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Media {
    fn clear(&mut self, range: GuestRange) {
        let (start, end) = (range.start().get(), range.end().get());
        self.bytes[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].fill(0);
        for grain in start.div_ceil(GRAIN)..end / GRAIN {
            self.data.remove(&grain);
        }
    }

    fn status(&self, range: GuestRange) -> Status {
        let start = range.start().get();
        let is_data = |grain: u64| self.data.contains(&grain);
        let first = is_data(start / GRAIN);
        let grains = start / GRAIN..range.end().get().div_ceil(GRAIN);
        let other = grains.clone().find(|grain| is_data(*grain) != first).unwrap_or(grains.end);
        Status {
            len: (other * GRAIN).min(range.end().get()) - start,
            data: first,
            zero: !first,
            allocated: first,
            compressed: false,
            offset: first.then_some(start),
            depth: 0,
        }
    }
}

fn buf_of(op: DiskOp) -> Option<drystone_buf::Buf> {
    match op {
        DiskOp::Read { buf, .. } | DiskOp::Write { buf, .. } => Some(buf),
        _ => None,
    }
}

impl Disk for Ram {
    fn submit(&self, local: &LocalRef, mut op: DiskOp) -> Completion {
        self.0.threads.lock().unwrap().insert(local.shard());
        if !self.0.hold.lock().unwrap().is_held {
            let result = self.run(&mut op);
            return Completion::ready(result, buf_of(op));
        }
        let (completion, finisher) = Completion::pending();
        let ram = self.clone();
        local.spawn(Box::pin(async move {
            ram.released().await;
            let result = ram.run(&mut op);
            finisher.finish(result, buf_of(op));
        }));
        completion
    }
}

/// A protocol node on a [`Ram`].
pub(crate) struct RamDriver(pub(crate) Ram);

impl Driver for RamDriver {
    fn format_name(&self) -> &'static str {
        "ram"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.0)
    }

    fn device_status<'a>(
        &'a self,
        _io: Io<'a>,
        _local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        let status = self.0.0.media.lock().unwrap().status(range);
        Box::pin(async move { Ok(status) })
    }
}
