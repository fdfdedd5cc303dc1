//! Images of a script: what they are like, their bytes, and what is known of the ones that are there.

use std::fmt;

use drystone_base::{Error, GuestRange, HostOffset, Kind, Result};
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::entry::parse_l1;
use drystone_format::qcow2::header::Version;
use drystone_format::qcow2::refcount::parse_table_entry;
use drystone_played::image::header;
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::notation::show_len;
use drystone_testkit::pattern::identify;

use crate::step::Part;
use crate::words::{BadWord, Words, unknown};

/// The format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Just the bytes.
    Raw,
    /// qcow2.
    Qcow2(Qcow2Kind),
}

/// What a qcow2 image is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qcow2Kind {
    /// Bytes of a cluster.
    pub cluster_bytes: u64,
    /// Bits of a reference count.
    pub refcount_bits: u64,
    /// Version 2 of the format, not 3.
    pub is_v2: bool,
    /// Clusters have subclusters.
    pub is_extended: bool,
    /// Where the guest's data is.
    pub data: DataKind,
}

/// Where the guest's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    /// In the image.
    Inside,
    /// In a file of its own.
    Apart,
    /// In a file of its own that is a raw image of the disk at any time.
    Raw,
}

/// An image that is there when a run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// Its format.
    pub format: Format,
    /// Bytes of its disk.
    pub len: u64,
    /// The image behind it: an earlier one of the script.
    pub backing: Option<usize>,
    /// Decides what is in it. 0: nothing.
    pub fill: u64,
}

/// An image that is there.
#[derive(Debug, Clone)]
pub(crate) struct Sheet {
    /// Of the image and of its node.
    pub(crate) name: String,
    pub(crate) disk: SimDisk,
    pub(crate) format: Format,
    /// The image behind it when it was made.
    pub(crate) backing: Option<String>,
    /// The file with its data, if that is not in the image.
    pub(crate) data: Option<String>,
    /// Its metadata was damaged.
    pub(crate) is_damaged: bool,
}

impl Format {
    /// Whether the guest's data has a file of its own.
    pub(crate) fn has_data_file(self) -> bool {
        matches!(self, Self::Qcow2(kind) if kind.data != DataKind::Inside)
    }

    /// The name of its driver.
    pub(crate) const fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2(_) => "qcow2",
        }
    }

    pub(crate) fn parse(words: &mut Words<'_>) -> Result<Self, BadWord> {
        match words.word("a format")? {
            "raw" => Ok(Self::Raw),
            "qcow2" => Qcow2Kind::parse(words).map(Self::Qcow2),
            other => unknown("format", other),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => f.write_str("raw"),
            Self::Qcow2(kind) => write!(f, "qcow2 {kind}"),
        }
    }
}

impl Qcow2Kind {
    pub(crate) fn parse(words: &mut Words<'_>) -> Result<Self, BadWord> {
        words.expect("cluster")?;
        let cluster_bytes = words.len()?;
        words.expect("refcount")?;
        let refcount_bits = words.value("bits of a count")?;
        let (is_v2, is_extended) = (words.is_next("v2"), words.is_next("extended"));
        let data = match (words.is_next("data"), words.is_next("rawdata")) {
            (_, true) => DataKind::Raw,
            (true, false) => DataKind::Apart,
            (false, false) => DataKind::Inside,
        };
        Ok(Self { cluster_bytes, refcount_bits, is_v2, is_extended, data })
    }

    /// The file for the data of an empty image of a disk of `len` bytes, if it has one.
    pub(crate) fn data_image(self, len: u64) -> Option<Image> {
        (self.data != DataKind::Inside).then(|| Image::new(len))
    }

