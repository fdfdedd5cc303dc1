//! One worker: claims pieces and copies them, one request at a time.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::ZeroFlags;
use drystone_core::lane::Lane;

use super::claim::Piece;
use super::spec::{CopySource, Zeroes};
use super::zeroes::{Run, runs};
use super::{Copy, lock};

/// Most bytes that one request zeroes.
const ZERO_BYTES_MAX: u64 = 256 << 20;
/// A stretch of data that is shorter than this is read together with what follows: reading a hole costs less than asking
/// where it ends.
const STRETCH_BYTES_MIN: u64 = 128 << 10;
/// What is read on its own where reads fail.
const SECTOR_BYTES: u64 = 512;

/// What is to be done with a part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The target shows it already, from a layer below.
    Nothing,
    /// It reads as zeroes.
    Zero,
    /// It has to be read.
    Data,
}

impl Copy {
    /// Copies in `lane` what nobody else has claimed, until nothing is left or something has failed.
    pub async fn work(&self, lane: &mut Lane) {
        while !self.is_over() {
            self.keep_pace(lane).await;
            let Some(piece) = lock(&self.claims).claim(self.step_bytes()) else { return };
            let copied = self.piece(lane, piece).await;
            self.turns.pass(piece.index);
            if let Err(error) = copied {
                self.fail(error);
            }
        }
    }

    /// The most bytes that one piece has.
    fn step_bytes(&self) -> u64 {
        let step = lock(&self.limit).step_bytes(self.spec.unit_bytes, self.piece_bytes);
        step.next_multiple_of(self.spec.unit_bytes)
    }

    /// Waits while the rate limit is reached.
    async fn keep_pace(&self, lane: &Lane) {
        loop {
            let now_ns = lane.local().now_ns();
            let Some(until_ns) = lock(&self.limit).blocked_until(now_ns) else { return };
            lane.local().sleep_until(until_ns).await;
        }
    }

    async fn piece(&self, lane: &mut Lane, piece: Piece) -> Result<()> {
        let mut rest = piece.range;
        while !rest.is_empty() && !self.is_over() {
            let (what, len) = self.look(lane, rest).await?;
            let part = rest.take(len);
            match what {
                What::Data => self.data(lane, piece, part).await?,
                What::Nothing => {}
                What::Zero => self.zero(lane, piece.index, part).await?,
            }
            self.advance(part.len());
            rest = rest.skip(len);
            if rest.is_empty() && what != What::Data {
                self.beyond(lane, piece.index, (what, part.start().get() + len), piece.range.end().get())
                    .await?;
            }
        }
        Ok(())
    }

    /// A hole that goes on behind the piece up to `until` is dealt with at once, as far as nobody has claimed it.
    async fn beyond(
        &self,
        lane: &mut Lane,
        index: u64,
        (what, until): (What, u64),
        mut end: u64,
    ) -> Result<()> {
        while end < until {
            let next = until.min(end.saturating_add(ZERO_BYTES_MAX));
            let more = lock(&self.claims).extend(end, next);
            let Some(range) = GuestRange::checked(end, more).filter(|range| !range.is_empty()) else { break };
            if what == What::Zero {
                self.zero(lane, index, range).await?;
            }
            self.advance(more);
            end += more;
        }
        Ok(())
    }

    /// What is to be done with the first bytes of `range`, and how many they are: whole units, perhaps more than the range
    /// has if there is nothing to read.
    async fn look(&self, lane: &mut Lane, range: GuestRange) -> Result<(What, u64)> {
        let spec = &self.spec;
        let at = range.start().get();
        let is_own_layer = at < spec.own.until;
        if spec.zeroes == Zeroes::Written && !is_own_layer {
            return Ok((What::Data, range.len()));
        }
        let known = lock(&self.data).clone();
        if known.contains(&at) {
            return Ok(self.whole_units(What::Data, range, known.end - at, is_own_layer));
        }
        let (source, from, left) = self.source_at(at)?;
        let bound = [spec.own.until, spec.zero_from].into_iter().filter(|bound| *bound > at).min();
        let left = bound.map_or(left, |bound| left.min(bound - at));
        let layers = if is_own_layer { spec.own.layers_below } else { u32::MAX };
        let Some(asked) = GuestRange::checked(from, left) else { return Ok((What::Data, range.len())) };
        let status = match lane.enter(&source.backend).await.status(asked, layers).await {
            Ok(status) if status.len > 0 => status,
            Err(error) if !spec.salvages => return Err(error),
            Ok(_) | Err(_) => return Ok((What::Data, range.len())),
        };
        let is_absent = !status.allocated && !status.data;
        let is_cut = spec.own.is_cut && status.depth >= spec.own.layers_below;
        let what = match (status.zero, is_absent) {
            (_, true) if is_own_layer && (is_cut || !status.zero) => What::Nothing,
            (true, _) if spec.zeroes != Zeroes::Written => What::Zero,
            _ => What::Data,
        };
        if what == What::Data && status.len > range.len() {
            *lock(&self.data) = at..at + status.len;
        }
        Ok(self.whole_units(what, range, status.len, is_own_layer))
    }

