//! Compressed clusters, and parts of clusters that copy-on-write needs.

use std::sync::{Mutex, PoisonError};

use drystone_base::planted::{Mistake, is_planted};
use drystone_base::{Error, GuestOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::graph::node::ChildKey;
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::Qcow2;
use crate::qcow2::compress::{Compression, DecompressError, Decompressor};
use crate::qcow2::entry::{Compressed, L2Entry, Mixed, Part};

/// Idle decompressors that are kept.
const DECOMPRESSORS_MAX: usize = 16;

/// The compressed cluster that was read last: a guest reads it in pieces.
pub(super) struct Cache {
    compression: Compression,
    state: Mutex<State>,
    idle: Mutex<Vec<Decompressor>>,
}

#[derive(Default)]
struct State {
    /// Moves when clusters are freed: their place may hold something else soon.
    generation: u64,
    last: Option<(Compressed, Vec<u8>)>,
}

impl Cache {
    pub(super) fn new(compression: Compression) -> Self {
        Self { compression, state: Mutex::default(), idle: Mutex::default() }
    }

    /// Fills `cluster` from its stream.
    fn decompress(&self, stored: Compressed, stream: &[u8], cluster: &mut [u8]) -> Result<()> {
        self.fill(stream, cluster).map_err(|error| {
            Error::new(Kind::Io, format!("cannot decompress the cluster at {}", stored.at)).because(error)
        })
    }

    /// As [`Self::decompress`], of a stream that has not been stored.
    pub(super) fn unpress(&self, stream: &[u8], cluster: &mut [u8]) -> Result<()> {
        self.fill(stream, cluster)
            .map_err(|error| Error::new(Kind::Io, "what was compressed has changed").because(error))
    }

    fn fill(&self, stream: &[u8], cluster: &mut [u8]) -> Result<(), DecompressError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decompressor = idle.unwrap_or_else(|| Decompressor::new(self.compression));
        let result = decompressor.decompress(stream, cluster);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < DECOMPRESSORS_MAX {
            idle.push(decompressor);
        }
        result
    }

    /// Space was freed: what was decompressed from it must not be found again.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.generation += 1;
        state.last = None;
    }

    fn generation(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).generation
    }

    fn copy(&self, stored: Compressed, byte: usize, out: &mut [u8]) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, cluster)) = state.last.as_ref().filter(|(known, _)| *known == stored) else {
            return false;
        };
        copy_part(cluster, byte, out);
        true
    }

    fn remember(&self, generation: u64, stored: Compressed, cluster: Vec<u8>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.generation == generation {
            state.last = Some((stored, cluster));
        }
    }
}

fn copy_part(cluster: &[u8], byte: usize, out: &mut [u8]) {
    let Some(part) = cluster.get(byte..byte + out.len()) else {
        unreachable!("a part of a cluster lies inside of it");
    };
    out.copy_from_slice(part);
}

impl Qcow2 {
    /// The entry at `at`, loading its slice if it must.
    pub(super) async fn entry_at(&self, io: Io<'_>, at: GuestOffset) -> Result<L2Entry> {
        let spot = self.map.spot(at);
        if self.map.table(spot.slice)?.is_none() {
            return Ok(L2Entry::Unallocated);
        }
        let raw = self.map.entries(io, spot, 1).await?;
        self.map.parse(spot, raw.first().copied().unwrap_or_default())
    }

    /// Reads from one cluster that was compressed, or damaged, when it was located.
    pub(super) async fn read_cluster(&self, io: Io<'_>, at: GuestOffset, out: &mut [u8]) -> Result<()> {
        match self.entry_at(io, at).await? {
            L2Entry::Compressed(stored) => self.decompress(io, stored, self.map.spot(at).byte, out).await,
            // Written since it was looked up: any of both states is an answer to a read that ran beside the write.
            entry => {
                out.fill(0);
                if let Some(bytes) = self.old_bytes(io, at, entry, out.len()).await? {
                    out.copy_from_slice(bytes.as_slice());
                }
                Ok(())
            }
        }
    }

    async fn decompress(&self, io: Io<'_>, stored: Compressed, byte: u64, out: &mut [u8]) -> Result<()> {
        let byte = usize::try_from(byte).unwrap_or(usize::MAX);
        if self.decompressed.copy(stored, byte, out) {
            return Ok(());
        }
        let generation = self.decompressed.generation();
        let file = io.file()?;
        let left = file.len().saturating_sub(stored.at.get());
        let len = u64::from(stored.stored_bytes).min(left);
        file.event(Event::ReadCompressed).await;
        let bytes = file.read_new(stored.at.in_child(), usize::try_from(len).unwrap_or(0)).await?;
        if out.len() == self.cluster.buffer_len() {
            return self.decompressed.decompress(stored, bytes.as_slice(), out);
        }
        let mut cluster = vec![0; self.cluster.buffer_len()];
        self.decompressed.decompress(stored, bytes.as_slice(), &mut cluster)?;
        copy_part(&cluster, byte, out);
        self.decompressed.remember(generation, stored, cluster);
        Ok(())
    }

