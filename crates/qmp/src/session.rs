//! [`Session`]: one client of one monitor.
//!
//! ```text
//!   greeting ──► negotiation ── qmp_capabilities ──► commands
//!                (other commands are refused,         next() ─► Incoming::Command(Pending, Command)
//!                 no events)                                       │ at most one is being answered
//!                                                     answer() ◄───┘ then next() looks at the input again
//! ```
//! Invariants: requests are answered in the order in which they came; while one is being answered no input is
//! consumed, so a client that sends faster than it is served fills its own socket and nothing else. A request that
//! breaks the protocol or its command's definition is answered without the daemon hearing of it.
//!
//! Out of band: no command of this daemon may run so, as in the daemon of release 10.0. The capability is offered and
//! `exec-oob` is then understood, and refused by command.

use serde_json::{Map, Value};

use crate::schema::Qapi;
use crate::schema::commands::{Call, Command};
use crate::schema::events::Event;
use crate::schema::types::common::Empty;
use crate::schema::types::control::{QMPCapability, QmpCapabilities, VersionInfo};
use crate::schema::visit::{Notation, parse};
use crate::wire::{Decoder, Limits, Sink, Writer};
use crate::{ErrorClass, QmpError};

/// The state of a connection to a client.
#[derive(Debug)]
pub struct Session {
    decoder: Decoder,
    version: VersionInfo,
    is_pretty: bool,
    mode: Mode,
    is_answering: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Negotiation,
    Commands { has_oob: bool },
}

/// What [`Session::next`] found.
#[derive(Debug)]
pub enum Incoming {
    /// Bytes to send; nothing else is to be done.
    Reply(Vec<u8>),
    /// A command to run, and what its answer needs.
    Command(Pending, Command),
}

/// The right and duty to answer one request. One that is dropped unanswered keeps its session from going on.
#[derive(Debug)]
#[must_use = "the client waits for an answer"]
pub struct Pending {
    id: Option<Value>,
}

/// A request as it came: an object with some of four members.
struct Request {
    name: String,
    arguments: Value,
    is_oob: bool,
}

impl Session {
    /// A session whose client has sent nothing yet.
    #[must_use]
    pub fn new(version: VersionInfo, is_pretty: bool, limits: Limits) -> Self {
        let decoder = Decoder::new(limits);
        Self { decoder, version, is_pretty, mode: Mode::Negotiation, is_answering: false }
    }

    /// Spec "Server Greeting": what is sent first.
    #[must_use]
    pub fn greeting(&self) -> Vec<u8> {
        self.line(|out| {
            out.key("QMP");
            out.begin_object();
            out.key("version");
            self.version.write(out);
            out.key("capabilities");
            QMPCapability::ALL.to_vec().write(out);
            out.end_object();
        })
    }

    /// Whether the negotiation is over, so that the client is told of events.
    #[must_use]
    pub fn is_negotiated(&self) -> bool {
        self.mode != Mode::Negotiation
    }

