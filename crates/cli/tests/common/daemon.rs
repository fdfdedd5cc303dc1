//! A running `drystone daemon` and those who talk to it. Whoever waits too long for an answer fails instead.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::serve::{PATIENCE, drystone};

/// How long the daemon may think about a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long it may take to say what waits for what.
const EXPLAIN_LIMIT: Duration = Duration::from_secs(5);

/// A daemon with a control socket, killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    /// Starts a daemon in `dir`, with these options and a control socket.
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        Self::start_under(Command::new(drystone()), dir, args)
    }

    /// As [`Self::start`], by a command that ends in the program.
    pub(crate) fn start_under(mut command: Command, dir: &Path, args: &[&str]) -> Self {
        let stderr = File::create(dir.join("stderr")).unwrap();
        command.arg("daemon").args(args).args(["--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off"]);
        command.args(["--chardev", "socket,id=d,path=qmp2.sock,server=on,wait=off"]);
        command.args(["--chardev", "socket,id=e,path=qmp3.sock,server=on,wait=off"]);
        command
            .args(["--monitor", "c", "--monitor", "d", "--monitor", "e"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stderr(stderr);
        let mut daemon = Self { child: command.spawn().unwrap(), dir: dir.to_owned() };
        let begin = Instant::now();
        while UnixStream::connect(dir.join("qmp2.sock")).is_err() {
            assert!(begin.elapsed() < PATIENCE, "the daemon does not start: {}", daemon.stderr());
            assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon has ended: {}", daemon.stderr());
            thread::yield_now();
        }
        daemon
    }

    /// What it has complained about.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    /// A client of one of the two monitors, which has negotiated.
    pub(crate) fn connect(&self, second: bool) -> Monitor {
        let input =
            UnixStream::connect(self.dir.join(if second { "qmp2.sock" } else { "qmp.sock" })).unwrap();
        input.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
        input.set_write_timeout(Some(ANSWER_LIMIT)).unwrap();
        let mut monitor = Monitor { output: BufReader::new(input.try_clone().unwrap()), input, id: 0 };
        assert!(monitor.line().unwrap().get("QMP").is_some());
        monitor.call("qmp_capabilities", json!({})).unwrap().unwrap();
        monitor
    }

    /// What waits for what, as it says itself; for a failure that looks like a standstill.
    pub(crate) fn explain(pid: u32, stderr: &Path) -> String {
        let before = std::fs::read_to_string(stderr).unwrap_or_default().len();
        let asked = Command::new("kill").arg("-USR1").arg(pid.to_string()).status();
        let begin = Instant::now();
        while asked.as_ref().is_ok_and(ExitStatus::success) && begin.elapsed() < EXPLAIN_LIMIT {
            let text = std::fs::read_to_string(stderr).unwrap_or_default();
            if text.len() > before && text.ends_with('\n') {
                return text[before..].to_owned();
            }
            thread::yield_now();
        }
        "it does not say what waits for what".to_owned()
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it where it stands.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end, after somebody has asked for it.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "the daemon does not end: {}", self.stderr());
            thread::yield_now();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client.
#[derive(Debug)]
pub(crate) struct Monitor {
    input: UnixStream,
    output: BufReader<UnixStream>,
    id: u64,
}

impl Monitor {
    /// What a command returns, or the description of its error; why there is no answer, if there is none in time.
    pub(crate) fn call(&mut self, name: &str, arguments: Value) -> Result<Result<Value, String>, String> {
        self.call_raw(json!({"execute": name, "arguments": arguments}))
    }

    /// As [`Self::call`], for something that need not be a command; an object.
    pub(crate) fn call_raw(&mut self, mut command: Value) -> Result<Result<Value, String>, String> {
        self.id += 1;
        command["id"] = self.id.into();
        writeln!(self.input, "{command}").map_err(|error| format!("it takes no commands: {error}"))?;
        let mut answer = self.line()?;
        while answer.get("event").is_some() {
            answer = self.line()?;
        }
        if answer["id"] != self.id {
            return Err(format!("this is no answer to command {}: {answer}", self.id));
        }
        match answer.get("return") {
            Some(value) => Ok(Ok(value.clone())),
            None => Ok(Err(answer["error"]["desc"].as_str().unwrap_or("no description").to_owned())),
        }
    }

    fn line(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("the connection has ended".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{line}: {error}")),
            Err(error) => Err(format!("no answer: {error}")),
        }
    }
}
