//! `query-qmp-schema` against that of the C daemon, member by member, for every command and event that we have.
//!
//! Names of types are numbers there and here, so types are compared by what they are. `golden/schema.json` holds the C
//! daemon's entries that the comparison looks at, one per line; `golden/schema_differences.txt` every difference.

use std::collections::{BTreeMap, BTreeSet};

use drystone_qmp::schema::Qapi;
use drystone_qmp::schema::commands::Command;
use drystone_qmp::schema::events::Event;
use drystone_qmp::schema::introspect;
use drystone_qmp::wire::{Decoder, Limits, Writer};
use serde_json::Value;

/// Entries by name.
type Entries = BTreeMap<String, Value>;

pub(crate) fn by_name(entries: &Value) -> Entries {
    let named = |entry: &Value| (text(&entry["name"]).to_owned(), entry.clone());
    entries.as_array().unwrap().iter().map(named).collect()
}

/// Our own schema, through the text that a client gets.
pub(crate) fn ours() -> Value {
    let mut out = Writer::new();
    introspect::schema().write(&mut out);
    let bytes = out.into_bytes();
    Decoder::new(Limits::DEFAULT).next(&mut bytes.as_slice()).unwrap().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items<'a>(entry: &'a Value, key: &str) -> &'a [Value] {
    entry[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn found<'a>(list: &'a [Value], key: &str, name: &Value) -> Option<&'a Value> {
    list.iter().find(|item| item[key] == *name)
}

fn names(list: &[Value], key: &str) -> BTreeSet<String> {
    list.iter().map(|item| text(&item[key]).to_owned()).collect()
}

/// Walks two schemas at once.
pub(crate) struct Comparison<'a> {
    ours: &'a Entries,
    theirs: &'a Entries,
    compared: BTreeSet<(String, String)>,
    pub(crate) differences: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub(crate) fn of(ours: &'a Entries, theirs: &'a Entries) -> Self {
        let mut comparison = Self { ours, theirs, compared: BTreeSet::new(), differences: Vec::new() };
        for name in Command::NAMES.iter().chain(Event::NAMES) {
            comparison.interface(name);
        }
        comparison.differences.sort();
        comparison
    }

    /// The names of the C daemon's entries that were looked at.
    pub(crate) fn used(&self) -> BTreeSet<&str> {
        let types = self.compared.iter().map(|(_, theirs)| theirs.as_str());
        types.chain(Command::NAMES.iter().copied()).chain(Event::NAMES.iter().copied()).collect()
    }

    fn differs(&mut self, path: &str, what: impl std::fmt::Display) {
        self.differences.push(format!("{path}: {what}"));
    }

    fn interface(&mut self, name: &str) {
        let Some(theirs) = self.theirs.get(name) else { return self.differs(name, "is not theirs") };
        let ours = &self.ours[name];
        self.equal(name, ours, theirs, "meta-type");
        self.equal(name, ours, theirs, "features");
        self.equal(name, ours, theirs, "allow-oob");
        self.types(name, &ours["arg-type"], &theirs["arg-type"]);
        if ours["meta-type"] == "command" {
            self.types(&format!("{name} returns"), &ours["ret-type"], &theirs["ret-type"]);
        }
    }

    fn equal(&mut self, path: &str, ours: &Value, theirs: &Value, key: &str) {
        if ours.get(key) != theirs.get(key) {
            let shown = |entry: &Value| entry.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
            self.differs(path, format_args!("{key} is {}, theirs is {}", shown(ours), shown(theirs)));
        }
    }

    fn types(&mut self, path: &str, ours: &Value, theirs: &Value) {
        let pair = (text(ours).to_owned(), text(theirs).to_owned());
        let (ours, theirs) = (&self.ours[&pair.0], &self.theirs[&pair.1]);
        if !self.compared.insert(pair) {
            return;
        }
        self.equal(path, ours, theirs, "meta-type");
        self.equal(path, ours, theirs, "features");
        match text(&ours["meta-type"]) {
            "builtin" => {
                self.equal(path, ours, theirs, "name");
                self.equal(path, ours, theirs, "json-type");
            }
            "array" => self.types(&format!("{path}[]"), &ours["element-type"], &theirs["element-type"]),
            "enum" => {
                self.names(path, (ours, theirs), "members", "name");
                self.equal_if_complete(path, ours, theirs);
                for ours in items(ours, "members") {
                    if let Some(theirs) = found(items(theirs, "members"), "name", &ours["name"]) {
                        self.equal(&format!("{path}={}", text(&ours["name"])), ours, theirs, "features");
                    }
                }
            }
            "object" => self.objects(path, ours, theirs),
            "alternate" => self.alternates(path, ours, theirs),
            other => panic!("{path} is of meta-type {other}"),
        }
    }

    /// `values` repeats the names of the members.
    fn equal_if_complete(&mut self, path: &str, ours: &Value, theirs: &Value) {
        if names(items(ours, "members"), "name") == names(items(theirs, "members"), "name") {
            let sorted = |entry| items(entry, "values").iter().map(text).collect::<BTreeSet<_>>();
            if sorted(ours) != sorted(theirs) {
                self.differs(path, "values are others");
            }
        }
    }

    fn names(&mut self, path: &str, (ours, theirs): (&Value, &Value), list: &str, key: &str) {
        let (ours, theirs) = (names(items(ours, list), key), names(items(theirs, list), key));
        for name in ours.difference(&theirs) {
            self.differs(path, format_args!("{name} is not theirs"));
        }
        let missing: Vec<&str> = theirs.difference(&ours).map(String::as_str).collect();
        if !missing.is_empty() {
            self.differs(path, format_args!("lacks {key} {}", missing.join(" ")));
        }
    }

    fn objects(&mut self, path: &str, ours: &'a Value, theirs: &'a Value) {
        self.names(path, (ours, theirs), "members", "name");
        self.names(path, (ours, theirs), "variants", "case");
        self.equal(path, ours, theirs, "tag");
        for member in items(ours, "members") {
            let Some(other) = found(items(theirs, "members"), "name", &member["name"]) else { continue };
            let path = format!("{path}.{}", text(&member["name"]));
            self.equal(&path, member, other, "default");
            self.equal(&path, member, other, "features");
            self.types(&path, &member["type"], &other["type"]);
        }
        for variant in items(ours, "variants") {
            let Some(other) = found(items(theirs, "variants"), "case", &variant["case"]) else { continue };
            let path = format!("{path}<{}>", text(&variant["case"]));
            self.types(&path, &variant["type"], &other["type"]);
        }
    }

    /// Branches are told apart by how they look in JSON.
    fn alternates(&mut self, path: &str, ours: &'a Value, theirs: &'a Value) {
        let form = |entries: &Entries, member: &Value| match &entries[text(&member["type"])] {
            entry if entry["meta-type"] == "builtin" => text(&entry["json-type"]).to_owned(),
            entry if entry["meta-type"] == "enum" => "string".to_owned(),
            entry => text(&entry["meta-type"]).to_owned(),
        };
        let forms = |entries: &Entries, entry: &Value| -> BTreeMap<String, Value> {
            let branch = |member: &Value| (form(entries, member), member["type"].clone());
            items(entry, "members").iter().map(branch).collect()
        };
        let (ours, theirs) = (forms(self.ours, ours), forms(self.theirs, theirs));
        if !ours.keys().eq(theirs.keys()) {
            self.differs(path, format_args!("is {:?}, theirs is {:?}", ours.keys(), theirs.keys()));
        }
        for (form, ours) in &ours {
            if let Some(theirs) = theirs.get(form) {
                self.types(&format!("{path}|{form}"), ours, theirs);
            }
        }
    }
}

