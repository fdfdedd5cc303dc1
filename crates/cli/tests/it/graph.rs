//! `drystone graph`: images as trees, JSON and for Graphviz.

use crate::common::serve::drystone;
use crate::common::{Ran, Scratch, run, words};

fn tool(scratch: &Scratch, line: &str) -> Ran {
    run(&drystone(), &words(line), scratch.path())
}

fn chain() -> Scratch {
    let scratch = Scratch::new("graph");
    std::fs::write(scratch.path().join("base.raw"), [7; 4096]).unwrap();
    for line in [
        "img create -q -f qcow2 -b base.raw -F raw middle.qcow2 1M",
        "img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2",
    ] {
        assert_eq!(tool(&scratch, line).status, 0);
    }
    scratch
}

#[test]
fn a_tree_has_a_line_for_each_node() {
    let scratch = chain();
    let tree = tool(&scratch, "graph top.qcow2").stdout;
    let lines: Vec<&str> = tree.lines().collect();
    assert_eq!(lines.len(), 6, "{tree}");
    assert!(lines[0].ends_with(": qcow2, 1 MiB, read-only"), "{tree}");
    assert!(
        lines[1].starts_with("├─ file (data, metadata, primary): ") && lines[1].ends_with(", top.qcow2"),
        "{tree}"
    );
    assert!(lines[2].starts_with("└─ backing (cow): "), "{tree}");
    assert!(lines[4].starts_with("   └─ backing (cow): ") && lines[4].contains("raw, 4 KiB"), "{tree}");
    assert!(lines[5].starts_with("      └─ file (filtered, primary): "), "{tree}");
}

#[test]
fn looking_changes_nothing_and_disturbs_nobody() {
    let scratch = chain();
    let before = std::fs::read(scratch.path().join("top.qcow2")).unwrap();
    let server = crate::common::serve::Serve::start(scratch.path(), &["top.qcow2"]).unwrap();
    let beside = tool(&scratch, "graph top.qcow2");
    assert_eq!(beside.status, 0, "{}", beside.stderr);
    server.stop_cleanly();
    assert!(std::fs::read(scratch.path().join("top.qcow2")).unwrap() == before);
}

#[test]
fn json_and_graphviz_name_every_node_and_edge() {
    let scratch = chain();
    let json: serde_json::Value =
        serde_json::from_str(&tool(&scratch, "graph --json top.qcow2").stdout).unwrap();
    let nodes = json["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 6);
    let top = nodes.iter().find(|node| node["children"].as_array().unwrap().len() == 2).unwrap();
    assert_eq!(
        (&top["driver"], &top["len-bytes"], &top["read-only"]),
        (&"qcow2".into(), &1_048_576.into(), &true.into())
    );
    let dot = tool(&scratch, "graph --dot top.qcow2").stdout;
    assert_eq!(dot.matches(" -> ").count(), 5, "{dot}");
    assert_eq!(dot.matches("label=").count(), 11, "{dot}");
}

#[test]
fn what_cannot_be_drawn_says_why() {
    let scratch = chain();
    for (line, text) in [
        ("graph nothere", "nothere"),
        ("graph --control nothere", "nothere"),
        ("graph --format qcow2 base.raw", "base.raw"),
    ] {
        let ran = tool(&scratch, line);
        assert!(ran.status == 1 && ran.stderr.contains(text), "{line}: {}", ran.stderr);
    }
}
