//! The traffic of one connection, on the thread that the connection lives on: requests out, replies in.
//!
//! ```text
//!   queue ──► begin: header, cookie ──► one sendmsg for all that is there ──► server
//!                     │ pending: who waits, the buffer
//!   reply ◄── end  ◄──┴── data straight into the buffer ◄── next ◄── server
//! ```
//! Both directions run beside each other, so a server that does not read until it has been read from stops nobody.
//!
//! Invariants: at most [`IN_FLIGHT_MAX`] requests are under way; the buffer of a write belongs to the sender until all of it
//! is sent, also if the answer comes before; when either direction ends, so does the other, and every request is ended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use drystone_base::{Error, Kind, Result};
use drystone_buf::Buf;
use drystone_core::answer::AnswerSender;
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_nbd::client::{ReplyError, Transmission, What};
use drystone_nbd::wire::REQUEST_EXTENDED_BYTES;
use drystone_nbd::{Command, CommandFlags, NbdError, Request};
use drystone_sys::{Receiver, Sender};

use super::conn::{Conn, Found, Job, Reply, Turn};
use super::connect::Entered;
use super::mind;

/// Requests that the server has at a time. The others wait in the queue.
pub(super) const IN_FLIGHT_MAX: usize = 64;

/// The data of reads from here on are worth a system call of their own, which puts them where they belong.
const LARGE_BYTES: u64 = 16 << 10;
/// Room for a header, when such data may follow it.
const HEAD_READ_BYTES: usize = 128;

/// The words of a server that are kept with an error, in bytes.
const WORDS_BYTES_MAX: usize = 256;

/// Requests under way.
pub(super) struct Flight {
    transmission: Box<Transmission>,
    pending: BTreeMap<u64, Pending>,
    cookie: u64,
    /// How many of the requests are large reads.
    large_reads: usize,
    /// Woken when there is room for more requests, or nothing is under way.
    room: Option<Waker>,
    /// Woken when a request begins or ends: whoever minds silence.
    minder: Option<Waker>,
}

/// A request that was begun.
struct Pending {
    reply: Reply,
    /// Not here while it is being sent or filled.
    buf: Option<Buf>,
    offset_bytes: u64,
    is_sending: bool,
    is_large_read: bool,
    /// The answer came while the request was being sent.
    ended: Option<Result<(), NbdError>>,
    found: Option<Found>,
    words: String,
}

/// A request that is being sent.
struct Sending {
    cookie: u64,
    head: Range<usize>,
    buf: Option<Buf>,
}

/// What was made of the start of the stream.
struct Step {
    used_bytes: usize,
    cookie: u64,
    /// Data that follow, and where they belong in the buffer.
    data: Option<Range<usize>>,
    end: Option<Result<(), NbdError>>,
}

/// How a connection ended on this thread.
pub(super) enum Ended {
    /// It goes on on another one.
    Moved,
    /// For good.
    Over {
        /// The requests that it has not done.
        lost: Vec<Job>,
        /// What became of it.
        why: Error,
    },
}

/// Runs the connection until it ends, or moves.
pub(super) async fn run(conn: &Conn, entered: Entered, local: &LocalRef) -> Ended {
    let Entered { mut receiver, mut sender, closer, transmission } = entered;
    let flight = RefCell::new(Flight {
        transmission,
        pending: BTreeMap::new(),
        cookie: 0,
        large_reads: 0,
        room: None,
        minder: None,
    });
    let (mut out, mut back) = (Lane::new(local.clone()), Lane::new(local.clone()));
    let sending = async {
        let result = send_all(conn, &flight, &mut sender, &mut out).await;
        if !matches!(result, Ok(Some(_))) {
            conn.cut();
        }
        result
    };
    let receiving = async {
        let result = receive_all(conn, &flight, &mut receiver, &mut back).await;
        conn.cut();
        flight.borrow_mut().wake_sender();
        result
    };
    let minding = mind::mind(conn, &flight, local);
    let (sent, received) = both(sending, beside(receiving, minding)).await;
    let flight = flight.into_inner();
    let (sent, received) = match (sent, received) {
        (Ok(Some(mover)), None) => {
            mover.send(Entered { receiver, sender, closer, transmission: flight.transmission });
            return Ended::Moved;
        }
        (sent, received) => (sent.map(drop), received.unwrap_or(Ok(()))),
    };
    let lost = flight.pending.into_values().map(Pending::into_job).chain(conn.take_rest()).collect();
    // Whoever ended the connection knows why; the other only saw that it was over.
    let why = match (sent, received) {
        _ if conn.is_given_up() => {
            Error::new(Kind::Disconnected, "the NBD server has not answered for too long")
        }
        (Err(error), _) if error.kind() != Kind::Cancelled => error,
        (_, Err(error)) => error,
        (_, Ok(())) => Error::new(Kind::Disconnected, "the connection to the NBD server has ended"),
    };
    Ended::Over { lost, why }
}

