//! Comparing two disks: several stripes at a time, the first difference counts.
//!
//! A worker takes the next stripe, asks both images how it is allocated, and reads what is data in one of them. Where
//! both say that a stripe and more behind it are zeroes, all of it is passed at once. Workers are on several threads; each
//! reads both images at the same time.
//!
//! Invariants: what is found is the difference at the lowest offset, whichever worker comes first; no stripe behind a
//! difference is begun. Not here: stripes ([`super::super::stripes`]); what is printed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::scan::{is_same, is_zero};
use drystone_buf::{Buf, Pool};
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::driver::Status;
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;

use crate::img::stripes::Stripes;
use crate::tool::Tool;
use crate::tool::disk::Disk;

/// What is read at once: both halves fit into the cache of a processor.
const READ_BYTES: u64 = 256 << 10;
/// Memory that is kept for use again.
const KEPT_BYTES: usize = 4 << 20;
/// Offsets of differences are those of their sectors.
const SECTOR_BYTES: usize = 512;

const CANNOT_ASK: u8 = 3;
const CANNOT_READ: u8 = 4;

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Lengths of the disks in bytes.
    pub(super) lens: [u64; 2],
    /// The first difference and where it is.
    pub(super) first: Option<(u64, Difference)>,
    /// It was said already that the lengths differ.
    pub(super) is_warned: bool,
}

impl Outcome {
    /// Whether the lengths differ, and nothing before the end of the shorter disk does.
    pub(super) fn warns(&self) -> bool {
        let [first, second] = self.lens;
        let is_common = |at: u64| at < first.min(second);
        first != second && self.first.as_ref().is_none_or(|(at, _)| !is_common(*at))
    }
}

/// In what images differ.
#[derive(Debug)]
pub(super) enum Difference {
    /// They are allocated in different ways.
    Allocation,
    /// They show different bytes.
    Content,
    /// It could not be found out.
    Failed {
        /// Why.
        error: Error,
        /// The exit status for that.
        status: u8,
    },
}

/// Compares two disks.
///
/// # Errors
/// Those of starting threads; what is wrong with the images is part of the outcome.
pub(super) async fn compare(tool: &Tool, disks: [&Disk<ReadOnly>; 2], is_strict: bool) -> Result<Outcome> {
    let lens = disks.map(|disk| disk.len_bytes);
    let len_bytes = lens[0].max(lens[1]);
    let shared = Arc::new(Shared {
        backends: disks.map(|disk| disk.backend.clone()),
        lens,
        len_bytes,
        is_strict,
        stripes: Stripes::new(tool, len_bytes),
        pool: Pool::new(KEPT_BYTES),
        known: Mutex::default(),
        first: Mutex::default(),
    });
    let own = Arc::clone(&shared);
    let worker = move |local| {
        let shared = Arc::clone(&own);
        async move { Worker::new(&shared, &local).run().await }
    };
    shared.stripes.run(tool, worker).await?;
    let first = shared.first().take();
    Ok(Outcome { lens, first, is_warned: false })
}

/// What the workers share.
struct Shared {
    backends: [Backend<ReadOnly>; 2],
    lens: [u64; 2],
    len_bytes: u64,
    is_strict: bool,
    stripes: Stripes,
    pool: Pool,
    /// What each disk said last, and from where on: nobody asks again about a long hole. A far server takes its time to say.
    known: Mutex<[Option<(u64, Status)>; 2]>,
    first: Mutex<Option<(u64, Difference)>>,
}

impl Shared {
    fn first(&self) -> MutexGuard<'_, Option<(u64, Difference)>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, [Option<(u64, Status)>; 2]> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, at: u64, difference: Difference) {
        let mut first = self.first();
        if first.as_ref().is_none_or(|(known, _)| at < *known) {
            *first = Some((at, difference));
            self.stripes.end_at(at);
        }
    }
}

/// One of those who compare.
struct Worker<'s> {
    shared: &'s Shared,
    lanes: [Lane; 2],
    bufs: [Buf; 2],
}

type Found = Result<(), (u64, Difference)>;

impl<'s> Worker<'s> {
    fn new(shared: &'s Shared, local: &LocalRef) -> Self {
        let lanes = [(); 2].map(|()| Lane::new(local.clone()));
        Self { shared, lanes, bufs: [(); 2].map(|()| Buf::empty()) }
    }

    async fn run(mut self) {
        while let Some((start, end)) = self.shared.stripes.take() {
            if let Err((at, difference)) = self.stripe(start, end).await {
                self.shared.found(at, difference);
            }
        }
    }

    async fn stripe(&mut self, start: u64, end: u64) -> Found {
        let mut at = start;
        while at < end {
            let both = self.statuses(at).await.map_err(|error| failed(at, error, CANNOT_ASK))?;
            if self.shared.is_strict && likeness(both[0]) != likeness(both[1]) {
                return Err((at, Difference::Allocation));
            }
            let len = both[0].len.min(both[1].len);
            let is_data = both.map(|status| status.data && !status.zero);
            if !is_data[0] && !is_data[1] {
                at += len;
                self.shared.stripes.pass_to(at);
                continue;
            }
            let len = len.min(end - at);
            self.extent(at, len, is_data).await?;
            at += len;
        }
        Ok(())
    }

