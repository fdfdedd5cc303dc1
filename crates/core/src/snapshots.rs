//! What a format can do with internal snapshots: states of the disk that the image keeps beside the one in use.
//!
//! Invariant: every method that changes something is called with nobody else inside (under a
//! [`Change`](crate::control::Change)), and leaves the image as it was if it fails; after a power cut the image shows the
//! old state or the new one. Not here: who asks, and which snapshot a name means.

use drystone_base::Result;

use crate::request::io::Io;
use crate::runtime::LocalFuture;

/// An internal snapshot, as the image describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its identifier, usually a number.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// When it was taken, in seconds since the Epoch.
    pub date_s: u32,
    /// The nanoseconds of that.
    pub date_ns: u32,
    /// How long the guest had been running, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Bytes of the machine's state that is stored with it; 0 if none is.
    pub vm_state_bytes: u64,
    /// Length of the disk in bytes; `None` if the image does not say.
    pub len_guest: Option<u64>,
    /// Instructions that the guest had executed; `None` if they were not counted.
    pub icount: Option<u64>,
}

/// A snapshot that is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name; others can have the same.
    pub name: Vec<u8>,
    /// Now, in seconds since the Epoch.
    pub date_s: u32,
    /// The nanoseconds of that.
    pub date_ns: u32,
    /// How long the guest has been running, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Instructions that the guest has executed; `None` if they are not counted.
    pub icount: Option<u64>,
}

/// Internal snapshots of an open image. `id` is the identifier of one that [`Self::list`] names.
pub trait InternalSnapshots: Send + Sync {
    /// All of them, in the image's order. Anybody may be inside.
    fn list<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<Vec<SnapshotInfo>>>;

    /// Keeps the disk as it is now. The image chooses an identifier that no other snapshot has.
    fn create<'a>(&'a self, io: Io<'a>, new: &'a NewSnapshot) -> LocalFuture<'a, Result<SnapshotInfo>>;

    /// Makes the disk what it was then. Returns its length in bytes, which the caller publishes.
    fn apply<'a>(&'a self, io: Io<'a>, id: &'a [u8]) -> LocalFuture<'a, Result<u64>>;

    /// Forgets a snapshot, and gives back the space that only it used.
    fn delete<'a>(&'a self, io: Io<'a>, id: &'a [u8]) -> LocalFuture<'a, Result<()>>;

    /// Shows what the disk was then, of an image that is open for reading only; the image does not change. Returns the
    /// length of the disk in bytes, which the caller publishes.
    fn show<'a>(&'a self, io: Io<'a>, id: &'a [u8]) -> LocalFuture<'a, Result<u64>>;
}
