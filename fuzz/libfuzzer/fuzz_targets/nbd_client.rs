//! libFuzzer drives the target `nbd_client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run("nbd_client", bytes));
