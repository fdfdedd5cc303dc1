//! One connection, seen from all threads: where requests for it are left.
//!
//! ```text
//!   any thread:  push(Job) ──► queue ──► the connection's thread (`traffic`) ──► server
//!                              reply ◄── Job::end
//! ```
//! A connection that another thread uses more than its own moves there, at a moment when nothing is under way; its queue
//! stays where it is.
//!
//! Invariants: a job ends exactly once, with its buffer; a connection that is over takes none.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use drystone_base::{Error, Result};
use drystone_buf::Buf;
use drystone_core::answer::AnswerSender;
use drystone_core::disk::DiskDone;
use drystone_nbd::{Request, Session};
use drystone_sys::Closer;

use super::connect::Entered;

/// So many requests of other threads in a row make a connection move.
const FOREIGN_MAX: u32 = 16;

/// A request on its way to a server.
pub(super) struct Job {
    /// Its cookie is the connection's business.
    pub(super) request: Request,
    /// What a read fills, or a write sends.
    pub(super) buf: Option<Buf>,
    pub(super) reply: Reply,
}

/// Who waits for the answer.
pub(super) enum Reply {
    /// An operation of the disk.
    Device(AnswerSender<DiskDone>),
    /// A question about block status.
    Status(AnswerSender<Result<Found, Lost>>),
    /// Nobody: it was asked to hear whether the server still answers.
    Nobody,
}

/// The first extent of an answer about block status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) len_bytes: u64,
    pub(super) status: u64,
}

/// A request that has not been done.
pub(super) struct Lost {
    pub(super) error: Error,
    /// When it is worth another attempt, if it is.
    pub(super) again_ns: Option<u64>,
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        Self { error, again_ns: None }
    }
}

impl Reply {
    /// Tells the outcome. A question that was answered without an extent has no answer.
    pub(super) fn end(self, buf: Option<Buf>, outcome: Result<Option<Found>, Lost>) {
        match self {
            Self::Device(sender) => sender.send(match outcome {
                Ok(_) => DiskDone { result: Ok(()), buf, again_ns: None },
                Err(Lost { error, again_ns }) => DiskDone { result: Err(error), buf, again_ns },
            }),
            Self::Status(sender) => match outcome {
                Ok(None) => {}
                Ok(Some(found)) => sender.send(Ok(found)),
                Err(lost) => sender.send(Err(lost)),
            },
            Self::Nobody => {}
        }
    }
}

impl Job {
    /// It will not be done.
    pub(super) fn fail(self, lost: Lost) {
        self.reply.end(self.buf, Err(lost));
    }
}

impl State {
    const fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::Moving)
    }
}

/// A connection.
pub(super) struct Conn {
    pub(super) session: Session,
    closer: Closer,
    queue: Mutex<Queue>,
    /// The server has answered something.
    was_useful: AtomicBool,
    /// Requests of other threads since the last one of its own.
    foreign: AtomicU32,
    /// For how many looks in a row the server has said nothing though something was asked: see `mind`.
    pub(super) silences: AtomicU32,
    /// Something was sent that changes the disk.
    has_written: AtomicBool,
    /// It was ended because the server did not answer.
    is_given_up: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Whoever sends them.
    sender: Option<Waker>,
    state: State,
    /// Where it goes when it moves.
    mover: Option<AnswerSender<Entered>>,
}

/// What whoever sends is to do.
pub(super) enum Turn {
    /// Send these, if there are any; else the connection is to end.
    Send,
    /// Let go of the connection.
    Move(AnswerSender<Entered>),
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Nothing is sent until it is on another thread.
    Moving,
    /// It says goodbye once it has nothing to send.
    Leaving,
    Over,
}

