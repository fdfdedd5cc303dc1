//! `memory`.

use drystone_base::LEN_MAX;
use drystone_base::rng::Rng;
use drystone_protocol::memory::{Memory, MemoryOptions};

use crate::fixture::as_user;

const CHUNK: u64 = 64 << 10;

fn memory(len_bytes: u64) -> (Memory, drystone_core::driver::NodeFacts) {
    Memory::open(MemoryOptions { len_bytes }).unwrap()
}

#[test]
fn what_is_written_is_read_again_across_chunks() {
    as_user(memory(4 * CHUNK), async |mut user| {
        user.write(CHUNK - 2, b"abcd").await.unwrap();
        assert_eq!(user.read(CHUNK - 3, 6).await, b"\0abcd\0");
    });
}

#[test]
fn the_disk_is_sparse_and_says_where() {
    as_user(memory(LEN_MAX), async |mut user| {
        user.write(5 * CHUNK, b"x").await.unwrap();
        user.write(LEN_MAX - 1, b"y").await.unwrap();
        let status = user.status(7, LEN_MAX - 7).await;
        assert_eq!((status.len, status.zero, status.allocated), (5 * CHUNK - 7, true, true));
        let status = user.status(5 * CHUNK, LEN_MAX - 5 * CHUNK).await;
        assert_eq!((status.len, status.data), (CHUNK, true));
        let status = user.status(6 * CHUNK, LEN_MAX - 6 * CHUNK).await;
        assert_eq!((status.len, status.zero), (LEN_MAX - 7 * CHUNK, true));
    });
}

#[test]
fn zeroed_and_discarded_chunks_give_their_memory_back() {
    as_user(memory(8 * CHUNK), async |mut user| {
        for forget in [true, false] {
            user.write(0, &vec![7; 8 << 16]).await.unwrap();
            let (at, len) = (CHUNK + 1, 3 * CHUNK);
            if forget {
                user.discard(at, len).await.unwrap()
            } else {
                user.zero(at, len).await.unwrap()
            }
            assert_eq!(user.read(CHUNK, 2).await, [7, 0]);
            assert_eq!(user.read(4 * CHUNK, 2).await, [0, 7]);
            assert!(user.status(2 * CHUNK, CHUNK).await.zero);
            assert!(user.status(CHUNK, CHUNK).await.data);
        }
    });
}

#[test]
fn what_was_cut_off_is_zeroes_when_the_disk_grows_again() {
    as_user(memory(2 * CHUNK), async |mut user| {
        user.write(0, &vec![7; 2 << 16]).await.unwrap();
        user.resize(CHUNK / 2).await.unwrap();
        assert_eq!(user.len().await, CHUNK / 2);
        user.resize(2 * CHUNK).await.unwrap();
        assert_eq!(user.read(CHUNK / 2 - 1, 2).await, [7, 0]);
        assert_eq!(user.read(CHUNK, 1 << 16).await, vec![0; 1 << 16]);
    });
}

#[test]
fn a_writer_past_the_end_makes_the_disk_longer() {
    as_user(memory(0), async |mut user| {
        user.write(CHUNK, b"abc").await.unwrap();
        assert_eq!(user.len().await, CHUNK + 3);
    });
}

#[test]
fn random_requests_agree_with_a_plain_vector() {
    as_user(memory(1 << 20), async |mut user| {
        let mut model = vec![0_u8; 1 << 20];
        let mut rng = Rng::new(7);
        for round in 0..2000_u32 {
            let at = rng.below(model.len() as u64);
            let len = 1 + rng.below((model.len() as u64 - at).min(3 * CHUNK));
            let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
            match rng.below(4) {
                0 => {
                    model[range.clone()].fill(round.to_le_bytes()[0]);
                    user.write(at, &model[range]).await.unwrap();
                }
                1 => {
                    model[range].fill(0);
                    user.zero(at, len).await.unwrap();
                }
                2 => {
                    let status = user.status(at, len).await;
                    let whole = &model[range][..usize::try_from(status.len).unwrap()];
                    assert!(status.data || whole.iter().all(|byte| *byte == 0));
                }
                _ => assert_eq!(user.read(at, range.len()).await, model[range]),
            }
        }
    });
}
