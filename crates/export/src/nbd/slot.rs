//! A slot: a task with a lane of its own that runs one request at a time.
//!
//! | command | in the graph |
//! |---|---|
//! | `READ` | one read |
//! | `WRITE` | one write; `FUA` or a write-through export: on stable storage |
//! | `FLUSH` | one flush |
//! | `TRIM`, `WRITE_ZEROES` | steps of [`STEP_BYTES`], a ticket each, so that no drain waits for a whole disk |
//! | `CACHE` | reads in steps of [`CACHE_STEP_BYTES`] that go nowhere |
//! | `BLOCK_STATUS` | a ticket for each extent ([`super::status`]) |
//!
//! Invariant: the payload was received before the request enters the graph, and its ticket is gone before the reply is
//! sent. Clients are told which command failed and a number, not what the node or its file is called.

use std::rc::Rc;

use drystone_base::{Error, GuestOffset, GuestRange};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, Mode, ReadWrite};
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::lane::{Lane, Ticket};
use drystone_nbd::reply::ERROR_BYTES_MAX;
use drystone_nbd::{Command, CommandFlags, NbdError, Refusal, ReplyTo, Request};

use super::conn::Conn;
use super::load::Cost;
use super::mailbox::{Job, Mailbox};
use super::outbox::Reply;
use super::peer::Sink;
use super::status;

/// How much is zeroed or discarded under one ticket. Without a fast way to do it, writing so many zeroes takes a while.
const STEP_BYTES: u64 = 64 << 20;
/// How much is read ahead at once.
const CACHE_STEP_BYTES: u64 = 1 << 20;

/// Runs jobs until the connection is over.
pub(super) async fn run<S: Sink>(conn: Rc<Conn<S>>, mailbox: Rc<Mailbox>, lane: Lane) {
    let mut slot = Slot { conn: &conn, mailbox: &mailbox, lane };
    while let Some(job) = conn.next_job(&mailbox).await {
        let (to, cost) = (slot.reply_to(&job.request), job.cost);
        if let Err(refusal) = slot.serve(to, job).await {
            conn.reply(refused(to, refusal, cost));
        }
        conn.done(&mailbox);
    }
}

/// What a request occupies besides its payload.
pub(super) fn cost(request: &Request) -> Cost {
    Cost::request(match request.command {
        Command::Read | Command::Write => request.len_bytes,
        Command::Cache => request.len_bytes.min(CACHE_STEP_BYTES),
        Command::BlockStatus => status::BYTES_MAX,
        Command::Disconnect | Command::Flush | Command::Trim | Command::WriteZeroes => 0,
    })
}

/// The reply to a request that is not run, or that failed.
pub(super) fn refused(to: ReplyTo, refusal: Refusal, cost: Cost) -> Reply {
    let mut bytes = [0; ERROR_BYTES_MAX];
    let bytes = to.error(&mut bytes, refusal.error, None, refusal.text);
    Reply::new(Some(Buf::copy_of(bytes)), cost, |_| 0)
}

/// One slot at work.
pub(super) struct Slot<'a, S> {
    pub(super) conn: &'a Rc<Conn<S>>,
    mailbox: &'a Rc<Mailbox>,
    lane: Lane,
}

