//! Nobody calls a change settled but `settle`, which stores what has to be stored.
use drystone_core::control::{Change, Settled};

fn skip(change: Change<'_>) {
    Settled(change).commit(); //~ E0423
}

fn main() {}
