//! `blkverify`: two disks side by side, an image under test and a plain copy that is trusted; what is read of both must be
//! the same.
//!
//! ```text
//!           [ blkverify ]
//!      raw (`file`) │ │ test
//!       [ file ] ◄──┘ └──► [ image ] ──► ...
//! ```
//! | request | both | fails |
//! |---|---|---|
//! | read | read | if the bytes differ, or one of them fails and the other does not, or not alike |
//! | write, zeroes | written | if one of them fails and the other does not, or not alike |
//! | discard | nothing | |
//!
//! The disk is as long as the image under test; behind the end of the copy are zeroes. How it is allocated is the copy's
//! answer. A difference is an error whose cause is a [`Mismatch`]; what to do about
//! it is the user's decision.
//!
//! Source: "Block driver correctness testing with blkverify".

use std::fmt;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::{Access, BufResult, Driver, Extent, WriteFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

use crate::pieces;
use crate::through;

/// The driver's name.
pub const FORMAT_NAME: &str = "blkverify";
/// The image under test.
pub const TEST: ChildKey = ChildKey::Numbered(0);

/// The driver.
#[derive(Debug)]
pub struct BlkVerify;

/// How the two disks differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    what: &'static str,
    range: GuestRange,
    difference: Difference,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    /// At this byte.
    Contents(u64),
    /// The errno of the image under test and of the copy; 0 for none.
    Results(i32, i32),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, at, len) = (self.what, self.range.start().get(), self.range.len());
        write!(f, "{what} offset={at} bytes={len} ")?;
        match self.difference {
            Difference::Contents(at) => write!(f, "contents mismatch at offset {at}"),
            Difference::Results(test, raw) => write!(f, "return value mismatch {} != {}", -test, -raw),
        }
    }
}

impl std::error::Error for Mismatch {}

impl Mismatch {
    /// The difference that led to an error, if one did.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            if let Some(mismatch) = cause.downcast_ref() {
                return Some(mismatch);
            }
            next = cause.source();
        }
        None
    }

    fn into_error(self, io: Io<'_>) -> Error {
        Error::new(Kind::Io, "the image under test and its copy differ")
            .because(self)
            .on_node(io.node().name())
    }
}

/// What both results come to.
fn compare(
    io: Io<'_>,
    what: &'static str,
    range: GuestRange,
    test: Result<()>,
    raw: &Result<()>,
) -> Result<()> {
    let errno = |result: &Result<()>| result.as_ref().err().map_or(0, Error::errno);
    let (test_errno, raw_errno) = (errno(&test), errno(raw));
    if test_errno == raw_errno {
        return test;
    }
    let difference = Difference::Results(test_errno, raw_errno);
    Err(Mismatch { what, range, difference }.into_error(io))
}

/// Both children.
fn children(io: Io<'_>) -> Result<(Io<'_>, Io<'_>)> {
    let test = io.child(TEST).ok_or_else(|| {
        Error::new(Kind::NotFound, "the node has no child 'test'").on_node(io.node().name())
    })?;
    Ok((test, io.file()?))
}

impl Driver for BlkVerify {
    fn format_name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        through::locate(io, range, access)
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let (test, raw) = match children(io) {
                Ok(children) => children,
                Err(error) => return (Err(error), buf),
            };
            let range = GuestRange::new(at, buf.len() as u64);
            let (raw_result, expected) =
                pieces::read_clamped(raw, at, Buf::zeroed(buf.len()), u64::MAX).await;
            let (result, buf) = test.read(at, buf).await;
            let result = compare(io, "read", range, result, &raw_result);
            if result.is_err() {
                return (result, buf);
            }
            let differs = |(_, (left, right)): &(u64, (&u8, &u8))| left != right;
            let bytes = (at.get()..).zip(buf.as_slice().iter().zip(expected.as_slice()));
            let result = match bytes.into_iter().find(differs) {
                None => Ok(()),
                Some((at, _)) => {
                    let difference = Difference::Contents(at);
                    Err(Mismatch { what: "read", range, difference }.into_error(io))
                }
            };
            (result, buf)
        })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let (test, raw) = match children(io) {
                Ok(children) => children,
                Err(error) => return (Err(error), buf),
            };
            let range = GuestRange::new(at, buf.len() as u64);
            // Writes to one place come to both disks in one order.
            let _range = io.lock_range(range).await;
            let (raw_result, _) = raw.write(at, Buf::copy_of(buf.as_slice()), flags).await;
            let (result, buf) = test.write(at, buf, flags).await;
            (compare(io, "write", range, result, &raw_result), buf)
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let (test, raw) = children(io)?;
            let raw_result = raw.flush().await;
            let range = GuestRange::new(GuestOffset::ZERO, 0);
            compare(io, "flush", range, test.flush().await, &raw_result)
        })
    }
}
