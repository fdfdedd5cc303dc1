//! libFuzzer drives the target `keyval`.
#![no_main]

drystone_libfuzzer::target!("keyval");
