//! What the installed storage daemon says to the scripts, compared with what is recorded.
//!
//! `DRYSTONE_RECORD=1 cargo test -p drystone-daemon --features oracle --test oracle` writes the records anew;
//! `DRYSTONE_SCRIPT=part-of-a-name` takes fewer scripts. The replies of this daemon are compared with the records by the
//! ordinary tests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

#[expect(dead_code, reason = "the ordinary tests use the rest")]
#[path = "../common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use common::play::{Daemon, play};
use common::records::{Script, all, differences};

const PROGRAM: &str = "qemu-storage-daemon";

/// The installed daemon.
struct Installed(Child);

impl Installed {
    fn start(args: &[String]) -> Box<dyn Daemon> {
        let mut command = Command::new(PROGRAM);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Box::new(Self(command.spawn().expect("the storage daemon is installed")))
    }
}

impl Daemon for Installed {
    fn input(&mut self) -> Box<dyn Write> {
        Box::new(self.0.stdin.take().unwrap())
    }

    fn output(&mut self) -> Box<dyn Read + Send> {
        Box::new(self.0.stdout.take().unwrap())
    }

    fn end(mut self: Box<Self>) -> i32 {
        self.0.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // One that has ended already, or that a failed test leaves behind.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_installed_daemon_says_what_is_recorded() {
    let record = std::env::var_os("DRYSTONE_RECORD").is_some();
    let check = |script: &Script| {
        let said = play(&script.steps, Installed::start);
        if record {
            std::fs::write(&script.record, said.text()).unwrap();
        }
        script.compare(&said)
    };
    assert_eq!(differences(all(), check), "");
}
