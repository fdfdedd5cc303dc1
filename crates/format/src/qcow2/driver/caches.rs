//! How much memory an image takes for its tables, and for how long.
//!
//! | what is said | L2 tables | refcount blocks |
//! |---|---|---|
//! | nothing | 32 MiB | 256 KiB, or 4 blocks |
//! | the sum | all that the disk needs, less 4 blocks if need be | the rest |
//! | the sum and one of them | the other is the difference | |
//! | two of them | as said; never more than there is | as said |
//!
//! These are bounds: memory is taken as tables are read. Changed tables can exceed them for a moment. Whoever reads or writes
//! and looks at the clock anyway lets go of what nobody has looked at since the last time, an interval ago: no timer is
//! needed, and an image that nobody uses keeps what it has.
//!
//! Not here: which tables are in memory (`cache`, `refs`).

use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::{Error, Kind, Result};
use drystone_core::request::io::Io;

use super::Qcow2;
use crate::qcow2::header::Header;

/// Most bytes of L2 tables in memory unless somebody says otherwise: those of 256 GiB with the usual clusters.
const L2_BYTES: u64 = 32 << 20;
/// Most bytes of refcount blocks in memory unless somebody says otherwise.
const REFCOUNT_BYTES: u64 = 256 << 10;
/// Fewest refcount blocks in memory.
const BLOCKS_MIN: u64 = 4;
/// Most refcount blocks that can be asked for.
const BLOCKS_MAX: u64 = i32::MAX as u64;
/// What of an L2 table is read at once unless somebody says otherwise, in bytes.
const L2_ENTRY_BYTES: u64 = 4096;
/// The least that can be read at once, in bytes.
const L2_ENTRY_BYTES_MIN: u64 = 512;
/// How often tables leave that nobody looks at, unless somebody says otherwise, in seconds.
const CLEAN_INTERVAL_S: u64 = 600;

/// What is said of caches; what is not said is as in the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheOptions {
    /// `cache-size`: bytes of L2 tables and refcount blocks together.
    pub total_bytes: Option<u64>,
    /// `l2-cache-size`: bytes of L2 tables.
    pub l2_bytes: Option<u64>,
    /// `refcount-cache-size`: bytes of refcount blocks.
    pub refcount_bytes: Option<u64>,
    /// `l2-cache-entry-size`: bytes of an L2 table that are read at once; a power of two from 512 bytes to a cluster.
    /// Smaller pieces than 4 KiB (or a cluster) are read as if it were that.
    pub l2_entry_bytes: Option<u64>,
    /// `cache-clean-interval`: seconds after which tables leave that nobody looked at; 0 for never.
    pub clean_interval_s: Option<u64>,
}

/// What comes of it for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CacheSizes {
    pub(super) l2_bytes: u64,
    pub(super) refcount_bytes: u64,
    pub(super) l2_entry_bytes: u64,
    pub(super) clean_interval_ns: u64,
}

impl CacheOptions {
    /// Caches of at most so many bytes of each kind.
    #[must_use]
    pub const fn of_bytes(bytes: u64) -> Self {
        Self {
            total_bytes: None,
            l2_bytes: Some(bytes),
            refcount_bytes: Some(bytes),
            l2_entry_bytes: None,
            clean_interval_s: None,
        }
    }

    /// Whether it can be meant, for any image.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] naming the option.
    pub fn check(self) -> Result<()> {
        let (total, l2, refcounts) = (self.total_bytes, self.l2_bytes, self.refcount_bytes);
        if total.is_some() && l2.is_some() && refcounts.is_some() {
            let text = "it is the sum of l2-cache-size and refcount-cache-size: one of them is enough";
            return refuse("cache-size", text);
        }
        if total.zip(l2).is_some_and(|(total, l2)| l2 > total) {
            return refuse("cache-size", "l2-cache-size exceeds it");
        }
        if total.zip(refcounts).is_some_and(|(total, refcounts)| refcounts > total) {
            return refuse("cache-size", "refcount-cache-size exceeds it");
        }
        if self.clean_interval_s.is_some_and(|seconds| seconds > u64::from(u32::MAX)) {
            return refuse("cache-clean-interval", "it exceeds 4294967295 seconds");
        }
        self.check_entry(None)
    }

    fn check_entry(self, cluster_bytes: Option<u64>) -> Result<()> {
        let most = cluster_bytes.unwrap_or(u64::MAX);
        let is_possible =
            |bytes: u64| bytes.is_power_of_two() && (L2_ENTRY_BYTES_MIN..=most).contains(&bytes);
        match self.l2_entry_bytes {
            Some(bytes) if !is_possible(bytes) => {
                let text = "it is a power of two from 512 bytes to the length of a cluster";
                refuse("l2-cache-entry-size", text)
            }
            _ => Ok(()),
        }
    }

    /// What comes of it for the image with this header.
    pub(super) fn sizes(self, header: &Header) -> Result<CacheSizes> {
        self.check()?;
        let cluster_bytes = header.cluster().bytes();
        self.check_entry(Some(cluster_bytes))?;
        let needed = header.l2().l1_entries(header.len_guest()).saturating_mul(cluster_bytes);
        let blocks_min = BLOCKS_MIN * cluster_bytes;
        let (l2, refcounts) = match (self.total_bytes, self.l2_bytes, self.refcount_bytes) {
            (None, l2, refcounts) => {
                (l2.unwrap_or(L2_BYTES), refcounts.unwrap_or(REFCOUNT_BYTES.max(blocks_min)))
            }
            (Some(total), Some(l2), _) => (l2, total - l2),
            (Some(total), None, Some(refcounts)) => (total - refcounts, refcounts),
            (Some(total), None, None) => {
                let l2 = total.saturating_sub(blocks_min).min(needed);
                (l2, total - l2)
            }
        };
        if refcounts / cluster_bytes > BLOCKS_MAX {
            return refuse("refcount-cache-size", "it is too large");
        }
        Ok(CacheSizes {
            l2_bytes: l2,
            refcount_bytes: refcounts,
            l2_entry_bytes: self.l2_entry_bytes.unwrap_or(L2_ENTRY_BYTES).min(cluster_bytes),
            clean_interval_ns: self
                .clean_interval_s
                .unwrap_or(CLEAN_INTERVAL_S)
                .saturating_mul(1_000_000_000),
        })
    }
}

