//! [`Monitor`]: a client that sends commands and hears of events.
//!
//! One command at a time. Events are received while a reply or an event is awaited, and kept; a client that awaits nothing
//! does not listen. Dropping it ends the connection without a word.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_sys::{Address, Network, Receiver, Sender};
use serde_json::{Value, json};

use crate::trace::Trace;

/// The longest message that a client takes, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A client of a monitor that has been greeted and has negotiated.
pub struct Monitor {
    name: String,
    lane: Lane,
    receiver: Receiver,
    sender: Sender,
    events: VecDeque<Value>,
    trace: Trace,
}

impl Monitor {
    /// Connects to `address` as a task of `local`. What is said goes to `trace`, under `name`.
    ///
    /// # Errors
    /// Those of connecting; [`Kind::Disconnected`] if the daemon hangs up.
    pub async fn connect(
        network: &Network,
        address: &Address,
        local: &LocalRef,
        (name, trace): (&str, &Trace),
    ) -> Result<Self> {
        let mut lane = Lane::new(Rc::clone(local));
        let (receiver, sender) = network.connect(&mut lane, address, None).await?.split();
        let trace = trace.clone();
        let mut monitor = Self { name: name.into(), lane, receiver, sender, events: VecDeque::new(), trace };
        let greeting = monitor.message().await?;
        assert!(greeting.get("QMP").is_some(), "no greeting: {greeting}");
        monitor.ok("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    /// Carries out a command. The inner error is the description of the daemon's.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the daemon hangs up.
    pub async fn call(&mut self, command: &str, arguments: Value) -> Result<Result<Value, String>> {
        self.send(command, arguments).await?;
        self.reply().await
    }

    /// The reply to the first command that has none yet. The inner error is the description of the daemon's.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the daemon hangs up.
    pub async fn reply(&mut self) -> Result<Result<Value, String>> {
        loop {
            let mut message = self.message().await?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(value) = message.get_mut("return") {
                return Ok(Ok(value.take()));
            } else {
                let text = message.pointer("/error/desc").and_then(Value::as_str);
                let Some(text) = text else { panic!("neither a result nor an error: {message}") };
                return Ok(Err(text.to_owned()));
            }
        }
    }

    /// The same for a command that must not fail.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the daemon hangs up.
    ///
    /// # Panics
    /// If the daemon refuses it.
    pub async fn ok(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let shown = format!("{command} {arguments}");
        match self.call(command, arguments).await? {
            Ok(value) => Ok(value),
            Err(text) => panic!("{}: {shown}: {text}", self.name),
        }
    }

    /// Sends a command without awaiting its reply.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the daemon hangs up.
    pub async fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.trace.note(format!("{} > {line}", self.name));
        self.sender.send(&mut self.lane, &mut [IoSlice::new(line.as_bytes())]).await
    }

    /// The next event of this name whose data `is_it`.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the daemon hangs up.
    pub async fn event(&mut self, name: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let matches = |event: &Value| event["event"] == name && is_it(&event["data"]);
        loop {
            if let Some(at) = self.events.iter().position(matches) {
                return Ok(self.events.remove(at).unwrap_or_default());
            }
            let message = self.message().await?;
            assert!(message.get("event").is_some(), "a reply that nobody awaits: {message}");
            self.events.push_back(message);
        }
    }

    /// Forgets the events that have come so far.
    pub fn forget_events(&mut self) {
        self.events.clear();
    }

    async fn message(&mut self) -> Result<Value> {
        let mut looked_at = 0;
        loop {
            let buffered = self.receiver.buffered();
            let mut rest = buffered.iter().skip(looked_at);
            if let Some(at) = rest.position(|byte| *byte == b'\n').map(|at| looked_at + at) {
                let line = buffered.get(..at).unwrap_or_default();
                let parsed = serde_json::from_slice(line);
                self.trace.note(format!("{} < {}", self.name, String::from_utf8_lossy(line).trim_end()));
                self.receiver.consume(at + 1);
                match parsed {
                    Ok(message) => return Ok(message),
                    Err(error) => panic!("{}: no JSON: {error}", self.name),
                }
            }
            let have = buffered.len();
            looked_at = have;
            assert!(have < MESSAGE_BYTES_MAX, "a message without an end");
            if !self.receiver.fill(&mut self.lane, have + 1).await? {
                return Err(Error::new(Kind::Disconnected, "the daemon hung up"));
            }
        }
    }
}
