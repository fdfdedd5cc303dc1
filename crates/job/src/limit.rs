//! The rate limit of a job: so many bytes per second, in slices of 100 ms. No clock: the caller says what time it is.
//!
//! ```text
//!   |<- slice ->|           |           |        quota of a slice: speed / 10 bytes
//!   ####        |...........|...........|
//!   three quotas at once: the next byte no earlier than three slices after the first
//! ```

/// Length of a slice in nanoseconds.
const SLICE_NS: u64 = 100_000_000;
/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Counts bytes against a speed.
#[derive(Debug, Clone, Default)]
pub(crate) struct RateLimit {
    /// Bytes per second; 0 for no limit.
    speed: u64,
    slice_start_ns: u64,
    slice_end_ns: u64,
    spent_bytes: u64,
}

impl RateLimit {
    pub(crate) fn speed(&self) -> u64 {
        self.speed
    }

    /// Sets the bytes per second; 0 for no limit. What was spent under the old speed is forgotten.
    pub(crate) fn set_speed(&mut self, speed: u64) {
        *self = Self { speed, ..Self::default() };
    }

    fn quota(&self) -> u64 {
        (self.speed / (SECOND_NS / SLICE_NS)).max(1)
    }

    /// `bytes` were copied at `now_ns`: when more may be, if that is later.
    pub(crate) fn spend(&mut self, bytes: u64, now_ns: u64) -> Option<u64> {
        if self.speed == 0 {
            return None;
        }
        if now_ns >= self.slice_end_ns {
            (self.slice_start_ns, self.slice_end_ns) = (now_ns, now_ns.saturating_add(SLICE_NS));
            self.spent_bytes = 0;
        }
        self.spent_bytes = self.spent_bytes.saturating_add(bytes);
        if self.spent_bytes < self.quota() {
            return None;
        }
        let spent_ns = u128::from(self.spent_bytes) * u128::from(SLICE_NS) / u128::from(self.quota());
        let spent_ns = u64::try_from(spent_ns).unwrap_or(u64::MAX);
        self.slice_end_ns = self.slice_start_ns.saturating_add(spent_ns);
        Some(self.slice_end_ns)
    }

    /// Until when nothing may be copied, if that is after `now_ns`.
    pub(crate) fn blocked_until(&self, now_ns: u64) -> Option<u64> {
        let is_spent = self.speed > 0 && self.spent_bytes >= self.quota();
        (is_spent && now_ns < self.slice_end_ns).then_some(self.slice_end_ns)
    }

    /// The most bytes that one request should copy: a slice's, so that the speed is even.
    pub(crate) fn step_bytes(&self, least: u64, most: u64) -> u64 {
        if self.speed == 0 { most } else { self.quota().clamp(least, most) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_speed_nothing_waits() {
        let mut limit = RateLimit::default();
        assert_eq!(limit.spend(u64::MAX, 0), None);
        assert_eq!(limit.blocked_until(0), None);
        assert_eq!(limit.step_bytes(1, 100), 100);
    }

    #[test]
    fn a_copy_of_several_quotas_takes_as_many_slices() {
        let mut limit = RateLimit::default();
        limit.set_speed(10_000);
        assert_eq!(limit.spend(999, 5), None);
        assert_eq!(limit.spend(1, 6), Some(5 + SLICE_NS));
        assert_eq!(limit.spend(2500, 7), Some(5 + 7 * SLICE_NS / 2));
        assert_eq!(limit.blocked_until(8), Some(5 + 7 * SLICE_NS / 2));
        assert_eq!(limit.blocked_until(5 + 7 * SLICE_NS / 2), None);
        assert_eq!(limit.spend(10, 5 + 7 * SLICE_NS / 2), None, "a new slice");
    }

    #[test]
    fn no_schedule_of_steps_exceeds_the_speed() {
        let mut limit = RateLimit::default();
        limit.set_speed(1 << 20);
        let (mut now, mut bytes) = (0, 0_u64);
        while now < 20 * SECOND_NS {
            bytes += 65536;
            now = limit.spend(65536, now).unwrap_or(now + 1000);
        }
        assert!((19 << 20..=21 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_new_speed_forgets_what_the_old_one_demanded() {
        let mut limit = RateLimit::default();
        limit.set_speed(1);
        assert!(limit.spend(1 << 20, 0).unwrap() > SECOND_NS);
        limit.set_speed(1 << 30);
        assert_eq!(limit.blocked_until(1), None);
    }
}
