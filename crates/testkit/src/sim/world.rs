//! The tasks of all simulated threads, and the loop that runs them.
//!
//! Invariant: nothing here is borrowed while a task is polled or dropped, so a task may spawn, wake, sleep and end others
//! at any moment.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use drystone_core::runtime::{LocalFuture, Shard};

use super::clock::Clock;
use super::schedule::Schedule;
use super::task::{PendingTask, Task, TaskId, TaskWaker, Woken};
use super::{SimError, SimOptions};

type Explain = Box<dyn Fn() -> String>;

pub(super) struct World {
    pub(super) options: SimOptions,
    pub(super) clock: Clock,
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    tasks_born: Cell<u64>,
    running: Cell<Option<TaskId>>,
    woken: Arc<Woken>,
    schedule: RefCell<Schedule>,
    explain: RefCell<Vec<Explain>>,
}

/// Takes the task of `block_on` off the list, also when another task panics.
pub(super) struct Root<'w> {
    world: &'w World,
    id: TaskId,
}

impl World {
    pub(super) fn new(options: SimOptions) -> Self {
        Self {
            schedule: RefCell::new(Schedule::new(options.seed, options.policy)),
            options,
            clock: Clock::new(),
            tasks: RefCell::default(),
            tasks_born: Cell::new(0),
            running: Cell::new(None),
            woken: Arc::default(),
            explain: RefCell::default(),
        }
    }

    /// Adds a task, ready to run.
    pub(super) fn spawn(&self, shard: Shard, name: String, future: LocalFuture<'static, ()>) {
        self.add(shard, name, Some(future));
    }

    /// Adds a task that is named after the one that runs.
    pub(super) fn spawn_child(&self, shard: Shard, future: LocalFuture<'static, ()>) {
        let name = self.child_name();
        self.spawn(shard, name, future);
    }

    fn child_name(&self) -> String {
        let mut tasks = self.tasks.borrow_mut();
        match self.running.get().and_then(|id| tasks.get_mut(&id)) {
            Some(parent) => {
                parent.children += 1;
                format!("{}/{}", parent.name, parent.children)
            }
            None => format!("task {}", self.tasks_born.get()),
        }
    }

    /// Adds the task of `block_on`, whose future the caller keeps.
    pub(super) fn register_root(&self, shard: Shard) -> Root<'_> {
        Root { world: self, id: self.add(shard, "block_on".into(), None) }
    }

    fn add(&self, shard: Shard, name: String, future: Option<LocalFuture<'static, ()>>) -> TaskId {
        let id = self.tasks_born.replace(self.tasks_born.get() + 1);
        let waker = TaskWaker::new(id, &self.woken);
        Waker::from(Arc::clone(&waker)).wake();
        let task = Task { shard, name, polls: 0, children: 0, waker, future };
        self.tasks.borrow_mut().insert(id, task);
        id
    }

    /// The task to run next, moving the clock if need be.
    pub(super) fn next_ready(&self) -> Result<TaskId, SimError> {
        loop {
            if let Some(id) = self.ready_now()? {
                return Ok(id);
            }
            if !self.clock.jump() {
                let waits = self.explain.borrow().iter().map(|explain| explain()).collect();
                return Err(SimError::Stuck { pending: self.pending(), waits });
            }
        }
    }

    /// The task to run next, if any is ready at this moment of simulated time.
    pub(super) fn ready_now(&self) -> Result<Option<TaskId>, SimError> {
        assert!(self.running.get().is_none(), "a task cannot run the simulation that it is part of");
        if self.steps() >= self.options.steps_max {
            return Err(SimError::TooManySteps { steps: self.steps(), pending: self.pending() });
        }
        let mut schedule = self.schedule.borrow_mut();
        let tasks = self.tasks.borrow();
        for id in self.woken.take() {
            if tasks.contains_key(&id) {
                schedule.push(id);
            }
        }
        Ok(schedule.pop())
    }

    /// Runs one task to its next await.
    pub(super) fn run_next(&self) -> Result<(), SimError> {
        let id = self.next_ready()?;
        self.run(id);
        Ok(())
    }

    /// Polls task `id`, which `next_ready` returned.
    pub(super) fn run(&self, id: TaskId) {
        let Some(mut future) = self.tasks.borrow_mut().get_mut(&id).and_then(|task| task.future.take())
        else {
            return;
        };
        match self.polling(id, |cx| future.as_mut().poll(cx)) {
            Poll::Ready(()) => {
                let ended = self.remove(id);
                drop(ended);
            }
            Poll::Pending => {
                if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
                    task.future = Some(future);
                }
            }
        }
    }

    /// Does what goes with polling task `id`.
    pub(super) fn polling<T>(&self, id: TaskId, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let waker = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&id) else { panic!("task {id} was scheduled after its end") };
            task.polls += 1;
            task.waker.begin_poll();
            Waker::from(Arc::clone(&task.waker))
        };
        self.running.set(Some(id));
        let polled = poll(&mut Context::from_waker(&waker));
        self.running.set(None);
        if self.options.step_ns > 0 {
            self.clock.pass(self.options.step_ns);
        }
        polled
    }

    fn remove(&self, id: TaskId) -> Option<Task> {
        self.schedule.borrow_mut().forget(id);
        self.tasks.borrow_mut().remove(&id)
    }

    pub(super) fn has_tasks(&self) -> bool {
        !self.tasks.borrow().is_empty()
    }

    pub(super) fn yields_here(&self) -> bool {
        self.schedule.borrow_mut().yields(self.options.yield_one_in)
    }

    pub(super) fn explain_waits(&self, explain: Explain) {
        self.explain.borrow_mut().push(explain);
    }

    pub(super) fn steps(&self) -> u64 {
        self.schedule.borrow().steps
    }

    pub(super) fn schedule_hash(&self) -> u64 {
        self.schedule.borrow().hash
    }

    pub(super) fn pending(&self) -> Vec<PendingTask> {
        let tasks = self.tasks.borrow();
        let list =
            |task: &Task| PendingTask { name: task.name.clone(), shard: task.shard, polls: task.polls };
        tasks.values().map(list).collect()
    }

    /// Drops all tasks and what refers back here. What tasks spawn while they are dropped is dropped, too.
    pub(super) fn drop_tasks(self: &Rc<Self>) {
        while self.has_tasks() {
            let tasks = self.tasks.take();
            drop(tasks);
        }
        self.clock.clear();
        let explain = self.explain.take();
        drop(explain);
    }
}

impl Root<'_> {
    pub(super) fn id(&self) -> TaskId {
        self.id
    }
}

impl Drop for Root<'_> {
    fn drop(&mut self) {
        self.world.running.set(None);
        let ended = self.world.remove(self.id);
        drop(ended);
    }
}
