//! Internal snapshots made by hand, as the C tool makes them: without the driver that is tested with them.
//!
//! ```text
//!  header ── L1 ──┐                       copy of L1, table of snapshots: at the end of the file
//!  snapshot ─ L1' ┴─► L2 ─► data          every cluster below L1 is counted once more; no entry is writable in place
//! ```

use drystone_base::HostOffset;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::entry::{L2Entry, parse_l1};
use drystone_format::qcow2::geometry::HostCluster;
use drystone_format::qcow2::header::Version;
use drystone_testkit::disk::Image;

use super::chain::header;

const COPIED: u64 = 1 << 63;

struct Editor<'i> {
    header: Header,
    image: &'i mut Image,
}

/// Takes a snapshot of what the image holds.
pub(crate) fn take(image: &mut Image) {
    let header = header(image);
    assert_eq!(header.snapshots().count, 0, "one snapshot is enough for a test");
    let mut editor = Editor { header, image };
    editor.share_all();
    let l1 = editor.header.l1();
    let copy = editor.allocate(u64::from(l1.entries) * 8);
    let bytes = editor.image.bytes(l1.at.get()..l1.at.get() + u64::from(l1.entries) * 8);
    editor.image.write(copy, &bytes);
    let entry = editor.entry(copy);
    let table = editor.allocate(entry.len() as u64);
    editor.image.write(table, &entry);
    editor.image.write(60, &1_u32.to_be_bytes());
    editor.image.write(64, &table.to_be_bytes());
}

/// An image whose disk is what the first snapshot of `image` holds.
pub(crate) fn view(image: &Image) -> Image {
    let table = header(image).snapshots().at.get();
    let mut view = image.clone();
    view.write(36, &image.bytes(table + 8..table + 12));
    view.write(40, &image.bytes(table..table + 8));
    view
}

/// Gives the refcount table all the blocks that it can have, and every cluster a count of at least one.
pub(crate) fn count_everything(image: &mut Image) {
    let header = header(image);
    let cluster = header.cluster().bytes();
    let table = header.refcounts();
    let editor = Editor { header, image };
    for index in 0..u64::from(table.clusters) * cluster / 8 {
        let at = table.at.get() + index * 8;
        if editor.word(at) == 0 {
            let block = editor.image.len().next_multiple_of(cluster);
            editor.image.set_len(block + cluster);
            editor.image.write(at, &block.to_be_bytes());
        }
        let block = editor.word(at);
        let mut bytes = editor.image.bytes(block..block + cluster);
        let width = editor.header.width();
        for slot in 0..width.per_block(editor.header.cluster()) {
            let count = width.get(&bytes, slot).unwrap().max(1);
            width.set(&mut bytes, slot, count).unwrap();
        }
        editor.image.write(block, &bytes);
    }
    let clusters = table.clusters as usize
        * editor.header.cluster().entries()
        * editor.header.width().per_block(editor.header.cluster());
    editor.image.set_len(clusters as u64 * cluster);
}

impl Editor<'_> {
    fn word(&self, at: u64) -> u64 {
        u64::from_be_bytes(self.image.bytes(at..at + 8).try_into().unwrap())
    }

    /// Counts every table and cluster once more and takes their flags away.
    fn share_all(&mut self) {
        let cluster = self.header.cluster();
        for index in 0..u64::from(self.header.l1().entries) {
            let at = self.header.l1().at.get() + index * 8;
            let Some(l2) = parse_l1(self.word(at), cluster).unwrap() else { continue };
            self.image.write(at, &(self.word(at) & !COPIED).to_be_bytes());
            self.count(l2.at.get(), cluster.bytes());
            for slot in 0..self.header.l2().entries() as u64 {
                self.share(l2.at.plus(slot * self.header.l2().entry_bytes()));
            }
        }
    }

    fn share(&mut self, at: HostOffset) {
        let l2 = self.header.l2();
        let raw = l2.raws(&self.image.bytes(at.get()..at.get() + l2.entry_bytes())).next().unwrap();
        match L2Entry::parse(raw, l2).unwrap() {
            L2Entry::Compressed(stored) => self.count(stored.at.get(), u64::from(stored.stored_bytes)),
            entry => {
                let Some(place) = entry.place() else { return };
                self.image.write(at.get(), &(raw.descriptor & !COPIED).to_be_bytes());
                self.count(place.at.get(), self.header.cluster().bytes());
            }
        }
    }

    /// One more user of every cluster that the range touches.
    fn count(&mut self, at: u64, len: u64) {
        let cluster = self.header.cluster();
        for number in at / cluster.bytes()..(at + len).div_ceil(cluster.bytes()) {
            let place = self.header.width().place(cluster, HostCluster::new(number));
            let block = self.word(self.header.refcounts().at.get() + place.table_index * 8);
            assert_ne!(block, 0, "the image is too small for a snapshot made by hand");
            let mut bytes = self.image.bytes(block..block + cluster.bytes());
            let count = self.header.width().get(&bytes, place.block_index).unwrap();
            self.header.width().set(&mut bytes, place.block_index, count + 1).unwrap();
            self.image.write(block, &bytes);
        }
    }

    fn allocate(&mut self, len: u64) -> u64 {
        let cluster = self.header.cluster().bytes();
        let at = self.image.len().next_multiple_of(cluster);
        self.image.set_len(at + len.next_multiple_of(cluster));
        self.count(at, len);
        at
    }

    fn entry(&self, l1: u64) -> Vec<u8> {
        let extra = if self.header.version() == Version::V2 { 0 } else { 16_u32 };
        let mut entry = Vec::new();
        entry.extend(l1.to_be_bytes());
        entry.extend(self.header.l1().entries.to_be_bytes());
        entry.extend(1_u16.to_be_bytes());
        entry.extend(6_u16.to_be_bytes());
        entry.extend([0; 20]);
        entry.extend(extra.to_be_bytes());
        if extra > 0 {
            entry.extend(0_u64.to_be_bytes());
            entry.extend(self.header.len_guest().to_be_bytes());
        }
        entry.extend(b"1before");
        entry.resize(entry.len().next_multiple_of(8), 0);
        entry
    }
}
