//! Texts that were made to harm who parses them.

use drystone_blockdev::options::Options;
use drystone_qmp::schema::types::control::VersionInfo;
use drystone_qmp::wire::{Decoder, Limits};
use drystone_qmp::{Incoming, QmpError, Session, Value};

fn values(text: &[u8]) -> Vec<Result<Value, QmpError>> {
    let (mut decoder, mut rest) = (Decoder::new(Limits::DEFAULT), text);
    std::iter::from_fn(|| decoder.next(&mut rest)).collect()
}

#[test]
fn numbers_of_any_length_are_numbers_or_errors() {
    let long = "1".repeat(100_000);
    for (text, is_number) in [
        ("18446744073709551615", true),
        ("18446744073709551616", true),
        ("-9223372036854775809", true),
        ("1e308", true),
        ("1e309", false),
        ("-1e99999999999999999999", false),
        ("1e-99999999999999999999", true),
        (long.as_str(), false),
        ("00", false),
        ("-", false),
    ] {
        let found = values(format!("[{text}]").as_bytes());
        assert_eq!(
            matches!(found[..], [Ok(_)]),
            is_number,
            "{}: {:?}",
            &text[..text.len().min(40)],
            found.first()
        );
    }
}

#[test]
fn text_that_is_no_text_is_refused_and_the_stream_is_read_on() {
    for bytes in [
        &b"\xe0\x80\xaf"[..], // a slash in three
        b"\xed\xa0\x80",      // half of a pair
        b"\xf4\x90\x80\x80",  // behind the last character
        b"\xf8\x88\x80\x80\x80",
        b"\xff",
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\\x41",
        b"\n",
    ] {
        let found = values(&[b"\"", bytes, b"\" {}"].concat());
        assert!(found.first().is_some_and(Result::is_err), "{}: {found:?}", bytes.escape_ascii());
        let last = values(&[b"\"", bytes, b"\" \n\n {\"a\": 1} "].concat());
        assert!(last.last().is_some_and(Result::is_ok), "{}: {last:?}", bytes.escape_ascii());
    }
}

#[test]
fn a_member_that_is_said_twice_is_refused_wherever_json_is_read() {
    let text = r#"{"driver": "raw", "file.filename": "seen", "file.filename": "opened"}"#;
    assert!(values(text.as_bytes())[0].as_ref().unwrap_err().desc.contains("duplicate key"));
    assert!(Options::from_json(text).unwrap_err().report().contains("given twice"));
    let nested = r#"{"file": {"filename": "seen"}, "file.filename": "opened"}"#;
    assert!(Options::from_json(nested).unwrap_err().report().contains("given twice"));
}

#[test]
fn an_id_of_any_shape_comes_back_and_costs_its_own_length() {
    let mut session = Session::new(VersionInfo::of_package("test"), false, Limits::DEFAULT);
    let id = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let request = format!(r#"{{"execute": "no-such-command", "id": {id}}}"#);
    let mut rest = request.as_bytes();
    let Some(Incoming::Reply(reply)) = session.next(&mut rest) else { panic!() };
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.contains(&id) && reply.len() < request.len() + 200, "{reply}");
}
