//! The compressed stream of one cluster out of its bytes.
//!
//! Invariants: a stream of deflate refers back 4 KiB at most (spec "Compressed Clusters Descriptor": `windowBits` 12); one
//! of zstd is a single frame. What does not become shorter than the cluster has no stream. States are made once and used
//! for cluster after cluster.

use std::fmt;

use zstd::zstd_safe::{CCtx, CParameter};

use super::Compression;
use super::deflate::Deflate;

/// How hard zstd tries: its own default.
const ZSTD_LEVEL: i32 = 3;

/// Compresses clusters, one after another; holds the tables that this needs (some hundred KiB).
pub struct Compressor(Inner);

enum Inner {
    Deflate(Box<Deflate>),
    Zstd(CCtx<'static>),
}

impl Compressor {
    /// A compressor for the clusters of an image.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self(match compression {
            Compression::Deflate => Inner::Deflate(Box::new(Deflate::new())),
            Compression::Zstd => {
                let mut context = CCtx::create();
                let set = context.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL));
                assert!(set.is_ok(), "zstd knows its own default level");
                Inner::Zstd(context)
            }
        })
    }

    /// Puts the stream of `cluster` at the start of `out`; its length, or `None` if it does not fit. Computes only; may take
    /// milliseconds.
    #[must_use]
    pub fn compress(&mut self, cluster: &[u8], out: &mut [u8]) -> Option<usize> {
        match &mut self.0 {
            Inner::Deflate(deflate) => deflate.compress(cluster, out),
            Inner::Zstd(context) => context.compress2(out, cluster).ok(),
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Inner::Deflate(_) => "Compressor(zlib)",
            Inner::Zstd(_) => "Compressor(zstd)",
        })
    }
}

#[cfg(test)]
mod tests {
    use drystone_base::rng::Rng;

    use super::super::Decompressor;
    use super::*;

    const BOTH: [Compression; 2] = [Compression::Deflate, Compression::Zstd];

    /// Half of it compresses.
    fn half_random(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Rng::new(seed).fill(&mut bytes[len / 2..]);
        bytes
    }

    #[test]
    fn what_was_compressed_comes_out_again() {
        for compression in BOTH {
            let (mut compressor, mut decompressor) =
                (Compressor::new(compression), Decompressor::new(compression));
            for (seed, len) in [512, 4096, 65536, 2 << 20].into_iter().enumerate() {
                let whole = half_random(len, seed as u64);
                let mut out = vec![0; len - 1];
                let stored = compressor.compress(&whole, &mut out).unwrap();
                assert!(stored < len * 3 / 4, "{compression:?}: {stored} of {len}");
                let mut cluster = vec![0xee; len];
                assert_eq!(decompressor.decompress(&out[..stored], &mut cluster), Ok(()));
                assert!(cluster == whole);
            }
        }
    }

    #[test]
    fn what_does_not_become_shorter_has_no_stream_and_does_not_spoil_the_next() {
        for compression in BOTH {
            let mut compressor = Compressor::new(compression);
            let mut noise = vec![0; 4096];
            Rng::new(5).fill(&mut noise);
            assert_eq!(compressor.compress(&noise, &mut [0; 4095]), None);
            assert!(compressor.compress(&[7; 4096], &mut [0; 4095]).unwrap() < 100);
        }
    }
}
