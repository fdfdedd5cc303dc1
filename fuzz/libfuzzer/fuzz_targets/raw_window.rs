//! libFuzzer drives the target `raw_window`.
#![no_main]

drystone_libfuzzer::target!("raw_window");
