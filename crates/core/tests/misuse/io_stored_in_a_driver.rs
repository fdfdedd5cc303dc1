//! A driver cannot store the `Io` that it is lent, so it has no second way to a child that could go stale when the child
//! is replaced.
use std::sync::Mutex;

use drystone_base::{GuestRange, Result};
use drystone_core::driver::{Access, Driver, Extent, Place};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

struct Format {
    data_file: Mutex<Option<Io<'static>>>,
}

impl Driver for Format { //~ E0277
    //~ says: StaysOnItsThread
    fn format_name(&self) -> &'static str {
        "format"
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        *self.data_file.lock().unwrap() = Some(io); //~ lifetime
        Ok(Extent { len: range.len(), place: Place::Backing })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.flush().await })
    }
}

fn main() {}
