//! [`Conn`]: what the tasks of one connection share. All of them live on one I/O thread.
//!
//! ```text
//!            client --recv--> reader --Job--> slot --Reply--> outbox --sendmsg--> client
//!                            |  ^            | N of them      |  ^
//!             waits for room '--|------------|----------------'  '-- by the slot that ends last, or by the writer
//!                               |            '-- a lane of its own, a ticket while it runs
//!                               '-- tasks of their own, made when they are needed, kept
//! ```
//! | stage | reader | slots | replies |
//! |---|---|---|---|
//! | `Serving` | takes requests | run them | are sent |
//! | `Ending` | has ended | finish what has entered the graph; what waits at a gate fails with `ESHUTDOWN` | are sent, for a while |
//! | `Over` | has ended | end | are dropped |
//!
//! Invariants: what requests occupy is within [`Limits`] from their header to the last byte of their reply; nothing is
//! allocated per request in steady state; a client that takes no replies stops its own reader and nobody else.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use drystone_buf::Pool;
use drystone_core::backend::{Backend, Mode};
use drystone_core::lane::{Lane, Ticket};
use drystone_core::runtime::LocalRef;
use drystone_nbd::Session;

use super::bell::Bell;
use super::export::Export;
use super::load::{Cost, Limits, Load};
use super::mailbox::{Job, Mailbox};
use super::outbox::{Outbox, Reply, Sent};
use super::peer::{Sink, unless};
use super::spare::Spare;
use super::{slot, writer};

/// Bytes of replies that are sent although there are more requests to look at: more would leave the processor's cache.
const OUTBOX_BYTES: usize = 128 << 10;
/// Bytes of replies that a client has not taken, and the next request waits: to read further ahead would only move more
/// memory through the processor's cache.
const AHEAD_BYTES: usize = 1 << 20;

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Serving,
    Ending,
    Over,
}

/// What the tasks of one connection share.
pub(super) struct Conn<S> {
    pub(super) sink: S,
    pub(super) session: Session,
    pub(super) export: Arc<Export>,
    pub(super) spare: Spare,
    pub(super) pool: Pool,
    local: LocalRef,
    stage: Cell<Stage>,
    load: Load,
    outbox: RefCell<Outbox>,
    /// The client takes nothing; the writer waits for it.
    is_blocked: Cell<bool>,
    /// Slots that have a job.
    running: Cell<u32>,
    /// The reader has received something that it has not looked at yet.
    is_reading: Cell<bool>,
    /// Slots without a job, the one that ended last at the end.
    idle: RefCell<Vec<Rc<Mailbox>>>,
    mailboxes: RefCell<Vec<Rc<Mailbox>>>,
    /// Tasks beside the reader's.
    tasks: Cell<u32>,
    reader: Bell,
    writer: Bell,
}

impl<S: Sink> Conn<S> {
    pub(super) fn new(
        sink: S,
        (session, export): (Session, Arc<Export>),
        (pool, limits): (Pool, Limits),
        local: LocalRef,
    ) -> Rc<Self> {
        let conn = Rc::new(Self {
            sink,
            session,
            export,
            spare: Spare::new(pool.clone()),
            pool,
            local,
            stage: Cell::new(Stage::Serving),
            load: Load::new(limits),
            outbox: RefCell::default(),
            is_blocked: Cell::new(false),
            running: Cell::new(0),
            is_reading: Cell::new(false),
            idle: RefCell::default(),
            mailboxes: RefCell::default(),
            tasks: Cell::new(0),
            reader: Bell::default(),
            writer: Bell::default(),
        });
        conn.spawn(writer::run(Rc::clone(&conn), Lane::new(conn.local.clone())));
        conn
    }

    /// Goes on to `stage`, unless it is there or further already. Whoever waits looks again.
    pub(super) fn advance(&self, stage: Stage) {
        if self.stage.get() >= stage {
            return;
        }
        self.stage.set(stage);
        if stage == Stage::Over {
            self.sink.close();
            self.load.remove(self.outbox.borrow_mut().clear());
        }
        self.reader.ring();
        self.writer.ring();
        for mailbox in self.mailboxes.borrow().iter() {
            mailbox.bell.ring();
        }
    }

