//! [`Trace`]: what was said in a run, in its order.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// Lines. Clones are the same.
#[derive(Clone, Default)]
pub struct Trace(Rc<RefCell<Vec<String>>>);

impl Trace {
    /// Adds a line.
    pub fn note(&self, line: impl Into<String>) {
        self.0.borrow_mut().push(line.into());
    }

    /// All lines.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// Equal for equal lines, and hardly ever for others (FNV-1a).
    #[must_use]
    pub fn hash(&self) -> u64 {
        let lines = self.0.borrow();
        let bytes = lines.iter().flat_map(|line| line.bytes().chain([b'\n']));
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.borrow().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
