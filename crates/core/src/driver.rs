//! [`Driver`]: what a protocol, a format or a filter implements.
//!
//! On the request path a driver mostly answers one question: *where are the bytes* ([`Driver::locate`]). The core follows
//! the answers from node to node down to a device and does the I/O once. What cannot be answered by a place (compressed
//! data, copy-on-write, allocation) a driver does itself, in [`Driver::read`] and [`Driver::write`], through the `Io` that
//! it is lent: that is its only way to its children, and it cannot be kept.
//!
//! | called | methods | may |
//! |---|---|---|
//! | by requests, on any I/O thread | `locate`, `load_now` | look at what is in memory; no wait, no allocation when the answer is cached |
//! | by requests, on any I/O thread | `press`, `unpress` | compute, for milliseconds; no wait |
//! | by requests, on any I/O thread | `load`, `read`, `write`, `write_pressed`, `write_zeroes`, `discard`, `flush`, `read_state`, `write_state`, `resize`, `device_status` | read and write children, wait for resources of requests and for devices |
//! | by plans, on the control thread | `grant`, `check` | compute, and nothing else |
//! | by changes, on the control thread | `stage`, `change_bitmaps`, `store`, `close` | open, lock, allocate; do I/O (`store`); fail (not `close`) |
//!
//! A driver with several users at once is `Sync`: it locks its own tables, never across an await.

use std::any::Any;
use std::sync::Arc;

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;

use crate::bitmap::stored::{StoredBitmap, StoredChange};
use crate::disk::{Disk, Preallocation};
use crate::graph::node::{ChildKey, Node};
use crate::graph::permission::Grant;
use crate::graph::role::{ParentState, Role, default_grant};
use crate::request::event::Event;
use crate::request::io::Io;
use crate::runtime::{LocalFuture, LocalRef};
use crate::snapshots::InternalSnapshots;

/// What a node is when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFacts {
    /// Length of the disk in bytes.
    pub len: u64,
    /// Alignment in bytes that requests to the node's own device must have; 1 for nodes without one. A power of two.
    pub request_alignment: u32,
    /// Writes are refused, whoever asks.
    pub read_only: bool,
}

/// Why a place is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read the bytes.
    Read,
    /// To overwrite the bytes in place. Only a `Child` or `Device` place (or `Ask`, `Load`) is an answer.
    Write,
    /// To tell a client how the range is allocated.
    Status,
}

/// Where the first `len` bytes of a range are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// How many bytes from the start of the range the answer covers: at least 1; more than was asked for is cut off.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

/// Where bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a child, from `at` on.
    Child {
        /// Which child.
        child: ChildKey,
        /// Where in it.
        at: HostOffset,
        /// What bytes past the child's end are.
        tail: Tail,
        /// The same disk as the child's (a filter, raw): whether the bytes are allocated is the child's answer.
        transparent: bool,
    },
    /// For [`Access::Status`] only: data of this node in a child, from `at` on, whose holes tell nothing more. The child is
    /// not asked.
    Stored {
        /// Where in the child.
        at: HostOffset,
    },
    /// Nowhere: they read as zeroes.
    Zero {
        /// The node says so itself, rather than having nothing at this place and nothing below it.
        explicit: bool,
    },
    /// In the backing child at the same offset; zeroes if there is none or it is shorter.
    Backing,
    /// On the node's own device ([`Driver::disk`]).
    Device {
        /// First byte on the device.
        at: u64,
    },
    /// The driver reads or writes them itself. Allocated.
    Ask,
    /// Not known without reading metadata: [`Driver::load`], then ask again.
    Load,
}

/// What the bytes past the end of a child are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Zeroes.
    Zeroes,
    /// A sign of damage: reading them fails.
    Error,
}

/// How a write is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteFlags {
    /// On stable storage before the request is done.
    pub fua: bool,
    /// The contents that the disk shows do not change (copy on read): needs `WRITE_UNCHANGED` only.
    pub unchanged: bool,
    /// Stored compressed, where that makes it smaller. The range covers whole clusters of the format, any number of them;
    /// only the last one of the disk may be shorter. Refused by a driver that does not [take it](Driver::takes_compressed).
    pub compressed: bool,
}

/// How a range is zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroFlags {
    /// Space may be given back.
    pub may_unmap: bool,
    /// Fail with [`Kind::Unsupported`] rather than write zero bytes.
    pub fast_only: bool,
    /// On stable storage before the request is done.
    pub fua: bool,
    /// The range shows zeroes already, from a layer below (copy on read): needs `WRITE_UNCHANGED` only.
    pub unchanged: bool,
}

