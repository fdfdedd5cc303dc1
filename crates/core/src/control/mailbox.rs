//! How work reaches the control thread, from any thread: closures that run there as control tasks.
//!
//! A closure is sent, not what it works on: it is lent a [`Task`] over there, and only plain data comes back. A task runs to its
//! end whoever waits for it: a dropped [`Control::call`] abandons the answer, not the change.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::{Error, Kind, Result};

use crate::answer::answer;
use crate::control::gs::{Gs, Inner};
use crate::control::task::Task;
use crate::damage::Damages;
use crate::runtime::{LocalFuture, LocalRef};
use crate::waits::{Rank, Waits};

/// What a control task may send back: data that owns everything it says and may cross threads. Implemented for all such
/// types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not plain data",
    label = "a control task returns plain data",
    note = "the global state and everything that is reached through it stay on the control thread; return what was found \
            there: ids, numbers, names, backends"
)]
pub trait PlainData: Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Send + 'static> PlainData for T {}

type Job = Box<dyn FnOnce(Rc<Gs>) -> LocalFuture<'static, ()> + Send>;

/// A handle for sending work to the control thread. Any thread; clones reach the same graph.
pub struct Control(Arc<Mailbox>);

struct Mailbox {
    state: Mutex<MailboxState>,
    waits: Arc<Waits>,
    damages: Arc<Damages>,
}

#[derive(Default)]
struct MailboxState {
    jobs: VecDeque<Job>,
    waker: Option<Waker>,
    /// How many [`Control`]s there are.
    handles: usize,
    closed: bool,
}

impl Mailbox {
    fn state(&self) -> std::sync::MutexGuard<'_, MailboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The control thread's end: owns the graph. Not `Send`.
pub struct ControlThread {
    gs: Rc<Gs>,
    local: LocalRef,
    mailbox: Arc<Mailbox>,
}

impl ControlThread {
    /// An empty graph for I/O threads `0 .. shards`, owned by the calling thread, which is the thread of `local`.
    #[must_use]
    pub fn new(local: LocalRef, shards: u16) -> (Self, Control) {
        let inner = Rc::new(Inner::new(local.clone(), shards));
        let state = Mutex::new(MailboxState { handles: 1, ..MailboxState::default() });
        let (waits, damages) = (Arc::clone(&inner.waits), Arc::clone(&inner.damages));
        let mailbox = Arc::new(Mailbox { state, waits, damages });
        let gs = Rc::new(Gs::new(inner));
        (Self { gs, local, mailbox: Arc::clone(&mailbox) }, Control(mailbox))
    }

    /// Starts tasks as they are sent, until every [`Control`] is gone and what they sent has been started.
    pub async fn run(self) {
        loop {
            let next = poll_fn(|cx| {
                let mut state = self.mailbox.state();
                if let Some(job) = state.jobs.pop_front() {
                    return Poll::Ready(Some(job));
                }
                if state.handles == 0 {
                    return Poll::Ready(None);
                }
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            match next {
                Some(job) => self.local.spawn(job(Rc::clone(&self.gs))),
                None => return,
            }
        }
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        let mut state = self.mailbox.state();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        drop(jobs);
    }
}

impl Clone for Control {
    fn clone(&self) -> Self {
        self.0.state().handles += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.state();
            state.handles -= 1;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Control {
    fn send(&self, job: Job) {
        let waker = {
            let mut state = self.0.state();
            if state.closed {
                return;
            }
            state.jobs.push_back(job);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Who is told that an image of the graph is damaged.
    #[must_use]
    pub fn damages(&self) -> &Damages {
        &self.0.damages
    }

    /// Runs `work` as a control task that nobody waits for.
    pub fn spawn<F>(&self, work: F)
    where
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) + Send + 'static,
    {
        self.send(Box::new(move |gs| {
            Box::pin(async move {
                let mut task = Task::new(&gs);
                work(&mut task).await;
            })
        }));
    }

    /// Runs `work` as a control task and returns what it returns. Fails if the control thread has ended.
    ///
    /// Not while holding a ticket: a drain over there would wait for it. Callers that can have one are kept from it by what
    /// they borrow ([`crate::job::JobCtx::on_control`]); others are seen in [`Waits`], beside the drain that waits for them.
    pub async fn call<T, F>(&self, work: F) -> Result<T>
    where
        T: PlainData,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> T + Send + 'static,
    {
        let (sender, answer) = answer();
        self.spawn(async move |task: &mut Task<'_>| {
            let value = work(task).await;
            sender.send(value);
        });
        let what = "the answer of a control task".to_owned();
        let holder = "the control thread".to_owned();
        let _waiting = self.0.waits.begin((Rank::Job, Rank::Task), "a caller", what, holder);
        answer.wait().await.ok_or_else(|| Error::new(Kind::Cancelled, "the control thread has ended"))
    }
}
