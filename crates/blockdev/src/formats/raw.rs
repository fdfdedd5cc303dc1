//! The entry of `raw`.

use std::any::Any;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_core::disk::Preallocation;
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::{ParentState, Role};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_format::raw::{self, Guard, RawOptions};
use drystone_protocol::file::create::Contents;

use super::{Backing, BackingName, Configured, DataFile, Format, Formats, OpenedImage, PROBE_BYTES};
use crate::options::Options;
use crate::settings::Settings;

/// `raw`.
pub(super) struct RawFormat;

struct ConfiguredRaw {
    options: RawOptions,
    guard: Option<Guard>,
}

impl Format for RawFormat {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn probe(&self, _start: &[u8]) -> u8 {
        0
    }

    fn configure(&self, options: &mut Options, _settings: Settings) -> Result<Box<dyn Configured>> {
        let offset_host = options.take_number("offset")?.unwrap_or(0);
        let len_bytes = options.take_number("size")?;
        let options = RawOptions { offset_host, len_bytes };
        Ok(Box::new(ConfiguredRaw { options, guard: None }))
    }

    fn contents(
        &self,
        len_bytes: u64,
        backing: Option<&BackingName>,
        options: &mut Options,
    ) -> Result<Contents> {
        if backing.is_some() {
            return Err(Error::new(Kind::Unsupported, "a raw image has no backing file"));
        }
        let modes =
            [("off", Preallocation::Off), ("falloc", Preallocation::Falloc), ("full", Preallocation::Full)];
        let preallocation = options.take_choice("preallocation", &modes)?.unwrap_or_default();
        Ok(Contents { len_bytes: raw::len_file_of_new(len_bytes)?, preallocation, ..Contents::default() })
    }
}

impl Configured for ConfiguredRaw {
    fn file_role(&self) -> Role {
        self.options.file_role()
    }

    fn file_grant(&self, parent: ParentState) -> Grant {
        raw::file_grant(self.file_role(), parent)
    }

    fn into_reopen(self: Box<Self>) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(self.options))
    }

    fn guard(&mut self, formats: &Formats) {
        let formats = formats.clone();
        let looks_raw = move |start: &[u8]| formats.probe(start).is_ok_and(|format| format.name() == "raw");
        self.guard = Some(Guard { len_bytes: PROBE_BYTES, looks_raw: Arc::new(looks_raw) });
    }

    fn open<'a>(&'a self, file: Io<'a>, _read_only: bool) -> LocalFuture<'a, Result<OpenedImage>> {
        Box::pin(async move {
            let (driver, facts) = raw::Raw::open(file, self.options)?;
            let driver = match &self.guard {
                Some(guard) => driver.guarded(guard.clone()),
                None => driver,
            };
            Ok(OpenedImage {
                driver: Box::new(driver),
                facts,
                backing: Backing::Impossible,
                data_file: DataFile::Same,
            })
        })
    }
}
