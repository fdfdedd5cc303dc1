//! Where the bytes of a disk live: the drivers at the bottom of every graph.
//!
//! | module | drivers | bytes live |
//! |---|---|---|
//! | [`mod@file`] | `file`, `host_device` | in a file or on a block device |
//! | [`null`] | `null-co`, `null-aio` | nowhere |
//! | [`memory`] | `memory` | in this process |
//! | [`nbd`] | `nbd` | at an NBD server |
//!
//! A driver here locates every byte on its own device and does no I/O for requests itself: the core submits to
//! the device, after it has cut and aligned the request.
//!
//! Invariant: a device never shows memory of this process that a user has not written. Does not know: image formats,
//! chains, file names other than its own.
#![forbid(unsafe_code)]

pub mod file;
pub mod memory;
pub mod nbd;
pub mod null;

use drystone_base::{Error, GuestRange, Kind, LEN_MAX, Result};
use drystone_core::driver::{NodeFacts, Status};

/// The facts of a writable disk without alignment.
fn facts_of(len_bytes: u64) -> Result<NodeFacts> {
    if len_bytes > LEN_MAX {
        let text = format!("{len_bytes} bytes exceed the largest possible disk");
        return Err(Error::new(Kind::InvalidInput, text).in_option("size"));
    }
    Ok(NodeFacts { len: len_bytes, request_alignment: 1, read_only: false })
}

/// `range` of a device is data, or else reads as zeroes. Either way, the device is the one that says so.
fn device_status(range: GuestRange, is_data: bool) -> Status {
    Status {
        len: range.len(),
        data: is_data,
        zero: !is_data,
        allocated: true,
        compressed: false,
        offset: Some(range.start().get()),
        depth: 0,
    }
}
