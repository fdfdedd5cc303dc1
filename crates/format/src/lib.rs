//! What the bytes of disk images mean.
//!
//! | module | format |
//! |---|---|
//! | [`qcow2`] | QEMU's copy-on-write format, versions 2 and 3 |
//! | [`luks`] | what an encrypted volume says without a password |
//! | [`raw`] | the bytes as they are, or a window of them |
//!
//! Invariant: bytes of an image are foreign. Every number is checked against a named limit before it is multiplied,
//! added or allocated by, and bad bytes give an error that says what is wrong and where.
//! Not here: files, paths, threads. A format sees the bytes of its children and nothing else.
#![forbid(unsafe_code)]

pub mod luks;
pub mod qcow2;
pub mod raw;
