//! Arguments, answers and events made up from the schema itself: what is valid is read and written back unchanged, what
//! is made invalid is refused by name.

use std::collections::BTreeMap;

use drystone_qmp::schema::Qapi;
use drystone_qmp::schema::commands::{Call, Command, call};
use drystone_qmp::schema::events::{
    BlockExportDeleted, BlockImageCorrupted, BlockIoError, BlockJobCancelled, BlockJobCompleted,
    BlockJobError, BlockJobPending, BlockJobReady, Event, JobStatusChange,
};
use drystone_qmp::schema::{Notation, parse, to_value};
use drystone_qmp::wire::{Decoder, Limits, Writer};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::schema::{by_name, ours};

/// Makes up values of the schema's types; equal seeds make equal values.
struct Maker<'a> {
    entries: &'a BTreeMap<String, Value>,
    state: u64,
}

impl<'a> Maker<'a> {
    fn below(&mut self, count: usize) -> usize {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.state >> 33).unwrap() % count
    }

    fn pick<'b>(&mut self, list: &'b Value) -> &'b Value {
        let list = list.as_array().unwrap();
        &list[self.below(list.len())]
    }

    fn make(&mut self, name: &Value, depth: usize) -> Value {
        let entry = &self.entries[name.as_str().unwrap()];
        match entry["meta-type"].as_str().unwrap() {
            "builtin" => self.builtin(entry["json-type"].as_str().unwrap()),
            "enum" => self.pick(&entry["members"])["name"].clone(),
            "array" => {
                let count = self.below(if depth > 3 { 1 } else { 3 });
                (0..count).map(|_| self.make(&entry["element-type"], depth + 1)).collect()
            }
            // The first branch is an object in those that lead back to themselves.
            "alternate" if depth > 3 => {
                self.make(&entry["members"].as_array().unwrap().last().unwrap()["type"], depth)
            }
            "alternate" => {
                let branch = self.pick(&entry["members"]);
                self.make(&branch["type"], depth + 1)
            }
            _ => Value::Object(self.object(entry, depth)),
        }
    }

    fn builtin(&mut self, json_type: &str) -> Value {
        match json_type {
            "string" => json!(["", "a", "ü€\u{1f600}", "\"\\\n"][self.below(4)]),
            // The schema does not tell 16 bits from 64.
            "int" => json!(self.below(1 << 16)),
            "number" => json!([0.5, 3.25][self.below(2)]),
            "boolean" => json!(self.below(2) == 0),
            "null" => Value::Null,
            _ => json!({"any": [1, null]}),
        }
    }

    fn object(&mut self, entry: &'a Value, depth: usize) -> Map<String, Value> {
        let mut made = Map::new();
        for member in entry["members"].as_array().unwrap() {
            let is_optional = member.get("default").is_some();
            if !is_optional || (depth < 5 && self.below(2) == 0) {
                made.insert(
                    member["name"].as_str().unwrap().to_owned(),
                    self.make(&member["type"], depth + 1),
                );
            }
        }
        if let Some(variants) = entry["variants"].as_array() {
            let tag = &made[entry["tag"].as_str().unwrap()];
            let variant = variants.iter().find(|variant| variant["case"] == *tag).unwrap();
            let entry = &self.entries[variant["type"].as_str().unwrap()];
            made.extend(self.object(entry, depth));
        }
        made
    }
}

fn written(write: impl FnOnce(&mut Writer)) -> Value {
    let mut out = Writer::new();
    write(&mut out);
    let text = out.into_bytes();
    Decoder::new(Limits::DEFAULT).next(&mut text.as_slice()).unwrap().unwrap()
}

fn again<T: Qapi>(value: &Value) -> Value {
    let typed: T = parse(value.clone(), Notation::Json).unwrap_or_else(|error| panic!("{error}: {value}"));
    assert_eq!(to_value(&typed), *value);
    written(|out| typed.write(out))
}

fn returns<C: Call>(maker: &mut Maker<'_>) {
    let made = maker.make(&maker.entries[C::NAME]["ret-type"], 0);
    assert_eq!(again::<C::Returns>(&made), made, "{}", C::NAME);
}

