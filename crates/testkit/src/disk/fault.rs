//! [`Fault`]: which operations go wrong, and how.

use drystone_base::{Error, GuestRange};

use super::op::{OpFilter, OpIndex, OpKind};

/// How an operation goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultEffect {
    /// EIO. Of a change of contents, any of its sectors may have happened; of a truncation or flush, nothing.
    Io,
    /// ENOSPC, otherwise the same.
    NoSpace,
    /// EIO after a beginning of the range, but not all of it.
    Short,
    /// A read works, but one bit of each sector is wrong: the same one each time. Other operations are not affected.
    Damage,
}

impl FaultEffect {
    /// What the operation ends with.
    pub(super) fn error(self, kind: OpKind) -> Option<Error> {
        match self {
            Self::Io | Self::Short => Some(Error::os(5, kind.verb())),
            Self::NoSpace => Some(Error::os(28, kind.verb())),
            Self::Damage => None,
        }
    }
}

/// A rule by which operations go wrong.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    filter: OpFilter,
    at: Option<OpIndex>,
    effect: FaultEffect,
    skip: u64,
    times: u64,
}

impl Fault {
    /// Every operation that `filter` lets through goes wrong.
    #[must_use]
    pub const fn every(filter: OpFilter, effect: FaultEffect) -> Self {
        Self { filter, at: None, effect, skip: 0, times: u64::MAX }
    }

    /// Of the operations that `filter` lets through, only number `index`, counted from 0, goes wrong.
    #[must_use]
    pub const fn nth(index: u64, filter: OpFilter, effect: FaultEffect) -> Self {
        Self { filter, at: None, effect, skip: index, times: 1 }
    }

    /// Operation number `op` of all disks that share their power goes wrong, if it is one of this disk.
    #[must_use]
    pub const fn at(op: OpIndex, effect: FaultEffect) -> Self {
        Self { filter: OpFilter::any(), at: Some(op), effect, skip: 0, times: 1 }
    }

    /// Ends after `times` operations went wrong.
    #[must_use]
    pub const fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<Fault>,
    pub(super) hit_count: u64,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.rules.push(fault);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What happens to a new operation: the first rule that says something. All rules count it.
    pub(super) fn strike(&mut self, op: OpIndex, kind: OpKind, range: GuestRange) -> Option<FaultEffect> {
        let mut struck = None;
        for rule in &mut self.rules {
            let is_meant = rule.at.is_none_or(|at| at == op) && rule.filter.matches(kind, range);
            if rule.times == 0 || !is_meant {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else {
                rule.times = rule.times.saturating_sub(1);
                struck.get_or_insert(rule.effect);
            }
        }
        self.hit_count += u64::from(struck.is_some());
        struck
    }
}
