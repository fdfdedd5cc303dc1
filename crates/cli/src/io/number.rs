//! Numbers of commands: offsets and lengths with suffixes, patterns, and what is printed of bad ones.
//!
//! | kind | range | bad ones |
//! |---|---|---|
//! | offset, length | 0 to 2^63 - 1, with a suffix or in hexadecimal | `Parsing error: ...` |
//! | length of a request | up to [`REQUEST_BYTES_MAX`] | by command |
//! | pattern | 0 to 255, in any of C's three bases | `... is not a valid pattern byte` |
//!
//! What is printed goes to standard output, as by release 10.0 of the C tool.

use crate::args::number::{NumberError, parse_number, parse_size};

/// The most bytes of one request: the largest multiple of a sector below 2^31.
pub(super) const REQUEST_BYTES_MAX: u64 = (1 << 31) - 512;

/// The line that a command prints instead of doing anything.
pub(super) type Refusal = String;

/// An offset or a length.
pub(super) fn parse_len(text: &str) -> Result<u64, Refusal> {
    let too_large = || format!("Parsing error: argument too large -- {text}\n");
    match parse_size(text) {
        Ok(value) if i64::try_from(value).is_ok() => Ok(value),
        Ok(_) | Err(NumberError::Range) => Err(too_large()),
        Err(NumberError::Malformed) => {
            Err(format!("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}\n"))
        }
    }
}

/// The length of a request; `limit_text` is what is said of the limit.
pub(super) fn parse_request_len(text: &str, limit_text: &str) -> Result<u64, Refusal> {
    let len = parse_len(text)?;
    if len > REQUEST_BYTES_MAX {
        return Err(format!("length cannot exceed {REQUEST_BYTES_MAX}{limit_text}, given {text}\n"));
    }
    Ok(len)
}

/// The lengths of the parts of one request: their sum.
pub(super) fn parse_parts(texts: &[String]) -> Result<u64, Refusal> {
    let mut sum = 0;
    for text in texts {
        let len = parse_len(text)?;
        if len > REQUEST_BYTES_MAX {
            return Err(format!("Argument '{text}' exceeds maximum size {REQUEST_BYTES_MAX}\n"));
        }
        if sum > REQUEST_BYTES_MAX - len {
            return Err(format!("The total number of bytes exceed the maximum size {REQUEST_BYTES_MAX}\n"));
        }
        sum += len;
    }
    Ok(sum)
}

/// A byte to fill with or to look for.
pub(super) fn parse_pattern(text: &str) -> Result<u8, Refusal> {
    let number = parse_number(text).ok().and_then(|value| u8::try_from(value).ok());
    number.ok_or_else(|| format!("{text} is not a valid pattern byte\n"))
}

/// Milliseconds.
pub(super) fn parse_ms(text: &str) -> Result<u64, Refusal> {
    let negative = text.trim_start().starts_with('-');
    match parse_number(text) {
        Ok(value) if !negative => Ok(value),
        Err(NumberError::Range) if !negative => Ok(u64::MAX),
        _ => Err(format!("{text} is not a valid number\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_end_below_two_to_the_63() {
        assert_eq!(parse_len("1.5k"), Ok(1536));
        assert_eq!(parse_len("9223372036854775807"), Ok(i64::MAX.cast_unsigned()));
        for text in ["8E", "9223372036854775808", "-1"] {
            assert_eq!(parse_len(text), Err(format!("Parsing error: argument too large -- {text}\n")));
        }
        assert!(parse_len("1kB").unwrap_err().contains("non-numeric"));
    }

    #[test]
    fn parts_are_summed_up_to_a_limit() {
        let sum = |texts: &[&str]| parse_parts(&texts.iter().map(|&text| text.into()).collect::<Vec<_>>());
        assert_eq!(sum(&["0", "512", "1k"]), Ok(1536));
        assert_eq!(sum(&["2147483136"]), Ok(REQUEST_BYTES_MAX));
        assert!(sum(&["2G"]).unwrap_err().contains("Argument '2G' exceeds"));
        assert!(sum(&["2147483136", "1"]).unwrap_err().contains("total number"));
    }

    #[test]
    fn patterns_are_bytes_in_three_bases() {
        for (text, byte) in [("0", 0), ("255", 255), ("0xff", 255), ("041", 33)] {
            assert_eq!(parse_pattern(text), Ok(byte));
        }
        for text in ["256", "-1", "x", "1k", "0x100"] {
            assert_eq!(parse_pattern(text), Err(format!("{text} is not a valid pattern byte\n")));
        }
    }

    #[test]
    fn milliseconds_have_no_suffix() {
        assert_eq!(parse_ms("0x10"), Ok(16));
        assert_eq!(parse_ms("99999999999999999999"), Ok(u64::MAX));
        for text in ["x", "-1", "1k"] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
    }
}
