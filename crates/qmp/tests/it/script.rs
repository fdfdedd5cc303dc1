//! Golden scripts: what was sent to the C daemon, what it said, and where we answer otherwise on purpose.
//!
//! ```text
//!   ! not negotiated           once, at the top: the client does not begin with qmp_capabilities
//!   # why                      kept where it stands
//!   > {"execute":}\x01         one connection; bytes that are no plain ASCII as \xNN, the backslash as \\
//!   < {"error": …}             recorded, one line each
//!   = {"error": …}             what we say instead, under a comment that says why
//! ```
//! After the input a probe is sent. Its answer is left out; `(no answer to the probe)` says that it was swallowed.

use std::fmt::Write as _;

/// What is sent after every input, to see whether the stream is read on.
pub(crate) const PROBE: &[u8] = b" {\"execute\":\"probe\",\"id\":\"probe\"}";
/// What stands for its answer if there is none.
pub(crate) const SWALLOWED: &str = "(no answer to the probe)";

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) is_negotiated: bool,
    pub(crate) cases: Vec<Case>,
    head: String,
}

#[derive(Default)]
pub(crate) struct Case {
    pub(crate) input: Vec<u8>,
    pub(crate) recorded: Vec<String>,
    /// Comments and lines that begin with `=`.
    kept: Vec<String>,
}

impl Case {
    /// What we have to say.
    pub(crate) fn expected(&self) -> Vec<String> {
        let ours: Vec<String> =
            self.kept.iter().filter_map(|line| line.strip_prefix("= ")).map(str::to_owned).collect();
        if ours.is_empty() { self.recorded.clone() } else { ours }
    }
}

impl Script {
    pub(crate) fn parse(text: &str) -> Self {
        let mut script = Self { is_negotiated: true, ..Self::default() };
        for line in text.lines() {
            match (line.split_at_checked(2), script.cases.last_mut()) {
                (Some(("> ", input)), _) => {
                    script.cases.push(Case { input: unescaped(input), ..Case::default() });
                }
                (Some(("< ", reply)), Some(case)) => case.recorded.push(reply.to_owned()),
                (None, _) => {}
                (_, Some(case)) => case.kept.push(line.to_owned()),
                (_, None) => {
                    script.is_negotiated &= line != "! not negotiated";
                    script.head += &format!("{line}\n");
                }
            }
        }
        script
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = self.head.clone();
        for case in &self.cases {
            writeln!(text, "\n> {}", escaped(&case.input)).unwrap();
            case.recorded.iter().for_each(|line| writeln!(text, "< {line}").unwrap());
            case.kept.iter().for_each(|line| writeln!(text, "{line}").unwrap());
        }
        text
    }
}

/// The replies after the greeting and the negotiation, without the answer to the probe; `package` hides who replied.
pub(crate) fn replies(output: &str, is_negotiated: bool, package: &str) -> Vec<String> {
    let mut lines: Vec<String> = output
        .split_terminator("\r\n")
        .skip(if is_negotiated { 2 } else { 1 })
        .map(|line| line.replace(package, "PACKAGE"))
        .collect();
    match lines.last() {
        Some(line) if line.contains("\"id\": \"probe\"") => drop(lines.pop()),
        _ => lines.push(SWALLOWED.to_owned()),
    }
    lines
}

fn escaped(bytes: &[u8]) -> String {
    let escape = |&byte: &u8| match byte {
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(escape).collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        rest = match escape.strip_prefix('\\') {
            Some(after) => {
                bytes.push(b'\\');
                after
            }
            None => {
                bytes.push(u8::from_str_radix(&escape[1..3], 16).unwrap());
                &escape[3..]
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
