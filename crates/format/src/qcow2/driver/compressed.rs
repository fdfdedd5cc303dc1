//! Writing compressed clusters.
//!
//! ```text
//!   cluster ──compress──► stream shorter than it ─► lock the guest cluster ─ reserve bytes ─ write ─ publish
//!                     └─► no shorter stream ──────► an ordinary write of the cluster
//! ```
//! Compression runs on the thread of the request and holds nothing; what the threads share is the search for room (`pack`). It
//! may be over before the write begins: then the streams come one by one, each in the place of its cluster.
//! What was there before is given back as by any other write, so a compressed write may replace anything.
//!
//! Not here: whether it is zeroes and needs no write at all, which is for whoever asks.

use std::sync::{Mutex, PoisonError};

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::{BufResult, WriteFlags};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::pack::Piece;
use super::write::join;
use crate::qcow2::compress::{Compression, Compressor};
use crate::qcow2::entry::{Compressed, L2Entry};

/// Idle presses that are kept.
const PRESSES_MAX: usize = 16;

/// What it takes to compress one cluster.
struct Press {
    compressor: Compressor,
    /// Where streams go; one byte shorter than a cluster.
    out: Buf,
}

/// Presses that are used again and again.
pub(super) struct Presses {
    compression: Compression,
    idle: Mutex<Vec<Press>>,
}

/// What became of a stream.
enum Stored {
    Done,
    /// It was the end of the disk, which has become longer: what is behind it may have been written meanwhile.
    NotWhole,
}

impl Presses {
    pub(super) fn new(compression: Compression) -> Self {
        Self { compression, idle: Mutex::default() }
    }

    fn take(&self, cluster_bytes: usize) -> Press {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Press {
            compressor: Compressor::new(self.compression),
            out: Buf::zeroed(cluster_bytes - 1),
        })
    }

    fn give_back(&self, press: Press) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < PRESSES_MAX {
            idle.push(press);
        }
    }
}

impl Qcow2 {
    /// Compresses the whole clusters at the start of `bytes`, in their places.
    pub(super) fn press_clusters(&self, at: GuestOffset, bytes: &mut [u8]) -> Vec<u32> {
        let cluster_bytes = self.cluster.buffer_len();
        if self.map.l2().has_data_file() || at.get() & (self.cluster.bytes() - 1) != 0 {
            return Vec::new();
        }
        let mut press = self.presses.take(cluster_bytes);
        let mut parts = Vec::with_capacity(bytes.len() / cluster_bytes);
        for cluster in bytes.chunks_exact_mut(cluster_bytes) {
            let out = press.out.as_mut_slice();
            let len = press.compressor.compress(cluster, out).unwrap_or(cluster_bytes);
            if let (Some(place), Some(stream)) = (cluster.get_mut(..len), out.get(..len)) {
                place.copy_from_slice(stream);
            }
            parts.push(u32::try_from(len).unwrap_or(u32::MAX));
        }
        self.presses.give_back(press);
        parts
    }

    /// The clusters of which [`Self::press_clusters`] made `parts`, in their places.
    pub(super) fn unpress_clusters(&self, parts: &[u32], bytes: &mut [u8]) -> Result<()> {
        let cluster_bytes = self.cluster.buffer_len();
        for (cluster, part) in bytes.chunks_exact_mut(cluster_bytes).zip(parts) {
            let stream = cluster.get(..to_len(*part)).filter(|stream| stream.len() < cluster_bytes);
            if let Some(stream) = stream.map(<[u8]>::to_vec) {
                self.decompressed.unpress(&stream, cluster)?;
            }
        }
        Ok(())
    }

    /// Writes whole clusters (the last one of the disk may be shorter), each compressed if that makes it shorter. The first
    /// ones may be so already: `parts` are what [`Self::press_clusters`] said of them.
    pub(super) async fn write_parts(
        &self,
        io: Io<'_>,
        at: GuestOffset,
        buf: Buf,
        parts: &[u32],
        flags: WriteFlags,
    ) -> BufResult {
        let prepared = match self.demand_clusters(io, at, buf.len() as u64) {
            Ok(()) => self.mark_for_writing(io).await,
            refused => refused,
        };
        if let Err(error) = prepared {
            return (Err(error), buf);
        }
        let (mut at, mut rest, mut done, mut result) = (at, buf, None, Ok(()));
        let mut parts = parts;
        while !rest.is_empty() && result.is_ok() {
            let (part, count) = self.next_part(parts);
            let behind = rest.split_off((count * self.cluster.buffer_len()).min(rest.len()));
            let plain = WriteFlags { compressed: false, ..flags };
            let (outcome, part) = match part {
                None => self.write_one(io, at, rest, flags).await,
                Some(len) if len < self.cluster.buffer_len() => {
                    self.write_stream(io, at, rest, len, flags).await
                }
                Some(_) => self.write_clusters(io, at, rest, plain).await,
            };
            parts = parts.get(count..).unwrap_or_default();
            at = at.plus(part.len() as u64);
            done = Some(join(done, part));
            rest = behind;
            result = outcome;
        }
        (result, join(done, rest))
    }

    /// What the next clusters are, and how many are written together.
    fn next_part(&self, parts: &[u32]) -> (Option<usize>, usize) {
        let cluster_bytes = self.cluster.buffer_len();
        let plain = parts.iter().take_while(|len| to_len(**len) == cluster_bytes).count();
        (parts.first().map(|len| to_len(*len)), plain.max(1))
    }

