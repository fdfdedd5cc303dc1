//! [`Link`]: which connections there are, and what becomes of requests while there is none.
//!
//! ```text
//!             one connection                          CAN_MULTI_CONN: one for each thread that asks
//!   thread 1 ──► Conn (lives on thread 1)             thread 1 ──► Conn      thread 2 ──► Conn
//!   thread 2 ─────┘ left in its queue; it moves to whoever uses it most
//!
//!   all lost ──► reconnect, again and again ──► Conn        requests meanwhile: handed back while `reconnect-delay` lasts,
//!                                                           refused after that
//! ```
//! | since when the delay counts | |
//! |---|---|
//! | a connection that had answered something is lost | since then |
//! | one that had answered nothing is lost | since the loss before: a server that lets us in and goes wins no time |
//!
//! Requests that were under way when a server broke the protocol are not tried again: it would do it again.
//!
//! Invariants: a new connection offers what the first one did, so that no promise to the graph is broken; nothing runs any
//! more once [`Link::close`] is over.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::{Error, Kind, Result};
use drystone_core::answer::answer;
use drystone_core::lane::Lane;
use drystone_core::runtime::{LocalRef, Shard};
use drystone_nbd::client::{ReplyError, Transmission};
use drystone_nbd::{Session, TransmissionFlags};
use drystone_sys::Network;

use super::conn::{Conn, Job, Lost};
use super::connect::{self, Entered};
use super::mind;
use super::options::NbdOptions;
use super::traffic::{self, Ended};

/// Connections at a time, at most.
const CONNECTIONS_MAX: usize = 16;
/// A request that waits for a connection asks again after this time.
const ASK_AGAIN_NS: u64 = 10_000_000;
/// The second attempt to connect comes this long after the first, and each later one after twice the time …
const RETRY_NS_MIN: u64 = 50_000_000;
/// … but not more.
const RETRY_NS_MAX: u64 = 2_000_000_000;

/// A change of the graph waits so long for a server that answers, but not to what it was asked.
const HURRY_NS_MAX: u64 = 600_000_000_000;

/// The way to one export.
pub(super) struct Link {
    options: NbdOptions,
    network: Network,
    context: String,
    /// What the first connection said.
    pub(super) promise: Session,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A connection that no thread has taken yet.
    spare: Option<Entered>,
    conns: BTreeMap<Shard, Seat>,
    loss: Option<Loss>,
    /// The server has refused a further connection; the ones that are there do.
    is_alone: bool,
    is_closed: bool,
    /// Tasks that have not ended.
    running: usize,
    /// Whoever waits for the end of something.
    watchers: Vec<Waker>,
}

/// A thread's connection.
enum Seat {
    Connecting,
    Taken(Arc<Conn>),
}

/// There was a time without a connection, and no answer has come since.
struct Loss {
    since_ns: u64,
    why: String,
}

impl Link {
    /// Connects for the first time, as long as `open-timeout` allows.
    ///
    /// # Errors
    /// Those of the last attempt.
    pub(super) async fn open(lane: &mut Lane, network: Network, options: NbdOptions) -> Result<Arc<Self>> {
        let context = match &options.context {
            Some(name) => format!("qemu:dirty-bitmap:{name}"),
            None => drystone_nbd::wire::context::BASE_ALLOCATION.to_owned(),
        };
        let until_ns = lane.local().now_ns().saturating_add(options.open_timeout_ns);
        let mut pause_ns = RETRY_NS_MIN;
        let entered = loop {
            let uri = &options.uri;
            match connect::enter(lane, &network, &uri.address, &uri.export, &context).await {
                Ok(entered) => break entered,
                Err(error) if lane.local().now_ns() >= until_ns => return Err(error),
                Err(_) => {}
            }
            let at_ns = lane.local().now_ns().saturating_add(pause_ns).min(until_ns);
            lane.local().sleep_until(at_ns).await;
            pause_ns = (pause_ns * 2).min(RETRY_NS_MAX);
        };
        let promise = *entered.transmission.session();
        if options.context.is_some() && promise.contexts.is_empty() {
            let text = format!("the server has no metadata context '{context}'");
            return Err(Error::new(Kind::NotFound, text).in_option("x-dirty-bitmap"));
        }
        let state = State { spare: Some(entered), ..State::default() };
        Ok(Arc::new(Self { options, network, context, promise, state: Mutex::new(state) }))
    }

