//! [`Network`]: where addresses lead, as a parameter of whoever listens and connects; and who at the other ends is silent.
//!
//! ```text
//!   connect ──► Stream, known by its address ──► watch: "it has not answered for 10 s", once per silence
//!                                           └──► lose_patience: streams of silent peers end, and there are no new ones
//! ```
//! A peer is silent if something was sent to it, and since then it has neither said nor taken anything. Whoever waits for
//! requests to end waits for the peers of those requests, perhaps for ever: an end in an orderly way says whom it waits for,
//! and hangs up at last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use drystone_base::{Error, Kind as ErrorKind, Result};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;

use super::{Address, Listener, Open, Stream};
#[cfg(feature = "sim")]
use crate::played::PlayedNetwork;

/// A peer has owed an answer for between one and two times so long when it is spoken of.
const LOOK_NS: u64 = 5_000_000_000;

/// The sockets that can be reached. Clones are the same. Any thread.
#[derive(Clone, Default)]
pub struct Network {
    kind: Kind,
    peers: Arc<Mutex<Peers>>,
}

#[derive(Clone, Default)]
enum Kind {
    #[default]
    Os,
    #[cfg(feature = "sim")]
    Played(PlayedNetwork),
}

/// Where connections lead that were made and have not ended.
#[derive(Default)]
struct Peers {
    list: Vec<Peer>,
    is_over: bool,
    /// A connection was ended that somebody used.
    is_cut: bool,
}

struct Peer {
    address: String,
    socket: Weak<Open>,
    /// What there was to see at the last look.
    seen: Option<u32>,
    /// Its silence was spoken of.
    is_told: bool,
}

/// How long an end in an orderly way waits for peers.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// With those that are silent, in nanoseconds.
    pub silent_ns: u64,
    /// With those that are not, in nanoseconds: what they were asked last, such as to flush, may take them long.
    pub all_ns: u64,
}

impl Patience {
    /// Of programs that serve others: a last flush of a slow disk takes its minutes.
    pub const OF_SERVICES: Self = Self { silent_ns: 30_000_000_000, all_ns: 600_000_000_000 };
    /// Of a command that somebody has interrupted.
    pub const OF_COMMANDS: Self = Self { silent_ns: 5_000_000_000, all_ns: 60_000_000_000 };
}

impl Network {
    /// The sockets of the operating system.
    #[must_use]
    pub fn os() -> Self {
        Self::default()
    }