fn refuse<T>(option: &'static str, text: &str) -> Result<T> {
    Err(Error::new(Kind::InvalidInput, text).in_option(option))
}

/// When tables leave that nobody looks at.
pub(super) struct Cleaning {
    /// 0: never.
    interval_ns: AtomicU64,
    /// 0: nobody has looked at the clock yet.
    next_ns: AtomicU64,
}

impl Cleaning {
    pub(super) const fn every(interval_ns: u64) -> Self {
        Self { interval_ns: AtomicU64::new(interval_ns), next_ns: AtomicU64::new(0) }
    }

    pub(super) fn set_interval(&self, interval_ns: u64) {
        self.interval_ns.store(interval_ns, Ordering::Relaxed);
        self.next_ns.store(0, Ordering::Relaxed);
    }

    /// Whether the caller is to clean now: once in an interval.
    fn is_due(&self, now_ns: impl FnOnce() -> u64) -> bool {
        let interval = self.interval_ns.load(Ordering::Relaxed);
        if interval == 0 {
            return false;
        }
        let (now, next) = (now_ns(), self.next_ns.load(Ordering::Relaxed));
        if now < next {
            return false;
        }
        let after = now.saturating_add(interval);
        let moved = self.next_ns.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed);
        next != 0 && moved.is_ok()
    }
}

impl Qcow2 {
    /// Lets go of tables that nobody has looked at for an interval, if it is time.
    pub(super) fn clean_caches(&self, io: Io<'_>) {
        if self.cleaning.is_due(|| io.now_ns()) {
            self.map.slices.clean();
            self.refs.clean();
        }
    }

    /// Takes on other bounds.
    pub(super) fn set_caches(&self, sizes: CacheSizes) {
        self.map.set_cache(sizes.l2_bytes, sizes.l2_entry_bytes);
        self.refs.set_cache_bytes(sizes.refcount_bytes);
        self.cleaning.set_interval(sizes.clean_interval_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::create::CreateOptions;

    fn header(len_guest: u64) -> Header {
        let layout = CreateOptions::new(len_guest).layout().unwrap();
        let mut bytes = vec![0; 65536];
        for (at, piece) in layout.pieces.iter().filter(|(at, _)| at.get() < 65536) {
            let at = usize::try_from(at.get()).unwrap();
            bytes[at..at + piece.len()].copy_from_slice(piece);
        }
        Header::parse(&bytes).unwrap()
    }

    fn sizes(words: &str) -> std::result::Result<(u64, u64), Option<String>> {
        let mut options = CacheOptions::default();
        for (key, value) in words.split_whitespace().map(|word| word.split_once('=').unwrap()) {
            let value = Some(value.parse().unwrap());
            match key {
                "total" => options.total_bytes = value,
                "l2" => options.l2_bytes = value,
                "refcounts" => options.refcount_bytes = value,
                "entry" => options.l2_entry_bytes = value,
                _ => options.clean_interval_s = value,
            }
        }
        let sizes = options.sizes(&header(16 << 30)).map_err(|error| error.option().map(str::to_owned))?;
        Ok((sizes.l2_bytes, sizes.refcount_bytes))
    }

    #[test]
    fn two_of_three_sizes_say_the_third() {
        assert_eq!(sizes(""), Ok((32 << 20, 256 << 10)));
        assert_eq!(sizes("l2=5 refcounts=6"), Ok((5, 6)));
        assert_eq!(sizes("total=100 l2=40"), Ok((40, 60)));
        assert_eq!(sizes("total=100 refcounts=40"), Ok((60, 40)));
        // 16 GiB need 2 MiB of L2 tables.
        assert_eq!(sizes("total=10000000"), Ok((2 << 20, 10_000_000 - (2 << 20))));
        assert_eq!(sizes("total=1000000"), Ok((1_000_000 - (256 << 10), 256 << 10)));
        assert_eq!(sizes("total=1000"), Ok((0, 1000)));
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        let refused = |words: &str| sizes(words).unwrap_err().unwrap();
        assert_eq!(refused("total=3 l2=1 refcounts=2"), "cache-size");
        assert_eq!(refused("total=3 l2=4"), "cache-size");
        assert_eq!(refused("total=3 refcounts=4"), "cache-size");
        assert_eq!(refused("refcounts=1125899906842624"), "refcount-cache-size");
        assert_eq!(refused("interval=4294967296"), "cache-clean-interval");
        for entry in ["256", "3000", "131072"] {
            assert_eq!(refused(&format!("entry={entry}")), "l2-cache-entry-size");
        }
        assert!(sizes("entry=65536 interval=4294967295").is_ok());
    }

    #[test]
    fn one_caller_in_an_interval_cleans() {
        let cleaning = Cleaning::every(10);
        let due = |now: u64| cleaning.is_due(|| now);
        assert_eq!(
            [5, 14, 15, 15, 24, 25, 1000, 1001].map(due),
            [false, false, true, false, false, true, true, false]
        );
        cleaning.set_interval(0);
        assert!(!due(5000));
    }
}
