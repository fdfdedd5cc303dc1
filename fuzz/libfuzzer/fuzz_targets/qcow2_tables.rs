//! libFuzzer drives the target `qcow2_tables`.
#![no_main]

drystone_libfuzzer::target!("qcow2_tables");
