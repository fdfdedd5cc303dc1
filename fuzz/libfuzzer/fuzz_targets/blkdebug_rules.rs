//! libFuzzer drives the target `blkdebug_rules`.
#![no_main]

drystone_libfuzzer::target!("blkdebug_rules");
