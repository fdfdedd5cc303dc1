//! Where the bytes of a filter are that reads and writes them itself; the state of a machine, which the child keeps.

use drystone_base::{Error, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::{Access, BufResult, Extent, Place, Tail};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;

/// Reads and writes go through the filter; how a range is allocated, the child `file` says.
pub(crate) fn locate(io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
    let at = HostOffset::checked(range.start().get()).ok_or_else(|| {
        Error::new(Kind::OutOfRange, "the request begins past the largest possible disk")
            .on_node(io.node().name())
    })?;
    let place = match access {
        Access::Read | Access::Write => Place::Ask,
        Access::Status => Place::Child { child: ChildKey::File, at, tail: Tail::Zeroes, transparent: true },
    };
    Ok(Extent { len: range.len(), place })
}

pub(crate) async fn read_state(io: Io<'_>, at: u64, buf: Buf) -> BufResult {
    match io.file() {
        Ok(file) => file.read_state(at, buf).await,
        Err(error) => (Err(error), buf),
    }
}

pub(crate) async fn write_state(io: Io<'_>, at: u64, buf: Buf) -> BufResult {
    match io.file() {
        Ok(file) => file.write_state(at, buf).await,
        Err(error) => (Err(error), buf),
    }
}
