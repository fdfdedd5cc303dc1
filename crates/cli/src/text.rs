//! Numbers in words, as the C tools write them.

/// Binary prefixes, each 1024 times the one before.
const PREFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// A number of bytes with three digits and the largest prefix that leaves less than 1000: `1.5 GiB`, `0.977 MiB`.
pub(crate) fn size_in_words(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut prefix = 0;
    while value >= 1000.0 && prefix + 1 < PREFIXES.len() {
        value /= 1024.0;
        prefix += 1;
    }
    format!("{} {}B", three_digits(value), PREFIXES.get(prefix).unwrap_or(&""))
}

/// A number from 0.9 to 1000 as C prints it with `%0.3g`.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        value if value >= 999.5 => return "1e+03".into(),
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, words) in [
            (0, "0 B"),
            (512, "512 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (1_022_976, "999 KiB"),
            (1_024_000, "0.977 MiB"),
            (1_049_600, "1 MiB"),
            (1_048_471_552, "1e+03 MiB"),
            (10_237_952, "9.76 MiB"),
            (123_457_024, "118 MiB"),
            (1_649_267_441_664, "1.5 TiB"),
            (197_120, "192 KiB"),
            (2_359_296, "2.25 MiB"),
            (u64::MAX >> 1, "8 EiB"),
        ] {
            assert_eq!(size_in_words(bytes), words, "{bytes}");
        }
    }
}
