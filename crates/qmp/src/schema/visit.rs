//! What every type of the schema can do. Types that no macro defines are in `builtin`.
//!
//! ```text
//!   Input { value, path: file ◄ options[1], notation }     a value, and what its name is in errors: options[1].file
//!      └─ object() ─► Object ─ member("driver") … finish() ─► what nobody took is "unexpected"
//! ```
//! Members are taken in the order of the definition; the first fault is the error. Errors name the member in full.

mod builtin;

use std::fmt;

use serde_json::{Map, Value};

use super::introspect::{Builder, ObjectShape, TypeName};
use crate::wire::{Sink, Tree};

use crate::QmpError;
pub use builtin::Null;

/// How deep objects and lists of one argument may be nested. Options of a node are nested as deep as the graph that they
/// describe, so that this is also the longest chain of images that one command can spell out. Reading it takes half a
/// megabyte of stack in a release build, eight times that in a debug build.
pub const NESTING_MAX: usize = 256;

/// A type of the schema.
pub trait Qapi: Sized {
    /// How its values look in JSON; alternates tell their branches apart by it.
    const FORM: Form;

    /// The value, checked.
    ///
    /// # Errors
    /// Anything that the definition does not allow, by name.
    fn parse(input: Input<'_>) -> Result<Self, QmpError>;

    /// The value as JSON, into whatever takes it.
    fn write(&self, out: &mut impl Sink);

    /// The name of the type in `query-qmp-schema`, after describing it there.
    fn describe(schema: &mut Builder) -> TypeName;

    /// What a member of this type is if it is not said: `None` if it must be.
    #[must_use]
    fn absent() -> Option<Self> {
        None
    }

    /// Whether a member of this type is left out.
    fn is_absent(&self) -> bool {
        false
    }
}

/// The members of an object: a struct, or a struct whose tag decides on more of them.
pub trait Members: Sized {
    /// The name of the type in the QMP reference.
    const NAME: &'static str;
    /// What clients may look for in the description of the type.
    const FEATURES: &'static [&'static str] = &[];

    /// Takes the members that it knows.
    ///
    /// # Errors
    /// A member is missing or refused.
    fn take(object: &mut Object<'_>) -> Result<Self, QmpError>;

    /// Writes the members into an open object.
    fn put(&self, out: &mut impl Sink);

    /// What the members are.
    fn shape(schema: &mut Builder) -> ObjectShape;
}

/// How values look in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// Without a fraction.
    Integer,
    /// Any number.
    Number,
    /// `true`, `false`
    Boolean,
    /// `null`
    Null,
    /// All of them.
    Any,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Null => "null",
            Self::Any => "any",
        }
    }

    /// Whether a value of this form could be what `value` is meant to be.
    pub(super) fn fits(self, value: &Value, notation: Notation) -> bool {
        match value {
            Value::Null => self == Self::Null,
            Value::Bool(_) => self == Self::Boolean,
            Value::Number(number) => self == Self::Number || (self == Self::Integer && !number.is_f64()),
            Value::String(_) => {
                let is_scalar = matches!(self, Self::Integer | Self::Number | Self::Boolean);
                self == Self::String || (notation == Notation::Keyval && is_scalar)
            }
            Value::Array(_) => self == Self::Array,
            Value::Object(_) => self == Self::Object,
        }
    }
}

/// How scalars are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// As JSON does: a number is no string.
    Json,
    /// As a command line does: every scalar is a string.
    Keyval,
}

/// Where a value stands in its request.
#[derive(Debug, Clone, Copy)]
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Path::Root, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value to be parsed, and what it is called.
pub struct Input<'a> {
    value: Value,
    path: Path<'a>,
    depth: usize,
    notation: Notation,
}

impl<'a> Input<'a> {
    pub(super) fn fits(&self, form: Form) -> bool {
        form.fits(&self.value, self.notation)
    }

    /// "this is not what belongs here".
    pub(super) fn mistyped(&self, expected: &str) -> QmpError {
        let path = self.path;
        QmpError::generic(format!("Invalid parameter type for '{path}', expected: {expected}"))
    }

    /// The same of a scalar. Keys below it are what is wrong with dotted keys, not the type of the value.
    fn no_scalar(&self, expected: Form) -> QmpError {
        if self.notation == Notation::Keyval && (self.value.is_object() || self.value.is_array()) {
            return QmpError::generic(format!("Parameters '{}.*' are unexpected", self.path));
        }
        self.mistyped(expected.name())
    }

    fn expects(&self, what: &str) -> QmpError {
        QmpError::generic(format!("Parameter '{}' expects {what}", self.path))
    }

