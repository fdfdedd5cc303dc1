//! Things to wait for that are not sockets: eventfds, signals, and descriptors of others that become ready.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use drystone_base::{Error, Result};
use drystone_core::lane::Lane;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, ReadWriteFlags};

use crate::engine::Interest;
use crate::local::SysLocal;

/// "Where the descriptor stands", for calls that want an offset.
const HERE: u64 = u64::MAX;

/// A descriptor that is waited for, whatever it is. Clones are the same descriptor.
#[derive(Clone)]
pub struct Watched(Arc<OwnedFd>);

/// A counter that threads, processes and devices add to, and one task waits for (eventfd). Clones are the same counter.
#[derive(Clone)]
pub struct EventFd(Watched);

/// A signal that asks the process for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: it shall end; somebody pressed ctrl-C.
    Interrupt,
    /// SIGTERM: it shall end.
    Terminate,
    /// SIGHUP: it shall end; the terminal has gone.
    HangUp,
    /// SIGUSR1: it shall say what waits for what.
    Explain,
}

/// SIGINT, SIGTERM, SIGHUP and SIGUSR1 as something to wait for, instead of the end of the process.
pub struct Signals(Watched);

impl Watched {
    /// Watches `fd`.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// Waits until reading would find something: data, an end, or an error. Another reader may be faster.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn readable(&self, lane: &mut Lane) -> Result<()> {
        SysLocal::of(lane.local())?.when_ready(&self.0, Interest::Readable, None).await
    }

    /// As [`Self::readable`], until a moment of the lane's clock.
    ///
    /// # Errors
    /// [`Kind::TimedOut`](drystone_base::Kind::TimedOut) then; those of the operating system.
    pub(crate) async fn readable_until(&self, lane: &Lane, until_ns: u64) -> Result<()> {
        SysLocal::of(lane.local())?.when_ready(&self.0, Interest::Readable, Some(until_ns)).await
    }

    /// Waits until there is room for writing, or an error.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn writable(&self, lane: &mut Lane) -> Result<()> {
        SysLocal::of(lane.local())?.when_ready(&self.0, Interest::Writable, None).await
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl EventFd {
    /// A new counter, at 0.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn new() -> Result<Self> {
        match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
            Ok(fd) => Ok(Self::from_fd(fd)),
            Err(errno) => Err(Error::os(errno.raw_os_error(), "make an eventfd")),
        }
    }

    /// A counter that somebody has passed to this process. Its mode, which may be blocking, is not changed.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(Watched::new(fd))
    }

    /// Adds one. Wakes whoever waits.
    ///
    /// # Errors
    /// Those of the operating system.
    #[expect(clippy::host_endian_bytes, reason = "an eventfd is written in the machine's own order")]
    pub fn signal(&self) -> Result<()> {
        match rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
            // A full counter is a signal that was not yet taken.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(Error::os(errno.raw_os_error(), "signal an eventfd")),
        }
    }

    /// Waits until the counter is not 0, sets it to 0, and returns what it was.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn wait(&self, lane: &mut Lane) -> Result<u64> {
        loop {
            if let Some(count) = self.try_take()? {
                return Ok(count);
            }
            self.0.readable(lane).await?;
        }
    }

    /// The count, if it is not 0; it is 0 afterwards. Never blocks, whatever mode the descriptor is in.
    ///
    /// # Errors
    /// Those of the operating system.
    #[expect(clippy::host_endian_bytes, reason = "an eventfd is read in the machine's own order")]
    pub fn try_take(&self) -> Result<Option<u64>> {
        let mut count = [0; 8];
        let mut into = [std::io::IoSliceMut::new(&mut count)];
        match rustix::io::preadv2(&self.0, &mut into, HERE, ReadWriteFlags::NOWAIT) {
            Ok(_) => Ok(Some(u64::from_ne_bytes(count))),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(Error::os(errno.raw_os_error(), "read an eventfd")),
        }
    }
}

impl Signals {
    const ALL: [(libc::c_int, Signal); 4] = [
        (libc::SIGINT, Signal::Interrupt),
        (libc::SIGTERM, Signal::Terminate),
        (libc::SIGHUP, Signal::HangUp),
        (libc::SIGUSR1, Signal::Explain),
    ];

    /// Turns the signals into something to wait for, on the calling thread and those that it starts from now on: call
    /// it before any other thread exists. They stay blocked for good, and in programs that the process starts, unless
    /// those are told otherwise. A hang-up that whoever started the process wants ignored (`nohup`) stays ignored.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn take() -> Result<Self> {
        // SAFETY: an all-zero `sigset_t` is a valid value for `sigemptyset` to overwrite.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a valid set, alive for all calls; the signal numbers are valid.
        unsafe {
            libc::sigemptyset(&raw mut set);
            for (number, signal) in Self::ALL {
                if signal != Signal::HangUp || !is_ignored(number) {
                    libc::sigaddset(&raw mut set, number);
                }
            }
        }
        // SAFETY: as above; the old mask is not asked for.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if errno != 0 {
            return Err(Error::os(errno, "block signals"));
        }
        // SAFETY: as above; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            return Err(Error::os(errno, "watch signals"));
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(Self(Watched::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Waits for the next signal.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn wait(&mut self, lane: &mut Lane) -> Result<Signal> {
        loop {
            if let Some(signal) = self.try_take()? {
                return Ok(signal);
            }
            self.0.readable(lane).await?;
        }
    }

    fn try_take(&self) -> Result<Option<Signal>> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut info) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(Error::os(errno.raw_os_error(), "read a signal")),
        }
        // The number is the first field.
        let number = info.first_chunk().map_or(0, |bytes| host_i32(*bytes));
        Ok(Self::ALL.into_iter().find(|(known, _)| *known == number).map(|(_, signal)| signal))
    }
}

fn is_ignored(number: libc::c_int) -> bool {
    // SAFETY: an all-zero `sigaction` is a valid value for the kernel to overwrite.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `now` is alive for the call; without a new action, nothing is changed.
    let done = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut now) };
    done == 0 && now.sa_sigaction == libc::SIG_IGN
}

#[expect(clippy::host_endian_bytes, reason = "the kernel writes signalfd_siginfo in the machine's own order")]
fn host_i32(bytes: [u8; 4]) -> i32 {
    i32::from_ne_bytes(bytes)
}
