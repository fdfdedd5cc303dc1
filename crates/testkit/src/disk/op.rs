//! What a device was asked to do, and the record of it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::{DiskOp, Preallocation};
use drystone_core::runtime::Shard;

use crate::notation::show_range;

/// The number of an operation, counted from 0 over all disks that share their power.
pub type OpIndex = u64;

/// The kinds of [`DiskOp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpKind {
    /// [`DiskOp::Read`].
    Read,
    /// [`DiskOp::Write`].
    Write,
    /// [`DiskOp::Flush`].
    Flush,
    /// [`DiskOp::Discard`].
    Discard,
    /// [`DiskOp::WriteZeroes`].
    WriteZeroes,
    /// [`DiskOp::Truncate`].
    Truncate,
}

impl OpKind {
    /// What a failed one could not do.
    pub(super) const fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes => "write zeroes",
            Self::Truncate => "truncate",
        }
    }
}

/// Which operations something applies to.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpFilter {
    kind: Option<OpKind>,
    touching: Option<GuestRange>,
}

impl OpFilter {
    /// All.
    #[must_use]
    pub const fn any() -> Self {
        Self { kind: None, touching: None }
    }

    /// Those of one kind.
    #[must_use]
    pub const fn of(kind: OpKind) -> Self {
        Self { kind: Some(kind), touching: None }
    }

    /// Of these, only those that have a byte of `range`. A flush has none.
    #[must_use]
    pub const fn touching(self, range: GuestRange) -> Self {
        Self { touching: Some(range), ..self }
    }

    pub(super) fn matches(self, kind: OpKind, range: GuestRange) -> bool {
        self.kind.is_none_or(|only| only == kind) && self.touching.is_none_or(|only| only.overlaps(range))
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It worked.
    Done,
    /// It failed.
    Failed(Kind),
    /// The power went off before it was done.
    PowerLost,
}

/// One operation of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpRecord {
    /// Its number.
    pub op: OpIndex,
    /// The thread that submitted it.
    pub shard: Shard,
    /// What it was.
    pub kind: OpKind,
    /// Where: empty for a flush; for a truncation, from the new length to the old one or the other way round.
    pub range: GuestRange,
    /// A write that had to be durable when it was done.
    pub fua: bool,
    /// When it was submitted. Moments are numbers that grow by one with each begin and end of an operation on any disk
    /// with the same power.
    pub begun: u64,
    /// When and how it ended; `None` while it is in flight.
    pub ended: Option<(u64, Outcome)>,
}

impl OpRecord {
    /// Whether it was over when `later` was submitted.
    #[must_use]
    pub fn is_before(&self, later: &Self) -> bool {
        self.ended.is_some_and(|(at, _)| at < later.begun)
    }
}

impl fmt::Display for OpRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op {} {:?} {}", self.op, self.kind, show_range(self.range))?;
        if self.fua {
            f.write_str(" fua")?;
        }
        match self.ended {
            None => f.write_str(" in flight"),
            Some((_, Outcome::Done)) => Ok(()),
            Some((_, outcome)) => write!(f, " {outcome:?}"),
        }
    }
}

/// What a change of the contents puts in their place.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    /// Bytes, the first of which belongs at `at`.
    Data { at: u64, bytes: Arc<[u8]> },
    /// Zeroes that become holes where whole blocks are covered, or that are allocated.
    Zeroes { hole: bool },
    /// A length; bytes past it are gone.
    Len(u64),
}

/// A [`DiskOp`] without its buffer.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) kind: OpKind,
    /// Empty for a flush; for a truncation, everything from the new length on.
    pub(super) range: Range<u64>,
    pub(super) fua: bool,
    pub(super) fast_only: bool,
    pub(super) preallocation: Preallocation,
    /// `None` for reads, flushes, and discards whose effect the device has not chosen.
    pub(super) effect: Option<Effect>,
}

impl Request {
    /// Takes `op` apart.
    pub(super) fn new(op: DiskOp) -> (Self, Option<Buf>) {
        let plain = |kind, range, effect| Self {
            kind,
            range,
            fua: false,
            fast_only: false,
            preallocation: Preallocation::Off,
            effect,
        };
        match op {
            DiskOp::Read { at, buf } => (plain(OpKind::Read, at..end_of(at, &buf), None), Some(buf)),
            DiskOp::Write { at, buf, fua } => {
                let effect = Effect::Data { at, bytes: buf.as_slice().into() };
                (Self { fua, ..plain(OpKind::Write, at..end_of(at, &buf), Some(effect)) }, Some(buf))
            }
            DiskOp::Flush => (plain(OpKind::Flush, 0..0, None), None),
            DiskOp::Discard(range) => (plain(OpKind::Discard, bounds(range), None), None),
            DiskOp::WriteZeroes { range, may_unmap, fast_only } => {
                let effect = Effect::Zeroes { hole: may_unmap };
                (Self { fast_only, ..plain(OpKind::WriteZeroes, bounds(range), Some(effect)) }, None)
            }
            DiskOp::Truncate { len, preallocation } => {
                let request = plain(OpKind::Truncate, len..u64::MAX, Some(Effect::Len(len)));
                (Self { preallocation, ..request }, None)
            }
        }
    }

    /// The range for filters and records. `len` is the device's length before the operation.
    pub(super) fn range_shown(&self, len: u64) -> Result<GuestRange> {
        let Range { start, end } = self.range.clone();
        let shown = match self.kind {
            OpKind::Truncate => GuestRange::checked(start.min(len), start.abs_diff(len)),
            _ => GuestRange::checked(start, end.saturating_sub(start)),
        };
        shown.ok_or_else(|| Error::new(Kind::OutOfRange, "the request ends past the largest disk"))
    }
}

fn end_of(at: u64, buf: &Buf) -> u64 {
    at.saturating_add(buf.len() as u64)
}

fn bounds(range: GuestRange) -> Range<u64> {
    range.start().get()..range.end().get()
}
