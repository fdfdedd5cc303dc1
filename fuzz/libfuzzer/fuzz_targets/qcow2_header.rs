//! libFuzzer drives the target `qcow2_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("qcow2_header", bytes));