impl Conn {
    pub(super) fn new(session: Session, closer: Closer) -> Self {
        Self {
            session,
            closer,
            queue: Mutex::default(),
            was_useful: AtomicBool::new(false),
            foreign: AtomicU32::new(0),
            silences: AtomicU32::new(0),
            has_written: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// The server has answered something.
    pub(super) fn note_answer(&self) {
        if !self.was_useful() {
            self.was_useful.store(true, Ordering::Release);
        }
        if self.silences.load(Ordering::Relaxed) != 0 {
            self.silences.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn was_useful(&self) -> bool {
        self.was_useful.load(Ordering::Acquire)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its own thread has a request.
    pub(super) fn note_own(&self) {
        if self.foreign.load(Ordering::Relaxed) != 0 {
            self.foreign.store(0, Ordering::Relaxed);
        }
    }

    /// Another thread has a request: whether it is time to move there.
    pub(super) fn note_foreign(&self) -> bool {
        self.foreign.fetch_add(1, Ordering::Relaxed) >= FOREIGN_MAX
    }

    /// Asks it to come when nothing is under way, unless it is on its way somewhere.
    pub(super) fn move_to(&self, mover: AnswerSender<Entered>) {
        let mut queue = self.queue();
        if queue.state == State::Open {
            queue.state = State::Moving;
            queue.mover = Some(mover);
            self.foreign.store(0, Ordering::Relaxed);
        }
        wake(queue);
    }

    pub(super) fn is_moving(&self) -> bool {
        self.queue().state == State::Moving
    }

    /// It has arrived.
    pub(super) fn settle(&self) {
        let mut queue = self.queue();
        if queue.state == State::Moving {
            queue.state = State::Open;
        }
    }

    /// Leaves a request; gives it back if the connection is over.
    pub(super) fn push(&self, job: Job) -> Result<(), Box<Job>> {
        let mut queue = self.queue();
        if !queue.state.is_open() {
            return Err(Box::new(job));
        }
        queue.jobs.push_back(job);
        wake(queue);
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.queue().state.is_open()
    }

    /// Moves up to `room` requests to `into`, `under_way` others being with the server.
    pub(super) fn poll_turn(
        &self,
        (room, under_way): (usize, usize),
        into: &mut Vec<Job>,
        cx: &Context<'_>,
    ) -> Poll<Turn> {
        let mut queue = self.queue();
        if queue.state == State::Moving {
            if under_way == 0
                && let Some(mover) = queue.mover.take()
            {
                return Poll::Ready(Turn::Move(mover));
            }
            queue.sender = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = queue.jobs.len().min(room);
        into.extend(queue.jobs.drain(..count));
        if count > 0 || queue.state != State::Open {
            return Poll::Ready(Turn::Send);
        }
        queue.sender = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Asks it to end when what it was given is sent.
    pub(super) fn leave(&self) {
        let mut queue = self.queue();
        if queue.state.is_open() {
            queue.state = State::Leaving;
        }
        wake(queue);
    }

    /// Ends it: what waits for the socket fails, and whoever sends looks up.
    pub(super) fn cut(&self) {
        self.closer.close();
        let mut queue = self.queue();
        queue.state = State::Over;
        let mover = queue.mover.take();
        wake(queue);
        drop(mover);
    }

    /// Ends it because its server does not answer.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
        self.cut();
    }

    /// Something changes the disk.
    pub(super) fn note_write(&self) {
        if !self.has_written() {
            self.has_written.store(true, Ordering::Release);
        }
    }

    pub(super) fn has_written(&self) -> bool {
        self.has_written.load(Ordering::Acquire)
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// How often bytes have moved on it.
    pub(super) fn moves(&self) -> u32 {
        self.closer.moves()
    }

    /// What was never sent. To be called once it is over.
    pub(super) fn take_rest(&self) -> VecDeque<Job> {
        mem::take(&mut self.queue().jobs)
    }
}

/// Wakes whoever sends, without the lock.
fn wake(mut queue: MutexGuard<'_, Queue>) {
    let sender = queue.sender.take();
    drop(queue);
    if let Some(sender) = sender {
        sender.wake();
    }
}
