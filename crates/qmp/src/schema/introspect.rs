//! `query-qmp-schema`: the schema described by the types that parse it.
//!
//! ```text
//!   [{"name": "blockdev-del", "meta-type": "command", "arg-type": "7", "ret-type": "0"},
//!    {"name": "7", "meta-type": "object", "members": [{"name": "node-name", "type": "str"}]}, …]
//! ```
//! Names of commands, events, members and enumeration values are an interface; names of types are numbers, so that
//! nobody takes them for one.

use std::collections::BTreeMap;

use serde_json::Value;

use super::visit::Members;
use super::{Qapi, commands, events};

/// What a type is called in the answer.
pub type TypeName = String;

qapi_enum! {
    /// What an entry describes.
    pub enum SchemaMetaType { Builtin, Enum, Array, Object, Alternate, Command, Event }
}

qapi_enum! {
    /// How values of a builtin type look in JSON.
    pub enum JSONType { String, Number, Int, Boolean, Null, Object, Array, Value }
}

qapi_union! {
    /// One entry of `query-qmp-schema`.
    pub struct SchemaInfo {
        name: String,
        features: Option<Vec<String>>,
    }
    /// What kind of entry it is.
    meta_type: SchemaMetaType => pub enum SchemaInfoKind {
        Builtin(SchemaInfoBuiltin),
        Enum(SchemaInfoEnum),
        Array(SchemaInfoArray),
        Object(ObjectShape),
        Alternate(SchemaInfoAlternate),
        Command(SchemaInfoCommand),
        Event(SchemaInfoEvent),
    }
}

qapi_struct! {
    /// A type that needs no definition.
    pub struct SchemaInfoBuiltin { json_type: JSONType }
}

qapi_struct! {
    /// An enumeration.
    pub struct SchemaInfoEnum {
        members: Vec<SchemaInfoEnumMember>,
        /// The names in `members`, as older clients know them.
        values: Vec<String> ["deprecated"],
    }
}

qapi_struct! {
    /// A value of an enumeration.
    pub struct SchemaInfoEnumMember { name: String, features: Option<Vec<String>> }
}

qapi_struct! {
    /// A list.
    pub struct SchemaInfoArray { element_type: String }
}

qapi_struct! {
    /// The members of an object.
    pub struct ObjectShape as "SchemaInfoObject" {
        members: Vec<SchemaInfoObjectMember>,
        /// The member that decides on further ones.
        tag: Option<String>,
        /// Those further ones.
        variants: Option<Vec<SchemaInfoObjectVariant>>,
    }
}

qapi_struct! {
    /// A member of an object.
    pub struct SchemaInfoObjectMember {
        name: String,
        r#type: String,
        /// Present and `null` if the member is optional.
        default: Option<Value>,
        features: Option<Vec<String>>,
    }
}

