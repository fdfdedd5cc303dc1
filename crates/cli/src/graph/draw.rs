//! A graph as a tree of lines, and for Graphviz.
//!
//! ```text
//!  NBD export 'disk'  (wants consistent-read, write; shares everything)
//!  └─ #block3: qcow2, 10 GiB, read-write
//!     ├─ file (data, metadata, primary): #block1: file, 512 KiB, read-write, top.qcow2
//!     └─ backing (cow): #block2: raw, 10 GiB, read-only
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::report::{Child, Node, Permissions, Report};
use crate::text::size_in_words;

/// The lines of the tree, each user's first.
pub(crate) fn tree(report: &Report) -> String {
    let mut tree = Tree { report, out: String::new(), drawn: BTreeSet::new() };
    for user in &report.users {
        tree.line("", &format!("{}  ({})", user.name, permissions(&user.grant)));
        if let Some(node) = user.node.as_deref().and_then(|name| report.node(name)) {
            tree.node("", "└─ ", "   ", "", node);
        }
    }
    for node in report.unused() {
        tree.node("", "", "", "", node);
    }
    tree.out
}

struct Tree<'a> {
    report: &'a Report,
    out: String,
    /// Nodes whose children have been drawn.
    drawn: BTreeSet<&'a str>,
}

impl<'a> Tree<'a> {
    fn line(&mut self, indent: &str, text: &str) {
        put(&mut self.out, format_args!("{indent}{text}\n"));
    }

    /// A node behind `branch`, and what is below it behind `below`.
    fn node(&mut self, indent: &str, branch: &str, below: &str, edge: &str, node: &'a Node) {
        let is_new = self.drawn.insert(&node.name);
        let again = if is_new || node.children.is_empty() { "" } else { "  (as above)" };
        self.line(indent, &format!("{branch}{edge}{}{again}", describe(node).join(", ")));
        if !is_new {
            return;
        }
        let indent = format!("{indent}{below}");
        for (index, child) in node.children.iter().enumerate() {
            let is_last = index + 1 == node.children.len();
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let edge = format!("{} ({}): ", child.child, child.roles.join(", "));
            if let Some(node) = self.report.node(&child.node) {
                self.node(&indent, branch, below, &edge, node);
            }
        }
    }
}

fn describe(node: &Node) -> Vec<String> {
    let mode = if node.read_only { "read-only" } else { "read-write" };
    let mut words =
        vec![format!("{}: {}", node.name, node.driver), size_in_words(node.len_bytes), mode.to_owned()];
    words.extend(node.path.clone());
    words
}

fn permissions(grant: &Permissions) -> String {
    let list = |names: &[String], all: &str| match names.len() {
        0 => "nothing".to_owned(),
        4 => all.to_owned(),
        _ => names.join(", "),
    };
    format!("wants {}; shares {}", list(&grant.wants, "everything"), list(&grant.shares, "everything"))
}

/// The graph in the language of Graphviz.
pub(crate) fn dot(report: &Report) -> String {
    let mut out = String::from("digraph blocks {\n    node [shape=box, fontname=\"monospace\"];\n");
    for node in &report.nodes {
        let label = describe(node).iter().map(|word| escape(word)).collect::<Vec<_>>().join("\\n");
        put(&mut out, format_args!("    \"node {}\" [label=\"{label}\"];\n", escape(&node.name)));
        for child in &node.children {
            dot_edge(&mut out, &node.name, child);
        }
    }
    for user in &report.users {
        let name = escape(&user.name);
        put(&mut out, format_args!("    \"user {name}\" [label=\"{name}\", shape=ellipse];\n"));
        if let Some(node) = &user.node {
            let label = escape(&permissions(&user.grant));
            let node = escape(node);
            put(&mut out, format_args!("    \"user {name}\" -> \"node {node}\" [label=\"{label}\"];\n"));
        }
    }
    out.push_str("}\n");
    out
}

fn dot_edge(out: &mut String, parent: &str, child: &Child) {
    let label = escape(&format!("{} ({})", child.child, child.roles.join(", ")));
    let grant = escape(&permissions(&child.grant));
    let (parent, node) = (escape(parent), escape(&child.node));
    let ends = format!("\"node {parent}\" -> \"node {node}\"");
    put(out, format_args!("    {ends} [label=\"{label}\\n{grant}\"];\n"));
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}

/// Writing to a string cannot fail.
fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, driver: &str, children: &[(&str, &str)]) -> Node {
        let child = |(key, node): &(&str, &str)| Child {
            child: (*key).into(),
            roles: vec!["data".into()],
            node: (*node).into(),
            grant: Permissions { wants: vec!["write".into()], shares: vec![] },
        };
        Node {
            name: name.into(),
            driver: driver.into(),
            len_bytes: 1024,
            read_only: driver == "raw",
            path: (driver == "file").then(|| format!("{name}.\"img\"")),
            children: children.iter().map(child).collect(),
        }
    }

    fn report() -> Report {
        let user = |name: &str, node: &str| super::super::report::User {
            name: name.into(),
            node: Some(node.into()),
            grant: Permissions { wants: vec!["write".into()], shares: vec!["x".into(); 4] },
        };
        Report {
            nodes: vec![
                node("f", "file", &[]),
                node("base", "raw", &[("file", "f")]),
                node("top", "qcow2", &[("file", "f"), ("backing", "base")]),
                node("lone", "raw", &[]),
            ],
            users: vec![user("export 'a'", "top"), user("export 'b'", "base")],
        }
    }

    #[test]
    fn a_tree_shows_shared_nodes_once_in_full() {
        let expected = "\
export 'a'  (wants write; shares everything)
└─ top: qcow2, 1 KiB, read-write
   ├─ file (data): f: file, 1 KiB, read-write, f.\"img\"
   └─ backing (data): base: raw, 1 KiB, read-only
      └─ file (data): f: file, 1 KiB, read-write, f.\"img\"
export 'b'  (wants write; shares everything)
└─ base: raw, 1 KiB, read-only  (as above)
lone: raw, 1 KiB, read-only
";
        assert_eq!(tree(&report()), expected);
    }

    #[test]
    fn graphviz_gets_quoted_names() {
        let dot = dot(&report());
        assert!(dot.starts_with("digraph blocks {\n") && dot.ends_with("}\n"));
        assert!(dot.contains(r#""node f" [label="f: file\n1 KiB\nread-write\nf.\"img\""];"#), "{dot}");
        assert!(
            dot.contains(
                r#""node top" -> "node base" [label="backing (data)\nwants write; shares nothing"];"#
            ),
            "{dot}"
        );
        assert!(dot.contains(r#""user export 'a'" -> "node top""#), "{dot}");
    }
}