/// Runs both to their ends; `other` is not waited for if `one` ends to move on.
async fn both<A>(
    one: impl Future<Output = Result<Option<A>>>,
    other: impl Future<Output = Result<()>>,
) -> (Result<Option<A>>, Option<Result<()>>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && !matches!(first, Some(Ok(Some(_))))
            && let Poll::Ready(value) = other.as_mut().poll(cx)
        {
            second = Some(value);
        }
        match first.take() {
            Some(value) if second.is_some() || matches!(value, Ok(Some(_))) => {
                Poll::Ready((value, second.take()))
            }
            value => {
                first = value;
                Poll::Pending
            }
        }
    })
    .await
}

/// Runs `main` to its end, and `side` as long.
async fn beside<T>(main: impl Future<Output = T>, side: impl Future<Output = ()>) -> T {
    let (mut main, mut side) = (pin!(main), pin!(side));
    let mut is_over = false;
    poll_fn(|cx| {
        let polled = main.as_mut().poll(cx);
        is_over = is_over || polled.is_pending() && side.as_mut().poll(cx).is_ready();
        polled
    })
    .await
}

/// Sends what comes, until the connection ends, or where it moves to is said.
async fn send_all(
    conn: &Conn,
    flight: &RefCell<Flight>,
    sender: &mut Sender,
    lane: &mut Lane,
) -> Result<Option<AnswerSender<Entered>>> {
    let (mut jobs, mut heads) = (Vec::new(), Vec::new());
    loop {
        let turn = poll_fn(|cx| {
            let mut flight = flight.borrow_mut();
            match flight.room(conn, cx) {
                0 => Poll::Pending,
                room => {
                    let turn = conn.poll_turn((room, flight.pending.len()), &mut jobs, cx);
                    if turn.is_pending() && conn.is_moving() {
                        flight.room = Some(cx.waker().clone());
                    }
                    turn
                }
            }
        });
        match turn.await {
            Turn::Move(mover) => return Ok(Some(mover)),
            Turn::Send if jobs.is_empty() => {
                flight.borrow_mut().say_goodbye(sender);
                return Ok(None);
            }
            Turn::Send => {}
        }
        let writes =
            |job: &Job| matches!(job.request.command, Command::Write | Command::WriteZeroes | Command::Trim);
        if jobs.iter().any(writes) {
            conn.note_write();
        }
        heads.clear();
        let begun: Vec<Sending> =
            jobs.drain(..).filter_map(|job| flight.borrow_mut().begin(job, &mut heads)).collect();
        let sent = send(lane, sender, &heads, &begun).await;
        let mut flight = flight.borrow_mut();
        begun.into_iter().for_each(|sending| flight.sent(sending));
        sent?;
    }
}

async fn send(lane: &mut Lane, sender: &mut Sender, heads: &[u8], begun: &[Sending]) -> Result<()> {
    let mut parts: Vec<IoSlice<'_>> = Vec::with_capacity(begun.len() * 2);
    // Heads between which there is nothing are one part.
    let mut from = 0;
    for Sending { head, buf, .. } in begun {
        if let Some(buf) = buf {
            parts.push(IoSlice::new(heads.get(from..head.end).unwrap_or_default()));
            parts.push(IoSlice::new(buf.as_slice()));
            from = head.end;
        }
    }
    parts.push(IoSlice::new(heads.get(from..).unwrap_or_default()));
    sender.send(lane, &mut parts).await
}