impl<S: Sink> Slot<'_, S> {
    pub(super) fn reply_to(&self, request: &Request) -> ReplyTo {
        ReplyTo::new(self.conn.session.style, request.cookie, request.offset_bytes)
    }

    async fn serve(&mut self, to: ReplyTo, job: Job) -> Result<(), Refusal> {
        let Job { request, payload, cost } = job;
        match request.command {
            Command::Read => {
                let data = self.read(&request).await?;
                let len = u32::try_from(data.len()).unwrap_or(u32::MAX); // at most the maximum block size
                let write = |head: &mut _| to.data(head, request.offset_bytes, len, true).len();
                self.conn.reply(Reply::new(Some(data), cost, write));
                return Ok(());
            }
            Command::BlockStatus => return self.block_status(&request, payload, cost).await,
            Command::Write => self.write(&request, payload).await?,
            Command::Flush => self.flush(&request).await?,
            Command::Trim => self.trim(&request).await?,
            Command::WriteZeroes => self.write_zeroes(&request).await?,
            Command::Cache => self.cache(&request).await?,
            Command::Disconnect => {}
        }
        self.conn.reply(Reply::new(None, cost, |head| to.done(head).len()));
        Ok(())
    }

    /// Enters the graph. Fails if the connection ends while a drain keeps requests out.
    pub(super) async fn enter<M: Mode>(&mut self, backend: &Backend<M>) -> Result<Ticket<'_, M>, Refusal> {
        let ticket = self.conn.enter(self.mailbox, &mut self.lane, backend).await;
        ticket.ok_or(Refusal { error: NbdError::Shutdown, text: "the server stops" })
    }

    async fn read(&mut self, request: &Request) -> Result<Buf, Refusal> {
        let conn = self.conn;
        let buf = conn.spare.take(usize::try_from(request.len_bytes).unwrap_or(usize::MAX));
        if buf.is_empty() {
            return Ok(buf);
        }
        let mut ticket = self.enter(&conn.export.reader).await?;
        let (result, buf) = ticket.read(GuestOffset::new(request.offset_bytes), buf).await;
        result.map(|()| buf).map_err(|error| failed(&error, request))
    }

    async fn write(&mut self, request: &Request, payload: Option<Buf>) -> Result<(), Refusal> {
        let conn = self.conn;
        let Some(payload) = payload.filter(|payload| !payload.is_empty()) else { return Ok(()) };
        let flags = WriteFlags { fua: self.is_durable(request), ..WriteFlags::default() };
        let mut ticket = self.enter(writer(conn)?).await?;
        let (result, payload) = ticket.write(GuestOffset::new(request.offset_bytes), payload, flags).await;
        drop(ticket);
        drop(payload);
        result.map_err(|error| failed(&error, request))
    }

    async fn flush(&mut self, request: &Request) -> Result<(), Refusal> {
        let conn = self.conn;
        let mut ticket = self.enter(&conn.export.reader).await?;
        ticket.flush().await.map_err(|error| failed(&error, request))
    }

    async fn trim(&mut self, request: &Request) -> Result<(), Refusal> {
        let conn = self.conn;
        let mut rest = range(request);
        while !rest.is_empty() {
            let step = rest.take(STEP_BYTES);
            let mut ticket = self.enter(writer(conn)?).await?;
            ticket.discard(step).await.map_err(|error| failed(&error, request))?;
            rest = rest.skip(step.len());
        }
        if self.is_durable(request) { self.flush(request).await } else { Ok(()) }
    }

    async fn write_zeroes(&mut self, request: &Request) -> Result<(), Refusal> {
        let conn = self.conn;
        let mut rest = range(request);
        while !rest.is_empty() {
            let step = rest.take(STEP_BYTES);
            rest = rest.skip(step.len());
            let flags = ZeroFlags {
                may_unmap: !request.flags.has(CommandFlags::NO_HOLE),
                fast_only: request.flags.has(CommandFlags::FAST_ZERO),
                // A flush covers what was written before.
                fua: rest.is_empty() && self.is_durable(request),
                unchanged: false,
            };
            let mut ticket = self.enter(writer(conn)?).await?;
            ticket.write_zeroes(step, flags).await.map_err(|error| failed(&error, request))?;
        }
        Ok(())
    }

    async fn cache(&mut self, request: &Request) -> Result<(), Refusal> {
        let conn = self.conn;
        let mut rest = range(request);
        while !rest.is_empty() {
            let step = rest.take(CACHE_STEP_BYTES);
            let buf = conn.pool.take(usize::try_from(step.len()).unwrap_or(usize::MAX));
            let mut ticket = self.enter(&conn.export.reader).await?;
            ticket.read(step.start(), buf).await.0.map_err(|error| failed(&error, request))?;
            rest = rest.skip(step.len());
        }
        Ok(())
    }

    fn is_durable(&self, request: &Request) -> bool {
        request.flags.has(CommandFlags::FUA) || self.conn.export.options().writethrough
    }
}

/// The right to write. Requests that need it are not admitted to a read-only export.
fn writer<S>(conn: &Conn<S>) -> Result<&Backend<ReadWrite>, Refusal> {
    let refusal = Refusal { error: NbdError::NotPermitted, text: "the export is read-only" };
    conn.export.writer.as_ref().ok_or(refusal)
}

/// Of a request that was admitted, so it is inside the disk.
fn range(request: &Request) -> GuestRange {
    GuestRange::new(GuestOffset::new(request.offset_bytes), request.len_bytes)
}

/// What a client is told about a request that failed.
pub(super) fn failed(error: &Error, request: &Request) -> Refusal {
    let text = match request.command {
        Command::Read => "cannot read",
        Command::Write => "cannot write",
        Command::Flush => "cannot flush",
        Command::Trim => "cannot trim",
        Command::WriteZeroes => "cannot write zeroes",
        Command::Cache => "cannot read ahead",
        Command::BlockStatus => "cannot find out how the range is allocated",
        Command::Disconnect => "cannot disconnect",
    };
    Refusal { error: NbdError::for_reply(error, request), text }
}
