//! A control task is lent to its closure: it cannot be kept, so nobody plans changes outside of a task.
use std::cell::RefCell;

use drystone_core::control::Task;

struct Monitor<'m>(RefCell<Option<&'m mut Task<'m>>>);

fn remember<'m>(monitor: &Monitor<'m>, task: &mut Task<'_>) {
    monitor.0.replace(Some(task)); //~ lifetime
}

fn main() {}
