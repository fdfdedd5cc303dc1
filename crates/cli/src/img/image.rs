//! An image, opened to be looked at: its file, and what its header says.
//!
//! ```text
//!  Image (qcow2: Header) ── child ──> Image (raw: window) ── child ──> Image (file)
//!        '───────────────────────── Bytes: where the layer's own bytes are in the file ──'
//! ```
//! Nothing is written but by a repair, no backing file is opened, and an image that could not be used (encrypted, damaged tables) can
//! still be looked at as far as its header is sound.
//!
//! Invariants: reads stay inside the layer's bytes; what is behind the end of a file reads as zeroes up to a whole
//! sector. Not here: what is printed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_blockdev::formats::{Formats, PROBE_BYTES};
use drystone_blockdev::name::{self, Name};
use drystone_buf::Buf;
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role, default_grant};
use drystone_core::lane::Lane;
use drystone_core::runtime::{LocalFuture, LocalRef};
use drystone_format::qcow2::Header;
use drystone_format::qcow2::bitmap::Bitmap;
use drystone_format::qcow2::check::Source;
use drystone_format::qcow2::header::{Access, HeaderError, PREFIX_BYTES, RefusedReason};
use drystone_format::qcow2::snapshot::{self, Snapshot, SnapshotError, Snapshots};
use drystone_format::raw;
use drystone_nbd::uri::{Address, Uri};
use drystone_protocol::nbd::{NbdClient, NbdOptions};
use drystone_sys::{File, FileId, ImageLock, Locking, Network, OpenOptions};

use super::doc::Doc;
use super::spec::{Format, Spec, Window, bytes_of};

/// Lengths of files are seen in whole sectors.
const SECTOR_BYTES: u64 = 512;
/// How much of the table of snapshots is read at first; the length of the table is not stored anywhere.
const SNAPSHOTS_READ_BYTES: u64 = 64 << 10;
/// How much of it is read at most: one byte more than it may have.
const SNAPSHOTS_READ_BYTES_MAX: u64 = snapshot::TABLE_BYTES_MAX + 1;

/// One layer, and what it lies on.
pub(crate) struct Image {
    /// Its name in reports.
    pub(crate) name: Vec<u8>,
    /// The options that would open it.
    options: Doc,
    /// What it is.
    pub(crate) content: Content,
    /// Length of its disk in bytes.
    pub(crate) len_guest: u64,
    /// Bytes that its file takes up, if that is known.
    pub(crate) allocated_bytes: Option<u64>,
    /// The layer that it lies on; none for a file.
    pub(crate) child: Option<Box<Self>>,
    /// Its disk (raw, file), or the bytes that it is stored in (qcow2).
    pub(crate) bytes: Bytes,
}

/// What a layer is.
pub(crate) enum Content {
    /// A file or device.
    File {
        /// `file` or `host_device`.
        driver: &'static str,
    },
    /// An export of an NBD server.
    Nbd,
    /// Bytes as they are.
    Raw,
    /// qcow2.
    Qcow2(Box<Header>),
}

/// A part of a file.
#[derive(Clone)]
pub(crate) struct Bytes {
    store: Store,
    local: LocalRef,
    start: u64,
    len: u64,
    /// What is written behind the end makes them longer.
    grows: bool,
}

/// What has the bytes.
#[derive(Clone)]
enum Store {
    File { file: Rc<File>, lock: ImageLock },
    Nbd(Rc<NbdClient>),
}

/// Which file or export it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Identity {
    /// A file.
    File(FileId),
    /// An export, by its name.
    Nbd(String),
}

/// Somebody who looks at a disk and lets others do what they like.
const READER: Grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };

/// Somebody who changes an image.
const WRITER: Grant =
    Grant { perm: Perm::CONSISTENT_READ.with(Perm::WRITE).with(Perm::RESIZE), shared: Perm::ALL };

/// What is wanted of a layer, and left to others.
#[derive(Clone, Copy)]
struct Users {
    grant: Grant,
    force_share: bool,
    writable: bool,
}

impl Users {
    /// What a format wants of its file, for these users.
    fn of_file(self, format: Format, window: &Window) -> Self {
        let parent = ParentState { users: self.grant, writable: self.writable, active: true };
        let grant = match format {
            Format::Raw => raw::file_grant(window.bytes.file_role(), parent),
            Format::Qcow2 => default_grant(Role::IMAGE, parent),
        };
        Self { grant, ..self }
    }
}

impl Image {
    /// Opens an image for reading. `force_share` looks at it whoever else writes to it.
    ///
    /// # Errors
    /// Those of the operating system; what is wrong with the image's header; an image that somebody writes to.
    pub(crate) async fn open(local: &LocalRef, spec: &Spec, force_share: bool) -> Result<Self> {
        let users = Users { grant: READER, force_share, writable: false };
        Self::open_layer(local, spec, users).await.map_err(|error| error.at_path(spec.path()))
    }