    /// `len` bytes of what a cluster with this entry showed at `at`, all in one cluster; `None` if they are zeroes.
    pub(super) async fn old_bytes(
        &self,
        io: Io<'_>,
        at: GuestOffset,
        entry: L2Entry,
        len: usize,
    ) -> Result<Option<Buf>> {
        let L2Entry::Mixed(mixed) = entry else { return self.old_bytes_of_one(io, at, entry, len).await };
        let mut whole: Option<Buf> = None;
        let mut done = 0;
        while done < len {
            let at = at.plus(done as u64);
            let (part, same) = self.run_at(at, mixed);
            let count = usize::try_from(same).unwrap_or(usize::MAX).min(len - done);
            let old = self.old_bytes_of_one(io, at, part, count).await?;
            if count == len {
                return Ok(old);
            }
            if let Some(old) = old {
                let whole = whole.get_or_insert_with(|| Buf::zeroed(len));
                if let Some(place) = whole.as_mut_slice().get_mut(done..done + count) {
                    place.copy_from_slice(old.as_slice());
                }
            }
            done += count;
        }
        Ok(whole)
    }

    /// The file that the guest's data is in.
    pub(super) fn data_file<'t>(&self, io: Io<'t>) -> Result<Io<'t>> {
        if !self.map.l2().has_data_file() {
            return io.file();
        }
        io.child(ChildKey::DataFile).ok_or_else(|| {
            Error::new(Kind::NotFound, "the node has no child 'data-file'").on_node(io.node().name())
        })
    }

    /// What the subcluster at `at` is, as a cluster of that kind, and for how many bytes.
    fn run_at(&self, at: GuestOffset, mixed: Mixed) -> (L2Entry, u64) {
        let (l2, byte) = (self.map.l2(), self.map.spot(at).byte);
        let index = u32::try_from(byte / l2.subcluster_bytes()).unwrap_or(0);
        let (part, count) = L2Entry::Mixed(mixed).run(index, l2);
        let entry = match (part, mixed.place) {
            (Part::Data, Some(place)) => L2Entry::Data(place),
            (Part::Zero, _) => L2Entry::Zero(None),
            _ => L2Entry::Unallocated,
        };
        (entry, u64::from(index + count) * l2.subcluster_bytes() - byte)
    }

    /// As [`Self::old_bytes`], of a cluster whose subclusters are all alike.
    async fn old_bytes_of_one(
        &self,
        io: Io<'_>,
        at: GuestOffset,
        entry: L2Entry,
        len: usize,
    ) -> Result<Option<Buf>> {
        if len == 0 {
            return Ok(None);
        }
        match entry {
            L2Entry::Zero(Some(kept)) if is_planted(Mistake::ZeroesResurrected) => {
                let byte = self.map.spot(at).byte;
                read_clamped(io.file()?, kept.at.plus(byte).in_child(), len).await
            }
            L2Entry::Zero(_) => Ok(None),
            L2Entry::Unallocated => match io.child(ChildKey::Backing) {
                None => Ok(None),
                Some(backing) => {
                    io.file()?.event(Event::CowRead).await;
                    read_clamped(backing, at, len).await
                }
            },
            L2Entry::Data(data) => {
                let byte = self.map.spot(at).byte;
                io.file()?.event(Event::CowRead).await;
                read_clamped(self.data_file(io)?, data.at.plus(byte).in_child(), len).await
            }
            L2Entry::Compressed(stored) => {
                let mut buf = Buf::zeroed(len);
                self.decompress(io, stored, self.map.spot(at).byte, buf.as_mut_slice()).await?;
                Ok(Some(buf))
            }
            L2Entry::Mixed(_) => unreachable!("a mixed cluster is read part by part"),
        }
    }
}

/// Reads `len` bytes, zeroes past the end of the child; `None` if nothing of it is inside.
pub(super) async fn read_clamped(child: Io<'_>, at: GuestOffset, len: usize) -> Result<Option<Buf>> {
    let Some(left) = child.len().checked_sub(at.get()).filter(|left| *left > 0) else { return Ok(None) };
    let inside = usize::try_from(left).unwrap_or(usize::MAX).min(len);
    let mut buf = Buf::zeroed(len);
    let tail = buf.split_off(inside);
    let (result, mut buf) = child.read(at, buf).await;
    result?;
    match buf.rejoin(tail) {
        Ok(()) => Ok(Some(buf)),
        Err(_) => Err(Error::new(Kind::Io, "a device returned another buffer")),
    }
}
