//! The state of a machine: bytes that the image keeps beside its disk.
//!
//! ```text
//!   L1 table   | t0 | t1 | - | s0 | s1 | ...        as many entries as the disk needs, then those of the state
//!   guest offsets            ^ the end of what the tables of the disk can map: byte 0 of the state
//! ```
//! Spec "Snapshots": a snapshot's table maps the state behind the disk, and so does the active table while a state is
//! written. It is read and written like the disk, at such offsets; the L1 table grows first. Another length of the disk may
//! move byte 0: what was behind is not looked for any more, and never shows in the disk (`resize`).
//!
//! Not here: the list that says how long the state of a snapshot is (`snapshot`).

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::Preallocation;
use drystone_core::driver::{BufResult, Place, WriteFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::read::read_clamped;
use crate::qcow2::geometry::{ENTRY_BYTES, L1_BYTES_MAX};

impl Qcow2 {
    /// The guest offset of the state's first byte behind a disk of `len` bytes.
    pub(super) fn state_start(&self, len: u64) -> u64 {
        let l2 = self.map.l2();
        l2.l1_entries(len).saturating_mul(l2.span_bytes())
    }

    /// Where bytes of the state are in guest offsets; `None` past the largest one.
    fn state_range(&self, at: u64, len: usize) -> Option<GuestRange> {
        let start = self.state_start(self.header_now().len_guest()).checked_add(at)?;
        GuestRange::checked(start, len as u64)
    }

    /// Fills `out` from byte `at` of the state.
    pub(super) async fn load_state(&self, io: Io<'_>, at: u64, out: &mut [u8]) -> Result<()> {
        io.file()?.event(Event::VmstateLoad).await;
        out.fill(0);
        let Some(mut rest) = self.state_range(at, out.len()) else { return Ok(()) };
        let mut out = out;
        while !rest.is_empty() {
            let (len, bytes) = self.state_bytes(io, rest).await?;
            let (part, behind) = out.split_at_mut(usize::try_from(len).unwrap_or(usize::MAX).min(out.len()));
            if let Some(bytes) = bytes {
                part.copy_from_slice(bytes.as_slice());
            }
            out = behind;
            rest = rest.skip(len);
        }
        Ok(())
    }

    /// The first bytes of `range` that are in one place: how many, and what they are; `None` for zeroes.
    async fn state_bytes(&self, io: Io<'_>, range: GuestRange) -> Result<(u64, Option<Buf>)> {
        let at = range.start();
        let extent = loop {
            match self.place(range) {
                extent if extent.place == Place::Load => self.map.load(io, self.map.spot(at).slice).await?,
                extent => break extent,
            }
        };
        let range = range.take(extent.len);
        let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let bytes = match extent.place {
            Place::Child { at, .. } => {
                let file = self.data_file(io)?;
                file.event(Event::ReadAio).await;
                read_clamped(file, at.in_child(), len).await?
            }
            Place::Backing => match io.child(ChildKey::Backing) {
                Some(backing) => read_clamped(backing, at, len).await?,
                None => None,
            },
            Place::Ask => {
                let mut buf = Buf::zeroed(len);
                self.read_cluster(io, at, buf.as_mut_slice()).await?;
                Some(buf)
            }
            Place::Zero { .. } => None,
            Place::Load | Place::Stored { .. } | Place::Device { .. } => {
                unreachable!("a format answers a read with other places")
            }
        };
        Ok((range.len(), bytes))
    }

    /// Stores `buf` at byte `at` of the state. The disk keeps its length meanwhile.
    pub(super) async fn save_state(&self, io: Io<'_>, at: u64, buf: Buf) -> BufResult {
        let _resizing = self.resizing.lock(io, GuestRange::new(GuestOffset::ZERO, 1), "size").await;
        match self.reach_state(io, at, buf.len()).await {
            Ok(range) if range.is_empty() => (Ok(()), buf),
            Ok(range) => self.write_clusters(io, range.start(), buf, WriteFlags::default()).await,
            Err(error) => (Err(error), buf),
        }
    }

    /// Makes the tables, and a data file, large enough for `len` bytes of the state.
    async fn reach_state(&self, io: Io<'_>, at: u64, len: usize) -> Result<GuestRange> {
        let range = self.state_range(at, len).filter(|range| {
            self.map.l2().l1_entries(range.end().get()).saturating_mul(ENTRY_BYTES) <= L1_BYTES_MAX
        });
        let Some(range) = range else {
            let text = "the state of a machine needs a larger L1 table than the format allows";
            return Err(Error::new(Kind::TooLarge, text));
        };
        io.file()?.event(Event::VmstateSave).await;
        if range.is_empty() {
            return Ok(range);
        }
        self.mark_for_writing(io).await?;
        self.grow_l1(io, range.end().get()).await?;
        if self.map.l2().has_data_file() {
            let data = self.data_file(io)?;
            if data.len() < range.end().get() {
                data.resize(range.end().get(), Preallocation::Off).await?;
            }
        }
        Ok(range)
    }
}
