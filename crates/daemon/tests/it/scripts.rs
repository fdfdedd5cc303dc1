//! The scripts: this daemon answers what the C daemon answered (`tests/oracle` records it).

use crate::common::inside::Inside;
use crate::common::play::play;
use crate::common::records::{Script, all, differences};

#[test]
fn this_daemon_says_what_the_installed_one_said() {
    let check =
        |script: &Script| script.compare_ours(&play(&script.steps, |args| Box::new(Inside::start(args))));
    let differences = differences(all(), check);
    assert!(differences.is_empty(), "{differences}");
}
