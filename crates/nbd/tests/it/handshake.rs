//! What the two machines come to, whatever the pieces of the streams.

use crate::peer::{Cut, DISK_BYTES, Met, Shelf, enter, meet, shelf};
use drystone_base::{Error, Kind};
use drystone_nbd::client::{Goal, HandshakeError, Step};
use drystone_nbd::{ExportInfo, Style, TransmissionFlags, server};
use std::sync::Arc;

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

fn cuts() -> impl Iterator<Item = Cut> {
    std::iter::once(Cut::bytes()).chain((0..50).map(Cut::random))
}

#[test]
fn both_sides_agree_on_every_style() {
    for style in STYLES {
        for mut cut in cuts() {
            let (negotiated, transmission) = enter(style, &mut cut);
            let (ours, theirs) = (negotiated.session, *transmission.session());
            assert_eq!(negotiated.export, 1);
            assert_eq!((ours.style, ours.len_bytes), (style, DISK_BYTES));
            assert_eq!(theirs, ours);
            let selected = if style == Style::Simple { 0 } else { 2 };
            assert_eq!(transmission.facts().contexts.len(), selected);
            assert_eq!(theirs.flags.has(TransmissionFlags::SEND_DF), style != Style::Simple);
        }
    }
}

#[test]
fn a_list_comes_whole() {
    for mut cut in cuts() {
        let met = meet(&shelf(), Goal::List, Style::Extended, &mut cut);
        let Ok(Step::Listed(list)) = met.client else { panic!("{:?}", met.client) };
        assert_eq!(list.iter().map(|export| export.name.as_str()).collect::<Vec<_>>(), ["disk", "ödland"]);
        assert_eq!(met.server, Ok(server::Step::Aborted));
    }
}

#[test]
fn facts_come_whole_with_the_contexts_that_exist() {
    for (style, contexts) in [(Style::Simple, 0), (Style::Structured, 2), (Style::Extended, 2)] {
        for mut cut in cuts() {
            let met = meet(&shelf(), Goal::Inspect { export: String::new() }, style, &mut cut);
            let Ok(Step::Inspected(facts)) = met.client else { panic!("{:?}", met.client) };
            assert_eq!((facts.name.as_deref(), facts.len_bytes), (Some("disk"), DISK_BYTES));
            assert_eq!(facts.contexts.len(), contexts);
            assert_eq!(met.server, Ok(server::Step::Aborted));
        }
    }
}

#[test]
fn a_missing_export_is_not_found_and_both_sides_leave_in_peace() {
    for style in STYLES {
        for mut cut in cuts() {
            let goal = Goal::Enter { export: "nope".into(), contexts: vec!["a:b".into()] };
            let Met { server, client } = meet(&shelf(), goal, style, &mut cut);
            let error = client.unwrap_err();
            assert!(matches!(error, HandshakeError::Refused { .. }), "{error:?}");
            assert_eq!(Error::from(error).kind(), Kind::NotFound);
            assert_eq!(server, Ok(server::Step::Aborted));
        }
    }
}

#[test]
fn the_longest_names_fit() {
    let name = "ü".repeat(2048);
    let export = ExportInfo::new(3, &name, 1).unwrap().with_description(&name).unwrap();
    let export =
        (0..64).fold(export, |export, n| export.with_context(format!("x:{n}:{}", "c".repeat(500))).unwrap());
    let contexts = export.contexts().to_vec();
    let goal = Goal::Enter { export: name, contexts };
    let met = meet(&Shelf(vec![Arc::new(export)]), goal, Style::Extended, &mut Cut::random(1));
    let Ok(Step::Entered(transmission)) = met.client else { panic!("{:?}", met.client) };
    assert_eq!(transmission.facts().contexts.len(), 64);
}
