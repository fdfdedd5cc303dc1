//! [`Listener`]: takes connections.
//!
//! A unix socket's path that nobody listens at any more (its owner died) is taken over; one that somebody listens at is
//! not. The path is removed with the listener, unless it has come to stand for something else.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, SocketType, sockopt};

use super::{Address, Closer, Socket, Stream, Wire};
use crate::engine::Interest;
use crate::local::SysLocal;

/// Connections that the kernel keeps for us before it refuses more.
const BACKLOG: i32 = 128;
/// How long to wait before trying again when the process has no descriptor left.
const SHORTAGE_NS: u64 = 50_000_000;

/// A socket that takes connections. Any thread, several too, may accept from it.
pub struct Listener {
    socket: Socket,
    address: Address,
    /// The inode and the path that it made, for removing the right one.
    bound: Option<((u64, u64), PathBuf)>,
}

impl Listener {
    /// Listens at `address`. Port 0 means any free port.
    ///
    /// # Errors
    /// Those of the operating system; [`Kind::InUse`] if somebody listens there.
    pub fn bind(address: &Address) -> Result<Self> {
        let fd = new_socket(address)?;
        if matches!(address, Address::Tcp(_)) {
            sockopt::set_socket_reuseaddr(&fd, true).map_err(|errno| refused(errno, address))?;
        }
        match rustix::net::bind(&fd, &address.to_os()?) {
            Err(Errno::ADDRINUSE) => {
                take_over(address)?;
                rustix::net::bind(&fd, &address.to_os()?)
            }
            other => other,
        }
        .and_then(|()| rustix::net::listen(&fd, BACKLOG))
        .map_err(|errno| refused(errno, address))?;
        // Absolute, because the process may go to another folder.
        let bound = match address {
            Address::Unix(path) => {
                std::path::absolute(path).ok().and_then(|path| Some((inode(&path)?, path)))
            }
            Address::Tcp(_) => None,
        };
        let address = local_address(&fd, address);
        Ok(Self { socket: Socket::new(fd), address, bound })
    }

    /// Listens with a socket that listens already, such as one that a service manager has passed.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let os = |errno: Errno| Error::os(errno.raw_os_error(), "listen with an inherited socket");
        rustix::io::ioctl_fionbio(&fd, true).map_err(os)?;
        let name = rustix::net::getsockname(&fd).map_err(os)?;
        let address = match std::net::SocketAddr::try_from(name.clone()) {
            Ok(address) => Address::Tcp(address),
            Err(_) => Address::Unix(unix_path(&name)),
        };
        Ok(Self { socket: Socket::new(fd), address, bound: None })
    }

    /// Listens where no address of the operating system leads.
    #[cfg(feature = "sim")]
    pub(crate) fn played(wire: std::sync::Arc<crate::played::Door>, address: Address) -> Self {
        Self { socket: Socket::on(Wire::Played(wire)), address, bound: None }
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What ends all waiting for connections.
    #[must_use]
    pub fn closer(&self) -> Closer {
        self.socket.closer()
    }

    /// The next connection. A process that has no descriptor left waits until it has one.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once closed; those of the operating system.
    pub async fn accept(&self, lane: &mut Lane) -> Result<Stream> {
        self.socket.wire().let_others_run(lane, 0).await?;
        loop {
            let accept = |wire: &Wire| match wire.accept() {
                // The client was faster in going than we were in answering.
                Err(Errno::CONNABORTED) => Err(Errno::INTR),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Ok(None),
                other => other.map(Some),
            };
            match self.socket.call(lane, Interest::Readable, None, "accept a connection", accept).await? {
                Some(wire) => return Ok(Stream::on(wire)),
                None => {
                    let sys = SysLocal::of(lane.local())?;
                    sys.sleep(lane.local().now_ns() + SHORTAGE_NS).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((ours, path)) = &self.bound
            && inode(path) == Some(*ours)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub(super) fn new_socket(address: &Address) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(address.family(), SocketType::STREAM, flags, None)
        .map_err(|errno| Error::os(errno.raw_os_error(), "make a socket"))
}

fn refused(errno: Errno, address: &Address) -> Error {
    let what = format_args!("listen at {address}");
    match errno {
        Errno::ADDRINUSE => {
            Error::new(Kind::InUse, format!("cannot {what}")).because(std::io::Error::from(errno))
        }
        errno => Error::os(errno.raw_os_error(), what),
    }
}

/// Removes a unix socket that nobody listens at.
fn take_over(address: &Address) -> Result<()> {
    let in_use = || refused(Errno::ADDRINUSE, address);
    let Address::Unix(path) = address else { return Err(in_use()) };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|stat| stat.file_type().is_socket());
    if !is_socket {
        return Err(in_use());
    }
    let probe = new_socket(address)?;
    let is_deserted = match rustix::net::connect(&probe, &address.to_os()?) {
        Err(Errno::CONNREFUSED) => true,
        Ok(()) => sockopt::socket_peercred(&probe).is_ok_and(|peer| has_ended(peer.pid)),
        Err(_) => false,
    };
    if !is_deserted {
        return Err(in_use());
    }
    std::fs::remove_file(path).map_err(|cause| in_use().because(cause))
}

/// Whether a process is gone, or only waits for its parent to notice. What a ring of it still holds is given up by the
/// kernel a little later.
fn has_ended(pid: rustix::process::Pid) -> bool {
    if rustix::process::test_kill_process(pid) == Err(Errno::SRCH) {
        return true;
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|stat| (stat.dev(), stat.ino()))
}

fn local_address(fd: &OwnedFd, asked: &Address) -> Address {
    let name = rustix::net::getsockname(fd.as_fd()).ok();
    match name.and_then(|name| std::net::SocketAddr::try_from(name).ok()) {
        Some(address) => Address::Tcp(address),
        None => asked.clone(),
    }
}

fn unix_path(name: &SocketAddrAny) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let unix = rustix::net::SocketAddrUnix::try_from(name.clone()).ok();
    let bytes = unix.as_ref().and_then(|unix| unix.path_bytes()).unwrap_or_default();
    Path::new(std::ffi::OsStr::from_bytes(bytes)).to_path_buf()
}
