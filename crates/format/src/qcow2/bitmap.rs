//! Persistent bitmaps: the extension that points to their directory, and the directory.
//! ```text
//!  extension ──► directory: | table offset, entries, flags, granularity, name | ... |
//!                                 └──► bitmap table: | 0 or 1: all zeroes or ones, or a data cluster | ... |
//! ```
//! What an image says of its bitmaps, and back to bytes. Their bits are not looked at.
//!
//! Invariants: a directory is at most [`DIRECTORY_BYTES_MAX`] long; names are 1 to 1023 bytes and unique.
//! Not here: reading or writing the bits (the driver).

use std::collections::BTreeSet;

use drystone_base::{Be, BeMut, HostOffset};

use super::geometry::{ClusterBits, HOST_END};

/// Most bitmaps in an image (the limit that spec "Bitmaps extension" states).
pub const BITMAPS_MAX: u32 = 65535;
/// Longest name of a bitmap (the limit that spec "Bitmap directory" states).
pub const NAME_BYTES_MAX: u16 = 1023;
/// Longest directory: so many bitmaps with names of 1000 bytes (what release 10.0 of the C tool accepts).
pub const DIRECTORY_BYTES_MAX: u64 = BITMAPS_MAX as u64 * (ENTRY_BYTES as u64 + 1000);
/// Most entries of a bitmap table: 1 GiB of them.
pub const TABLE_ENTRIES_MAX: u32 = 1 << 27;

/// Spec "Bitmap directory": bytes of an entry before extra data and name.
const ENTRY_BYTES: usize = 24;
/// Spec "Bitmap directory": the bitmap was not stored completely.
const FLAG_IN_USE: u32 = 1;
/// Spec "Bitmap directory": the bitmap follows every write.
const FLAG_AUTO: u32 = 2;
/// Spec "Bitmap directory": flags that are defined.
const FLAGS_KNOWN: u32 = 7;
/// Spec "Bitmap directory": the bitmap tracks writes.
const TYPE_DIRTY: u8 = 1;
/// Spec "Bitmap table": bits 9-55 are an offset.
const TABLE_OFFSET: u64 = (HOST_END - 1) & !0x1ff;

/// Where the directory of bitmaps is (spec "Bitmaps extension").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapsExtension {
    /// How many bitmaps there are, at least 1.
    pub count: u32,
    /// Where the directory starts, the start of a cluster.
    pub directory: HostOffset,
    /// Its length in bytes, at least 1 and at most [`DIRECTORY_BYTES_MAX`].
    pub directory_len_bytes: u64,
}

/// A bitmap in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name as the image stores it.
    pub name: Vec<u8>,
    /// Where its table starts, the start of a cluster.
    pub table: HostOffset,
    /// Entries of its table, at most [`TABLE_ENTRIES_MAX`].
    pub table_entries: u32,
    /// It was not stored completely and cannot be trusted.
    pub in_use: bool,
    /// It follows every write to the disk.
    pub auto: bool,
    /// Bytes of the disk per bit, as a power of two: 9 to 31.
    pub granularity_bits: u8,
}

/// What is wrong with the bitmaps extension or directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    /// The extension has another length than its fields.
    #[error("the extension has the wrong length")]
    Length,
    /// There are no bitmaps or too many.
    #[error("{0} bitmaps, where 1 to {BITMAPS_MAX} are possible")]
    Count(u32),
    /// A reserved field is not zero.
    #[error("a reserved field is not zero")]
    Reserved,
    /// The directory is empty or too long.
    #[error("a directory of {0} bytes, where 1 to {DIRECTORY_BYTES_MAX} are possible")]
    DirectoryLength(u64),
    /// The directory does not start where a cluster starts.
    #[error("the directory offset {0:#x} is not valid")]
    DirectoryOffset(u64),
    /// The directory is longer or shorter than its entries.
    #[error("the directory does not hold exactly {0} bitmaps")]
    Directory(u32),
    /// An entry breaks a rule.
    #[error("bitmap {index}: {what}")]
    Entry {
        /// Its number in the directory, counted from 0.
        index: u32,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What an entry of a bitmap table says of its part of the bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableEntry {
    /// All bits are 0.
    Clear,
    /// All bits are 1.
    Set,
    /// They are in this cluster.
    Data(HostOffset),
}

impl BitmapsExtension {
    /// The data of the extension.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut data = Vec::with_capacity(24);
        BeMut(&mut data).u32(self.count).u32(0).u64(self.directory_len_bytes).u64(self.directory.get());
        data
    }

    /// Parses the data of the extension.
    ///
    /// # Errors
    /// [`BitmapError`].
    pub fn parse(data: &[u8], cluster: ClusterBits) -> Result<Self, BitmapError> {
        let mut be = Be(data);
        let fields = (be.u32(), be.u32(), be.u64(), be.u64());
        let (Ok(count), Ok(reserved), Ok(directory_len_bytes), Ok(directory)) = fields else {
            return Err(BitmapError::Length);
        };
        if !be.is_empty() {
            return Err(BitmapError::Length);
        }
        if count == 0 || count > BITMAPS_MAX {
            return Err(BitmapError::Count(count));
        }
        if reserved != 0 {
            return Err(BitmapError::Reserved);
        }
        if directory_len_bytes == 0 || directory_len_bytes > DIRECTORY_BYTES_MAX {
            return Err(BitmapError::DirectoryLength(directory_len_bytes));
        }
        match HostOffset::checked(directory) {
            Some(at) if cluster.is_aligned(at) && at.get() < HOST_END => {
                Ok(Self { count, directory: at, directory_len_bytes })
            }
            _ => Err(BitmapError::DirectoryOffset(directory)),
        }
    }

    /// Parses the directory, of which `bytes` is the whole.
    ///
    /// # Errors
    /// [`BitmapError`]; no allocation exceeds the length of `bytes` by more than a constant factor.
    pub fn parse_directory(&self, bytes: &[u8], cluster: ClusterBits) -> Result<Vec<Bitmap>, BitmapError> {
        let mut be = Be(bytes);
        let mut names = BTreeSet::new();
        let mut bitmaps = Vec::new();
        for index in 0..self.count {
            if be.is_empty() {
                return Err(BitmapError::Directory(self.count));
            }
            let bitmap = parse_entry(&mut be, cluster).map_err(|what| BitmapError::Entry { index, what })?;
            if !names.insert(bitmap.name.clone()) {
                return Err(BitmapError::Entry { index, what: "its name is that of another bitmap" });
            }
            bitmaps.push(bitmap);
        }
        if be.is_empty() { Ok(bitmaps) } else { Err(BitmapError::Directory(self.count)) }
    }
}

