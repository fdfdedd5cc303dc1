//! `raw`: the disk is the child's bytes, all of them or a window.
//! ```text
//!  child  |--------[=====================]------|
//!         0      offset            offset + size
//!  disk            [=====================]           without `size`: up to the child's end
//! ```
//! | options | `file` child is | grows |
//! |---|---|---|
//! | none | the same disk ([`Role::FILTER_CHILD`]) | with the child |
//! | `offset` | stored data ([`Role::DATA`], primary) | with the child |
//! | `size` | stored data | never |
//!
//! Invariants: nothing outside a window is read or written through it; the length is a multiple of 512 bytes, rounded
//! up, what is past the child's end reads as zeroes.
//! Not here: whether an image *is* raw. Bytes that look like nothing else are no proof, a user's word is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, LEN_MAX, Result};
use drystone_buf::Buf;
use drystone_core::disk::Preallocation;
use drystone_core::driver::{
    Access, BufResult, Driver, Extent, NodeFacts, NothingStaged, Place, Publish, StageRequest, Staged, Tail,
    WriteFlags, ZeroFlags,
};
use drystone_core::graph::node::{ChildKey, Node};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role, default_grant};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

/// Lengths of disks are multiples of this many bytes.
pub const SECTOR_BYTES: u64 = 512;
/// [`Window::len_bytes`] of a window that ends where the child ends.
const OPEN_END: u64 = u64::MAX;

/// Which bytes of the child the disk is. Also what a reopen takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawOptions {
    /// `offset`: where the disk begins in the child, in bytes; no further than its end.
    pub offset_host: u64,
    /// `size`: length of the disk in bytes, a multiple of 512, not past the child's end. Without it, the disk is the rest
    /// of the child.
    pub len_bytes: Option<u64>,
}

impl RawOptions {
    /// What the child `file` is for a node with these options.
    #[must_use]
    pub const fn file_role(self) -> Role {
        if self.offset_host == 0 && self.len_bytes.is_none() {
            Role::FILTER_CHILD
        } else {
            Role::DATA.with(Role::PRIMARY)
        }
    }

    /// The length of the disk in a child of `len_child` bytes.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] for a window that is not inside the child or ends within a sector.
    pub fn len_in(self, len_child: u64) -> Result<u64> {
        let Self { offset_host, len_bytes } = self;
        let refuse = |option: &str, text| Err(Error::new(Kind::InvalidInput, text).in_option(option));
        let Some(rest) = len_child.checked_sub(offset_host) else {
            let text = format!("it is past the end of the containing file of {len_child} bytes");
            return refuse("offset", text);
        };
        match len_bytes {
            Some(len) if len % SECTOR_BYTES != 0 => {
                refuse("size", format!("{len} is not a multiple of {SECTOR_BYTES}"))
            }
            Some(len) if len > rest => refuse(
                "size",
                format!("{offset_host} + {len} is past the end of the containing file of {len_child} bytes"),
            ),
            Some(len) => Ok(len),
            None => Ok(rest.min(LEN_MAX).next_multiple_of(SECTOR_BYTES)),
        }
    }
}

/// Length in bytes of the file for a new disk of `len_bytes`: rounded up to whole sectors.
///
/// # Errors
/// [`Kind::InvalidInput`] past [`LEN_MAX`].
pub fn len_file_of_new(len_bytes: u64) -> Result<u64> {
    len_bytes.checked_next_multiple_of(SECTOR_BYTES).filter(|len| *len <= LEN_MAX).ok_or_else(|| {
        let text = format!("{len_bytes} bytes exceed the largest possible disk");
        Error::new(Kind::InvalidInput, text).in_option("size")
    })
}

/// What a node wants of its file: nobody changes the child's length or contents for the driver's own sake.
#[must_use]
pub fn file_grant(role: Role, parent: ParentState) -> Grant {
    let grant = default_grant(role, parent);
    let own = Perm::WRITE.with(Perm::RESIZE).without(parent.users.perm);
    Grant { perm: grant.perm.without(own), ..grant }
}

