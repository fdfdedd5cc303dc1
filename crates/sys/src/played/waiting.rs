//! [`Waiting`]: who is woken when something is ready.

use std::collections::BTreeMap;
use std::task::{Context, Waker};

/// Wakers, in the order in which their owners came.
#[derive(Default)]
pub(super) struct Waiting {
    born: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Waiting {
    /// `number` is the owner's place, once it has one.
    pub(super) fn wait(&mut self, number: &mut Option<u64>, cx: &Context<'_>) {
        let number = *number.get_or_insert_with(|| {
            self.born += 1;
            self.born
        });
        self.wakers.insert(number, cx.waker().clone());
    }

    pub(super) fn forget(&mut self, number: u64) {
        self.wakers.remove(&number);
    }

    /// Those to wake, once nothing is locked.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.wakers).into_values()
    }
}
