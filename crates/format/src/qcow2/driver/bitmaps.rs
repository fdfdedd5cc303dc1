//! Persistent bitmaps of an open image.
//!
//! ```text
//!   open         directory and bits are read; those that are "in use" were not stored, and are inconsistent
//!   first write  every entry of the directory is marked "in use", in place, before anything else is written
//!   store        bits ─► tables ─► directory, all in new clusters ── flush ── header points there ─► old clusters are freed
//! ```
//! Invariant: a bitmap on disk that is not "in use" has every write to the image. A cut at any moment leaves the old directory
//! or the new one; marks that only some entries have got are no harm, for nothing was written yet.
//! Not here: what is dirty meanwhile ([`drystone_core::bitmap`]).

use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::{BeMut, Error, HostOffset, Kind, Result};
use drystone_core::bitmap::bits::Part;
use drystone_core::bitmap::stored::{StoredBitmap, StoredChange};
use drystone_core::bitmap::{Bits, Granularity};
use drystone_core::request::io::Io;

use super::open::load_words;
use super::passes::Cause;
use super::refs::Run;
use super::{Qcow2, write_bytes};
use crate::qcow2::bitmap::{
    BITMAPS_MAX, Bitmap, BitmapsExtension, DIRECTORY_BYTES_MAX, TableEntry, encode_directory,
    entry_len_bytes, parse_table_entry,
};
use crate::qcow2::geometry::{ClusterBits, ENTRY_BYTES};
use crate::qcow2::header::{Header, Version};

/// Most bytes of a stored bitmap (the limit of release 10.0 of the C tool).
const STORED_BYTES_MAX: u64 = 512 << 20;

/// Most bytes of stored bits that are loaded of an image, those apart that are all clear.
const LOADED_BYTES_MAX: u64 = 4 << 30;

/// A bitmap as the image has it, and where.
#[derive(Debug, Clone)]
struct Kept {
    /// As it is on disk, or "in use" there for all we know.
    entry: Bitmap,
    /// It was "in use" when it was loaded: there is nothing to store of it.
    is_broken: bool,
    /// Its table and its data.
    runs: Vec<Run>,
}

/// What was read of an image's bitmaps.
#[derive(Default)]
pub(super) struct LoadedBitmaps {
    kept: Vec<Kept>,
    directory: Option<Run>,
    bitmaps: Vec<StoredBitmap>,
}

/// What the image says of its bitmaps.
#[derive(Default)]
pub(super) struct Bitmaps(Mutex<Known>);

#[derive(Default)]
struct Known {
    kept: Vec<Kept>,
    directory: Option<Run>,
    /// Until they are taken.
    loaded: Vec<StoredBitmap>,
    /// Something is in memory that the image does not say.
    changed: bool,
}

