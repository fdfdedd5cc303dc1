//! The macros that define the types of the schema, so that what parses, what is written and what is described cannot
//! differ. Names are said in [`super`]. `["unstable"]` after a member, value or command is a feature of it.
//!
//! | macro | defines |
//! |---|---|
//! | `qapi_struct!` | an object with fixed members; `Option<T>` is an optional one |
//! | `qapi_enum!` | a string out of a list |
//! | `qapi_union!` | an object with a tag that decides on further members, in the same object |
//! | `qapi_alternate!` | a value of one of several types that look different in JSON |
//! | `qapi_commands!`, `qapi_events!` | all commands, all events |

/// The name of a type: the literal if there is one.
macro_rules! type_name {
    ($name:ident) => {
        stringify!($name)
    };
    ($name:ident $literal:literal) => {
        $literal
    };
}

macro_rules! qapi_struct {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $(as $qapi:literal)? $([$($type_feature:literal),+])? {
            $($(#[$member_meta:meta])*
            $member:ident $(as $wire:literal)?: $type:ty $([$($feature:literal),+])?),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "members whose names say all")]
        pub struct $name {
            $($(#[$member_meta])* pub $member: $type,)*
        }

        impl $crate::schema::Members for $name {
            const NAME: &'static str = type_name!($name $($qapi)?);

            #[allow(unused_variables, reason = "some have no members")]
            fn take(object: &mut $crate::schema::visit::Object<'_>) -> Result<Self, $crate::QmpError> {
                Ok(Self {
                    $($member: object.member($crate::schema::name::wire_name!($member $($wire)?))?,)*
                })
            }

            #[allow(unused_variables, reason = "some have no members")]
            fn put(&self, out: &mut impl $crate::wire::Sink) {
                $($crate::schema::visit::put_member(
                    out,
                    $crate::schema::name::wire_name!($member $($wire)?),
                    &self.$member,
                );)*
            }

            #[allow(unused_variables, reason = "some have no members")]
            fn shape(
                schema: &mut $crate::schema::introspect::Builder,
            ) -> $crate::schema::introspect::ObjectShape {
                let members = vec![$(schema.member::<$type>(
                    $crate::schema::name::wire_name!($member $($wire)?),
                    &[$($($feature),+)?],
                )),*];
                $crate::schema::introspect::ObjectShape { members, tag: None, variants: None }
            }

            const FEATURES: &'static [&'static str] = &[$($($type_feature),+)?];
        }

        $crate::schema::visit::object_qapi!(for[] $name);
    };
}

macro_rules! qapi_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$value_meta:meta])*
            $value:ident $(as $wire:literal)? $([$($feature:literal),+])?),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "values whose names say all")]
        pub enum $name {
            $($(#[$value_meta])* $value,)*
        }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$value),*];

            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $crate::schema::name::wire_name!($value $($wire)?),)*
                }
            }
        }

        impl $crate::schema::Qapi for $name {
            const FORM: $crate::schema::visit::Form = $crate::schema::visit::Form::String;

            fn parse(input: $crate::schema::visit::Input<'_>) -> Result<Self, $crate::QmpError> {
                input.one_of(Self::ALL, Self::name)
            }

            fn write(&self, out: &mut impl $crate::wire::Sink) {
                out.text(self.name());
            }

            fn describe(
                schema: &mut $crate::schema::introspect::Builder,
            ) -> $crate::schema::introspect::TypeName {
                schema.enumeration(
                    stringify!($name),
                    &[$((Self::$value.name(), &[$($($feature),+)?])),*],
                )
            }
        }
    };
}