async fn receive_all(
    conn: &Conn,
    flight: &RefCell<Flight>,
    receiver: &mut Receiver,
    lane: &mut Lane,
) -> Result<()> {
    loop {
        let step = flight.borrow_mut().next(receiver.buffered())?;
        let Some(Step { used_bytes, cookie, data, end }) = step else {
            let (count, most) = (receiver.buffered().len() + 1, flight.borrow().read_bytes_max());
            if !receiver.fill_up_to(lane, count, most).await? {
                return Err(Error::new(Kind::Disconnected, "the NBD server closed the connection"));
            }
            continue;
        };
        receiver.consume(used_bytes);
        if let Some(range) = data {
            let Some(mut buf) = flight.borrow_mut().take_buf(cookie) else {
                return Err(broken(ReplyError::Kind));
            };
            let result = match buf.as_mut_slice().get_mut(range) {
                Some(into) => receiver.recv_exact(lane, into).await,
                None => Err(broken(ReplyError::OutOfRange)),
            };
            flight.borrow_mut().give_buf(cookie, buf);
            result?;
        }
        if let Some(outcome) = end {
            conn.note_answer();
            flight.borrow_mut().end(cookie, outcome);
        }
    }
}

fn broken(cause: ReplyError) -> Error {
    Error::new(Kind::Disconnected, "the NBD server broke the protocol").because(cause)
}

impl Flight {
    /// How many more requests the server may have; not 0 once the connection is to end.
    fn room(&mut self, conn: &Conn, cx: &Context<'_>) -> usize {
        let room = IN_FLIGHT_MAX.saturating_sub(self.pending.len());
        if room == 0 && conn.is_open() {
            self.room = Some(cx.waker().clone());
            return 0;
        }
        room.max(1)
    }

    fn wake_sender(&mut self) {
        if let Some(sender) = self.room.take() {
            sender.wake();
        }
    }

    /// Registers a request and appends its header to `heads`. A request that must not be sent ends here.
    fn begin(&mut self, job: Job, heads: &mut Vec<u8>) -> Option<Sending> {
        self.cookie = self.cookie.wrapping_add(1);
        let cookie = self.cookie;
        let request = Request { cookie, ..job.request };
        let mut out = [0; REQUEST_EXTENDED_BYTES];
        let head = match self.transmission.begin(&request, &mut out) {
            Ok(head) => head,
            Err(cause) => {
                let error = Error::new(Kind::InvalidInput, "the NBD server would not take the request");
                job.fail(error.because(cause).into());
                return None;
            }
        };
        let start = heads.len();
        heads.extend_from_slice(head);
        let writes = request.command == Command::Write;
        let (sent, kept) = if writes { (job.buf, None) } else { (None, job.buf) };
        let is_large_read = request.command == Command::Read && request.len_bytes >= LARGE_BYTES;
        self.large_reads += usize::from(is_large_read);
        let pending = Pending {
            is_large_read,
            reply: job.reply,
            buf: kept,
            offset_bytes: request.offset_bytes,
            is_sending: true,
            ended: None,
            found: None,
            words: String::new(),
        };
        self.pending.insert(cookie, pending);
        self.wake_minder();
        Some(Sending { cookie, head: start..heads.len(), buf: sent })
    }

    /// A request has been sent, or will never be.
    fn sent(&mut self, Sending { cookie, buf, .. }: Sending) {
        let Some(pending) = self.pending.get_mut(&cookie) else { return };
        pending.is_sending = false;
        if buf.is_some() {
            pending.buf = buf;
        }
        if let Some(outcome) = pending.ended.take() {
            self.end(cookie, outcome);
        }
    }

    /// Reads the start of the stream; `None` if it is not enough.
    fn next(&mut self, input: &[u8]) -> Result<Option<Step>> {
        let Some((used_bytes, event)) = self.transmission.next(input).map_err(broken)? else {
            return Ok(None);
        };
        let (cookie, end) = (event.cookie, event.end);
        let pending =
            self.pending.get_mut(&cookie).ok_or_else(|| broken(ReplyError::UnknownCookie(cookie)))?;
        let mut data = None;
        match event.what {
            What::Nothing => {}
            What::Data { offset_bytes, len_bytes } => data = Some(pending.part(offset_bytes, len_bytes)?),
            What::Hole { offset_bytes, len_bytes } => {
                let range = pending.part(offset_bytes, len_bytes)?;
                let part = pending.buf.as_mut().and_then(|buf| buf.as_mut_slice().get_mut(range));
                part.ok_or_else(|| broken(ReplyError::OutOfRange))?.fill(0);
            }
            What::Extent { context: 0, len_bytes, status, .. } => {
                pending.found.get_or_insert(Found { len_bytes, status });
            }
            What::Extent { .. } => {}
            What::Error { text, .. } => pending.words = words(text),
        }
        Ok(Some(Step { used_bytes, cookie, data, end }))
    }

