//! A driver that serves a request can neither drain nor change the graph: it has an `Io`, which does I/O.
use drystone_base::Result;
use drystone_core::request::io::Io;

async fn write_after_a_drain(io: Io<'_>) -> Result<()> {
    io.drain().await; //~ E0599
    io.flush().await
}

fn main() {}
