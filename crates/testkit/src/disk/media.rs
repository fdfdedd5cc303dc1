//! [`Media`]: what a device holds now, and what it would still hold without power.
//!
//! ```text
//!  durable --- log: changes in the order in which they took effect ---> visible
//!              [op 3 done][op 5 done][op 4 in flight]
//!                   a flush that began after the end of 3 and 5 moves them into `durable`
//! ```
//! Invariants: applying the whole log to `durable` gives `visible`; no entry of the log undoes a part of `durable` that
//! took effect after it (it gives way when the later change becomes durable first).

use std::ops::Range;

use super::image::Image;
use super::op::{Effect, OpIndex};
use crate::ranges::RangeSet;

/// A change that would not survive a power cut for certain.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) op: OpIndex,
    pub(super) effect: Effect,
    /// Where the change counts.
    pub(super) alive: RangeSet,
    /// When its operation ended.
    ended: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Media {
    visible: Image,
    durable: Image,
    log: Vec<Entry>,
}

impl Media {
    pub(super) fn new(image: Image) -> Self {
        Self { visible: image.clone(), durable: image, log: Vec::new() }
    }

    pub(super) const fn visible(&self) -> &Image {
        &self.visible
    }

    pub(super) const fn durable(&self) -> &Image {
        &self.durable
    }

    pub(super) fn log(&self) -> &[Entry] {
        &self.log
    }

    /// Lets `effect` of operation `op` happen over `parts`.
    pub(super) fn apply(&mut self, op: OpIndex, effect: Effect, parts: RangeSet) {
        let entry = Entry::new(op, effect, parts);
        entry.apply_to(&mut self.visible);
        self.log.push(entry);
    }

    /// Operation `op` has ended at `moment`: a flush that begins later makes it durable.
    pub(super) fn end(&mut self, op: OpIndex, moment: u64) {
        for entry in self.log.iter_mut().filter(|entry| entry.op == op) {
            entry.ended = Some(moment);
        }
    }

    /// Makes durable what had ended before `moment`.
    pub(super) fn harden_before(&mut self, moment: u64) {
        self.harden(|entry| entry.ended.is_some_and(|ended| ended < moment));
    }

    /// Makes durable what operation `op` did.
    pub(super) fn harden_op(&mut self, op: OpIndex) {
        self.harden(|entry| entry.op == op);
    }

    fn harden(&mut self, is_stable: impl Fn(&Entry) -> bool) {
        let mut kept: Vec<Entry> = Vec::new();
        for entry in std::mem::take(&mut self.log) {
            if is_stable(&entry) {
                kept.iter_mut().for_each(|earlier| earlier.give_way_to(&entry));
                entry.apply_to(&mut self.durable);
            } else {
                kept.push(entry);
            }
        }
        kept.retain(|entry| !entry.alive.is_empty());
        self.log = kept;
    }
}

impl Entry {
    pub(super) fn new(op: OpIndex, effect: Effect, alive: RangeSet) -> Self {
        Self { op, effect, alive, ended: None }
    }

    /// Where the bytes that it leaves end; 0 for a change of the length, which leaves none.
    pub(super) fn end(&self) -> u64 {
        match self.effect {
            Effect::Len(_) => 0,
            _ => self.alive.iter().last().map_or(0, |(range, ())| range.end),
        }
    }

    /// The range from the first to the last byte where it counts.
    pub(super) fn bounds(&self) -> Range<u64> {
        let first = self.alive.iter().next().map_or(0, |(range, ())| range.start);
        first..self.alive.iter().last().map_or(first, |(range, ())| range.end)
    }

    pub(super) fn apply_to(&self, image: &mut Image) {
        for (part, ()) in self.alive.iter() {
            self.apply_part(image, part);
        }
        if let Effect::Len(len) = self.effect {
            image.set_len(len);
        }
    }

    /// Lets the change happen to the contents of `part` only.
    pub(super) fn apply_part(&self, image: &mut Image, part: Range<u64>) {
        match &self.effect {
            Effect::Data { at, bytes } => {
                let inside = crate::index(part.start - at)..crate::index(part.end - at);
                image.write(part.start, bytes.get(inside).unwrap_or_default());
            }
            Effect::Zeroes { hole } => {
                if *hole {
                    image.punch(part.clone());
                } else {
                    image.zero_allocated(part.clone());
                }
                image.set_len(image.len().max(part.end));
            }
            Effect::Len(_) => image.punch(part),
        }
    }

    /// `later` took effect after this change and is durable now, so this change must not undo it.
    fn give_way_to(&mut self, later: &Self) {
        for (part, ()) in later.alive.iter() {
            self.alive.clear(part);
        }
        match (&mut self.effect, &later.effect) {
            (Effect::Len(_), Effect::Len(_)) => self.alive.clear(0..u64::MAX),
            (Effect::Len(len), _) => *len = (*len).max(later.end()),
            _ => {}
        }
    }
}
