//! [`SimDisk`]: a device whose every misfortune is decided by a seed or a test.
//!
//! | what | where |
//! |---|---|
//! | operations end at once or later, in any order, a few sectors at a time | [`Timing`] |
//! | what a flush or FUA made durable stays; of the rest, any part may be lost | [`SimDisk::crash_state`], [`CrashState`] |
//! | EIO, ENOSPC, short transfers, damaged reads: the Nth, all in a range, a number of times | [`Fault`] |
//! | no space left, until there is again | [`SimDisk::set_space`] |
//! | power off at the Nth operation, for several disks at once | [`Power`] |
//! | operations that stand still until the test lets them go | [`Hold`] |
//! | what was done, in which order | [`OpRecord`] |
//!
//! Invariants: a flush makes durable exactly what had ended before it began, and FUA its own write; a write in flight
//! may appear sector by sector; a failed operation may have changed any sector of its range and nothing else.
//! It runs under any executor; in a [`crate::sim::Sim`] everything that it does follows from the two seeds.
//!
//! Not here: which order of writes is right. A test finds that out by cutting the power ([`crate::crash`]).

mod client;
mod crash;
mod device;
mod fate;
mod fault;
mod hold;
mod image;
mod media;
mod op;
mod power;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex};

pub use client::DiskClient;
pub use crash::{CrashState, Survivor, Unit};
pub use fault::{Fault, FaultEffect};
pub use hold::Hold;
pub use image::{BLOCK_BYTES, Image};
pub use op::{OpFilter, OpIndex, OpKind, OpRecord, Outcome};
pub use power::Power;

use device::Shared;
use state::State;

/// When operations end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// All at once, in `submit`.
    Instant,
    /// None in `submit`; each a few turns of other tasks later.
    Deferred,
    /// Some in `submit`, some a few turns of other tasks later, some after a time of at most this.
    Seeded {
        /// The longest time in nanoseconds.
        delay_ns_max: u64,
    },
}

/// What a discarded range holds afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardAs {
    /// Zeroes, and whole blocks become holes.
    Zeroes,
    /// What it held before.
    Kept,
    /// Other data.
    Garbage,
}

/// What a disk is like.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// What reports call it.
    pub name: String,
    /// Decides everything that is not decided by the test.
    pub seed: u64,
    /// Offsets and lengths must be multiples of this power of two.
    pub align_bytes: u32,
    /// A power of two; the disk writes this much at once or not at all.
    pub sector_bytes: u64,
    /// A file: writes past the end and truncation change the length. Otherwise a device with a fixed length.
    pub can_grow: bool,
    /// Writes that would need more blocks than this fail with ENOSPC.
    pub space_bytes: u64,
    /// Whether zeroes can be written without writing data.
    pub has_fast_zeroes: bool,
    /// What a discard does; `None` draws it each time.
    pub discard: Option<DiscardAs>,
    /// When operations end.
    pub timing: Timing,
    /// The power supply, which several disks may share.
    pub power: Power,
}

impl DiskOptions {
    /// A file with sectors of 512 bytes, no alignment, 1 GiB of space, and the rest as `seed` decides.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            name: "sim".into(),
            seed,
            align_bytes: 1,
            sector_bytes: 512,
            can_grow: true,
            space_bytes: 1 << 30,
            has_fast_zeroes: true,
            discard: None,
            timing: Timing::Seeded { delay_ns_max: 1_000_000 },
            power: Power::new(),
        }
    }
}

/// A simulated device. Clones are the same device.
#[derive(Clone)]
pub struct SimDisk(Arc<Shared>);

impl SimDisk {
    /// A device that holds `image`, durably.
    #[must_use]
    pub fn new(image: Image, options: DiskOptions) -> Self {
        Self(Arc::new(Shared(Mutex::new(State::new(image, options)))))
    }

    /// A device with `len` zero bytes and [`DiskOptions::seeded`].
    #[must_use]
    pub fn zeroed(len: u64, seed: u64) -> Self {
        Self::new(Image::new(len), DiskOptions::seeded(seed))
    }

    /// Another device with the same options and a power supply of its own, after a power cut that left `image`.
    #[must_use]
    pub fn reopened(&self, image: Image) -> Self {
        let options = self.0.lock().options.clone();
        Self::new(image, DiskOptions { power: Power::new(), ..options })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.lock().media.visible().len()
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The alignment of offsets and lengths in bytes.
    #[must_use]
    pub fn align_bytes(&self) -> u32 {
        self.0.lock().options.align_bytes
    }

    /// What a read would find.
    #[must_use]
    pub fn image(&self) -> Image {
        self.0.lock().media.visible().clone()
    }

    /// What is certain to survive a power cut.
    #[must_use]
    pub fn durable_image(&self) -> Image {
        self.0.lock().media.durable().clone()
    }

    /// What could be found on the device if the power went off now, or since it went off.
    #[must_use]
    pub fn crash_state(&self) -> CrashState {
        self.0.lock().crash_state()
    }

    /// The power supply.
    #[must_use]
    pub fn power(&self) -> Power {
        self.0.lock().power.clone()
    }

    /// Lets operations go wrong from now on.
    pub fn inject(&self, fault: Fault) {
        self.0.lock().faults.add(fault);
    }

    /// Lets no more operations go wrong.
    pub fn clear_faults(&self) {
        self.0.lock().faults.clear();
    }

    /// How many operations met a fault.
    #[must_use]
    pub fn faults_hit(&self) -> u64 {
        self.0.lock().faults.hit_count
    }

    /// Lets new operations stand still while the result lives.
    pub fn hold(&self, filter: OpFilter) -> Hold {
        Hold::new(&self.0, filter)
    }

    /// Sets how many bytes of blocks the device has room for, used ones included.
    pub fn set_space(&self, bytes: u64) {
        self.0.lock().options.space_bytes = bytes;
    }

    /// All operations in the order in which they were submitted, except those that were refused because the device
    /// cannot do them or has no power.
    #[must_use]
    pub fn trace(&self) -> Vec<OpRecord> {
        self.0.lock().trace.clone()
    }

    /// Forgets the operations that have ended.
    pub fn clear_trace(&self) {
        self.0.lock().trace.retain(|record| record.ended.is_none());
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        write!(f, "SimDisk('{}', {:?})", state.options.name, state.media.visible())
    }
}
