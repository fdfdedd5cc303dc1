//! Filters: nodes that show the same disk as their child `file` and do something on the way.
//!
//! | module | what |
//! |---|---|
//! | [`blkdebug`] | requests fail, or are held, by rules |
//! | [`blkverify`] | two disks side by side, whose bytes must be the same |
//! | [`copy_on_read`] | what is read from lower layers is kept in the topmost one |
//! | `pieces`, `same_length`, `through` | what filters have in common |
//!
//! Invariant: a filter never shows other bytes than its child. Does not know: formats, jobs, files.
#![forbid(unsafe_code)]

pub mod blkdebug;
pub mod blkverify;
pub mod copy_on_read;
mod pieces;
mod same_length;
mod through;
