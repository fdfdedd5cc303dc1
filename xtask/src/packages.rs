//! Programs that the tests and the benchmark use, and the Debian packages that have them.
//!
//! A program that is there is never touched, whatever its version and wherever it came from: `apt-get` is told to
//! neither remove nor upgrade anything, so an installed newer release of the C tools stays.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::run;

/// Debian package, and the programs we want from it.
const NEEDED: &[(&str, &[&str])] = &[
    ("fio", &["fio"]),
    ("libnbd-bin", &["nbdinfo", "nbdcopy"]),
    ("nbdkit", &["nbdkit"]),
    ("fuse3", &["fusermount3"]),
    ("cryptsetup-bin", &["cryptsetup"]),
    ("qemu-utils", &["qemu-img", "qemu-io", "qemu-nbd"]),
    ("zstd", &["zstd"]),
    ("e2fsprogs", &["mkfs.ext4"]),
    ("util-linux", &["unshare", "nsenter"]),
];

/// Folders that may be missing from the `PATH` of an ordinary user.
const SYSTEM_DIRS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// Makes sure that every program is there: installs packages where we may, else names them.
pub(crate) fn ensure() -> Result<(), String> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if !may_install() {
        return Err(sentence(&missing));
    }
    eprintln!("installing {}", missing.join(" "));
    apt(&["update"], &[])?;
    apt(&["install", "--yes", "--no-install-recommends", "--no-remove", "--no-upgrade"], &missing)?;
    let still = self::missing();
    if still.is_empty() { Ok(()) } else { Err(sentence(&still)) }
}

fn sentence(packages: &[&str]) -> String {
    format!("missing system packages; on Debian: apt-get install {}", packages.join(" "))
}

fn missing() -> Vec<&'static str> {
    let absent = |programs: &[&str]| programs.iter().any(|program| !is_installed(program));
    NEEDED.iter().filter(|(_, programs)| absent(programs)).map(|(package, _)| *package).collect()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(std::env::split_paths(SYSTEM_DIRS))
        .any(|dir| Path::new(&dir).join(program).is_file())
}

fn may_install() -> bool {
    let is_root = run::quiet(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    is_root && is_installed("apt-get")
}

fn apt(verb: &[&str], packages: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet").args(verb).args(packages);
    match run::run(&mut command, INSTALL_LIMIT).failure {
        None => Ok(()),
        Some(failure) => Err(format!("apt-get {}: {failure}", verb.join(" "))),
    }
}
