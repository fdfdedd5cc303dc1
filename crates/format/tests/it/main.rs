//! Tests through the public interface.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod driver;
