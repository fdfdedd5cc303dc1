//! Numbers, sizes and switches as the C tools write them.
//!
//! | kind | examples | not |
//! |---|---|---|
//! | size | `512`, `1.5G`, `.5k`, `0x200`, ` +8M` | `1.5` (half a byte), `0x2k`, `1e3`, `1kB` |
//! | number | `16`, `0x10`, `020` (octal) | `16k`, `1.0` |
//! | switch | `on yes true y`, `off no false n` | `ON`, an empty one |

/// What is wrong with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberError {
    /// It is none.
    Malformed,
    /// It is too large, or negative.
    Range,
}

/// Suffixes of sizes, each 1024 times the one before.
const SUFFIXES: &[u8; 7] = b"BKMGTPE";
/// Hexadecimal digits that the mantissa of a number may have: more than any that fits needs.
const DIGITS_MAX: usize = 64;

/// A size in bytes: digits, perhaps a fraction, perhaps a suffix (a fraction of a byte is refused); or hexadecimal.
pub(crate) fn parse_size(text: &str) -> Result<u64, NumberError> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    if text.starts_with('-') {
        return Err(NumberError::Range);
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return parse_digits(digits, 16);
    }
    let (whole, fraction, suffix) = split_decimal(text)?;
    let power = match suffix.as_bytes() {
        [] => 0,
        [letter] => {
            let place = SUFFIXES.iter().position(|known| *known == letter.to_ascii_uppercase());
            10 * place.ok_or(NumberError::Malformed)?
        }
        _ => return Err(NumberError::Malformed),
    };
    let unit = 1u64 << power;
    let part = scale_fraction(fraction, unit)?;
    let whole = if whole.is_empty() { 0 } else { parse_digits(whole, 10)? };
    whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(part)).ok_or(NumberError::Range)
}

/// Digits before the point, digits behind it, and what follows.
fn split_decimal(text: &str) -> Result<(&str, &str, &str), NumberError> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let Some(rest) = rest.strip_prefix('.') else {
        return if whole.is_empty() { Err(NumberError::Malformed) } else { Ok((whole, "", rest)) };
    };
    let (fraction, suffix) = rest.split_at(digits(rest));
    if whole.is_empty() && fraction.is_empty() {
        return Err(NumberError::Malformed);
    }
    Ok((whole, fraction, suffix))
}

/// The nearest whole number of bytes to a fraction of `unit`.
fn scale_fraction(digits: &str, unit: u64) -> Result<u64, NumberError> {
    if digits.bytes().all(|digit| digit == b'0') {
        return Ok(0);
    }
    if unit == 1 {
        return Err(NumberError::Malformed);
    }
    let fraction: f64 = format!("0.{digits}").parse().map_err(|_| NumberError::Malformed)?;
    #[expect(clippy::cast_precision_loss, reason = "a power of two, which is exact")]
    let bytes = fraction * unit as f64 + 0.5;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^60")]
    Ok(bytes as u64)
}

/// A number without a sign: decimal, hexadecimal behind `0x`, octal behind `0`. A minus sign counts down from 2^64.
pub(crate) fn parse_number(text: &str) -> Result<u64, NumberError> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        parse_digits(digits, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        parse_digits(text, 8)
    } else {
        parse_digits(text, 10)
    }?;
    Ok(if is_negative { value.wrapping_neg() } else { value })
}

fn parse_digits(digits: &str, radix: u32) -> Result<u64, NumberError> {
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(NumberError::Malformed);
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    if digits.len() > DIGITS_MAX {
        return Err(NumberError::Range);
    }
    u64::from_str_radix(digits, radix).map_err(|_| NumberError::Range)
}

/// A switch.
pub(crate) fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::NumberError::{Malformed, Range};
    use super::*;

    #[test]
    fn sizes_have_suffixes_and_fractions() {
        for (text, bytes) in [
            ("0", 0),
            ("010", 10),
            ("1k", 1024),
            ("1M", 1 << 20),
            ("1b", 1),
            ("+5", 5),
            (" 5", 5),
            ("0x10", 16),
            ("0x1B", 27),
            ("1.5G", 3 << 29),
            (".5k", 512),
            ("1.k", 1024),
            ("1.", 1),
            ("0.0", 0),
            ("0.0b", 0),
            ("1.0005k", 1025),
            ("1.00048828125k", 1025),
            ("1.0001k", 1024),
            ("1.99999999999999999999k", 2048),
            ("0.0000001E", 115_292_150_461),
            ("7.9E", 9_108_079_886_394_091_136),
            ("15.9E", 18_331_451_923_248_866_944),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "1.5", "0.5b", "0x", "0x10k", "00x10", "1e3", "5x", "5kk", "1KB", "5 ", ".", "k", "nan",
            "1,5k",
        ] {
            assert_eq!(parse_size(text), Err(Malformed), "{text}");
        }
        for text in ["-1", "-0", "16E", "18446744073709551616", "18446744073709551615k"] {
            assert_eq!(parse_size(text), Err(Range), "{text}");
        }
    }

    #[test]
    fn numbers_know_three_bases() {
        let cases = [("16", 16), ("020", 16), ("0x10", 16), ("+16", 16), ("0", 0), ("-1", u64::MAX)];
        for (text, value) in cases {
            assert_eq!(parse_number(text), Ok(value), "{text}");
        }
        for text in ["", "16k", "16.0", "on", "09"] {
            assert_eq!(parse_number(text), Err(Malformed), "{text}");
        }
        assert_eq!(parse_number("18446744073709551632"), Err(Range));
    }
}
