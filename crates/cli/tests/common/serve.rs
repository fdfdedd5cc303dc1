//! A running `drystone serve`.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use super::nbd::Client;

/// How long anything may take before it counts as a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under its own name; a copy of it if `DRYSTONE_COPY` names one, for runs that outlast a build.
pub(crate) fn drystone() -> PathBuf {
    std::env::var_os("DRYSTONE_COPY").map_or_else(|| env!("CARGO_BIN_EXE_drystone").into(), PathBuf::from)
}

/// A server, killed when dropped.
#[derive(Debug)]
pub(crate) struct Serve {
    child: Child,
    pub(crate) dir: PathBuf,
    pub(crate) socket: PathBuf,
    /// What it printed first: a URI a line.
    pub(crate) uris: Vec<String>,
    lines: Receiver<String>,
    stderr: Receiver<String>,
}

/// How a server ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status, or 128 and the signal.
    pub(crate) status: i32,
    pub(crate) stderr: String,
}

impl Serve {
    /// Starts a server in `dir` with a socket there and waits for its first URIs.
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Result<Self, Ended> {
        Self::start_under(Command::new(drystone()), dir, args)
    }

    /// As [`Self::start`], with a command that may have variables set.
    pub(crate) fn start_under(command: Command, dir: &Path, args: &[&str]) -> Result<Self, Ended> {
        Self::start_at(Stdio::null(), command, dir, args)
    }

    /// As [`Self::start_under`], with something to read from.
    pub(crate) fn start_at(
        stdin: Stdio,
        mut command: Command,
        dir: &Path,
        args: &[&str],
    ) -> Result<Self, Ended> {
        let socket = dir.join("nbd.sock");
        let images = args.iter().take_while(|arg| **arg != "--listen").count();
        command.arg("serve").args(args).current_dir(dir);
        if images == args.len() {
            command.arg("--socket").arg(&socket);
        }
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (line_sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = line_sender.send(line);
            }
        });
        let (error_sender, stderr) = channel();
        thread::spawn(move || {
            let mut text = String::new();
            let _ = BufReader::new(errors).read_to_string(&mut text);
            let _ = error_sender.send(text);
        });
        let mut server = Self { child, dir: dir.to_owned(), socket, uris: Vec::new(), lines, stderr };
        match server.next_line() {
            Some(first) => server.uris.push(first),
            None => return Err(server.wait()),
        }
        Ok(server)
    }

    /// The next line of standard output; `None` at its end.
    pub(crate) fn next_line(&self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the server neither starts nor ends"),
        }
    }

    pub(crate) fn connect(&self, export: &str) -> Client {
        Client::connect(&self.socket, export).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join("nbd.sock.ctl")
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Asks it to end and waits for that.
    pub(crate) fn stop(self) -> Ended {
        self.signal("TERM");
        self.wait()
    }

    /// Stops it; everything must be well.
    pub(crate) fn stop_cleanly(self) {
        let ended = self.stop();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }

    /// Ends it where it stands.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt;
        // Standard error ends when the process does; a process that does not end is a hang.
        let stderr = self.stderr.recv_timeout(PATIENCE).expect("the server does not end");
        let status = self.child.wait().unwrap();
        let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ended { status, stderr }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
