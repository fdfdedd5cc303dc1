//! `nbd`: a disk at an NBD server.
//!
//! ```text
//!   core --DiskOp--> Remote --(one or more requests)--> Link ──► Conn ──► server
//!                                                        any thread  one thread each
//! ```
//! | module | what |
//! |---|---|
//! | `options` | what can be said |
//! | `parts` | an operation as requests that the server takes |
//! | `link` | which connections there are; reconnecting |
//! | `conn` | one connection, as other threads see it |
//! | `traffic` | one connection, on its thread |
//! | `mind` | whether its server still answers |
//! | `connect` | addresses, handshakes, [`list`] |
//!
//! Invariants: a request that waits for a reconnection is outside of the graph, so no drain waits for a server that has gone;
//! what the server offered when the node was opened holds as long as the node.
//! Not here: the protocol (`drystone-nbd`), TLS.

mod conn;
mod connect;
mod link;
mod mind;
mod options;
mod parts;
mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::{Error, GuestRange, Kind, LEN_MAX, Result};
use drystone_core::answer::answer;
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, NodeMode, Place, Status};
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef};
use drystone_nbd::wire::context::{STATE_HOLE, STATE_ZERO};
use drystone_nbd::{Command, CommandFlags, Request, TransmissionFlags};
use drystone_sys::Network;

pub use connect::list;
pub use options::NbdOptions;

use conn::{Job, Lost, Reply};
use link::Link;

/// Lengths of disks are multiples of this many bytes.
const SECTOR_BYTES: u64 = 512;
/// The most bytes of one question about block status: its length has 32 bits, and an answer for more is worth little.
const STATUS_BYTES_MAX: u64 = 1 << 31;
/// The most bytes of the first one. A server may look at all of them to find out, and many may ask at once.
const STATUS_BYTES_MIN: u64 = 16 << 20;

/// The driver `nbd`.
pub struct NbdClient {
    remote: Remote,
}

/// An export as a device.
struct Remote {
    link: Arc<Link>,
    /// The most bytes that the next question about block status is about: more after each answer that was as long.
    ask_bytes: AtomicU64,
}

impl NbdClient {
    /// Connects to the export.
    ///
    /// # Errors
    /// Those of the socket and the handshake, of the last attempt within `open-timeout`; [`Kind::TooLarge`] for a disk
    /// that is longer than disks can be.
    pub async fn open(lane: &mut Lane, network: &Network, options: NbdOptions) -> Result<(Self, NodeFacts)> {
        let link = Link::open(lane, network.clone(), options).await?;
        let promise = &link.promise;
        if promise.len_bytes > LEN_MAX {
            let text =
                format!("the export has {} bytes, more than the largest possible disk", promise.len_bytes);
            return Err(Error::new(Kind::TooLarge, text));
        }
        let facts = NodeFacts {
            len: promise.len_bytes.next_multiple_of(SECTOR_BYTES).min(LEN_MAX),
            request_alignment: promise.block.min_bytes,
            read_only: promise.flags.has(TransmissionFlags::READ_ONLY),
        };
        Ok((Self { remote: Remote { link, ask_bytes: AtomicU64::new(STATUS_BYTES_MIN) } }, facts))
    }

    /// The export as a device, for whoever looks at it without a graph.
    #[must_use]
    pub fn device(&self) -> &dyn Disk {
        &self.remote
    }

    /// How it was told to connect.
    #[must_use]
    pub fn options(&self) -> &NbdOptions {
        self.remote.link.options()
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        self.remote.link.give_up();
    }
}

impl Driver for NbdClient {
    fn format_name(&self) -> &'static str {
        "nbd"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Whoever leaves a disk expects it to be safe. Of one whose server has gone nothing is here that could be stored, and
    /// it has to be possible to let go of it.
    fn store<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            match io.flush().await {
                Err(error) if error.kind() == Kind::Disconnected => Ok(()),
                result => result,
            }
        })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.remote)
    }

    fn device_status<'a>(
        &'a self,
        io: Io<'a>,
        local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        Box::pin(async move {
            self.remote.status(local, range).await.map_err(|lost| match lost.again_ns {
                Some(again_ns) => io.step_back_with(lost.error, again_ns),
                None => lost.error,
            })
        })
    }

    fn check(&self, mode: NodeMode) -> Result<()> {
        if mode.users.perm.writes() && self.remote.link.promise.flags.has(TransmissionFlags::READ_ONLY) {
            return Err(Error::new(Kind::ReadOnly, "the NBD server offers the export for reading only"));
        }
        Ok(())
    }

    fn hurry(&self, waited_ns: u64) {
        self.remote.link.hurry(waited_ns);
    }

    fn close<'a>(&'a self, _local: &'a LocalRef) -> LocalFuture<'a, ()> {
        Box::pin(self.remote.link.close())
    }
}

impl Disk for Remote {
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion {
        parts::submit(&self.link, local, op)
    }

    fn can_grow(&self) -> bool {
        false
    }
}

impl Remote {
    /// How the start of `range` is allocated, as the server says it; all data if it says nothing.
    async fn status(&self, local: &LocalRef, range: GuestRange) -> Result<Status, Lost> {
        let at = range.start().get();
        let served = self.link.promise.len_bytes.saturating_sub(at).min(range.len());
        if served == 0 {
            return Ok(crate::device_status(range, false));
        }
        let conn = self.link.conn(local)?;
        if conn.session.contexts.is_empty() {
            return Ok(crate::device_status(range, true));
        }
        let asked = served.min(self.ask_bytes.load(Ordering::Relaxed));
        let request = Request {
            cookie: 0,
            offset_bytes: at,
            len_bytes: parts::aligned(asked, &self.link.promise),
            command: Command::BlockStatus,
            flags: CommandFlags::REQ_ONE,
        };
        let (reply, answer) = answer();
        parts::push(&self.link, local, Job { request, buf: None, reply: Reply::Status(reply) });
        let gone = || Error::new(Kind::Io, "the NBD server said nothing of the range");
        let found = answer.wait().await.unwrap_or_else(|| Err(gone().into()))?;
        let next = if found.len_bytes < asked { STATUS_BYTES_MIN } else { (asked * 2).min(STATUS_BYTES_MAX) };
        self.ask_bytes.store(next.max(STATUS_BYTES_MIN), Ordering::Relaxed);
        let has = |bit: u32| found.status & u64::from(bit) != 0;
        let status = crate::device_status(range.take(found.len_bytes), !has(STATE_HOLE));
        Ok(Status { zero: has(STATE_ZERO), ..status })
    }
}
