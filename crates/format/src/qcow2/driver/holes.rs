//! Whether holes of the file tell more than the tables do.
//!
//! ```text
//!  usual image            every cluster that is in use was written           data is what the tables say
//!  preallocation=metadata all clusters are in use, few were ever written     data is what is no hole of the file
//! ```
//! Looking for a hole takes the kernel time in proportion to the data, and what is found inside of a cluster is no news to
//! whoever wants to know what an image has of its own. So the file is asked only where clusters are counted that it has no
//! space for: a tenth of all its clusters at least, and two. The C tools draw the line there, too (found by trying).
//!
//! Invariant: either answer is true. Not here: what a hole of the file reads as.

use std::sync::atomic::{AtomicU8, Ordering};

use drystone_base::{HostOffset, Result};
use drystone_core::driver::Place;
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::open::load_refcount_table;
use super::refs::Refs;

/// Fewest clusters without space that say something.
const CLUSTERS_MIN: u64 = 2;

/// What is known about it.
#[derive(Default)]
pub(super) struct Holes(AtomicU8);

/// Nobody has asked.
const UNKNOWN: u8 = 0;
/// Counting will tell.
const TO_BE_COUNTED: u8 = 1;
/// The tables tell everything.
const IN_TABLES: u8 = 2;
/// The file is to be asked.
const IN_FILE: u8 = 3;

impl Holes {
    /// It may have changed.
    pub(super) fn forget(&self) {
        self.0.store(UNKNOWN, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, known: u8) {
        self.0.store(known, Ordering::Relaxed);
    }
}

/// The clusters of a file.
struct Clusters {
    all: u64,
    /// Those that there is space for.
    reserved: u64,
}

impl Clusters {
    /// So many in use say that clusters were made in advance.
    fn too_many(&self) -> u64 {
        self.reserved + CLUSTERS_MIN.max(self.all / 10)
    }
}

impl Qcow2 {
    fn clusters_of_file(&self, io: Io<'_>) -> Option<Clusters> {
        let file = io.child(ChildKey::File)?;
        let reserved = file.node().driver().reserved_bytes()? / self.cluster.bytes();
        Some(Clusters { all: self.cluster.clusters(file.len()), reserved })
    }

    /// What block status says of data at `at` of the file, where that is not the file's business.
    pub(super) fn place_beside_holes(&self, io: Io<'_>, at: HostOffset) -> Option<Place> {
        if self.holes.get() == UNKNOWN {
            self.holes.set(match self.clusters_of_file(io) {
                None => IN_FILE,
                Some(clusters) if clusters.all < clusters.too_many() => IN_TABLES,
                Some(_) => TO_BE_COUNTED,
            });
        }
        match self.holes.get() {
            IN_TABLES => Some(Place::Stored { at }),
            TO_BE_COUNTED => Some(Place::Load),
            _ => None,
        }
    }

    /// Counts clusters if that was to be done. What cannot be counted is left to the file.
    pub(super) async fn count_for_status(&self, io: Io<'_>) -> bool {
        if self.holes.get() != TO_BE_COUNTED {
            return false;
        }
        let is_usual = match self.clusters_of_file(io) {
            None => false,
            Some(clusters) => self.has_fewer_in_use(io, &clusters).await.unwrap_or(false),
        };
        self.holes.set(if is_usual { IN_TABLES } else { IN_FILE });
        true
    }

    async fn has_fewer_in_use(&self, io: Io<'_>, clusters: &Clusters) -> Result<bool> {
        let enough = clusters.too_many();
        let used = if self.refs.table_len() > 0 {
            self.refs.used(io, clusters.all, enough).await?
        } else {
            // Who only reads has no counts.
            let header = self.header_now();
            let table = load_refcount_table(io.file()?, &header).await?;
            Refs::new(self.cluster, header.width(), table, 0).used(io, clusters.all, enough).await?
        };
        Ok(used < enough)
    }
}
