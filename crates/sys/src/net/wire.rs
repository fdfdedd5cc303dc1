//! [`Wire`]: the calls that a socket is made of: those of the operating system, or, in a simulation, played ones.
//!
//! | call | answers |
//! |---|---|
//! | `recv`, `send`, `accept`, `shutdown` | at once, as a socket that does not block: `EAGAIN` if it would have to wait |
//! | `when_ready` | when the call is worth another attempt |
//!
//! Everything above (what is buffered, whole messages, time limits, closing) is the same code for both, so a simulation
//! runs what a real connection runs. Without the feature `sim` there is one kind, and nothing is decided here.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use drystone_base::Result;
use drystone_core::lane::Lane;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};

use crate::engine::Interest;
use crate::local::SysLocal;
#[cfg(feature = "sim")]
use crate::played::PlayedWire;

/// One socket. Clones are the same one, which is closed with the last of them.
#[derive(Clone)]
pub(crate) enum Wire {
    /// A descriptor.
    Os(Arc<OwnedFd>),
    /// Memory of this process.
    #[cfg(feature = "sim")]
    Played(Arc<dyn PlayedWire>),
}

impl Wire {
    pub(super) fn recv(&self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Os(fd) => rustix::net::recv(fd, into, RecvFlags::empty()).map(|(moved, _)| moved),
            #[cfg(feature = "sim")]
            Self::Played(wire) => wire.recv(into),
        }
    }

    pub(super) fn send(&self, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
        match self {
            Self::Os(fd) => match parts {
                [only] => rustix::net::send(fd, only, SendFlags::NOSIGNAL),
                many => {
                    rustix::net::sendmsg(fd, many, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
                }
            },
            #[cfg(feature = "sim")]
            Self::Played(wire) => wire.send(parts),
        }
    }

    pub(super) fn accept(&self) -> Result<Self, Errno> {
        match self {
            Self::Os(fd) => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                rustix::net::accept_with(fd.as_fd(), flags).map(|fd| Self::Os(Arc::new(fd)))
            }
            #[cfg(feature = "sim")]
            Self::Played(wire) => wire.accept().map(Self::Played),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        match self {
            Self::Os(fd) => rustix::net::shutdown(fd, how),
            #[cfg(feature = "sim")]
            Self::Played(wire) => {
                wire.shutdown(how);
                Ok(())
            }
        }
    }

    /// Waits until the socket is ready, broken or shut down.
    pub(super) async fn when_ready(
        &self,
        lane: &Lane,
        interest: Interest,
        until_ns: Option<u64>,
    ) -> Result<()> {
        match self {
            Self::Os(fd) => SysLocal::of(lane.local())?.when_ready(fd, interest, until_ns).await,
            #[cfg(feature = "sim")]
            Self::Played(wire) => crate::played::when_ready(wire, lane.local(), interest, until_ns).await,
        }
    }

    /// Lets other tasks run if this one has done its share without waiting.
    pub(super) async fn let_others_run(&self, lane: &Lane, moved_bytes: usize) -> Result<()> {
        match self {
            Self::Os(_) => {
                if !SysLocal::of(lane.local())?.may_go_on(moved_bytes as u64) {
                    drystone_core::runtime::yield_now().await;
                }
            }
            #[cfg(feature = "sim")]
            Self::Played(_) => drystone_core::runtime::sim_point(lane.local()).await,
        }
        Ok(())
    }
}