/// What of the C daemon's schema the comparison needs, one entry per line.
pub(crate) fn reduced(schema: &Value) -> String {
    let (ours, theirs) = (by_name(&ours()), by_name(schema));
    let comparison = Comparison::of(&ours, &theirs);
    let used: BTreeSet<&str> = comparison.used();
    let mut lines: Vec<String> = Vec::new();
    for name in used {
        if let Some(entry) = theirs.get(name) {
            lines.push(entry.to_string());
        }
    }
    format!("[\n{}\n]\n", lines.join(",\n"))
}

#[test]
fn the_schema_differs_from_the_c_daemons_only_where_it_is_said() {
    let (ours, recorded) =
        (by_name(&ours()), serde_json::from_str(include_str!("golden/schema.json")).unwrap());
    let theirs = by_name(&recorded);
    let actual = Comparison::of(&ours, &theirs).differences;
    let listed = include_str!("golden/schema_differences.txt").lines().filter(|line| !line.starts_with('#'));
    let listed: Vec<&str> = listed.filter(|line| !line.is_empty()).collect();
    let actual: Vec<&str> = actual.iter().map(String::as_str).collect();
    assert_eq!(actual, listed, "\n{}\n", actual.join("\n"));
}

#[test]
fn the_recording_holds_what_is_compared_and_no_more() {
    let recording = include_str!("golden/schema.json");
    assert_eq!(reduced(&serde_json::from_str(recording).unwrap()), recording);
}

#[test]
fn every_type_is_described_once_and_every_name_is_described() {
    let schema = ours();
    let entries = by_name(&schema);
    assert_eq!(entries.len(), schema.as_array().unwrap().len(), "names are unique");
    let keys = ["type", "arg-type", "ret-type", "element-type"];
    let mut open = vec![&schema];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(members) => {
                let types = keys.iter().filter_map(|key| members.get(*key));
                types.for_each(|name| assert!(entries.contains_key(text(name)), "{name} is not described"));
                open.extend(members.values());
            }
            _ => {}
        }
    }
}
