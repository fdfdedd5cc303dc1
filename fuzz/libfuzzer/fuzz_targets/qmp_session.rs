//! libFuzzer drives the target `qmp_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("qmp_session", bytes));
