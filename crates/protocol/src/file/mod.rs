//! `file` and `host_device`: a disk in a regular file, or on a block device.
//!
//! ```text
//!   core --DiskOp--> Image --(flushes, discards as the options say)--> sys::File
//!   plan --stage--> StagedFile: another descriptor? image locks     commit: exchange, loosen     undo: as before
//! ```
//! | module | what |
//! |---|---|
//! | `options` | what can be said |
//! | `stage` | changes of users, mode and options |
//! | `extents` | where data is known to be |
//! | [`create`] | new files |
//!
//! Invariants: the image locks held are those of the node's users, or more while a change is on its way; the descriptor
//! can write while somebody may write. The length is whole sectors: a file that ends within one is zeroes up to its end.
//! Not here: alignment (the core bounces), what the bytes mean.

pub mod create;
mod extents;
mod options;
mod stage;

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use drystone_base::{Error, GuestRange, Kind, LEN_MAX, Result};
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{
    Access, Driver, Extent, NodeFacts, NodeMode, Place, StageRequest, Staged, Status,
};
use drystone_core::graph::node::Node;
use drystone_core::request::io::Io;
use drystone_core::runtime::{Local, LocalFuture, LocalRef};
use drystone_sys::{Create, File, FileId, ImageLock, OpenOptions};

pub use drystone_sys::Locking;
pub use options::{Aio, Discard, FileKind, FileOptions};

use extents::DataExtents;

/// Lengths of disks are multiples of this many bytes.
const SECTOR_BYTES: u64 = 512;

/// The driver of both names.
pub struct HostFile {
    image: Arc<Image>,
}

/// An open file or device and how it is used.
struct Image {
    file: File,
    lock: ImageLock,
    options: Mutex<FileOptions>,
    switches: Switches,
    data: DataExtents,
}

/// What every request asks of the options.
struct Switches {
    no_flush: AtomicBool,
    unmaps: AtomicBool,
}

impl HostFile {
    /// Opens the file or device. Nothing is locked before the node is claimed or in the graph.
    ///
    /// # Errors
    /// Those of the operating system; [`Kind::InvalidInput`] if the path names something that the driver is not for, or
    /// options contradict each other.
    pub async fn open(local: &dyn Local, options: FileOptions) -> Result<(Self, NodeFacts)> {
        options.check()?;
        let how = OpenOptions {
            writable: !options.read_only && !options.auto_read_only,
            direct: options.cache_direct,
            create: Create::No,
        };
        let file = File::open(local, &options.path, how).await?;
        check_kind(&file, options.kind)?;
        let len = file.len_bytes(local).await?;
        let len = if file.is_block_device() { len } else { len.next_multiple_of(SECTOR_BYTES).min(LEN_MAX) };
        let align = alignment(file.align_request_bytes());
        let request_alignment = align.map_err(|error| error.at_path(file.path()))?;
        let facts = NodeFacts { len, request_alignment, read_only: options.read_only };
        let switches = Switches { no_flush: AtomicBool::new(false), unmaps: AtomicBool::new(false) };
        switches.set(&options);
        let lock = ImageLock::new(&file, options.locking);
        let image =
            Image { file, lock, options: Mutex::new(options), switches, data: DataExtents::default() };
        Ok((Self { image: Arc::new(image) }, facts))
    }

    /// Which file it is, for telling whether two names name one.
    #[must_use]
    pub fn file_id(&self) -> FileId {
        self.image.file.id()
    }

    /// Whether the image is locked in a way that the kernel takes back when anybody in this process closes another
    /// descriptor of the file (`locking=on` where there is nothing better): worth a warning.
    #[must_use]
    pub fn has_fragile_locks(&self) -> bool {
        self.image.lock.is_fragile()
    }

    /// How many bytes the file takes up on its file system, now; 0 for a device.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn allocated_bytes_now(&self) -> Result<u64> {
        self.image.file.allocated_bytes_now()
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        self.image.file.path()
    }
}

fn check_kind(file: &File, kind: FileKind) -> Result<()> {
    let wanted = match (kind, file.is_block_device()) {
        (FileKind::File, true) => "driver 'file' is for regular files",
        (FileKind::HostDevice, false) => "driver 'host_device' is for block devices",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::InvalidInput, wanted).at_path(file.path()))
}

/// What requests must be aligned to, as the node's facts say it.
fn alignment(align_bytes: usize) -> Result<u32> {
    let align = u32::try_from(align_bytes).ok().filter(|align| align.is_power_of_two());
    align.ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("direct I/O in units of {align_bytes} bytes is not supported"))
    })
}