    /// Opens an image for writing.
    ///
    /// # Errors
    /// As [`Self::open`]; an image that somebody else uses.
    pub(crate) async fn open_to_write(local: &LocalRef, spec: &Spec) -> Result<Self> {
        let users = Users { grant: WRITER, force_share: false, writable: true };
        Self::open_layer(local, spec, users).await.map_err(|error| error.at_path(spec.path()))
    }

    /// A box, because an image can be inside an image.
    fn open_layer<'a>(local: &'a LocalRef, spec: &'a Spec, users: Users) -> LocalFuture<'a, Result<Self>> {
        Box::pin(async move {
            let (format, window, file) = match spec {
                Spec::File { path, driver, locking } => {
                    let image = Self::open_file(local, path, *driver, (*locking, users.writable)).await?;
                    image.bytes.claim(users).await?;
                    return Ok(image);
                }
                Spec::Nbd(options) => return Self::open_nbd(local, options, users.writable).await,
                Spec::Format { format, window, file, .. } => (*format, window, file),
            };
            let below = format.map_or(users, |format| users.of_file(format, window));
            let child = Self::open_layer(local, file, below).await?;
            let format = match format {
                Some(format) => format,
                None => child.probe(users).await?,
            };
            match format {
                Format::Raw => Self::on_raw(child, window),
                Format::Qcow2 => Self::on_qcow2(child).await,
            }
        })
    }

    /// Which format is on this layer; locks it for that.
    async fn probe(&self, users: Users) -> Result<Format> {
        let format = self.bytes.probe().await?;
        self.bytes.claim(users.of_file(format, &Window::default())).await?;
        Ok(format)
    }

    async fn open_file(
        local: &LocalRef,
        path: &Path,
        driver: Option<&'static str>,
        (locking, writable): (Locking, bool),
    ) -> Result<Self> {
        let file = File::open(&**local, path, OpenOptions { writable, ..OpenOptions::default() }).await?;
        let found = if file.is_block_device() { "host_device" } else { "file" };
        let driver = driver.unwrap_or(found);
        if driver != found {
            return Err(Error::new(Kind::InvalidInput, format!("driver '{driver}' is not for a '{found}'")));
        }
        let len = file.len_bytes(&**local).await?.next_multiple_of(SECTOR_BYTES);
        let allocated_bytes = Some(file.allocated_bytes(&**local).await?);
        let lock = ImageLock::new(&file, locking);
        let store = Store::File { file: Rc::new(file), lock };
        let bytes = Bytes { store, local: local.clone(), start: 0, len, grows: true };
        let name = plain_name(path);
        let options = Doc::map([("driver", Some(driver.into())), ("filename", Some(name.as_slice().into()))]);
        Ok(Self {
            name,
            options,
            content: Content::File { driver },
            len_guest: len,
            allocated_bytes,
            child: None,
            bytes,
        })
    }

    async fn open_nbd(local: &LocalRef, options: &NbdOptions, writable: bool) -> Result<Self> {
        let mut lane = Lane::new(local.clone());
        let (client, facts) = NbdClient::open(&mut lane, &Network::os(), options.clone()).await?;
        if writable && facts.read_only {
            return Err(Error::new(Kind::ReadOnly, "the NBD server offers the export for reading only"));
        }
        let bytes = Bytes {
            store: Store::Nbd(Rc::new(client)),
            local: local.clone(),
            start: 0,
            len: facts.len,
            grows: false,
        };
        Ok(Self {
            name: options.to_string().into_bytes(),
            options: nbd_options(options),
            content: Content::Nbd,
            len_guest: facts.len,
            allocated_bytes: None,
            child: None,
            bytes,
        })
    }

    fn on_raw(child: Self, window: &Window) -> Result<Self> {
        let len = window.bytes.len_in(child.len_guest)?;
        let start = child.bytes.start + window.bytes.offset_host;
        let grows = child.bytes.grows && window.bytes.len_bytes.is_none();
        let bytes = Bytes { start, len, grows, ..child.bytes.clone() };
        let options = options_of(Format::Raw, window, &child);
        Ok(Self {
            name: name_of(&child, window, &options),
            options,
            content: Content::Raw,
            len_guest: len,
            allocated_bytes: child.allocated_bytes,
            child: Some(Box::new(child)),
            bytes,
        })
    }

