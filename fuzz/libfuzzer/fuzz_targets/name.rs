//! libFuzzer drives the target `name`.
#![no_main]

drystone_libfuzzer::target!("name");
