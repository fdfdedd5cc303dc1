//! Copying from one disk to another by whoever has both: the kernel, for two files.
//!
//! ```text
//!   source disk ── look up ──► file A, at a ┐
//!                                           ├─► Disk::copy_from: no byte comes through here
//!   target disk ── look up ──► file B, at b ┘
//! ```
//! Only what one look-up finds on each side is copied that way: whatever else there is (data to be unpacked or allocated,
//! metadata to be loaded, filters that look at what is written) is said to be unsupported, and read and written instead.
//!
//! Invariants: both disks are entered until the copy has ended, whoever still waits for it; the second one is entered only if
//! its gate is open, so that nobody who is inside of one disk waits for another. Before "unsupported" is said, bytes of the
//! target's range may have been written, with what they shall be.

use std::sync::Arc;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};

use crate::driver::Access;
use crate::graph::node::Node;
use crate::request::event::Event;
use crate::request::flush::flush;
use crate::request::io::{Io, Request};
use crate::request::observe::Crossed;
use crate::request::presence::Presence;
use crate::request::resolve::{DeviceNode, Part, Target, resolve};
use crate::runtime::LocalRef;

/// Bytes on a device, which stay there while this is alive.
pub(crate) struct Source {
    node: Arc<Node>,
    at: u64,
    len: u64,
    _inside: Presence,
}

impl Source {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

fn unsupported(why: &str) -> Error {
    Error::new(Kind::Unsupported, format!("not copied at one go: {why}"))
}

/// Where the first bytes of `range` are, for somebody who is inside.
pub(crate) fn source(inside: &Presence, local: &LocalRef, range: GuestRange) -> Result<Source> {
    let request = Request::new(inside.fork(), local.clone());
    let inside = request.presence();
    let Some((root, node)) = inside.root().and_then(|root| Some((root, root.target(inside)?))) else {
        return Err(unsupported("the source has no node"));
    };
    let io = Io::new(&request, node, root.perm());
    io.demand_inside(range, false)?;
    if range.is_empty() || io.node().hears_events() {
        return Err(unsupported("nothing is found at once"));
    }
    let (node, at, len) = match resolve(io, range, Access::Read, None)? {
        Part { len, target: Target::Device { node, at } } => (node.to_arc(), at, len.min(range.len())),
        _ => return Err(unsupported("the source's bytes are not on a device as they are")),
    };
    Ok(Source { node, at, len, _inside: request.into_presence() })
}

/// Copies what `source` found to `at`; how many bytes.
pub(crate) async fn copy(io: Io<'_>, at: GuestOffset, source: Source, fua: bool) -> Result<u64> {
    let Some(range) = GuestRange::checked(at.get(), source.len) else {
        return Err(crate::request::read::past_the_largest_disk(io));
    };
    io.demand_write(false).and_then(|()| io.demand_inside(range, true))?;
    if io.node().detects_zeroes() {
        return Err(unsupported("the target looks at what is written"));
    }
    io.event(Event::Pwritev).await;
    let mut crossed = Crossed::default();
    let mut result = copy_part(io, range, &source, &mut crossed).await;
    if fua && result.is_ok() {
        result = flush(io).await.and(result);
    }
    crossed.finish(result.is_ok(), false);
    io.event(Event::PwritevDone).await;
    result.map_err(|error| error.on_node(io.node().name()))
}

async fn copy_part<'t>(
    io: Io<'t>,
    range: GuestRange,
    source: &Source,
    crossed: &mut Crossed<'t>,
) -> Result<u64> {
    let mut walked = Crossed::default();
    let Part { len, target } = resolve(io, range, Access::Write, Some(&mut walked))?;
    let Target::Device { node: DeviceNode::Walked(device), at } = target else {
        return Err(unsupported("the target has no place for the bytes yet"));
    };
    crossed.append(walked);
    let to = GuestRange::new(GuestOffset::new(at), len.min(range.len()));
    let node = device.node();
    let align = u64::from(node.request_alignment().max(source.node.request_alignment()));
    if (to.start().get() | to.len() | source.at) & (align - 1) != 0 {
        return Err(unsupported("a device demands another alignment"));
    }
    let (Some(disk), Some(from)) = (node.driver().disk(), source.node.driver().disk()) else {
        unreachable!("a driver located bytes on a device that it has not");
    };
    let _range = if node.request_alignment() > 1 { Some(device.lock_range(to).await) } else { None };
    io.sim_point().await;
    let copied = disk.copy_from(io.local_ref(), from, source.at, to).await;
    node.flush.mark_written();
    copied.map(|()| to.len())
}