    /// The next thing to do about what the client sent; `input` is what has not been looked at yet and shrinks.
    /// `None` if more input is needed, or if a command is still to be answered. One reply at a time: whoever waits for
    /// room to send before calling again bounds what broken input, which makes longer replies than itself, costs.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Incoming> {
        if self.is_answering {
            return None;
        }
        let (id, request) = match self.decoder.next(input)? {
            Ok(value) => read(value, self.mode == Mode::Commands { has_oob: true }),
            Err(error) => (None, Err(error)),
        };
        match request.and_then(|request| self.admit(request)) {
            Ok(Some(command)) => {
                self.is_answering = true;
                Some(Incoming::Command(Pending { id }, command))
            }
            Ok(None) => Some(Incoming::Reply(self.reply(id.as_ref(), written(Ok(&Empty {}))))),
            Err(error) => Some(Incoming::Reply(self.reply(id.as_ref(), written::<Empty>(Err(&error))))),
        }
    }

    /// The bytes that answer a request; the input is looked at again.
    pub fn answer<C: Call>(&mut self, pending: Pending, result: &Result<C::Returns, QmpError>) -> Vec<u8> {
        self.is_answering = false;
        self.reply(pending.id.as_ref(), written(result.as_ref()))
    }

    /// The same for a command that has worked and returns a list, each item of which is made when it is written.
    pub fn answer_each<C: Call<Returns = Vec<T>>, T: Qapi>(
        &mut self,
        pending: Pending,
        items: impl Iterator<Item = T>,
    ) -> Vec<u8> {
        self.is_answering = false;
        let write = |out: &mut Writer| {
            out.begin_array();
            items.for_each(|item| item.write(out));
            out.end_array();
        };
        self.reply(pending.id.as_ref(), Ok(write))
    }

    /// Spec "Asynchronous events": the bytes that tell the client of an event, `None` while it negotiates. The time is
    /// that of the event since 1970, `None` if it is not known.
    #[must_use]
    pub fn event(&self, event: &Event, since_epoch: Option<std::time::Duration>) -> Option<Vec<u8>> {
        self.is_negotiated().then(|| {
            self.line(|out| {
                out.key("timestamp");
                write_time(out, since_epoch);
                out.key("event");
                out.text(event.name());
                out.key("data");
                event.write_data(out);
            })
        })
    }

    /// The command of a request; `None` if it was `qmp_capabilities`, which is done.
    fn admit(&mut self, request: Request) -> Result<Option<Command>, QmpError> {
        let Request { name, arguments, is_oob } = request;
        let negotiates = name == <crate::schema::commands::call::QmpCapabilities as Call>::NAME;
        match self.mode {
            Mode::Negotiation if negotiates => {
                let wanted: QmpCapabilities = parse(arguments, Notation::Json)?;
                let has_oob = wanted.enable.is_some_and(|all| all.contains(&QMPCapability::Oob));
                self.mode = Mode::Commands { has_oob };
                Ok(None)
            }
            Mode::Negotiation => {
                Err(not_found("Expecting capabilities negotiation with 'qmp_capabilities'".to_owned()))
            }
            Mode::Commands { .. } if is_oob && Command::NAMES.contains(&name.as_str()) => {
                Err(QmpError::generic(format!("The command {name} does not support OOB")))
            }
            Mode::Commands { .. } if negotiates => {
                Err(not_found("Capabilities negotiation is already complete, command ignored".to_owned()))
            }
            Mode::Commands { .. } => Command::parse(&name, arguments)
                .unwrap_or_else(|| Err(not_found(format!("The command {name} has not been found"))))
                .map(Some),
        }
    }

    /// Spec "Commands Responses". What is returned, `result` writes.
    fn reply(&self, id: Option<&Value>, result: Result<impl FnOnce(&mut Writer), &QmpError>) -> Vec<u8> {
        self.line(|out| {
            let put_id = |out: &mut Writer| {
                if let Some(id) = id {
                    out.key("id");
                    out.value(id);
                }
            };
            match result {
                Ok(write) => {
                    out.key("return");
                    write(out);
                    put_id(out);
                }
                Err(error) => {
                    put_id(out);
                    out.key("error");
                    out.begin_object();
                    out.key("class");
                    out.text(error.class.name());
                    out.key("desc");
                    out.text(&error.desc);
                    out.end_object();
                }
            }
        })
    }

    /// One object on a line of its own.
    fn line(&self, members: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut out = Writer::with_pretty(self.is_pretty);
        out.begin_object();
        members(&mut out);
        out.end_object();
        out.into_bytes()
    }
}

/// What [`Session::reply`] takes, of a value that there is.
fn written<'v, T: Qapi>(
    result: Result<&'v T, &'v QmpError>,
) -> Result<impl FnOnce(&mut Writer) + 'v, &'v QmpError> {
    result.map(|value| |out: &mut Writer| value.write(out))
}

/// Spec "Issuing Commands": the `id` to answer with, and the request.
fn read(value: Value, has_oob: bool) -> (Option<Value>, Result<Request, QmpError>) {
    let Value::Object(mut map) = value else {
        return (None, Err(QmpError::generic("QMP input must be a JSON object")));
    };
    let id = map.remove("id");
    (id, read_members(map, has_oob))
}

fn read_members(mut map: Map<String, Value>, has_oob: bool) -> Result<Request, QmpError> {
    let member = |name: &str, what: &str| QmpError::generic(format!("QMP input member '{name}' {what}"));
    let (execute, exec_oob) = (map.remove("execute"), has_oob.then(|| map.remove("exec-oob")).flatten());
    let arguments = map.remove("arguments").unwrap_or_else(|| Value::Object(Map::new()));
    if let Some(name) = map.keys().next() {
        return Err(member(name, "is unexpected"));
    }
    if !arguments.is_object() {
        return Err(member("arguments", "must be an object"));
    }
    match (execute, exec_oob) {
        (Some(_), Some(_)) => Err(member("execute", "clashes with 'exec-oob'")),
        (Some(Value::String(name)), None) => Ok(Request { name, arguments, is_oob: false }),
        (None, Some(Value::String(name))) => Ok(Request { name, arguments, is_oob: true }),
        (Some(_), None) => Err(member("execute", "must be a string")),
        (None, Some(_)) => Err(member("exec-oob", "must be a string")),
        (None, None) => Err(QmpError::generic("QMP input lacks member 'execute'")),
    }
}

fn not_found(desc: String) -> QmpError {
    QmpError::new(ErrorClass::CommandNotFound, desc)
}

fn write_time(out: &mut Writer, since_epoch: Option<std::time::Duration>) {
    const UNKNOWN: i64 = -1;
    let (seconds, microseconds) = since_epoch.map_or((UNKNOWN, UNKNOWN), |time| {
        (i64::try_from(time.as_secs()).unwrap_or(UNKNOWN), i64::from(time.subsec_micros()))
    });
    out.begin_object();
    out.key("seconds");
    out.signed(seconds);
    out.key("microseconds");
    out.signed(microseconds);
    out.end_object();
}
