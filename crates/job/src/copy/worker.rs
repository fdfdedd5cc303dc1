//! One worker: claims pieces and copies them, one request at a time.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::ZeroFlags;
use drystone_core::lane::Lane;
use drystone_core::request::press::Pressed;

use super::claim::Piece;
use super::spec::{CopySource, Order, Zeroes};
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
pub(super) enum What {
    /// The target shows it already, from a layer below.
    Nothing,
    /// It reads as zeroes.
    Zero,
    /// It has to be read.
    Data,
}

/// What is done to the target.
pub(super) enum Act {
    Write(GuestOffset, Buf),
    /// A write of what the target's driver has compressed.
    Pressed(Pressed, Buf),
    Zero(GuestRange),
}

/// What a worker has to do for its piece.
enum Doing {
    /// At once.
    Now,
    /// When it is the piece's turn.
    Later(Vec<Act>),
}

/// Ends a copy that its worker has left half way.
struct Leaving<'c>(Option<&'c Copy>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(copy) = self.0 {
            copy.stop();
        }
    }
}

impl Copy {
    /// Copies in `lane` what nobody else has claimed, until nothing is left or something has failed. Dropped earlier, it ends
    /// the copy for all.
    pub async fn work(&self, lane: &mut Lane) {
        let mut leaving = Leaving(Some(self));
        while !self.is_over() {
            self.keep_pace(lane).await;
            let Some(piece) = lock(&self.claims).claim(self.step_bytes()) else { break };
            if let Err(error) = self.whole_piece(lane, piece).await {
                self.fail(error);
            }
        }
        leaving.0 = None;
    }

    async fn whole_piece(&self, lane: &mut Lane, piece: Piece) -> Result<()> {
        if self.spec.order == Order::Free {
            return self.piece(lane, piece, &mut Doing::Now).await;
        }
        let mut doing = Doing::Later(Vec::new());
        self.piece(lane, piece, &mut doing).await?;
        let Doing::Later(acts) = doing else { return Ok(()) };
        let has_nothing = acts.is_empty();
        let (index, is_writer) = match self.spec.order {
            Order::Ready => self.line.hand_in_last(acts),
            Order::Disk | Order::Free => (piece.index, self.line.hand_in(piece.index, acts)),
        };
        if is_writer {
            self.write_line(lane).await?;
        }
        if !has_nothing {
            self.line.written(index).await;
        }
        Ok(())
    }