    async fn on_qcow2(child: Self) -> Result<Self> {
        let header = child.bytes.header().await?;
        if let Access::Refused(cause @ RefusedReason::Features(_)) = header.access() {
            return Err(Error::new(Kind::Unsupported, "cannot open the image").because(cause));
        }
        let options = options_of(Format::Qcow2, &Window::default(), &child);
        Ok(Self {
            name: name_of(&child, &Window::default(), &options),
            options,
            len_guest: header.len_guest(),
            content: Content::Qcow2(Box::new(header)),
            allocated_bytes: child.allocated_bytes,
            bytes: child.bytes.clone(),
            child: Some(Box::new(child)),
        })
    }

    /// The name of its driver.
    pub(crate) const fn format(&self) -> &'static str {
        match self.content {
            Content::File { driver } => driver,
            Content::Nbd => "nbd",
            Content::Raw => "raw",
            Content::Qcow2(_) => "qcow2",
        }
    }

    /// Which file it lies in.
    pub(crate) fn identity(&self) -> Identity {
        match &self.bytes.store {
            Store::File { file, .. } => Identity::File(file.id()),
            Store::Nbd(client) => Identity::Nbd(client.options().to_string()),
        }
    }

    /// The path of the file that it lies in; empty if it is none.
    pub(crate) fn path(&self) -> &Path {
        match &self.bytes.store {
            Store::File { file, .. } => file.path(),
            Store::Nbd(_) => Path::new(""),
        }
    }

    /// Its backing file; `None` if it has none.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] or [`Kind::Unsupported`] if the recorded name or format has no meaning.
    pub(crate) fn backing(&self) -> Result<Option<Spec>> {
        let Content::Qcow2(header) = &self.content else { return Ok(None) };
        let Some(recorded) = header.backing_name() else { return Ok(None) };
        let full = self.backing_path(recorded)?;
        // Options say their driver themselves.
        let has_options = full.as_os_str().as_encoded_bytes().starts_with(b"json:");
        let format = header.extensions().backing_format().filter(|_| !has_options);
        Spec::of_name(full.as_os_str(), format.map(String::from_utf8_lossy).as_deref()).map(Some)
    }

    /// The name of its backing file as it is meant: relative ones are relative to the image's folder.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if the recorded name has no meaning.
    pub(crate) fn backing_path(&self, recorded: &[u8]) -> Result<PathBuf> {
        let recorded = OsString::from_vec(recorded.to_vec());
        name::resolve(&recorded, self.path().parent())
    }
}

/// The options of an export, in the order in which the C tool writes them.
fn nbd_options(options: &NbdOptions) -> Doc {
    let Uri { address, export } = &options.uri;
    let (host, port, path) = match address {
        Address::Tcp { host, port } => (Some(host.as_str()), Some(port.to_string()), None),
        Address::Unix { socket } => (None, None, Some(socket.to_string_lossy())),
    };
    let kind = if path.is_some() { "unix" } else { "inet" };
    Doc::map([
        ("server.host", host.map(Doc::from)),
        ("server.port", port.as_deref().map(Doc::from)),
        ("server.path", path.as_deref().map(Doc::from)),
        ("driver", Some("nbd".into())),
        ("export", Some(export.as_str()).filter(|export| !export.is_empty()).map(Doc::from)),
        ("server.type", Some(kind.into())),
    ])
}

/// A path such that nobody takes its start for a protocol.
fn plain_name(path: &Path) -> Vec<u8> {
    let is_plain = matches!(name::parse(path.as_os_str()), Ok(Name::Path { driver: None, .. }));
    if is_plain { bytes_of(path.as_os_str()) } else { bytes_of(Path::new(".").join(path).as_os_str()) }
}

/// The file's name, as long as that says all there is to say; else options.
fn name_of(child: &Image, window: &Window, options: &Doc) -> Vec<u8> {
    let is_plain = window.offset_said.is_none() && window.size_said.is_none();
    if is_plain && matches!(child.content, Content::File { .. } | Content::Nbd) {
        return child.name.clone();
    }
    format!("json:{}", options.to_json_line()).into_bytes()
}

fn options_of(format: Format, window: &Window, child: &Image) -> Doc {
    Doc::map([
        ("offset", window.offset_said.clone()),
        ("driver", Some(format.name().into())),
        ("size", window.size_said.clone()),
        ("file", Some(child.options.clone())),
    ])
}

impl Bytes {
    /// Locks the file for `users`.
    async fn claim(&self, users: Users) -> Result<()> {
        let Store::File { lock, .. } = &self.store else { return Ok(()) };
        let shared = if users.force_share { Perm::ALL } else { users.grant.shared };
        let grant = Grant { shared, ..users.grant };
        lock.prepare(&*self.local, grant).await?.commit();
        Ok(())
    }

