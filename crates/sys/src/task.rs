//! One task: a future that stays on its thread, and a waker that may go anywhere.
//!
//! | body | whose | what running it does |
//! |---|---|---|
//! | `Start` | anybody's (`Send`) | makes the future, on the task's thread |
//! | `Run` | the task's thread alone | polls the future |
//! | `Root`, `Reap` | nobody's | nothing here: tells the executor to poll what it was given, or to collect finished blocking calls |
//! | `Done` | nobody's | nothing |
//!
//! Invariants: only the thread that owns the task's inbox looks at the body once the task was pushed; a task whose body
//! is `Run` is in its thread's table of tasks, so the last count that a foreign waker drops never frees a future.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use drystone_core::runtime::{LocalFuture, LocalRef};

use crate::inbox::Inbox;
use crate::slots::Key;
use crate::wake::{Link, Linked, Pushed};

/// Makes a task's future once the task is on its thread.
pub(crate) type Starter = Box<dyn FnOnce(LocalRef) -> LocalFuture<'static, ()> + Send>;

pub(crate) struct Task {
    link: Link<Self>,
    home: Arc<Inbox>,
    body: UnsafeCell<Body>,
    /// Where the task's thread keeps it; read and written by that thread only.
    key: Cell<Option<Key>>,
}

enum Body {
    Start(Starter),
    Run(LocalFuture<'static, ()>),
    Root,
    Reap,
    Done,
}

/// What the executor learns from running a task.
pub(crate) enum Ran {
    /// It waits; or it had ended before.
    Waits,
    /// It has ended, perhaps by a panic.
    Ended(Result<(), Box<dyn Any + Send>>),
    /// The executor's own root future was woken.
    Root,
    /// Blocking calls have finished.
    Reap,
}

// SAFETY: a foreign thread reaches `link` and `home` only, which are `Sync`. `body` and `key` are touched by the home
// thread alone (module invariant), except that the last count may be dropped anywhere, when the body is `Start`, which
// is `Send`, or holds nothing.
unsafe impl Send for Task {}
// SAFETY: as above.
unsafe impl Sync for Task {}

impl Linked for Task {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

impl Task {
    fn new(home: &Arc<Inbox>, body: Body) -> Arc<Self> {
        Arc::new(Self {
            link: Link::new(),
            home: Arc::clone(home),
            body: UnsafeCell::new(body),
            key: Cell::new(None),
        })
    }

    /// A task for another thread, or this one.
    pub(crate) fn starting(home: &Arc<Inbox>, starter: Starter) -> Arc<Self> {
        Self::new(home, Body::Start(starter))
    }

    /// A task for the calling thread, which must be `home`'s and keep the task until it has ended.
    pub(crate) fn running(home: &Arc<Inbox>, future: LocalFuture<'static, ()>) -> Arc<Self> {
        Self::new(home, Body::Run(future))
    }

    /// The waker of whatever the executor was given to run to its end.
    pub(crate) fn root(home: &Arc<Inbox>) -> Arc<Self> {
        Self::new(home, Body::Root)
    }

    /// The waker of the thread's collector of finished blocking calls.
    pub(crate) fn reaper(home: &Arc<Inbox>) -> Arc<Self> {
        Self::new(home, Body::Reap)
    }

    pub(crate) fn home(&self) -> &Arc<Inbox> {
        &self.home
    }

    pub(crate) fn key(&self) -> Option<Key> {
        self.key.get()
    }

    pub(crate) fn set_key(&self, key: Key) {
        self.key.set(Some(key));
    }

    /// Queues the task on its thread. Any thread. `false` if that thread has ended.
    pub(crate) fn wake_ref(self: &Arc<Self>) -> bool {
        match self.home.list.push(self) {
            Pushed::Nothing => true,
            Pushed::RingBell => {
                self.home.bell.ring();
                true
            }
            Pushed::Ended => false,
        }
    }

    /// Runs the task once. `keep` is called when the task turns from `Start` to `Run`, to take it into the table.
    ///
    /// # Safety
    /// The calling thread owns the task's inbox and is not running this task already.
    pub(crate) unsafe fn run(self: &Arc<Self>, local: &LocalRef, keep: impl FnOnce(&Arc<Self>)) -> Ran {
        self.link.begin();
        // SAFETY: the caller is the home thread and no other borrow of the body is alive: a task cannot run itself.
        let body = unsafe { &mut *self.body.get() };
        if matches!(body, Body::Start(_))
            && let Body::Start(starter) = std::mem::replace(body, Body::Done)
        {
            match catch_unwind(AssertUnwindSafe(|| starter(std::rc::Rc::clone(local)))) {
                Ok(future) => *body = Body::Run(future),
                Err(panic) => return self.end(Err(panic)),
            }
            keep(self);
        }
        match body {
            Body::Root => return Ran::Root,
            Body::Reap => return Ran::Reap,
            Body::Start(_) | Body::Done => return Ran::Waits,
            Body::Run(future) => {
                let waker = Waker::from(Arc::clone(self));
                let mut context = Context::from_waker(&waker);
                match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context))) {
                    Ok(std::task::Poll::Pending) => return Ran::Waits,
                    Ok(std::task::Poll::Ready(())) => {}
                    Err(panic) => return self.end(Err(panic)),
                }
            }
        }
        self.end(Ok(()))
    }

    /// Drops the future on the home thread; a panic in its destructors counts as the task's.
    fn end(&self, result: Result<(), Box<dyn Any + Send>>) -> Ran {
        // SAFETY: called by `run` and `abandon`, which run on the home thread and use no earlier borrow afterwards.
        let body = unsafe { std::mem::replace(&mut *self.body.get(), Body::Done) };
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(body)));
        self.link.retire();
        Ran::Ended(result.and(dropped))
    }

    /// Ends the task where it stands.
    ///
    /// # Safety
    /// As for [`Self::run`].
    pub(crate) unsafe fn abandon(&self) -> Result<(), Box<dyn Any + Send>> {
        match self.end(Ok(())) {
            Ran::Ended(result) => result,
            Ran::Waits | Ran::Root | Ran::Reap => Ok(()),
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_ref();
    }
}
