//! [`NodePolicy`]: what one node makes of zeroes that are written and of ranges that are discarded, whatever its driver.

/// `detect-zeroes`: what becomes of a write that is nothing but zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DetectZeroes {
    /// Nobody looks: it is written.
    #[default]
    Off,
    /// The range is made to read as zeroes, and keeps its space.
    On,
    /// As `On`, and its space may be given back.
    Unmap,
}

/// What one node makes of zeroes and of discarded ranges. A plan changes it, for requests that begin after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodePolicy {
    /// `detect-zeroes`.
    pub detect_zeroes: DetectZeroes,
    /// `discard=ignore`: discards do nothing here, and zeroing gives no space back.
    pub ignores_discards: bool,
}

impl NodePolicy {
    const DETECTS: u8 = 1;
    const UNMAPS: u8 = 2;
    const IGNORES: u8 = 4;

    /// As one word, for requests to look at.
    pub(crate) const fn to_bits(self) -> u8 {
        let detect = match self.detect_zeroes {
            DetectZeroes::Off => 0,
            DetectZeroes::On => Self::DETECTS,
            DetectZeroes::Unmap => Self::DETECTS | Self::UNMAPS,
        };
        if self.ignores_discards { detect | Self::IGNORES } else { detect }
    }

    pub(crate) const fn from_bits(bits: u8) -> Self {
        let detect_zeroes = match (bits & Self::DETECTS != 0, bits & Self::UNMAPS != 0) {
            (false, _) => DetectZeroes::Off,
            (true, false) => DetectZeroes::On,
            (true, true) => DetectZeroes::Unmap,
        };
        Self { detect_zeroes, ignores_discards: bits & Self::IGNORES != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_what_it_was_after_a_journey_through_bits() {
        for detect_zeroes in [DetectZeroes::Off, DetectZeroes::On, DetectZeroes::Unmap] {
            for ignores_discards in [false, true] {
                let policy = NodePolicy { detect_zeroes, ignores_discards };
                assert_eq!(NodePolicy::from_bits(policy.to_bits()), policy);
            }
        }
    }
}
