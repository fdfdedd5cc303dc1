//! libFuzzer drives the target `raw_window`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("raw_window", bytes));
