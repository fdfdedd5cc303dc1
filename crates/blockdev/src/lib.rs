//! From names and options to opened nodes.
#![forbid(unsafe_code)]

mod name;
pub mod options;
