//! Objects, and the tree of names in which they are found.
//!
//! ```text
//!   /  ├─ backend
//!      ├─ objects ── t0 (iothread): type, poll-max-ns, ...
//!      └─ chardevs ── m (chardev-stdio): type
//! ```
//! A path without a leading `/` names an object by the end of its path.

use drystone_base::{Error, Kind};
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::object::{
    ObjectDel, ObjectOptions, ObjectOptionsData, ObjectPropertyInfo, ObjectTypeInfo, QomGet, QomList,
    QomListProperties, QomListTypes, QomSet,
};
use drystone_qmp::{ErrorClass, QmpError, Value};

use super::{Outcome, done};
use crate::daemon::Daemon;
use crate::error::to_qmp;
use crate::objects::PROPERTIES;

/// The kind that there is, and what it is a kind of.
const IOTHREAD: &str = "iothread";
const IOTHREAD_PARENT: &str = "event-loop-base";

/// `object-add`, `--object`.
pub(crate) fn add(daemon: &Daemon, typed: ObjectOptions) -> Outcome<Empty> {
    let ObjectOptionsData::Iothread(thread) = typed.qom_type;
    // In the order of `PROPERTIES`.
    let values = [
        thread.thread_pool_min,
        thread.aio_max_batch,
        thread.thread_pool_max,
        thread.poll_max_ns,
        thread.poll_grow,
        thread.poll_shrink,
    ];
    done(daemon.objects.add(&typed.id, values))
}

/// `object-del`.
pub(super) fn del(daemon: &Daemon, which: &ObjectDel) -> Outcome<Empty> {
    if daemon.exports.uses(&which.id) {
        let text = format!("object '{}' is in use by an export", which.id);
        return done(Err(Error::new(Kind::InUse, text)));
    }
    done(daemon.objects.remove(&which.id))
}

/// What a path leads to.
enum Found {
    Root,
    Objects,
    /// There is nothing in it.
    Backend,
    Chardevs,
    Object(String),
    Chardev(&'static str),
}

fn find(daemon: &Daemon, path: &str) -> Outcome<Found> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let object = |name: &str| daemon.objects.names().into_iter().find(|known| known == name);
    let found = match (path.starts_with('/'), &parts[..]) {
        (true, []) => Some(Found::Root),
        (true, ["objects", name]) | (false, [name]) if object(name).is_some() => {
            object(name).map(Found::Object)
        }
        (_, ["objects"]) => Some(Found::Objects),
        (_, ["backend"]) => Some(Found::Backend),
        (_, ["chardevs"]) => Some(Found::Chardevs),
        (true, ["chardevs", name]) | (false, [name]) => daemon.monitors.chardev(name).map(Found::Chardev),
        _ => None,
    };
    found.ok_or_else(|| {
        let class = if path.is_empty() { ErrorClass::GenericError } else { ErrorClass::DeviceNotFound };
        QmpError::new(class, format!("there is nothing at '{path}'"))
    })
}