    /// Writes what is there of the line.
    async fn write_line(&self, lane: &mut Lane) -> Result<()> {
        while let Some((index, acts)) = self.line.next() {
            for act in acts {
                self.act(lane, act).await?;
            }
            self.line.done(index);
        }
        Ok(())
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

    async fn piece(&self, lane: &mut Lane, piece: Piece, doing: &mut Doing) -> Result<()> {
        let mut rest = piece.range;
        while !rest.is_empty() && !self.is_over() {
            let (what, len) = self.look(lane, rest).await?;
            let part = rest.take(len);
            match what {
                What::Data => self.data(lane, part, doing).await?,
                What::Nothing => {}
                What::Zero => self.zero(lane, part, doing).await?,
            }
            self.advance(part.len());
            rest = rest.skip(len);
            if rest.is_empty() && what != What::Data {
                self.beyond(lane, (what, part.start().get() + len), piece.range.end().get(), doing).await?;
            }
        }
        Ok(())
    }

    /// A hole that goes on behind the piece up to `until` is dealt with at once, as far as nobody has claimed it.
    async fn beyond(
        &self,
        lane: &mut Lane,
        (what, until): (What, u64),
        mut end: u64,
        doing: &mut Doing,
    ) -> Result<()> {
        while end < until {
            let next = until.min(end.saturating_add(ZERO_BYTES_MAX));
            let more = lock(&self.claims).extend(end, next);
            let Some(range) = GuestRange::checked(end, more).filter(|range| !range.is_empty()) else { break };
            if what == What::Zero {
                self.zero(lane, range, doing).await?;
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
        let (what, known) = lock(&self.known).clone();
        if known.contains(&at) {
            return Ok(self.whole_units(what, range, known.end - at, is_own_layer));
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
        if status.len > range.len() {
            *lock(&self.known) = (what, at..at + status.len);
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
    pub(super) fn source_at(&self, at: u64) -> Result<(&CopySource, u64, u64)> {
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
    async fn data(&self, lane: &mut Lane, part: GuestRange, doing: &mut Doing) -> Result<()> {
        let now_ns = lane.local().now_ns();
        lock(&self.limit).spend(part.len(), now_ns);
        let part = self.offload(lane, part).await?;
        if part.is_empty() {
            return Ok(());
        }
        let mut buf = self.read(lane, part).await?;
        let spec = &self.spec;
        let runs = match spec.zeroes {
            Zeroes::Written | Zeroes::Known => vec![Run { bytes: 0..buf.len(), is_zero: false }],
            Zeroes::Found { bytes_min } => {
                runs(buf.as_slice(), part.start().get(), spec.block_bytes, bytes_min.max(spec.block_bytes))
            }
        };
        for run in runs {
            let tail = buf.split_off(run.bytes.len());
            let now = std::mem::replace(&mut buf, tail);
            let at = part.start().get() + run.bytes.start as u64;
            let range = GuestRange::checked(at, now.len() as u64).unwrap_or(part);
            if run.is_zero {
                drop(now);
                self.zero(lane, range, doing).await?;
            } else {
                let act = self.press(lane, range.start(), now).await;
                self.now_or_later(lane, act, doing).await?;
            }
        }
        Ok(())
    }

    /// The write of `buf`, compressed now if it shall be, rather than when it is its turn.
    async fn press(&self, lane: &mut Lane, at: GuestOffset, mut buf: Buf) -> Act {
        if !self.spec.flags.compressed {
            return Act::Write(at, buf);
        }
        match lane.enter(&self.spec.target).await.press(at, buf.as_mut_slice()) {
            Some(pressed) => Act::Pressed(pressed, buf),
            None => Act::Write(at, buf),
        }
    }

    async fn read(&self, lane: &mut Lane, part: GuestRange) -> Result<Buf> {
        let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
        // Blocks of one length serve parts of any: the pool would keep some of each.
        let mut whole = self.pool.take(len.max(usize::try_from(self.piece_bytes).unwrap_or(0)));
        drop(whole.split_off(len));
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

    /// Makes a part of the target read as zeroes, if it does not do so already.
    async fn zero(&self, lane: &mut Lane, range: GuestRange, doing: &mut Doing) -> Result<()> {
        if range.start().get() >= self.spec.zero_from {
            return Ok(());
        }
        self.now_or_later(lane, Act::Zero(range), doing).await
    }

    async fn now_or_later(&self, lane: &mut Lane, act: Act, doing: &mut Doing) -> Result<()> {
        match doing {
            Doing::Now => self.act(lane, act).await,
            Doing::Later(acts) => {
                acts.push(act);
                Ok(())
            }
        }
    }

    async fn act(&self, lane: &mut Lane, act: Act) -> Result<()> {
        let mut target = lane.enter(&self.spec.target).await;
        match act {
            Act::Write(at, buf) => target.write(at, buf, self.spec.flags).await.0,
            Act::Pressed(pressed, buf) => target.write_pressed(pressed, buf, self.spec.flags).await.0,
            Act::Zero(range) => {
                let flags = ZeroFlags { may_unmap: true, fua: self.spec.flags.fua, ..ZeroFlags::default() };
                if self.spec.zeroes != Zeroes::Known {
                    return target.write_zeroes(range, flags).await;
                }
                // What shows zeroes without space of its own is left as it is: a mark would take a table.
                let mut rest = range;
                while !rest.is_empty() {
                    let now = target.status(rest, u32::MAX).await?;
                    let part = rest.take(now.len.max(1));
                    if !now.zero || now.data || now.allocated {
                        target.write_zeroes(part, flags).await?;
                    }
                    rest = rest.skip(part.len());
                }
                Ok(())
            }
        }
    }
}
