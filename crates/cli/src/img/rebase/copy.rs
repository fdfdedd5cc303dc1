//! What an image must have of its own before its backing file changes.
//!
//! ```text
//!  image      [ own ][      -      ][ own ][          -          ]
//!  old                 a a a b b b                z z z c c c
//!  new                 a a a x x x                y y y c c c
//!  copied                    b b b                0 0 0            in clusters of the image; zeroes as zeroes
//! ```
//! Not here: workers ([`super::super::stripes`]); the header.

use std::sync::Arc;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::scan::{is_same, is_zero};
use drystone_buf::{Buf, Pool};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::driver::{Status, WriteFlags, ZeroFlags};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;

use crate::img::stripes::Stripes;
use crate::tool::Tool;
use crate::tool::disk::Disk;

/// What is read of both at once; one unit at least.
const READ_BYTES: u64 = 256 << 10;
/// Memory that is kept for use again.
const KEPT_BYTES: usize = 4 << 20;

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Bytes are compared in so many: the clusters of the image.
    pub(super) unit_bytes: u64,
    /// What is copied is compressed.
    pub(super) compresses: bool,
    /// What the image's chain has at this depth or deeper, the new backing file has, too.
    pub(super) common: Option<u32>,
}

/// What the workers share.
struct Shared {
    image: Backend<ReadWrite>,
    new: Option<Backend<ReadOnly>>,
    image_len: u64,
    new_len: u64,
    flags: WriteFlags,
    rules: Rules,
    stripes: Stripes,
    pool: Pool,
}

/// Copies what differs.
///
/// # Errors
/// Those of reading and writing.
pub(super) async fn copy(
    tool: &Tool,
    disk: &Disk<ReadWrite>,
    new: Option<&Disk<ReadOnly>>,
    rules: Rules,
) -> Result<()> {
    let shared = Arc::new(Shared {
        image: disk.backend.clone(),
        new: new.map(|new| new.backend.clone()),
        image_len: disk.len_bytes,
        new_len: new.map_or(0, |new| new.len_bytes),
        flags: WriteFlags { compressed: rules.compresses, ..disk.flags },
        rules,
        stripes: Stripes::new(tool, disk.len_bytes),
        pool: Pool::new(KEPT_BYTES),
    });
    let own = Arc::clone(&shared);
    let worker = move |local: LocalRef| {
        let shared = Arc::clone(&own);
        async move { Worker { lane: Lane::new(local), shared: &shared, old: shared.image.reader() }.run().await }
    };
    shared.stripes.run(tool, worker).await
}

/// What is known of the first bytes of a range.
enum Known {
    /// So many are the image's own, or the same in both backing files.
    Same(u64),
    /// So many must be read.
    Nothing(u64),
}

/// One of those who copy.
struct Worker<'s> {
    lane: Lane,
    shared: &'s Shared,
    /// The image, which shows the old backing file where it has nothing of its own.
    old: Backend<ReadOnly>,
}

