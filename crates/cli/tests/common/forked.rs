//! A server of one image (`qemu-nbd`), in the background.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::Ran;
use super::serve::PATIENCE;

/// A server that went into the background by itself. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Forked {
    pub(crate) socket: PathBuf,
    pub(crate) pid_file: PathBuf,
    pid: u32,
    stays: bool,
}

impl Forked {
    /// Starts one at `socket` in `dir`; it is back when clients can connect, or the server has failed.
    pub(crate) fn start(program: &Path, dir: &Path, socket: &str, args: &[&str]) -> Result<Self, Ran> {
        let (path, pid_file) = Self::places(dir, socket);
        let place = [format!("--socket={}", path.display()), format!("--pid-file={}", pid_file.display())];
        let all = ["--fork".to_owned()].into_iter().chain(place).chain(args.iter().map(|&arg| arg.into()));
        let ran = super::run(program, &all.collect::<Vec<_>>(), dir);
        if ran.status != 0 {
            return Err(ran);
        }
        Ok(Self::at(dir, socket))
    }

    /// The one that was started there.
    pub(crate) fn at(dir: &Path, socket: &str) -> Self {
        let (socket, pid_file) = Self::places(dir, socket);
        let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        Self { socket, pid_file, pid, stays: false }
    }

    fn places(dir: &Path, socket: &str) -> (PathBuf, PathBuf) {
        (dir.join(socket), dir.join(format!("{socket}.pid")))
    }

    /// Lets it run on.
    pub(crate) fn stay(mut self) {
        self.stays = true;
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status().unwrap();
        assert!(status.success());
    }

    /// It is nobody's child here, and may stay on as a zombie.
    pub(crate) fn is_there(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&self) {
        let until = Instant::now() + PATIENCE;
        while self.is_there() {
            assert!(Instant::now() < until, "the server at {} does not end", self.socket.display());
            std::thread::yield_now();
        }
    }

    /// Tells it to end, and waits for that.
    pub(crate) fn stop(self) {
        self.signal("TERM");
        self.wait();
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if !self.stays && self.is_there() {
            let _ = Command::new("kill").arg("-KILL").arg(self.pid.to_string()).status();
        }
    }
}
