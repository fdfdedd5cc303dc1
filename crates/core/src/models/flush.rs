//! Flush elision: whoever has written and then flushed finds the bytes on stable storage, also if the flush was left out.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread;

use super::{explore, join};
use crate::request::flush::FlushState;
use crate::sync::lock;

/// A device that counts its writes.
#[derive(Default)]
struct Device {
    written: u32,
    durable: u32,
}

struct Node {
    device: Mutex<Device>,
    state: FlushState,
}

impl Node {
    fn write(&self) -> u32 {
        let number = {
            let mut device = lock(&self.device);
            device.written += 1;
            device.written
        };
        self.state.mark_written();
        number
    }

    fn flush(&self) {
        if let Some(epoch) = self.state.begin() {
            {
                let mut device = lock(&self.device);
                device.durable = device.written;
            }
            self.state.done(epoch);
        }
    }

    fn write_and_flush(&self) {
        let number = self.write();
        self.flush();
        assert!(lock(&self.device).durable >= number, "write {number} was acknowledged and is not durable");
    }
}

/// Three threads write and flush the same device.
pub fn a_flush_that_is_left_out_had_nothing_to_do() {
    explore(3, || {
        let node = Arc::new(Node { device: Mutex::default(), state: FlushState::default() });
        let threads = [(), ()].map(|()| {
            let node = Arc::clone(&node);
            thread::spawn(move || {
                node.write_and_flush();
                node.flush();
            })
        });
        node.write_and_flush();
        join(threads);
    });
}