    /// The same sockets, with connections of its own: those of others are neither watched nor ended with them.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { kind: self.kind.clone(), peers: Arc::default() }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn played(network: PlayedNetwork) -> Self {
        Self { kind: Kind::Played(network), ..Self::default() }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a connection that was made here.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.peers().list.iter().any(|peer| peer.socket.strong_count() > 0)
    }

    /// Listens at `address`.
    ///
    /// # Errors
    /// Those of [`Listener::bind`].
    pub fn listen(&self, address: &Address) -> Result<Listener> {
        match &self.kind {
            Kind::Os => Listener::bind(address),
            #[cfg(feature = "sim")]
            Kind::Played(network) => network.listen(address),
        }
    }

    /// Connects to `address`, by `until_ns` on the lane's clock if given.
    ///
    /// # Errors
    /// Those of [`Stream::connect`]; [`ErrorKind::Cancelled`] after [`Self::hang_up`].
    pub async fn connect(&self, lane: &mut Lane, address: &Address, until_ns: Option<u64>) -> Result<Stream> {
        self.peers().demand_open()?;
        let stream = match &self.kind {
            Kind::Os => Stream::connect(lane, address, until_ns).await?,
            #[cfg(feature = "sim")]
            Kind::Played(network) => network.connect(lane, address).await?,
        };
        let mut peers = self.peers();
        peers.demand_open()?;
        peers.list.retain(|peer| peer.socket.strong_count() > 0);
        let socket = Arc::downgrade(&stream.socket().0);
        peers.list.push(Peer { address: address.to_string(), socket, seen: None, is_told: false });
        Ok(stream)
    }

    /// The addresses of `host` in the order in which to try them; at least one.
    ///
    /// # Errors
    /// Those of [`Address::resolve`].
    pub async fn resolve(&self, lane: &mut Lane, host: &str, port: u16) -> Result<Vec<Address>> {
        match &self.kind {
            Kind::Os => Address::resolve(lane, host, port).await,
            #[cfg(feature = "sim")]
            Kind::Played(_) => Ok(vec![Address::Tcp((std::net::Ipv4Addr::LOCALHOST, port).into())]),
        }
    }

    /// Tells of each peer that has been silent for five to ten seconds, once until it says something. Never ends.
    pub async fn watch(&self, local: &LocalRef, tell: impl Fn(&str)) {
        loop {
            local.sleep_until(local.now_ns().saturating_add(LOOK_NS)).await;
            for address in self.newly_silent() {
                tell(&address);
            }
        }
    }

    /// The addresses of peers that have said nothing since the last call although they owed an answer then, unless they were
    /// returned for the same silence before.
    fn newly_silent(&self) -> Vec<String> {
        let mut peers = self.peers();
        let silent = peers.list.iter_mut().filter_map(|peer| {
            let is_silent = is_silent(&*peer.socket.upgrade()?, &mut peer.seen);
            let was_told = std::mem::replace(&mut peer.is_told, is_silent);
            (is_silent && !was_told).then(|| peer.address.clone())
        });
        silent.collect()
    }

    /// A connection was ended because its peer did not answer, and with it what may not be stored.
    pub fn note_unanswered(&self) {
        self.peers().is_cut = true;
    }

    /// Ends all connections that were made, and makes no more: whatever waits for a peer fails. Whether there were any.
    pub fn hang_up(&self) -> bool {
        self.end_those(|_| true)
    }

    /// Makes no more connections, and ends some.
    fn end_those(&self, mut is_meant: impl FnMut(&Arc<Open>) -> bool) -> bool {
        let mut peers = self.peers();
        peers.is_over = true;
        let mut has_ended = false;
        peers.list.retain(|peer| {
            let Some(socket) = peer.socket.upgrade() else { return false };
            let ends = is_meant(&socket);
            if ends {
                socket.close();
            }
            has_ended |= ends;
            !ends
        });
        peers.is_cut |= has_ended;
        has_ended
    }
}

/// Whether a peer has been silent since the last look, at which `seen` was seen.
fn is_silent(socket: &Open, seen: &mut Option<u32>) -> bool {
    let now = socket.owing();
    std::mem::replace(seen, now) == now && now.is_some()
}

impl Network {
    /// Ends connections to peers that are silent when `patience` with them is at an end, or later, and says so the first
    /// time; at last all. To be run beside an end in an orderly way, which then comes.
    pub async fn lose_patience(&self, local: &LocalRef, patience: Patience, tell: impl FnOnce()) {
        let (since_ns, mut tell) = (local.now_ns(), Some(tell));
        let mut at_ns = since_ns.saturating_add(patience.silent_ns.saturating_sub(LOOK_NS));
        local.sleep_until(at_ns).await;
        let mut looks: Vec<(Weak<Open>, Option<u32>)> = Vec::new();
        self.peers().list.iter().for_each(|peer| {
            let seen = peer.socket.upgrade().and_then(|socket| socket.owing());
            looks.push((Weak::clone(&peer.socket), seen));
        });
        loop {
            at_ns = at_ns.saturating_add(LOOK_NS).max(since_ns.saturating_add(patience.silent_ns));
            local.sleep_until(at_ns).await;
            let is_last = at_ns >= since_ns.saturating_add(patience.all_ns);
            let has_ended = self.end_those(|socket| {
                let is_this = |look: &&mut (Weak<Open>, _)| look.0.as_ptr() == Arc::as_ptr(socket);
                is_last || looks.iter_mut().find(is_this).is_some_and(|look| is_silent(socket, &mut look.1))
            });
            if has_ended && let Some(tell) = tell.take() {
                tell();
            }
            if is_last {
                return;
            }
        }
    }

    /// Fails if connections were ended by [`Self::lose_patience`] or [`Self::hang_up`], or after [`Self::note_unanswered`].
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`].
    pub fn demand_answered(&self) -> Result<()> {
        match self.peers().is_cut {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::Disconnected,
                "a server did not answer to the last requests: what it was sent may not be stored",
            )),
        }
    }
}

impl Peers {
    fn demand_open(&self) -> Result<()> {
        match self.is_over {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Cancelled, "no connections are made any more")),
        }
    }
}