/// The backing file that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingFile {
    /// Its name, as it is stored.
    pub name: Vec<u8>,
    /// Its format, if the image says it.
    pub format: Option<Vec<u8>>,
}

/// A property of an image that can be changed after it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amendment {
    /// The version of the format.
    Version(u32),
    /// How many bits a count of the users of a cluster has.
    RefcountBits(u64),
    /// Whether writers may postpone such counts.
    LazyRefcounts(bool),
    /// Whether the external data file is, by itself, a raw image of the disk. Off is always possible.
    DataFileRaw(bool),
    /// The name of the external data file, as it is stored; empty for none.
    DataFileName(Vec<u8>),
}

/// How the first `len` bytes of a range are allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Bytes that the answer covers; 0 only at the end of the disk.
    pub len: u64,
    /// They are stored somewhere.
    pub data: bool,
    /// They read as zeroes.
    pub zero: bool,
    /// This layer or one below it that was asked has an answer of its own for them.
    pub allocated: bool,
    /// They are stored compressed.
    pub compressed: bool,
    /// Where they are on the device below, if one place answers that.
    pub offset: Option<u64>,
    /// Layers between the asked node and the one that has the bytes (0: the asked node itself).
    pub depth: u32,
}

/// How users, options and state of a node are before or after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeMode {
    /// What all its users want and share together.
    pub users: Grant,
    /// Writes are refused, whoever asks.
    pub read_only: bool,
    /// This process may write and cache.
    pub active: bool,
}

/// What a plan asks one driver to prepare for.
pub struct StageRequest<'a> {
    /// The driver's node.
    pub node: &'a Arc<Node>,
    /// How it is now.
    pub old: NodeMode,
    /// How it shall be.
    pub new: NodeMode,
    /// New options, in the driver's own type, if the plan reopens the node.
    pub options: Option<&'a (dyn Any + Send + Sync)>,
    /// The children that the plan gives it, if these are not the same as now.
    pub children: &'a [(ChildKey, Arc<Node>)],
    /// The control thread, for opening files.
    pub local: &'a LocalRef,
}

impl StageRequest<'_> {
    /// The node that will be the child `key` and is not now.
    #[must_use]
    pub fn new_child(&self, key: ChildKey) -> Option<Arc<Node>> {
        self.children.iter().find(|(known, _)| *known == key).map(|(_, child)| Arc::clone(child))
    }
}

/// What a driver has prepared for a change. Exactly one of `commit` and `undo` is called.
pub trait Staged {
    /// Last I/O with nobody else inside: parents before children. What it leaves on disk, the old state accepts too.
    fn settle<'a>(&'a mut self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        let _ = io;
        Box::pin(async { Ok(()) })
    }

    /// Takes effect, and publishes what is different now. Synchronous, without I/O; cannot fail. Children before parents.
    fn commit(&mut self, publish: &Publish<'_>);

    /// Takes back what was prepared, and what `settle` did as far as it matters.
    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()>;
}

/// Facts of a node that a commit of its driver changes. Queries read them without entering a gate.
pub struct Publish<'n>(&'n Node);

impl<'n> Publish<'n> {
    pub(crate) fn to(node: &'n Node) -> Self {
        Self(node)
    }

    /// The disk is `len` bytes long now.
    pub fn len(&self, len: u64) {
        self.0.set_len(len);
    }

    /// These are the persistent bitmaps now: the image was read again.
    pub fn bitmaps(&self, stored: Vec<StoredBitmap>) {
        self.0.bitmaps().load(self.0.len(), stored);
    }

    /// Requests to the node's device must be aligned to `bytes` now: a power of two.
    pub fn request_alignment(&self, bytes: u32) {
        self.0.set_request_alignment(bytes);
    }
}

/// Nothing had to be prepared.
pub struct NothingStaged;

impl Staged for NothingStaged {
    fn commit(&mut self, _publish: &Publish<'_>) {}
    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// A read or write by a driver: the result, and the buffer back in any case.
pub type BufResult = (Result<()>, Buf);

/// A protocol, format or filter. See the module's table for who calls what, where.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an opened image",
    label = "only a driver can stand in the graph",
    note = "bytes are parsed into a header, and a driver is opened from a header that passed; neither can be skipped"
)]
pub trait Driver: Any + Send + Sync {
    /// The driver's name in options and messages ("qcow2", "file").
    fn format_name(&self) -> &'static str;

