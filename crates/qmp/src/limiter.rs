//! [`Limiter`]: events that come too often.
//!
//! ```text
//!   offered   a   b c d        e                 "similar" events, at most one a second
//!   told      a         d          e             the last one of a second is told at its end
//! ```
//! Spec "Asynchronous events". Similar events are those of one name and, for `BLOCK_IO_ERROR`, of one device. Time comes
//! in as a parameter, from any clock that does not go back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::schema::events::Event;

/// How long a similar event waits.
const INTERVAL: Duration = Duration::from_secs(1);

/// An event, and when it happened since 1970 if that is known.
pub type Stamped = (Event, Option<Duration>);

/// Which events may be told now. One for all clients.
#[derive(Debug, Default)]
pub struct Limiter(BTreeMap<String, Slot>);

#[derive(Debug)]
struct Slot {
    /// When the next similar event may be told.
    open_at: Duration,
    held: Option<Stamped>,
}

impl Limiter {
    /// The event, if it may be told now; else it is held, in place of a similar one held before.
    pub fn admit(&mut self, stamped: Stamped, now: Duration) -> Option<Stamped> {
        let Some(key) = key(&stamped.0) else { return Some(stamped) };
        match self.0.get_mut(&key) {
            Some(slot) => {
                slot.held = Some(stamped);
                None
            }
            None => {
                self.0.insert(key, Slot { open_at: now + INTERVAL, held: None });
                Some(stamped)
            }
        }
    }

    /// When to ask [`Self::due`] next; `None` if there is nothing to wait for.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.0.values().map(|slot| slot.open_at).min()
    }

    /// The events whose time has come.
    pub fn due(&mut self, now: Duration) -> Vec<Stamped> {
        let mut due = Vec::new();
        self.0.retain(|_, slot| {
            if slot.open_at > now {
                return true;
            }
            slot.open_at = now + INTERVAL;
            let held = slot.held.take();
            let is_kept = held.is_some();
            due.extend(held);
            is_kept
        });
        due
    }
}

/// What similar events have in common; `None` for events that are told however often they come.
fn key(event: &Event) -> Option<String> {
    match event {
        Event::BlockIoError(data) => Some(format!("{} {}", event.name(), data.qom_path)),
        Event::JobStatusChange(_)
        | Event::BlockJobCompleted(_)
        | Event::BlockJobCancelled(_)
        | Event::BlockJobError(_)
        | Event::BlockJobReady(_)
        | Event::BlockJobPending(_)
        | Event::BlockExportDeleted(_)
        | Event::BlockImageCorrupted(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::events::{BlockExportDeleted, BlockIoError};
    use crate::schema::types::job::{BlockErrorAction, IoOperationType};

    fn failed(device: &str, reason: &str) -> Stamped {
        let event = BlockIoError {
            qom_path: device.to_owned(),
            device: String::new(),
            node_name: None,
            operation: IoOperationType::Read,
            action: BlockErrorAction::Report,
            nospace: None,
            reason: reason.to_owned(),
        };
        (event.into(), None)
    }

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_last_of_a_second_is_told_at_its_end() {
        let mut limiter = Limiter::default();
        assert_eq!(limiter.next_due(), None);
        assert!(limiter.admit(failed("x", "a"), at(0)).is_some());
        assert!(limiter.admit(failed("x", "b"), at(100)).is_none());
        assert!(limiter.admit(failed("x", "c"), at(200)).is_none());
        assert_eq!(limiter.next_due(), Some(at(1000)));
        assert_eq!(limiter.due(at(999)), []);
        assert_eq!(limiter.due(at(1000)), [failed("x", "c")]);
        assert!(
            limiter.admit(failed("x", "d"), at(1500)).is_none(),
            "the second after a held one counts too"
        );
        assert_eq!(limiter.due(at(2000)), [failed("x", "d")]);
        assert_eq!(limiter.due(at(3000)), []);
        assert_eq!(limiter.next_due(), None);
        assert!(limiter.admit(failed("x", "e"), at(3001)).is_some());
    }

    #[test]
    fn other_devices_and_other_events_are_told_at_once() {
        let mut limiter = Limiter::default();
        assert!(limiter.admit(failed("x", "a"), at(0)).is_some());
        assert!(limiter.admit(failed("y", "a"), at(0)).is_some());
        for _ in 0..3 {
            let gone = BlockExportDeleted { id: "e".to_owned() };
            assert!(limiter.admit((gone.into(), None), at(0)).is_some());
        }
    }
}
