//! From names and options to opened nodes.
#![forbid(unsafe_code)]

pub mod name;
pub mod options;
