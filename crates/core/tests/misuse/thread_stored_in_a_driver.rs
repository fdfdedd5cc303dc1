//! A driver has no thread of its own: it is used from every I/O thread, so it cannot keep the one it was opened on.
use drystone_base::{GuestRange, Result};
use drystone_core::driver::{Access, Driver, Extent, Place};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef};

struct WithHome {
    home: LocalRef,
}

impl Driver for WithHome { //~ E0277
    fn format_name(&self) -> &'static str {
        "with-home"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        let _ = self.home.now_ns();
        Ok(Extent { len: range.len(), place: Place::Backing })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.flush().await })
    }
}

fn main() {}