    pub(super) fn options(&self) -> &NbdOptions {
        &self.options
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for a request of this thread.
    pub(super) fn conn(self: &Arc<Self>, local: &LocalRef) -> Result<Arc<Conn>, Lost> {
        let shard = local.shard();
        let mut state = self.state();
        if let Some(Seat::Taken(conn)) = state.conns.get(&shard)
            && conn.is_open()
        {
            conn.note_own();
            return Ok(Arc::clone(conn));
        }
        if state.is_closed {
            return Err(Error::new(Kind::Cancelled, "the connection to the NBD server is closed").into());
        }
        if let Some(entered) = state.spare.take() {
            return Ok(self.take_seat(&mut state, local, entered));
        }
        let found = state.conns.values().find_map(|seat| match seat {
            Seat::Taken(conn) if conn.is_open() => Some(Arc::clone(conn)),
            Seat::Taken(_) | Seat::Connecting => None,
        });
        let Some(conn) = found else { return Err(self.lost(&mut state, local.now_ns())) };
        let several = self.promise.flags.has(TransmissionFlags::CAN_MULTI_CONN);
        let has_room = state.conns.len() < CONNECTIONS_MAX && !state.conns.contains_key(&shard);
        if several && has_room && !state.is_alone {
            state.conns.insert(shard, Seat::Connecting);
            self.start(&mut state, local, async |link, local| link.connect_one_more(&local).await);
        } else if !state.conns.contains_key(&shard) && conn.note_foreign() {
            self.move_here(&mut state, &conn, local);
        }
        Ok(conn)
    }

    /// Runs `work` on the calling thread; the link is not closed before it has ended.
    fn start(
        self: &Arc<Self>,
        state: &mut State,
        local: &LocalRef,
        work: impl AsyncFnOnce(Arc<Self>, LocalRef) + 'static,
    ) {
        state.running += 1;
        let (link, on) = (Arc::clone(self), local.clone());
        local.spawn(Box::pin(async move {
            work(Arc::clone(&link), on).await;
            link.ended();
        }));
    }

    /// Has a connection come to the calling thread, which uses it more than its own.
    fn move_here(self: &Arc<Self>, state: &mut State, conn: &Arc<Conn>, local: &LocalRef) {
        let (mover, arrival) = answer();
        conn.move_to(mover);
        let conn = Arc::clone(conn);
        self.start(state, local, async move |link, local| {
            let Some(entered) = arrival.wait().await else { return };
            {
                let mut state = link.state();
                state.conns.retain(|_, seat| !seat.is_of(&conn));
                state.conns.insert(local.shard(), Seat::Taken(Arc::clone(&conn)));
            }
            conn.settle();
            link.live(conn, entered, local).await;
        });
    }

    /// Runs a connection on the calling thread.
    async fn live(self: Arc<Self>, conn: Arc<Conn>, entered: Entered, local: LocalRef) {
        match traffic::run(&conn, entered, &local).await {
            Ended::Moved => {}
            Ended::Over { lost, why } => self.lose(&conn, &local, (lost, why)).await,
        }
    }

    /// Puts a connection to work on the calling thread.
    fn take_seat(self: &Arc<Self>, state: &mut State, local: &LocalRef, entered: Entered) -> Arc<Conn> {
        let conn = Arc::new(Conn::new(*entered.transmission.session(), entered.closer.clone()));
        state.conns.insert(local.shard(), Seat::Taken(Arc::clone(&conn)));
        let own = Arc::clone(&conn);
        self.start(state, local, async move |link, local| link.live(own, entered, local).await);
        conn
    }

    /// What a request is told while there is no connection.
    fn lost(&self, state: &mut State, now_ns: u64) -> Lost {
        // One that has just ended may not have been missed yet.
        let was_useful = |seat: &Seat| matches!(seat, Seat::Taken(conn) if conn.was_useful());
        if state.conns.values().any(was_useful) {
            state.loss = None;
        }
        let loss = state.loss.get_or_insert_with(|| Loss { since_ns: now_ns, why: String::new() });
        let error = || {
            let error = Error::new(Kind::Disconnected, "there is no connection to the NBD server");
            if loss.why.is_empty() { error } else { error.because(loss.why.clone()) }
        };
        let until_ns = loss.since_ns.saturating_add(self.options.reconnect_delay_ns);
        let again_ns = (now_ns < until_ns).then(|| now_ns.saturating_add(ASK_AGAIN_NS).min(until_ns));
        Lost { error: error(), again_ns }
    }

    /// A connection has ended: tells its requests, and sees to another one if it was the last.
    async fn lose(self: &Arc<Self>, own: &Arc<Conn>, local: &LocalRef, (lost, why): (Vec<Job>, Error)) {
        let now_ns = local.now_ns();
        let is_last = {
            let mut state = self.state();
            state.conns.retain(|_, seat| !seat.is_of(own));
            let is_last = state.conns.is_empty() && !state.is_closed;
            if own.was_useful() {
                state.loss = None;
            }
            state.note_loss(now_ns, why.report());
            if is_last {
                // The seat is kept until there is a connection again.
                state.conns.insert(local.shard(), Seat::Connecting);
            }
            is_last
        };
        let is_broken = std::error::Error::source(&why).is_some_and(|cause| cause.is::<ReplyError>());
        for job in lost {
            let told = match is_broken {
                true => {
                    Error::new(why.kind(), "the NBD server broke the protocol").because(why.report()).into()
                }
                false => self.lost(&mut self.state(), now_ns),
            };
            job.fail(told);
        }
        if is_last {
            self.reconnect(local).await;
        }
    }

    /// Connects until it works or nobody wants it any more.
    async fn reconnect(self: &Arc<Self>, local: &LocalRef) {
        let mut pause_ns = RETRY_NS_MIN;
        loop {
            let Some(result) = self.unless_closed(self.attempt(local)).await else { return };
            match result {
                Ok(entered) => {
                    let mut state = self.state();
                    if !state.is_closed {
                        self.take_seat(&mut state, local, entered);
                        state.is_alone = false;
                    }
                    return;
                }
                Err(error) => {
                    self.state().note_loss(local.now_ns(), error.report());
                }
            }
            let pause = local.sleep_until(local.now_ns().saturating_add(pause_ns));
            if self.unless_closed(pause).await.is_none() {
                return;
            }
            pause_ns = (pause_ns * 2).min(RETRY_NS_MAX);
        }
    }

    /// Connects for a thread that shares the connection of another one.
    async fn connect_one_more(self: &Arc<Self>, local: &LocalRef) {
        let result = self.unless_closed(self.attempt(local)).await;
        let is_last = {
            let mut state = self.state();
            state.conns.remove(&local.shard());
            let is_last = state.conns.is_empty() && !state.is_closed;
            match result {
                Some(Ok(entered)) if !state.is_closed => {
                    self.take_seat(&mut state, local, entered);
                    false
                }
                // The others were lost meanwhile, and have left it to this one to see to another.
                Some(Err(error)) if is_last => {
                    state.note_loss(local.now_ns(), error.report());
                    state.conns.insert(local.shard(), Seat::Connecting);
                    true
                }
                Some(Err(_)) => {
                    state.is_alone = true;
                    false
                }
                Some(Ok(_)) | None => false,
            }
        };
        if is_last {
            self.reconnect(local).await;
        }
    }

    /// One attempt to connect to the same export as before.
    async fn attempt(&self, local: &LocalRef) -> Result<Entered> {
        let mut lane = Lane::new(local.clone());
        let uri = &self.options.uri;
        let entered =
            connect::enter(&mut lane, &self.network, &uri.address, &uri.export, &self.context).await?;
        self.check(&entered.transmission)?;
        Ok(entered)
    }

    /// Whether a new connection keeps what the first one promised.
    fn check(&self, transmission: &Transmission) -> Result<()> {
        let (old, new) = (&self.promise, transmission.session());
        let what = if new.len_bytes != old.len_bytes {
            "its length"
        } else if new.block.min_bytes > old.block.min_bytes {
            "its minimum block size"
        } else if new.flags.has(TransmissionFlags::READ_ONLY) && !old.flags.has(TransmissionFlags::READ_ONLY)
        {
            "and can only be read now"
        } else if self.options.context.is_some() && new.contexts.is_empty() {
            "and has lost its bitmap"
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::InvalidInput, format!("the NBD export has changed {what}")))
    }

