//! QMP: what a client sends, and JSON.

use drystone_qmp::schema::commands::call;
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::control::VersionInfo;
use drystone_qmp::wire::{Decoder, Limits, Sink, Writer};
use drystone_qmp::{Incoming, QmpError, Session, Value};

use crate::Target;
use crate::input::{Input, pieces};

/// A monitor under a client.
pub const SESSION: Target = Target {
    name: "qmp_session",
    run: session,
    seeds: || SESSIONS.iter().map(|text| [&b"\x07"[..], text.as_bytes()].concat()).collect(),
    words: &[
        b"{\"execute\":\"qmp_capabilities\"}",
        b"\"arguments\":{",
        b"\"id\":",
        b"\"exec-oob\":",
        b"blockdev-add",
        b"transaction",
        b"\"driver\":\"qcow2\"",
        b"[[[[[[[[",
        b"{\"a\":{\"a\":",
        b"'",
        b"\\u0000",
        b"1e999",
    ],
    len_max: 4096,
    mutations: 6000,
};

/// One text, read by us and by another.
pub const JSON: Target = Target {
    name: "json",
    run: json,
    seeds: || JSONS.iter().map(|text| text.as_bytes().to_vec()).collect(),
    words: &[
        b"null",
        b"true",
        b"false",
        b"\\u0041",
        b"\\ud83d\\ude00",
        b"\\n",
        b"\"a\":",
        b"-0",
        b"1e5",
        b"0.5",
        b"9223372036854775807",
        b"18446744073709551615",
        b"[",
        b"]",
        b"{",
        b"}",
        b"'",
    ],
    len_max: 1024,
    mutations: 20_000,
};

const SESSIONS: &[&str] = &[
    r#"{"execute":"qmp_capabilities"}{"execute":"query-version","id":1}"#,
    r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"exec-oob":"quit"} {"execute":"quit","id":{"a":[1,2.5,null]}}"#,
    r#"{"execute":"qmp_capabilities"}
{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"n","file":{"driver":"file","filename":"x"},"backing":null}}
{"execute":"transaction","arguments":{"actions":[{"type":"blockdev-snapshot-sync","data":{"device":"n","snapshot-file":"y"}}]}}"#,
    r#"{"execute":"qmp_capabilities"}{"execute":"block-export-add","arguments":{"type":"nbd","id":"e","node-name":"n","writable":true}}{"execute":"nonsense"}[]1 "#,
];

const JSONS: &[&str] = &[
    r#"{"a": [1, -2, 3.5e2, true, false, null], "b": {"c": "\u00e4\n\"\\ \ud83d\ude00"}}"#,
    "[[], {}, [{}], 18446744073709551615, -9223372036854775808, 1e300]",
    "'single'",
];

/// `[how it is cut] bytes`: understood the same when it arrives at once.
fn session(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cut = input.byte();
    let in_pieces = converse(input.rest(), cut);
    assert_eq!(in_pieces, converse(input.rest(), 0), "the answers depend on how the requests arrive");
}

/// Everything that a session answers.
fn converse(bytes: &[u8], cut: u8) -> Vec<u8> {
    let mut session = Session::new(VersionInfo::of_package("fuzz"), false, Limits::DEFAULT);
    let mut out = session.greeting();
    for mut piece in pieces(bytes, cut) {
        while let Some(incoming) = session.next(&mut piece) {
            match incoming {
                Incoming::Reply(reply) => out.extend(reply),
                Incoming::Command(pending, command) => {
                    // Printing walks all of it.
                    out.extend(format!("{command:?}\n").into_bytes());
                    out.extend(session.answer::<call::Quit>(pending, &Ok(Empty {})));
                }
            }
        }
        assert!(piece.is_empty(), "input is left while nothing is being answered");
    }
    out
}

fn values(text: &[u8]) -> Vec<Result<Value, QmpError>> {
    let (mut decoder, mut rest) = (Decoder::new(Limits::DEFAULT), text);
    std::iter::from_fn(|| decoder.next(&mut rest)).collect()
}

fn json(text: &[u8]) {
    // A number at the end waits for the byte behind it.
    let ours = values(&[text, b" "].concat());
    for value in ours.iter().flatten() {
        let mut out = Writer::new();
        out.value(value);
        let written = [&out.into_bytes()[..], b" "].concat();
        let again = values(&written);
        let is_same = matches!(&again[..], [Ok(again)] if same(again, value));
        let is_refused = matches!(&again[..], [Err(_), ..]) && has_noncharacter(value);
        assert!(is_same || is_refused, "{value:?} is read back as {again:?}");
        assert!(serde_json::from_slice::<Value>(&written).is_ok(), "what is written is no JSON");
    }
    let Ok(theirs) = serde_json::from_slice::<Value>(text) else { return };
    match &ours[..] {
        [Ok(ours)] => assert!(same(ours, &theirs), "{ours:?} is not {theirs:?}"),
        _ => assert!(ours.iter().any(|value| value.as_ref().is_err_and(is_stricter)), "{ours:?}"),
    }
}

/// What is refused although it is JSON, as the C daemon does.
fn is_stricter(error: &QmpError) -> bool {
    [
        "duplicate key",
        "number out of range",
        "is not a valid Unicode character",
        "limit exceeded",
        "expected separator",
    ]
    .iter()
    .any(|text| error.desc.contains(text))
}

fn has_noncharacter(value: &Value) -> bool {
    let is_one = |c: char| {
        matches!(u32::from(c) & 0xffff, 0xfffe..) || matches!(u32::from(c), 0xfdd0..=0xfdef) || c == '\0'
    };
    match value {
        Value::String(text) => text.chars().any(is_one),
        Value::Array(items) => items.iter().any(has_noncharacter),
        Value::Object(members) => {
            members.iter().any(|(key, value)| key.chars().any(is_one) || has_noncharacter(value))
        }
        _ => false,
    }
}

/// The same but for the last digit of a fraction, which the other reader is free to lose.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= a.abs() * 1e-15
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}
