//! Simulation.
#![forbid(unsafe_code)]
pub mod disk;
pub mod model;
pub mod notation;
pub mod pattern;
pub mod ranges;
pub mod sim;

/// A number of bytes in memory as an index.
///
/// # Panics
/// If it exceeds the address space.
fn index(bytes: u64) -> usize {
    match usize::try_from(bytes) {
        Ok(index) => index,
        Err(_) => panic!("{bytes} bytes exceed the address space"),
    }
}
