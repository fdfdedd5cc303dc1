//! Images in words: `c512 r64 v2 1M` is a version 2 image of 1 MiB with clusters of 512 bytes and counts of 64 bits.

use std::fmt;

use drystone_base::rng::Rng;
use drystone_format::qcow2::compress::Compression;
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::header::Version;
use drystone_testkit::disk::Image;
use drystone_testkit::notation::{len, show_len};

/// What a new image is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) len: u64,
    pub(crate) cluster_bytes: u64,
    pub(crate) version: Version,
    pub(crate) refcount_bits: u64,
    /// Subclusters.
    pub(crate) is_extended: bool,
    /// Data in a file of its own; which is a raw image.
    pub(crate) data_file: Option<bool>,
    pub(crate) compression: Compression,
    /// The header names a backing file.
    pub(crate) is_overlay: bool,
}

impl Kind {
    /// The length and any of `c` and the size of clusters, `r` and the width of counts, `v2`, `zstd`, `x` for subclusters,
    /// `data` or `rawdata` for data in a file of its own. Unless told: `c4K r16`.
    pub(crate) fn of(words: &str) -> Self {
        let mut kind = Self {
            len: 0,
            cluster_bytes: 4096,
            version: Version::V3,
            refcount_bits: 16,
            is_extended: false,
            data_file: None,
            compression: Compression::Deflate,
            is_overlay: false,
        };
        for word in words.split_whitespace() {
            match word.split_at(1) {
                ("d", "ata") => kind.data_file = Some(false),
                ("r", "awdata") => kind.data_file = Some(true),
                ("c", bytes) => kind.cluster_bytes = len(bytes),
                ("r", bits) => kind.refcount_bits = len(bits),
                ("x", "") => kind.is_extended = true,
                ("z", "std") => kind.compression = Compression::Zstd,
                ("v", "2") => kind.version = Version::V2,
                _ => kind.len = len(word),
            }
        }
        kind
    }

    /// One of many kinds, with 20 to 60 clusters.
    pub(crate) fn drawn(rng: &mut Rng) -> Self {
        let is_extended = rng.one_in(4);
        let cluster_bytes = if is_extended { 16384 } else { [512, 1024, 4096, 65536][rng.index(4)] };
        let version = if !is_extended && rng.one_in(4) { Version::V2 } else { Version::V3 };
        let compression = match version {
            Version::V3 if rng.one_in(2) => Compression::Zstd,
            _ => Compression::Deflate,
        };
        Self {
            len: cluster_bytes * (20 + rng.below(40)) - 512 * rng.below(2),
            cluster_bytes,
            version,
            refcount_bits: if version == Version::V2 { 16 } else { 1 << rng.below(7) },
            is_extended,
            data_file: rng.one_in(6).then(|| rng.one_in(2)).filter(|_| version == Version::V3),
            compression,
            is_overlay: false,
        }
    }

    /// The images that it consists of: that of the disk last.
    pub(crate) fn images(&self) -> Vec<Image> {
        let data = self.data_file.map(|_| Image::new(self.len.next_multiple_of(512)));
        data.into_iter().chain([self.image()]).collect()
    }

    fn image(&self) -> Image {
        let backing = self.is_overlay.then(|| b"base".to_vec());
        let options = CreateOptions {
            cluster_bytes: self.cluster_bytes,
            version: self.version,
            refcount_bits: self.refcount_bits,
            extended_l2: self.is_extended,
            data_file: self.data_file.map(|_| b"data".to_vec()),
            is_data_raw: self.data_file == Some(true) && !self.is_overlay,
            compression: self.compression,
            backing_format: backing.as_ref().map(|_| b"qcow2".to_vec()),
            backing_name: backing,
            ..CreateOptions::new(self.len)
        };
        let layout = options.layout().unwrap();
        let mut image = Image::new(layout.len_file);
        for (at, bytes) in &layout.pieces {
            image.write(at.get(), bytes);
        }
        image
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.version == Version::V2 { " v2" } else { "" };
        let extended = if self.is_extended { " x" } else { "" };
        let data = match self.data_file {
            None => "",
            Some(false) => " data",
            Some(true) => " rawdata",
        };
        let (cluster, len) = (show_len(self.cluster_bytes), show_len(self.len));
        write!(f, "c{cluster} r{}{version}{extended}{data} {len}", self.refcount_bits)
    }
}
