//! Streams that nobody well-meaning sends, limits, and text that is read back.

use drystone_qmp::schema::commands::{Command, call};
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::control::VersionInfo;
use drystone_qmp::schema::visit::NESTING_MAX;
use drystone_qmp::wire::{Decoder, Limits, Sink, Writer};
use drystone_qmp::{Incoming, QmpError, Session, Value};
use proptest::prelude::*;

fn decoded(input: &[u8], limits: Limits) -> Vec<Result<Value, QmpError>> {
    let (mut decoder, mut rest) = (Decoder::new(limits), input);
    std::iter::from_fn(|| decoder.next(&mut rest)).collect()
}

fn refusals(input: &[u8], limits: Limits) -> Vec<String> {
    decoded(input, limits).into_iter().filter_map(|result| Some(result.err()?.desc)).collect()
}

fn nested(levels: usize) -> Vec<u8> {
    [b"[".repeat(levels), b"]".repeat(levels)].concat()
}

#[test]
fn nesting_has_a_limit_and_the_stream_is_read_on() {
    assert!(matches!(decoded(&nested(1024), Limits::DEFAULT)[..], [Ok(_)]));
    let refused = refusals(&[nested(1025), b"{}".to_vec()].concat(), Limits::DEFAULT);
    assert_eq!(refused[0], "JSON nesting depth limit exceeded");
    // What closes what was never opened is an error each, as in the C daemon.
    assert_eq!(refused.len(), 1026);
    assert!(decoded(&[nested(1025), b"{}".to_vec()].concat(), Limits::DEFAULT).last().unwrap().is_ok());
}

#[test]
fn one_string_cannot_be_endless() {
    let limits = Limits { text_bytes: 100, ..Limits::DEFAULT };
    let text = format!("[\"{}\"]", "x".repeat(1000));
    let refused = refusals(text.as_bytes(), limits);
    assert_eq!(refused, ["JSON token size limit exceeded", "JSON parse error, expecting value"]);
    assert!(decoded(b"[\"x\"] ", limits)[0].is_ok());
}

#[test]
fn one_list_cannot_be_endless() {
    let limits = Limits { tokens: 100, ..Limits::DEFAULT };
    let text = format!("[{}1]", "1,".repeat(45));
    assert!(decoded(text.as_bytes(), limits)[0].is_ok());
    let text = format!("[{}", "1,".repeat(50));
    assert_eq!(refusals(text.as_bytes(), limits)[0], "JSON token count limit exceeded");
}

#[test]
fn blanks_cost_nothing() {
    let limits = Limits { text_bytes: 4, tokens: 4, nesting: 1 };
    let text = [vec![b' '; 1000], b"[".to_vec(), vec![b'\n'; 1000], b"1]".to_vec()].concat();
    assert_eq!(decoded(&text, limits), [Ok(Value::from(vec![1]))]);
}

fn negotiated() -> Session {
    let mut session = Session::new(VersionInfo::of_package("test"), false, Limits::DEFAULT);
    let mut input: &[u8] = b"{\"execute\":\"qmp_capabilities\"}";
    assert!(matches!(session.next(&mut input), Some(Incoming::Reply(_))));
    session
}

#[test]
fn nothing_is_read_while_a_command_is_answered() {
    let mut session = negotiated();
    let mut input: &[u8] = b"{\"execute\":\"query-jobs\",\"id\":1}{\"execute\":\"zz\",\"id\":2}";
    let Some(Incoming::Command(pending, Command::QueryJobs(_))) = session.next(&mut input) else { panic!() };
    let before = input;
    assert!(session.next(&mut input).is_none());
    assert_eq!(input, before);
    assert_eq!(
        session.answer::<call::QueryJobs>(pending, &Ok(Vec::new())),
        b"{\"return\": [], \"id\": 1}\r\n"
    );
    assert!(matches!(session.next(&mut input), Some(Incoming::Reply(_))));
}

#[test]
fn options_nested_too_deep_are_refused_before_the_stack_ends() {
    let node = |levels: usize| {
        let open = r#"{"driver":"qcow2","file":"f","backing":"#.repeat(levels);
        format!(r#"{{"execute":"blockdev-add","arguments":{open}"x"{}}}"#, "}".repeat(levels))
    };
    let run = move || {
        let mut session = negotiated();
        let (fits, deep) = (node(NESTING_MAX), node(1000));
        let Some(Incoming::Command(pending, _)) = session.next(&mut fits.as_bytes()) else { panic!() };
        session.answer::<call::BlockdevAdd>(pending, &Ok(Empty {}));
        let Some(Incoming::Reply(reply)) = session.next(&mut deep.as_bytes()) else { panic!() };
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.contains("Parameter 'backing' is nested deeper than 256 levels"), "{reply}");
    };
    std::thread::Builder::new().stack_size(6 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn a_pretty_monitor_indents_as_the_c_daemon_does() {
    let session = Session::new(VersionInfo::of_package("P"), true, Limits::DEFAULT);
    let expected = "{
    \"QMP\": {
        \"version\": {
            \"qemu\": {
                \"micro\": 2,
                \"minor\": 0,
                \"major\": 10
            },
            \"package\": \"P\"
        },
        \"capabilities\": [
            \"oob\"
        ]
    }
}
";
    assert_eq!(String::from_utf8(session.greeting()).unwrap(), expected.replace('\n', "\r\n"));
    let mut out = Writer::with_pretty(true);
    out.value(&Value::from(vec![Value::Array(Vec::new())]));
    assert_eq!(String::from_utf8(out.into_bytes()).unwrap(), "[\r\n    [\r\n    ]\r\n]\r\n");
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has no others", |n| n.is_finite() && n.fract() != 0.0)
            .prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Whether a text holds a noncharacter of Unicode, which is refused.
fn has_noncharacter(text: &[u8]) -> bool {
    refusals(text, Limits::DEFAULT)
        .iter()
        .any(|refusal| refusal.ends_with("is not a valid Unicode character"))
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in json(), is_pretty: bool) {
        let mut out = Writer::with_pretty(is_pretty);
        out.value(&value);
        let text = out.into_bytes();
        prop_assert!(text.is_ascii());
        prop_assume!(!has_noncharacter(&text));
        prop_assert_eq!(decoded(&text, Limits::DEFAULT), [Ok(value.clone())]);
        // Which is inexact about floating-point numbers, so that it only is asked whether this is JSON.
        prop_assert!(serde_json::from_slice::<Value>(&text).is_ok());
    }

    #[test]
    fn serde_reads_what_we_read(text in "[\\[\\]{}:,\"a1.e\\- ]{0,12}") {
        let whole = format!("[{text}]");
        if let Ok(value) = serde_json::from_str::<Value>(&whole) {
            let ours = decoded(whole.as_bytes(), Limits::DEFAULT);
            let is_stricter = ours.iter().any(|result| matches!(result, Err(error) if error.desc.ends_with("duplicate key")
                || error.desc.ends_with("number out of range") || error.desc.ends_with("expected separator in list")
                || error.desc.ends_with("expected separator in dict")));
            prop_assert!(is_stricter || ours == [Ok(value)], "{} {:?}", whole, ours);
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
        let mut session = negotiated();
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        for mut piece in [first, second] {
            while let Some(incoming) = session.next(&mut piece) {
                if let Incoming::Command(pending, _) = incoming {
                    session.answer::<call::Quit>(pending, &Ok(Empty {}));
                }
            }
            prop_assert!(piece.is_empty());
        }
    }
}