    /// How much is to be received at once in search of the next header.
    const fn read_bytes_max(&self) -> usize {
        if self.large_reads > 0 { HEAD_READ_BYTES } else { usize::MAX }
    }

    fn take_buf(&mut self, cookie: u64) -> Option<Buf> {
        self.pending.get_mut(&cookie)?.buf.take()
    }

    fn give_buf(&mut self, cookie: u64, buf: Buf) {
        if let Some(pending) = self.pending.get_mut(&cookie) {
            pending.buf = Some(buf);
        }
    }

    /// Tells whoever waits for the request, unless it is still being sent.
    fn end(&mut self, cookie: u64, outcome: Result<(), NbdError>) {
        if let Some(pending) = self.pending.get_mut(&cookie).filter(|pending| pending.is_sending) {
            pending.ended = Some(outcome);
            return;
        }
        let Some(pending) = self.pending.remove(&cookie) else { return };
        let Pending { reply, buf, found, words, is_large_read, .. } = pending;
        self.large_reads -= usize::from(is_large_read);
        reply.end(buf, outcome.map(|()| found).map_err(|error| server_error(error, &words).into()));
        self.wake_sender();
        self.wake_minder();
    }

    /// How many requests are under way.
    pub(super) fn count(&self) -> usize {
        self.pending.len()
    }

    /// Whether one of them is a probe.
    pub(super) fn is_probing(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending.reply, Reply::Nobody))
    }

    pub(super) fn set_minder(&mut self, minder: &Waker) {
        self.minder = Some(minder.clone());
    }

    fn wake_minder(&mut self) {
        if let Some(minder) = self.minder.take() {
            minder.wake();
        }
    }

    /// Nothing is under way: as far as that needs no waiting.
    fn say_goodbye(&mut self, sender: &Sender) {
        let (command, flags) = (Command::Disconnect, CommandFlags::NONE);
        let request = Request { cookie: 0, offset_bytes: 0, len_bytes: 0, command, flags };
        let mut out = [0; REQUEST_EXTENDED_BYTES];
        if self.pending.is_empty()
            && let Ok(head) = self.transmission.begin(&request, &mut out)
        {
            // A server that does not listen learns it from the socket.
            let _ = sender.try_send(&[IoSlice::new(head)]);
        }
    }
}

impl Pending {
    /// Where a part of the export is in the buffer. The transmission has checked that it was asked for.
    fn part(&self, offset_bytes: u64, len_bytes: u64) -> Result<Range<usize>> {
        let range = (|| {
            let start = usize::try_from(offset_bytes.checked_sub(self.offset_bytes)?).ok()?;
            Some(start..start.checked_add(usize::try_from(len_bytes).ok()?)?)
        })();
        range.ok_or_else(|| broken(ReplyError::OutOfRange))
    }

    /// The request as it was before it was sent.
    fn into_job(self) -> Job {
        let (command, flags) = (Command::Flush, CommandFlags::NONE); // nobody looks at them any more
        let request = Request { cookie: 0, offset_bytes: self.offset_bytes, len_bytes: 0, command, flags };
        Job { request, buf: self.buf, reply: self.reply }
    }
}

/// What a server says for people to read.
fn words(text: &[u8]) -> String {
    let text = text.get(..WORDS_BYTES_MAX).unwrap_or(text);
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect()
}

fn server_error(error: NbdError, words: &str) -> Error {
    let cause = std::io::Error::from_raw_os_error(error.errno());
    let kind = match error {
        NbdError::NotPermitted => Kind::ReadOnly,
        NbdError::NoSpace => Kind::NoSpace,
        NbdError::NotSupported => Kind::Unsupported,
        NbdError::Invalid | NbdError::Overflow => Kind::InvalidInput,
        NbdError::Io | NbdError::NoMemory | NbdError::Shutdown => Kind::Io,
    };
    let text = match words {
        "" => "the NBD server reported an error".to_owned(),
        words => format!("the NBD server reported an error ('{words}')"),
    };
    Error::new(kind, text).because(cause)
}
