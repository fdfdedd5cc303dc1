//! Keys pressed at the terminal that the process was started from.
//!
//! ```text
//!   Keys::take --(standard input is a terminal, and we are in its foreground)--> keys one by one, without echo
//!        drop  --> the terminal is as it was
//! ```
//! Keys that make signals (ctrl-C) still do. A process in the background leaves the terminal alone: the kernel would stop
//! it for touching it. Nobody tells a process that it was sent there (ctrl-Z, `bg`) or is back (`fg`), so it looks once a
//! second.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use rustix::io::Errno;
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::event::Watched;

/// How often a process looks where it is, in nanoseconds.
const LOOK_NS: u64 = 1_000_000_000;

/// The keys of the terminal at standard input, until dropped.
pub struct Keys {
    terminal: Watched,
    before: Termios,
    single: Termios,
}

impl Keys {
    /// Takes the keys; `None` if there is no terminal or it is not ours to use.
    #[must_use]
    pub fn take() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || !is_in_foreground(&stdin) {
            return None;
        }
        let own: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&stdin, 0).ok()?;
        let before = termios::tcgetattr(&own).ok()?;
        let mut single = before.clone();
        single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        single.special_codes[SpecialCodeIndex::VMIN] = 1;
        single.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(&own, OptionalActions::Now, &single).ok()?;
        Some(Self { terminal: Watched::new(own), before, single })
    }

    /// Waits for the next key: its first byte. Keys that are pressed while the process is in the background are not its
    /// own.
    ///
    /// # Errors
    /// [`Kind::Disconnected`] if the terminal has gone; those of the operating system.
    pub async fn next(&self, lane: &mut Lane) -> Result<u8> {
        loop {
            let until_ns = lane.local().now_ns().saturating_add(LOOK_NS);
            if !self.claim()? {
                lane.local().sleep_until(until_ns).await;
                continue;
            }
            match self.terminal.readable_until(lane, until_ns).await {
                Err(error) if error.kind() == Kind::TimedOut => continue,
                waited => waited?,
            }
            if let Some(key) = self.try_read()? {
                return Ok(key);
            }
        }
    }

    /// Makes keys come one by one, whoever has used the terminal meanwhile. Whether they are ours.
    fn claim(&self) -> Result<bool> {
        let os = |errno: Errno| Error::os(errno.raw_os_error(), "look at the terminal");
        if termios::tcgetpgrp(&self.terminal).map_err(os)? != rustix::process::getpgrp() {
            return Ok(false);
        }
        let now = termios::tcgetattr(&self.terminal).map_err(os)?;
        if now.local_modes != self.single.local_modes {
            termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.single).map_err(os)?;
        }
        Ok(true)
    }

    fn try_read(&self) -> Result<Option<u8>> {
        if !is_in_foreground(&self.terminal) {
            return Ok(None);
        }
        // The terminal may be shared with others, who must not find it non-blocking; a byte is there now.
        let mut bytes = [0];
        match rustix::io::read(&self.terminal, &mut bytes) {
            Ok(0) => Err(Error::new(Kind::Disconnected, "the terminal has gone")),
            Ok(_) => Ok(Some(bytes[0])),
            Err(Errno::INTR | Errno::AGAIN) => Ok(None),
            Err(errno) => Err(Error::os(errno.raw_os_error(), "read a key")),
        }
    }
}

impl Keys {
    /// Leaves the terminal as it was. Also done by dropping.
    pub fn give_back(&self) {
        if is_in_foreground(&self.terminal) {
            let _ = termios::tcsetattr(self.terminal.as_fd(), OptionalActions::Now, &self.before);
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn is_in_foreground(terminal: impl AsFd) -> bool {
    termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}
