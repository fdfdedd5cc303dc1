//! libFuzzer drives the target `probe`.
#![no_main]

drystone_libfuzzer::target!("probe");
