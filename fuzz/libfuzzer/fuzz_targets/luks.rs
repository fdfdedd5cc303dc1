//! libFuzzer drives the target `luks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("luks", bytes));
