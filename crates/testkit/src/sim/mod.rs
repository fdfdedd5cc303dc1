//! [`Sim`]: many threads played on one, in an order that a seed decides.
//!
//! ```text
//!   thread 0 (control)   thread 1        thread 2            each: a SimLocal, which the core sees as its thread
//!   ready: t4            ready: t1 t9    ready: -            one of t1 t4 t9 runs to its next await
//!        \___________________|______________/
//!                        Schedule: one at random             nothing ready: the clock jumps to the next timer;
//!                                                            no timer either: Stuck, with the names of what waits
//! ```
//! Two runs with equal seeds, options and programs take equal steps. A task runs only after its waker was called, so a
//! forgotten wake-up is found as [`SimError::Stuck`]; every await and every `sim_point()` is a place where any other
//! ready task may run. Devices of [`crate::disk`] are tasks, too, so their progress is interleaved in the same way.
//!
//! Not here: threads of the operating system, memory ordering (loom has those), or any clock but the simulated one.

mod abandon;
mod catch;
mod clock;
mod explore;
mod local;
mod schedule;
mod task;
#[cfg(test)]
mod tests;
mod world;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use drystone_base::rng::Rng;
use drystone_core::runtime::{LocalRef, Shard};

pub use abandon::{Abandon, abandon_after};
pub use catch::catch;
pub use explore::{Explored, explore};
pub use local::SimLocal;
pub use schedule::Policy;
pub use task::PendingTask;
use world::World;

/// What a simulation is made of, besides its program.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Decides every choice.
    pub seed: u64,
    /// The number of I/O threads: shards 1 to this number. Shard 0 is the control thread.
    pub io_threads: u16,
    /// How the next task is chosen; `None` lets the seed decide that, too.
    pub policy: Option<Policy>,
    /// One in how many `sim_point()`s gives way to other tasks; 0 for none.
    pub yield_one_in: u64,
    /// Simulated processor time of one step, in nanoseconds. With 0, time passes only while every task waits.
    pub step_ns: u64,
    /// A run of more steps than this ends with [`SimError::TooManySteps`].
    pub steps_max: u64,
}

impl SimOptions {
    /// Two I/O threads, and everything else as `seed` decides.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { seed, io_threads: 2, policy: None, yield_one_in: 3, step_ns: 0, steps_max: 5_000_000 }
    }
}

/// Why a simulation cannot go on.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// No task is ready, no timer is set, and tasks are pending: a deadlock or a lost wake-up.
    #[error("stuck: nothing can run, and these tasks wait for ever:{}", task::list(.pending, .waits))]
    Stuck {
        /// The tasks that have not ended.
        pending: Vec<PendingTask>,
        /// What the callbacks of [`Sim::explain_waits`] said.
        waits: Vec<String>,
    },
    /// The run took more than [`SimOptions::steps_max`] steps: a livelock, or too low a limit.
    #[error("no end after {steps} steps; pending tasks:{}", task::list(.pending, &[]))]
    TooManySteps {
        /// The limit.
        steps: u64,
        /// The tasks that have not ended.
        pending: Vec<PendingTask>,
    },
}

impl fmt::Debug for SimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A simulated process: its threads, their tasks, and the clock. Dropping it drops the tasks that are left.
pub struct Sim {
    world: Rc<World>,
    locals: Vec<Rc<SimLocal>>,
}

impl Sim {
    /// A process with the control thread and `options.io_threads` I/O threads, without tasks.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        let shards = options.io_threads.saturating_add(1);
        let world = Rc::new(World::new(options));
        let locals = (0..shards).map(|index| Rc::new(SimLocal::new(Shard::new(index), Rc::clone(&world))));
        Self { locals: locals.collect(), world }
    }

    /// The same with [`SimOptions::seeded`].
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::new(SimOptions::seeded(seed))
    }

    /// The control thread.
    #[must_use]
    pub fn control(&self) -> LocalRef {
        self.thread(0)
    }

    /// The I/O thread `index`, counted from 1.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn io(&self, index: u16) -> LocalRef {
        assert!(index > 0, "shard 0 is the control thread");
        self.thread(usize::from(index))
    }

    fn thread(&self, index: usize) -> LocalRef {
        match self.locals.get(index) {
            Some(local) => Rc::<SimLocal>::clone(local),
            None => panic!("there are {} threads, not {index} I/O threads", self.locals.len()),
        }
    }

    /// The number of I/O threads.
    #[must_use]
    pub fn io_threads(&self) -> u16 {
        self.world.options.io_threads
    }

    /// Adds a task to a thread. The name is what [`SimError::Stuck`] lists.
    pub fn spawn(&self, on: &LocalRef, name: impl Into<String>, task: impl Future<Output = ()> + 'static) {
        self.world.spawn(on.shard(), name.into(), Box::pin(task));
    }

    /// Runs the process until `task`, a task of the thread `on`, has ended. Other tasks may be left pending.
    ///
    /// # Panics
    /// If called from inside a task.
    pub fn block_on<F: Future>(&self, on: &LocalRef, task: F) -> Result<F::Output, SimError> {
        let mut task = pin!(task);
        let root = self.world.register_root(on.shard());
        loop {
            let id = self.world.next_ready()?;
            if id != root.id() {
                self.world.run(id);
            } else if let Poll::Ready(output) = self.world.polling(id, |cx| task.as_mut().poll(cx)) {
                return Ok(output);
            }
        }
    }

    /// Runs the process until every task has ended.
    ///
    /// # Panics
    /// If called from inside a task.
    pub fn run_to_end(&self) -> Result<(), SimError> {
        while self.world.has_tasks() {
            self.world.run_next()?;
        }
        Ok(())
    }

    /// Runs the process until `reached` says so, which is asked after every step.
    ///
    /// # Panics
    /// If called from inside a task.
    pub fn run_until(&self, mut reached: impl FnMut() -> bool) -> Result<(), SimError> {
        while !reached() {
            self.world.run_next()?;
        }
        Ok(())
    }

    /// Runs until no task is ready and the clock would have to move, which it does not: what is left waits for a timer,
    /// or for something that the caller is about to do.
    ///
    /// # Panics
    /// If called from inside a task.
    pub fn settle(&self) -> Result<(), SimError> {
        while let Some(id) = self.world.ready_now()? {
            self.world.run(id);
        }
        Ok(())
    }

    /// Adds a callback whose answer is printed when the process is stuck: who waits for what, and who holds it.
    pub fn explain_waits(&self, explain: impl Fn() -> String + 'static) {
        self.world.explain_waits(Box::new(explain));
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.world.options.seed
    }

    /// A generator for the program's own choices, independent of the schedule's. Equal every time it is asked for.
    #[must_use]
    pub fn rng(&self) -> Rng {
        Rng::new(self.seed() ^ 0x70_726f_6772_616d)
    }

    /// Simulated monotonic time in nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.world.clock.now_ns()
    }

    /// How many times a task was polled so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.world.steps()
    }

    /// A hash of all choices so far: different for different schedules.
    #[must_use]
    pub fn schedule_hash(&self) -> u64 {
        self.world.schedule_hash()
    }

    /// The tasks that have not ended.
    #[must_use]
    pub fn pending(&self) -> Vec<PendingTask> {
        self.world.pending()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation failed with seed {} after {} steps", self.seed(), self.steps());
        }
        self.world.drop_tasks();
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sim(seed {}, step {}, {} tasks)", self.seed(), self.steps(), self.world.pending().len())
    }
}
