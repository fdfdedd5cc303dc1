//! What a simulated device knows, and what happens to an operation between its begin and its end.
//!
//! ```text
//!  begin: checks, number, fault, hold, pace      the operation is in flight: a power cut now leaves any part of it
//!  transfer_some (seeded): some of its sectors   others see them; the rest is still what it was
//!  finish: the other sectors, or its failure     a flush that begins later makes all of it durable
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use drystone_base::rng::Rng;
use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::Preallocation;
use drystone_core::runtime::Shard;

use super::crash::CrashState;
use super::fault::{FaultEffect, Faults};
use super::hold::Holds;
use super::image::{BLOCK_BYTES, Image};
use super::media::{Entry, Media};
use super::op::{Effect, OpIndex, OpKind, OpRecord, Outcome, Request};
use super::power::Power;
use super::{DiscardAs, DiskOptions, Timing};
use crate::pattern::Stamp;
use crate::ranges::RangeSet;

/// What a discarded range holds if the device fills it with something else: easy to tell from all data of a test.
pub(super) const GARBAGE: Stamp = Stamp::new((1 << 24) - 1);

/// A larger discarded range is not filled with garbage.
const GARBAGE_BYTES_MAX: u64 = 1 << 20;

pub(super) struct State {
    pub(super) power: Power,
    pub(super) options: DiskOptions,
    pub(super) media: Media,
    pub(super) faults: Faults,
    pub(super) holds: Holds,
    pub(super) trace: Vec<OpRecord>,
    rng: Rng,
    in_flight: BTreeMap<OpIndex, InFlight>,
}

struct InFlight {
    request: Request,
    fault: Option<FaultEffect>,
    begun: u64,
    /// What has not been transferred.
    left: RangeSet,
}

/// When an operation goes on after it was submitted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// It is over when `submit` returns.
    Now,
    /// Later: after a time, and some turns of other tasks.
    Later { delay_ns: u64, yields: u64, is_split: bool },
}

impl State {
    pub(super) fn new(image: Image, options: DiskOptions) -> Self {
        Self {
            power: options.power.clone(),
            rng: Rng::new(options.seed),
            media: Media::new(image),
            options,
            faults: Faults::default(),
            holds: Holds::default(),
            trace: Vec::new(),
            in_flight: BTreeMap::new(),
        }
    }

    /// A read that takes no wait, and no number: now and then, of a disk on which nothing is to go wrong or to wait.
    pub(super) fn read_now(&mut self, at: u64, bytes: &mut [u8]) -> bool {
        let is_plain = matches!(self.options.timing, Timing::Seeded { .. })
            && self.faults.is_empty()
            && self.holds.is_empty()
            && !self.power.is_off();
        let is_done = is_plain && self.rng.one_in(2);
        if is_done {
            self.media.visible().read(at, bytes);
        }
        is_done
    }

    /// Takes an operation, or refuses it at once.
    pub(super) fn begin(&mut self, shard: Shard, mut request: Request) -> Result<(OpIndex, Pace)> {
        let kind = request.kind;
        let range = self.check(&request)?;
        let op = self.power.begin_op().ok_or_else(|| power_lost(kind))?;
        if kind == OpKind::Discard {
            request.effect = self.draw_discard(&request.range);
        }
        let begun = self.power.moment();
        let left = self.to_transfer(&request);
        let fault = self.faults.strike(op, kind, range);
        let is_held = self.holds.catch(op, kind, range);
        let pace = self.draw_pace(is_held);
        self.trace.push(OpRecord { op, shard, kind, range, fua: request.fua, begun, ended: None });
        self.in_flight.insert(op, InFlight { request, fault, begun, left });
        Ok((op, pace))
    }

    /// Refuses what the device cannot do; otherwise the range for filters and records.
    fn check(&self, request: &Request) -> Result<GuestRange> {
        let Self { options, media, .. } = self;
        let len = media.visible().len();
        let range = request.range_shown(len)?;
        if !range.is_aligned(u64::from(options.align_bytes)) && request.kind != OpKind::Truncate {
            let text = format!("a request of {range} is not aligned to {} bytes", options.align_bytes);
            return Err(Error::new(Kind::OutOfRange, text));
        }
        let unsupported = |text: &str| Err(Error::new(Kind::Unsupported, text));
        match request.kind {
            OpKind::WriteZeroes if request.fast_only && !options.has_fast_zeroes => {
                unsupported("the device has no fast way to write zeroes")
            }
            OpKind::Truncate if !options.can_grow => unsupported("the device has a fixed length"),
            OpKind::Truncate if request.preallocation == Preallocation::Metadata => {
                unsupported("a device has no metadata to preallocate")
            }
            OpKind::Write | OpKind::WriteZeroes if !options.can_grow && range.end().get() > len => {
                Err(Error::os(28, request.kind.verb()))
            }
            _ => Ok(range),
        }
    }

