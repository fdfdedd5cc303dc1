//! Growing the disk. Shrinking is not supported.

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, LEN_MAX, Result};
use drystone_core::disk::Preallocation;
use drystone_core::driver::ZeroFlags;
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;

use super::refs::Run;
use super::{Qcow2, write_bytes};
use crate::qcow2::geometry::{ENTRY_BYTES, L1_BYTES_MAX};
use crate::qcow2::header::{HeaderChange, L1Table, Version};

impl Qcow2 {
    /// Makes the disk `len` bytes long; new bytes read as zeroes.
    pub(super) async fn grow(&self, io: Io<'_>, len: u64, preallocation: Preallocation) -> Result<()> {
        if preallocation != Preallocation::Off {
            return Err(Error::new(Kind::Unsupported, "preallocation of new clusters is not supported")
                .in_option("preallocation"));
        }
        let old_len = self.header().len_guest();
        if !len.is_multiple_of(512) {
            return Err(
                Error::new(Kind::InvalidInput, "the new size must be a multiple of 512").in_option("size")
            );
        }
        if len < old_len {
            return Err(Error::new(Kind::Unsupported, "shrinking is not supported").in_option("size"));
        }
        if len > LEN_MAX || self.cluster.l1_entries(len) * ENTRY_BYTES > L1_BYTES_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                "the new size needs a larger L1 table than the format allows",
            )
            .in_option("size"));
        }
        if self.version == Version::V2
            && io.child(ChildKey::Backing).is_some_and(|backing| backing.len() > old_len)
        {
            let text =
                "the backing file is longer than the disk and would show in the new part (version 2 image)";
            return Err(Error::new(Kind::Unsupported, text));
        }
        self.mark_for_writing(io).await?;
        self.zero_tail(io, old_len).await?;
        self.grow_l1(io, len).await?;
        self.zero_uncovered(io, old_len, len).await
    }

    /// What lies behind the end of the disk in its last cluster becomes visible: it must be zeroes.
    async fn zero_tail(&self, io: Io<'_>, old_len: u64) -> Result<()> {
        let end = old_len.next_multiple_of(self.cluster.bytes());
        if end == old_len {
            return Ok(());
        }
        use crate::qcow2::entry::L2Entry;
        let at = GuestOffset::new(old_len);
        if let L2Entry::Data(data) = self.entry_at(io, at).await? {
            if !data.copied {
                return Err(Error::new(Kind::Unsupported, "the last cluster is shared with a snapshot"));
            }
            let place = data.at.plus(self.map.spot(at).byte);
            let zeroes = vec![0; usize::try_from(end - old_len).unwrap_or(0)];
            write_bytes(io.file()?, place, &zeroes).await?;
        }
        Ok(())
    }

    async fn grow_l1(&self, io: Io<'_>, len: u64) -> Result<()> {
        let entries = usize::try_from(self.cluster.l1_entries(len)).unwrap_or(usize::MAX);
        if entries <= self.map.l1_len() {
            let _structure = self.lock_structure(io).await;
            return self
                .change_size(io, HeaderChange { len_guest: Some(len), ..HeaderChange::default() })
                .await;
        }
        let bytes_len = entries as u64 * ENTRY_BYTES;
        let clusters = self.cluster.clusters(bytes_len);
        let run = self.reserve_contiguous(io, clusters).await?;
        let result = self.move_l1(io, run, entries, len).await;
        if result.is_err() {
            let _ = self.refs.release(io, run).await;
        }
        result
    }

    /// Reserves exactly `clusters` consecutive clusters.
    async fn reserve_contiguous(&self, io: Io<'_>, clusters: u64) -> Result<Run> {
        let mut short: Vec<Run> = Vec::new();
        let found = loop {
            let run = match self.reserve(io, clusters).await {
                Ok(run) => run,
                Err(error) => break Err(error),
            };
            if run.count == clusters {
                break Ok(run);
            }
            // Too short, but perhaps the next one follows it directly.
            if let Some(last) = short.last_mut()
                && last.first.index() + last.count == run.first.index()
            {
                last.count += run.count;
                if last.count >= clusters {
                    break Ok(Run { first: last.first, count: clusters });
                }
                continue;
            }
            short.push(run);
        };
        for run in short {
            let (first, count) = match &found {
                Ok(taken) if taken.first == run.first => {
                    (run.first.index() + taken.count, run.count - taken.count)
                }
                _ => (run.first.index(), run.count),
            };
            if count > 0 {
                let first = crate::qcow2::geometry::HostCluster::new(first);
                self.refs.release(io, Run { first, count }).await?;
            }
        }
        found
    }

    async fn move_l1(&self, io: Io<'_>, run: Run, entries: usize, len: u64) -> Result<()> {
        // No table is made or moved meanwhile, so after storing the copy on disk is what memory says.
        let _tables = self.map.lock_all_tables(io).await;
        let _structure = self.lock_structure(io).await;
        self.store_locked(io).await?;
        let at = self.cluster.host_start(run.first).unwrap_or(HostOffset::ZERO);
        let bytes: Vec<u8> = self.map.l1_grown(entries).iter().flat_map(|raw| raw.to_be_bytes()).collect();
        write_bytes(io.file()?, at, &bytes).await?;
        let count = u32::try_from(entries)
            .map_err(|_| Error::new(Kind::TooLarge, "the L1 table exceeds the largest size of its format"))?;
        let old = self.header().l1();
        let l1 = Some(L1Table { at, entries: count });
        self.change_size(io, HeaderChange { len_guest: Some(len), l1, ..HeaderChange::default() }).await?;
        self.map.grow_l1(entries);
        self.fix_metadata();
        let old_clusters = self.cluster.clusters(u64::from(old.entries) * ENTRY_BYTES);
        if old_clusters > 0 {
            self.frees.unlink(self.clusters_of(old.at, old_clusters));
        }
        Ok(())
    }

    async fn change_size(&self, io: Io<'_>, change: HeaderChange) -> Result<()> {
        let header = self.header().changed(&change);
        let header = header
            .map_err(|error| Error::new(Kind::InvalidInput, "cannot change the size").because(error))?;
        self.write_header(io, header).await
    }

    /// A backing image that is longer than the old disk must not show in the new part.
    async fn zero_uncovered(&self, io: Io<'_>, old_len: u64, len: u64) -> Result<()> {
        let backing = io.child(ChildKey::Backing).map_or(0, |backing| backing.len());
        let start = old_len.next_multiple_of(self.cluster.bytes());
        let end = backing.min(len);
        match GuestRange::checked(start, end.saturating_sub(start)) {
            Some(range) if !range.is_empty() => {
                // The node's length changes when this is done, so the range is addressed below that check.
                self.zero_range(
                    io,
                    range.align_out(self.cluster.bytes()),
                    ZeroFlags { may_unmap: true, ..ZeroFlags::default() },
                )
                .await
            }
            _ => Ok(()),
        }
    }
}
