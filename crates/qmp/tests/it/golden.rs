//! What the C daemon was recorded to say is what a session says, however the input is cut.

use drystone_qmp::schema::commands::{Command, call};
use drystone_qmp::schema::types::control::VersionInfo;
use drystone_qmp::wire::Limits;
use drystone_qmp::{Incoming, Session};
use proptest::prelude::*;

use crate::script::{PROBE, Script, replies};

/// Stands where the session took a command: what the C daemon then said came from running it.
pub(crate) const ACCEPTED: &str = "(accepted)";
/// What a refusal of arguments by their definition looks like.
const REFUSALS: [&str; 11] = [
    "Expecting at most one JSON value",
    "Invalid parameter '",
    "Parameters '",
    "Expected '='",
    "Parameter fragment",
    "Invalid parameter type for '",
    "Parameter '",
    "' is missing",
    "' is unexpected",
    "JSON parse error",
    "QMP input",
];

fn replayed(script: &Script, input: &[u8], cuts: &[usize]) -> Vec<String> {
    let version = VersionInfo::of_package("PACKAGE");
    let mut session = Session::new(version.clone(), false, Limits { nesting: 1024, ..Limits::DEFAULT });
    let mut output = session.greeting();
    let negotiation: &[u8] = if script.is_negotiated { b"{\"execute\":\"qmp_capabilities\"}" } else { b"" };
    let whole = [negotiation, input, PROBE].concat();
    let mut start = 0;
    for end in cuts.iter().map(|cut| cut % (whole.len() + 1)).chain([whole.len()]) {
        let mut piece = &whole[start..end.max(start)];
        start = end.max(start);
        while let Some(incoming) = session.next(&mut piece) {
            output.extend(match incoming {
                Incoming::Reply(bytes) => bytes,
                Incoming::Command(pending, Command::QueryVersion(_)) => {
                    session.answer::<call::QueryVersion>(pending, &Ok(version.clone()))
                }
                Incoming::Command(pending, Command::Quit(_)) => {
                    session.answer::<call::Quit>(pending, &Ok(drystone_qmp::schema::types::common::Empty {}))
                }
                Incoming::Command(pending, _) => {
                    drop(
                        session.answer::<call::Quit>(
                            pending,
                            &Ok(drystone_qmp::schema::types::common::Empty {}),
                        ),
                    );
                    format!("{ACCEPTED}\r\n").into_bytes()
                }
            });
        }
        assert!(piece.is_empty(), "input is left though nothing is being answered");
    }
    replies(std::str::from_utf8(&output).unwrap(), script.is_negotiated, "PACKAGE")
}

pub(crate) fn agrees(expected: &[String], actual: &[String]) -> bool {
    expected.len() == actual.len()
        && expected.iter().zip(actual).all(|(expected, actual)| {
            let is_refused = REFUSALS.iter().any(|refusal| expected.contains(refusal));
            expected == actual || (actual == ACCEPTED && !is_refused)
        })
}

fn check(text: &str) {
    let script = Script::parse(text);
    assert!(!script.cases.is_empty());
    assert_eq!(script.to_text(), text, "the recorder would write it otherwise");
    let mut differences = String::new();
    for case in &script.cases {
        let (expected, actual) = (case.expected(), replayed(&script, &case.input, &[]));
        let every_byte: Vec<usize> = (0..case.input.len() + 100).collect();
        if !agrees(&expected, &actual) {
            let shown = case.input.escape_ascii();
            differences += &format!("{shown:.300}\n  expected {expected:#?}\n  actual {actual:#?}\n");
        } else {
            assert_eq!(replayed(&script, &case.input, &every_byte), actual, "cut at every byte");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn text_is_parsed_and_refused_as_the_c_daemon_does() {
    check(include_str!("golden/parse.txt"));
}

#[test]
fn arguments_are_refused_as_the_c_daemon_does() {
    check(include_str!("golden/types.txt"));
}

#[test]
fn capabilities_are_negotiated_as_the_c_daemon_does() {
    check(include_str!("golden/negotiation.txt"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cuts_do_not_matter(picks in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
                          mut cuts in prop::collection::vec(0_usize..1000, 0..8)) {
        let script = Script::parse(include_str!("golden/parse.txt"));
        let input: Vec<u8> =
            picks.iter().flat_map(|pick| pick.get(&script.cases).input.clone()).collect();
        let length = input.len() + PROBE.len() + 30;
        cuts.iter_mut().for_each(|cut| *cut %= length);
        cuts.sort_unstable();
        prop_assert_eq!(replayed(&script, &input, &cuts), replayed(&script, &input, &[]));
    }
}
