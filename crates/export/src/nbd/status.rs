//! `BLOCK_STATUS`: how a range is allocated, as extents of the contexts that a client has selected.
//!
//! | context | value |
//! |---|---|
//! | `base:allocation` | `HOLE` (not stored anywhere) and `ZERO` (reads as zeroes), bits |
//! | `qemu:allocation-depth` | 0: in no layer; 1: in the node itself; n: in the layer n - 1 below it |
//! | `qemu:dirty-bitmap:NAME` | 1: dirty |
//!
//! Each look at the disk has a ticket of its own, so a long answer keeps no drain waiting. An answer may cover less than
//! was asked for: it ends where its room ends, after [`LOOKS_MAX`] looks, or where the disk fails after it has said
//! something. Two looks may see different states of a disk that is written meanwhile; each tells the truth of its moment.

use drystone_base::{Error, GuestOffset, GuestRange, Kind};
use drystone_buf::Buf;
use drystone_core::driver::Status;
use drystone_nbd::reply::HEAD_BYTES_MAX;
use drystone_nbd::wire::context::{STATE_HOLE, STATE_ZERO};
use drystone_nbd::{ContextSet, HeadBuf, Refusal, Request, StatusChunk};
use smallvec::SmallVec;

use super::export::About;
use super::load::Cost;
use super::outbox::Reply;
use super::peer::Sink;
use super::slot::{Slot, failed};

/// Most room for the extents of one context: 4096 or 8192 of them.
const EXTENTS_BYTES: usize = 64 << 10;
/// What the answer about all contexts of an export occupies at most.
pub(super) const BYTES_MAX: u64 = 2 * EXTENTS_BYTES as u64;
/// What contexts of bitmaps say of what is dirty.
const STATE_DIRTY: u32 = 1;
/// How often the disk is asked for one answer.
const LOOKS_MAX: u32 = 16 << 10;

/// What is known of one finished part of an answer.
struct Finished {
    head: HeadBuf,
    head_bytes: usize,
    extents_bytes: usize,
}

impl<S: Sink> Slot<'_, S> {
    pub(super) async fn block_status(
        &mut self,
        request: &Request,
        payload: Option<Buf>,
        cost: Cost,
    ) -> Result<(), Refusal> {
        let conn = self.conn;
        let payload = payload.as_ref().map_or(&[][..], Buf::as_slice);
        let (request, contexts) = conn.session.status_request(request, payload)?;
        let mut parts: SmallVec<[(u32, Buf); 2]> =
            contexts.iter().map(|context| (context, conn.pool.take(room_bytes(contexts)))).collect();
        let finished = self.fill(&request, &mut parts).await?;
        let mut left = finished.len();
        for ((_, mut extents), Finished { head, head_bytes, extents_bytes }) in
            parts.into_iter().zip(finished)
        {
            drop(extents.split_off(extents_bytes));
            left -= 1;
            // The request is over with its last part.
            let cost = if left == 0 { cost } else { Cost::NOTHING };
            conn.reply(Reply::new(Some(extents), cost, |out| {
                *out = head;
                head_bytes
            }));
        }
        Ok(())
    }

    /// Asks the disk and writes extents until no part wants more.
    async fn fill(
        &mut self,
        request: &Request,
        parts: &mut [(u32, Buf)],
    ) -> Result<SmallVec<[Finished; 2]>, Refusal> {
        let to = self.reply_to(request);
        let parts = parts.iter_mut();
        let mut chunks: SmallVec<[(u32, StatusChunk<'_>); 2]> = parts
            .map(|(context, room)| (*context, StatusChunk::new(to, request, room.as_mut_slice())))
            .collect();
        let whole = GuestRange::new(GuestOffset::new(request.offset_bytes), request.len_bytes);
        self.fill_from_bitmaps(request, whole, &mut chunks)?;
        self.fill_from_disk(request, whole, &mut chunks).await?;
        let mut left = chunks.len();
        let finish = |(context, chunk): (u32, StatusChunk<'_>)| {
            left -= 1;
            let mut head = [0; HEAD_BYTES_MAX];
            let (written, extents) = chunk.finish(context, left == 0, &mut head);
            let (head_bytes, extents_bytes) = (written.len(), extents.len());
            Finished { head, head_bytes, extents_bytes }
        };
        Ok(chunks.into_iter().map(finish).collect())
    }

    /// Bitmaps are in memory.
    fn fill_from_bitmaps(
        &self,
        request: &Request,
        whole: GuestRange,
        chunks: &mut [(u32, StatusChunk<'_>)],
    ) -> Result<(), Refusal> {
        for (context, chunk) in chunks {
            let About::Bitmap(bitmap) = self.conn.export.about(*context) else { continue };
            let mut rest = whole;
            while !rest.is_empty() {
                let (is_dirty, len) = bitmap.run(rest).map_err(|error| failed(&error, request))?;
                rest = rest.skip(len);
                if !chunk.push(len, if is_dirty { STATE_DIRTY } else { 0 }) {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn fill_from_disk(
        &mut self,
        request: &Request,
        whole: GuestRange,
        chunks: &mut [(u32, StatusChunk<'_>)],
    ) -> Result<(), Refusal> {
        let conn = self.conn;
        let is_of_disk = |context: u32| !matches!(conn.export.about(context), About::Bitmap(_));
        if !chunks.iter().any(|(context, _)| is_of_disk(*context)) {
            return Ok(());
        }
        let mut rest = whole;
        for look in 0..LOOKS_MAX {
            let status = match self.look(request, rest).await {
                Ok(status) => status,
                Err(refusal) if look == 0 => return Err(refusal),
                Err(_) => break,
            };
            rest = rest.skip(status.len);
            let mut is_wanted = false;
            for (context, chunk) in chunks.iter_mut().filter(|(context, _)| is_of_disk(*context)) {
                is_wanted |= chunk.push(status.len, value(&conn.export.about(*context), &status));
            }
            if !is_wanted {
                break;
            }
        }
        Ok(())
    }

    async fn look(&mut self, request: &Request, range: GuestRange) -> Result<Status, Refusal> {
        let conn = self.conn;
        let mut ticket = self.enter(&conn.export.reader).await?;
        let status = ticket.status(range, u32::MAX).await.map_err(|error| failed(&error, request))?;
        if status.len == 0 {
            let error = Error::new(Kind::Io, "the disk has become shorter");
            return Err(failed(&error, request));
        }
        Ok(status)
    }
}

/// The room for one of several contexts; all together have [`BYTES_MAX`].
fn room_bytes(contexts: ContextSet) -> usize {
    let total = usize::try_from(BYTES_MAX).unwrap_or(usize::MAX);
    total.div_euclid(contexts.iter().count().max(1)).min(EXTENTS_BYTES) & !15
}

/// What a context of the disk says.
fn value(about: &About<'_>, status: &Status) -> u32 {
    if matches!(about, About::Depth) {
        return if status.allocated { status.depth.saturating_add(1) } else { 0 };
    }
    let hole = if status.data { 0 } else { STATE_HOLE };
    let zero = if status.zero { STATE_ZERO } else { 0 };
    hole | zero
}