impl Bitmaps {
    pub(super) fn new(loaded: LoadedBitmaps) -> Self {
        let bitmaps = Self::default();
        let loaded = bitmaps.install(loaded);
        bitmaps.known().loaded = loaded;
        bitmaps
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image was read again. These are its bitmaps.
    pub(super) fn install(&self, loaded: LoadedBitmaps) -> Vec<StoredBitmap> {
        let LoadedBitmaps { kept, directory, bitmaps } = loaded;
        *self.known() = Known { kept, directory, loaded: Vec::new(), changed: false };
        bitmaps
    }

    pub(super) fn take_loaded(&self) -> Vec<StoredBitmap> {
        std::mem::take(&mut self.known().loaded)
    }

    /// All clusters that they occupy.
    pub(super) fn runs(&self) -> Vec<Run> {
        let known = self.known();
        known.kept.iter().flat_map(|kept| &kept.runs).chain(&known.directory).copied().collect()
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidImage, text)
}

/// Reads the bitmaps of an image.
///
/// # Errors
/// [`Kind::InvalidImage`]; those of reading.
pub(super) async fn load_bitmaps(file: Io<'_>, header: &Header) -> Result<LoadedBitmaps> {
    let Some(extension) = header.extensions().bitmaps() else { return Ok(LoadedBitmaps::default()) };
    let cluster = header.cluster();
    let (at, len) = (extension.directory, extension.directory_len_bytes);
    if at.get().checked_add(len).is_none_or(|end| end > file.len()) {
        return Err(invalid("the directory of bitmaps lies past the end of the file"));
    }
    let buf = file.read_new(at.in_child(), usize::try_from(len).unwrap_or(usize::MAX)).await?;
    let entries = extension.parse_directory(buf.as_slice(), cluster);
    let entries = entries.map_err(|error| invalid("the directory of bitmaps is not valid").because(error))?;
    let directory = Run { first: cluster.host_cluster(at), count: cluster.clusters(len) };
    let mut loaded = LoadedBitmaps { directory: Some(directory), ..LoadedBitmaps::default() };
    let mut bytes_left = LOADED_BYTES_MAX;
    for entry in entries {
        let name = String::from_utf8(entry.name.clone())
            .map_err(|cause| invalid("the name of a bitmap is not UTF-8").because(cause))?;
        let one = load_one(file, header, (entry, name.clone()), &mut bytes_left).await;
        let (kept, bitmap) = one.map_err(|error| {
            Error::new(error.kind(), format!("cannot load bitmap '{name}'")).because(error)
        })?;
        loaded.kept.push(kept);
        loaded.bitmaps.push(bitmap);
    }
    Ok(loaded)
}

async fn load_one(
    file: Io<'_>,
    header: &Header,
    (entry, name): (Bitmap, String),
    bytes_left: &mut u64,
) -> Result<(Kept, StoredBitmap)> {
    let cluster = header.cluster();
    let granularity = Granularity::from_log2(entry.granularity_bits);
    let granularity = granularity.ok_or_else(|| invalid("its granularity is not known"))?;
    let mut bits = Bits::new(granularity, header.len_guest());
    let is_whole = u64::from(entry.table_entries) >= cluster.clusters(bits.stored_len());
    if !entry.in_use && !is_whole {
        return Err(invalid("its table is too short for the disk"));
    }
    if u64::from(entry.table_entries) * cluster.bytes() > STORED_BYTES_MAX.max(cluster.bytes()) {
        return Err(invalid("its table is longer than that of any bitmap"));
    }
    let table = load_words(file, entry.table, u64::from(entry.table_entries)).await?;
    let clusters = cluster.clusters(u64::from(entry.table_entries) * ENTRY_BYTES);
    let mut runs = vec![Run { first: cluster.host_cluster(entry.table), count: clusters }];
    for (number, raw) in (0_u64..).zip(table) {
        let part = parse_table_entry(raw, cluster);
        let part = part.map_err(|raw| invalid(format!("entry {raw:#x} of its table is not valid")))?;
        if let TableEntry::Data(at) = part {
            runs.push(Run { first: cluster.host_cluster(at), count: 1 });
        }
        if !entry.in_use && part != TableEntry::Clear {
            let left = bytes_left.checked_sub(cluster.bytes());
            *bytes_left =
                left.ok_or_else(|| Error::new(Kind::TooLarge, "all bitmaps together are larger than 4 GiB"))?;
            load_part(file, cluster, &mut bits, (number * cluster.bytes(), part)).await?;
        }
    }
    let (recording, inconsistent) = (entry.auto, entry.in_use);
    let bitmap = StoredBitmap { name, bits, recording, inconsistent };
    Ok((Kept { is_broken: entry.in_use, entry, runs }, bitmap))
}

async fn load_part(
    file: Io<'_>,
    cluster: ClusterBits,
    bits: &mut Bits,
    (first, part): (u64, TableEntry),
) -> Result<()> {
    match part {
        TableEntry::Clear => {}
        TableEntry::Set => bits.load_set(first, cluster.bytes()),
        TableEntry::Data(at) => {
            let len = cluster.bytes().min(bits.stored_len().saturating_sub(first));
            let data = super::load_table(file, at, usize::try_from(len).unwrap_or(0)).await?;
            bits.load(first, &data);
        }
    }
    Ok(())
}

/// Clusters that are being written and that nobody knows of yet.
#[derive(Default)]
struct Fresh(Vec<Run>);

impl Qcow2 {
    /// The bitmaps that are stored in the image.
    #[must_use]
    pub fn stored_bitmaps(&self) -> Vec<Bitmap> {
        self.bitmaps.known().kept.iter().map(|kept| kept.entry.clone()).collect()
    }

    /// Marks every bitmap as "in use", durably. With the structure lock held, before the first write.
    pub(super) async fn mark_bitmaps(&self, io: Io<'_>) -> Result<()> {
        let bytes = {
            let mut known = self.bitmaps.known();
            if known.kept.iter().all(|kept| kept.is_broken) {
                return Ok(());
            }
            // Before it is certain: it may be on disk whatever comes of it.
            known.kept.iter_mut().for_each(|kept| kept.entry.in_use = true);
            encode_directory(known.kept.iter().map(|kept| &kept.entry))
        };
        let Some(extension) = self.header_now().extensions().bitmaps() else { return Ok(()) };
        let file = io.file()?;
        write_bytes(file, extension.directory, &bytes).await?;
        file.flush().await
    }

