//! Objects such as I/O threads, and their properties.

use serde_json::Value;

qapi_enum! {
    /// Kinds of objects that a user can make.
    pub enum ObjectType { Iothread }
}

qapi_union! {
    /// Arguments of `object-add`, and `--object`.
    pub struct ObjectOptions { id: String }
    /// The kind, and its properties.
    qom_type: ObjectType => pub enum ObjectOptionsData {
        Iothread(IothreadProperties),
    }
}

qapi_struct! {
    /// An I/O thread.
    pub struct IothreadProperties {
        aio_max_batch: Option<i64>,
        thread_pool_min: Option<i64>,
        thread_pool_max: Option<i64>,
        poll_max_ns: Option<i64>,
        poll_grow: Option<i64>,
        poll_shrink: Option<i64>,
    }
}

qapi_struct! {
    /// Arguments of `object-del`.
    pub struct ObjectDel { id: String }
}

qapi_struct! {
    /// Arguments of `qom-list`.
    pub struct QomList { path: String }
}

qapi_struct! {
    /// Arguments of `qom-get`.
    pub struct QomGet { path: String, property: String }
}

qapi_struct! {
    /// Arguments of `qom-set`.
    pub struct QomSet { path: String, property: String, value: Value }
}

qapi_struct! {
    /// A property of an object or of a kind of objects.
    pub struct ObjectPropertyInfo {
        name: String,
        r#type: String,
        description: Option<String>,
        default_value: Option<Value>,
    }
}

qapi_struct! {
    /// Arguments of `qom-list-types`.
    pub struct QomListTypes {
        implements: Option<String>,
        r#abstract: Option<bool>,
    }
}

qapi_struct! {
    /// A kind of objects.
    pub struct ObjectTypeInfo {
        name: String,
        r#abstract: Option<bool>,
        parent: Option<String>,
    }
}

qapi_struct! {
    /// Arguments of `qom-list-properties`.
    pub struct QomListProperties { typename: String }
}
