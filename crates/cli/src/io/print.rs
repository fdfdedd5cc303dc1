//! What requests print: reports, sizes, times, dumps.
//!
//! ```text
//!  read 65536/65536 bytes at offset 0                                    65536,1,0:00:00.00,726442387.630,11084.631
//!  64 KiB, 1 ops; 00.00 sec (481.121 MiB/sec and 7697.9331 ops/sec)      the same with -C: bytes, ops, time, bytes/s, ops/s
//! ```
//! Layout and rounding are those of release 10.0 of the C tool.

use std::fmt::Write as _;
use std::io::Write as _;

/// Units of sizes, each 1024 times the one before.
const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
/// Bytes of a line of a dump.
const LINE_BYTES: usize = 16;

/// Prints text to standard output at once. A reader that went away is no failure of ours.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// How a request reports itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Style {
    /// Two lines for people.
    #[default]
    Words,
    /// One line for programs: `-C`.
    Machine,
    /// Not at all: `-q`.
    Quiet,
}

/// A finished request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    /// What it did: `read`, `wrote`, `discard`.
    pub(super) verb: &'static str,
    /// First byte.
    pub(super) at: u64,
    /// Bytes done and wanted: the same, as a request is done whole or fails.
    pub(super) len_bytes: u64,
    /// How long it took.
    pub(super) ns: u64,
}

impl Done {
    /// The report.
    #[expect(clippy::cast_precision_loss, reason = "a few digits are printed")]
    pub(super) fn report(&self, style: Style) -> String {
        let Self { verb, at, len_bytes, ns } = *self;
        let per_second = |count: f64| if ns == 0 { 0.0 } else { count * 1e9 / ns as f64 };
        let (rate, ops_rate) = (per_second(len_bytes as f64), per_second(1.0));
        match style {
            Style::Quiet => String::new(),
            Style::Machine => format!("{len_bytes},1,{},{rate:.3},{ops_rate:.3}\n", time(ns, true)),
            Style::Words => format!(
                "{verb} {len_bytes}/{len_bytes} bytes at offset {at}\n\
                 {}, 1 ops; {} ({}/sec and {ops_rate:.4} ops/sec)\n",
                size(len_bytes as f64),
                time(ns, false),
                size(rate),
            ),
        }
    }
}

/// A number of bytes that is whole.
#[expect(clippy::cast_precision_loss, reason = "three decimals are printed")]
pub(super) fn size_of(bytes: u64) -> String {
    size(bytes as f64)
}

/// A number of bytes with the largest unit that leaves at least one: three decimals, or six of bytes, unless all are zero.
fn size(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = if unit == 0 { format!("{value:.6}") } else { format!("{value:.3}") };
    let text = text.strip_suffix(if unit == 0 { ".000000" } else { ".000" }).unwrap_or(&text);
    format!("{text} {}", UNITS.get(unit).unwrap_or(&""))
}

/// A time in hundredths of a second, with hours and minutes if there are any or always.
fn time(ns: u64, is_whole: bool) -> String {
    let (hundredths, seconds) = (ns / 10_000_000 % 100, ns / 1_000_000_000);
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if is_whole || hours > 0 || minutes > 0 {
        format!("{hours}:{minutes:02}:{rest:02}.{hundredths:02}")
    } else {
        format!("{rest:02}.{hundredths:02} sec")
    }
}

/// Bytes in hexadecimal and as characters, 16 a line; `at` is the offset of the first.
pub(super) fn dump(bytes: &[u8], at: u64) -> String {
    let mut out = String::with_capacity(bytes.len().saturating_mul(5));
    for (line, at) in bytes.chunks(LINE_BYTES).zip((at..).step_by(LINE_BYTES)) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{at:08x}:  ");
        for byte in line {
            let _ = write!(out, "{byte:02x} ");
        }
        out.push(' ');
        out.extend(line.iter().map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        }));
        out.push('\n');
    }
    out
}

/// An errno in the words of the C library.
pub(super) fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_drop_decimals_that_say_nothing() {
        for (bytes, text) in [
            (0.0, "0 bytes"),
            (1.912_144, "1.912144 bytes"),
            (1023.0, "1023 bytes"),
            (1024.0, "1 KiB"),
            (1536.0, "1.500 KiB"),
            (1_048_575.0, "1023.999 KiB"),
            (53_688_139_776.0, "50.001 GiB"),
            (9_223_372_036_854_775_807.0, "8 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_have_hours_when_there_are_any() {
        assert_eq!(time(1_234_000_000, false), "01.23 sec");
        assert_eq!(time(61_000_000_000, false), "0:01:01.00");
        assert_eq!(time(34_273_580_000_000, false), "9:31:13.58");
        assert_eq!(time(0, true), "0:00:00.00");
    }

    #[test]
    fn a_report_is_for_people_or_for_programs() {
        let done = Done { verb: "read", at: 512, len_bytes: 65536, ns: 500_000_000 };
        assert_eq!(
            done.report(Style::Words),
            "read 65536/65536 bytes at offset 512\n64 KiB, 1 ops; 00.50 sec (128 KiB/sec and 2.0000 ops/sec)\n"
        );
        assert_eq!(done.report(Style::Machine), "65536,1,0:00:00.50,131072.000,2.000\n");
        assert_eq!(done.report(Style::Quiet), "");
    }

    #[test]
    fn a_dump_shows_offsets_bytes_and_characters() {
        let bytes: Vec<u8> = (0x58..0x6a).collect();
        assert_eq!(
            dump(&bytes, 1000),
            "000003e8:  58 59 5a 5b 5c 5d 5e 5f 60 61 62 63 64 65 66 67  XYZ[\\]^_`abcdefg\n\
             000003f8:  68 69  hi\n"
        );
        assert_eq!(dump(&[0, 0x7f, 0xff], 0), "00000000:  00 7f ff  ...\n");
        assert_eq!(dump(&[], 0), "");
    }

    #[test]
    fn errnos_are_told_in_words_alone() {
        assert_eq!(errno_text(5), "Input/output error");
        assert_eq!(errno_text(95), "Operation not supported");
    }
}
