//! [`catch`]: a panic as a value, for programs that play many runs.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The result of a run, or the message of its first panic, which is printed too: a panic in a commit ends the process, and
/// then that is all that is heard of it.
///
/// # Errors
/// The message.
pub fn catch<T>(seed: u64, run: impl FnOnce() -> T) -> Result<T, String> {
    keep_messages();
    LAST_PANIC.take();
    SEED.set(Some(seed));
    let result = catch_unwind(AssertUnwindSafe(run));
    SEED.set(None);
    result.map_err(|_| LAST_PANIC.take().unwrap_or_else(|| "a panic without a word".to_owned()))
}

fn keep_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let Some(seed) = SEED.get() else { return usual(info) };
            LAST_PANIC.with_borrow_mut(|last| {
                last.get_or_insert_with(|| {
                    eprintln!("seed {seed}: {info}");
                    info.to_string()
                });
            });
        }));
    });
}
