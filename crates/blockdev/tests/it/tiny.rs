//! A format of one's own: what an entry has to say.

use std::ffi::OsString;

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_blockdev::formats::{Backing, BackingName, Configured, DataFile, Format, Formats, OpenedImage};
use drystone_blockdev::open::Opener;
use drystone_blockdev::options::Options;
use drystone_blockdev::settings::Settings;
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, Place, Tail};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_protocol::file::create::Contents;

use crate::host::{Folder, on_control, open_by, read_only};

/// "TINY", then the name of the backing file; a disk of 512 bytes behind it.
struct Tiny;

struct TinyDisk;

impl Format for Tiny {
    fn name(&self) -> &'static str {
        "tiny"
    }

    fn probe(&self, start: &[u8]) -> u8 {
        if start.starts_with(b"TINY") { 50 } else { 0 }
    }

    fn configure(&self, options: &mut Options, _settings: Settings) -> Result<Box<dyn Configured>> {
        options.take_number("tiny-option")?;
        Ok(Box::new(Self))
    }

    fn contents(&self, _: u64, _: Option<&BackingName>, _: &mut Options) -> Result<Contents> {
        Err(Error::new(Kind::Unsupported, "tiny images are not made"))
    }
}

impl Configured for Tiny {
    fn open<'a>(&'a self, file: Io<'a>, _read_only: bool) -> LocalFuture<'a, Result<OpenedImage>> {
        Box::pin(async move {
            let header = file.read_new(GuestOffset::ZERO, 512).await?;
            let Some(rest) = header.as_slice().strip_prefix(b"TINY") else {
                return Err(Error::new(Kind::InvalidImage, "this is not tiny"));
            };
            let name = String::from_utf8_lossy(rest).trim_end_matches('\0').to_owned();
            let backing = match name.is_empty() {
                true => Backing::None,
                false => Backing::File(BackingName { name: OsString::from(name), format: None }),
            };
            let facts = NodeFacts { len: 512, request_alignment: 1, read_only: true };
            Ok(OpenedImage { driver: Box::new(TinyDisk), facts, backing, data_file: DataFile::Same })
        })
    }
}

impl Driver for TinyDisk {
    fn format_name(&self) -> &'static str {
        "tiny"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        let at = HostOffset::new(range.start().get() + 512);
        let place = Place::Child { child: ChildKey::File, at, tail: Tail::Error, transparent: false };
        Ok(Extent { len: range.len(), place })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

#[test]
fn a_format_takes_one_entry() {
    on_control(async |task| {
        let folder = Folder::new();
        let opener = Opener { formats: Formats::builtin().with(Tiny), ..Opener::trusting() };
        let write = |name: &str, backing: &str| {
            let mut bytes = format!("TINY{backing}").into_bytes();
            bytes.resize(512, 0);
            bytes.extend(name.as_bytes());
            bytes.resize(1024, 0);
            std::fs::write(folder.path(name), bytes).unwrap();
        };
        write("a", "b");
        write("b", "");
        let image = open_by(&opener, task, &read_only(folder.path("a"))).await.unwrap();
        assert_eq!(image.formats(), ["tiny", "tiny"]);
        assert_eq!(image.read(task, 0, 2).await, b"a\0");
        image.close(task).await;
        write("a", "a");
        let error = open_by(&opener, task, &read_only(folder.path("a"))).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidImage);
        assert!(error.report().contains("loop"), "{}", error.report());
    });
}
