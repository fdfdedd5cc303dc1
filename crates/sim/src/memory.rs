//! What a run may hold: images and models, and what the system makes of them. Nothing is left of a system that has ended.
//!
//! Looked at only in a program whose allocator counts ([`drystone_testkit::allocations`]); each run is on one thread.

use drystone_testkit::allocations::Holding;

use crate::RunReport;

/// At once: the images, what is known of them, caches, requests, connections.
const HELD_BYTES_MAX: u64 = 32 << 20;
/// Afterwards: the report, and what is made once for a process.
const LEFT_BYTES_MAX: u64 = 64 << 10;

/// Plays, and says how many bytes that took at once.
///
/// # Errors
/// Those of `play`; a sentence, if it took too much, or if something is left of a system that has ended. One that the power
/// went off under has not.
pub fn bounded<E>(
    play: impl FnOnce() -> Result<RunReport, E>,
    too_much: impl FnOnce(String) -> E,
) -> Result<(RunReport, u64), E> {
    let holding = Holding::begin();
    let report = play()?;
    let (peak, left) = (holding.peak_bytes(), holding.left_bytes());
    let has_ended = !report.tally.events.contains_key("power cuts");
    if peak > HELD_BYTES_MAX {
        return Err(too_much(format!("{peak} bytes were held at once")));
    }
    if has_ended && left > LEFT_BYTES_MAX {
        return Err(too_much(format!("{left} bytes are held after the end")));
    }
    Ok((report, peak))
}
