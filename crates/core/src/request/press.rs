//! [`Pressed`]: compressed writes in two steps, of which many threads take the first one at the same time, and the second one
//! in an order that somebody wants.
//!
//! ```text
//!   ticket.press(at, bytes)             | c0 | c1 | c2 |c3|   ->   |s0..|s1. | c2 |c3|     each stream begins where its
//!        │  no ticket; as long as it takes                                                 cluster did; c2 does not
//!   ticket.write_pressed(pressed, buf)  s0, s1 and c2 find their places                    become shorter, c3 is no
//!                                       c3 is compressed now, as by an ordinary write      whole cluster
//! ```
//! Invariant: only the driver that has compressed bytes stores them as they are. If another node has taken its place between
//! the steps, the first one's driver makes the old bytes of them, and they are written in the ordinary way.
//! Not here: how bytes are compressed, and where they are stored: that is the driver's.

use std::sync::Arc;

use drystone_base::{GuestOffset, Result};

use crate::graph::node::Node;

/// What a driver has made of bytes: see [`Ticket::press`](crate::lane::Ticket::press). It belongs to the buffer with those
/// bytes, and means nothing for another one.
#[derive(Clone)]
pub struct Pressed {
    at: GuestOffset,
    /// As [`Driver::press`](crate::driver::Driver::press) tells it.
    parts: Arc<[u32]>,
    by: Arc<Node>,
}

impl Pressed {
    /// Lets the driver of `node` compress `bytes`, which are to be written at `at`. `None` if they are as they were.
    pub(crate) fn make(node: &Arc<Node>, at: GuestOffset, bytes: &mut [u8]) -> Option<Self> {
        // Whether they are zeroes is for the write to see.
        if node.detects_zeroes() {
            return None;
        }
        let parts = node.driver().press(at, bytes);
        (!parts.is_empty()).then(|| Self { at, parts: parts.into(), by: Arc::clone(node) })
    }

    /// Where the bytes are to be written.
    pub(crate) fn at(&self) -> GuestOffset {
        self.at
    }

    pub(crate) fn parts(&self) -> &[u32] {
        &self.parts
    }

    /// Whether this is what the driver of `node` has made.
    pub(crate) fn is_by(&self, node: &Arc<Node>) -> bool {
        Arc::ptr_eq(&self.by, node)
    }

    /// Makes the old bytes of what was made of them.
    pub(crate) fn undo(&self, bytes: &mut [u8]) -> Result<()> {
        self.by.driver().unpress(&self.parts, bytes).map_err(|error| error.on_node(self.by.name()))
    }
}