/// Whether a file that begins with these bytes is taken for raw by whoever has to guess.
pub type LooksRaw = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// The start of a disk that nobody said is raw: nothing is written there that would make it look like something else the
/// next time.
#[derive(Clone)]
pub struct Guard {
    /// How many bytes are looked at by whoever guesses.
    pub len_bytes: usize,
    /// Whether they still look raw.
    pub looks_raw: LooksRaw,
}

/// The driver.
pub struct Raw {
    window: Arc<Window>,
    guard: Option<Guard>,
}

/// Written by a reopen, with nobody inside.
struct Window {
    offset_host: AtomicU64,
    len_bytes: AtomicU64,
}

impl Raw {
    /// A disk in `file`, the node that will be the child `file`, with the role [`RawOptions::file_role`].
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] for a window that is not inside the file or ends within a sector.
    pub fn open(file: Io<'_>, options: RawOptions) -> Result<(Self, NodeFacts)> {
        let len = options.len_in(file.len())?;
        let window = Window { offset_host: AtomicU64::new(0), len_bytes: AtomicU64::new(OPEN_END) };
        window.set(options);
        let facts = NodeFacts { len, request_alignment: 1, read_only: file.node().is_read_only() };
        Ok((Self { window: Arc::new(window), guard: None }, facts))
    }

    /// The same, for a disk that is raw by a guess.
    #[must_use]
    pub fn guarded(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// How much of `range` is in the guarded start of the disk.
    fn len_guarded(&self, range: GuestRange) -> u64 {
        let end = self.guard.as_ref().map_or(0, |guard| guard.len_bytes as u64);
        end.saturating_sub(range.start().get()).min(range.len())
    }
}

impl Window {
    fn set(&self, options: RawOptions) {
        self.offset_host.store(options.offset_host, Ordering::Relaxed);
        self.len_bytes.store(options.len_bytes.unwrap_or(OPEN_END), Ordering::Relaxed);
    }

    fn options(&self) -> RawOptions {
        let len = self.len_bytes.load(Ordering::Relaxed);
        RawOptions {
            offset_host: self.offset_host.load(Ordering::Relaxed),
            len_bytes: Some(len).filter(|len| *len != OPEN_END),
        }
    }

    /// Where `range` of the disk begins in the child.
    fn host(&self, range: GuestRange) -> Result<HostOffset> {
        let at = range.start().get().checked_add(self.offset_host.load(Ordering::Relaxed));
        let past = || Error::new(Kind::OutOfRange, "the request ends past the largest possible disk");
        let end = at.and_then(|at| at.checked_add(range.len())).filter(|end| *end <= LEN_MAX);
        at.filter(|_| end.is_some()).and_then(HostOffset::checked).ok_or_else(past)
    }

    /// As [`Self::host`], if `range` may be written: a window with a length does not grow.
    fn host_for_writing(&self, range: GuestRange) -> Result<HostOffset> {
        if range.end().get() > self.len_bytes.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::NoSpace, "the request ends past the end of the window"));
        }
        self.host(range)
    }

    fn range_for_writing(&self, range: GuestRange) -> Result<GuestRange> {
        Ok(GuestRange::new(self.host_for_writing(range)?.in_child(), range.len()))
    }
}

