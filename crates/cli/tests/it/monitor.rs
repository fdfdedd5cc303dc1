//! The control socket: commands, errors, and clients that do not behave.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use crate::common::serve::{Serve, drystone};
use crate::common::{Scratch, run, words};

struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(server: &Serve) -> Self {
        Self { reader: BufReader::new(UnixStream::connect(server.control()).unwrap()) }
    }

    /// Sends a line as it is; the answer.
    fn call(&mut self, line: &str) -> serde_json::Value {
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        self.answer()
    }

    fn answer(&mut self) -> serde_json::Value {
        let mut answer = String::new();
        self.reader.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"))
    }
}

fn server(scratch: &Scratch) -> Serve {
    let create = run(&drystone(), &words("img create -q -f qcow2 disk 4M"), scratch.path());
    assert_eq!(create.status, 0);
    Serve::start(scratch.path(), &["disk"]).unwrap()
}

#[test]
fn commands_are_answered_in_their_order_with_their_ids() {
    let scratch = Scratch::new("monitor");
    let server = server(&scratch);
    let mut monitor = Monitor::connect(&server);
    let file = scratch.path().join("new").to_str().unwrap().to_owned();
    let two = format!(
        "{{\"execute\": \"snapshot\", \"arguments\": {{\"file\": \"{file}\"}}, \"id\": 1}}\n{{\"execute\": \"query-graph\", \"id\": \"x\"}}"
    );
    let first = monitor.call(&two);
    assert_eq!((&first["id"], &first["return"]["file"]), (&1.into(), &file.into()));
    let second = monitor.answer();
    assert_eq!(second["id"], "x");
    let users = second["return"]["users"].as_array().unwrap();
    assert_eq!(users[0]["node"], first["return"]["node"], "the snapshot is the top now");
    assert_eq!(users[0]["wants"], serde_json::json!(["consistent-read", "write"]));
    server.stop_cleanly();
}

#[test]
fn what_is_no_command_gets_an_error_and_the_conversation_goes_on() {
    let scratch = Scratch::new("monitor");
    let server = server(&scratch);
    let mut monitor = Monitor::connect(&server);
    for (line, class, text) in [
        ("", "GenericError", "no command"),
        ("{", "GenericError", "no command"),
        ("[1]", "GenericError", "no command"),
        (r#"{"execute": "dance", "id": 7}"#, "CommandNotFound", "'dance'"),
        (r#"{"execute": "snapshot"}"#, "GenericError", "file"),
        (r#"{"execute": "snapshot", "arguments": {"file": "relative"}}"#, "GenericError", "absolute"),
        (r#"{"execute": "snapshot", "arguments": {"file": "/nowhere/x"}}"#, "GenericError", "/nowhere"),
        (r#"{"execute": "snapshot", "arguments": {"file": "/x", "format": "raw"}}"#, "GenericError", "raw"),
        (r#"{"execute": "snapshot", "arguments": {"file": "/x", "export": "b"}}"#, "GenericError", "'b'"),
    ] {
        let answer = monitor.call(line);
        assert_eq!(answer["error"]["class"], class, "{line}");
        assert!(answer["error"]["desc"].as_str().unwrap().contains(text), "{line}: {answer}");
    }
    assert!(monitor.call(r#"{"execute": "query-graph"}"#)["return"].is_object());
    server.stop_cleanly();
}

#[test]
fn clients_that_do_not_behave_disturb_nobody() {
    let scratch = Scratch::new("monitor");
    let server = server(&scratch);
    let mut endless = UnixStream::connect(server.control()).unwrap();
    let _ = endless.write_all(&vec![b'x'; 1 << 20]);
    let mut nothing = Vec::new();
    let _ = endless.read_to_end(&mut nothing);
    assert!(nothing.is_empty(), "a line without an end ends the connection");
    let mut half = UnixStream::connect(server.control()).unwrap();
    half.write_all(b"{\"execute\"").unwrap();
    let silent: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(server.control()).unwrap()).collect();
    server.connect("").write(0, b"x").unwrap();
    drop(silent);
    drop(half);
    let mut monitor = Monitor::connect(&server);
    // The places of those that have gone are free as soon as their end is seen.
    let mut line = String::new();
    while line.is_empty() {
        let _ = monitor.reader.get_mut().write_all(b"{\"execute\": \"query-graph\"}\n");
        if monitor.reader.read_line(&mut line).is_err() || line.is_empty() {
            monitor = Monitor::connect(&server);
        }
    }
    assert!(line.contains("return"), "{line}");
    let waiting = UnixStream::connect(server.control()).unwrap();
    server.stop_cleanly();
    drop(waiting);
}
