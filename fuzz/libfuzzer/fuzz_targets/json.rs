//! libFuzzer drives the target `json`.
#![no_main]

drystone_libfuzzer::target!("json");
