//! libFuzzer drives the target `number`.
#![no_main]

drystone_libfuzzer::target!("number");
