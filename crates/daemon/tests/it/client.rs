//! A daemon that listens on sockets, and its clients.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::folder::{Folder, Image};
use crate::common::inside::Inside;
use crate::common::play::Daemon;

const LIMIT: Duration = Duration::from_secs(30);

/// A daemon with monitors at `qmp-0`, `qmp-1`, ... in its folder.
pub(crate) struct Served {
    pub(crate) folder: Folder,
    daemon: Option<Box<Inside>>,
}

impl Served {
    /// One with so many monitors, and these arguments before them, in which `$DIR` is the folder.
    pub(crate) fn start(monitors: usize, args: &[&str]) -> Self {
        Self::start_in(Folder::new(), monitors, args)
    }

    pub(crate) fn start_in(folder: Folder, monitors: usize, args: &[&str]) -> Self {
        let dir = folder.path().to_str().unwrap();
        let mut all: Vec<String> = args.iter().map(|arg| arg.replace("$DIR", dir)).collect();
        for number in 0..monitors {
            all.push("--chardev".into());
            all.push(format!("socket,id=c{number},path={dir}/qmp-{number},server=on,wait=off"));
            all.push("--monitor".into());
            all.push(format!("c{number}"));
        }
        let served = Self { daemon: Some(Box::new(Inside::start(&all))), folder };
        // The sockets are there once the daemon listens, and answer once everything is set up.
        while monitors > 0
            && UnixStream::connect(served.folder.file(&format!("qmp-{}", monitors - 1))).is_err()
        {
            assert!(!served.has_ended(), "the daemon ends at its start");
            std::thread::yield_now();
        }
        served
    }

    pub(crate) fn image(folder: &Folder, format: &str, file: &str, len_bytes: u64) {
        folder.make(&Image { format: format.into(), file: file.into(), len_bytes, backing: None });
    }

    fn has_ended(&self) -> bool {
        self.daemon.as_ref().is_none_or(|daemon| daemon.has_ended())
    }

    /// A client of a monitor that has negotiated.
    pub(crate) fn client(&self, monitor: usize) -> Client {
        let mut client = self.greeted(monitor);
        assert_eq!(client.call("qmp_capabilities", &json!({})), json!({ "return": {} }));
        client
    }

    /// A client of a monitor that has been greeted.
    pub(crate) fn greeted(&self, monitor: usize) -> Client {
        let stream = UnixStream::connect(self.folder.file(&format!("qmp-{monitor}"))).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let mut client =
            Client { output: BufReader::new(stream.try_clone().unwrap()), input: stream, events: Vec::new() };
        let greeting = client.message().expect("a greeting");
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        client
    }

    /// Waits for the end; the exit status.
    pub(crate) fn end(&mut self) -> i32 {
        self.daemon.take().unwrap().end()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.daemon.is_some() && !std::thread::panicking() {
            self.client(0).quit();
            assert_eq!(self.end(), 0);
        }
    }
}

/// A client.
pub(crate) struct Client {
    pub(crate) input: UnixStream,
    output: BufReader<UnixStream>,
    /// Those that came while replies were waited for.
    pub(crate) events: Vec<Value>,
}

impl Client {
    pub(crate) fn send(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }

    /// The next message; `None` if the daemon has ended the connection.
    pub(crate) fn message(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    /// The next reply.
    pub(crate) fn reply(&mut self) -> Value {
        loop {
            let message = self.message().expect("the connection lives");
            if message.get("event").is_none() {
                return message;
            }
            self.events.push(message);
        }
    }

    pub(crate) fn call(&mut self, command: &str, arguments: &Value) -> Value {
        self.send(&format!("{}\n", json!({ "execute": command, "arguments": arguments })));
        self.reply()
    }

    /// Calls what must not fail; what it returns.
    pub(crate) fn ok(&mut self, command: &str, arguments: &Value) -> Value {
        let reply = self.call(command, arguments);
        reply.get("return").unwrap_or_else(|| panic!("{command} {arguments}: {reply}")).clone()
    }

    /// Calls what must fail; what it says.
    pub(crate) fn refused(&mut self, command: &str, arguments: &Value) -> String {
        let reply = self.call(command, arguments);
        let text = reply.pointer("/error/desc").unwrap_or_else(|| panic!("{command} {arguments}: {reply}"));
        text.as_str().unwrap().to_owned()
    }

    /// Waits for an event.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        let is_it = |event: &Value| event["event"] == name;
        if let Some(index) = self.events.iter().position(is_it) {
            return self.events.remove(index);
        }
        loop {
            let message = self.message().expect("the connection lives");
            if is_it(&message) {
                return message;
            }
            self.events.push(message);
        }
    }

    /// Ends the daemon.
    pub(crate) fn quit(mut self) {
        assert_eq!(self.call("quit", &json!({})), json!({ "return": {} }));
    }
}