    /// Where the first bytes of `range` are, for this kind of access. `range` is not empty and inside the disk (a write
    /// by a parent that may resize can be past its end). An answer from memory takes no allocation.
    fn locate(&self, io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent>;

    /// Reads the metadata that [`Place::Load`] asked for.
    fn load<'a>(&'a self, io: Io<'a>, range: GuestRange, access: Access) -> LocalFuture<'a, Result<()>> {
        let _ = (range, access);
        Box::pin(async move { Err(unsupported(io, "load metadata")) })
    }

    /// As [`Self::load`], if that takes no wait; whether it was done, or another did it. Tried once, before the request gets
    /// what it takes to wait.
    fn load_now(&self, io: Io<'_>, range: GuestRange) -> bool {
        let _ = (io, range);
        false
    }

    /// Reads a range that `locate` answered with [`Place::Ask`]; `buf` is not longer than that answer.
    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        let _ = at;
        Box::pin(async move { (Err(unsupported(io, "read")), buf) })
    }

    /// Whether writes with [`WriteFlags::compressed`] may come here: the driver compresses, or passes them on to a child. The
    /// core refuses them otherwise.
    fn takes_compressed(&self) -> bool {
        false
    }

    /// Writes a range that `locate` answered with [`Place::Ask`]; `buf` is not longer than that answer. With
    /// [`WriteFlags::compressed`], `locate` was not asked and `buf` is the whole request, however long.
    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        let _ = (at, flags);
        Box::pin(async move { (Err(unsupported(io, "write")), buf) })
    }

    /// Compresses the whole clusters at the start of `bytes`, which are to be written at `at`, each in its place: the length
    /// of each one's stream, or of the cluster if that does not become shorter and is as it was. What the answer does not
    /// cover is as it was, too. Computes only, on the caller's thread; many threads do so at the same time.
    fn press(&self, at: GuestOffset, bytes: &mut [u8]) -> Vec<u32> {
        let _ = (at, bytes);
        Vec::new()
    }

    /// Makes the old bytes of what [`Self::press`] has made of them, where it answered `parts`.
    fn unpress(&self, parts: &[u32], bytes: &mut [u8]) -> Result<()> {
        let _ = (parts, bytes);
        Err(Error::new(Kind::Unsupported, format!("driver '{}' does not compress", self.format_name())))
    }

    /// As [`Self::write`] with [`WriteFlags::compressed`], of bytes for which [`Self::press`] answered `parts`: these are stored
    /// as they are, the rest is compressed now.
    fn write_pressed<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        parts: &'a [u32],
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        let _ = (at, parts, flags);
        Box::pin(async move { (Err(unsupported(io, "write compressed data")), buf) })
    }

    /// Makes `range` read as zeroes, or fails with [`Kind::Unsupported`] having done nothing: the core then writes zero
    /// bytes (unless [`ZeroFlags::fast_only`]).
    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        let _ = (range, flags);
        Box::pin(async move { Err(unsupported(io, "write zeroes")) })
    }

    /// The contents of `range` do not matter any more. May do nothing.
    fn discard<'a>(&'a self, io: Io<'a>, range: GuestRange) -> LocalFuture<'a, Result<()>> {
        let _ = (io, range);
        Box::pin(async { Ok(()) })
    }

    /// Whether the driver wants to hear what is about to happen to its node: see [`Self::event`]. Constant.
    fn hears_events(&self) -> bool {
        false
    }

    /// Something is about to happen in the node, as a parent or the core tells. Only for drivers that
    /// [hear events](Self::hears_events).
    fn event<'a>(&'a self, io: Io<'a>, event: Event) -> LocalFuture<'a, ()> {
        let _ = (io, event);
        Box::pin(async {})
    }

    /// Every write that was done before this began is on stable storage when it is done. Nodes with a device of their
    /// own leave it to the core and are not asked.
    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>>;

    /// Sets the length of the disk. The core updates the node's length when it is done.
    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        let _ = (len, preallocation);
        Box::pin(async move { Err(unsupported(io, "resize")) })
    }

    /// Makes the image name another backing file, or none, durably; what was written before is durable then, too. Whoever
    /// opens the image finds the old name or the new one, also after a power cut. Edges are not its business. With nobody
    /// else inside.
    fn change_backing_file<'a>(
        &'a self,
        io: Io<'a>,
        backing: Option<&'a BackingFile>,
    ) -> LocalFuture<'a, Result<()>> {
        let _ = backing;
        Box::pin(async move { Err(unsupported(io, "name a backing file")) })
    }

    /// Gives up everything that the image has of its own, so that all of its disk shows what is behind it. What was written
    /// before is not kept; after a power cut, each cluster is as it was or given up. With nobody else inside.
    fn make_empty<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { Err(unsupported(io, "be emptied")) })
    }

    /// Changes one property of the image, durably; whoever opens the image finds the old one or the new one, also after a
    /// power cut. With nobody else inside. The node may refuse all writing afterwards: then it has to be opened again.
    fn amend<'a>(&'a self, io: Io<'a>, what: Amendment) -> LocalFuture<'a, Result<()>> {
        let _ = what;
        Box::pin(async move { Err(unsupported(io, "change what an image is")) })
    }

    /// The persistent bitmaps that opening the image has found; asked for once, when the driver becomes a node.
    fn take_loaded_bitmaps(&self) -> Vec<StoredBitmap> {
        Vec::new()
    }

    /// A plan does this to persistent bitmaps of the node, in this order, with nobody else inside, right before its commit.
    /// What it leaves on disk, the old state accepts too: it stores all persistent bitmaps again.
    fn change_bitmaps<'a>(&'a self, io: Io<'a>, changes: &'a [StoredChange]) -> LocalFuture<'a, Result<()>> {
        let _ = changes;
        Box::pin(async move { Err(unsupported(io, "store bitmaps").in_option("persistent")) })
    }

    /// What it can do with internal snapshots; `None` if it has none.
    fn snapshots(&self) -> Option<&dyn InternalSnapshots> {
        None
    }

    /// Reads the state of a machine that the image keeps beside its disk, from byte `at` of that state on. Where none was
    /// written, the bytes are those that the format finds there.
    fn read_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        let _ = at;
        Box::pin(async move { (Err(unsupported(io, "read the state of a machine")), buf) })
    }

    /// Stores `buf` in the state of a machine, as far as `at` bytes from its start. The disk shows nothing of it.
    fn write_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        let _ = at;
        Box::pin(async move { (Err(unsupported(io, "keep the state of a machine")), buf) })
    }

    /// The node's own device, for protocol drivers.
    fn disk(&self) -> Option<&dyn Disk> {
        None
    }

    /// How many bytes the file system has reserved for the node's own device, asked on the calling thread; `None` if that is
    /// not known.
    fn reserved_bytes(&self) -> Option<u64> {
        None
    }

    /// How the device is allocated, for protocol drivers. All data unless the driver knows better. As with
    /// [`Disk::submit`], `local` is the calling thread, for asking the device.
    fn device_status<'a>(
        &'a self,
        io: Io<'a>,
        local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        let _ = (io, local);
        let at = range.start().get();
        Box::pin(async move {
            Ok(Status {
                len: range.len(),
                data: true,
                zero: false,
                allocated: true,
                compressed: false,
                offset: Some(at),
                depth: 0,
            })
        })
    }

    /// What the node wants of a child and lets its other users do, from what the node's own users want and share.
    fn grant(&self, child: ChildKey, role: Role, parent: ParentState) -> Grant {
        let _ = child;
        default_grant(role, parent)
    }

    /// Whether the driver can serve users that want and share this together. Computes only.
    fn check(&self, mode: NodeMode) -> Result<()> {
        let _ = mode;
        Ok(())
    }

    /// Prepares for a change of the node: opens descriptors, takes the union of old and new locks, allocates. Called for
    /// every node of a plan whose permissions, mode or options it computes, also if none of them differs.
    fn stage<'a>(&'a self, request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        let refused = request.options.is_some().then(|| {
            Error::new(
                Kind::Unsupported,
                format!("driver '{}' does not support reopening", self.format_name()),
            )
            .on_node(request.node.name())
        });
        Box::pin(async move {
            match refused {
                Some(error) => Err(error),
                None => Ok(Box::new(NothingStaged) as Box<dyn Staged>),
            }
        })
    }

    /// Stores everything that the driver holds in memory and marks the image clean, with nobody else inside: before the
    /// node leaves the graph, becomes read-only or inactive. The node can be written again if the change is undone.
    fn store<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        self.flush(io)
    }

    /// A change of the graph has waited for requests of this node for `waited_ns` nanoseconds, half a minute or more: a device
    /// behind a peer ends those that the peer does not answer. Control thread; returns at once.
    fn hurry(&self, waited_ns: u64) {
        let _ = waited_ns;
    }

    /// The node has left the graph (or never entered it): gives up descriptors and locks. No I/O to children.
    fn close<'a>(&'a self, local: &'a LocalRef) -> LocalFuture<'a, ()> {
        let _ = local;
        Box::pin(async {})
    }
}

fn unsupported(io: Io<'_>, what: &str) -> Error {
    let format = io.node().driver().format_name();
    Error::new(Kind::Unsupported, format!("driver '{format}' cannot {what}")).on_node(io.node().name())
}
