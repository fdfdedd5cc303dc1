//! What several themes share.

use crate::QmpError;
use crate::schema::Members;
use crate::schema::introspect::{Builder, ObjectShape};
use crate::schema::visit::{Object, object_qapi, put_member};
use crate::wire::Sink;

qapi_struct! {
    /// No members: the arguments or the answer of a command that has none.
    pub struct Empty {}
}

qapi_enum! {
    /// Yes, no, or as seems best.
    pub enum OnOffAuto { Auto, On, Off }
}

/// A member `data` that holds the members of `T`, as older unions have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Data<T> {
    /// The members.
    pub data: T,
}

/// Which is described as a type of its own per `T`.
pub trait Wrapped: Members {
    /// What it is called.
    const WRAPPER: &'static str;
}

impl<T: Wrapped + crate::schema::Qapi> Members for Data<T> {
    const NAME: &'static str = T::WRAPPER;

    fn take(object: &mut Object<'_>) -> Result<Self, QmpError> {
        Ok(Self { data: object.member("data")? })
    }

    fn put(&self, out: &mut impl Sink) {
        put_member(out, "data", &self.data);
    }

    fn shape(schema: &mut Builder) -> ObjectShape {
        ObjectShape { members: vec![schema.member::<T>("data", &[])], tag: None, variants: None }
    }
}

object_qapi!(for[T: Wrapped + crate::schema::Qapi] Data<T>);

/// Types that stand in a member `data`.
macro_rules! wrapped {
    ($($type:ident $wrapper:literal),* $(,)?) => {$(
        impl $crate::schema::types::common::Wrapped for $type {
            const WRAPPER: &'static str = $wrapper;
        }
    )*};
}
pub(super) use wrapped;
