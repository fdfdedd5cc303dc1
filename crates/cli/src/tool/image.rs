//! [`ImageArgs`]: which image a command is about and how it is to be opened, as command lines of the C tools say it.

use std::ffi::OsString;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::options::Options;
use drystone_blockdev::request::{BackingChoice, OpenRequest, ProbedRaw, Source};
use drystone_blockdev::settings::Settings;
use drystone_blockdev::snapshots::Which;
use drystone_core::graph::policy::DetectZeroes;
use drystone_protocol::file::{Aio, Discard};
use serde_json::Value;

use crate::args::list;

/// `-t`, `-T`, `--cache`: how the host's page cache is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CacheMode {
    /// Past the page cache.
    pub(crate) is_direct: bool,
    /// Flushes do nothing.
    pub(crate) no_flush: bool,
    /// A write is done when it is on stable storage.
    pub(crate) is_writethrough: bool,
}

impl CacheMode {
    /// `writeback`.
    pub(crate) const WRITEBACK: Self = Self { is_direct: false, no_flush: false, is_writethrough: false };
    /// `unsafe`.
    pub(crate) const UNSAFE: Self = Self { is_direct: false, no_flush: true, is_writethrough: false };

    /// The mode called `name`; `None` if there is none.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let mode = |is_direct, no_flush, is_writethrough| Self { is_direct, no_flush, is_writethrough };
        Some(match name {
            "none" | "off" => mode(true, false, false),
            "writeback" => Self::WRITEBACK,
            "unsafe" => Self::UNSAFE,
            "writethrough" => mode(false, false, true),
            "directsync" => mode(true, false, true),
            _ => return None,
        })
    }
}

/// Which image, and how it is to be opened. What is not said is as the C tools have it.
#[derive(Debug, Clone)]
pub(crate) struct ImageArgs {
    /// The image: a file name, `json:{...}`, or with `is_options` a list of options.
    pub(crate) name: OsString,
    /// `--image-opts`.
    pub(crate) is_options: bool,
    /// `-f`; found out from the first bytes if it was not said.
    pub(crate) format: Option<String>,
    /// `-t`, `-T`.
    pub(crate) cache: CacheMode,
    /// `-U`. For readers only.
    pub(crate) force_share: bool,
    /// What becomes of discards. The tools pass them on.
    pub(crate) discard: Discard,
    /// Whether writes of zero bytes become zeroing.
    pub(crate) detect_zeroes: DetectZeroes,
    /// How requests reach the kernel.
    pub(crate) aio: Aio,
    /// What is behind the image.
    pub(crate) backing: BackingChoice,
}

impl ImageArgs {
    /// The image `name`, in a format that is said or found out.
    pub(crate) fn of(name: impl Into<OsString>, format: Option<String>) -> Self {
        Self {
            name: name.into(),
            is_options: false,
            format,
            cache: CacheMode::WRITEBACK,
            force_share: false,
            discard: Discard::Unmap,
            detect_zeroes: DetectZeroes::Off,
            aio: Aio::default(),
            backing: BackingChoice::AsRecorded,
        }
    }

    /// The image that `--image-opts` say.
    pub(crate) fn of_options(list: impl Into<OsString>) -> Self {
        Self { is_options: true, ..Self::of(list, None) }
    }

    /// What is to be opened, for somebody who writes or not.
    ///
    /// # Errors
    /// Options without a meaning.
    pub(super) fn request(&self, is_writer: bool) -> Result<OpenRequest> {
        let mut request = OpenRequest::of(self.source()?);
        request.format.clone_from(&self.format);
        request.backing = self.backing.clone();
        request.probed_raw = ProbedRaw::Guard;
        request.settings = Settings {
            read_only: !is_writer,
            force_share: self.force_share,
            cache_direct: self.cache.is_direct,
            cache_no_flush: self.cache.no_flush,
            discard: self.discard,
            detect_zeroes: self.detect_zeroes,
            aio: self.aio,
            ..Settings::default()
        };
        Ok(request)
    }

    fn source(&self) -> Result<Source> {
        if !self.is_options {
            return Ok(Source::Name(self.name.clone()));
        }
        let text = self.name.to_str().ok_or_else(|| {
            let text = format!("the options '{}' are no valid text", self.name.display());
            Error::new(Kind::InvalidInput, text)
        })?;
        let mut options = Options::default();
        for (key, value) in list::split(text) {
            let Some(value) = value else {
                let text = format!("'{key}' is no option: KEY=VALUE,... is expected");
                return Err(Error::new(Kind::InvalidInput, text));
            };
            options.set(&key, Value::String(value))?;
        }
        Ok(Source::Options(options))
    }
}

/// The internal snapshot that is meant by `ID`, `NAME`, or `snapshot.id=ID,snapshot.name=NAME` (or either of these).
///
/// # Errors
/// [`Kind::InvalidInput`] for other keys, and if neither is there.
pub(crate) fn parse_snapshot(text: &str) -> Result<Which> {
    let refused = |text: String| Error::new(Kind::InvalidInput, text).in_option("snapshot");
    if !text.starts_with("snapshot.") {
        return Ok(Which::IdOrName(text.into()));
    }
    let (mut id, mut name) = (None, None);
    for (key, value) in list::split(text) {
        match (key.as_str(), value) {
            ("snapshot.id", Some(value)) => id = Some(value.into_bytes()),
            ("snapshot.name", Some(value)) => name = Some(value.into_bytes()),
            _ => return Err(refused(format!("'{key}' is no part of a snapshot's description"))),
        }
    }
    match (id, name) {
        (Some(id), Some(name)) => Ok(Which::Both { id, name }),
        (Some(id), None) => Ok(Which::Id(id)),
        (None, Some(name)) => Ok(Which::Name(name)),
        (None, None) => Err(refused("neither the identifier nor the name of a snapshot is given".to_owned())),
    }
}
