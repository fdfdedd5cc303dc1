//! libFuzzer drives the target `luks`.
#![no_main]

drystone_libfuzzer::target!("luks");