    fn draw_discard(&mut self, range: &Range<u64>) -> Option<Effect> {
        let drawn = match self.rng.below(3) {
            0 => DiscardAs::Zeroes,
            1 => DiscardAs::Kept,
            _ => DiscardAs::Garbage,
        };
        match self.options.discard.unwrap_or(drawn) {
            DiscardAs::Kept => None,
            DiscardAs::Garbage if range.end - range.start <= GARBAGE_BYTES_MAX => {
                let bytes = GARBAGE.bytes(range.start, range.end - range.start);
                Some(Effect::Data { at: range.start, bytes: bytes.into() })
            }
            DiscardAs::Garbage | DiscardAs::Zeroes => Some(Effect::Zeroes { hole: true }),
        }
    }

    fn to_transfer(&self, request: &Request) -> RangeSet {
        let Range { start, end } = request.range.clone();
        match request.kind {
            OpKind::Flush => RangeSet::new(),
            OpKind::Discard if request.effect.is_none() => RangeSet::new(),
            OpKind::Discard => RangeSet::of(start..end.min(self.media.visible().len()), ()),
            _ => RangeSet::of(start..end, ()),
        }
    }

    fn draw_pace(&mut self, is_held: bool) -> Pace {
        let is_split = self.rng.one_in(3);
        let soon = Pace::Later { delay_ns: 0, yields: 1 + self.rng.below(3), is_split };
        match self.options.timing {
            Timing::Instant if is_held => Pace::Later { delay_ns: 0, yields: 0, is_split: false },
            Timing::Instant => Pace::Now,
            Timing::Deferred => soon,
            Timing::Seeded { delay_ns_max } => match self.rng.below(8) {
                0..=2 if !is_held => Pace::Now,
                6..=7 => Pace::Later { delay_ns: 1 + self.rng.below(delay_ns_max), yields: 0, is_split },
                _ => soon,
            },
        }
    }

    /// Transfers some sectors of an operation that goes on afterwards.
    pub(super) fn transfer_some(&mut self, op: OpIndex, buf: Option<&mut Buf>) {
        let Some(flight) = self.in_flight.get(&op) else { return };
        let is_whole = matches!(flight.request.kind, OpKind::Truncate | OpKind::Flush);
        if self.power.is_off() || is_whole || flight.fault.is_some() || self.lacks_space(&flight.request) {
            return;
        }
        let unit_bytes = match flight.request.effect {
            Some(Effect::Zeroes { hole: true }) => self.options.sector_bytes.max(BLOCK_BYTES), // or no hole would be left
            _ => self.options.sector_bytes,
        };
        let parts = some_sectors(&mut self.rng, &flight.left, unit_bytes);
        self.transfer(op, parts, buf);
    }

    /// Ends an operation.
    pub(super) fn finish(&mut self, op: OpIndex, buf: Option<&mut Buf>) -> Result<()> {
        let Some(flight) = self.in_flight.get(&op) else { panic!("operation {op} ended twice") };
        let (kind, fua, begun) = (flight.request.kind, flight.request.fua, flight.begun);
        if self.power.is_off() {
            self.record_end(op, Outcome::PowerLost);
            return Err(power_lost(kind));
        }
        let result = self.perform(op, buf);
        self.in_flight.remove(&op);
        let outcome = result.as_ref().map_or_else(|error| Outcome::Failed(error.kind()), |()| Outcome::Done);
        let moment = self.record_end(op, outcome);
        self.media.end(op, moment);
        if result.is_ok() && kind == OpKind::Flush {
            self.media.harden_before(begun);
        } else if result.is_ok() && fua {
            self.media.harden_op(op);
        }
        result
    }

    fn perform(&mut self, op: OpIndex, buf: Option<&mut Buf>) -> Result<()> {
        let Some(flight) = self.in_flight.get(&op) else { return Ok(()) };
        let (request, left) = (flight.request.clone(), flight.left.clone());
        let sector_bytes = self.options.sector_bytes;
        if let Some((fault, error)) = flight.fault.and_then(|fault| Some((fault, fault.error(request.kind)?)))
        {
            let parts = match (request.kind, fault) {
                (OpKind::Flush | OpKind::Truncate, _) => RangeSet::new(),
                (_, FaultEffect::Short) => beginning(&mut self.rng, &left, sector_bytes),
                _ => some_sectors(&mut self.rng, &left, sector_bytes),
            };
            self.transfer(op, parts, buf);
            return Err(error);
        }
        if self.lacks_space(&request) {
            let parts = match request.kind {
                OpKind::Truncate => RangeSet::new(),
                _ => prefix(&left, self.space_left().saturating_sub(BLOCK_BYTES), sector_bytes),
            };
            self.transfer(op, parts, buf);
            return Err(Error::os(28, request.kind.verb()));
        }
        let is_damaged = flight.fault == Some(FaultEffect::Damage);
        match (request.kind, buf) {
            (OpKind::Read, Some(buf)) => {
                self.transfer(op, left, Some(&mut *buf));
                if is_damaged {
                    damage(request.range.start, buf.as_mut_slice(), sector_bytes);
                }
            }
            (OpKind::Truncate, _) => self.truncate(op, &request),
            (_, buf) => self.transfer(op, left, buf),
        }
        Ok(())
    }