impl Worker<'_> {
    async fn run(mut self) {
        while let Some((start, end)) = self.shared.stripes.take() {
            if let Err(error) = self.stripe(start, end).await {
                self.shared.stripes.fail(error);
            }
        }
    }

    async fn stripe(&mut self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while let Some(rest) = GuestRange::checked(at, self.shared.image_len - at).filter(|_| at < end) {
            let own = self.lane.enter(&self.old).await.status(rest, 0).await?;
            let range = rest.take(own.len);
            let known = if own.allocated || own.data {
                Known::Same(range.len())
            } else {
                self.compare(range).await?
            };
            match self.in_units(known, range) {
                Known::Same(len) => {
                    at += len;
                    self.shared.stripes.pass_to(at);
                }
                Known::Nothing(len) => {
                    let len = len.min(READ_BYTES.max(self.shared.rules.unit_bytes)).min(end - at);
                    let part = range.take(self.whole_units(at, len));
                    self.part(part).await?;
                    at += part.len();
                }
            }
        }
        Ok(())
    }

    /// Cuts what is known to whole units from the start of `range`, if there is one.
    fn in_units(&self, known: Known, range: GuestRange) -> Known {
        let unit = self.shared.rules.unit_bytes;
        let start = range.start().get();
        match known {
            Known::Same(len) if len >= range.len() => known,
            Known::Same(len) => {
                let end = (start + len) - (start + len) % unit;
                if end > start { Known::Same(end - start) } else { self.in_units(Known::Nothing(1), range) }
            }
            Known::Nothing(len) => {
                let end = (start + len).checked_next_multiple_of(unit).unwrap_or(u64::MAX);
                Known::Nothing((end - start).min(range.len()))
            }
        }
    }

    /// Of `len` bytes at `at`, the whole units; or the part of a unit that comes before the next one. (The image may have
    /// something of its own within a unit: subclusters.)
    fn whole_units(&self, at: u64, len: u64) -> u64 {
        let unit = self.shared.rules.unit_bytes;
        match (at % unit, (at + len) % unit) {
            (0, 0) => len,
            (0, behind) if behind < len => len - behind,
            (0, _) => len,
            (into, _) => len.min(unit - into),
        }
    }

    /// What is known without reading of what both backing files show in `range`.
    async fn compare(&mut self, range: GuestRange) -> Result<Known> {
        let old = self.lane.enter(&self.old).await.status(range, u32::MAX).await?;
        if self.shared.rules.common.is_some_and(|common| old.depth >= common && !is_beyond(old)) {
            return Ok(Known::Same(old.len));
        }
        if !old.zero {
            return Ok(Known::Nothing(old.len));
        }
        let new = self.new_status(range).await?;
        let len = old.len.min(new.len);
        Ok(if new.zero { Known::Same(len) } else { Known::Nothing(len) })
    }

    async fn new_status(&mut self, range: GuestRange) -> Result<Status> {
        let nothing = Status {
            len: range.len(),
            data: false,
            zero: true,
            allocated: false,
            compressed: false,
            offset: None,
            depth: 0,
        };
        let left = self.shared.new_len.saturating_sub(range.start().get());
        match &self.shared.new {
            Some(new) if left > 0 => self.lane.enter(new).await.status(range.take(left), u32::MAX).await,
            _ => Ok(nothing),
        }
    }

    /// Compares a part that the image has nothing of, and copies what differs.
    async fn part(&mut self, part: GuestRange) -> Result<()> {
        let pool = &self.shared.pool;
        let mut old = read(&mut self.lane, &self.old, (part, part.len()), pool).await?;
        let left = self.shared.new_len.saturating_sub(part.start().get()).min(part.len());
        let new = match &self.shared.new {
            Some(new) => read(&mut self.lane, new, (part, left), pool).await?,
            None => Buf::zeroed(old.len()),
        };
        let mut at = 0;
        for Run { start, end, is_zero } in runs(old.as_slice(), new.as_slice(), self.shared.rules.unit_bytes)
        {
            let mut differs = old.split_off(start - at);
            old = differs.split_off(end - start);
            self.store(part.start().plus(start as u64), differs, is_zero).await?;
            at = end;
        }
        Ok(())
    }

    async fn store(&mut self, at: GuestOffset, bytes: Buf, is_zero: bool) -> Result<()> {
        let mut ticket = self.lane.enter(&self.shared.image).await;
        if is_zero {
            // Something may show through soon where nothing is now: zeroes have to be there.
            let flags = ZeroFlags { fua: self.shared.flags.fua, ..ZeroFlags::default() };
            return ticket.write_zeroes(GuestRange::new(at, bytes.len() as u64), flags).await;
        }
        let (unit, end) = (self.shared.rules.unit_bytes, at.get() + bytes.len() as u64);
        // What is a part of a cluster cannot be compressed: the image has the rest of it.
        let is_whole =
            at.get().is_multiple_of(unit) && (end.is_multiple_of(unit) || end == self.shared.image_len);
        let flags = WriteFlags { compressed: self.shared.flags.compressed && is_whole, ..self.shared.flags };
        ticket.write(at, bytes, flags).await.0
    }
}

/// Whether nobody has the bytes, because an image ends before them.
const fn is_beyond(status: Status) -> bool {
    status.zero && !status.allocated && !status.data
}

/// Reads the first `len` bytes of a part; the rest is zeroes.
async fn read(
    lane: &mut Lane,
    backend: &Backend<ReadOnly>,
    (part, len): (GuestRange, u64),
    pool: &Pool,
) -> Result<Buf> {
    let too_much = |_| Error::new(Kind::TooLarge, "too much to read at once");
    let whole = usize::try_from(part.len()).map_err(too_much)?;
    let mut buf = pool.take(whole);
    let mut behind = buf.split_off(usize::try_from(len).map_err(too_much)?.min(whole));
    behind.as_mut_slice().fill(0);
    if len == 0 {
        return Ok(behind);
    }
    let (result, mut buf) = lane.enter(backend).await.read(part.start(), buf).await;
    result?;
    match buf.rejoin(behind) {
        Ok(()) => Ok(buf),
        Err(_) => Err(Error::new(Kind::Io, "a device kept a part of the buffer")),
    }
}

/// Bytes of a part that are copied in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: usize,
    end: usize,
    is_zero: bool,
}

/// What of `old` differs from `new`, in units; neighbours together.
fn runs(old: &[u8], new: &[u8], unit_bytes: u64) -> Vec<Run> {
    let unit = usize::try_from(unit_bytes).unwrap_or(usize::MAX).max(1);
    let mut runs: Vec<Run> = Vec::new();
    let mut start = 0;
    for (old, new) in old.chunks(unit).zip(new.chunks(unit)) {
        let end = start + old.len();
        if !is_same(old, new) {
            let is_zero = is_zero(old);
            match runs.last_mut() {
                Some(last) if last.end == start && last.is_zero == is_zero => last.end = end,
                _ => runs.push(Run { start, end, is_zero }),
            }
        }
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_found_in_units() {
        let (mut old, mut new) = (vec![1; 10], vec![1; 10]);
        assert_eq!(runs(&old, &new, 4), []);
        new[5] = 2;
        new[9] = 2;
        let run = |start, end, is_zero| Run { start, end, is_zero };
        assert_eq!(runs(&old, &new, 4), [run(4, 10, false)]);
        old[8..].fill(0);
        assert_eq!(runs(&old, &new, 4), [run(4, 8, false), run(8, 10, true)]);
    }
}
