//! libFuzzer drives the target `nbd_server`.
#![no_main]

drystone_libfuzzer::target!("nbd_server");