    /// Moves `parts` of operation `op` between the buffer and the media.
    fn transfer(&mut self, op: OpIndex, parts: RangeSet, buf: Option<&mut Buf>) {
        let Some(flight) = self.in_flight.get_mut(&op) else { return };
        for (part, ()) in parts.iter() {
            flight.left.clear(part);
        }
        match (&flight.request.effect, buf) {
            _ if parts.is_empty() => {}
            (Some(effect), _) => self.media.apply(op, effect.clone(), parts),
            (None, Some(buf)) => {
                let start = flight.request.range.start;
                for (part, ()) in parts.iter() {
                    let inside = crate::index(part.start - start)..crate::index(part.end - start);
                    if let Some(out) = buf.as_mut_slice().get_mut(inside) {
                        self.media.visible().read(part.start, out);
                    }
                }
            }
            (None, None) => {}
        }
    }

    fn truncate(&mut self, op: OpIndex, request: &Request) {
        let (old_len, new_len) = (self.media.visible().len(), request.range.start);
        self.media.apply(op, Effect::Len(new_len), RangeSet::of(request.range.clone(), ()));
        if request.preallocation != Preallocation::Off && new_len > old_len {
            self.media.apply(op, Effect::Zeroes { hole: false }, RangeSet::of(old_len..new_len, ()));
        }
    }

    fn space_left(&self) -> u64 {
        self.options.space_bytes.saturating_sub(self.media.visible().allocated_bytes())
    }

    fn lacks_space(&self, request: &Request) -> bool {
        let visible = self.media.visible();
        let range = match (request.kind, &request.effect) {
            (OpKind::Write, _) | (OpKind::WriteZeroes, Some(Effect::Zeroes { hole: false })) => {
                request.range.clone()
            }
            (OpKind::Truncate, _) if request.preallocation != Preallocation::Off => {
                visible.len()..request.range.start.max(visible.len())
            }
            _ => return false,
        };
        visible.unallocated_bytes(range) > self.space_left()
    }

    /// Writes the end of an operation into its record; the moment of that.
    fn record_end(&mut self, op: OpIndex, outcome: Outcome) -> u64 {
        let moment = self.power.moment();
        if let Some(record) = self.trace.iter_mut().rev().find(|record| record.op == op) {
            record.ended = Some((moment, outcome));
        }
        moment
    }

    /// What could be found on the device if the power went off now.
    pub(super) fn crash_state(&self) -> CrashState {
        let rest = self.in_flight.iter().filter_map(|(&op, flight)| {
            let effect = flight.request.effect.clone().filter(|_| !flight.left.is_empty())?;
            Some(Entry::new(op, effect, flight.left.clone()))
        });
        let entries = self.media.log().iter().cloned().chain(rest).collect();
        CrashState::new(self.media.durable().clone(), entries, self.media.visible().len(), &self.options)
    }
}

fn power_lost(kind: OpKind) -> Error {
    Error::os(5, kind.verb()).because("the simulated power is off")
}

/// Some of the sectors that `set` touches, as far as `set` has them.
fn some_sectors(rng: &mut Rng, set: &RangeSet, sector_bytes: u64) -> RangeSet {
    let mut some = RangeSet::new();
    for (range, ()) in set.iter() {
        let sectors = (range.end - range.start).div_ceil(sector_bytes);
        let run_max = 1 + rng.below(sectors);
        let (mut at, mut is_taken) = (range.start, rng.one_in(2));
        while at < range.end {
            let next = at - at % sector_bytes + (1 + rng.below(run_max)) * sector_bytes;
            if is_taken {
                some.set(at..next.min(range.end), ());
            }
            (at, is_taken) = (next, !is_taken);
        }
    }
    some
}

/// A beginning of `set` that ends between two sectors, but not all of it.
fn beginning(rng: &mut Rng, set: &RangeSet, sector_bytes: u64) -> RangeSet {
    let len = set.total_len();
    let bytes = rng.below(len.div_ceil(sector_bytes)) * sector_bytes;
    prefix(set, bytes, sector_bytes)
}

/// At most the first `bytes` bytes of `set`, up to the end of a sector.
fn prefix(set: &RangeSet, bytes: u64, sector_bytes: u64) -> RangeSet {
    let mut left = bytes;
    let mut first = RangeSet::new();
    for (range, ()) in set.iter() {
        let end = range.start + left.min(range.end - range.start);
        let whole = if end < range.end { end - end % sector_bytes } else { end };
        first.set(range.start..whole.max(range.start), ());
        left -= end - range.start;
    }
    first
}

/// Flips one bit in each sector that starts in `bytes`, chosen by its place on the device.
fn damage(at: u64, bytes: &mut [u8], sector_bytes: u64) {
    for (index, sector) in bytes.chunks_mut(crate::index(sector_bytes)).enumerate() {
        let mut rng = Rng::new(at / sector_bytes + index as u64);
        let byte = rng.index(sector.len());
        if let Some(byte) = sector.get_mut(byte) {
            *byte ^= 1 << rng.below(8);
        }
    }
}
