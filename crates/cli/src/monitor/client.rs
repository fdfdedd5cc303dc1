//! The client's end of the control socket: one command, one answer.

use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_sys::path::exists;
use drystone_sys::{Address, EngineKind, Stream, Threads};
use serde_json::{Value, json};

use super::beside;
use super::server::{read_line, write_line};

/// Longest answer in bytes: a graph can be large.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Sends a command to the control socket at `path`, or to the one beside it if it is that of NBD clients, and waits
/// until it is done; what it returns.
///
/// # Errors
/// Those of the connection; what the other side says, in its words.
pub(crate) fn call(path: &Path, command: &str, arguments: &Value) -> Result<Value> {
    let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
    let answer = Threads::start(1, EngineKind::Pool)?.run_here(|local| converse(local, path, line))?;
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|cause| Error::new(Kind::Disconnected, "the answer makes no sense").because(cause))?;
    if let Some(desc) = answer.pointer("/error/desc").and_then(Value::as_str) {
        return Err(Error::new(Kind::Unsupported, desc));
    }
    let value = answer.get("return").cloned();
    value.ok_or_else(|| Error::new(Kind::Disconnected, "the answer makes no sense").at_path(path))
}

async fn converse(local: LocalRef, path: &Path, line: String) -> Result<Vec<u8>> {
    let control = beside(path);
    let path = if exists(&*local, &control).await.unwrap_or(false) { &control } else { path };
    let mut lane = Lane::new(local);
    let stream = Stream::connect(&mut lane, &Address::Unix(path.to_owned()), None).await;
    let stream = stream.map_err(|error| error.at_path(path))?;
    let (mut receiver, mut sender) = stream.split();
    write_line(&mut sender, &mut lane, &line).await?;
    let answer = read_line(&mut receiver, &mut lane, ANSWER_BYTES_MAX).await?;
    answer
        .ok_or_else(|| Error::new(Kind::Disconnected, "the other side went without an answer").at_path(path))
}
