//! A filter that fails when it is told to: driver `trap`, told apart by its option `tag`.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use drystone_base::{Error, GuestRange, HostOffset, Kind, Result};
use drystone_blockdev::formats::{Backing, BackingName, Configured, DataFile, Format, OpenedImage};
use drystone_blockdev::options::Options;
use drystone_blockdev::settings::Settings;
use drystone_core::driver::{
    Access, Driver, Extent, NodeFacts, NodeMode, Place, Publish, StageRequest, Staged, Tail,
};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::role::Role;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_protocol::file::create::Contents;

/// Where a trap can close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    Check,
    Stage,
    Store,
    Settle,
}

pub(crate) const MOMENTS: [Moment; 4] = [Moment::Check, Moment::Stage, Moment::Store, Moment::Settle];

/// The traps of one test. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Traps(Arc<Mutex<BTreeSet<(Moment, String)>>>);

impl Traps {
    pub(crate) fn set(&self, moment: Moment, tag: &str) {
        self.0.lock().unwrap().insert((moment, tag.to_owned()));
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn spring(&self, moment: Moment, tag: &str) -> Result<()> {
        if self.0.lock().unwrap().contains(&(moment, tag.to_owned())) {
            return Err(Error::new(Kind::Io, format!("the trap '{tag}' closed: {moment:?}")));
        }
        Ok(())
    }
}

struct Trap {
    traps: Traps,
    tag: String,
}

impl Format for Traps {
    fn name(&self) -> &'static str {
        "trap"
    }

    fn probe(&self, _start: &[u8]) -> u8 {
        0
    }

    fn configure(&self, options: &mut Options, _settings: Settings) -> Result<Box<dyn Configured>> {
        let tag = options.take_text("tag")?.unwrap_or_default();
        Ok(Box::new(Trap { traps: self.clone(), tag }))
    }

    fn contents(&self, _: u64, _: Option<&BackingName>, _: &mut Options) -> Result<Contents> {
        Err(Error::new(Kind::Unsupported, "there are no images of traps"))
    }
}

impl Configured for Trap {
    fn file_role(&self) -> Role {
        Role::FILTER_CHILD
    }

    fn into_reopen(self: Box<Self>) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(()))
    }

    fn open<'a>(&'a self, file: Io<'a>, read_only: bool) -> LocalFuture<'a, Result<OpenedImage>> {
        let driver = Box::new(Trap { traps: self.traps.clone(), tag: self.tag.clone() });
        let facts = NodeFacts { len: file.len(), request_alignment: 1, read_only };
        Box::pin(async move {
            Ok(OpenedImage { driver, facts, backing: Backing::Impossible, data_file: DataFile::Same })
        })
    }
}

impl Driver for Trap {
    fn format_name(&self) -> &'static str {
        "trap"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        let at = HostOffset::new(range.start().get());
        let place = Place::Child { child: ChildKey::File, at, tail: Tail::Zeroes, transparent: true };
        Ok(Extent { len: range.len(), place })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }

    fn check(&self, _mode: NodeMode) -> Result<()> {
        self.traps.spring(Moment::Check, &self.tag)
    }

    fn stage<'a>(&'a self, _request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        Box::pin(async move {
            self.traps.spring(Moment::Stage, &self.tag)?;
            Ok(Box::new(StagedTrap { traps: self.traps.clone(), tag: self.tag.clone() }) as Box<dyn Staged>)
        })
    }

    fn store<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.traps.spring(Moment::Store, &self.tag)?;
            self.flush(io).await
        })
    }
}

struct StagedTrap {
    traps: Traps,
    tag: String,
}

impl Staged for StagedTrap {
    fn settle<'a>(&'a mut self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { self.traps.spring(Moment::Settle, &self.tag) })
    }

    fn commit(&mut self, _publish: &Publish<'_>) {}

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}
