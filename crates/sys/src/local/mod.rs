//! [`SysLocal`]: one I/O thread, seen from itself: its tasks, timers and operations, and the loop that runs them.
//!
//! ```text
//!   run ready tasks (oldest wake first, at most POLLS_MAX) -> fire timers -> engine turn -> end operations -> again
//!                                                               waits only if nothing is ready
//! ```
//! Everything that a batch of tasks starts reaches the kernel together, in the turn that follows.
//!
//! Invariants: no borrow of a table is alive while a task is polled or an operation is ended; the thread ends when it was
//! told to and has neither tasks nor operations. Operations are in `ops`.

mod ops;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use drystone_base::{Error, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Completion, Finisher};
use drystone_core::runtime::{Local, LocalFuture, LocalRef, Shard};

use crate::engine::{Engine, EngineKind, Event, Op, Patience};
use crate::inbox::Inbox;
use crate::pool::{Finished, Pool};
use crate::slots::Slots;
use crate::task::{Ran, Task};
use crate::timer::{Sleep, Timers, now_ns};
use crate::wake::Batch;

/// Tasks that run before the engine is looked at again, even if more are ready.
const POLLS_MAX: usize = 512;

/// What one run of a task may get done without waiting, in units of [`BUDGET_UNIT_BYTES`] and at least one a call.
const BUDGET: u64 = 64;
const BUDGET_UNIT_BYTES: u64 = 64 << 10;

/// One I/O thread of [`crate::Threads`], as the core sees it.
pub struct SysLocal {
    inbox: Arc<Inbox>,
    engine: Engine,
    pool: Pool,
    /// [`EngineKind::Batch`].
    is_batch: bool,
    /// Wakes the future that [`Self::run`] was given.
    root: Arc<Task>,
    /// Woken when blocking calls have finished.
    reaper: Arc<Task>,
    ready: RefCell<Batch<Task>>,
    tasks: RefCell<Slots<Arc<Task>>>,
    ops: RefCell<Slots<Op>>,
    timers: Rc<RefCell<Timers>>,
    scratch: RefCell<Scratch>,
    /// Results that were there at once, but are told in the next turn, to let other tasks run.
    late: RefCell<Vec<Late>>,
    /// What the running task may still get done without waiting before it has to let others run.
    budget: Cell<u64>,
    /// The loop is on the stack: it does not nest, so no task is run while it runs.
    is_running: Cell<bool>,
    /// The thread has ended, though somebody has kept a reference to it.
    is_closed: Cell<bool>,
    /// The first panic of a task, for whoever ends the thread.
    panic: RefCell<Option<Box<dyn Any + Send>>>,
}

struct Late {
    finisher: Finisher,
    result: Result<()>,
    buf: Option<Buf>,
}

/// While it lives, the loop is on the stack.
struct Running<'a>(&'a Cell<bool>);

