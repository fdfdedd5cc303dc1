//! [`Stream`] and its halves.
//!
//! ```text
//!   socket --> [ consumed | buffered ......... | room ]  Receiver: fill(n), buffered(), consume(n)
//!          '------------ recv_exact: what is buffered, then straight into the caller's memory
//!   parts (header, data, header, data ...) --> one sendmsg, more if the socket takes less      Sender
//! ```
//! After a read that got less than there was room for, the socket is known to be empty, and the next read waits first.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use super::listener::new_socket;
use super::{Address, Closer, Socket, Wire};
use crate::engine::Interest;

/// Room for at least so much is offered to the kernel with each read.
const READ_BYTES: usize = 64 << 10;
/// Parts of one `sendmsg` (`UIO_MAXIOV`).
const PARTS_MAX: usize = 1024;

/// A connection. `Send`: it can be accepted on one thread and served on another.
pub struct Stream {
    socket: Socket,
}

/// The receiving half of a connection.
pub struct Receiver {
    socket: Socket,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been consumed.
    start: usize,
    /// Bytes of the buffer that have been received; behind it is room.
    end: usize,
    /// The last read took all that there was.
    is_drained: bool,
    until_ns: Option<u64>,
}

/// The sending half of a connection.
pub struct Sender {
    socket: Socket,
    /// A message was begun and not ended.
    is_torn: bool,
    until_ns: Option<u64>,
}

impl Stream {
    fn new(fd: OwnedFd) -> Self {
        Self::on(Wire::Os(Arc::new(fd)))
    }

    pub(crate) fn on(wire: Wire) -> Self {
        #[cfg_attr(not(feature = "sim"), expect(irrefutable_let_patterns, reason = "there is one kind"))]
        if let Wire::Os(fd) = &wire {
            // Small replies must not wait for acknowledgements. Not for unix sockets, which do not know the option.
            let _ = sockopt::set_tcp_nodelay(fd, true);
        }
        Self { socket: Socket::on(wire) }
    }

    /// Connects to `address`, by `until_ns` on the lane's clock if given.
    ///
    /// # Errors
    /// [`Kind::TimedOut`]; those of the operating system.
    pub async fn connect(lane: &mut Lane, address: &Address, until_ns: Option<u64>) -> Result<Self> {
        let os_address = address.to_os()?;
        let what = format!("connect to {address}");
        let fd = Arc::new(new_socket(address)?);
        let stream = Self::on(Wire::Os(Arc::clone(&fd)));
        let mut is_begun = false;
        let connect = |_: &Wire| {
            if is_begun {
                return sockopt::socket_error(&fd)?;
            }
            match rustix::net::connect(&fd, &os_address) {
                Err(Errno::INPROGRESS | Errno::INTR) => {
                    is_begun = true;
                    Err(Errno::AGAIN)
                }
                // A unix socket whose backlog is full says so, and nothing tells when that ends.
                Err(Errno::AGAIN) => Err(Errno::CONNREFUSED),
                other => other,
            }
        };
        stream.socket.call(lane, Interest::Writable, until_ns, &what, connect).await?;
        Ok(stream)
    }

    /// Two ends of one connection within this process.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn pair() -> Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| Error::os(errno.raw_os_error(), "make a pair of sockets"))?;
        Ok((Self::new(a), Self::new(b)))
    }

    /// A connection that exists already, such as one that was passed to this process. It is set not to block, for
    /// everybody who has it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)
            .map_err(|errno| Error::os(errno.raw_os_error(), "use an inherited socket"))?;
        Ok(Self::new(fd))
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What ends the connection, whoever uses it.
    #[must_use]
    pub fn closer(&self) -> Closer {
        self.socket.closer()
    }

    /// The two directions, for two tasks. The connection ends when both are dropped.
    #[must_use]
    pub fn split(self) -> (Receiver, Sender) {
        let receiver = Receiver {
            socket: self.socket.clone(),
            buffer: Vec::new(),
            start: 0,
            end: 0,
            is_drained: false,
            until_ns: None,
        };
        (receiver, Sender { socket: self.socket, is_torn: false, until_ns: None })
    }
}

