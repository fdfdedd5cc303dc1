//! Memory for block I/O.
//!
//! A [`Buf`] is the exclusive right to a range of a counted block of memory. It moves: into a request, into the kernel,
//! and back, so whoever could still be written to by a device owns the bytes. Splitting gives two owners of disjoint
//! ranges of the same block; the block is freed (or goes back to its [`Pool`]) with its last range.
//!
//! | module | what |
//! |---|---|
//! | `block` | one aligned allocation, and the only pointer arithmetic |
//! | `buf` | [`Buf`]: an exclusive range of a block |
//! | `pool` | [`Pool`]: blocks that are used again |
//! | [`scan`] | whether bytes are zero, or the same |
//! | `guest` | [`GuestRegion`], [`GuestSlice`]: memory that a guest writes at the same time; copied, never lent |
//!
//! Invariant: the ranges of all living `Buf`s of one block are disjoint. Does not know: requests, files, alignment rules.

mod block;
mod buf;
mod guest;
mod pool;
pub mod scan;

pub use buf::Buf;
pub use guest::{GuestRegion, GuestSlice};
pub use pool::Pool;

/// Alignment in bytes of every block's start: a page, which satisfies any device that this project opens directly.
pub const ALIGN: usize = 4096;