    /// What a plan does to persistent bitmaps.
    pub(super) async fn prepare_bitmaps(&self, io: Io<'_>, changes: &[StoredChange]) -> Result<()> {
        for change in changes {
            match change {
                StoredChange::Add { name, granularity } => self.demand_room(io, name, *granularity)?,
                StoredChange::Remove { name } => self.remove_bitmap(io, name).await?,
                StoredChange::Change => {}
            }
            if io.node().is_read_only() {
                continue;
            }
            // What the image says is not true any more.
            self.mark_for_writing(io).await?;
            self.bitmaps.known().changed = true;
        }
        Ok(())
    }

    fn demand_room(&self, io: Io<'_>, name: &str, granularity: Granularity) -> Result<()> {
        let refused = |kind, text: &str| Err(Error::new(kind, text).in_option("persistent"));
        if self.version == Version::V2 {
            return refused(Kind::Unsupported, "images of version 2 do not store bitmaps");
        }
        if io.node().is_read_only() {
            return refused(Kind::ReadOnly, "the image is open for reading only");
        }
        let stored_len = granularity.bits_of(io.len()).div_ceil(8);
        if self.cluster.clusters(stored_len) * self.cluster.bytes() > STORED_BYTES_MAX {
            let text = "the granularity is too fine: a stored bitmap has 512 MiB at most";
            return refused(Kind::TooLarge, text);
        }
        self.demand_header_room()?;
        let names: Vec<usize> = io.node().bitmaps().persistent_names().iter().map(String::len).collect();
        let directory_len: u64 = names.iter().map(|len| entry_len_bytes(*len)).sum();
        let is_full = names.len() as u64 >= u64::from(BITMAPS_MAX);
        if is_full || directory_len + entry_len_bytes(name.len()) > DIRECTORY_BYTES_MAX {
            return refused(Kind::TooLarge, "the image has as many bitmaps as it can have");
        }
        Ok(())
    }

    async fn remove_bitmap(&self, io: Io<'_>, name: &str) -> Result<()> {
        let (kept, gone): (Vec<Kept>, Vec<Kept>) = {
            let known = self.bitmaps.known();
            known.kept.iter().cloned().partition(|kept| kept.entry.name != name.as_bytes())
        };
        if gone.is_empty() {
            return Ok(());
        }
        self.mark_for_writing(io).await?;
        let kept = kept.into_iter().map(|kept| Kept { entry: Bitmap { in_use: true, ..kept.entry }, ..kept });
        let mut fresh = Fresh::default();
        let result = self.switch_directory(io, kept.collect(), &mut fresh).await;
        self.settle_fresh(io, fresh, result).await
    }

    /// Stores all persistent bitmaps of the node, unless the image says the same already. Nobody else is inside.
    pub(super) async fn store_bitmaps(&self, io: Io<'_>) -> Result<()> {
        let is_needed = {
            let known = self.bitmaps.known();
            known.changed || known.kept.iter().any(|kept| kept.entry.in_use && !kept.is_broken)
        };
        if !is_needed || io.node().is_read_only() {
            return Ok(());
        }
        self.mark_for_writing(io).await?;
        let mut fresh = Fresh::default();
        let result = self.store_all_bitmaps(io, &mut fresh).await;
        self.settle_fresh(io, fresh, result).await?;
        self.bitmaps.known().changed = false;
        // The next write has to mark them again.
        self.condition.reset();
        Ok(())
    }

    async fn store_all_bitmaps(&self, io: Io<'_>, fresh: &mut Fresh) -> Result<()> {
        let mut kept = Vec::new();
        for bitmap in self.in_order(io.node().bitmaps().to_store()) {
            let known = {
                let known = self.bitmaps.known();
                known.kept.iter().find(|kept| kept.entry.name == bitmap.name.as_bytes()).cloned()
            };
            match known {
                // There is nothing to store of it: it stays as it is until it is removed.
                Some(known) if bitmap.inconsistent => kept.push(known),
                _ => kept.push(self.store_one(io, &bitmap, fresh).await?),
            }
        }
        self.switch_directory(io, kept, fresh).await
    }

    /// Those that the image has in the order in which it has them, then the others, the newest first: as the C tool does.
    fn in_order(&self, mut bitmaps: Vec<StoredBitmap>) -> Vec<StoredBitmap> {
        bitmaps.reverse();
        let known = self.bitmaps.known();
        let place = |bitmap: &StoredBitmap| {
            known.kept.iter().position(|kept| kept.entry.name == bitmap.name.as_bytes()).unwrap_or(usize::MAX)
        };
        bitmaps.sort_by_cached_key(place);
        bitmaps
    }

