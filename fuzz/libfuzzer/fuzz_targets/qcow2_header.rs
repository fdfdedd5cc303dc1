//! libFuzzer drives the target `qcow2_header`.
#![no_main]

drystone_libfuzzer::target!("qcow2_header");
