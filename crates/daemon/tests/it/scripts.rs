//! The scripts: this daemon answers what the C daemon answered (`tests/oracle` records it), or what `NAME.ours` says where
//! it differs.
//!
//! `DRYSTONE_SCRIPT=name DRYSTONE_ACCEPT=why` writes such a file; the reason stands in its first line.

use crate::common::inside::Inside;
use crate::common::play::play;
use crate::common::records::{Script, all, differences};

#[test]
fn this_daemon_says_what_the_installed_one_said() {
    let accept = std::env::var("DRYSTONE_ACCEPT");
    let check = |script: &Script| {
        let said = play(&script.steps, |args| Box::new(Inside::start(args)));
        if let (Ok(why), false) = (&accept, script.compare(&said).is_empty()) {
            script.accept(&said, why);
        }
        script.compare_ours(&said)
    };
    let differences = differences(all(), check);
    assert!(differences.is_empty(), "{differences}");
}