fn event<T: Qapi + Into<Event>>(maker: &mut Maker<'_>, name: &str) {
    let made = maker.make(&maker.entries[name]["arg-type"], 0);
    let event: Event = parse::<T>(made.clone(), Notation::Json).unwrap().into();
    assert_eq!(event.name(), name);
    assert_eq!(written(|out| event.write_data(out)), made);
}

/// Adds a member that nobody knows to an object, `depth` levels down if there are so many.
fn spoil(value: &mut Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().any(|item| spoil(item, depth)),
        Value::Object(map) => {
            if depth == 0 || !map.values_mut().any(|inner| spoil(inner, depth - 1)) {
                map.insert("zz".to_owned(), Value::Null);
            }
            true
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_command_is_read_and_written_back(seed: u64) {
        let entries = by_name(&ours());
        let mut maker = Maker { entries: &entries, state: seed };
        for name in Command::NAMES {
            let made = maker.make(&entries[*name]["arg-type"], 0);
            let command = Command::parse(name, made.clone()).unwrap();
            let command = command.unwrap_or_else(|error| panic!("{name}: {error}: {made}"));
            prop_assert_eq!(command.name(), *name);
            prop_assert_eq!(written(|out| command.write_arguments(out)), made);
        }
    }

    #[test]
    fn every_answer_and_event_is_written_as_its_schema_says(seed: u64) {
        let entries = by_name(&ours());
        let maker = &mut Maker { entries: &entries, state: seed };
        returns::<call::QueryVersion>(maker);
        returns::<call::QueryCommands>(maker);
        returns::<call::QueryQmpSchema>(maker);
        returns::<call::XDebugQueryBlockGraph>(maker);
        returns::<call::QueryBlock>(maker);
        returns::<call::QueryNamedBlockNodes>(maker);
        returns::<call::QueryBlockstats>(maker);
        returns::<call::QueryBlockExports>(maker);
        returns::<call::QomList>(maker);
        returns::<call::QomGet>(maker);
        returns::<call::QomListTypes>(maker);
        returns::<call::QomListProperties>(maker);
        returns::<call::QueryJobs>(maker);
        returns::<call::QueryBlockJobs>(maker);
        returns::<call::Quit>(maker);
        event::<JobStatusChange>(maker, "JOB_STATUS_CHANGE");
        event::<BlockJobCompleted>(maker, "BLOCK_JOB_COMPLETED");
        event::<BlockJobCancelled>(maker, "BLOCK_JOB_CANCELLED");
        event::<BlockJobError>(maker, "BLOCK_JOB_ERROR");
        event::<BlockJobReady>(maker, "BLOCK_JOB_READY");
        event::<BlockJobPending>(maker, "BLOCK_JOB_PENDING");
        event::<BlockExportDeleted>(maker, "BLOCK_EXPORT_DELETED");
        event::<BlockIoError>(maker, "BLOCK_IO_ERROR");
        event::<BlockImageCorrupted>(maker, "BLOCK_IMAGE_CORRUPTED");
    }

    #[test]
    fn what_is_wrong_is_named(seed: u64, pick in 0_usize..4) {
        let entries = by_name(&ours());
        let mut maker = Maker { entries: &entries, state: seed };
        for name in Command::NAMES.iter().filter(|name| **name != "qom-set") {
            let entry = &entries[*name]["arg-type"];
            let made = maker.make(entry, 0);
            let refusal = |value: Value| Command::parse(name, value).unwrap().map(drop).unwrap_err().desc;

            let mut unknown = made.clone();
            prop_assert!(spoil(&mut unknown, pick));
            prop_assert!(refusal(unknown).contains("zz' is unexpected"));
            for member in entries[entry.as_str().unwrap()]["members"].as_array().unwrap() {
                let member_name = member["name"].as_str().unwrap();
                let mut mistyped = made.clone();
                mistyped[member_name] = json!([[[]]]);
                let text = refusal(mistyped);
                prop_assert!(text.contains(&format!("for '{member_name}")), "{}: {}", name, text);
                if member.get("default").is_none() {
                    let mut missing = made.clone();
                    missing.as_object_mut().unwrap().remove(member_name);
                    prop_assert_eq!(refusal(missing), format!("Parameter '{member_name}' is missing"));
                }
            }
        }
    }
}
