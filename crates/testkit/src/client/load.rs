//! [`Load`]: requests at random.

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Result};

use super::{Target, Watched};
use crate::model::DiscardRule;

/// How often each kind of request is made, relative to the others.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Reads.
    pub reads: u64,
    /// Writes, one in four of them durable at once.
    pub writes: u64,
    /// Writes of zeroes, half of which may leave holes.
    pub zeroes: u64,
    /// Discards.
    pub discards: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Mix {
    /// All kinds, mostly reads and writes.
    pub const ALL: Self = Self { reads: 4, writes: 4, zeroes: 1, discards: 1, flushes: 1 };
    /// Writes and flushes only: for power cuts.
    pub const WRITES: Self = Self { reads: 0, writes: 6, zeroes: 1, discards: 0, flushes: 2 };
}

/// What requests a client makes at random.
#[derive(Debug, Clone)]
pub struct Load {
    /// How many.
    pub requests: u64,
    /// Of which kinds.
    pub mix: Mix,
    /// Where.
    pub range: GuestRange,
    /// Mostly in multiples of this; one in five requests is not, unless that is excluded below.
    pub unit_bytes: u64,
    /// All requests are multiples of [`Self::unit_bytes`].
    pub is_aligned: bool,
    /// The longest request in bytes.
    pub len_max: u64,
    /// What a discard may leave.
    pub discard: DiscardRule,
}

impl Load {
    /// `requests` requests of all kinds to the first `len` bytes, of at most 8 KiB each.
    #[must_use]
    pub fn new(requests: u64, len: u64) -> Self {
        Self {
            requests,
            mix: Mix::ALL,
            range: GuestRange::new(GuestOffset::ZERO, len),
            unit_bytes: 512,
            is_aligned: false,
            len_max: 8192,
            discard: DiscardRule::Any,
        }
    }

    /// Makes the requests, one after the other, as `rng` decides. Failed ones are the disk's business: all errors are
    /// given to `on_error`.
    pub async fn run<T: Target>(
        &self,
        client: &mut Watched<T>,
        rng: &mut Rng,
        mut on_error: impl FnMut(drystone_base::Error),
    ) {
        for _ in 0..self.requests {
            if let Err(error) = self.one(client, rng).await {
                on_error(error);
            }
        }
    }

    async fn one<T: Target>(&self, client: &mut Watched<T>, rng: &mut Rng) -> Result<()> {
        let Mix { reads, writes, zeroes, discards, flushes } = self.mix;
        let range = self.draw_range(rng);
        let kind = rng.below(reads + writes + zeroes + discards + flushes);
        if kind < reads {
            client.read(range).await.map(drop)
        } else if kind < reads + writes {
            client.write(range, rng.one_in(4)).await
        } else if kind < reads + writes + zeroes {
            client.write_zeroes(range, rng.one_in(2)).await
        } else if kind < reads + writes + zeroes + discards {
            client.discard(range, self.discard).await
        } else {
            client.flush().await
        }
    }

    fn draw_range(&self, rng: &mut Rng) -> GuestRange {
        let unit = if !self.is_aligned && rng.one_in(5) { 1 } else { self.unit_bytes };
        let units = self.range.len() / unit;
        let first = rng.below(units);
        let count = 1 + rng.below((self.len_max / unit).min(units - first));
        GuestRange::new(self.range.start().plus(first * unit), count * unit)
    }
}
