//! [`SimLocal`]: one simulated thread, as the core sees it.

use std::any::Any;
use std::rc::Rc;

use drystone_core::runtime::{Local, LocalFuture, Shard};

use super::clock::Sleep;
use super::world::World;

/// One thread of a [`super::Sim`].
pub struct SimLocal {
    shard: Shard,
    world: Rc<World>,
}

impl SimLocal {
    pub(super) fn new(shard: Shard, world: Rc<World>) -> Self {
        Self { shard, world }
    }

    /// Like [`Local::spawn`], with a name for [`super::SimError::Stuck`] to list.
    pub fn spawn_named(&self, name: String, task: LocalFuture<'static, ()>) {
        self.world.spawn(self.shard, name, task);
    }
}

impl Local for SimLocal {
    fn shard(&self) -> Shard {
        self.shard
    }

    fn spawn(&self, task: LocalFuture<'static, ()>) {
        self.world.spawn_child(self.shard, task);
    }

    fn now_ns(&self) -> u64 {
        self.world.clock.now_ns()
    }

    fn sleep_until(&self, at_ns: u64) -> LocalFuture<'static, ()> {
        Box::pin(Sleep::new(Rc::clone(&self.world), at_ns))
    }

    fn yields_here(&self) -> bool {
        self.world.yields_here()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
