//! [`Tree`]: a [`Sink`] that keeps what it takes as a [`Value`].

use serde_json::{Map, Value};

use super::Sink;

/// Makes one value.
#[derive(Debug, Default)]
pub struct Tree {
    open: Vec<Open>,
    complete: Option<Value>,
}

#[derive(Debug)]
enum Open {
    Array(Vec<Value>),
    /// And the key of the next member.
    Object(Map<String, Value>, String),
}

impl Tree {
    /// The value; `null` if none was given.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.complete.unwrap_or_default()
    }

    fn add(&mut self, value: Value) {
        match self.open.last_mut() {
            Some(Open::Array(values)) => values.push(value),
            Some(Open::Object(members, key)) => {
                members.insert(std::mem::take(key), value);
            }
            None => self.complete = Some(value),
        }
    }

    fn close(&mut self) {
        match self.open.pop() {
            Some(Open::Array(values)) => self.add(Value::Array(values)),
            Some(Open::Object(members, _)) => self.add(Value::Object(members)),
            None => {}
        }
    }
}

impl Sink for Tree {
    fn begin_object(&mut self) {
        self.open.push(Open::Object(Map::new(), String::new()));
    }

    fn end_object(&mut self) {
        self.close();
    }

    fn begin_array(&mut self) {
        self.open.push(Open::Array(Vec::new()));
    }

    fn end_array(&mut self) {
        self.close();
    }

    fn key(&mut self, key: &str) {
        if let Some(Open::Object(_, next)) = self.open.last_mut() {
            key.clone_into(next);
        }
    }

    fn text(&mut self, text: &str) {
        self.add(Value::from(text));
    }

    fn bool(&mut self, value: bool) {
        self.add(Value::from(value));
    }

    fn null(&mut self) {
        self.add(Value::Null);
    }

    fn signed(&mut self, value: i64) {
        self.add(Value::from(value));
    }

    fn unsigned(&mut self, value: u64) {
        self.add(Value::from(value));
    }

    fn float(&mut self, value: f64) {
        self.add(Value::from(value));
    }

    fn value(&mut self, value: &Value) {
        self.add(value.clone());
    }
}