impl<'a> Running<'a> {
    fn begin(flag: &'a Cell<bool>) -> Self {
        assert!(!flag.replace(true), "a thread's loop does not nest");
        Self(flag)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Vectors that are used in every turn.
#[derive(Default)]
struct Scratch {
    events: Vec<Event>,
    finished: Vec<Finished>,
}

impl SysLocal {
    /// The part of an I/O thread that lives on it. The calling thread is the thread.
    pub(crate) fn new(inbox: &Arc<Inbox>, kind: EngineKind, pool: &Pool) -> Result<Rc<Self>> {
        Ok(Rc::new(Self {
            inbox: Arc::clone(inbox),
            engine: Engine::new(kind, inbox)?,
            is_batch: kind == EngineKind::Batch,
            pool: pool.clone(),
            root: Task::root(inbox),
            reaper: Task::reaper(inbox),
            ready: RefCell::new(Batch::empty()),
            tasks: RefCell::new(Slots::new()),
            ops: RefCell::new(Slots::new()),
            timers: Rc::default(),
            scratch: RefCell::default(),
            late: RefCell::default(),
            budget: Cell::new(0),
            is_running: Cell::new(false),
            is_closed: Cell::new(false),
            panic: RefCell::new(None),
        }))
    }

    /// `local` as a thread of this crate.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if it belongs to another runtime.
    pub fn of(local: &dyn Local) -> Result<&Self> {
        local.as_any().downcast_ref().ok_or_else(|| {
            Error::new(Kind::Unsupported, "files and sockets need the I/O threads that they are made for")
        })
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Which engine the thread has: never `Auto`.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        match (&self.engine, &self.pool) {
            (Engine::Ring(_), _) if self.is_batch => EngineKind::Batch,
            (Engine::Ring(_), _) => EngineKind::Uring,
            (Engine::Epoll(_), Pool::Threads(_)) => EngineKind::Pool,
            (Engine::Epoll(_), Pool::Here) => EngineKind::InPlace,
        }
    }

    /// Whether nobody minds if the thread waits for a disk in a copy to the page cache.
    pub(crate) fn is_batch(&self) -> bool {
        self.is_batch
    }

    /// Resolves at `at_ns`, or never.
    pub(crate) fn sleep(&self, at_ns: u64) -> Sleep {
        Sleep::until(&self.timers, at_ns)
    }

    /// Whether the running task may go on after something that took no waiting and moved `len_bytes`. If not, it has to
    /// let other tasks run.
    pub(crate) fn may_go_on(&self, len_bytes: u64) -> bool {
        let left = self.budget.get().saturating_sub(1 + len_bytes / BUDGET_UNIT_BYTES);
        self.budget.set(left);
        left != 0
    }

    /// The answer to an operation that was done on the spot: at once, unless its task has had its share of this turn.
    pub(crate) fn done(&self, result: Result<()>, buf: Option<Buf>) -> Completion {
        let len_bytes = buf.as_ref().map_or(0, |buf| buf.len() as u64);
        if self.may_go_on(len_bytes) || self.is_closed.get() {
            return Completion::ready(result, buf);
        }
        let (completion, finisher) = Completion::pending();
        self.late.borrow_mut().push(Late { finisher, result, buf });
        completion
    }

    /// Runs `future` on this thread, and the thread's tasks with it, until the future has ended.
    pub(crate) fn block_on<F: Future>(self: &Rc<Self>, future: F) -> F::Output {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::clone(&self.root));
        let mut context = Context::from_waker(&waker);
        let mut output = None;
        self.run(|| {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                output = Some(value);
            }
            output.is_some()
        });
        match output {
            Some(output) => output,
            None => unreachable!("the loop ends when there is an output"),
        }
    }

    /// Runs until the thread was told to end and neither tasks nor operations are left, or it was told to give up.
    pub(crate) fn run_out(self: &Rc<Self>) {
        self.run(|| false);
    }

    /// Drops all tasks where they stand, and waits for the operations that the kernel still has.
    pub(crate) fn abandon(self: &Rc<Self>) {
        loop {
            while let Some(task) = self.take_any_task() {
                // SAFETY: this is the task's thread, and it runs no task at the moment.
                let result = unsafe { task.abandon() };
                self.note_panic(result);
            }
            self.run_out();
            if self.is_idle() {
                return;
            }
        }
    }

    fn take_any_task(&self) -> Option<Arc<Task>> {
        let mut tasks = self.tasks.borrow_mut();
        tasks.any().and_then(|key| tasks.remove(key))
    }

    /// Ends the inbox: wakes from now on go nowhere. Returns a task's panic, if there was one.
    pub(crate) fn close(&self) -> Option<Box<dyn Any + Send>> {
        self.is_closed.set(true);
        drop(self.inbox.list.close());
        self.panic.borrow_mut().take()
    }

    fn is_idle(&self) -> bool {
        self.tasks.borrow().len() == 0
            && self.ops.borrow().len() == 0
            && self.late.borrow().is_empty()
            && self.ready.borrow().is_empty()
            && self.inbox.list.is_empty()
    }

