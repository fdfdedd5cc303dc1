//! [`Spare`]: buffers that the next request of the same length uses again.
//!
//! Most clients ask for pieces of one length. A connection keeps a few buffers of it at hand, the one that was sent last on
//! top: it is in the processor's cache, and taking it costs nothing; the pool of the thread has locks and forgets lengths.

use std::cell::{Cell, RefCell};

use drystone_buf::{Buf, Pool};

/// Most bytes that one connection keeps at hand.
const BYTES_MAX: usize = 512 << 10;

pub(super) struct Spare {
    pool: Pool,
    len_bytes: Cell<usize>,
    bufs: RefCell<Vec<Buf>>,
}

impl Spare {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, len_bytes: Cell::new(0), bufs: RefCell::default() }
    }

    /// A buffer of `len_bytes` with unspecified contents.
    pub(super) fn take(&self, len_bytes: usize) -> Buf {
        if self.len_bytes.replace(len_bytes) == len_bytes {
            if let Some(buf) = self.bufs.borrow_mut().pop() {
                return buf;
            }
        } else {
            self.bufs.borrow_mut().clear();
        }
        self.pool.take(len_bytes)
    }

    /// A buffer that is not needed any more.
    pub(super) fn give(&self, buf: Buf) {
        let mut bufs = self.bufs.borrow_mut();
        if buf.len() == self.len_bytes.get() && (bufs.len() + 1) * buf.len() <= BYTES_MAX {
            bufs.push(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_that_was_given_last_is_taken_first() {
        let spare = Spare::new(Pool::new(1 << 20));
        let bufs = [spare.take(4096), spare.take(4096)];
        let last = bufs[1].as_ptr();
        bufs.into_iter().for_each(|buf| spare.give(buf));
        assert_eq!(spare.take(4096).as_ptr(), last);
        assert_eq!(spare.take(512).len(), 512);
        assert!(spare.bufs.borrow().is_empty(), "nothing of another length is kept");
    }

    #[test]
    fn no_more_is_kept_than_the_bound() {
        let spare = Spare::new(Pool::new(0));
        let bufs: Vec<_> = (0..9).map(|_| spare.take(100 << 10)).collect();
        bufs.into_iter().for_each(|buf| spare.give(buf));
        assert_eq!(spare.bufs.borrow().len(), 5);
    }
}
