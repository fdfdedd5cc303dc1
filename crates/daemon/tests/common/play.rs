//! Playing a script to a daemon, whichever it is, and what comes of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::folder::Folder;
use super::nbd::NbdClient;
use super::normal::Normal;
use super::script::{NbdVerb, Script, Step};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// A daemon that talks on its standard input and output.
pub(crate) trait Daemon {
    fn input(&mut self) -> Box<dyn Write>;
    fn output(&mut self) -> Box<dyn Read + Send>;
    /// Waits for the end; its exit status.
    fn end(self: Box<Self>) -> i32;
}

/// What a daemon said.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Transcript {
    pub(crate) replies: Vec<Value>,
    pub(crate) events: Vec<Value>,
    pub(crate) status: i32,
}

impl Transcript {
    /// As it is recorded: a line for each message.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for reply in &self.replies {
            let _ = writeln!(text, "{reply}");
        }
        for event in &self.events {
            let _ = writeln!(text, "event {event}");
        }
        let _ = writeln!(text, "exit status {}", self.status);
        text
    }
}

/// Makes the images, starts a daemon and plays the script to it.
pub(crate) fn play(script: &Script, start: impl FnOnce(&[String]) -> Box<dyn Daemon>) -> Transcript {
    let folder = Folder::new();
    script.images.iter().for_each(|image| folder.make(image));
    let inside = |text: &str| text.replace("$DIR", folder.path().to_str().unwrap());
    let mut args: Vec<String> = script.args.iter().map(|arg| inside(arg)).collect();
    args.extend(["--chardev", "stdio,id=m", "--monitor", "chardev=m"].map(String::from));
    let mut daemon = start(&args);
    let mut player = Player::new(&mut *daemon, folder.path());
    for step in &script.steps {
        if player.is_over {
            break;
        }
        player.step(step, &inside);
    }
    player.input = None;
    player.clients.clear();
    while player.receive() {}
    let mut transcript = player.transcript;
    transcript.status = daemon.end();
    transcript
}

struct Player<'f> {
    folder: &'f Path,
    input: Option<Box<dyn Write>>,
    lines: Receiver<String>,
    normal: Normal,
    transcript: Transcript,
    /// Events that were waited for, by name.
    waited: BTreeMap<String, usize>,
    clients: BTreeMap<String, NbdClient>,
    is_over: bool,
}

impl<'f> Player<'f> {
    fn new(daemon: &mut dyn Daemon, folder: &'f Path) -> Self {
        let (sender, lines) = channel();
        let output = BufReader::new(daemon.output());
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut player = Self {
            folder,
            input: Some(daemon.input()),
            lines,
            normal: Normal::new(folder),
            transcript: Transcript::default(),
            waited: BTreeMap::new(),
            clients: BTreeMap::new(),
            is_over: false,
        };
        player.until(|player| !player.transcript.replies.is_empty());
        player
    }

    fn step(&mut self, step: &Step, inside: &dyn Fn(&str) -> String) {
        match step {
            Step::Command(line) => {
                self.send(&format!("{}\n", inside(line)));
                self.replies(1);
            }
            Step::Send(text) => self.send(&inside(text)),
            Step::Replies(count) => self.replies(*count),
            Step::Wait { event, count } => {
                let wanted = self.waited.get(event).copied().unwrap_or_default() + count;
                self.waited.insert(event.clone(), wanted);
                self.until(|player| player.count(event) >= wanted);
            }
            Step::Status { job, status } => self.until(|player| player.has_status(job, status)),
            Step::Nbd { client, verb } => self.nbd(client, verb),
            Step::Eof => self.input = None,
        }
    }

    fn nbd(&mut self, client: &str, verb: &NbdVerb) {
        match verb {
            NbdVerb::Open(export) => {
                let socket = self.folder.join("nbd.sock");
                let opened = NbdClient::open(&socket, export).expect("the export takes clients");
                self.clients.insert(client.to_owned(), opened);
            }
            NbdVerb::Write { at, len, byte, fails } => {
                let client = self.clients.get_mut(client).unwrap();
                assert_eq!(client.write(*at, *len, *byte) != 0, *fails, "a write of {len} bytes at {at}");
            }
            NbdVerb::Close => drop(self.clients.remove(client)),
        }
    }

    fn send(&mut self, text: &str) {
        if let Some(input) = &mut self.input {
            // A daemon that has ended takes nothing; what it said shows.
            let _ = input.write_all(text.as_bytes()).and_then(|()| input.flush());
        }
    }

    fn replies(&mut self, count: usize) {
        let wanted = self.transcript.replies.len() + count;
        self.until(|player| player.transcript.replies.len() >= wanted);
    }

    fn count(&self, event: &str) -> usize {
        self.transcript.events.iter().filter(|value| value["event"] == event).count()
    }

    fn has_status(&self, job: &str, status: &str) -> bool {
        let data = |event: &Value| event["data"]["id"] == job && event["data"]["status"] == status;
        self.transcript.events.iter().any(data)
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) && self.receive() {}
    }

    /// Takes one message; whether there was one.
    fn receive(&mut self) -> bool {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => {
                // The C daemon also prints what it makes.
                let Ok(value) = serde_json::from_str::<Value>(&line) else { return true };
                let is_event = value.get("event").is_some();
                let value = self.normal.value(value);
                let to = if is_event { &mut self.transcript.events } else { &mut self.transcript.replies };
                to.push(value);
                true
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.is_over = true;
                false
            }
            Err(RecvTimeoutError::Timeout) => {
                panic!("nothing comes any more; so far:\n{}", self.transcript.text())
            }
        }
    }
}