macro_rules! qapi_union {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$member_meta:meta])*
            $member:ident $(as $wire:literal)?: $type:ty $([$($feature:literal),+])?),* $(,)?
        }
        $(#[$tag_meta:meta])*
        $tag:ident: $tag_type:ident => pub enum $kind:ident {
            $($case:ident($branch:ty)),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "members whose names say all")]
        pub struct $name {
            $($(#[$member_meta])* pub $member: $type,)*
            $(#[$tag_meta])*
            pub $tag: $kind,
        }

        $(#[$tag_meta])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "cases are those of the tag")]
        pub enum $kind {
            $($case($branch),)*
        }

        impl $kind {
            /// The tag.
            #[must_use]
            pub const fn tag(&self) -> $tag_type {
                match self {
                    $(Self::$case(_) => $tag_type::$case,)*
                }
            }
        }

        impl $crate::schema::Members for $name {
            const NAME: &'static str = stringify!($name);

            fn take(object: &mut $crate::schema::visit::Object<'_>) -> Result<Self, $crate::QmpError> {
                let tag: $tag_type = object.member($crate::schema::name::wire_name!($tag))?;
                $(let $member = object.member($crate::schema::name::wire_name!($member $($wire)?))?;)*
                let $tag = match tag {
                    $($tag_type::$case => $kind::$case($crate::schema::Members::take(object)?),)*
                };
                Ok(Self { $($member,)* $tag })
            }

            fn put(&self, out: &mut impl $crate::wire::Sink) {
                let tag = self.$tag.tag();
                $crate::schema::visit::put_member(out, $crate::schema::name::wire_name!($tag), &tag);
                $($crate::schema::visit::put_member(
                    out,
                    $crate::schema::name::wire_name!($member $($wire)?),
                    &self.$member,
                );)*
                match &self.$tag {
                    $($kind::$case(branch) => $crate::schema::Members::put(branch, out),)*
                }
            }

            fn shape(
                schema: &mut $crate::schema::introspect::Builder,
            ) -> $crate::schema::introspect::ObjectShape {
                use $crate::schema::introspect::{ObjectShape, SchemaInfoObjectVariant};
                let tag = $crate::schema::name::wire_name!($tag);
                let members = vec![
                    schema.member::<$tag_type>(tag, &[]),
                    $(schema.member::<$type>(
                        $crate::schema::name::wire_name!($member $($wire)?),
                        &[$($($feature),+)?],
                    ),)*
                ];
                let variants = vec![$(SchemaInfoObjectVariant {
                    case: $tag_type::$case.name().to_owned(),
                    r#type: schema.object::<$branch>(),
                }),*];
                ObjectShape { members, tag: Some(tag.to_owned()), variants: Some(variants) }
            }
        }

        $crate::schema::visit::object_qapi!(for[] $name);
    };
}

macro_rules! qapi_alternate {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$branch_meta:meta])* $branch:ident($type:ty)),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $($(#[$branch_meta])* $branch($type),)*
        }

        impl $crate::schema::Qapi for $name {
            const FORM: $crate::schema::visit::Form = $crate::schema::visit::Form::Any;

            fn parse(input: $crate::schema::visit::Input<'_>) -> Result<Self, $crate::QmpError> {
                $(if input.fits(<$type as $crate::schema::Qapi>::FORM) {
                    return <$type as $crate::schema::Qapi>::parse(input).map(Self::$branch);
                })*
                Err(input.mistyped(stringify!($name)))
            }

            fn write(&self, out: &mut impl $crate::wire::Sink) {
                match self {
                    $(Self::$branch(value) => $crate::schema::Qapi::write(value, out),)*
                }
            }

            fn describe(
                schema: &mut $crate::schema::introspect::Builder,
            ) -> $crate::schema::introspect::TypeName {
                schema.alternate(
                    stringify!($name),
                    &[$(<$type as $crate::schema::Qapi>::describe),*],
                )
            }
        }
    };
}

macro_rules! qapi_commands {
    ($($(#[$meta:meta])*
    $command:ident = $name:literal($arguments:ty) $(-> $returns:ty)? $([$($feature:literal),+])?;)*) => {
        /// A command and its arguments.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Command {
            $($(#[$meta])* $command($arguments),)*
        }

        impl Command {
            /// The names of all commands.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name on the wire.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$command(_) => $name,)*
                }
            }

            /// The command of a name, with its arguments; `None` if there is none.
            ///
            /// # Errors
            /// Inside the `Option`: the arguments are not what the command takes.
            pub fn parse(name: &str, arguments: $crate::Value) -> Option<Result<Self, $crate::QmpError>> {
                use $crate::schema::visit::{Notation, parse};
                match name {
                    $($name => Some(parse(arguments, Notation::Json).map(Self::$command)),)*
                    _ => None,
                }
            }

            /// Writes the arguments, as an object.
            pub fn write_arguments(&self, out: &mut impl $crate::wire::Sink) {
                match self {
                    $(Self::$command(arguments) => $crate::schema::Qapi::write(arguments, out),)*
                }
            }
        }

        /// One type per command, to say which command an answer is for.
        pub mod call {
            $($(#[$meta])* #[derive(Debug, Clone, Copy)] pub struct $command;)*
        }

        $(impl Call for call::$command {
            type Arguments = $arguments;
            type Returns = returns!($($returns)?);
            const NAME: &'static str = $name;
        })*

        pub(super) fn describe(schema: &mut $crate::schema::introspect::Builder) {
            $(schema.command::<$arguments, returns!($($returns)?)>($name, &[$($($feature),+)?]);)*
        }
    };
}

/// What a command returns: nothing unless said.
macro_rules! returns {
    () => {
        $crate::schema::types::common::Empty
    };
    ($returns:ty) => {
        $returns
    };
}

macro_rules! qapi_events {
    ($($(#[$meta:meta])* $event:ident = $name:literal;)*) => {
        /// Something that happened, told to every client that has negotiated.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event {
            $($(#[$meta])* $event($event),)*
        }

        impl Event {
            /// The names of all events.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name on the wire.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$event(_) => $name,)*
                }
            }

            /// Writes the data, as an object.
            pub fn write_data(&self, out: &mut impl $crate::wire::Sink) {
                match self {
                    $(Self::$event(data) => $crate::schema::Qapi::write(data, out),)*
                }
            }
        }

        $(impl From<$event> for Event {
            fn from(data: $event) -> Self {
                Self::$event(data)
            }
        })*

        pub(super) fn describe(schema: &mut $crate::schema::introspect::Builder) {
            $(schema.event::<$event>($name);)*
        }
    };
}
