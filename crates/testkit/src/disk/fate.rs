//! [`Fates`]: what a power cut did to each change, and the short way to write it down.
//!
//! | text | the change |
//! |---|---|
//! | `K`, `L` | is there, is lost |
//! | `Ta5.` | is there in the sectors that the hexadecimal mask has, counted from the start of the change |
//! | `F3.` | is there in its first 3 sectors |
//! | `+` at the end | the file is as long as before the cut, whatever was lost |
//!
//! So `KLF3.+` is the fate of three changes. The text depends on nothing but the fates, so a failure that a sample found can
//! be looked at again without drawing the sample.

use std::fmt;

/// What a power cut did to one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Lost,
    /// The sectors whose numbers, counted from the start of the change, this mask has; from the 64th on, in rounds.
    Torn(u64),
    /// Only this many sectors from its start.
    First(u64),
}

/// What a power cut did to all changes.
#[derive(Debug, Clone)]
pub(super) struct Fates {
    pub(super) each: Vec<Fate>,
    /// The length is that from before the cut, whatever was lost.
    pub(super) is_len_kept: bool,
}

impl Fates {
    /// The same fate for `count` changes.
    pub(super) fn all(count: usize, fate: Fate) -> Self {
        Self { each: vec![fate; count], is_len_kept: false }
    }

    /// Reads the text of [`Display`](fmt::Display); `None` if it is not one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (text, is_len_kept) = text.strip_suffix('+').map_or((text, false), |text| (text, true));
        let mut each = Vec::new();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let behind = rest.split_at(1).1;
            let fate = match letter {
                'K' | 'L' => {
                    rest = behind;
                    if letter == 'K' { Fate::Kept } else { Fate::Lost }
                }
                _ => {
                    let (number, after) = behind.split_once('.')?;
                    rest = after;
                    match letter {
                        'T' => Fate::Torn(u64::from_str_radix(number, 16).ok()?),
                        'F' => Fate::First(number.parse().ok()?),
                        _ => return None,
                    }
                }
            };
            each.push(fate);
        }
        Some(Self { each, is_len_kept })
    }
}

impl fmt::Display for Fates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fate in &self.each {
            match fate {
                Fate::Kept => f.write_str("K")?,
                Fate::Lost => f.write_str("L")?,
                Fate::Torn(mask) => write!(f, "T{mask:x}.")?,
                Fate::First(count) => write!(f, "F{count}.")?,
            }
        }
        f.write_str(if self.is_len_kept { "+" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_read_back() {
        for text in ["", "K", "KLK+", "Ta5.LF3.K", "+"] {
            assert_eq!(Fates::parse(text).unwrap().to_string(), text);
        }
        for text in ["X", "T1", "F.", "Tz.", "K+L"] {
            assert!(Fates::parse(text).is_none(), "{text}");
        }
    }
}
