//! [`Address`]: where a socket is.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

use crate::local::SysLocal;
use crate::pool::BlockingQueue;

/// Where a socket listens or connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, by its path.
    Unix(PathBuf),
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
}

impl Address {
    /// The addresses of `host` (a name, or numbers) in the order in which to try them; at least one.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none.
    pub async fn resolve(lane: &mut Lane, host: &str, port: u16) -> Result<Vec<Self>> {
        let name = host.to_owned();
        let queue = BlockingQueue::new(NonZeroUsize::MIN);
        let look_up = move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        let found: std::io::Result<Vec<SocketAddr>> =
            SysLocal::of(lane.local())?.blocking(&queue, look_up).await?;
        let unknown = || Error::new(Kind::NotFound, format!("the host '{host}' has no address"));
        match found {
            Ok(found) if found.is_empty() => Err(unknown()),
            Ok(found) => Ok(found.into_iter().map(Self::Tcp).collect()),
            Err(cause) => Err(unknown().because(cause)),
        }
    }

    pub(super) fn family(&self) -> AddressFamily {
        match self {
            Self::Unix(_) => AddressFamily::UNIX,
            Self::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Self::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        }
    }

    pub(super) fn to_os(&self) -> Result<SocketAddrAny> {
        match self {
            Self::Tcp(address) => Ok((*address).into()),
            Self::Unix(path) => match SocketAddrUnix::new(path) {
                Ok(address) => Ok(address.into()),
                Err(_) => {
                    Err(Error::new(Kind::InvalidInput, "the path is too long for a socket").at_path(path))
                }
            },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}
