//! [`Settings`]: what can be said of every node, and what its children take over from it.

use drystone_base::{Error, Kind, Result};
use drystone_core::graph::policy::{DetectZeroes, NodePolicy};
use drystone_protocol::file::{Aio, Discard, Locking};

use crate::options::Options;

/// How the nodes of a chain are opened, unless options of one of them say otherwise. By default: for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// `read-only`: nobody writes.
    pub read_only: bool,
    /// `auto-read-only`: what cannot be written is opened read-only, with a warning.
    pub auto_read_only: bool,
    /// `force-share`: others may do with the image what they like; what is read may be incoherent. Needs `read_only`.
    pub force_share: bool,
    /// `cache.direct`: past the page cache of the host.
    pub cache_direct: bool,
    /// `cache.no-flush`: flushes do nothing.
    pub cache_no_flush: bool,
    /// `discard`: what becomes of discarded ranges in files.
    pub discard: Discard,
    /// `locking`: whether files are locked.
    pub locking: Locking,
    /// `aio`.
    pub aio: Aio,
    /// `detect-zeroes`: whether writes of nothing but zero bytes are turned into zeroing. Not taken over by children.
    pub detect_zeroes: DetectZeroes,
}

impl Settings {
    /// These settings, less what `options` say, which are taken.
    pub(crate) fn overridden(self, options: &mut Options) -> Result<Self> {
        let mut cache = options.take_nested("cache")?;
        let settings = Self {
            read_only: options.take_switch("read-only")?.unwrap_or(self.read_only),
            auto_read_only: options.take_switch("auto-read-only")?.unwrap_or(self.auto_read_only),
            force_share: options.take_switch("force-share")?.unwrap_or(self.force_share),
            cache_direct: cache.take_switch("direct")?.unwrap_or(self.cache_direct),
            cache_no_flush: cache.take_switch("no-flush")?.unwrap_or(self.cache_no_flush),
            discard: take_discard(options)?.unwrap_or(self.discard),
            detect_zeroes: take_detect_zeroes(options)?.unwrap_or(self.detect_zeroes),
            ..self
        };
        cache.finish("cache")?;
        take_active(options)?;
        Ok(settings)
    }

    /// What the file below an image takes over. Whether it can be written is found out by opening it. Which discards
    /// come down to it is decided above.
    pub(crate) const fn for_file(self) -> Self {
        let (discard, detect_zeroes) = (Discard::Unmap, DetectZeroes::Off);
        Self { auto_read_only: false, discard, detect_zeroes, ..self }
    }

    /// What a backing image takes over.
    pub(crate) const fn for_backing(self) -> Self {
        Self { read_only: true, ..self.for_file() }
    }

    /// What the node makes of zeroes and discards.
    pub(crate) fn policy(self) -> NodePolicy {
        let ignores_discards = self.discard == Discard::Ignore;
        NodePolicy { detect_zeroes: self.detect_zeroes, ignores_discards }
    }

    pub(crate) fn check(self) -> Result<()> {
        if self.force_share && !self.read_only {
            let text = "it can only be set for a node that is opened read-only";
            return Err(Error::new(Kind::InvalidInput, text).in_option("force-share"));
        }
        if self.detect_zeroes == DetectZeroes::Unmap && self.discard != Discard::Unmap {
            let text = "'unmap' needs discard=unmap";
            return Err(Error::new(Kind::InvalidInput, text).in_option("detect-zeroes"));
        }
        Ok(())
    }
}

fn take_discard(options: &mut Options) -> Result<Option<Discard>> {
    let choices = [
        ("ignore", Discard::Ignore),
        ("off", Discard::Ignore),
        ("unmap", Discard::Unmap),
        ("on", Discard::Unmap),
    ];
    options.take_choice("discard", &choices)
}

fn take_detect_zeroes(options: &mut Options) -> Result<Option<DetectZeroes>> {
    let choices = [("off", DetectZeroes::Off), ("on", DetectZeroes::On), ("unmap", DetectZeroes::Unmap)];
    options.take_choice("detect-zeroes", &choices)
}

/// A node is opened to be used by this process.
fn take_active(options: &mut Options) -> Result<()> {
    match options.take_switch("active")? {
        None | Some(true) => Ok(()),
        Some(false) => {
            Err(Error::new(Kind::Unsupported, "opening an inactive node is not supported")
                .in_option("active"))
        }
    }
}
