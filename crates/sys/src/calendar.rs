//! The date and time of day of a moment, in the machine's time zone.

use std::fmt;

/// A moment in the machine's time zone. Shown as `2026-11-22 03:50:12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

/// The date and time of day `seconds` after the beginning of 1970 (UTC).
#[must_use]
pub fn local_time(seconds: i64) -> LocalTime {
    // SAFETY: a `tm` is numbers and a pointer, for which all bytes zero are valid values.
    let mut broken_down: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type; the call keeps neither. It reads the environment, which
    // nothing in this process changes.
    let done = unsafe { libc::localtime_r(&raw const seconds, &raw mut broken_down) };
    if done.is_null() {
        return LocalTime { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
    }
    let small = |value: libc::c_int| u8::try_from(value).unwrap_or(0);
    LocalTime {
        year: i64::from(broken_down.tm_year) + 1900,
        month: small(broken_down.tm_mon + 1),
        day: small(broken_down.tm_mday),
        hour: small(broken_down.tm_hour),
        minute: small(broken_down.tm_min),
        second: small(broken_down.tm_sec),
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = *self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_later_is_the_same_time_of_day() {
        let noon = 1_600_000_000;
        let [today, tomorrow] = [noon, noon + 24 * 3600].map(local_time);
        assert_eq!(today.year, 2020);
        assert_eq!(
            (today.hour, today.minute, today.second),
            (tomorrow.hour, tomorrow.minute, tomorrow.second)
        );
        assert_eq!(tomorrow.day, today.day + 1);
    }

    #[test]
    fn numbers_are_padded() {
        let time = LocalTime { year: 2026, month: 1, day: 2, hour: 3, minute: 4, second: 5 };
        assert_eq!(time.to_string(), "2026-01-02 03:04:05");
    }
}
