//! What becomes of a panic: the process ends.
//!
//! A panic is a defect of ours. Who goes on after one has requests that nobody will answer, and tables in memory of which
//! nobody knows whether they are half changed: disks would be written with those. An image is whole at any moment at which
//! it is cut off, so the process is, with a message and a status that is not 0 (SIGABRT, as the C tools end at a failed
//! assertion).
//!
//! Not here: programs that embed the library decide for themselves (`panic = "abort"`).

use std::panic::{set_hook, take_hook};
use std::process::abort;

use crate::console;

/// From now on, a panic on any thread says what it is and ends the process.
pub(crate) fn end_at_panics() {
    let report = take_hook();
    set_hook(Box::new(move |panic| {
        report(panic);
        console::note(
            "drystone: this is a defect of the program, which ends here; disks hold what was flushed",
        );
        abort();
    }));
}