/// The bytes of a directory.
pub(super) fn encode_directory<'b>(bitmaps: impl IntoIterator<Item = &'b Bitmap>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for bitmap in bitmaps {
        let flags = if bitmap.in_use { FLAG_IN_USE } else { 0 } | if bitmap.auto { FLAG_AUTO } else { 0 };
        let name_len = u16::try_from(bitmap.name.len()).unwrap_or(u16::MAX); // at most NAME_BYTES_MAX
        BeMut(&mut bytes)
            .u64(bitmap.table.get())
            .u32(bitmap.table_entries)
            .u32(flags)
            .u8(TYPE_DIRTY)
            .u8(bitmap.granularity_bits)
            .u16(name_len)
            .u32(0)
            .bytes(&bitmap.name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// How long the entry of a bitmap with such a name is.
pub(super) fn entry_len_bytes(name_len: usize) -> u64 {
    (ENTRY_BYTES + name_len).next_multiple_of(8) as u64
}

fn parse_entry(be: &mut Be<'_>, cluster: ClusterBits) -> Result<Bitmap, &'static str> {
    const TRUNCATED: &str = "the directory ends inside of its entry";
    let mut fixed = Be(be.take(ENTRY_BYTES).map_err(|_| TRUNCATED)?);
    let fields = (fixed.u64(), fixed.u32(), fixed.u32(), fixed.u8(), fixed.u8(), fixed.u16(), fixed.u32());
    let (Ok(table), Ok(table_entries), Ok(flags), Ok(kind), Ok(granularity_bits), Ok(name_len), Ok(extra)) =
        fields
    else {
        return Err(TRUNCATED);
    };
    if extra != 0 {
        return Err("it has extra data, which this build does not know");
    }
    if name_len == 0 || name_len > NAME_BYTES_MAX {
        return Err("the length of its name is not 1 to 1023");
    }
    let name = be.take(usize::from(name_len)).map_err(|_| TRUNCATED)?;
    let padding = (ENTRY_BYTES + name.len()).next_multiple_of(8) - ENTRY_BYTES - name.len();
    be.take(padding).map_err(|_| TRUNCATED)?;
    if flags & !FLAGS_KNOWN != 0 || kind != TYPE_DIRTY || !(9..=31).contains(&granularity_bits) {
        return Err("its flags, type or granularity are not known");
    }
    let table = HostOffset::checked(table).filter(|&at| cluster.is_aligned(at) && at.get() < HOST_END);
    let table = table.ok_or("its table does not start where a cluster starts")?;
    if table.get() == 0 || table_entries == 0 || table_entries > TABLE_ENTRIES_MAX {
        return Err("its table has no place or an impossible length");
    }
    Ok(Bitmap {
        name: name.to_vec(),
        table,
        table_entries,
        in_use: flags & FLAG_IN_USE != 0,
        auto: flags & FLAG_AUTO != 0,
        granularity_bits,
    })
}

/// What an entry of a bitmap table says.
///
/// # Errors
/// The raw entry, if it breaks a rule of spec "Bitmap table".
pub(super) fn parse_table_entry(raw: u64, cluster: ClusterBits) -> Result<TableEntry, u64> {
    let at = HostOffset::new(raw & TABLE_OFFSET);
    let reserved = raw & !TABLE_OFFSET;
    match (at, reserved) {
        (HostOffset::ZERO, 0) => Ok(TableEntry::Clear),
        (HostOffset::ZERO, 1) => Ok(TableEntry::Set),
        (HostOffset::ZERO, _) | (_, 1..) => Err(raw),
        (at, 0) if cluster.is_aligned(at) => Ok(TableEntry::Data(at)),
        _ => Err(raw),
    }
}

impl TableEntry {
    /// As it is stored.
    pub(super) const fn raw(self) -> u64 {
        match self {
            Self::Clear => 0,
            Self::Set => 1,
            Self::Data(at) => at.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C12: ClusterBits = match ClusterBits::checked(12) {
        Some(bits) => bits,
        None => panic!(),
    };

    fn extension(count: u32, directory_len_bytes: u64) -> BitmapsExtension {
        BitmapsExtension { count, directory: HostOffset::new(0x19000), directory_len_bytes }
    }

    /// The directory of two bitmaps as release 10.0.2 of the C tool wrote it.
    const DIRECTORY: [u8; 64] =
        *b"\0\0\0\0\0\x01\x60\0\0\0\0\x01\0\0\0\x02\x01\x10\0\x03\0\0\0\0bm0\0\0\0\0\0\
        \0\0\0\0\0\x01\x80\0\0\0\0\x01\0\0\0\x02\x01\x09\0\x06\0\0\0\0second\0\0";

    #[test]
    fn a_directory_names_its_bitmaps() {
        let bitmaps = extension(2, 64).parse_directory(&DIRECTORY, C12).unwrap();
        let [first, second] = &bitmaps[..] else { panic!("{bitmaps:?}") };
        assert_eq!((&first.name[..], first.granularity_bits, first.table.get()), (&b"bm0"[..], 16, 0x16000));
        assert_eq!((&second.name[..], second.granularity_bits, second.auto), (&b"second"[..], 9, true));
        assert_eq!(encode_directory(&bitmaps), DIRECTORY);
        assert_eq!(entry_len_bytes(3) + entry_len_bytes(6), 64);
    }

    #[test]
    fn a_directory_holds_exactly_its_bitmaps() {
        assert_eq!(extension(1, 64).parse_directory(&DIRECTORY, C12), Err(BitmapError::Directory(1)));
        assert_eq!(extension(3, 64).parse_directory(&DIRECTORY, C12), Err(BitmapError::Directory(3)));
        for len in 0..DIRECTORY.len() {
            assert!(extension(2, len as u64).parse_directory(&DIRECTORY[..len], C12).is_err(), "{len}");
        }
        assert!(extension(BITMAPS_MAX, 64).parse_directory(&[], C12).is_err());
    }

    #[test]
    fn names_are_unique() {
        let twice = [&DIRECTORY[..32], &DIRECTORY[..32]].concat();
        let error = extension(2, 64).parse_directory(&twice, C12).unwrap_err();
        assert_eq!(error.to_string(), "bitmap 1: its name is that of another bitmap");
    }

    #[test]
    fn the_extension_is_checked_before_anything_is_read() {
        let data = |count: u32, reserved: u32, len: u64, at: u64| {
            let (count, reserved) = (count.to_be_bytes(), reserved.to_be_bytes());
            [&count[..], &reserved, &len.to_be_bytes(), &at.to_be_bytes()].concat()
        };
        let parse = |data: &[u8]| BitmapsExtension::parse(data, C12);
        assert_eq!(parse(&data(2, 0, 64, 0x19000)), Ok(extension(2, 64)));
        assert_eq!(parse(&data(0, 0, 64, 0x19000)), Err(BitmapError::Count(0)));
        assert_eq!(parse(&data(65536, 0, 64, 0x19000)), Err(BitmapError::Count(65536)));
        assert_eq!(parse(&data(2, 1, 64, 0x19000)), Err(BitmapError::Reserved));
        assert_eq!(parse(&data(2, 0, 0, 0x19000)), Err(BitmapError::DirectoryLength(0)));
        assert_eq!(parse(&data(2, 0, 1 << 40, 0x19000)), Err(BitmapError::DirectoryLength(1 << 40)));
        assert_eq!(parse(&data(2, 0, 64, 0x19001)), Err(BitmapError::DirectoryOffset(0x19001)));
        assert_eq!(parse(&data(2, 0, 64, u64::MAX)), Err(BitmapError::DirectoryOffset(u64::MAX)));
        assert_eq!(parse(&[0; 16]), Err(BitmapError::Length));
        assert_eq!(parse(&[0; 32]), Err(BitmapError::Length));
    }

    #[test]
    fn a_bitmap_table_entry_is_a_constant_or_a_cluster() {
        assert_eq!(parse_table_entry(0, C12), Ok(TableEntry::Clear));
        assert_eq!(parse_table_entry(1, C12), Ok(TableEntry::Set));
        assert_eq!(parse_table_entry(0x5000, C12), Ok(TableEntry::Data(HostOffset::new(0x5000))));
        assert_eq!(TableEntry::Data(HostOffset::new(0x5000)).raw(), 0x5000);
        for raw in [2, 0x5001, 0x5200, 0x5000 | 1 << 56, 1 << 63] {
            assert_eq!(parse_table_entry(raw, C12), Err(raw));
        }
    }
}
