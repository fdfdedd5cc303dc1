//! libFuzzer drives the target `qmp_session`.
#![no_main]

drystone_libfuzzer::target!("qmp_session");