impl Receiver {
    /// Receiving fails with [`Kind::TimedOut`] from `until_ns` on (on the lane's clock), or never.
    pub fn set_deadline(&mut self, until_ns: Option<u64>) {
        self.until_ns = until_ns;
    }

    /// What has been received and not consumed.
    #[must_use]
    pub fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Forgets the first `count` bytes of [`Self::buffered`].
    ///
    /// # Panics
    /// If there are fewer.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start);
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Waits until at least `count` bytes are buffered; there may be more. `false`: the peer has ended the connection,
    /// and nothing was buffered. The buffer grows to hold `count`, which is therefore the caller's to bound.
    ///
    /// If the returned future is dropped, no byte is lost.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the peer ended the connection after some bytes; [`Kind::Cancelled`] once closed;
    /// [`Kind::TimedOut`]; those of the operating system.
    pub async fn fill(&mut self, lane: &mut Lane, count: usize) -> Result<bool> {
        self.fill_up_to(lane, count, usize::MAX).await
    }

    /// As [`Self::fill`], but one read takes at most `read_bytes_max` (not 0): what follows `count` is better received
    /// where it belongs.
    ///
    /// # Errors
    /// As for [`Self::fill`].
    pub async fn fill_up_to(&mut self, lane: &mut Lane, count: usize, read_bytes_max: usize) -> Result<bool> {
        while self.end - self.start < count {
            self.make_room(count);
            let Self { socket, buffer, end, is_drained, until_ns, .. } = self;
            let room = buffer.get_mut(*end..).unwrap_or_default();
            let most = room.len().min(read_bytes_max);
            let room = room.get_mut(..most).unwrap_or_default();
            let moved = receive(socket, lane, room, is_drained, *until_ns).await?;
            *end += moved;
            if moved == 0 {
                return if self.start == self.end { Ok(false) } else { Err(cut_off()) };
            }
        }
        Ok(true)
    }

    /// Fills `into`, from what is buffered first. If the returned future is dropped, bytes are lost.
    ///
    /// # Errors
    /// As for [`Self::fill`]; [`Kind::Disconnected`] also if the peer ended the connection before the first byte.
    pub async fn recv_exact(&mut self, lane: &mut Lane, into: &mut [u8]) -> Result<()> {
        let have = into.len().min(self.end - self.start);
        let (head, mut rest) = into.split_at_mut(have);
        head.copy_from_slice(self.buffered().get(..have).unwrap_or_default());
        self.consume(have);
        while !rest.is_empty() {
            let moved = receive(&self.socket, lane, rest, &mut self.is_drained, self.until_ns).await?;
            if moved == 0 {
                return Err(cut_off());
            }
            rest = rest.get_mut(moved..).unwrap_or_default();
        }
        Ok(())
    }

    /// Receives into the start of `into` (not empty): what is buffered, or else what one read gets. 0: the peer has ended
    /// the connection. If the returned future is dropped while it waits for the peer, no byte is lost.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once closed; [`Kind::TimedOut`]; those of the operating system.
    pub async fn recv(&mut self, lane: &mut Lane, into: &mut [u8]) -> Result<usize> {
        if self.start == self.end {
            return receive(&self.socket, lane, into, &mut self.is_drained, self.until_ns).await;
        }
        let have = into.len().min(self.end - self.start);
        if let (Some(head), Some(bytes)) = (into.get_mut(..have), self.buffered().get(..have)) {
            head.copy_from_slice(bytes);
        }
        self.consume(have);
        Ok(have)
    }

