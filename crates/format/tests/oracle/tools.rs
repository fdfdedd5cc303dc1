//! Running the C tools in a directory of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory that is removed with its files.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("drystone-oracle-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a tool with arguments separated by spaces, then the image.
pub(crate) fn run(tool: &str, args: &str, image: &Path) -> Output {
    Command::new(tool).args(args.split_whitespace()).arg(image).output().unwrap()
}

/// Runs a tool that must succeed; its standard output.
pub(crate) fn run_ok(tool: &str, args: &str, image: &Path) -> String {
    let output = run(tool, args, image);
    assert!(output.status.success(), "{tool} {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs commands of `qemu-io`, which must succeed.
pub(crate) fn io(image: &Path, commands: &[&str]) {
    let mut tool = Command::new("qemu-io");
    tool.args(["-f", "qcow2"]);
    for command in commands {
        tool.args(["-c", command]);
    }
    let output = tool.arg(image).output().unwrap();
    assert!(output.status.success(), "{commands:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Adds a persistent bitmap to an image.
pub(crate) fn add_bitmap(image: &Path, name: &str, granularity: &str) {
    let mut tool = Command::new("qemu-img");
    let output = tool.args(["bitmap", "--add", "-g", granularity]).arg(image).arg(name).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}
