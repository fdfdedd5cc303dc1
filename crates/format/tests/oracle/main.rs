//! Tests that run the C tools.