    /// An empty image of a disk of `len` bytes that names `backing`, with its format.
    pub(crate) fn image(self, len: u64, backing: Option<(&str, &str)>) -> Result<Image> {
        let version = if self.is_v2 { Version::V2 } else { Version::V3 };
        let options = CreateOptions {
            cluster_bytes: self.cluster_bytes,
            refcount_bits: self.refcount_bits,
            extended_l2: self.is_extended,
            version,
            // Who opens it is told which file that is.
            data_file: (self.data != DataKind::Inside).then(|| b"data".to_vec()),
            is_data_raw: self.data == DataKind::Raw,
            backing_name: backing.map(|(name, _)| name.as_bytes().to_vec()),
            backing_format: backing.map(|(_, format)| format.as_bytes().to_vec()),
            ..CreateOptions::new(len)
        };
        let layout = options
            .layout()
            .map_err(|cause| Error::new(Kind::InvalidInput, "such an image cannot be made").because(cause))?;
        let mut image = Image::new(layout.len_file);
        for (at, bytes) in &layout.pieces {
            image.write(at.get(), bytes);
        }
        Ok(image)
    }
}

impl fmt::Display for Qcow2Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {} refcount {}", show_len(self.cluster_bytes), self.refcount_bits)?;
        f.write_str(if self.is_v2 { " v2" } else { "" })?;
        f.write_str(if self.is_extended { " extended" } else { "" })?;
        f.write_str(match self.data {
            DataKind::Inside => "",
            DataKind::Apart => " data",
            DataKind::Raw => " rawdata",
        })
    }
}

impl ImageSpec {
    pub(crate) fn parse(words: &mut Words<'_>) -> Result<Self, BadWord> {
        let format = Format::parse(words)?;
        words.expect("len")?;
        let len = words.len()?;
        let backing = words.is_next("on").then(|| words.value("the number of an image")).transpose()?;
        let fill = if words.is_next("fill") { words.value("a seed")? } else { 0 };
        Ok(Self { format, len, backing, fill })
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} len {}", self.format, show_len(self.len))?;
        if let Some(backing) = self.backing {
            write!(f, " on {backing}")?;
        }
        if self.fill > 0 { write!(f, " fill {}", self.fill) } else { Ok(()) }
    }
}

/// Where a part of the metadata of a qcow2 image is; nowhere in a raw one.
pub(crate) fn tables(image: &Image, part: Part) -> Vec<GuestRange> {
    let Ok(header) = header(image) else { return Vec::new() };
    let cluster = header.cluster();
    let (l1, counts) = (header.l1(), header.refcounts());
    let l1 = (l1.at.get(), u64::from(l1.entries) * 8);
    let table = (counts.at.get(), u64::from(counts.clusters) * cluster.bytes());
    let behind = |table: (u64, u64), target: &dyn Fn(u64) -> Option<u64>| {
        let words = image.bytes(table.0..table.0 + table.1.min(TABLE_BYTES_MAX));
        let words = words.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word));
        words.filter_map(target).map(|at| (at, cluster.bytes())).collect()
    };
    let found: Vec<(u64, u64)> = match part {
        Part::Header => vec![(0, 512)],
        Part::L1 => vec![l1],
        Part::RefcountTable => vec![table],
        Part::L2 => behind(l1, &|word| parse_l1(word, cluster).ok().flatten().map(|table| table.at.get())),
        Part::Refcounts => {
            behind(table, &|word| parse_table_entry(word, cluster).ok().flatten().map(HostOffset::get))
        }
    };
    found.into_iter().filter_map(|(at, len)| GuestRange::checked(at, len)).collect()
}

/// More of a table is not looked at.
const TABLE_BYTES_MAX: u64 = 1 << 16;

/// Looks for data of guests where metadata is.
///
/// # Panics
/// If there is any.
pub(crate) fn demand_no_data_in_tables(name: &str, image: &Image) {
    for part in Part::ALL {
        for range in tables(image, part) {
            let bytes = image.bytes(range.start().get()..range.end().get());
            let data = bytes.chunks(512).find_map(identify);
            assert!(
                data.is_none(),
                "data of a guest ({data:?}) is in the {part:?} of image '{name}' at {range}"
            );
        }
    }
}