impl Switches {
    fn set(&self, options: &FileOptions) {
        self.no_flush.store(options.cache_no_flush, Ordering::Relaxed);
        self.unmaps.store(options.discard == Discard::Unmap, Ordering::Relaxed);
    }
}

impl Driver for HostFile {
    fn format_name(&self) -> &'static str {
        if self.image.file.is_block_device() { "host_device" } else { "file" }
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Whoever leaves a disk expects it to be safe.
    fn store<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(io.flush())
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&*self.image)
    }

    fn reserved_bytes(&self) -> Option<u64> {
        let file = &self.image.file;
        if file.is_block_device() { None } else { file.allocated_bytes_now().ok() }
    }

    fn device_status<'a>(
        &'a self,
        io: Io<'a>,
        local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        Box::pin(async move { self.image.status(io.node(), local, range).await })
    }

    fn stage<'a>(&'a self, request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        Box::pin(stage::stage(&self.image, request))
    }

    fn close<'a>(&'a self, local: &'a LocalRef) -> LocalFuture<'a, ()> {
        self.image.lock.give_up();
        Box::pin(self.image.file.close(&**local))
    }
}

impl Disk for Image {
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion {
        let op = match op {
            DiskOp::Flush if self.switches.no_flush.load(Ordering::Relaxed) => {
                return Completion::ready(Ok(()), None);
            }
            DiskOp::Discard(range) => {
                if !self.unmaps() {
                    return Completion::ready(Ok(()), None);
                }
                self.data.forget(range);
                op
            }
            DiskOp::WriteZeroes { range, may_unmap, fast_only } => {
                self.data.forget(range);
                DiskOp::WriteZeroes { range, may_unmap: may_unmap && self.unmaps(), fast_only }
            }
            DiskOp::Truncate { len, .. } => {
                let len = len.min(LEN_MAX);
                self.data.forget(GuestRange::new(drystone_base::GuestOffset::new(len), LEN_MAX - len));
                op
            }
            op => op,
        };
        self.file.submit(local, op)
    }

    fn read_now(&self, local: &LocalRef, at: u64, bytes: &mut [u8]) -> bool {
        self.file.read_now(local, at, bytes)
    }

    fn copy_from<'a>(
        &'a self,
        local: &'a LocalRef,
        source: &'a dyn Disk,
        from: u64,
        to: GuestRange,
    ) -> LocalFuture<'a, Result<()>> {
        let source: &dyn Any = source;
        Box::pin(async move {
            match source.downcast_ref::<Self>() {
                Some(source) => self.file.copy_from(&**local, &source.file, from, to).await,
                None => Err(Error::new(Kind::Unsupported, "files are copied from files")),
            }
        })
    }

    fn can_grow(&self) -> bool {
        self.file.can_grow()
    }
}

impl Image {
    fn unmaps(&self) -> bool {
        self.switches.unmaps.load(Ordering::Relaxed)
    }

    /// Whether the descriptor has to be able to write.
    fn shall_write(mode: NodeMode, auto_read_only: bool) -> bool {
        !mode.read_only && (!auto_read_only || mode.users.perm.writes())
    }

    async fn status(&self, node: &Node, local: &LocalRef, range: GuestRange) -> Result<Status> {
        let (is_data, len) = match self.data.look_up(range) {
            Ok(len) => (true, len),
            Err(since) => match self.file.next_extent(&**local, range.start().get()).await? {
                None => (false, range.len()),
                Some(extent) => {
                    if extent.is_data {
                        self.data.remember(since, extent.range);
                    }
                    (extent.is_data, extent.range.len())
                }
            },
        };
        let found = range.take(len);
        let align = u64::from(node.request_alignment());
        Ok(whole_blocks(found, range, is_data, align))
    }
}

/// The answer for `found`, the beginning of `asked`, in blocks of `align` bytes: what is data in part, is data.
fn whole_blocks(found: GuestRange, asked: GuestRange, is_data: bool, align: u64) -> Status {
    if found.len() == asked.len() || found.end().is_aligned(align) {
        return crate::device_status(found, is_data);
    }
    let block = found.end().align_down(align).get();
    let start = found.start().get();
    if is_data || block <= start {
        return crate::device_status(asked.take(block + align - start), true);
    }
    crate::device_status(asked.take(block - start), false)
}
