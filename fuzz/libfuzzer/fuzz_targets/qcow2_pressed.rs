//! libFuzzer drives the target `qcow2_pressed`.
#![no_main]

drystone_libfuzzer::target!("qcow2_pressed");