    fn submit(&self, op: DiskOp) -> Completion {
        match &self.store {
            Store::File { file, .. } => file.submit(&self.local, op),
            Store::Nbd(client) => client.device().submit(&self.local, op),
        }
    }

    /// Which format the bytes look like.
    async fn probe(&self) -> Result<Format> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX).min(PROBE_BYTES);
        let start = self.read(0, len).await?;
        Format::named(Formats::builtin().probe(&start)?.name())
    }

    /// The header of a qcow2 image in these bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) async fn header(&self) -> Result<Header> {
        let invalid = |cause: HeaderError| {
            Error::new(Kind::InvalidImage, "cannot open the image as qcow2").because(cause)
        };
        let limit = usize::try_from(self.len).unwrap_or(usize::MAX);
        let start = self.read(0, PREFIX_BYTES.min(limit)).await?;
        let area = Header::area_len_bytes(&start).map_err(invalid)?;
        let bytes = self.read(0, area.min(limit)).await?;
        Header::parse(&bytes).map_err(invalid)
    }

    /// The internal snapshots of a qcow2 image in these bytes.
    ///
    /// # Errors
    /// What is wrong with their table.
    pub(crate) async fn snapshots(&self, header: &Header) -> Result<Vec<Snapshot>> {
        let table = header.snapshots();
        if table.count == 0 {
            return Ok(Vec::new());
        }
        let mut len_bytes = SNAPSHOTS_READ_BYTES;
        loop {
            let bytes = self.read_up_to(table.at, len_bytes).await?;
            let is_all = len_bytes >= SNAPSHOTS_READ_BYTES_MAX || (bytes.len() as u64) < len_bytes;
            match Snapshots::parse(&bytes, table.count) {
                Ok(snapshots) => return Ok(snapshots.list),
                Err(SnapshotError::Truncated(_)) if !is_all => {
                    len_bytes = SNAPSHOTS_READ_BYTES_MAX.min(len_bytes * 4);
                }
                Err(error) => {
                    return Err(Error::new(Kind::InvalidImage, "cannot read the snapshots").because(error));
                }
            }
        }
    }

    /// The persistent bitmaps of a qcow2 image in these bytes; none if they are not valid.
    ///
    /// # Errors
    /// What is wrong with their directory.
    pub(crate) async fn bitmaps(&self, header: &Header) -> Result<Vec<Bitmap>> {
        let Some(extension) = header.extensions().bitmaps() else { return Ok(Vec::new()) };
        let bytes = self.read_up_to(extension.directory, extension.directory_len_bytes).await?;
        extension
            .parse_directory(&bytes, header.cluster())
            .map_err(|error| Error::new(Kind::InvalidImage, "cannot read the bitmaps").because(error))
    }

    /// At most `len_bytes` bytes at `at`, fewer at the end.
    pub(crate) async fn read_up_to(&self, at: HostOffset, len_bytes: u64) -> Result<Vec<u8>> {
        let len = self.len.saturating_sub(at.get()).min(len_bytes);
        let len = usize::try_from(len).map_err(|_| Error::new(Kind::TooLarge, "too much to read at once"))?;
        self.read(at.get(), len).await
    }

    /// `len_bytes` bytes at `at`, all of them inside; none are inside everywhere.
    async fn read(&self, at: u64, len_bytes: usize) -> Result<Vec<u8>> {
        if len_bytes == 0 {
            return Ok(Vec::new());
        }
        if at.checked_add(len_bytes as u64).is_none_or(|end| end > self.len) {
            let text = format!("{len_bytes} bytes at {at} are not in the {} bytes there are", self.len);
            return Err(Error::new(Kind::InvalidImage, text));
        }
        let op = DiskOp::Read { at: self.start + at, buf: Buf::zeroed(len_bytes) };
        let done = self.submit(op).await;
        done.result?;
        Ok(done.buf.map(|buf| buf.as_slice().to_vec()).unwrap_or_default())
    }
}

impl Bytes {
    /// Writes at `at`, behind the end only if that can be moved.
    ///
    /// # Errors
    /// Those of the operating system; [`Kind::NoSpace`] behind an end that stays where it is.
    pub(crate) async fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let past = || Error::new(Kind::NoSpace, "the image ends at the end of a part of a file");
        let end = at.checked_add(bytes.len() as u64).ok_or_else(past)?;
        if end > self.len && !self.grows {
            return Err(past());
        }
        let mut buf = Buf::zeroed(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        let op = DiskOp::Write { at: self.start + at, buf, fua: false };
        self.submit(op).await.result?;
        self.len = self.len.max(end);
        Ok(())
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.submit(DiskOp::Flush).await.result
    }
}

impl Source for Bytes {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        self.read(at.get(), len_bytes).await
    }
}
