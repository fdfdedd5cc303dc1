//! Storage daemons: the C one and ours, with the same command line.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::qmp::Qmp;

/// How long a daemon may take to answer its first connection.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Which program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Program {
    /// `qemu-storage-daemon`.
    C,
    /// `drystone daemon`.
    Drystone(PathBuf),
}

/// A daemon with a monitor and an NBD server, both on unix sockets.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// The process.
    pub(crate) process: Process,
    /// Its monitor.
    pub(crate) qmp: Qmp,
    /// Where it serves NBD.
    pub(crate) nbd: PathBuf,
    /// From the start of the program to its greeting on the monitor.
    pub(crate) start: Duration,
}

impl Program {
    /// Starts it with `args`; its sockets are called `name` with suffixes.
    pub(crate) fn start(&self, name: &Path, args: &[String]) -> Result<Daemon, String> {
        let (monitor, nbd, log) =
            (name.with_extension("qmp"), name.with_extension("nbd"), name.with_extension("log"));
        for left in [&monitor, &nbd] {
            let _ = std::fs::remove_file(left);
        }
        let mut command = match self {
            Self::C => Command::new("qemu-storage-daemon"),
            Self::Drystone(path) => Command::new(path),
        };
        if let Self::Drystone(_) = self {
            command.arg("daemon");
        }
        command
            .arg("--nbd-server")
            .arg(format!("addr.type=unix,addr.path={},max-connections=0", nbd.display()));
        command.args(args);
        // The monitor comes last: who can connect to it finds everything else done.
        command
            .arg("--chardev")
            .arg(format!("socket,id=monitor,path={},server=on,wait=off", monitor.display()));
        command.args(["--monitor", "chardev=monitor"]);
        let began = Instant::now();
        let mut process = Process::start(&mut command, &log)?;
        let qmp = process.until(START_LIMIT, &command, &log, || Qmp::connect(&monitor))?;
        Ok(Daemon { process, qmp, nbd, start: began.elapsed() })
    }
}

impl Daemon {
    /// Ends it.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        if self.process.stop() { Ok(()) } else { Err("the daemon did not end when asked".into()) }
    }
}
