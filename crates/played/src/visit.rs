//! What clients of NBD do: requests at random, compared with a model, in one of several manners.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_core::runtime::LocalRef;
use drystone_nbd::{Command, CommandFlags};
use drystone_testkit::client::{Load, SharedModel, Watched};

use crate::nbd::{Fault, NbdClient};

/// `ESHUTDOWN`: the server ends the connection, or the export goes.
const SHUTDOWN: i32 = 108;

/// A client on an export.
pub struct Visitor<'v> {
    /// Its connection.
    pub client: &'v NbdClient,
    /// What its disk may show.
    pub model: &'v SharedModel,
    /// Its thread.
    pub local: &'v LocalRef,
    /// Numbers of errors that requests may end with, beside that of an export that goes.
    pub errors: &'v [i32],
}

impl Visitor<'_> {
    /// Requests in one of the manners; the client is gone at the end.
    pub async fn visit(&self, rng: &mut Rng) {
        let manner = Manner::draw(rng);
        if manner == Manner::Stalls {
            self.client.stall();
        }
        let (count, until_ns) = (1 + rng.below(3), self.local.now_ns() + rng.below(2_000_000));
        let turning = async {
            self.local.sleep_until(until_ns).await;
            match manner {
                Manner::Stays => {}
                Manner::Stalls => self.client.listen(),
                Manner::Vanishes => self.client.vanish(),
            }
        };
        join(self.load(count, rng), turning).await;
        let _ = self.client.leave().await;
    }

    /// Requests at random by `count` users of the connection at once. `None` if it was lost.
    pub async fn load(&self, count: u64, rng: &mut Rng) -> Option<()> {
        // No task outlives the connection.
        let loads: Vec<_> = (0..count).map(|_| self.one_load(rng.next_u64())).collect();
        self.client.while_connected(all(loads)).await
    }

    async fn one_load(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut watched = Watched::new(self.client.clone(), self.model);
        let load = Load::new(4 + rng.below(8), self.client.len_bytes());
        load.run(&mut watched, &mut rng, |error| self.demand_known(error.errno(), &error.report())).await;
        if rng.one_in(2) {
            self.status().await;
        }
    }

    /// Asks how everything is allocated. The answer is about what was asked for, in order and without a gap.
    async fn status(&self) {
        let whole = GuestRange::new(GuestOffset::ZERO, self.client.len_bytes());
        match self.client.request(Command::BlockStatus, whole, CommandFlags::NONE, &[]).await {
            Ok(reply) => {
                assert!(!reply.extents.is_empty(), "a status of nothing");
                let mut next = 0;
                for extent in reply.extents {
                    assert_eq!(extent.range.start().get(), next, "a gap in a status");
                    next = extent.range.end().get();
                }
                assert!(next <= whole.len(), "a status of what is not there");
            }
            Err(Fault::Lost) => std::future::pending().await,
            // The export was not there when the contexts were chosen.
            Err(Fault::Refused(_)) => {}
            Err(Fault::Failed(error)) => self.demand_known(error.errno(), "a status"),
        }
    }

    fn demand_known(&self, errno: i32, text: &str) {
        assert!(errno == SHUTDOWN || self.errors.contains(&errno), "{text}");
    }
}

/// Runs all to their ends.
pub async fn all(tasks: Vec<impl Future<Output = ()>>) {
    let mut tasks: Vec<_> = tasks.into_iter().map(Box::pin).collect();
    poll_fn(|cx| {
        tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        if tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Runs both to their ends.
pub async fn join<T>(one: impl Future<Output = T>, two: impl Future<Output = ()>) -> T {
    let (mut one, mut two) = (pin!(one), pin!(two));
    let (mut result, mut is_over) = (None, false);
    poll_fn(|cx| {
        if result.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(cx)
        {
            result = Some(value);
        }
        is_over = is_over || two.as_mut().poll(cx).is_ready();
        match result.take() {
            Some(value) if is_over => Poll::Ready(value),
            other => {
                result = other;
                Poll::Pending
            }
        }
    })
    .await
}

/// What a client does after it has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It stays and says goodbye.
    Stays,
    /// It does not receive at first.
    Stalls,
    /// It goes without a word.
    Vanishes,
}

impl Manner {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(4) {
            0 => Self::Stalls,
            1 => Self::Vanishes,
            _ => Self::Stays,
        }
    }
}
