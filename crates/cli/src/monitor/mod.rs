//! The control socket of a running `drystone serve`.
//!
//! One JSON object a line, both ways; commands of one connection run one after the other, and each is answered when it is
//! done. An `id` comes back with the answer.
//! ```text
//!  -> {"execute": "snapshot", "arguments": {"file": "/disks/new.qcow2", "export": "disk.qcow2"}, "id": 1}
//!  <- {"return": {"file": "/disks/new.qcow2", "node": "#block7"}, "id": 1}
//!  -> {"execute": "query-graph"}
//!  <- {"return": {"nodes": [...], "users": [...]}}
//!  -> {"execute": "dance"}
//!  <- {"error": {"class": "CommandNotFound", "desc": "there is no command 'dance'"}}
//! ```
//! | command | arguments | returns |
//! |---|---|---|
//! | `snapshot` | `file`: absolute path of the new overlay; `export`: of which disk, if there are several; `format`: `qcow2` | `file`, `node`: the new top of the disk |
//! | `query-graph` | | `nodes`, `users`: what `drystone graph` draws |
//!
//! Invariants: a line is at most [`LINE_BYTES_MAX`] long, and there are at most [`server::CLIENTS_MAX`] connections; what
//! is no command is answered with an error and changes nothing; a command runs to its end when its client goes.

pub(crate) mod client;
pub(crate) mod server;

use std::path::{Path, PathBuf};

use drystone_base::{Error, Kind};
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest line in bytes.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// Where the control socket is unless it is said: beside the socket of NBD clients.
pub(crate) fn beside(nbd: &Path) -> PathBuf {
    let mut path = nbd.as_os_str().to_owned();
    path.push(".ctl");
    path.into()
}

/// A command.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// Its name.
    pub(crate) execute: String,
    /// Its arguments.
    #[serde(default)]
    pub(crate) arguments: Value,
    /// Comes back with the answer.
    #[serde(default)]
    pub(crate) id: Option<Value>,
}

/// The arguments of `snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotArguments {
    /// Absolute path of the new overlay.
    pub(crate) file: String,
    /// Its format.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) format: Option<String>,
    /// Which disk; there may be only one if it is missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) export: Option<String>,
}

impl Request {
    /// Reads a line.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(line)
            .map_err(|cause| Error::new(Kind::InvalidInput, "this is no command").because(cause))
    }

    /// The arguments as the command wants them.
    pub(crate) fn arguments<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, Error> {
        let arguments = match self.arguments.take() {
            Value::Null => json!({}),
            arguments => arguments,
        };
        serde_json::from_value(arguments).map_err(|cause| {
            let text = format!("the arguments of '{}' are not right", self.execute);
            Error::new(Kind::InvalidInput, text).because(cause)
        })
    }
}

/// The line that answers a command.
pub(crate) fn answer(result: Result<Value, Error>, id: Option<Value>) -> String {
    let mut answer = match result {
        Ok(value) => json!({ "return": value }),
        Err(error) => {
            let is_unknown = error.option() == Some("execute");
            let class = if is_unknown { "CommandNotFound" } else { "GenericError" };
            json!({ "error": { "class": class, "desc": error.report() } })
        }
    };
    if let (Some(id), Value::Object(members)) = (id, &mut answer) {
        members.insert("id".into(), id);
    }
    format!("{answer}\n")
}

/// The error for a command that does not exist.
pub(crate) fn no_such_command(name: &str) -> Error {
    Error::new(Kind::Unsupported, format!("there is no command '{name}'")).in_option("execute")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_a_name_arguments_and_an_id() {
        let line = br#"{"execute": "snapshot", "arguments": {"file": "/a", "export": "b"}, "id": [1]}"#;
        let mut request = Request::parse(line).unwrap();
        assert_eq!((request.execute.as_str(), request.id.clone()), ("snapshot", Some(json!([1]))));
        let arguments: SnapshotArguments = request.arguments().unwrap();
        assert_eq!(
            (arguments.file.as_str(), arguments.format, arguments.export.as_deref()),
            ("/a", None, Some("b"))
        );
    }

    #[test]
    fn what_is_no_command_is_told_so() {
        for line in ["", "x", "[]", "{}", r#"{"execute": 1}"#, r#"{"execute": "a", "more": 1}"#] {
            assert!(Request::parse(line.as_bytes()).is_err(), "{line}");
        }
        let mut request = Request::parse(br#"{"execute": "snapshot", "arguments": {"fil": "/a"}}"#).unwrap();
        let error = request.arguments::<SnapshotArguments>().unwrap_err();
        assert!(error.report().starts_with("the arguments of 'snapshot' are not right: unknown field"));
    }

    #[test]
    fn answers_carry_the_id_and_the_class() {
        assert_eq!(answer(Ok(json!({})), Some(json!("x"))), "{\"id\":\"x\",\"return\":{}}\n");
        let line = answer(Err(no_such_command("dance")), None);
        assert!(line.contains("CommandNotFound") && line.contains("there is no command 'dance'"), "{line}");
        assert!(answer(Err(Error::new(Kind::Io, "x")), None).contains("GenericError"));
    }
}
