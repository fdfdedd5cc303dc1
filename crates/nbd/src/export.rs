//! What a server offers.
//!
//! An [`ExportInfo`] can only be built with values that the protocol can carry, so the negotiation never has to refuse its
//! own side. It does not change once it is built: an embedder that changes an export makes a new one.

use crate::limit;
use crate::wire::{Style, TransmissionFlags};
use drystone_base::{Error, Kind, LEN_MAX, Result};
use std::sync::Arc;

/// The flags that stand for something here: all but rotational and resize.
const FLAGS_KNOWN: u16 = 0x1dff & !(1 << 4);

/// Spec "Block size constraints", in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths of requests are multiples of this.
    pub min_bytes: u32,
    /// Requests that are multiples of this are fast.
    pub preferred_bytes: u32,
    /// The longest payload of a `READ` or `WRITE`.
    pub max_bytes: u32,
}

impl BlockSizes {
    /// What release 10.0 of the C tools says of a file, and what holds if nothing was said.
    pub const DEFAULT: Self =
        Self { min_bytes: 1, preferred_bytes: 4096, max_bytes: limit::PAYLOAD_BYTES_DEFAULT };

    /// The sizes, or `None` where they break the rules of the section for an export of `len_bytes`.
    #[must_use]
    pub fn checked(min_bytes: u32, preferred_bytes: u32, max_bytes: u32, len_bytes: u64) -> Option<Self> {
        let min_fits = min_bytes.is_power_of_two() && min_bytes <= 1 << 16;
        let preferred_fits = preferred_bytes.is_power_of_two() && preferred_bytes >= min_bytes.max(512);
        let reaches = u64::from(max_bytes) >= len_bytes.min(u64::from(preferred_bytes));
        let max_fits = max_bytes == u32::MAX || (min_fits && max_bytes.is_multiple_of(min_bytes));
        (min_fits && preferred_fits && reaches && max_fits).then_some(Self {
            min_bytes,
            preferred_bytes,
            max_bytes,
        })
    }
}

/// A set of metadata contexts, as positions in a list of at most [`limit::CONTEXTS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContextSet(u64);

impl ContextSet {
    /// No context.
    pub const EMPTY: Self = Self(0);

    /// Adds the context at `index`; whether it was not in the set before. An index past the limit is never in it.
    pub fn insert(&mut self, index: u32) -> bool {
        let bit = 1_u64.checked_shl(index).unwrap_or(0);
        let new = bit & !self.0;
        self.0 |= bit;
        new != 0
    }

    /// Whether the context at `index` is in the set.
    #[must_use]
    pub fn contains(self, index: u32) -> bool {
        self.0 & 1_u64.checked_shl(index).unwrap_or(0) != 0
    }

    /// Whether no context is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The indexes, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |index| self.contains(*index))
    }
}

/// One export: what a client learns of it before it enters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    export: u64,
    name: String,
    description: String,
    len_bytes: u64,
    flags: TransmissionFlags,
    block: BlockSizes,
    contexts: Vec<String>,
}

