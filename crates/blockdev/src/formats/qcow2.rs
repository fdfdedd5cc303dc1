//! The entry of `qcow2`.

use std::any::Any;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use drystone_base::{Error, Kind, Result};
use drystone_core::disk::Preallocation;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_format::qcow2::compress::Compression;
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::driver::Qcow2;
use drystone_format::qcow2::driver::open::{self as qcow2, Qcow2Options};
use drystone_format::qcow2::header::{MAGIC, Version};
use drystone_protocol::file::create::Contents;

mod settings;

use super::{Backing, BackingName, Configured, DataFile, Format, OpenedImage};
use crate::options::Options;
use crate::settings::Settings;

/// `qcow2`.
pub(super) struct Qcow2Format;

struct ConfiguredQcow2(Qcow2Options);

impl Format for Qcow2Format {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    /// Version 1 is another format; a version that is not known yet is one of this.
    fn probe(&self, start: &[u8]) -> u8 {
        let version = start.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk::<4>());
        match version.map(|bytes| u32::from_be_bytes(*bytes)) {
            Some(2..) => 100,
            _ => 0,
        }
    }

    fn has_backing(&self) -> bool {
        true
    }

    fn configure(&self, options: &mut Options, settings: Settings) -> Result<Box<dyn Configured>> {
        Ok(Box::new(ConfiguredQcow2(settings::take(options, settings)?)))
    }

    fn contents(
        &self,
        len_bytes: u64,
        backing: Option<&BackingName>,
        options: &mut Options,
    ) -> Result<Contents> {
        let modes = [
            ("off", (false, Preallocation::Off)),
            ("metadata", (true, Preallocation::Off)),
            ("falloc", (true, Preallocation::Falloc)),
            ("full", (true, Preallocation::Full)),
        ];
        let (is_mapped, preallocation) =
            options.take_choice("preallocation", &modes)?.unwrap_or((false, Preallocation::Off));
        let mut create = CreateOptions { is_mapped, ..take_create_options(len_bytes, options)? };
        if let Some(backing) = backing {
            create.backing_name = Some(backing.name.as_bytes().to_vec());
            create.backing_format = backing.format.as_ref().map(|format| format.as_bytes().to_vec());
        }
        let layout = create
            .layout()
            .map_err(|cause| Error::new(Kind::InvalidInput, "such an image cannot be made").because(cause))?;
        let pieces = layout.pieces.into_iter().map(|(at, bytes)| (at.get(), bytes)).collect();
        Ok(Contents { len_bytes: layout.len_file, preallocation, pieces, ..Contents::default() })
    }
}

fn take_create_options(len_bytes: u64, options: &mut Options) -> Result<CreateOptions> {
    let default = CreateOptions::new(len_bytes);
    let versions = [("0.10", Version::V2), ("v2", Version::V2), ("1.1", Version::V3), ("v3", Version::V3)];
    let compressions = [("zlib", Compression::Deflate), ("zstd", Compression::Zstd)];
    Ok(CreateOptions {
        cluster_bytes: options.take_number("cluster_size")?.unwrap_or(default.cluster_bytes),
        version: options.take_choice("compat", &versions)?.unwrap_or(default.version),
        refcount_bits: options.take_number("refcount_bits")?.unwrap_or(default.refcount_bits),
        lazy_refcounts: options.take_switch("lazy_refcounts")?.unwrap_or(default.lazy_refcounts),
        compression: options.take_choice("compression_type", &compressions)?.unwrap_or(default.compression),
        extended_l2: options.take_switch("extended_l2")?.unwrap_or(default.extended_l2),
        data_file: options.take_text("data_file")?.map(String::into_bytes),
        is_data_raw: options.take_switch("data_file_raw")?.unwrap_or(default.is_data_raw),
        ..default
    })
}

impl Configured for ConfiguredQcow2 {
    fn into_reopen(self: Box<Self>) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(self.0))
    }

    fn open<'a>(&'a self, file: Io<'a>, read_only: bool) -> LocalFuture<'a, Result<OpenedImage>> {
        Box::pin(async move {
            let opened = Qcow2::open(file, Qcow2Options { read_only, ..self.0 }).await?;
            let format = opened.backing_format.filter(|format| !format.is_empty());
            let format = format.map(|format| String::from_utf8_lossy(&format).into_owned());
            let backing = match opened.backing_name.filter(|name| !name.is_empty()) {
                Some(name) => Backing::File(BackingName { name: OsString::from_vec(name), format }),
                None => Backing::None,
            };
            let data_file = match opened.data_file {
                qcow2::DataFile::Same => DataFile::Same,
                qcow2::DataFile::Apart(name) => DataFile::Apart(name.map(OsString::from_vec)),
            };
            Ok(OpenedImage { driver: Box::new(opened.driver), facts: opened.facts, backing, data_file })
        })
    }
}
