//! The parts of the test kit against each other.

mod agreement;
