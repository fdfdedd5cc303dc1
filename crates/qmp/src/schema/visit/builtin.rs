//! The types that no macro defines: scalars, lists, optional members, boxes.
//!
//! | Rust | in the schema | in JSON | on a command line |
//! |---|---|---|---|
//! | `String` | `str` | a string | anything |
//! | `bool` | `bool` | `true`, `false` | `on`, `off`, `yes`, `no`, `true`, `false`, `y`, `n` |
//! | `i64`, `u64`, `u32`, `u16` | `int` | a number without a fraction | decimal, `0x10`, `010` |
//! | `f64` | `number` | any number | any number |
//! | [`Null`] | `null` | `null` | cannot be said |
//! | [`Value`] | `any` | anything | anything, of strings |
//! | `Vec<T>` | `[T]` | an array | keys 0, 1, 2, … |
//! | `Option<T>` | an optional member | the member may be missing; `null` is no way to say so | |

use serde_json::Value;

use super::{Form, Input, NESTING_MAX, Notation, Path, Qapi, too_deep};
use crate::schema::introspect::{Builder, TypeName};
use crate::wire::Sink;
use crate::{QmpError, keyval};

impl Input<'_> {
    /// The integer that the value is.
    fn integer(&self) -> Option<i128> {
        match (&self.value, self.notation) {
            (Value::Number(number), _) => {
                number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
            }
            (Value::String(text), Notation::Keyval) => keyval::integer_of(text),
            _ => None,
        }
    }

    /// What is said about something that is not `expected`, worded as the C daemon does.
    fn no_integer(&self, expected: &str, is_integer: bool) -> QmpError {
        let is_nested = self.value.is_object() || self.value.is_array();
        match (self.notation, expected) {
            (Notation::Keyval, _) if is_nested => self.no_scalar(Form::Integer),
            (Notation::Keyval, _) if is_integer => self.expects(expected),
            (Notation::Keyval, _) => self.expects("integer"),
            (Notation::Json, "uint64") => self.expects(expected),
            (Notation::Json, "uint32_t" | "uint16_t") if is_integer => self.expects(expected),
            (Notation::Json, _) => self.no_scalar(Form::Integer),
        }
    }
}

impl Qapi for String {
    const FORM: Form = Form::String;

    fn parse(input: Input<'_>) -> Result<Self, QmpError> {
        input.text()
    }

    fn write(&self, out: &mut impl Sink) {
        out.text(self);
    }

    fn describe(schema: &mut Builder) -> TypeName {
        schema.builtin("str")
    }
}

impl Qapi for bool {
    const FORM: Form = Form::Boolean;

    fn parse(input: Input<'_>) -> Result<Self, QmpError> {
        match (&input.value, input.notation) {
            (Value::Bool(value), _) => Ok(*value),
            (Value::String(text), Notation::Keyval) => {
                keyval::bool_of(text).ok_or_else(|| input.expects("'on' or 'off'"))
            }
            _ => Err(input.no_scalar(Form::Boolean)),
        }
    }

    fn write(&self, out: &mut impl Sink) {
        out.bool(*self);
    }

    fn describe(schema: &mut Builder) -> TypeName {
        schema.builtin("bool")
    }
}

/// Integers: the type, what a value outside of it is told to be, and how it is written.
macro_rules! integer_qapi {
    ($($integer:ident $expected:literal $write:ident),*) => {$(
        impl Qapi for $integer {
            const FORM: Form = Form::Integer;

            fn parse(input: Input<'_>) -> Result<Self, QmpError> {
                let integer = input.integer();
                let fitting = integer.and_then(|integer| Self::try_from(integer).ok());
                fitting.ok_or_else(|| input.no_integer($expected, integer.is_some()))
            }

            fn write(&self, out: &mut impl Sink) {
                out.$write((*self).into());
            }

            fn describe(schema: &mut Builder) -> TypeName {
                schema.builtin("int")
            }
        }
    )*};
}
integer_qapi!(i64 "integer" signed, u64 "uint64" unsigned, u32 "uint32_t" unsigned, u16 "uint16_t" unsigned);

impl Qapi for f64 {
    const FORM: Form = Form::Number;

    fn parse(input: Input<'_>) -> Result<Self, QmpError> {
        let number = match (&input.value, input.notation) {
            (Value::Number(number), _) => number.as_f64(),
            (Value::String(text), Notation::Keyval) => text.parse().ok().filter(|n: &f64| n.is_finite()),
            _ => None,
        };
        number.ok_or_else(|| input.no_scalar(Form::Number))
    }

    fn write(&self, out: &mut impl Sink) {
        out.float(*self);
    }

    fn describe(schema: &mut Builder) -> TypeName {
        schema.builtin("number")
    }
}

/// The value `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Null;

impl Qapi for Null {
    const FORM: Form = Form::Null;

    fn parse(input: Input<'_>) -> Result<Self, QmpError> {
        if input.value.is_null() { Ok(Self) } else { Err(input.mistyped(Form::Null.name())) }
    }

    fn write(&self, out: &mut impl Sink) {
        out.null();
    }

    fn describe(schema: &mut Builder) -> TypeName {
        schema.builtin("null")
    }
}

impl Qapi for Value {
    const FORM: Form = Form::Any;

    fn parse(input: Input<'_>) -> Result<Self, QmpError> {
        Ok(input.value)
    }

    fn write(&self, out: &mut impl Sink) {
        out.value(self);
    }

    fn describe(schema: &mut Builder) -> TypeName {
        schema.builtin("any")
    }
}

impl<T: Qapi> Qapi for Vec<T> {
    const FORM: Form = Form::Array;

    fn parse(input: Input<'_>) -> Result<Self, QmpError> {
        let Input { path, depth, notation, .. } = input;
        match input.value {
            Value::Array(_) if depth >= NESTING_MAX => Err(too_deep(path)),
            Value::Array(values) => values
                .into_iter()
                .enumerate()
                .map(|(index, value)| {
                    let path = Path::Index(&path, index);
                    T::parse(Input { value, path, depth: depth + 1, notation })
                })
                .collect(),
            _ => Err(input.mistyped(Form::Array.name())),
        }
    }

    fn write(&self, out: &mut impl Sink) {
        out.begin_array();
        self.iter().for_each(|item| item.write(out));
        out.end_array();
    }

    fn describe(schema: &mut Builder) -> TypeName {
        schema.array::<T>()
    }
}

/// An optional member.
impl<T: Qapi> Qapi for Option<T> {
    const FORM: Form = T::FORM;

    fn parse(input: Input<'_>) -> Result<Self, QmpError> {
        T::parse(input).map(Some)
    }

    fn write(&self, out: &mut impl Sink) {
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn describe(schema: &mut Builder) -> TypeName {
        T::describe(schema)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Qapi> Qapi for Box<T> {
    const FORM: Form = T::FORM;

    fn parse(input: Input<'_>) -> Result<Self, QmpError> {
        T::parse(input).map(Self::new)
    }

    fn write(&self, out: &mut impl Sink) {
        (**self).write(out);
    }

    fn describe(schema: &mut Builder) -> TypeName {
        T::describe(schema)
    }
}