    /// Writes the bits and the table of a bitmap to new clusters.
    async fn store_one(&self, io: Io<'_>, bitmap: &StoredBitmap, fresh: &mut Fresh) -> Result<Kept> {
        let file = io.file()?;
        let (bits, cluster_bytes) = (&bitmap.bits, self.cluster.bytes());
        let entries = self.cluster.clusters(bits.stored_len()).max(1);
        let mut table = Vec::with_capacity(usize::try_from(entries * ENTRY_BYTES).unwrap_or(0));
        let mut runs = Vec::new();
        for number in 0..entries {
            let first = number * cluster_bytes;
            let part = match bits.stored_part(first, cluster_bytes) {
                Part::Clear => TableEntry::Clear,
                Part::Set => TableEntry::Set,
                Part::Mixed => {
                    let (run, at) = self.reserve_fresh(io, 1, fresh).await?;
                    let mut data = vec![0; self.cluster.buffer_len()];
                    bits.store(first, &mut data);
                    write_bytes(file, at, &data).await?;
                    runs.push(run);
                    TableEntry::Data(at)
                }
            };
            BeMut(&mut table).u64(part.raw());
        }
        let (run, at) = self.reserve_fresh(io, self.cluster.clusters(entries * ENTRY_BYTES), fresh).await?;
        write_bytes(file, at, &table).await?;
        runs.push(run);
        let entry = Bitmap {
            name: bitmap.name.clone().into_bytes(),
            table: at,
            table_entries: u32::try_from(entries).unwrap_or(u32::MAX), // STORED_BYTES_MAX bounds it
            in_use: false,
            auto: bitmap.recording,
            granularity_bits: bits.granularity().log2(),
        };
        Ok(Kept { entry, is_broken: false, runs })
    }

    async fn reserve_fresh(&self, io: Io<'_>, count: u64, fresh: &mut Fresh) -> Result<(Run, HostOffset)> {
        let run = self.reserve_exactly(io, count).await?;
        fresh.0.push(run);
        let at = self.cluster.host_start(run.first);
        Ok((run, at.ok_or_else(|| Error::new(Kind::NoSpace, "the image has reached its largest size"))?))
    }

    /// Writes a new directory and makes the header point there. What only the old one knew is freed.
    async fn switch_directory(&self, io: Io<'_>, kept: Vec<Kept>, fresh: &mut Fresh) -> Result<()> {
        let bytes = encode_directory(kept.iter().map(|kept| &kept.entry));
        let mut directory = None;
        let mut extension = None;
        if !kept.is_empty() {
            let len = bytes.len() as u64;
            let (run, at) = self.reserve_fresh(io, self.cluster.clusters(len), fresh).await?;
            write_bytes(io.file()?, at, &bytes).await?;
            directory = Some(run);
            let count = u32::try_from(kept.len()).unwrap_or(u32::MAX); // at most BITMAPS_MAX
            extension = Some(BitmapsExtension { count, directory: at, directory_len_bytes: len });
        }
        let _structure = self.lock_structure(io).await;
        self.store_locked(io).await?;
        self.point_to_bitmaps(io, extension).await?;
        let old = self.bitmaps.runs();
        {
            let mut known = self.bitmaps.known();
            (known.kept, known.directory) = (kept, directory);
        }
        for run in &fresh.0 {
            self.owned.add(*run)?;
        }
        fresh.0.clear();
        let new = self.bitmaps.runs();
        for run in old.into_iter().filter(|run| !new.contains(run)) {
            self.owned.remove(run);
            self.frees.unlink(run, Cause::Other);
        }
        Ok(())
    }

    /// New clusters that were not used in the end are given back, unless the header on disk may point there.
    async fn settle_fresh(&self, io: Io<'_>, fresh: Fresh, result: Result<()>) -> Result<()> {
        if self.header_is_uncertain() {
            // The header on disk may point to bitmaps that are not "in use": the next write makes that certain first.
            self.condition.reset();
        }
        for run in fresh.0 {
            if self.header_is_uncertain() {
                self.frees.unlink(run, Cause::Other);
            } else {
                self.give_back(io, run).await;
            }
        }
        result
    }

    /// Refuses a new length of the disk that a bitmap could not follow.
    pub(super) fn demand_bitmaps_can_resize(&self, io: Io<'_>) -> Result<()> {
        let inconsistent = io.node().bitmaps().inconsistent_name();
        match inconsistent {
            Some(name) => {
                let text = format!(
                    "bitmap '{name}' is inconsistent and cannot follow the new size; remove it first"
                );
                Err(Error::new(Kind::Unsupported, text).in_option("size"))
            }
            None => Ok(()),
        }
    }
}