fn property(name: impl Into<String>, kind: impl Into<String>) -> ObjectPropertyInfo {
    ObjectPropertyInfo { name: name.into(), r#type: kind.into(), description: None, default_value: None }
}

fn iothread_properties() -> impl Iterator<Item = ObjectPropertyInfo> {
    PROPERTIES.iter().map(|known| property(known.name, "int"))
}

/// `qom-list`.
pub(super) fn list(daemon: &Daemon, which: &QomList) -> Outcome<Vec<ObjectPropertyInfo>> {
    let mut properties = vec![property("type", "string")];
    let container = |name| property(name, "child<container>");
    match find(daemon, &which.path)? {
        Found::Root => properties.extend(["backend", "objects", "chardevs"].map(container)),
        Found::Objects => properties.extend(
            daemon.objects.names().into_iter().map(|name| property(name, format!("child<{IOTHREAD}>"))),
        ),
        Found::Chardevs => properties.extend(
            daemon
                .monitors
                .chardevs()
                .into_iter()
                .map(|(name, kind)| property(name, format!("child<{kind}>"))),
        ),
        Found::Object(_) => properties.extend(iothread_properties()),
        Found::Backend | Found::Chardev(_) => {}
    }
    Ok(properties)
}

fn no_property(path: &str, name: &str) -> QmpError {
    QmpError::generic(format!("'{path}' has no property '{name}'"))
}

/// `qom-get`.
pub(super) fn get(daemon: &Daemon, which: &QomGet) -> Outcome<Value> {
    let QomGet { path, property } = which;
    let found = find(daemon, path)?;
    if property == "type" {
        let kind = match &found {
            Found::Object(_) => IOTHREAD,
            Found::Chardev(kind) => kind,
            Found::Root | Found::Objects | Found::Backend | Found::Chardevs => "container",
        };
        return Ok(kind.into());
    }
    let child = |name: Option<String>| name.map(|name| Value::from(format!("/objects/{name}")));
    let value = match found {
        Found::Object(id) => {
            daemon.objects.get(&id, property).map_err(|error| to_qmp(&error))?.map(Value::from)
        }
        Found::Objects => child(daemon.objects.names().into_iter().find(|name| name == property)),
        Found::Root if matches!(&**property, "objects" | "backend" | "chardevs") => {
            Some(format!("/{property}").into())
        }
        Found::Root | Found::Backend | Found::Chardevs | Found::Chardev(_) => None,
    };
    value.ok_or_else(|| no_property(path, property))
}

/// `qom-set`.
pub(super) fn set(daemon: &Daemon, what: &QomSet) -> Outcome<Empty> {
    let QomSet { path, property, value } = what;
    let Found::Object(id) = find(daemon, path)? else { return Err(no_property(path, property)) };
    let value = value.as_i64().ok_or_else(|| {
        QmpError::generic(format!("'{property}' cannot be set to that: a number is expected"))
    })?;
    match daemon.objects.set(&id, property, value) {
        Ok(true) => Ok(Empty {}),
        Ok(false) => Err(no_property(path, property)),
        Err(error) => Err(to_qmp(&error)),
    }
}

/// `qom-list-types`: those of this build.
pub(super) fn types(which: &QomListTypes) -> Vec<ObjectTypeInfo> {
    let info = |name: &str, parent: Option<&str>, is_abstract: bool| ObjectTypeInfo {
        name: name.to_owned(),
        r#abstract: is_abstract.then_some(true),
        parent: parent.map(str::to_owned),
    };
    let all = [
        info("container", Some("object"), false),
        info("chardev-null", Some("chardev"), false),
        info("chardev-socket", Some("chardev"), false),
        info("chardev-stdio", Some("chardev-fd"), false),
        info(IOTHREAD, Some(IOTHREAD_PARENT), false),
        info(IOTHREAD_PARENT, Some("object"), true),
        info("chardev", Some("object"), true),
        info("chardev-fd", Some("chardev"), true),
        info("object", None, true),
    ];
    let parent_of =
        |name: &str| all.iter().find(|known| known.name == name).and_then(|known| known.parent.clone());
    let implements = |known: &ObjectTypeInfo, wanted: &str| {
        std::iter::successors(Some(known.name.clone()), |name| parent_of(name)).any(|name| name == wanted)
    };
    let is_meant = |known: &&ObjectTypeInfo| {
        (known.r#abstract.is_none() || which.r#abstract == Some(true))
            && which.implements.as_deref().is_none_or(|wanted| implements(known, wanted))
    };
    all.iter().filter(is_meant).cloned().collect()
}

/// `qom-list-properties`.
pub(super) fn properties(which: &QomListProperties) -> Outcome<Vec<ObjectPropertyInfo>> {
    match &*which.typename {
        IOTHREAD => Ok(std::iter::once(property("type", "string")).chain(iothread_properties()).collect()),
        "container" | "object" => Ok(vec![property("type", "string")]),
        other => {
            let text = format!("there is no kind of objects '{other}'");
            Err(QmpError::new(ErrorClass::DeviceNotFound, text))
        }
    }
}
