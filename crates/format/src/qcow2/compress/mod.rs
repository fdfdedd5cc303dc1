//! Compressed clusters: the bytes of one cluster out of its compressed stream, and the stream out of the bytes.
//! ```text
//!  file:   ... | sector | sector | sector | ...          the stream starts anywhere in the first sector and ends
//!                   [== stream ==|....                   anywhere in the last; what follows it is not looked at
//! ```
//! Invariants: the output is exactly one cluster, of which every byte was written, or an error; memory does not depend
//! on what the stream claims. A stream that goes on after a whole cluster is not an error: spec "Compressed Clusters
//! Descriptor" stops there.
//! Not here: reading the stored bytes (at most [`super::entry::Compressed::stored_bytes`], fewer at the end of a file).

mod compressor;
mod deflate;

use std::fmt;

pub use compressor::Compressor;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{self, DCtx};

/// How compressed clusters are compressed (spec "Header": `compression_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Deflate without a zlib header.
    Deflate,
    /// Zstandard frames.
    Zstd,
}

impl Compression {
    /// The type with the name that the option `compression_type` and `info` use.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "zlib" => Some(Self::Deflate),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name that the option `compression_type` and `info` use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deflate => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

/// Why a compressed cluster cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The stream, or the bytes that hold it, end before the cluster is full.
    #[error("the compressed data ends after {0} bytes of the cluster")]
    Short(usize),
    /// The stream breaks the rules of its format.
    #[error("the compressed data is damaged")]
    Damaged,
}

/// Decompresses clusters, one after another; holds the tables that the format needs (some ten KiB).
pub struct Decompressor(Inner);

enum Inner {
    Deflate(Box<Decompress>),
    Zstd(DCtx<'static>),
}

impl Decompressor {
    /// A decompressor for the clusters of an image.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self(match compression {
            // The stream's window is at most 4 KiB, but larger ones are read as well.
            Compression::Deflate => Inner::Deflate(Box::new(Decompress::new(false))),
            Compression::Zstd => Inner::Zstd(DCtx::create()),
        })
    }

    /// Fills `cluster` from the stream at the start of `stored`. Computes only; may take milliseconds.
    ///
    /// # Errors
    /// [`DecompressError`]; what is in `cluster` then means nothing.
    pub fn decompress(&mut self, stored: &[u8], cluster: &mut [u8]) -> Result<(), DecompressError> {
        match &mut self.0 {
            Inner::Deflate(inflate) => decompress_deflate(inflate, stored, cluster),
            Inner::Zstd(context) => decompress_zstd(context, stored, cluster),
        }
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Inner::Deflate(_) => "Decompressor(zlib)",
            Inner::Zstd(_) => "Decompressor(zstd)",
        })
    }
}

fn decompress_deflate(
    inflate: &mut Decompress,
    stored: &[u8],
    cluster: &mut [u8],
) -> Result<(), DecompressError> {
    inflate.reset(false);
    let status = inflate.decompress(stored, cluster, FlushDecompress::Finish);
    let filled = usize::try_from(inflate.total_out()).unwrap_or(usize::MAX);
    match status {
        Err(_) | Ok(Status::StreamEnd | Status::Ok | Status::BufError) if filled >= cluster.len() => Ok(()),
        Err(_) => Err(DecompressError::Damaged),
        Ok(_) => Err(DecompressError::Short(filled)),
    }
}

/// Frame by frame, each straight into the cluster: the window that a frame asks for is never allocated.
fn decompress_zstd(context: &mut DCtx<'_>, stored: &[u8], cluster: &mut [u8]) -> Result<(), DecompressError> {
    let mut filled = 0;
    let mut rest = stored;
    while let Some(room) = cluster.get_mut(filled..).filter(|room| !room.is_empty()) {
        let len = match zstd_safe::find_frame_compressed_size(rest) {
            Ok(len) => len,
            Err(_) if rest.len() < 4 || filled > 0 => return Err(DecompressError::Short(filled)),
            Err(_) => return Err(DecompressError::Damaged),
        };
        let (frame, behind) = rest.split_at_checked(len).ok_or(DecompressError::Damaged)?;
        filled += context.decompress(room, frame).map_err(|_| DecompressError::Damaged)?;
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::DeflateEncoder;

    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        let mut rng = drystone_base::rng::Rng::new(1);
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes[..len / 2]);
        bytes
    }

    fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        match compression {
            Compression::Deflate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::bulk::compress(bytes, 3).unwrap(),
        }
    }

    const BOTH: [Compression; 2] = [Compression::Deflate, Compression::Zstd];

    #[test]
    fn a_cluster_comes_out_whatever_follows_its_stream() {
        for compression in BOTH {
            let mut decompressor = Decompressor::new(compression);
            for len in [512, 65536, 2 << 20] {
                let whole = pattern(len);
                for tail in [&b""[..], &[0; 100], &[0xff; 511]] {
                    let stored = [&compress(compression, &whole), tail].concat();
                    let mut cluster = vec![0xee; len];
                    assert_eq!(
                        decompressor.decompress(&stored, &mut cluster),
                        Ok(()),
                        "{compression:?} {len}"
                    );
                    assert!(cluster == whole);
                }
            }
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error_at_every_length() {
        for compression in BOTH {
            let stored = compress(compression, &pattern(4096));
            let mut decompressor = Decompressor::new(compression);
            for len in 0..stored.len() - 8 {
                let result = decompressor.decompress(&stored[..len], &mut [0; 4096]);
                assert!(result.is_err(), "{compression:?} {len}");
            }
        }
    }

    #[test]
    fn a_stream_of_less_than_a_cluster_is_short() {
        for compression in BOTH {
            let stored = compress(compression, &pattern(4096));
            let mut decompressor = Decompressor::new(compression);
            assert_eq!(decompressor.decompress(&stored, &mut [0; 8192]), Err(DecompressError::Short(4096)));
            let padded = [&stored[..], &[0; 512]].concat();
            assert!(decompressor.decompress(&padded, &mut [0; 8192]).is_err());
        }
    }

    #[test]
    fn garbage_is_an_error_and_does_not_spoil_the_next_cluster() {
        for compression in BOTH {
            let mut decompressor = Decompressor::new(compression);
            let mut cluster = [0; 4096];
            for seed in 0..200 {
                let mut garbage = [0; 700];
                drystone_base::rng::Rng::new(seed).fill(&mut garbage);
                assert!(decompressor.decompress(&garbage, &mut cluster).is_err(), "{compression:?} {seed}");
            }
            let whole = pattern(4096);
            assert_eq!(decompressor.decompress(&compress(compression, &whole), &mut cluster), Ok(()));
            assert!(cluster[..] == whole[..]);
        }
    }

    #[test]
    fn several_zstd_frames_may_make_one_cluster() {
        let whole = pattern(4096);
        let frames =
            whole.chunks(1000).map(|part| compress(Compression::Zstd, part)).collect::<Vec<_>>().concat();
        let mut cluster = [0; 4096];
        assert_eq!(Decompressor::new(Compression::Zstd).decompress(&frames, &mut cluster), Ok(()));
        assert!(cluster[..] == whole[..]);
    }
}
