//! [`Sink`]: what takes a JSON value piece by piece.

use serde_json::Value;

/// Takes values, in the order of their text: `{`, key, value, key, value, `}`. Pairs of brackets are the caller's to keep.
pub trait Sink {
    /// Opens an object; its members follow.
    fn begin_object(&mut self);
    /// Closes an object.
    fn end_object(&mut self);
    /// Opens an array; its items follow.
    fn begin_array(&mut self);
    /// Closes an array.
    fn end_array(&mut self);
    /// The key of the member that follows.
    fn key(&mut self, key: &str);
    /// A string.
    fn text(&mut self, text: &str);
    /// `true` or `false`.
    fn bool(&mut self, value: bool);
    /// `null`.
    fn null(&mut self);
    /// A signed integer.
    fn signed(&mut self, value: i64);
    /// An unsigned integer.
    fn unsigned(&mut self, value: u64);
    /// A floating-point number; JSON has none that are not finite, so these become `null`.
    fn float(&mut self, value: f64);

    /// Any value.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.null(),
            Value::Bool(value) => self.bool(*value),
            Value::String(text) => self.text(text),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(signed), _) => self.signed(signed),
                (None, Some(unsigned)) => self.unsigned(unsigned),
                (None, None) => self.float(number.as_f64().unwrap_or_default()),
            },
            Value::Array(values) => {
                self.begin_array();
                values.iter().for_each(|value| self.value(value));
                self.end_array();
            }
            Value::Object(members) => {
                self.begin_object();
                for (key, value) in members {
                    self.key(key);
                    self.value(value);
                }
                self.end_object();
            }
        }
    }
}
