//! The operations of one I/O thread: how they start, how they end, and who is told.
//!
//! | operation | started by | ended by | told |
//! |---|---|---|---|
//! | file, on a ring | [`SysLocal::start_file`] | an event of the engine | the core's `Finisher` |
//! | file, in the pool | the same, or a ring that cannot go on | the reaper | the core's `Finisher` |
//! | descriptor becomes ready | [`SysLocal::when_ready`] | an event of the engine | the future that waits |
//! | blocking call | [`SysLocal::blocking`] | the reaper | the future that waits |
//!
//! Invariants: an operation stays in the table until the engine or the pool has let go of it, whoever has lost interest;
//! no borrow of the table is alive while somebody is told.

use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use drystone_base::{Error, Kind, Result};
use drystone_core::disk::{Completion, Finisher};

use super::SysLocal;
use crate::engine::{Engine, Event, Interest, Op, Wait};
use crate::file::job::{FileJob, Step};
use crate::pool::{BlockingQueue, Finished, Job, Work};
use crate::slots::Key;

impl SysLocal {
    /// Runs `call` on a thread that may block, behind what `queue` holds already. The call is made even if the returned
    /// future is dropped.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if the call panicked or no thread could be started.
    pub fn blocking<T: Send + 'static>(
        &self,
        queue: &BlockingQueue,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>> + '_ {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let call = move || {
            let _ = sender.send(call());
        };
        let key = self.ops.borrow_mut().insert(Op::Call { wait: Wait::Running(None) });
        if self.is_closed.get() {
            // Nobody will collect the result, so the call is not made.
            self.end_wait(key);
        } else {
            self.submit_work(key, queue, Work::Call(Box::new(call)));
        }
        let ended = Ended { local: self, key, is_over: false };
        async move {
            ended.await;
            receiver.try_recv().map_err(|_| Error::new(Kind::Cancelled, "a blocking call did not end well"))
        }
    }

    /// Waits until `fd` is ready, or broken, or its peer is gone: the next attempt to use it will say. Another thread
    /// or the kernel may be faster, so that attempt must not block. [`Kind::TimedOut`] at `until_ns`.
    pub(crate) async fn when_ready(
        &self,
        fd: &Arc<OwnedFd>,
        interest: Interest,
        until_ns: Option<u64>,
    ) -> Result<()> {
        if self.is_closed.get() {
            return Err(ended());
        }
        let op = Op::Poll { fd: Arc::clone(fd), wait: Wait::Running(None) };
        let key = self.ops.borrow_mut().insert(op);
        match &self.engine {
            Engine::Ring(ring) => ring.start_poll(key, fd.as_raw_fd(), interest),
            Engine::Epoll(epoll) => {
                if let Err(errno) = epoll.start_poll(key, fd.as_fd(), interest) {
                    self.ops.borrow_mut().remove(key);
                    return Err(Error::os(errno.raw_os_error(), "wait for a descriptor"));
                }
            }
        }
        let mut ended = Ended { local: self, key, is_over: false };
        let Some(until_ns) = until_ns else {
            ended.await;
            return Ok(());
        };
        let mut timer = pin!(self.sleep(until_ns));
        poll_fn(|cx| match Pin::new(&mut ended).poll(cx) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => {
                timer.as_mut().poll(cx).map(|()| Err(Error::new(Kind::TimedOut, "the time is over")))
            }
        })
        .await
    }

    /// Starts an operation of a file that could not be done on the spot.
    pub(crate) fn start_file(&self, mut job: FileJob) -> Completion {
        if self.is_closed.get() {
            return Completion::ready(Err(ended()), job.steps.into_buf());
        }
        let (completion, finisher) = Completion::pending();
        let entry = match &self.engine {
            Engine::Ring(_) => job.steps.entry(&job.file),
            Engine::Epoll(_) => None,
        };
        match (&self.engine, entry) {
            (Engine::Ring(ring), Some(entry)) => {
                let key = self.ops.borrow_mut().insert(Op::File { job, finisher });
                // SAFETY: the entry points into the buffer that `job` owns, whose memory does not move with it; the job
                // stays in the table until the event of `key`.
                unsafe { ring.start(key, entry) };
            }
            _ => self.start_away(job, finisher),
        }
        completion
    }

    fn start_away(&self, job: FileJob, finisher: Finisher) {
        let queue = job.file.queue.clone();
        let key = self.ops.borrow_mut().insert(Op::Away { finisher });
        self.submit_work(key, &queue, Work::File(job));
    }

    fn submit_work(&self, key: Key, queue: &BlockingQueue, work: Work) {
        self.pool.submit(Job { work, queue: queue.clone(), home: Arc::clone(&self.reaper), key });
    }

    /// Takes the kernel's answer to an operation.
    pub(super) fn end(&self, Event { key, result }: Event) {
        let mut ops = self.ops.borrow_mut();
        let step = match ops.get_mut(key) {
            Some(Op::File { job, .. }) => job.steps.on_result(&job.file, result),
            Some(Op::Poll { .. } | Op::Call { .. }) => {
                drop(ops);
                return self.end_wait(key);
            }
            Some(Op::Away { .. }) | None => return,
        };
        if let (Step::Again, Some(Op::File { job, .. }), Engine::Ring(ring)) =
            (&step, ops.get_mut(key), &self.engine)
            && let Some(entry) = job.steps.entry(&job.file)
        {
            // SAFETY: as in `start_file`.
            unsafe { ring.start(key, entry) };
            return;
        }
        let Some(Op::File { job, finisher }) = ops.remove(key) else { return };
        drop(ops);
        match step {
            Step::Done(result) => finisher.finish(result, job.steps.into_buf()),
            Step::Again | Step::Blocking => self.start_away(job, finisher),
        }
    }

    /// Wakes the future that awaits the operation, or removes the operation if there is none.
    fn end_wait(&self, key: Key) {
        let mut ops = self.ops.borrow_mut();
        let Some(Op::Poll { wait, .. } | Op::Call { wait }) = ops.get_mut(key) else { return };
        match std::mem::replace(wait, Wait::Ended) {
            Wait::Running(Some(waker)) => {
                drop(ops);
                waker.wake();
            }
            Wait::Abandoned => {
                let gone = ops.remove(key);
                drop(ops);
                drop(gone);
            }
            Wait::Running(None) | Wait::Ended => {}
        }
    }

    /// Ends what the pool has finished.
    pub(super) fn reap(&self) {
        let mut finished = std::mem::take(&mut self.scratch.borrow_mut().finished);
        self.inbox.swap_finished(&mut finished);
        for Finished { key, file } in finished.drain(..) {
            let Some((job, result)) = file else {
                self.end_wait(key);
                continue;
            };
            let op = self.ops.borrow_mut().remove(key);
            if let Some(Op::Away { finisher }) = op {
                finisher.finish(result, job.steps.into_buf());
            }
        }
        self.scratch.borrow_mut().finished = finished;
    }

    /// A future of this crate has lost interest in its operation.
    fn forsake(&self, key: Key) {
        let mut ops = self.ops.borrow_mut();
        match ops.get_mut(key) {
            Some(Op::Poll { wait: Wait::Ended, .. } | Op::Call { wait: Wait::Ended }) => {}
            Some(Op::Poll { fd, wait, .. }) => match &self.engine {
                Engine::Ring(ring) => {
                    *wait = Wait::Abandoned;
                    ring.cancel_poll(key);
                    return;
                }
                Engine::Epoll(epoll) => epoll.cancel_poll(key, fd.as_fd()),
            },
            Some(Op::Call { wait }) => {
                *wait = Wait::Abandoned;
                return;
            }
            Some(Op::File { .. } | Op::Away { .. }) | None => return,
        }
        let gone = ops.remove(key);
        drop(ops);
        drop(gone);
    }
}

fn ended() -> Error {
    Error::new(Kind::Cancelled, "the I/O thread has ended")
}

/// Resolves when an operation in the table has ended; dropping it earlier gives the operation up.
struct Ended<'a> {
    local: &'a SysLocal,
    key: Key,
    is_over: bool,
}

impl Future for Ended<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut ops = self.local.ops.borrow_mut();
        match ops.get_mut(self.key) {
            Some(Op::Poll { wait, .. } | Op::Call { wait }) => match wait {
                Wait::Running(Some(waker)) => waker.clone_from(cx.waker()),
                Wait::Running(none) => *none = Some(cx.waker().clone()),
                Wait::Ended | Wait::Abandoned => {
                    let gone = ops.remove(self.key);
                    drop(ops);
                    drop(gone);
                    self.is_over = true;
                    return Poll::Ready(());
                }
            },
            Some(Op::File { .. } | Op::Away { .. }) | None => {
                drop(ops);
                self.is_over = true;
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.local.forsake(self.key);
        }
    }
}