    /// The value of an enumeration that the string is.
    pub(super) fn one_of<T: Copy>(self, all: &[T], name: fn(T) -> &'static str) -> Result<T, QmpError> {
        let Value::String(text) = &self.value else { return Err(self.no_scalar(Form::String)) };
        let found = all.iter().find(|value| name(**value) == text);
        found.copied().ok_or_else(|| {
            QmpError::generic(format!("Parameter '{}' does not accept value '{text}'", self.path))
        })
    }

    /// The string that the value is.
    pub(super) fn text(self) -> Result<String, QmpError> {
        match self.value {
            Value::String(text) => Ok(text),
            _ => Err(self.no_scalar(Form::String)),
        }
    }

    /// The members of the object that the value is.
    pub(super) fn object(self) -> Result<Object<'a>, QmpError> {
        let Self { path, depth, notation, .. } = self;
        match self.value {
            Value::Object(map) if depth < NESTING_MAX => Ok(Object { map, path, depth, notation }),
            Value::Object(_) => Err(too_deep(path)),
            _ => Err(self.mistyped(Form::Object.name())),
        }
    }
}

fn too_deep(path: Path<'_>) -> QmpError {
    // The name of something nested so deep is long and helps nobody; its first part does.
    let path = path.to_string();
    let first = path.split(['.', '[']).next().unwrap_or_default();
    QmpError::generic(format!("Parameter '{first}' is nested deeper than {NESTING_MAX} levels"))
}

/// The members of an object that have not been taken yet.
pub struct Object<'a> {
    map: Map<String, Value>,
    path: Path<'a>,
    depth: usize,
    notation: Notation,
}

impl Object<'_> {
    /// Takes a member.
    ///
    /// # Errors
    /// It is refused, or missing and not optional.
    pub fn member<T: Qapi>(&mut self, name: &str) -> Result<T, QmpError> {
        let path = Path::Member(&self.path, name);
        match self.map.remove(name) {
            Some(value) => T::parse(Input { value, path, depth: self.depth + 1, notation: self.notation }),
            None => T::absent().ok_or_else(|| QmpError::generic(format!("Parameter '{path}' is missing"))),
        }
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// A member that nobody took.
    pub fn finish(self) -> Result<(), QmpError> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => {
                let path = Path::Member(&self.path, name);
                Err(QmpError::generic(format!("Parameter '{path}' is unexpected")))
            }
        }
    }
}

/// Writes a member, unless it is absent.
pub(super) fn put_member<T: Qapi>(out: &mut impl Sink, name: &str, value: &T) {
    if !value.is_absent() {
        out.key(name);
        value.write(out);
    }
}

/// A value of the schema from JSON, or from what [`crate::keyval::parse_value`] made of a command line.
///
/// # Errors
/// Anything that the definition does not allow.
pub fn parse<T: Qapi>(value: Value, notation: Notation) -> Result<T, QmpError> {
    T::parse(Input { value, path: Path::Root, depth: 0, notation })
}

/// The JSON value of a value of the schema.
#[must_use]
pub fn to_value<T: Qapi>(typed: &T) -> Value {
    let mut out = Tree::default();
    typed.write(&mut out);
    out.into_value()
}

/// [`Qapi`] for a type with [`Members`].
macro_rules! object_qapi {
    (for[$($generics:tt)*] $name:ty) => {
        impl<$($generics)*> $crate::schema::Qapi for $name {
            const FORM: $crate::schema::visit::Form = $crate::schema::visit::Form::Object;

            fn parse(input: $crate::schema::visit::Input<'_>) -> Result<Self, $crate::QmpError> {
                let mut object = input.object()?;
                let value = <Self as $crate::schema::Members>::take(&mut object)?;
                object.finish()?;
                Ok(value)
            }

            fn write(&self, out: &mut impl $crate::wire::Sink) {
                out.begin_object();
                $crate::schema::Members::put(self, out);
                out.end_object();
            }

            fn describe(
                schema: &mut $crate::schema::introspect::Builder,
            ) -> $crate::schema::introspect::TypeName {
                schema.object::<Self>()
            }
        }
    };
}
pub(super) use object_qapi;

impl<T: Members> Members for Box<T> {
    const NAME: &'static str = T::NAME;
    const FEATURES: &'static [&'static str] = T::FEATURES;

    fn take(object: &mut Object<'_>) -> Result<Self, QmpError> {
        T::take(object).map(Self::new)
    }

    fn put(&self, out: &mut impl Sink) {
        (**self).put(out);
    }

    fn shape(schema: &mut Builder) -> ObjectShape {
        T::shape(schema)
    }
}
