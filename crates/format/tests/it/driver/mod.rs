//! The qcow2 driver in a graph on simulated disks: many schedules, failing and full disks, power cuts, hostile images.
//!
//! | module | what |
//! |---|---|
//! | `kind`, `state`, `chain`, `script`, `snapshot` | images in words, what they hold, opened, used, with snapshots |
//! | `change` | every change of metadata, cut off and disturbed at each of its operations |
//! | `load` | random requests from several threads |

mod backing;
mod chain;
mod change;
mod kind;
mod load;
mod script;
mod snapshot;
mod state;