impl ExportInfo {
    /// A read-only export of `len_bytes` without a description or contexts, with the default block sizes. `export` is the
    /// embedder's own number for it, given back when a client enters.
    ///
    /// # Errors
    /// `InvalidInput` if the name is not a string of the protocol; `TooLarge` if the length exceeds [`LEN_MAX`].
    pub fn new(export: u64, name: impl Into<String>, len_bytes: u64) -> Result<Self> {
        let name = checked_string("name", name.into())?;
        if len_bytes > LEN_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the length {len_bytes} exceeds {LEN_MAX} bytes"),
            ));
        }
        let flags = TransmissionFlags::READ_ONLY;
        let (description, block, contexts) = (String::new(), BlockSizes::DEFAULT, Vec::new());
        Ok(Self { export, name, description, len_bytes, flags, block, contexts })
    }

    /// With a text for people.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a string of the protocol.
    pub fn with_description(mut self, text: impl Into<String>) -> Result<Self> {
        self.description = checked_string("description", text.into())?;
        Ok(self)
    }

    /// With these flags instead of `READ_ONLY`: what the embedder understands. What depends on the negotiation is cleared
    /// where it was not negotiated.
    #[must_use]
    pub const fn with_flags(mut self, flags: TransmissionFlags) -> Self {
        self.flags = flags;
        self
    }

    /// With other block sizes.
    ///
    /// # Errors
    /// `InvalidInput` if they break the rules of [`BlockSizes::checked`].
    pub fn with_block(mut self, block: BlockSizes) -> Result<Self> {
        let BlockSizes { min_bytes, preferred_bytes, max_bytes } = block;
        self.block = BlockSizes::checked(min_bytes, preferred_bytes, max_bytes, self.len_bytes)
            .ok_or_else(|| Error::new(Kind::InvalidInput, format!("impossible block sizes {block:?}")))?;
        Ok(self)
    }

    /// With one more metadata context. Its number on the wire is its position in the order of these calls.
    ///
    /// # Errors
    /// `InvalidInput` if the name has no namespace, is not a string of the protocol or is there already; `TooLarge` if
    /// there are [`limit::CONTEXTS_MAX`] already.
    pub fn with_context(mut self, name: impl Into<String>) -> Result<Self> {
        let name = checked_string("context", name.into())?;
        let namespace = name.split_once(':').map_or("", |(namespace, _)| namespace);
        if namespace.is_empty() || self.contexts.contains(&name) {
            let text = format!("'{name}' has no namespace or is there already");
            return Err(Error::new(Kind::InvalidInput, text).in_option("context"));
        }
        if self.contexts.len() == limit::CONTEXTS_MAX {
            let text = format!("more than {} contexts", limit::CONTEXTS_MAX);
            return Err(Error::new(Kind::TooLarge, text).in_option("context"));
        }
        self.contexts.push(name);
        Ok(self)
    }

    /// The embedder's own number.
    #[must_use]
    pub const fn export(&self) -> u64 {
        self.export
    }

    /// The canonical name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text for people; empty if there is none.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The length of the disk.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The block sizes.
    #[must_use]
    pub const fn block(&self) -> BlockSizes {
        self.block
    }

    /// The names of the metadata contexts; a context's number on the wire is its index.
    #[must_use]
    pub fn contexts(&self) -> &[String] {
        &self.contexts
    }

    /// The flags that a client is told after it negotiated `style` and selected contexts or not.
    /// Spec "Transmission flags": `DF` needs chunks, a status payload extended headers, `FAST_ZERO` zeroes; a flag that stands
    /// for nothing here must not be set.
    #[must_use]
    pub const fn flags(&self, style: Style, contexts: bool) -> TransmissionFlags {
        use TransmissionFlags as F;
        let mut flags = F::from_wire(self.flags.to_wire() & FLAGS_KNOWN).with(F::HAS_FLAGS);
        if matches!(style, Style::Simple) {
            flags = flags.without(F::SEND_DF);
        }
        if !(contexts && matches!(style, Style::Extended)) {
            flags = flags.without(F::BLOCK_STATUS_PAYLOAD);
        }
        if !flags.has(F::SEND_WRITE_ZEROES) {
            flags = flags.without(F::SEND_FAST_ZERO);
        }
        flags
    }
}

/// The exports that a server has at a moment. Called between messages of one handshake: an export can come and go.
pub trait Exports {
    /// The export of this name. The empty name asks for the default export; an embedder that has one gives it, under
    /// whatever name it has.
    fn find(&self, name: &str) -> Option<Arc<ExportInfo>>;

    /// All exports that a client may see listed.
    fn list(&self) -> Vec<Arc<ExportInfo>>;
}

/// One export alone: the default one.
impl Exports for Arc<ExportInfo> {
    fn find(&self, name: &str) -> Option<Arc<ExportInfo>> {
        (name.is_empty() || name == self.name()).then(|| Self::clone(self))
    }