qapi_struct! {
    /// What a value of the tag adds.
    pub struct SchemaInfoObjectVariant { case: String, r#type: String }
}

qapi_struct! {
    /// A value of one of several types.
    pub struct SchemaInfoAlternate { members: Vec<SchemaInfoAlternateMember> }
}

qapi_struct! {
    /// One of those types.
    pub struct SchemaInfoAlternateMember { r#type: String }
}

qapi_struct! {
    /// A command.
    pub struct SchemaInfoCommand { arg_type: String, ret_type: String, allow_oob: Option<bool> }
}

qapi_struct! {
    /// An event.
    pub struct SchemaInfoEvent { arg_type: String }
}

/// The answer to `query-qmp-schema`.
#[must_use]
pub fn schema() -> Vec<SchemaInfo> {
    let mut builder = Builder::default();
    commands::describe(&mut builder);
    events::describe(&mut builder);
    builder.interface.into_iter().chain(builder.types.into_iter().flatten()).collect()
}

/// Collects descriptions; every type is described once, however often and deep it occurs.
#[derive(Default)]
pub struct Builder {
    /// Commands and events.
    interface: Vec<SchemaInfo>,
    /// `None` while a type is being described, which may lead back to it.
    types: Vec<Option<SchemaInfo>>,
    names: BTreeMap<String, TypeName>,
}

impl Builder {
    pub(super) fn builtin(&mut self, name: &str) -> TypeName {
        let json_type = match name {
            "str" => JSONType::String,
            "int" => JSONType::Int,
            "bool" => JSONType::Boolean,
            "number" => JSONType::Number,
            "null" => JSONType::Null,
            _ => JSONType::Value,
        };
        let described = SchemaInfoKind::Builtin(SchemaInfoBuiltin { json_type });
        self.once(Key::Public(name), &[], |_| described)
    }

    pub(super) fn array<T: Qapi>(&mut self) -> TypeName {
        let element_type = T::describe(self);
        let name = format!("[{element_type}]");
        let described = SchemaInfoKind::Array(SchemaInfoArray { element_type });
        self.once(Key::Public(&name), &[], |_| described)
    }

    pub(super) fn object<T: Members>(&mut self) -> TypeName {
        self.once(Key::Hidden(T::NAME), T::FEATURES, |schema| SchemaInfoKind::Object(T::shape(schema)))
    }

    pub(super) fn enumeration(&mut self, name: &str, values: &[(&str, &[&str])]) -> TypeName {
        let member = |(name, features): &(&str, &[&str])| SchemaInfoEnumMember {
            name: (*name).to_owned(),
            features: owned(features),
        };
        let described = SchemaInfoEnum {
            members: values.iter().map(member).collect(),
            values: values.iter().map(|(name, _)| (*name).to_owned()).collect(),
        };
        self.once(Key::Hidden(name), &[], |_| SchemaInfoKind::Enum(described))
    }

    pub(super) fn alternate(&mut self, name: &str, branches: &[fn(&mut Self) -> TypeName]) -> TypeName {
        self.once(Key::Hidden(name), &[], |schema| {
            let members = branches.iter().map(|branch| SchemaInfoAlternateMember { r#type: branch(schema) });
            SchemaInfoKind::Alternate(SchemaInfoAlternate { members: members.collect() })
        })
    }

    pub(super) fn member<T: Qapi>(&mut self, name: &str, features: &[&str]) -> SchemaInfoObjectMember {
        SchemaInfoObjectMember {
            name: name.to_owned(),
            r#type: T::describe(self),
            default: T::absent().map(|_| Value::Null),
            features: owned(features),
        }
    }

    pub(super) fn command<A: Qapi, R: Qapi>(&mut self, name: &str, features: &[&str]) {
        let (arg_type, ret_type) = (A::describe(self), R::describe(self));
        let described = SchemaInfoCommand { arg_type, ret_type, allow_oob: None };
        self.interface(name, features, SchemaInfoKind::Command(described));
    }

    pub(super) fn event<A: Qapi>(&mut self, name: &str) {
        let arg_type = A::describe(self);
        self.interface(name, &[], SchemaInfoKind::Event(SchemaInfoEvent { arg_type }));
    }

    fn interface(&mut self, name: &str, features: &[&str], meta_type: SchemaInfoKind) {
        self.interface.push(SchemaInfo { name: name.to_owned(), features: owned(features), meta_type });
    }

    /// Describes a type unless it has been.
    fn once(
        &mut self,
        key: Key<'_>,
        features: &[&str],
        describe: impl FnOnce(&mut Self) -> SchemaInfoKind,
    ) -> TypeName {
        let (Key::Public(text) | Key::Hidden(text)) = key;
        if let Some(name) = self.names.get(text) {
            return name.clone();
        }
        let index = self.types.len();
        let name = if matches!(key, Key::Public(_)) { text.to_owned() } else { index.to_string() };
        self.names.insert(text.to_owned(), name.clone());
        self.types.push(None);
        let meta_type = describe(self);
        if let Some(slot) = self.types.get_mut(index) {
            *slot = Some(SchemaInfo { name: name.clone(), features: owned(features), meta_type });
        }
        name
    }
}

/// What a type is known by here, and whether clients see it.
enum Key<'a> {
    Public(&'a str),
    Hidden(&'a str),
}

/// `None` if there are none.
fn owned(features: &[&str]) -> Option<Vec<String>> {
    (!features.is_empty()).then(|| features.iter().map(|&feature| feature.to_owned()).collect())
}
