//! The qcow2 format, versions 2 and 3 (spec: `docs/interop/qcow2.rst` of QEMU): bytes to checked values and back.
//! ```text
//!  header ──► L1 table ──► L2 tables ──► data clusters          guest offset = | L1 index | L2 index | byte in cluster |
//!     │
//!     ├─────► refcount table ──► refcount blocks                one count per cluster of the file
//!     ├─────► snapshot table ──► an L1 table per snapshot
//!     └─────► extensions: backing format, feature names, bitmaps, encryption header, data file name
//! ```
//! Everything is counted in clusters of 512 bytes to 2 MiB, all numbers are big-endian.
//!
//! | module | what |
//! |---|---|
//! | [`geometry`] | cluster sizes, cluster numbers |
//! | [`l2`] | how L2 tables are to be read, where a guest offset is mapped |
//! | [`feature`] | feature bits as sets, their names |
//! | [`extension`] | header extensions |
//! | [`header`] | the header; what an image may be opened for |
//! | [`entry`] | entries of L1 and L2 tables |
//! | [`refcount`] | refcount widths, blocks and table entries |
//! | [`compress`] | compressed clusters |
//! | [`snapshot`] | the table of internal snapshots |
//! | [`bitmap`] | the directory of persistent bitmaps |
//! | [`create`] | what a new image consists of |
//! | [`measure`] | how long the file of an image becomes |
//! | [`check`] | the consistency check |
//!
//! Invariants: no I/O (the check reads through a trait), no threads; a guest cluster and a host cluster are different
//! types; a `Header` exists only after every one of its numbers passed the limits in [`header`].

pub mod bitmap;
pub mod check;
pub mod compress;
pub mod create;
pub mod driver;
pub mod entry;
pub mod extension;
pub mod feature;
pub mod geometry;
pub mod header;
pub mod l2;
pub mod measure;
pub mod refcount;
pub mod snapshot;

pub use header::Header;
