//! What clients of NBD do in tests.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_nbd::{Command, CommandFlags};
use drystone_played::nbd::{Fault, NbdClient};
use drystone_testkit::client::{Load, SharedModel, Watched};

pub(crate) const DISK_BYTES: u64 = 256 << 10;
pub(crate) const WHOLE: GuestRange = GuestRange::new(GuestOffset::ZERO, DISK_BYTES);

/// `ESHUTDOWN`: the server ends the connection, or the export goes.
const SHUTDOWN: i32 = 108;

/// Requests at random by `count` users of one connection at once. `None` if it was lost.
pub(crate) async fn load(client: &NbdClient, count: u64, model: &SharedModel, rng: &mut Rng) -> Option<()> {
    // No task outlives the connection.
    let mut users: Vec<_> = (0..count).map(|_| Box::pin(one_load(client, model, rng.next_u64()))).collect();
    let all = poll_fn(|cx| {
        users.retain_mut(|user| user.as_mut().poll(cx).is_pending());
        if users.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    client.while_connected(all).await
}

async fn one_load(client: &NbdClient, model: &SharedModel, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut watched = Watched::new(client.clone(), model);
    let load = Load::new(4 + rng.below(8), DISK_BYTES);
    load.run(&mut watched, &mut rng, |error| assert_eq!(error.errno(), SHUTDOWN, "{}", error.report())).await;
    if rng.one_in(2) {
        status(client).await;
    }
}

/// Asks how everything is allocated. The answer is about what was asked for, in order and without a gap.
async fn status(client: &NbdClient) {
    match client.request(Command::BlockStatus, WHOLE, CommandFlags::NONE, &[]).await {
        Ok(reply) => {
            assert!(!reply.extents.is_empty());
            let mut next = 0;
            for extent in reply.extents {
                assert_eq!(extent.range.start().get(), next);
                next = extent.range.end().get();
            }
            assert!(next <= DISK_BYTES);
        }
        Err(Fault::Lost) => std::future::pending().await,
        // The export was not there when the contexts were chosen.
        Err(Fault::Refused(_)) => {}
        Err(fault) => assert_eq!(fault, Fault::Failed(drystone_nbd::NbdError::Shutdown)),
    }
}

/// Runs both to their ends.
pub(crate) async fn join<T>(one: impl Future<Output = T>, two: impl Future<Output = ()>) -> T {
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
pub(crate) enum Manner {
    /// It stays and says goodbye.
    Stays,
    /// It does not receive at first.
    Stalls,
    /// It goes without a word.
    Vanishes,
}

impl Manner {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        match rng.below(4) {
            0 => Self::Stalls,
            1 => Self::Vanishes,
            _ => Self::Stays,
        }
    }
}

/// Requests of a client, in one of the manners; it is gone at the end.
pub(crate) async fn visit(
    client: &NbdClient,
    model: &SharedModel,
    local: &drystone_core::runtime::LocalRef,
    rng: &mut Rng,
) {
    let manner = Manner::draw(rng);
    if manner == Manner::Stalls {
        client.stall();
    }
    let (count, until_ns) = (1 + rng.below(3), local.now_ns() + rng.below(2_000_000));
    let turning = async {
        local.sleep_until(until_ns).await;
        match manner {
            Manner::Stays => {}
            Manner::Stalls => client.listen(),
            Manner::Vanishes => client.vanish(),
        }
    };
    join(load(client, count, model, rng), turning).await;
    let _ = client.leave().await;
}