impl Driver for Raw {
    fn format_name(&self) -> &'static str {
        "raw"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        let at = match access {
            Access::Write => {
                let at = self.window.host_for_writing(range)?;
                let len = self.len_guarded(range);
                if len > 0 {
                    return Ok(Extent { len, place: Place::Ask });
                }
                at
            }
            Access::Read | Access::Status => self.window.host(range)?,
        };
        let place = Place::Child { child: ChildKey::File, at, tail: Tail::Zeroes, transparent: true };
        Ok(Extent { len: range.len(), place })
    }

    /// Only the guarded start of the disk comes here.
    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let allowed = match &self.guard {
                Some(guard) => guard.demand(io, at, &buf).await,
                None => Ok(()),
            };
            let range = GuestRange::new(at, buf.len() as u64);
            let place = || self.window.host_for_writing(range);
            match allowed.and_then(|()| Ok((io.file()?, place()?))) {
                Ok((file, host)) => file.write(host.in_child(), buf, flags).await,
                Err(error) => (Err(error), buf),
            }
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.write_zeroes(self.window.range_for_writing(range)?, flags).await })
    }

    fn discard<'a>(&'a self, io: Io<'a>, range: GuestRange) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let file = io.file()?;
            let range = self.window.range_for_writing(range)?;
            // The last sector of the disk can be past the child's end.
            let inside = file.len().saturating_sub(range.start().get());
            file.discard(range.take(inside)).await
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }

    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.window.len_bytes.load(Ordering::Relaxed) != OPEN_END {
                return Err(Error::new(Kind::Unsupported, "a raw disk with a fixed size cannot be resized"));
            }
            let end = self.window.host(GuestRange::new(GuestOffset::ZERO, len))?.plus(len);
            io.file()?.resize(end.get(), preallocation).await
        })
    }

    fn read_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            match io.file() {
                Ok(file) => file.read_state(at, buf).await,
                Err(error) => (Err(error), buf),
            }
        })
    }

    fn write_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            match io.file() {
                Ok(file) => file.write_state(at, buf).await,
                Err(error) => (Err(error), buf),
            }
        })
    }

    fn grant(&self, child: ChildKey, role: Role, parent: ParentState) -> Grant {
        let _ = child;
        file_grant(role, parent)
    }

    fn stage<'a>(&'a self, request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        Box::pin(async move {
            let file = request.new_child(ChildKey::File);
            let options = match request.options.map(|options| options.downcast_ref::<RawOptions>()) {
                Some(Some(options)) => *options,
                Some(None) => {
                    return Err(Error::new(
                        Kind::InvalidInput,
                        "these options are not those of driver 'raw'",
                    ));
                }
                None if file.is_some() => self.window.options(),
                None => return Ok(Box::new(NothingStaged) as _),
            };
            let window = Arc::clone(&self.window);
            Ok(Box::new(StagedWindow { window, options, file, len: None }) as _)
        })
    }
}

impl Guard {
    /// Fails if the disk would not look raw any more with `buf` at `at`.
    async fn demand(&self, io: Io<'_>, at: GuestOffset, buf: &Buf) -> Result<()> {
        let len = usize::try_from(io.len()).unwrap_or(usize::MAX).min(self.len_bytes);
        let mut start = io.read_new(GuestOffset::ZERO, len).await?;
        let at = usize::try_from(at.get()).unwrap_or(usize::MAX);
        let changed = start.as_mut_slice().iter_mut().skip(at);
        changed.zip(buf.as_slice()).for_each(|(old, new)| *old = *new);
        if (self.looks_raw)(start.as_slice()) {
            return Ok(());
        }
        let text = "the format of the image was not given, and with these bytes at its start it would be taken for \
                    something else than raw (say that it is raw to write them)";
        Err(Error::new(Kind::PermissionDenied, text))
    }
}

/// Another window, or the same one on another child.
struct StagedWindow {
    window: Arc<Window>,
    options: RawOptions,
    /// The node that becomes the child `file`, if it is another one.
    file: Option<Arc<Node>>,
    len: Option<u64>,
}

impl Staged for StagedWindow {
    fn settle<'a>(&'a mut self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let len_child = match &self.file {
                Some(file) => file.len(),
                None => io.file()?.len(),
            };
            self.len = Some(self.options.len_in(len_child)?);
            Ok(())
        })
    }

    fn commit(&mut self, publish: &Publish<'_>) {
        if let Some(len) = self.len {
            self.window.set(self.options);
            publish.len(len);
        }
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}
