//! How a floating-point number is written: 17 significant digits, the shorter of plain and scientific form, no
//! trailing zeroes. That is enough to read the same number back.

/// The text of a finite number.
pub(super) fn text(number: f64) -> String {
    const DIGITS: i32 = 17;
    let scientific = format!("{number:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or_default();
        return trimmed(&format!("{number:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), exponent.unsigned_abs())
}

/// Without zeroes at the end of a fraction.
fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn numbers_look_as_in_the_c_daemon() {
        let cases = [
            (2.5, "2.5"),
            (0.1, "0.10000000000000001"),
            (1.0, "1"),
            (-0.0, "-0"),
            (123_456_789.123_456_79, "123456789.12345679"),
            (1e-7, "9.9999999999999995e-08"),
            (1e20, "1e+20"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (0.0001, "0.0001"),
            (18_446_744_073_709_551_616.0, "1.8446744073709552e+19"),
            (5e-324, "4.9406564584124654e-324"),
        ];
        for (number, expected) in cases {
            assert_eq!(text(number), expected);
        }
    }
}