    /// Cuts or lengthens what was found to whole units.
    fn whole_units(&self, what: What, range: GuestRange, found: u64, is_own_layer: bool) -> (What, u64) {
        let unit =
            if is_own_layer && !self.spec.flags.compressed { SECTOR_BYTES } else { self.spec.unit_bytes };
        let at = range.start().get();
        let is_last = at + found >= self.len_bytes;
        let whole = if is_last { found } else { (at + found) / unit * unit };
        let whole = if is_last { whole } else { whole.saturating_sub(at) };
        if what != What::Data && whole > 0 {
            return (what, whole);
        }
        // What would be left out of a longer stretch is no more than what is found in blocks.
        let is_exact = is_own_layer || self.spec.block_bytes > self.spec.unit_bytes;
        let stretch = if is_exact { unit } else { STRETCH_BYTES_MIN.max(unit) };
        let found = found.max(stretch);
        (What::Data, (at + found).next_multiple_of(unit).saturating_sub(at).min(range.len()))
    }

    /// The source of the byte at `at` of the target, the byte's place in it, and how many bytes are left there.
    fn source_at(&self, at: u64) -> Result<(&CopySource, u64, u64)> {
        let mut from = at;
        for source in &self.spec.sources {
            if from < source.len_bytes {
                return Ok((source, source.start + from, source.len_bytes - from));
            }
            from -= source.len_bytes;
        }
        Err(Error::new(Kind::OutOfRange, "the copy is past the end of its sources"))
    }

    /// Reads a part and writes it.
    async fn data(&self, lane: &mut Lane, piece: Piece, part: GuestRange) -> Result<()> {
        let now_ns = lane.local().now_ns();
        lock(&self.limit).spend(part.len(), now_ns);
        let mut buf = self.read(lane, part).await?;
        let spec = &self.spec;
        let runs = match spec.zeroes {
            Zeroes::Written | Zeroes::Known => vec![Run { bytes: 0..buf.len(), is_zero: false }],
            Zeroes::Found { bytes_min } => {
                runs(buf.as_slice(), part.start().get(), spec.block_bytes, bytes_min.max(spec.block_bytes))
            }
        };
        let last = runs.iter().rposition(|run| !run.is_zero);
        for (n, run) in runs.into_iter().enumerate() {
            let tail = buf.split_off(run.bytes.len());
            let now = std::mem::replace(&mut buf, tail);
            let at = part.start().get() + run.bytes.start as u64;
            let range = GuestRange::checked(at, now.len() as u64).unwrap_or(part);
            if run.is_zero {
                drop(now);
                self.zero(lane, piece.index, range).await?;
            } else {
                let is_last = last == Some(n) && part.end() == piece.range.end();
                self.write(lane, piece.index, (range.start(), now), is_last).await?;
            }
        }
        Ok(())
    }

    async fn read(&self, lane: &mut Lane, part: GuestRange) -> Result<Buf> {
        let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
        let mut whole = self.pool.take(len);
        let mut done = 0;
        // More than one source has bytes of a part that lies across their seam.
        while done < len {
            let at = part.start().get() + done as u64;
            let (source, from, left) = self.source_at(at)?;
            let mut buf = whole.split_off(done);
            let rest = buf.split_off(buf.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            done += buf.len();
            let (result, mut buf) = lane.enter(&source.backend).await.read(GuestOffset::new(from), buf).await;
            match result {
                Err(_) if self.spec.salvages => self.salvage(lane, (source, from), at, &mut buf).await,
                result => result?,
            }
            for next in [buf, rest] {
                whole.rejoin(next).map_err(|_| Error::new(Kind::Io, "a read gave back another buffer"))?;
            }
        }
        Ok(whole)
    }

    /// Reads what can be read, sector by sector; the rest is zeroes. `at` is where the bytes lie on the target.
    async fn salvage(&self, lane: &mut Lane, (source, from): (&CopySource, u64), at: u64, into: &mut Buf) {
        let sector_bytes = usize::try_from(SECTOR_BYTES).unwrap_or(usize::MAX);
        for (n, sector) in into.as_mut_slice().chunks_mut(sector_bytes).enumerate() {
            let done = n as u64 * SECTOR_BYTES;
            let mut ticket = lane.enter(&source.backend).await;
            let (result, buf) = ticket.read(GuestOffset::new(from + done), Buf::zeroed(sector.len())).await;
            match result {
                Ok(()) => sector.copy_from_slice(buf.as_slice()),
                Err(error) => {
                    sector.fill(0);
                    self.watch.unreadable(at + done, &error);
                }
            }
        }
    }

    /// Writes data; with `is_last`, the turn of the piece is over when this has ended.
    async fn write(
        &self,
        lane: &mut Lane,
        index: u64,
        (at, buf): (GuestOffset, Buf),
        is_last: bool,
    ) -> Result<()> {
        if self.spec.is_ordered && !self.turns.wait(index).await {
            return Ok(());
        }
        let mut ticket = lane.enter(&self.spec.target).await;
        let (result, _) = ticket.write(at, buf, self.spec.flags).await;
        drop(ticket);
        if is_last {
            self.turns.pass(index);
        }
        result
    }

    /// Makes a part of the target read as zeroes, if it does not do so already.
    async fn zero(&self, lane: &mut Lane, index: u64, range: GuestRange) -> Result<()> {
        if range.start().get() >= self.spec.zero_from {
            return Ok(());
        }
        if self.spec.is_ordered && !self.turns.wait(index).await {
            return Ok(());
        }
        let flags = ZeroFlags { may_unmap: true, fua: self.spec.flags.fua, ..ZeroFlags::default() };
        lane.enter(&self.spec.target).await.write_zeroes(range, flags).await
    }
}
