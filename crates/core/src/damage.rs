//! [`Damages`]: who is told that an image was found to be damaged.
//!
//! A driver that meets something in an image that cannot be says so once ([`Io::tell_damage`](crate::request::io::Io::tell_damage)),
//! beside the error of the request; whoever watches the graph (a daemon, for its clients) hears of it then and there.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use drystone_base::HostOffset;

/// What was found, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The node whose image it is.
    pub node: String,
    /// What is wrong.
    pub text: String,
    /// Where in the image's file, and how many bytes, if it is about one place.
    pub place: Option<(HostOffset, u64)>,
    /// Nothing is written to the image any more.
    pub is_fatal: bool,
}

/// Who hears of damage: called on the thread of the request that met it. Must not wait.
pub type Listener = Arc<dyn Fn(&Damage) + Send + Sync>;

/// Who listens, in one graph. Any thread.
#[derive(Default)]
pub struct Damages(Mutex<Vec<Listener>>);

impl Damages {
    /// Tells `listener` of all damage from now on.
    pub fn listen(&self, listener: Listener) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    pub(crate) fn tell(&self, damage: &Damage) {
        let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        listeners.iter().for_each(|listener| listener(damage));
    }
}

impl fmt::Debug for Damages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Damages")
    }
}
