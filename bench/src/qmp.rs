//! A QMP client on a unix socket: one command, one answer; events are skipped.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A monitor that has been greeted.
#[derive(Debug)]
pub(crate) struct Qmp {
    input: BufReader<UnixStream>,
    line: String,
}

impl Qmp {
    /// Connects and negotiates.
    pub(crate) fn connect(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        let set = stream.set_read_timeout(Some(ANSWER_LIMIT));
        set.map_err(|error| format!("{}: {error}", socket.display()))?;
        let mut qmp = Self { input: BufReader::new(stream), line: String::new() };
        qmp.message()?;
        qmp.run("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returned.
    pub(crate) fn run(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        self.send(command, arguments)?;
        loop {
            let mut message = self.message()?;
            if let Some(returned) = message.get_mut("return") {
                return Ok(returned.take());
            }
            if let Some(error) = message.get("error") {
                return Err(format!("{command}: {error}"));
            }
        }
    }

    /// Runs a command and returns how many bytes its answer has: the time of parsing it is the client's.
    pub(crate) fn weigh(&mut self, command: &str, arguments: &Value) -> Result<usize, String> {
        self.send(command, arguments)?;
        loop {
            self.read_line()?;
            match self.line.get(..10) {
                Some("{\"return\":") => return Ok(self.line.len()),
                Some("{\"error\": ") => return Err(format!("{command}: {}", self.line)),
                _ => {}
            }
        }
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<(), String> {
        let text = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.input.get_mut().write_all(text.as_bytes()).map_err(|error| format!("{command}: {error}"))
    }

    fn message(&mut self) -> Result<Value, String> {
        self.read_line()?;
        serde_json::from_str(&self.line).map_err(|error| format!("{error} in {}", self.line))
    }

    fn read_line(&mut self) -> Result<(), String> {
        self.line.clear();
        match self.input.read_line(&mut self.line) {
            Ok(0) => Err("the daemon has hung up".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("no answer: {error}")),
        }
    }
}
