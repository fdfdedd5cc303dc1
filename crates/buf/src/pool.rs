//! [`Pool`]: blocks that are used again, so that a request in steady state allocates nothing.
//!
//! A pool keeps blocks by size class (powers of two from 4 KiB to 4 MiB), up to a bound in bytes; past it, blocks are
//! freed. Larger buffers are not pooled. A block from the pool holds old bytes of this process: who hands a buffer out
//! of the process fills it first.

use std::sync::{Arc, Mutex, PoisonError};

use crate::block::Block;
use crate::buf::Buf;

const CLASS_BITS_MIN: u32 = 12;
const CLASS_BITS_MAX: u32 = 22;
const CLASSES: usize = (CLASS_BITS_MAX - CLASS_BITS_MIN + 1) as usize;

/// A bounded stock of aligned blocks; clones share it. Any thread may take and return.
#[derive(Clone)]
pub struct Pool {
    classes: Arc<[Arc<Shelf>; CLASSES]>,
}

/// The stock of one size class.
pub(crate) struct Shelf {
    block_bytes: usize,
    blocks_max: usize,
    blocks: Mutex<Vec<Arc<Block>>>,
}

impl Shelf {
    pub(crate) fn put(&self, block: Arc<Block>) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() < self.blocks_max {
            blocks.push(block);
        }
    }

    fn take(&self) -> Option<Arc<Block>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Pool {
    /// A pool that keeps at most `kept_bytes` of unused memory in each of its size classes.
    #[must_use]
    pub fn new(kept_bytes: usize) -> Self {
        Self {
            classes: Arc::new(std::array::from_fn(|class| {
                let block_bytes = 1_usize << (CLASS_BITS_MIN as usize + class);
                let blocks_max = kept_bytes.div_euclid(block_bytes);
                Arc::new(Shelf { block_bytes, blocks_max, blocks: Mutex::new(Vec::new()) })
            })),
        }
    }

    /// A buffer of `len_bytes` with unspecified (but initialised) contents.
    #[must_use]
    pub fn take(&self, len_bytes: usize) -> Buf {
        match self.classes.iter().find(|shelf| shelf.block_bytes >= len_bytes) {
            None => Buf::zeroed(len_bytes),
            Some(shelf) => {
                let block = shelf.take().unwrap_or_else(|| {
                    Arc::new(Block::zeroed(shelf.block_bytes, Some(Arc::downgrade(shelf))))
                });
                Buf::whole(block, len_bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_block_is_used_again() {
        let pool = Pool::new(1 << 20);
        let first = pool.take(5000);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take(8192).as_ptr(), address);
    }

    #[test]
    fn a_block_returns_with_its_last_range() {
        let pool = Pool::new(1 << 20);
        let mut a = pool.take(4096);
        let address = a.as_ptr();
        let b = a.split_off(100);
        drop(a);
        assert_ne!(pool.take(4096).as_ptr(), address);
        drop(b);
        assert_eq!(pool.take(4096).as_ptr(), address);
    }

    #[test]
    fn a_pool_keeps_no_more_than_its_bound() {
        let pool = Pool::new(8192);
        let bufs: Vec<Buf> = (0..5).map(|_| pool.take(4096)).collect();
        drop(bufs);
        assert_eq!(pool.classes[0].blocks.lock().unwrap().len(), 2);
    }

    #[test]
    fn buffers_outlive_their_pool() {
        let pool = Pool::new(8192);
        let buf = pool.take(10);
        drop(pool);
        assert_eq!(buf.len(), 10);
    }
}
