//! A driver cannot spawn work that goes on with its `Io`: what a request needs runs under that request, and background
//! work enters through a root of its own.
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalRef;

fn flush_later(io: Io<'_>, device: &LocalRef) {
    device.spawn(Box::pin(async move { //~ lifetime
        io.flush().await.ok();
    }));
}

fn main() {}
