//! [`Objects`]: what `--object` and `object-add` make. This build has one kind: `iothread`.
//!
//! A thread outlives its object, and serves the next one: threads end with the process. When there are as many as there
//! can be, further objects share threads.
//!
//! Not here: paths (`command::object`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use drystone_base::{Error, Kind, Result};
use drystone_sys::{ThreadHandle, ThreadStarter};

/// A property of an I/O thread. This build's threads do not poll, so they are kept and not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Property {
    /// Its name.
    pub(crate) name: &'static str,
    default: i64,
}

/// Release 10.0 "iothread": its properties.
pub(crate) const PROPERTIES: [Property; 6] = [
    Property { name: "thread-pool-min", default: 0 },
    Property { name: "aio-max-batch", default: 0 },
    Property { name: "thread-pool-max", default: 64 },
    Property { name: "poll-max-ns", default: 32_768 },
    Property { name: "poll-grow", default: 0 },
    Property { name: "poll-shrink", default: 0 },
];

/// The objects, by name.
pub(crate) struct Objects {
    starter: ThreadStarter,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    threads: BTreeMap<String, IoThread>,
    /// Every thread that was started for an object, and how many objects it has now.
    started: Vec<(ThreadHandle, usize)>,
}

struct IoThread {
    handle: ThreadHandle,
    values: [i64; PROPERTIES.len()],
}

impl Objects {
    /// No objects; `starter` starts their threads.
    pub(crate) fn new(starter: ThreadStarter) -> Self {
        Self { starter, state: RefCell::default() }
    }

    /// Makes an I/O thread. `values`: those of [`PROPERTIES`], as far as they are said.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`]; [`Kind::InvalidInput`] for a name or value; those of starting a thread.
    pub(crate) fn add(&self, id: &str, values: [Option<i64>; PROPERTIES.len()]) -> Result<()> {
        if !is_identifier(id) {
            let text = "an identifier is a letter, then letters, digits, '-', '.' and '_'";
            return Err(Error::new(Kind::InvalidInput, text).in_option("id"));
        }
        let mut checked = PROPERTIES.map(|property| property.default);
        for ((property, value), into) in PROPERTIES.iter().zip(values).zip(&mut checked) {
            if let Some(value) = value {
                *into = property.check(value)?;
            }
        }
        let mut state = self.state.borrow_mut();
        if state.threads.contains_key(id) {
            return Err(Error::new(Kind::AlreadyExists, format!("there is an object '{id}' already")));
        }
        let handle = state.take_thread(&self.starter)?;
        state.threads.insert(id.to_owned(), IoThread { handle, values: checked });
        Ok(())
    }

    /// Removes an object that nobody uses.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let removed = state.threads.remove(id).ok_or_else(|| no_object(id))?;
        if let Some((_, count)) = state.started.iter_mut().find(|(handle, _)| *handle == removed.handle) {
            *count -= 1;
        }
        Ok(())
    }

    /// The thread of an object.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(crate) fn thread(&self, id: &str) -> Result<ThreadHandle> {
        let state = self.state.borrow();
        let thread = state.threads.get(id).map(|thread| thread.handle.clone());
        thread.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no I/O thread '{id}'")))
    }

    /// The names of the objects.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state.borrow().threads.keys().cloned().collect()
    }

    /// A property of an object; `None` if it has none of that name.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such object.
    pub(crate) fn get(&self, id: &str, property: &str) -> Result<Option<i64>> {
        let state = self.state.borrow();
        let thread = state.threads.get(id).ok_or_else(|| no_object(id))?;
        let found = PROPERTIES.iter().zip(thread.values).find(|(known, _)| known.name == property);
        Ok(found.map(|(_, value)| value))
    }

    /// Sets a property; `false` if there is none of that name.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such object; [`Kind::InvalidInput`] for a value that makes no sense.
    pub(crate) fn set(&self, id: &str, property: &str, value: i64) -> Result<bool> {
        let mut state = self.state.borrow_mut();
        let thread = state.threads.get_mut(id).ok_or_else(|| no_object(id))?;
        let found = PROPERTIES.iter().zip(&mut thread.values).find(|(known, _)| known.name == property);
        let Some((known, into)) = found else { return Ok(false) };
        *into = known.check(value)?;
        Ok(true)
    }
}

impl State {
    /// A thread without an object, a new one, or the one with the fewest objects.
    fn take_thread(&mut self, starter: &ThreadStarter) -> Result<ThreadHandle> {
        if !self.started.iter().any(|(_, count)| *count == 0) {
            match starter.start() {
                Ok(handle) => self.started.push((handle, 0)),
                Err(error) if error.kind() == Kind::TooLarge && !self.started.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        let fewest = self.started.iter_mut().min_by_key(|(_, count)| *count);
        let (handle, count) =
            fewest.ok_or_else(|| Error::new(Kind::TooLarge, "there are no I/O threads left"))?;
        *count += 1;
        Ok(handle.clone())
    }
}

impl Property {
    fn check(&self, value: i64) -> Result<i64> {
        if value < 0 {
            let text = format!("'{}' must not be negative", self.name);
            return Err(Error::new(Kind::InvalidInput, text).in_option(self.name));
        }
        Ok(value)
    }
}

/// Whether it can be the name of something that users make.
pub(crate) fn is_identifier(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

fn no_object(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no object '{id}'"))
}
