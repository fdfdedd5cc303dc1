//! Places for compressed clusters, which share clusters of the file.
//!
//! ```text
//!   cluster  |        c        |      c + 1      |        d        |
//!            | p0 | p1 |   p2  :  p2 |  p3 | ....| q0 |............|       .... : room, a bin of clusters in use
//!   count            3                 2                1
//! ```
//! A piece takes the smallest room that it fits into; else room that goes on into a free cluster behind it; else a new
//! cluster. Each piece counts once in every cluster that it touches.
//!
//! Invariants: a cluster with room has a count above zero: when the count falls to zero, or is about to (its space is given
//! back to the file), the room is forgotten under the same lock. Bytes of a piece are never given out again while its
//! cluster is in use. Not here: what is compressed, and whether it is worth it (`compressed`).

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::owned::Owned;
use super::refs::{Refs, Run, State, put};

/// Clusters with room that are remembered at most; the fullest one is forgotten first, but for the last one: the next piece
/// goes on behind it, however full it is.
const ROOMS_MAX: usize = 8;

/// The free end of a cluster that holds compressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// First free byte of the file, and the first behind its cluster.
    next: u64,
    end: u64,
}

impl Room {
    const fn len(self) -> u64 {
        self.end - self.next
    }
}

/// Where a piece is, and the clusters in which it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: HostOffset,
    pub(super) run: Run,
}

/// What a search for room has come to.
enum Packed {
    Found(Piece),
    /// This block must be in memory to go on.
    Load(usize),
    /// A new cluster is needed.
    Full,
}

impl Qcow2 {
    /// Takes `len` bytes, less than a cluster, that start anywhere; counted in the clusters that they touch.
    pub(super) async fn reserve_bytes(&self, io: Io<'_>, len: u64) -> Result<Piece> {
        io.file()?.event(Event::ClusterAllocBytes).await;
        loop {
            match self.refs.pack(&self.owned, len)? {
                Packed::Found(piece) => return Ok(piece),
                Packed::Load(index) => self.refs.load(io, index).await?,
                Packed::Full => {
                    let run = self.reserve(io, 1).await?;
                    return self.refs.open_room(run, len);
                }
            }
        }
    }
}

impl Refs {
    fn pack(&self, owned: &Owned, len: u64) -> Result<Packed> {
        let mut state = self.state();
        let mut fitting: Vec<usize> = (0..state.rooms.len()).collect();
        fitting.sort_by_key(|index| state.rooms.get(*index).map(|room| (room.len() < len, room.len())));
        for index in fitting {
            let Some(room) = state.rooms.get(index).copied() else { continue };
            match self.pack_into(&mut state, owned, room, len)? {
                Packed::Full => {}
                Packed::Found(piece) => {
                    let end = piece.at.get() + len;
                    state.rooms.remove(index);
                    let (_, behind) = piece.run.bounds();
                    state.remember_room(Room { next: end, end: behind << self.cluster.bits() });
                    return Ok(Packed::Found(piece));
                }
                load @ Packed::Load(_) => return Ok(load),
            }
        }
        Ok(Packed::Full)
    }

    /// Takes the piece out of `room`, or out of it and a free cluster behind it.
    fn pack_into(&self, state: &mut State, owned: &Owned, room: Room, len: u64) -> Result<Packed> {
        let first = room.next >> self.cluster.bits();
        let is_inside = room.len() >= len;
        let run = Run::between(first, first + if is_inside { 1 } else { 2 });
        let mut counts = [0; 2];
        for (number, count) in (first..run.bounds().1).zip(&mut counts) {
            let (index, slot) = self.slot(number);
            if self.block_at(state, index)?.is_none() {
                return Ok(Packed::Full);
            }
            let Some(block) = state.block(index) else { return Ok(Packed::Load(index)) };
            *count = self.width.get(&block.bytes, slot).unwrap_or(0);
        }
        let [here, behind] = counts;
        if here == 0 || here >= self.width.count_max() || (!is_inside && behind > 0) {
            return Ok(Packed::Full);
        }
        if !is_inside && !self.take_next(state, owned, first + 1)? {
            return Ok(Packed::Full);
        }
        self.count_again(state, first, here + 1);
        Ok(Packed::Found(Piece { at: HostOffset::new(room.next), run }))
    }

    fn count_again(&self, state: &mut State, cluster: u64, count: u64) {
        let (index, slot) = self.slot(cluster);
        let Some(block) = state.block(index) else { panic!("refcount block {index} was just looked at") };
        put(self.width, &mut block.bytes, slot, count);
        state.note_dirty(index);
    }

    /// The rest of a cluster that was just reserved, behind a piece of `len` bytes at its start.
    fn open_room(&self, run: Run, len: u64) -> Result<Piece> {
        let at = self.cluster.host_start(run.first).ok_or_else(|| {
            Error::new(Kind::NoSpace, "the image has reached the largest size of its format")
        })?;
        let end = at.get() + self.cluster.bytes();
        self.state().remember_room(Room { next: at.get() + len, end });
        Ok(Piece { at, run })
    }
}

impl State {
    fn remember_room(&mut self, room: Room) {
        if room.len() == 0 {
            return;
        }
        if self.rooms.len() >= ROOMS_MAX
            && let Some((fullest, _)) = self.rooms.iter().enumerate().min_by_key(|(_, room)| room.len())
        {
            self.rooms.remove(fullest);
        }
        self.rooms.push(room);
    }

    /// Nothing more goes into clusters `first .. end`, whose bits are `cluster_bits`.
    pub(super) fn forget_rooms(&mut self, (first, end): (u64, u64), cluster_bits: u32) {
        self.rooms.retain(|room| !(first..end).contains(&((room.end - 1) >> cluster_bits)));
    }
}