    /// Room behind `end` for what is missing of `count`, and for a decent read.
    fn make_room(&mut self, count: usize) {
        let missing = count - (self.end - self.start);
        if self.buffer.len() - self.end >= missing.max(READ_BYTES / 2) {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let want = self.end + missing.max(READ_BYTES);
        if self.buffer.len() < want {
            self.buffer.resize(want, 0);
        }
    }
}

/// One read that gets something; 0 at the end of the stream.
async fn receive(
    socket: &Socket,
    lane: &Lane,
    into: &mut [u8],
    is_drained: &mut bool,
    until_ns: Option<u64>,
) -> Result<usize> {
    if *is_drained {
        socket.when_ready(lane, Interest::Readable, until_ns).await?;
        // Another wait must not be skipped if this one is dropped, but after it the socket has something.
        *is_drained = false;
    }
    let room = into.len();
    let read = |wire: &Wire| wire.recv(into);
    let moved = socket.call(lane, Interest::Readable, until_ns, "receive", read).await?;
    *is_drained = moved < room;
    socket.note_received();
    if !*is_drained {
        socket.wire().let_others_run(lane, moved).await?;
    }
    Ok(moved)
}

fn cut_off() -> Error {
    Error::new(Kind::Disconnected, "the peer ended the connection in the middle of a message")
}

impl Sender {
    /// Sending fails with [`Kind::TimedOut`] from `until_ns` on (on the lane's clock), or never.
    pub fn set_deadline(&mut self, until_ns: Option<u64>) {
        self.until_ns = until_ns;
    }

    /// Sends all bytes of all `parts`, in order. Advances the slices.
    ///
    /// A future that is dropped before it has ended may have sent a part; the stream can then not be used any more.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the peer is gone; [`Kind::Cancelled`] once closed, or if an earlier message was torn;
    /// [`Kind::TimedOut`]; those of the operating system.
    pub async fn send(&mut self, lane: &mut Lane, mut parts: &mut [IoSlice<'_>]) -> Result<()> {
        if self.is_torn {
            return Err(Error::new(Kind::Cancelled, "an earlier message was sent in part only"));
        }
        self.is_torn = true;
        self.socket.note_sending();
        let mut sent_bytes = 0;
        // Empty parts in front would look like an end.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let now = parts.get(..parts.len().min(PARTS_MAX)).unwrap_or_default();
            let write = |wire: &Wire| wire.send(now);
            let moved = self.socket.call(lane, Interest::Writable, self.until_ns, "send", write).await?;
            sent_bytes += moved;
            self.socket.note_sent();
            IoSlice::advance_slices(&mut parts, moved);
        }
        self.is_torn = false;
        self.socket.wire().let_others_run(lane, sent_bytes).await
    }

    /// Sends the start of `parts` (not empty) as far as that needs no waiting, and says how much; `None` if the socket
    /// takes nothing at the moment. Not between the start and the end of a [`Self::send`].
    ///
    /// # Errors
    /// As for [`Self::send`], except [`Kind::TimedOut`].
    pub fn try_send(&self, parts: &[IoSlice<'_>]) -> Result<Option<usize>> {
        let parts = parts.get(..parts.len().min(PARTS_MAX)).unwrap_or_default();
        loop {
            self.socket.check_open()?;
            match self.socket.wire().send(parts) {
                Ok(moved) => return Ok(Some(moved)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    self.socket.check_open()?;
                    return Err(Error::os(errno.raw_os_error(), "send"));
                }
            }
        }
    }

    /// Waits until [`Self::try_send`] is worth another attempt, by `until_ns` on the lane's clock if given.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once closed; [`Kind::TimedOut`]; those of the operating system.
    pub async fn writable(&self, lane: &mut Lane, until_ns: Option<u64>) -> Result<()> {
        self.socket.when_ready(lane, Interest::Writable, until_ns).await
    }

    /// Tells the peer that nothing more will come.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn finish(&mut self) -> Result<()> {
        match self.socket.wire().shutdown(Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(Error::os(errno.raw_os_error(), "end a connection")),
        }
    }
}
