//! Lengths and ranges as people write them, for tests: `4K`, `0..64K`, `1M+512`.
//!
//! | text | meaning |
//! |---|---|
//! | `512`, `0x200`, `64K`, `1M`, `2G`, `1T` | a number of bytes; the suffixes are powers of 1024 |
//! | `1M-512` | a difference, where a length or an end is expected |
//! | `0..64K`, `1M-1..1M` | start and end |
//! | `1M+512` | start and length |
//!
//! [`len`], [`range`] and [`ranges`] panic on anything else: their text is part of a test's source.

use drystone_base::GuestRange;

const SUFFIXES: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// A number of bytes.
///
/// # Panics
/// If `text` is not one.
#[must_use]
#[track_caller]
pub fn len(text: &str) -> u64 {
    match try_len(text.trim()) {
        Some(bytes) => bytes,
        None => panic!("'{text}' is not a number of bytes"),
    }
}

/// A range of bytes.
///
/// # Panics
/// If `text` is not one.
#[must_use]
#[track_caller]
pub fn range(text: &str) -> GuestRange {
    match try_range(text) {
        Some(range) => range,
        None => panic!("'{text}' is not a range: start..end or start+length"),
    }
}

/// A range of bytes, if `text` is one.
#[must_use]
pub fn try_range(text: &str) -> Option<GuestRange> {
    let (start, bytes) = match text.split_once("..") {
        Some((start, end)) => {
            let start = try_len(start.trim())?;
            (start, try_len(end.trim())?.checked_sub(start)?)
        }
        None => {
            let (start, bytes) = text.split_once('+')?;
            (try_len(start.trim())?, try_len(bytes.trim())?)
        }
    };
    GuestRange::checked(start, bytes)
}

/// Ranges with spaces between them.
///
/// # Panics
/// If one of them is not a range.
#[must_use]
#[track_caller]
pub fn ranges(text: &str) -> Vec<GuestRange> {
    text.split_whitespace().map(range).collect()
}

/// The shortest way to write `bytes`.
#[must_use]
pub fn show_len(bytes: u64) -> String {
    let fits = |bits: u32| bytes != 0 && bytes.trailing_zeros() >= bits;
    match SUFFIXES.iter().rev().find(|(_, bits)| fits(*bits)) {
        Some((suffix, bits)) => format!("{}{suffix}", bytes >> bits),
        None => bytes.to_string(),
    }
}

/// `range` as start and end.
#[must_use]
pub fn show_range(range: GuestRange) -> String {
    format!("{}..{}", show_len(range.start().get()), show_len(range.end().get()))
}

/// A number of bytes, if `text` is one.
#[must_use]
pub fn try_len(text: &str) -> Option<u64> {
    if let Some((from, less)) = text.rsplit_once('-') {
        return try_len(from.trim())?.checked_sub(try_len(less.trim())?);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let suffix = SUFFIXES.iter().find_map(|&(suffix, bits)| Some((text.strip_suffix(suffix)?, bits)));
    let (digits, bits) = suffix.unwrap_or((text, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_suffixes() {
        let all = ["0", "512", "0x200", "4K", "1M", "2G", "1T", "1M-512", " 8K "].map(len);
        assert_eq!(all, [0, 512, 512, 4096, 1 << 20, 2 << 30, 1 << 40, (1 << 20) - 512, 8192]);
    }

    #[test]
    fn ranges_have_an_end_or_a_length() {
        let all: Vec<String> = ranges("0..64K 1M+512 1M-1..1M").into_iter().map(show_range).collect();
        assert_eq!(all, ["0..64K", "1M..1049088", "1048575..1M"]);
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [0, 1, 511, 512, 1024, 1025, 65536, 3 << 20, 5 << 40] {
            assert_eq!(len(&show_len(bytes)), bytes);
        }
    }

    #[test]
    #[should_panic(expected = "'64k' is not a number of bytes")]
    fn anything_else_panics() {
        let _ = len("64k");
    }

    #[test]
    #[should_panic(expected = "'8K..4K' is not a range")]
    fn a_range_does_not_run_backwards() {
        let _ = range("8K..4K");
    }
}