    /// Writes the stream of `len` bytes that is at the start of a cluster's bytes.
    async fn write_stream(
        &self,
        io: Io<'_>,
        at: GuestOffset,
        mut stream: Buf,
        len: usize,
        flags: WriteFlags,
    ) -> BufResult {
        let behind = stream.split_off(len);
        io.sim_point().await;
        let range = GuestRange::new(at, self.cluster.bytes());
        let (result, stream) = self.store_stream(io, range, stream, flags).await;
        let whole = join(Some(stream), behind);
        match result {
            Err(error) => (Err(self.step_back_for_space(io, error).await), whole),
            Ok(Stored::Done) => (Ok(()), whole),
            Ok(Stored::NotWhole) => unreachable!("a whole cluster cannot become longer"),
        }
    }

    fn demand_clusters(&self, io: Io<'_>, at: GuestOffset, len: u64) -> Result<()> {
        if self.map.l2().has_data_file() {
            return Err(Error::new(Kind::Unsupported, "an external data file cannot hold compressed data"));
        }
        let (mask, end) = (self.cluster.bytes() - 1, at.get() + len);
        if end > io.len() {
            let text = format!("the request ends past the end of the disk ({} bytes)", io.len());
            return Err(Error::new(Kind::OutOfRange, text));
        }
        if at.get() & mask == 0 && (end & mask == 0 || end == io.len()) {
            return Ok(());
        }
        let text = format!("a compressed write of {len} bytes at {at} is not one of whole clusters");
        Err(Error::new(Kind::InvalidInput, text))
    }

    /// Compresses one cluster and writes it.
    async fn write_one(&self, io: Io<'_>, at: GuestOffset, data: Buf, flags: WriteFlags) -> BufResult {
        let mut press = self.presses.take(self.cluster.buffer_len());
        let Some(len) = self.press(&mut press, data.as_slice()) else {
            self.presses.give_back(press);
            return self.write_clusters(io, at, data, WriteFlags { compressed: false, ..flags }).await;
        };
        let Press { compressor, mut out } = press;
        let room = out.split_off(len);
        io.sim_point().await;
        let range = GuestRange::new(at, data.len() as u64);
        let (result, stream) = self.store_stream(io, range, out, flags).await;
        let mut out = stream;
        // A device that went away keeps its buffer; the press is not used again then.
        if out.rejoin(room).is_ok() {
            self.presses.give_back(Press { compressor, out });
        }
        match result {
            Err(error) => (Err(self.step_back_for_space(io, error).await), data),
            Ok(Stored::Done) => (Ok(()), data),
            Ok(Stored::NotWhole) => {
                self.write_clusters(io, at, data, WriteFlags { compressed: false, ..flags }).await
            }
        }
    }

    /// Compresses a cluster; a shorter one is filled up with zeroes. The length of the stream, if it is shorter.
    fn press(&self, press: &mut Press, data: &[u8]) -> Option<usize> {
        let out = press.out.as_mut_slice();
        if data.len() == self.cluster.buffer_len() {
            return press.compressor.compress(data, out);
        }
        let mut whole = data.to_vec();
        whole.resize(self.cluster.buffer_len(), 0);
        press.compressor.compress(&whole, out)
    }

    /// Finds a place for a stream that holds `range`, writes it there and makes it visible.
    async fn store_stream(
        &self,
        io: Io<'_>,
        range: GuestRange,
        stream: Buf,
        flags: WriteFlags,
    ) -> (Result<Stored>, Buf) {
        let at = range.start();
        let cluster = GuestRange::new(at, self.cluster.bytes());
        let _cluster = self.in_flight.lock(io, cluster, "clusters").await;
        if range.end().get() < io.len().min(cluster.end().get()) {
            return (Ok(Stored::NotWhole), stream);
        }
        let len = stream.len() as u64;
        let piece = match self.prepare_piece(io, len).await {
            Ok(piece) => piece,
            Err(error) => return (Err(error), stream),
        };
        let flags = WriteFlags { fua: false, compressed: false, ..flags };
        let (written, stream) = match io.file() {
            Ok(file) => {
                file.event(Event::L2UpdateCompressed).await;
                file.event(Event::WriteCompressed).await;
                file.write(piece.at.in_child(), stream, flags).await
            }
            Err(error) => (Err(error), stream),
        };
        io.sim_point().await;
        let result = match written {
            Ok(()) => self.publish_piece(io, at, piece, len).await.map(|()| Stored::Done),
            Err(error) => Err(error),
        };
        if result.is_err() {
            // Nothing points there and nobody is writing there any more.
            self.give_back(io, piece.run).await;
        }
        (result, stream)
    }

    async fn prepare_piece(&self, io: Io<'_>, len: u64) -> Result<Piece> {
        self.reap_some(io).await?;
        self.store_if_full(io).await?;
        self.reserve_bytes(io, len).await
    }

    async fn publish_piece(&self, io: Io<'_>, at: GuestOffset, piece: Piece, len: u64) -> Result<()> {
        let stored = Compressed::checked(piece.at, len, self.cluster).ok_or_else(|| {
            Error::new(Kind::NoSpace, "the image has reached the largest size of its format")
        })?;
        self.replace_entries(io, at, &[L2Entry::Compressed(stored)]).await
    }
}

fn to_len(part: u32) -> usize {
    usize::try_from(part).unwrap_or(usize::MAX)
}
