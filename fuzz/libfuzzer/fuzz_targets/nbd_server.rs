//! libFuzzer drives the target `nbd_server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("nbd_server", bytes));
