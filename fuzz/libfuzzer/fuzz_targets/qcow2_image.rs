//! libFuzzer drives the target `qcow2_image`.
#![no_main]

drystone_libfuzzer::target!("qcow2_image");
