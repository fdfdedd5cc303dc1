//! libFuzzer drives the target `nbd_client`.
#![no_main]

drystone_libfuzzer::target!("nbd_client");