    /// How both are allocated from `at` on. A disk that has ended is zeroes.
    async fn statuses(&mut self, at: u64) -> Result<[Status; 2]> {
        let Shared { lens, len_bytes, backends, .. } = self.shared;
        let mut both = self.shared.known().map(|known| from_known(known, at));
        for (status, (lane, (backend, len))) in
            both.iter_mut().zip(self.lanes.iter_mut().zip(backends.iter().zip(lens)))
        {
            if status.is_none() {
                *status = Some(ask(lane, backend, at, *len, *len_bytes).await?);
            }
        }
        *self.shared.known() = both.map(|status| status.map(|status| (at, status)));
        match both {
            [Some(one), Some(two)] => Ok([one, two]),
            _ => unreachable!("both were asked"),
        }
    }

    /// Compares what is stored in one way in both images.
    async fn extent(&mut self, start: u64, len: u64, is_data: [bool; 2]) -> Found {
        let mut done = 0;
        while done < len {
            let at = start + done;
            let count = (len - done).min(READ_BYTES);
            self.fill(at, count, is_data).await.map_err(|error| failed(at, error, CANNOT_READ))?;
            let [one, two] = &self.bufs;
            let different = match is_data {
                [true, true] => difference(one.as_slice(), two.as_slice()),
                [true, false] => nonzero(one.as_slice()),
                [false, _] => nonzero(two.as_slice()),
            };
            if let Some(index) = different {
                return Err((at + index as u64, Difference::Content));
            }
            done += count;
        }
        Ok(())
    }

    /// Reads what is data.
    async fn fill(&mut self, at: u64, count: u64, is_data: [bool; 2]) -> Result<()> {
        let len =
            usize::try_from(count).map_err(|_| Error::new(Kind::TooLarge, "too much to read at once"))?;
        let [one, two] = &mut self.lanes;
        let [first, second] = &self.shared.backends;
        let [left, right] = &mut self.bufs;
        let pool = &self.shared.pool;
        let reads = (
            read(one, first, at, if is_data[0] { len } else { 0 }, (pool, left)),
            read(two, second, at, if is_data[1] { len } else { 0 }, (pool, right)),
        );
        let (one, two) = both(reads.0, reads.1).await;
        one.and(two)
    }
}

fn failed(at: u64, error: Error, status: u8) -> (u64, Difference) {
    (at, Difference::Failed { error, status })
}

/// In what two ways of being allocated must be alike. Not in how far they go, which depends on where the bytes are.
fn likeness(status: Status) -> impl PartialEq {
    (status.data, status.zero, status.allocated, status.compressed, status.offset.is_some())
}

/// What is known from `at` on.
fn from_known(known: Option<(u64, Status)>, at: u64) -> Option<Status> {
    let (from, status) = known?;
    let into = at.checked_sub(from).filter(|into| *into < status.len)?;
    Some(Status { len: status.len - into, ..status })
}

async fn ask(
    lane: &mut Lane,
    backend: &Backend<ReadOnly>,
    at: u64,
    len_bytes: u64,
    end: u64,
) -> Result<Status> {
    match len_bytes.checked_sub(at).and_then(|left| GuestRange::checked(at, left)) {
        Some(range) if !range.is_empty() => lane.enter(backend).await.status(range, u32::MAX).await,
        _ => Ok(Status {
            len: end - at,
            data: false,
            zero: true,
            allocated: false,
            compressed: false,
            offset: None,
            depth: 0,
        }),
    }
}

async fn read(
    lane: &mut Lane,
    backend: &Backend<ReadOnly>,
    at: u64,
    len: usize,
    (pool, kept): (&Pool, &mut Buf),
) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    // It goes back before another one is taken.
    *kept = Buf::empty();
    let (result, buf) = lane.enter(backend).await.read(GuestOffset::new(at), pool.take(len)).await;
    *kept = buf;
    result
}

/// Runs both to their ends.
async fn both<A, B>(one: impl Future<Output = A>, two: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut two) = (pin!(one), pin!(two));
    let (mut left, mut right) = (None, None);
    poll_fn(move |cx| {
        if left.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(cx)
        {
            left = Some(value);
        }
        if right.is_none()
            && let Poll::Ready(value) = two.as_mut().poll(cx)
        {
            right = Some(value);
        }
        match (left.take(), right.take()) {
            (Some(left), Some(right)) => Poll::Ready((left, right)),
            (one, two) => {
                (left, right) = (one, two);
                Poll::Pending
            }
        }
    })
    .await
}

/// The first sector that differs.
fn difference(one: &[u8], two: &[u8]) -> Option<usize> {
    if is_same(one, two) {
        return None;
    }
    let sectors = one.chunks(SECTOR_BYTES).zip(two.chunks(SECTOR_BYTES));
    Some(sectors.take_while(|(one, two)| is_same(one, two)).count() * SECTOR_BYTES)
}

/// The first sector that has a byte other than zero.
fn nonzero(bytes: &[u8]) -> Option<usize> {
    if is_zero(bytes) {
        return None;
    }
    Some(bytes.chunks(SECTOR_BYTES).take_while(|sector| is_zero(sector)).count() * SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sector_that_differs_is_found() {
        let zero = vec![0; 5000];
        let mut other = zero.clone();
        assert_eq!((difference(&zero, &other), nonzero(&other)), (None, None));
        other[4999] = 1;
        assert_eq!((difference(&zero, &other), nonzero(&other)), (Some(4608), Some(4608)));
        other[1024] = 1;
        assert_eq!((difference(&zero, &other), nonzero(&other)), (Some(1024), Some(1024)));
        assert_eq!(nonzero(&[]), None);
        assert_eq!(nonzero(&[0]), None);
        assert_eq!(nonzero(&[7]), Some(0));
    }
}