    /// The loop. `root` is polled first and whenever it is woken; `true` ends the loop.
    fn run(self: &Rc<Self>, mut root: impl FnMut() -> bool) {
        let _running = Running::begin(&self.is_running);
        let local: LocalRef = Rc::<Self>::clone(self);
        self.root.wake_ref();
        loop {
            if self.run_ready(&local, &mut root) {
                return;
            }
            if self.inbox.is_stopped() {
                let has_tasks = self.tasks.borrow().len() != 0;
                if self.is_idle() || (has_tasks && self.inbox.gives_up()) {
                    return;
                }
            }
            self.turn();
        }
    }

    /// Runs tasks that are ready, in the order of their wakes, up to the bound. `true` if the root has ended.
    fn run_ready(self: &Rc<Self>, local: &LocalRef, root: &mut impl FnMut() -> bool) -> bool {
        for _ in 0..POLLS_MAX {
            let next = self.ready.borrow_mut().next();
            let Some(task) = next.or_else(|| self.next_batch()) else { return false };
            self.budget.set(BUDGET);
            // SAFETY: this is the task's thread, and it runs one task at a time.
            let ran = unsafe { task.run(local, |task| self.keep(task)) };
            match ran {
                Ran::Waits => {}
                Ran::Reap => self.reap(),
                Ran::Root if root() => return true,
                Ran::Root => {}
                Ran::Ended(result) => {
                    if let Some(key) = task.key() {
                        self.tasks.borrow_mut().remove(key);
                    }
                    self.note_panic(result);
                }
            }
        }
        false
    }

    fn next_batch(&self) -> Option<Arc<Task>> {
        let mut ready = self.ready.borrow_mut();
        *ready = self.inbox.list.take();
        ready.next()
    }

    fn keep(&self, task: &Arc<Task>) {
        let key = self.tasks.borrow_mut().insert(Arc::clone(task));
        task.set_key(key);
    }

    fn note_panic(&self, result: Result<(), Box<dyn Any + Send>>) {
        if let Err(panic) = result {
            self.panic.borrow_mut().get_or_insert(panic);
        }
    }

    /// Tells the results that were held back. Whether there were any.
    fn tell_late(&self) -> bool {
        let mut late = std::mem::take(&mut *self.late.borrow_mut());
        let was_any = !late.is_empty();
        for Late { finisher, result, buf } in late.drain(..) {
            finisher.finish(result, buf);
        }
        *self.late.borrow_mut() = late;
        was_any
    }

    /// Fires timers, lets the engine work, waits if nothing is ready, and ends what has ended.
    fn turn(&self) {
        // Nobody may have waited for them, and the thread may be at its end now.
        let has_told = self.tell_late();
        let next_ns = {
            let mut timers = self.timers.borrow_mut();
            if timers.next_ns().is_some() {
                timers.fire(now_ns());
            }
            timers.next_ns()
        };
        // Once the list says "asleep", whoever wakes a task rings the bell, and the engine returns.
        let may_wait = !has_told && self.ready.borrow().is_empty() && self.inbox.list.try_sleep();
        let patience = if may_wait { Patience::Until(next_ns) } else { Patience::None };
        let mut events = std::mem::take(&mut self.scratch.borrow_mut().events);
        self.engine.turn(patience, &mut events);
        self.inbox.list.wake_up();
        for event in events.drain(..) {
            self.end(event);
        }
        self.scratch.borrow_mut().events = events;
    }
}

impl Local for SysLocal {
    fn shard(&self) -> Shard {
        self.inbox.shard
    }

    fn spawn(&self, task: LocalFuture<'static, ()>) {
        if self.is_closed.get() {
            return;
        }
        let task = Task::running(&self.inbox, task);
        self.keep(&task);
        task.wake_ref();
    }

    fn now_ns(&self) -> u64 {
        now_ns()
    }

    fn sleep_until(&self, at_ns: u64) -> LocalFuture<'static, ()> {
        Box::pin(self.sleep(at_ns))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SysLocal {
    fn drop(&mut self) {
        // Only after a panic of the loop itself: the kernel may still reach into these buffers, so they stay for ever.
        let ops = std::mem::replace(&mut *self.ops.borrow_mut(), Slots::new());
        if ops.len() != 0 {
            Box::leak(Box::new(ops));
        }
    }
}