    /// Runs `task` on this thread; [`Self::tasks_gone`] waits for it.
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.tasks.set(self.tasks.get() + 1);
        let conn = Rc::clone(self);
        self.local.spawn(Box::pin(async move {
            task.await;
            conn.tasks.set(conn.tasks.get() - 1);
            conn.reader.ring();
        }));
    }

    // The reader's side.

    /// Waits for room for one more request of this cost. `false`: there will be none.
    pub(super) async fn room(&self, cost: Cost) -> bool {
        if self.stage.get() == Stage::Serving && self.try_add(cost) {
            return true;
        }
        self.pause();
        let look = || match self.stage.get() {
            Stage::Serving => self.try_add(cost).then_some(true),
            Stage::Ending | Stage::Over => Some(false),
        };
        let has_room = self.reader.until(look).await;
        self.resume();
        has_room
    }

    fn try_add(&self, cost: Cost) -> bool {
        let is_ahead = self.is_blocked.get() && self.outbox.borrow().left_bytes() >= AHEAD_BYTES;
        !is_ahead && self.load.try_add(cost)
    }

    /// The reader is about to wait: what it has brought so far is answered.
    pub(super) fn pause(&self) {
        self.is_reading.set(false);
        if !self.outbox.borrow().is_empty() {
            self.flush();
        }
    }

    /// The reader has something to look at: replies are held back, to be sent together.
    pub(super) fn resume(&self) {
        self.is_reading.set(true);
    }

    /// Gives a request for which there is room to a slot, which begins it at once.
    pub(super) fn dispatch(self: &Rc<Self>, job: Job) {
        self.running.set(self.running.get() + 1);
        let idle = self.idle.borrow_mut().pop();
        let mailbox = idle.unwrap_or_else(|| self.add_slot());
        mailbox.deliver(job);
    }

    fn add_slot(self: &Rc<Self>) -> Rc<Mailbox> {
        let mailbox = Rc::new(Mailbox::default());
        self.mailboxes.borrow_mut().push(Rc::clone(&mailbox));
        let worker = slot::run(Rc::clone(self), Rc::clone(&mailbox), Lane::new(self.local.clone()));
        let driven = Rc::clone(&mailbox);
        self.spawn(async move { driven.drive(Box::pin(worker)).await });
        mailbox
    }

    /// Waits until no request is running.
    pub(super) async fn idle(&self) {
        self.reader.until(|| (self.running.get() == 0).then_some(())).await;
    }

    /// Waits until all replies that are there were sent, or cannot be.
    pub(super) async fn all_sent(&self) {
        self.reader.until(|| self.outbox.borrow().is_empty().then_some(())).await;
    }

    /// Waits for the end of all tasks that were spawned.
    pub(super) async fn tasks_gone(&self) {
        self.reader.until(|| (self.tasks.get() == 0).then_some(())).await;
    }

    // The slots' side.

    /// The slot's next job; `None` when the connection is over.
    pub(super) async fn next_job(&self, mailbox: &Mailbox) -> Option<Job> {
        mailbox.next_job(|| self.stage.get() == Stage::Over).await
    }

    /// Enters the graph; `None` if the connection ends while a drain keeps the request of `mailbox` out.
    pub(super) async fn enter<'l, M: Mode>(
        &self,
        mailbox: &Mailbox,
        lane: &'l mut Lane,
        backend: &Backend<M>,
    ) -> Option<Ticket<'l, M>> {
        let ending = mailbox.bell.until(|| (self.stage.get() != Stage::Serving).then_some(()));
        unless(lane.enter(backend), ending).await
    }

    /// Queues one reply, or a chunk of one.
    pub(super) fn reply(&self, reply: Reply) {
        self.outbox.borrow_mut().push(reply);
    }

    /// A slot has ended its job and queued its replies. They are sent when nobody else is running and the reader waits,
    /// or soon.
    pub(super) fn done(&self, mailbox: &Rc<Mailbox>) {
        self.running.set(self.running.get() - 1);
        self.idle.borrow_mut().push(Rc::clone(mailbox));
        self.push_out();
    }

    /// Sends what is queued, now or soon.
    pub(super) fn push_out(&self) {
        let is_last = self.running.get() == 0;
        if self.outbox.borrow().left_bytes() >= OUTBOX_BYTES || (is_last && !self.is_reading.get()) {
            self.flush();
        } else if !self.is_reading.get() {
            self.writer.ring();
        }
        if is_last {
            self.reader.ring();
        }
    }

    // The writer's side.

    /// Sends what is queued, as much as the client takes.
    pub(super) fn flush(&self) {
        if self.stage.get() == Stage::Over {
            let cost = self.outbox.borrow_mut().clear();
            return self.load.remove(cost);
        }
        if self.is_blocked.get() {
            return;
        }
        let (result, cost) = self.outbox.borrow_mut().flush(&self.spare, |pieces| self.sink.try_send(pieces));
        self.give_back(cost);
        match result {
            Ok(Sent::All) => {}
            Ok(Sent::Blocked) => {
                self.is_blocked.set(true);
                self.writer.ring();
            }
            Err(_) => self.advance(Stage::Over),
        }
    }

    /// A request does not occupy this any more.
    pub(super) fn give_back(&self, cost: Cost) {
        if cost != Cost::NOTHING {
            self.load.remove(cost);
            self.reader.ring();
        }
    }

    /// Waits until there is something to send; `false` when the connection is over.
    pub(super) async fn something_to_send(&self) -> bool {
        self.writer
            .until(|| {
                let is_over = self.stage.get() == Stage::Over;
                (is_over || !self.outbox.borrow().is_empty()).then_some(!is_over)
            })
            .await
    }

    /// The client may take more now.
    pub(super) fn unblock(&self) {
        self.is_blocked.set(false);
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }
}
