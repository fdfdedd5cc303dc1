//! libFuzzer drives the target `qcow2_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("qcow2_image", bytes));
