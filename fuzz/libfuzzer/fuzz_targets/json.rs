//! libFuzzer drives the target `json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("json", bytes));
