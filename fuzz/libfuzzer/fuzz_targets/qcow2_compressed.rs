//! libFuzzer drives the target `qcow2_compressed`.
#![no_main]

drystone_libfuzzer::target!("qcow2_compressed");
