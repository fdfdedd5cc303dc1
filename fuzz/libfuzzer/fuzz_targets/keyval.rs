//! libFuzzer drives the target `keyval`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("keyval", bytes));
