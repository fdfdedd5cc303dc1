//! [`Network`]: where addresses lead, as a parameter of whoever listens and connects; and who at the other ends is silent.
//!
//! ```text
//!   connect ──► Stream, known by its address ──► watch: "it has not answered for 10 s", once per silence
//!                                           └──► hang_up: every such stream ends, and there are no new ones
//! ```
//! A peer is silent if something was sent to it, and nothing has come since. Whoever waits for requests to end waits for the
//! peers of those requests, perhaps for ever: an end in an orderly way says whom it waits for, and hangs up at last.

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
    /// Its silence was spoken of.
    is_told: bool,
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
        peers.list.push(Peer { address: address.to_string(), socket, is_told: false });
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
            let is_silent = peer.socket.upgrade()?.is_overdue();
            let was_told = std::mem::replace(&mut peer.is_told, is_silent);
            (is_silent && !was_told).then(|| peer.address.clone())
        });
        silent.collect()
    }

    /// Ends all connections that were made, and makes no more: whatever waits for a peer fails.
    pub fn hang_up(&self) {
        let mut peers = self.peers();
        peers.is_over = true;
        for peer in std::mem::take(&mut peers.list) {
            if let Some(socket) = peer.socket.upgrade() {
                peers.is_cut = true;
                socket.close();
            }
        }
    }
}

impl Network {
    /// Waits for `patience_ns`, says so, and hangs up: to be run beside an end in an orderly way, which then comes.
    pub async fn lose_patience(&self, local: &LocalRef, patience_ns: u64, tell: impl FnOnce()) {
        local.sleep_until(local.now_ns().saturating_add(patience_ns)).await;
        if !self.peers().list.is_empty() {
            tell();
        }
        self.hang_up();
    }

    /// Fails after [`Self::hang_up`] if there were connections that it ended.
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
