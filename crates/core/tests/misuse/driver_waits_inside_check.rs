//! Permissions are computed, not negotiated: `check` and `grant` get no `Io` and cannot wait, so the graph does not change
//! while it is walked.
use drystone_base::{GuestRange, Result};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{Access, Driver, Extent, NodeMode, Place};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

struct Preallocate;

impl Driver for Preallocate {
    fn format_name(&self) -> &'static str {
        "preallocate"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Backing })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.flush().await })
    }

    fn check(&self, _mode: NodeMode) -> Result<()> {
        self.cut_tail().await //~ E0728
    }
}

impl Preallocate {
    async fn cut_tail(&self) -> Result<()> {
        let _ = Preallocation::Off;
        Ok(())
    }
}

fn main() {}
