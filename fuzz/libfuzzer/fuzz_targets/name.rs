//! libFuzzer drives the target `name`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("name", bytes));
