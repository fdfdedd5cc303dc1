//! Records what the installed C daemon says: `cargo run -p drystone-qmp --example record`.
//!
//! ```text
//!   tests/it/golden/*.txt     lines "> input" are sent, lines "< reply" are replaced
//!   tests/it/golden/schema.json     the entries of its query-qmp-schema that the test looks at
//! ```
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a tool for whoever changes the tests")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

#[path = "../tests/it/schema.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod schema;
#[path = "../tests/it/script.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod script;

use script::{PROBE, Script, replies};

const NEGOTIATION: &[u8] = b"{\"execute\":\"qmp_capabilities\"}";
/// Longer than the daemon thinks about anything here.
const SILENCE: Duration = Duration::from_millis(150);

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(socket: &Path) -> Daemon {
    let chardev = format!("socket,id=m,path={},server=on,wait=off", socket.display());
    let arguments = ["--chardev", &chardev, "--monitor", "chardev=m"];
    let daemon = Daemon(Command::new("qemu-storage-daemon").args(arguments).spawn().unwrap());
    while UnixStream::connect(socket).is_err() {
        std::thread::yield_now();
    }
    daemon
}

/// Everything that the daemon says until it is silent.
fn ask(socket: &Path, input: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    stream.write_all(input).unwrap();
    let mut output = Vec::new();
    let mut buffer = [0; 1 << 16];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        output.extend_from_slice(&buffer[..len]);
        if output.ends_with(b"\"id\": \"probe\"}\r\n")
            || output.windows(11).any(|w| w == b"\"id\": \"probe") && output.ends_with(b"}}\r\n")
        {
            break;
        }
    }
    String::from_utf8(output).unwrap()
}

fn package(socket: &Path) -> String {
    let greeting = ask(socket, b"");
    greeting.split("\"package\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

fn main() {
    let folder = tempdir();
    let socket = folder.join("monitor");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    for name in ["parse", "types", "negotiation"] {
        let path = golden.join(format!("{name}.txt"));
        let mut script = Script::parse(&std::fs::read_to_string(&path).unwrap());
        let daemon = start(&socket);
        let package = package(&socket);
        for case in &mut script.cases {
            let negotiation: &[u8] = if script.is_negotiated { NEGOTIATION } else { b"" };
            let output = ask(&socket, &[negotiation, &case.input, PROBE].concat());
            case.recorded = replies(&output, script.is_negotiated, &package);
        }
        drop(daemon);
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&path, script.to_text()).unwrap();
    }
    record_keyval(&golden.join("keyval.txt"));
    let daemon = start(&socket);
    let input = [NEGOTIATION, b"{\"execute\":\"query-qmp-schema\",\"id\":\"probe\"}"].concat();
    let output = ask(&socket, &input);
    let schema: serde_json::Value = serde_json::from_str(output.split("\r\n").nth(2).unwrap()).unwrap();
    std::fs::write(golden.join("schema.json"), schema::reduced(&schema["return"])).unwrap();
    drop(daemon);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// What `--blockdev` says. A second one that always fails ends the daemon if the first does not.
fn record_keyval(path: &Path) {
    let mut script = Script::parse(&std::fs::read_to_string(path).unwrap());
    for case in &mut script.cases {
        let text = String::from_utf8(case.input.clone()).unwrap();
        let arguments = ["--blockdev", &text, "--blockdev", "driver="];
        let output = Command::new("qemu-storage-daemon").args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let refusal =
            said.lines().next().unwrap().strip_prefix(&format!("qemu-storage-daemon: --blockdev {text}: "));
        case.recorded = vec![refusal.unwrap_or("(accepted)").to_owned()];
    }
    std::fs::write(path, script.to_text()).unwrap();
}

fn tempdir() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("drystone-record-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    folder
}
