//! The qcow2 driver in a graph on simulated disks: many schedules, failing and full disks, power cuts, hostile images.
//!
//! | module | what |
//! |---|---|
//! | `kind`, `state`, `chain`, `script`, `snapshot`, `tracked` | images in words, what they hold, opened, used, with snapshots and bitmaps |
//! | `changes` | every change of metadata in several steps |
//! | `crash_points`, `scripted`, `marked` | each of them, and the mark of damage, cut at every boundary |
//! | `internal`, `repairing` | internal snapshots and repairs, cut likewise |
//! | `change` | each of them disturbed at each of its operations |
//! | `damage`, `ordeal` | images that are broken or were made to hurt |
//! | `matrix` | every size of clusters, width of counts, version and depth |
//! | `parallel`, `reopen` | what does not wait and does not grow; changes of mode and options |
//! | `machine` | the state of a machine |
//! | `load` | random requests from several threads |

mod backing;
mod chain;
mod change;
mod changes;
mod crash_points;
mod damage;
mod internal;
mod kind;
mod load;
mod machine;
mod marked;
mod matrix;
mod ordeal;
mod parallel;
mod reopen;
mod repairing;
mod script;
mod scripted;
mod snapshot;
mod state;
mod tracked;
