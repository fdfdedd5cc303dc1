//! The qcow2 driver on simulated disks: many schedules, failing disks, power cuts.

mod crash;
mod error;
mod fixture;
mod load;