    fn list(&self) -> Vec<Arc<ExportInfo>> {
        vec![Self::clone(self)]
    }
}

/// Spec "Conventions": no NUL, at most 4096 bytes.
fn checked_string(option: &str, text: String) -> Result<String> {
    if text.len() > limit::STRING_BYTES_MAX {
        let text = format!("{} bytes are more than {}", text.len(), limit::STRING_BYTES_MAX);
        return Err(Error::new(Kind::InvalidInput, text).in_option(option));
    }
    if text.contains('\0') {
        return Err(Error::new(Kind::InvalidInput, "a NUL byte inside").in_option(option));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_the_protocol_cannot_carry_cannot_be_built() {
        let max = limit::STRING_BYTES_MAX;
        assert!(ExportInfo::new(0, "n".repeat(max), LEN_MAX).is_ok());
        assert!(ExportInfo::new(0, "n".repeat(max + 1), 0).is_err());
        assert!(ExportInfo::new(0, "a\0b", 0).is_err());
        assert!(ExportInfo::new(0, "", LEN_MAX + 1).is_err());
        let export = ExportInfo::new(0, "", 0).unwrap();
        assert!(export.clone().with_description("d".repeat(max + 1)).is_err());
        for name in ["nocolon", ":leaf", "a\0:b"] {
            assert!(export.clone().with_context(name).is_err(), "{name}");
        }
        assert!(export.clone().with_context("a:b").unwrap().with_context("a:b").is_err());
        let full =
            (0..limit::CONTEXTS_MAX).try_fold(export, |export, n| export.with_context(format!("x:{n}")));
        assert_eq!(full.unwrap().with_context("x:one-more").unwrap_err().kind(), Kind::TooLarge);
    }

    #[test]
    fn block_sizes_follow_every_rule_of_their_section() {
        let ok = |min, preferred, max| BlockSizes::checked(min, preferred, max, 1 << 30).is_some();
        assert!(ok(1, 4096, 32 << 20) && ok(512, 512, 512) && ok(1 << 16, 1 << 16, u32::MAX));
        for (min, preferred, max) in [
            (0, 4096, 1 << 20),
            (3, 4096, 3 << 20),
            (1 << 17, 1 << 17, 1 << 20),
            (1, 256, 1 << 20),
            (4096, 2048, 1 << 20),
            (1, 5000, 1 << 20),
            (512, 4096, 4096 + 1),
            (1, 4096, 4095),
        ] {
            assert!(!ok(min, preferred, max), "{min} {preferred} {max}");
        }
        assert!(
            BlockSizes::checked(1, 4096, 100, 100).is_some(),
            "a small export needs a small maximum only"
        );
    }

    #[test]
    fn flags_that_were_not_negotiated_are_not_offered() {
        use TransmissionFlags as F;
        let export = ExportInfo::new(0, "", 0).unwrap().with_flags(F::from_wire(u16::MAX));
        let all = F::from_wire(0b1_1101_1110_1111);
        assert_eq!(export.flags(Style::Extended, true), all);
        assert_eq!(export.flags(Style::Extended, false), all.without(F::BLOCK_STATUS_PAYLOAD));
        assert_eq!(export.flags(Style::Structured, true), all.without(F::BLOCK_STATUS_PAYLOAD));
        assert!(!export.flags(Style::Simple, false).has(F::SEND_DF));
        let bare = export.with_flags(F::SEND_FAST_ZERO);
        assert_eq!(bare.flags(Style::Simple, false), F::HAS_FLAGS);
    }

    #[test]
    fn a_context_past_the_limit_is_never_in_a_set() {
        let mut set = ContextSet::EMPTY;
        assert!(set.insert(0) && set.insert(63) && !set.insert(63));
        assert!(!set.insert(64) && !set.contains(64) && !set.contains(u32::MAX));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63]);
    }
}
