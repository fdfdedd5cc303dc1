//! A driver has no clock to wait for: a drain would last as long as the timer. It steps back, or its device takes the time.
use drystone_core::request::io::Io;

async fn slow(io: Io<'_>) {
    let later_ns = io.now_ns() + 1_000_000_000;
    io.local().sleep_until(later_ns).await; //~ E0599
    io.flush().await.ok();
}

fn main() {}
