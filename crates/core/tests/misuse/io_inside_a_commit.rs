//! A commit does no I/O: what a driver was lent to settle with, it cannot keep for the commit.
use drystone_base::Result;
use drystone_core::driver::{Publish, Staged};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

struct Reopen<'s> {
    io: Option<Io<'s>>,
}

impl Staged for Reopen<'_> {
    fn settle<'a>(&'a mut self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        self.io = Some(io); //~ lifetime
        Box::pin(async { Ok(()) })
    }

    fn commit(&mut self, _publish: &Publish<'_>) {
        if let Some(io) = self.io {
            io.flush().await; //~ E0728
        }
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}

fn main() {}
