//! [`Crowd`]: the connections of a server: who is there, who shall go, and waiting until they are gone. Any thread.
//!
//! ```text
//!   accept --join--> Place --(handshake)--> enter(export) --...--> dropped: gone
//!   control thread:  close(export) tells all to go; fewer_than(export, 1) waits until they are gone
//! ```

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use drystone_core::runtime::Shard;

/// The connections of one server.
#[derive(Default)]
pub(super) struct Crowd(Mutex<Members>);

#[derive(Default)]
struct Members {
    members: BTreeMap<u64, Member>,
    joined: u64,
    /// The last connection has gone, and it had entered an export.
    is_deserted: bool,
    /// Whoever waits for connections to go.
    waiting: Vec<Waker>,
}

struct Member {
    /// The I/O thread that it lives on.
    thread: Shard,
    export: Option<u64>,
    order: Arc<Order>,
}

/// What one connection is told.
#[derive(Default)]
struct Order {
    must_go: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// Which connections are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// All.
    Server,
    /// Those that have entered this export.
    Export(u64),
}

impl Of {
    fn holds(self, member: &Member) -> bool {
        match self {
            Self::Server => true,
            Self::Export(export) => member.export == Some(export),
        }
    }
}

/// One connection's place in the crowd, until it is dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    id: u64,
    order: Arc<Order>,
}

impl Crowd {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection, on that of `threads` which has the fewest; which one that is.
    pub(super) fn join(self: &Arc<Self>, threads: &[Shard]) -> (Place, Shard) {
        let mut members = self.members();
        let thread = members.idlest(threads).unwrap_or_else(|| Shard::new(0));
        let id = members.joined;
        members.joined += 1;
        let order = Arc::new(Order::default());
        members.members.insert(id, Member { thread, export: None, order: Arc::clone(&order) });
        (Place { crowd: Arc::clone(self), id, order }, thread)
    }

    /// Connections since the server started.
    pub(super) fn joined(&self) -> u64 {
        self.members().joined
    }

    /// Connections now.
    pub(super) fn count(&self, of: Of) -> usize {
        self.members().count(of)
    }

    /// Tells connections to go.
    pub(super) fn close(&self, of: Of) {
        let members = self.members();
        let told = members.members.values().filter(|member| of.holds(member));
        let orders: Vec<_> = told.map(|member| Arc::clone(&member.order)).collect();
        drop(members);
        orders.iter().for_each(|order| order.give());
    }

    /// Waits until there are fewer than `count`.
    pub(super) fn fewer_than(&self, of: Of, count: usize) -> impl Future<Output = ()> + '_ {
        poll_fn(move |cx| {
            let mut members = self.members();
            if members.count(of) < count {
                return Poll::Ready(());
            }
            members.waiting.push(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Crowd {
    /// Waits until the last connection goes, after it had entered an export.
    pub(super) fn deserted(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(move |cx| {
            let mut members = self.members();
            if members.is_deserted {
                return Poll::Ready(());
            }
            members.waiting.push(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Members {
    /// The one of `threads` that has the fewest connections.
    fn idlest(&self, threads: &[Shard]) -> Option<Shard> {
        let count = |thread| self.members.values().filter(|member| member.thread == thread).count();
        threads.iter().copied().min_by_key(|thread| count(*thread))
    }

    fn count(&self, of: Of) -> usize {
        self.members.values().filter(|member| of.holds(member)).count()
    }
}

impl Order {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self) {
        self.must_go.store(true, Ordering::Release);
        let waker = self.waker().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Place {
    /// The handshake has led to `export`, which takes at most `count_max` connections (0: any number). Whether it takes
    /// this one.
    pub(super) fn enter(&self, export: u64, count_max: u32) -> bool {
        let mut members = self.crowd.members();
        let count = members.count(Of::Export(export));
        let is_full = count_max != 0 && u32::try_from(count).map_or(true, |count| count >= count_max);
        if let Some(member) = members.members.get_mut(&self.id)
            && !is_full
        {
            member.export = Some(export);
        }
        !is_full
    }

    /// The connection goes to that of `threads` which has the fewest; which one that is. It stays if it is on one of them.
    pub(super) fn move_to(&self, threads: &[Shard]) -> Option<Shard> {
        let mut members = self.crowd.members();
        let now = members.members.get(&self.id)?.thread;
        if threads.contains(&now) {
            return None;
        }
        let thread = members.idlest(threads)?;
        members.members.get_mut(&self.id)?.thread = thread;
        Some(thread)
    }

    /// Waits until the connection is told to go.
    pub(super) fn told_to_go(&self) -> impl Future<Output = ()> + '_ {
        ToldToGo { order: &self.order, known: None }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let waiting = {
            let mut members = self.crowd.members();
            let had_entered = members.members.remove(&self.id).is_some_and(|member| member.export.is_some());
            members.is_deserted |= had_entered && members.members.is_empty();
            std::mem::take(&mut members.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Polled with everything that its connection's task waits for, so it takes the lock only when its waker changes.
struct ToldToGo<'p> {
    order: &'p Order,
    known: Option<Waker>,
}

impl Future for ToldToGo<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *self.order.waker() = Some(cx.waker().clone());
            self.known = Some(cx.waker().clone());
        }
        if self.order.must_go.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_goes_to_the_thread_that_has_the_fewest() {
        let crowd = Arc::new(Crowd::default());
        let two = [Shard::new(4), Shard::new(5)];
        let (first, second, third) = (crowd.join(&two), crowd.join(&two), crowd.join(&two));
        assert_eq!([first.1, second.1, third.1], [two[0], two[1], two[0]]);
        drop((first, third));
        assert_eq!(crowd.join(&two).1, two[0]);
        assert_eq!((crowd.count(Of::Server), crowd.joined()), (1, 4));
    }

    #[test]
    fn a_connection_moves_to_a_thread_of_its_export_once() {
        let crowd = Arc::new(Crowd::default());
        let [server, one, two] = [0, 1, 2].map(Shard::new);
        let places: Vec<_> = (0..3).map(|_| crowd.join(&[server]).0).collect();
        assert_eq!(places[0].move_to(&[one, two]), Some(one));
        assert_eq!(places[1].move_to(&[one, two]), Some(two));
        assert_eq!(places[1].move_to(&[one, two]), None);
        assert_eq!(places[2].move_to(&[]), None);
    }

    #[test]
    fn an_export_takes_no_more_connections_than_it_says() {
        let crowd = Arc::new(Crowd::default());
        let places: Vec<_> = (0..3).map(|_| crowd.join(&[Shard::new(0)]).0).collect();
        assert_eq!(places.iter().map(|place| place.enter(7, 2)).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!((crowd.count(Of::Export(7)), crowd.count(Of::Export(8))), (2, 0));
    }
}
