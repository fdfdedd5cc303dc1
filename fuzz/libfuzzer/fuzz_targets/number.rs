//! libFuzzer drives the target `number`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("number", bytes));
