//! The entry of `blkverify`, a filter: it is no format of files and is opened only by its name.

use drystone_base::Result;
use drystone_core::driver::NodeFacts;
use drystone_core::graph::role::Role;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_filter::blkverify::{BlkVerify, FORMAT_NAME};

use super::{Backing, Configured, DataFile, Format, OpenedImage};
use crate::options::Options;
use crate::settings::Settings;

/// `blkverify`.
pub(super) struct BlkVerifyFilter;

struct ConfiguredFilter;

impl Format for BlkVerifyFilter {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn probe(&self, _start: &[u8]) -> u8 {
        0
    }

    fn configure(&self, _options: &mut Options, _settings: Settings) -> Result<Box<dyn Configured>> {
        Ok(Box::new(ConfiguredFilter))
    }
}

impl Configured for ConfiguredFilter {
    fn file_role(&self) -> Role {
        Role::FILTER_CHILD
    }

    fn open<'a>(&'a self, file: Io<'a>, read_only: bool) -> LocalFuture<'a, Result<OpenedImage>> {
        Box::pin(async move {
            let facts = NodeFacts { len: file.len(), request_alignment: 1, read_only };
            Ok(OpenedImage {
                driver: Box::new(BlkVerify),
                facts,
                backing: Backing::Impossible,
                data_file: DataFile::Same,
            })
        })
    }
}