    /// Runs `work` until it ends or the link is closed.
    async fn unless_closed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            let mut state = self.state();
            if state.is_closed {
                return Poll::Ready(None);
            }
            state.watch(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// A task has ended.
    fn ended(&self) {
        let mut state = self.state();
        state.running -= 1;
        let watchers = std::mem::take(&mut state.watchers);
        drop(state);
        watchers.into_iter().for_each(Waker::wake);
    }

    /// Somebody on the control thread has waited for requests for `waited_ns`: ends connections to a server that says
    /// nothing, and at last all.
    pub(super) fn hurry(&self, waited_ns: u64) {
        let state = self.state();
        let conns = state.conns.values().filter_map(|seat| match seat {
            Seat::Taken(conn) => Some(Arc::clone(conn)),
            Seat::Connecting => None,
        });
        let mute: Vec<_> = conns.filter(|conn| waited_ns >= HURRY_NS_MAX || mind::is_mute(conn)).collect();
        drop(state);
        for conn in mute {
            conn.give_up();
            if conn.has_written() {
                self.network.note_unanswered();
            }
        }
    }

    /// Ends everything, without waiting for it.
    pub(super) fn give_up(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.spare = None;
        for seat in state.conns.values() {
            if let Seat::Taken(conn) = seat {
                conn.leave();
            }
        }
        let watchers = std::mem::take(&mut state.watchers);
        drop(state);
        watchers.into_iter().for_each(Waker::wake);
    }

    /// Says goodbye to the server, and waits until nothing runs any more.
    pub(super) async fn close(&self) {
        self.give_up();
        poll_fn(|cx| {
            let mut state = self.state();
            if state.running == 0 {
                return Poll::Ready(());
            }
            state.watch(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

impl Seat {
    fn is_of(&self, own: &Arc<Conn>) -> bool {
        matches!(self, Self::Taken(conn) if Arc::ptr_eq(conn, own))
    }
}

impl State {
    /// There is no connection, for this reason now.
    fn note_loss(&mut self, now_ns: u64, why: String) {
        let since_ns = self.loss.as_ref().map_or(now_ns, |loss| loss.since_ns);
        self.loss = Some(Loss { since_ns, why });
    }

    fn watch(&mut self, waker: &Waker) {
        if !self.watchers.iter().any(|known| known.will_wake(waker)) {
            self.watchers.push(waker.clone());
        }
    }
}
