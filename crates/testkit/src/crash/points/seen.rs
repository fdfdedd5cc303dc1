//! What was verified already: the same contents, of which the same is known.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use super::found::Found;

/// Hashes of contents and knowledge.
#[derive(Default)]
pub(super) struct Seen(HashSet<u64, BuildHasherDefault<DefaultHasher>>);

impl Seen {
    pub(super) fn is_new(&mut self, found: &Found, known: &impl fmt::Debug) -> bool {
        let mut hasher = DefaultHasher::new();
        found.hash().hash(&mut hasher);
        format!("{known:?}").hash(&mut hasher);
        self.0.insert(hasher.finish())
    }
}
