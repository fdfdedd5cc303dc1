//! Every stream is read back by another implementation, with a window of 4 KiB.

use drystone_base::rng::Rng;
use flate2::{Decompress, FlushDecompress, Status};

use super::*;

/// The length of the stream of `input`, which gives `input` back.
#[track_caller]
fn there_and_back(deflate: &mut Deflate, input: &[u8]) -> usize {
    let mut out = vec![0xee; input.len() * 2 + 100];
    let len = deflate.compress(input, &mut out).expect("there is room for any stream");
    let mut back = vec![0; input.len()];
    let mut inflate = Decompress::new_with_window_bits(false, 12);
    let status = inflate.decompress(&out[..len], &mut back, FlushDecompress::Finish).unwrap();
    assert!(matches!(status, Status::StreamEnd) || input.is_empty(), "{status:?}");
    assert_eq!(inflate.total_in(), len as u64, "nothing follows the stream");
    assert!(back == input);
    len
}

#[test]
fn short_inputs_come_back() {
    let mut deflate = Deflate::new();
    for len in 0..300 {
        there_and_back(&mut deflate, &vec![7; len]);
        there_and_back(&mut deflate, &(0..len).map(|n| n as u8).collect::<Vec<_>>());
        there_and_back(&mut deflate, &(0..len).map(|n| (n % 3) as u8).collect::<Vec<_>>());
    }
}

#[test]
fn every_distance_and_length_comes_back() {
    let mut deflate = Deflate::new();
    let mut noise = vec![0; 9000];
    Rng::new(3).fill(&mut noise);
    for distance in (1..4200).step_by(13).chain(4090..4100) {
        for len in [3, 4, 10, 257, 258, 259, 700] {
            let mut input = noise[..distance + 20].to_vec();
            for _ in 0..len {
                input.push(input[input.len() - distance]);
            }
            input.extend_from_slice(&noise[5000..5100]);
            there_and_back(&mut deflate, &input);
        }
    }
}

/// Pieces of noise of few or many kinds of bytes, runs, and repetitions from near and far.
fn patchwork(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let part = 1 + rng.index(3000);
        match rng.below(4) {
            0 => bytes.resize(bytes.len() + part, rng.below(256) as u8),
            1 => {
                let kinds = 1 << rng.below(9);
                bytes.extend((0..part).map(|_| rng.below(kinds) as u8));
            }
            2 if !bytes.is_empty() => {
                let distance = 1 + rng.index(bytes.len().min(6000));
                for _ in 0..part {
                    bytes.push(bytes[bytes.len() - distance]);
                }
            }
            _ => bytes.extend(b"a few words, over and over again. ".iter().cycle().take(part)),
        }
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn whole_clusters_come_back_and_are_not_larger_than_elsewhere() {
    let mut deflate = Deflate::new();
    let (mut ours, mut theirs) = (0, 0);
    for seed in 0..60 {
        let len = [512, 4096, 65536, 65536, 300_000][seed as usize % 5];
        let input = patchwork(seed, len);
        ours += there_and_back(&mut deflate, &input);
        let mut other = flate2::Compress::new_with_window_bits(flate2::Compression::new(6), false, 12);
        let mut out = vec![0; len * 2 + 100];
        other.compress(&input, &mut out, flate2::FlushCompress::Finish).unwrap();
        theirs += other.total_out() as usize;
    }
    assert!(ours <= theirs, "{ours} bytes, {theirs} by zlib-rs");
}

#[test]
fn codes_that_would_be_too_long_are_cut() {
    // Counts like the numbers of Fibonacci make the deepest trees.
    let mut deflate = Deflate::new();
    let (mut input, mut count, mut before) = (Vec::new(), 1, 1);
    for byte in 0..22_u8 {
        // No four bytes in a row occur twice near each other.
        input.extend((0..count).map(|_| byte));
        (before, count) = (count, before + count);
    }
    let mut rng = Rng::new(1);
    for n in (1..input.len()).rev() {
        input.swap(n, rng.index(n + 1));
    }
    there_and_back(&mut deflate, &input);
}

#[test]
fn a_stream_that_does_not_fit_is_none_at_every_length() {
    let mut deflate = Deflate::new();
    let input = patchwork(7, 4096);
    let len = there_and_back(&mut deflate, &input);
    for room in (0..len).rev().step_by(7) {
        assert_eq!(deflate.compress(&input, &mut vec![0; room]), None, "{room}");
    }
    assert_eq!(deflate.compress(&input, &mut vec![0; len]), Some(len));
}
