//! libFuzzer drives the target `qcow2_create`.
#![no_main]

drystone_libfuzzer::target!("qcow2_create");
