//! [`Dice`]: what the seed decides about sockets.

use std::sync::{Mutex, PoisonError};

use drystone_base::rng::Rng;

/// Room of the smallest way, as a power of two.
const ROOM_BITS_MIN: u64 = 6;
/// Most times that whoever finds a socket ready lets others run first.
const LATENESS_MAX: u64 = 3;

/// What played sockets are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireOptions {
    /// Decides everything else.
    pub seed: u64,
    /// No way holds more than 2 to this many bytes; the seed draws a room for each, from 64 bytes on.
    pub room_bits_max: u32,
    /// One in how many calls that could go on is told to try again, 0 for none.
    pub again_one_in: u64,
    /// One in how many transfers moves a part of what it could, 0 for none.
    pub part_one_in: u64,
}

impl WireOptions {
    /// Rooms up to 64 KiB, and all misfortunes.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { seed, room_bits_max: 16, again_one_in: 8, part_one_in: 4 }
    }
}

pub(super) struct Dice {
    options: WireOptions,
    rng: Mutex<Rng>,
}

impl Dice {
    pub(super) fn new(options: WireOptions) -> Self {
        Self { options, rng: Mutex::new(Rng::new(options.seed)) }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn one_in(&self, count: u64) -> bool {
        count != 0 && self.draw(|rng| rng.one_in(count))
    }

    /// Room for a new way, in bytes.
    pub(super) fn room_bytes(&self) -> usize {
        let span = u64::from(self.options.room_bits_max).saturating_sub(ROOM_BITS_MIN) + 1;
        let bits = ROOM_BITS_MIN + self.draw(|rng| rng.below(span));
        1 << bits.min(30)
    }

    /// Whether a call that could go on shall try again.
    pub(super) fn again(&self) -> bool {
        self.one_in(self.options.again_one_in)
    }

    /// How much of `most_bytes` (not 0) a transfer moves.
    pub(super) fn part(&self, most_bytes: usize) -> usize {
        if !self.one_in(self.options.part_one_in) {
            return most_bytes;
        }
        1 + self.draw(|rng| rng.index(most_bytes))
    }

    pub(super) fn lateness(&self) -> u64 {
        if self.one_in(2) { 0 } else { self.draw(|rng| rng.below(LATENESS_MAX + 1)) }
    }
}
