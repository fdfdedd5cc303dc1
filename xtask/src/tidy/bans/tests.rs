//! Each ban on the smallest file that breaks it, and on the nearest one that does not.

use super::super::lines;
use super::super::tree::Tree;
use super::*;

/// The rules found in one file, in order.
fn found(path: &str, text: &str) -> Vec<&'static str> {
    check(&Tree::of(&[(path, text)]).sources()).into_iter().map(|finding| finding.rule).collect()
}

const CORE: &str = "crates/core/src/a.rs";
const NONE: [&str; 0] = [];

#[test]
fn the_operating_system_is_out_of_bounds_outside_sys() {
    let text =
        "use std::fs;\nfn a() { std::net::TcpStream::connect(b); }\nuse std::os::unix::net::UnixStream;";
    assert_eq!(found(CORE, text), ["files", "sockets", "sockets"]);
    assert_eq!(found("crates/sys/src/a.rs", text), NONE);
    assert_eq!(found("crates/testkit/src/a.rs", text), NONE);
    assert_eq!(found("crates/core/tests/it/a.rs", text), NONE);
    assert_eq!(found("xtask/src/a.rs", text), NONE);
    assert_eq!(found(CORE, &format!("#[cfg(test)]\nmod tests {{\n{text}\n}}")), NONE);
}

#[test]
fn use_trees_are_followed() {
    let text = "use std::{\n  collections::{BTreeMap, btree_map},\n  fs::{self, File},\n  io,\n};\nuse std::{thread::sleep};";
    let findings = check(&Tree::of(&[(CORE, text)]).sources());
    assert_eq!(lines(&findings), [format!("{CORE}:3: files"), format!("{CORE}:6: sleep")]);
}

#[test]
fn a_path_that_only_begins_alike_is_fine() {
    assert_eq!(
        found(CORE, "use std::{fsx, network};\nuse core::net::SocketAddr;\nuse std::os::fd::OwnedFd;"),
        NONE
    );
}

#[test]
fn time_is_not_ours_to_take() {
    assert_eq!(found(CORE, "fn a() {\nInstant::now();\nstd::time::SystemTime::now(); }"), ["clock", "clock"]);
    assert_eq!(found(CORE, "fn a(now: Instant) -> Instant { now }"), NONE);
    assert_eq!(found("crates/core/tests/it/a.rs", "fn a() { Instant::now(); }"), NONE);
}

#[test]
fn no_test_sleeps() {
    assert_eq!(found("crates/core/tests/it/a.rs", "fn a() { std::thread::sleep(b); }"), ["sleep"]);
    assert_eq!(found("crates/core/tests/it/a.rs", "fn a() { thread::sleep(b); }"), ["sleep"]);
    assert_eq!(found("crates/core/src/a.rs", "async fn a(task: &mut Task) { task.sleep(b).await }"), NONE);
}

#[test]
fn macros_are_found_as_macros() {
    assert_eq!(found(CORE, "thread_local! { static A: u8 = 0; }"), ["thread-local"]);
    assert_eq!(found(CORE, "fn a() { futures::select! {} }"), ["select"]);
    assert_eq!(found(CORE, "fn select(todo: u8) { select(todo) }"), NONE);
    assert_eq!(
        found("crates/core/tests/it/a.rs", "fn a() { todo!() }\nfn b() { unimplemented!() }"),
        ["unfinished"; 2]
    );
}

#[test]
fn unfinished_work_is_found_in_comments_and_not_in_strings() {
    assert_eq!(found(CORE, "// TODO: more\n/* FIXME */"), ["unfinished", "unfinished"]);
    assert_eq!(found(CORE, "const A: &str = \"TODO\";"), NONE);
}

#[test]
fn no_test_is_ignored() {
    assert_eq!(found("crates/core/tests/it/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}"), ["ignored"]);
}

#[test]
fn a_lint_is_lifted_with_a_reason() {
    assert_eq!(found(CORE, "#[allow(dead_code)]\nfn a() {}"), ["lint-reason"]);
    assert_eq!(found(CORE, "#![expect(clippy::cast_sign_loss)]\nfn a() {}"), ["lint-reason"]);
    assert_eq!(found(CORE, "#[cfg_attr(x, allow(dead_code))]\nfn a() {}"), ["lint-reason"]);
    assert_eq!(found(CORE, "#[expect(clippy::cast_sign_loss, reason = \"checked\")]\nfn a() {}"), NONE);
    assert_eq!(
        found(CORE, "#[expect(clippy::as_conversions, reason = \"many\")]\nfn a() {}"),
        ["cast-blanket"]
    );
}

#[test]
fn a_call_named_like_a_lint_level_is_not_an_attribute() {
    assert_eq!(found(CORE, "fn a() { b.expect(\"c\"); allow(d); let e = [f.expect(\"g\")]; }"), NONE);
}

#[test]
fn a_map_needs_an_order_or_a_fixed_hasher_where_runs_must_repeat() {
    for text in [
        "fn a(b: HashMap<u8, Vec<(u8, u8)>>) {}",
        "fn a() { HashMap::new(); }",
        "fn a() { b.collect::<HashSet<u8>>(); }",
        "fn a(b: HashMap::<fn(u8, u8) -> u8, u8,>) {}",
        "fn a(b: RandomState) {}",
    ] {
        assert_eq!(found(CORE, text), ["random-map"], "{text}");
        assert_eq!(found("crates/sys/src/a.rs", text), NONE);
    }
    for text in [
        "use std::collections::HashMap;",
        "fn a(b: HashMap<u8, u8, Fixed>, c: HashSet<u8, Fixed>) {}",
        "fn a() { HashMap::with_hasher(b); }",
    ] {
        assert_eq!(found(CORE, text), NONE, "{text}");
    }
}
