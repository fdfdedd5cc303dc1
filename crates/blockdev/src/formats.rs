//! The image formats and filters that this build knows, and what it takes to add one: an entry in [`Formats::builtin`].
//!
//! ```text
//!   Format::probe(first bytes) -> how sure        Format::configure(options) -> Configured
//!   Configured::file_grant  what it wants of its file, to lock it before anything is read
//!   Configured::open        header -> driver, facts, name of the backing file
//!   Format::contents        options -> what a new image consists of
//! ```

use std::any::Any;
use std::ffi::OsString;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_core::driver::{Driver, NodeFacts};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::{ParentState, Role, default_grant};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_protocol::file::create::Contents;

use crate::options::Options;
use crate::settings::Settings;

mod blkdebug;
mod blkverify;
mod copy_on_read;
mod foreign;
mod qcow2;
mod raw;

use blkdebug::BlkDebugFilter;
pub use blkdebug::parse_rules;
use blkverify::BlkVerifyFilter;
use copy_on_read::CopyOnReadFilter;
use qcow2::Qcow2Format;
use raw::RawFormat;

/// How many bytes from the start of a file are looked at to recognise its format.
pub const PROBE_BYTES: usize = 2048;

/// An image format, before there is an image.
pub trait Format: Send + Sync + 'static {
    /// Its name in options.
    fn name(&self) -> &'static str;

    /// How sure it is that a file which begins with `start` (at most [`PROBE_BYTES`]) is an image of this format: 0 for
    /// not at all, 100 for certain.
    fn probe(&self, start: &[u8]) -> u8;

    /// Takes its own options. `settings` are the node's.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] for values that make no sense.
    fn configure(&self, options: &mut Options, settings: Settings) -> Result<Box<dyn Configured>>;

    /// Whether its images can have a backing image.
    fn has_backing(&self) -> bool {
        false
    }

    /// What a new image of a disk of `len_bytes` bytes consists of. Takes its own options, `preallocation` among them.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] for values that make no sense; [`Kind::Unsupported`] if images cannot be made, as of filters.
    fn contents(
        &self,
        len_bytes: u64,
        backing: Option<&BackingName>,
        options: &mut Options,
    ) -> Result<Contents> {
        let _ = (len_bytes, backing, options);
        let text = format!("'{}' is a filter, and no format of files", self.name());
        Err(Error::new(Kind::Unsupported, text))
    }
}

/// An image format with its options, about to be opened on a file.
pub trait Configured {
    /// What the child `file` is for the node.
    fn file_role(&self) -> Role {
        Role::IMAGE
    }

    /// What the node wants of its file when it is used as `parent` says; the same as its driver's `grant`.
    fn file_grant(&self, parent: ParentState) -> Grant {
        default_grant(self.file_role(), parent)
    }

    /// Keeps what is written to an image whose format was guessed from looking like another format, as far as that can
    /// happen.
    fn guard(&mut self, formats: &Formats) {
        let _ = formats;
    }

    /// What a reopen of the node gives to its driver; nothing if the driver cannot be reopened with other options.
    fn into_reopen(self: Box<Self>) -> Option<Box<dyn Any + Send + Sync>> {
        None
    }

    /// Opens the image in `file`. `read_only`: nobody will write it.
    fn open<'a>(&'a self, file: Io<'a>, read_only: bool) -> LocalFuture<'a, Result<OpenedImage>>;
}

/// An image that was opened, about to become a node.
pub struct OpenedImage {
    /// Its driver.
    pub driver: Box<dyn Driver>,
    /// Its facts.
    pub facts: NodeFacts,
    /// What is behind it.
    pub backing: Backing,
    /// Where its data is.
    pub data_file: DataFile,
}

/// Where an image has the data of its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataFile {
    /// In its own file.
    Same,
    /// In another one, which it may name.
    Apart(Option<OsString>),
}

/// What an image says of a backing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// The format has none.
    Impossible,
    /// There could be one and is not.
    None,
    /// There is one.
    File(BackingName),
}

/// A backing file, as an image names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingName {
    /// What is written in the image.
    pub name: OsString,
    /// Its format, if the image says it.
    pub format: Option<String>,
}

/// Formats by name. Clones share them.
#[derive(Clone)]
pub struct Formats(Vec<Arc<dyn Format>>);

impl Formats {
    /// Those of this build.
    #[must_use]
    pub fn builtin() -> Self {
        Self(vec![
            Arc::new(RawFormat),
            Arc::new(Qcow2Format),
            Arc::new(CopyOnReadFilter),
            Arc::new(BlkDebugFilter),
            Arc::new(BlkVerifyFilter),
        ])
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, format: impl Format) -> Self {
        self.0.push(Arc::new(format));
        self
    }

    /// The format called `name`.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if there is none.
    pub fn find(&self, name: &str) -> Result<&dyn Format> {
        let found = self.0.iter().find(|format| format.name() == name);
        found.map(|format| &**format).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|format| format.name()).collect();
            Error::new(Kind::Unsupported, format!("unknown format '{name}' (known: {})", names.join(", ")))
        })
    }

    /// The format that a file which begins with `start` is most likely in. Without any sign, that is `raw`, for which
    /// there is no proof.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a format that is recognised and that this build does not have.
    pub fn probe(&self, start: &[u8]) -> Result<&dyn Format> {
        let scored = self.0.iter().map(|format| (format.probe(start), format));
        if let Some((1.., format)) = scored.rev().max_by_key(|(score, _)| *score) {
            return Ok(&**format);
        }
        match foreign::name_of(start) {
            None => Ok(&RawFormat),
            Some(name) => {
                let text = format!(
                    "it looks like a {name} image, a format that is not supported (if it is not: give format=raw)"
                );
                Err(Error::new(Kind::Unsupported, text).in_option("format"))
            }
        }
    }
}
