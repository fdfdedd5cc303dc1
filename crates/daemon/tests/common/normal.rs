//! What two daemons say, without what may differ: times, names that they make up, places on this machine, and the words
//! of errors.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

/// Members whose values depend on the host, or on when somebody looks.
const VOLATILE: &[&str] =
    &["actual-size", "date-nsec", "date-sec", "package", "vm-clock-nsec", "vm-clock-sec"];
const VOLATILE_SUFFIX: &str = "_time_ns";

/// Makes values comparable; one for all values of a session, because it counts names that were made up.
pub(crate) struct Normal {
    folder: String,
    names: BTreeMap<String, String>,
}

impl Normal {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_str().unwrap().to_owned(), names: BTreeMap::new() }
    }

    pub(crate) fn value(&mut self, value: Value) -> Value {
        match value {
            Value::Object(members) if is_graph(&members) => self.graph(members),
            Value::Object(members) => self.object(members),
            Value::Array(mut values) => {
                // Properties, in the order of somebody's hash table.
                if values.iter().all(|value| value.get("name").is_some() && value.get("type").is_some()) {
                    values.sort_by_key(|value| value["name"].to_string());
                }
                values.into_iter().map(|value| self.value(value)).collect()
            }
            Value::String(text) => Value::String(self.text(&text)),
            other => other,
        }
    }

    fn object(&mut self, members: Map<String, Value>) -> Value {
        let mut normal = Map::new();
        // How far a job was when it was stopped depends on how fast it was.
        let part = [("offset", "len"), ("current-progress", "total-progress")]
            .into_iter()
            .find(|(at, of)| members.contains_key(*of) && members.get(*at) != members.get(*of))
            .map(|(at, _)| at);
        for (key, value) in members {
            let value = match key.as_str() {
                "timestamp" => continue,
                _ if Some(key.as_str()) == part => json!("(part)"),
                "error" if value.get("class").is_some() => json!({ "class": value["class"] }),
                // Of a job, and of damage: words.
                "error" | "msg" => json!("(text)"),
                _ if VOLATILE.contains(&key.as_str()) || key.ends_with(VOLATILE_SUFFIX) => {
                    json!("(volatile)")
                }
                _ => self.value(value),
            };
            normal.insert(key, value);
        }
        Value::Object(normal)
    }

    fn text(&mut self, text: &str) -> String {
        if text.starts_with("#block") {
            let next = format!("#block-{}", self.names.len());
            return self.names.entry(text.to_owned()).or_insert(next).clone();
        }
        let text = text.replace(&self.folder, "$DIR");
        match text.strip_prefix("json:").map(serde_json::from_str::<Value>) {
            // Spaces and the order of members mean nothing.
            Some(Ok(options)) => format!("json:{options}"),
            _ => text,
        }
    }

    /// Edges by the names of their ends, because numbers and order mean nothing.
    fn graph(&mut self, members: Map<String, Value>) -> Value {
        let mut names = BTreeMap::new();
        let mut nodes = Vec::new();
        for node in members["nodes"].as_array().unwrap() {
            let name = node["name"].as_str().unwrap();
            let name = if name.starts_with("#block") { "#block" } else { name };
            names.insert(node["id"].as_u64(), name.to_owned());
            nodes.push(format!("{} {name}", node["type"].as_str().unwrap()));
        }
        let list = |value: &Value| {
            let mut words: Vec<&str> = value.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            words.sort_unstable();
            words.join(",")
        };
        let edge = |edge: &Value| {
            let end = |key: &str| names.get(&edge[key].as_u64()).cloned().unwrap_or_default();
            let (perm, shared) = (list(&edge["perm"]), list(&edge["shared-perm"]));
            let name = edge["name"].as_str().unwrap();
            format!("{} -{name}-> {} takes {perm} shares {shared}", end("parent"), end("child"))
        };
        let mut edges: Vec<String> = members["edges"].as_array().unwrap().iter().map(edge).collect();
        edges.sort_unstable();
        nodes.sort_unstable();
        json!({ "nodes": nodes, "edges": edges })
    }
}

fn is_graph(members: &Map<String, Value>) -> bool {
    members.len() == 2 && members.contains_key("nodes") && members.contains_key("edges")
}
