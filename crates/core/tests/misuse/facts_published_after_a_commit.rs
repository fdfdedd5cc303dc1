//! Facts of a node change in a commit, where nobody is inside; the right to publish them cannot be kept.
use drystone_base::Result;
use drystone_core::driver::{Publish, Staged};
use drystone_core::runtime::LocalFuture;

struct Grow {
    later: Option<&'static Publish<'static>>,
}

impl Staged for Grow {
    fn commit(&mut self, publish: &Publish<'_>) {
        self.later = Some(publish); //~ lifetime
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}

fn grow(staged: &Grow) -> Result<()> {
    if let Some(publish) = staged.later {
        publish.len(0);
    }
    Ok(())
}

fn main() {}
