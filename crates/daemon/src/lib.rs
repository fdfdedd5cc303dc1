//! The storage daemon.
#![forbid(unsafe_code)]
