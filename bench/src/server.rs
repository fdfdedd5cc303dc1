//! NBD servers: the C tool's, ours and the floor, each on a unix socket.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::image::Format;
use crate::process::Process;

/// How long a server may take to greet.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Which program serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Program {
    /// `qemu-nbd`.
    QemuNbd,
    /// `drystone serve`.
    Drystone(PathBuf),
    /// This program's own floor.
    Floor,
}

/// How it serves.
#[derive(Debug, Clone)]
pub(crate) struct Setup<'a> {
    /// The image.
    pub(crate) image: &'a Path,
    /// Nobody writes; the floor does not care.
    pub(crate) is_read_only: bool,
    /// Its format; the floor takes every file for raw.
    pub(crate) format: Format,
    /// The processor that it is bound to.
    pub(crate) cpu: Option<usize>,
    /// I/O threads, where the program can be told.
    pub(crate) threads: usize,
}

/// A server that has greeted.
#[derive(Debug)]
pub(crate) struct Server {
    /// The process.
    pub(crate) process: Process,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// From the start of the program to its greeting.
    pub(crate) start: Duration,
}

impl Program {
    /// Starts it and waits for its greeting.
    pub(crate) fn serve(&self, setup: &Setup<'_>, socket: PathBuf) -> Result<Server, String> {
        let _ = std::fs::remove_file(&socket); // what an earlier server left behind
        let log = socket.with_extension("log");
        let mut command = self.command(setup, &socket)?;
        let began = Instant::now();
        let mut process = Process::start(&mut command, &log)?;
        let greeted = || if greets(&socket) { Ok(()) } else { Err("does not greet".to_owned()) };
        process.until(START_LIMIT, &command, &log, greeted)?;
        Ok(Server { process, socket, start: began.elapsed() })
    }

    fn command(&self, setup: &Setup<'_>, socket: &Path) -> Result<Command, String> {
        let own = std::env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
        let format = setup.format.name();
        let mut command = match self {
            Self::QemuNbd => pinned(setup.cpu, Path::new("qemu-nbd")),
            Self::Drystone(path) => pinned(setup.cpu, path),
            Self::Floor => pinned(setup.cpu, &own),
        };
        match self {
            Self::QemuNbd => {
                command.args(setup.is_read_only.then_some("--read-only"));
                command.args(["-t", "-f", format, "--shared=16", "-k"]).arg(socket).arg(setup.image)
            }
            Self::Drystone(_) => {
                let threads = setup.threads.to_string();
                command
                    .arg("serve")
                    .args(setup.is_read_only.then_some("--read-only"))
                    .arg(setup.image)
                    .args(["--format", format, "--threads", &threads, "--socket"])
                    .arg(socket)
            }
            Self::Floor => command.arg("floor").arg(socket).arg(setup.image),
        };
        Ok(command)
    }
}

/// A command that runs on one processor, if one is given.
pub(crate) fn pinned(cpu: Option<usize>, program: &Path) -> Command {
    let Some(cpu) = cpu else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(cpu.to_string()).arg(program);
    command
}

/// Whether a server on that socket says that it speaks NBD.
fn greets(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut greeting = [0; 8];
    let answered = stream.set_read_timeout(Some(START_LIMIT)).and_then(|()| stream.read_exact(&mut greeting));
    answered.is_ok() && &greeting == b"NBDMAGIC"
}
