//! libFuzzer drives the target `probe`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("probe", bytes));
