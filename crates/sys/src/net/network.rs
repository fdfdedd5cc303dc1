//! [`Network`]: where addresses lead, as a parameter of whoever listens and connects.

use drystone_base::Result;
use drystone_core::lane::Lane;

use super::{Address, Listener, Stream};
#[cfg(feature = "sim")]
use crate::played::PlayedNetwork;

/// The sockets that can be reached. Clones are the same. Any thread.
#[derive(Clone, Default)]
pub struct Network(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    Os,
    #[cfg(feature = "sim")]
    Played(PlayedNetwork),
}

impl Network {
    /// The sockets of the operating system.
    #[must_use]
    pub fn os() -> Self {
        Self::default()
    }

    #[cfg(feature = "sim")]
    pub(crate) fn played(network: PlayedNetwork) -> Self {
        Self(Kind::Played(network))
    }

    /// Listens at `address`.
    ///
    /// # Errors
    /// Those of [`Listener::bind`].
    pub fn listen(&self, address: &Address) -> Result<Listener> {
        match &self.0 {
            Kind::Os => Listener::bind(address),
            #[cfg(feature = "sim")]
            Kind::Played(network) => network.listen(address),
        }
    }

    /// Connects to `address`, by `until_ns` on the lane's clock if given.
    ///
    /// # Errors
    /// Those of [`Stream::connect`].
    pub async fn connect(&self, lane: &mut Lane, address: &Address, until_ns: Option<u64>) -> Result<Stream> {
        match &self.0 {
            Kind::Os => Stream::connect(lane, address, until_ns).await,
            #[cfg(feature = "sim")]
            Kind::Played(network) => network.connect(lane, address).await,
        }
    }

    /// The addresses of `host` in the order in which to try them; at least one.
    ///
    /// # Errors
    /// Those of [`Address::resolve`].
    pub async fn resolve(&self, lane: &mut Lane, host: &str, port: u16) -> Result<Vec<Address>> {
        match &self.0 {
            Kind::Os => Address::resolve(lane, host, port).await,
            #[cfg(feature = "sim")]
            Kind::Played(_) => Ok(vec![Address::Tcp((std::net::Ipv4Addr::LOCALHOST, port).into())]),
        }
    }
}
